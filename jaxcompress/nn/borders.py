"""The leaf ops that cut cells off maps, and add some around them."""

import math
import numbers
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress.nn.checks import check_map, is_whole, refuse
from jaxcompress.nn.graph import Node, Operation, alike
from jaxcompress.nn.layers import LeafOp
from jaxcompress.ops.dispatch import shapes_alone
from jaxcompress.ops.padding import Pads

LARGEST = 2**31 - 1
Places = int | None | tuple[int | None, int | None]


def cells_of(node: Node) -> tuple[slice, slice]:
  """The rows and columns that a :class:`Slice` takes, as numbers from 0 on.

  Examples:
    >>> attrs, shapes = {"begin": 1, "end": None, "step": 2}, (((1, 5, 4, 2),), ((1, 2, 2, 2),))
    >>> cells_of(Node("cut", "Slice", attrs, ("input",), ("cut",), *shapes))
    (slice(1, 5, 2), slice(1, 4, 2))
  """
  return _cells(node.attrs, node.input_shapes[0][1:3])


def _cells(attrs: Any, size: tuple[int, ...]) -> Any:
  fields = (_both(attrs[name]) for name in ("begin", "end", "step"))
  return tuple(
    slice(*slice(begin, end, step).indices(cells))
    for begin, end, step, cells in zip(*fields, size, strict=True)
  )


def _both(value: Any) -> Any:
  return tuple(value) if isinstance(value, list | tuple) else (value, value)


class Slice(LeafOp):
  """Rows and columns of a map, at equal steps, as Python's slices take them.

  Channels are cut by a :class:`Split`, of which parts may be left unread.

  Attributes:
    begin: first row and column, ``(height, width)``, or one number for both; negative ones count from
      the end.
    end: those that are left out and all behind them; None: none.
    step: from one to the next.

  Raises:
    ValueError: when called, if a field is no whole number, or no cells are left.

  Examples:
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> Slice(begin=(0, 1), end=(None, -1), step=(2, 1)).apply({}, x)[0, :, :, 0].tolist()
    [[1.0, 2.0], [9.0, 10.0]]
  """

  begin: Places = 0
  end: Places = None
  step: int | tuple[int, int] = 1

  operation = Operation(route=alike, grid="copied", within=True, linear=True)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_map(self, x)
    fields = {name: getattr(self, name) for name in ("begin", "end", "step")}
    for name, value in fields.items():
      least, pair = 1 if name == "step" else -LARGEST, _both(value)
      whole = all(is_whole(n, least) or (n is None and name == "end") for n in pair)
      if len(pair) != 2 or not whole:
        kind = "whole numbers of 1 or more" if name == "step" else "whole numbers"
        refuse(self, f"{name} must be {kind}, (height, width) or one for both, got {value!r}.")
    rows, columns = _cells(fields, x.shape[1:3])
    y = x[:, rows, columns]
    if 0 in y.shape[1:]:
      refuse(
        self, f"begin, end: nothing of a map of {x.shape[1]} x {x.shape[2]} is left by {fields}."
      )
    return jax.lax.neg(y) if shapes_alone() else y  # an array of its own, which has a name


MODES = ("constant", "reflect", "edge")
CONSTANT = "constant"


def _fill(node: Node) -> float | None:
  return node.attrs["value"] if node.attrs["mode"] == CONSTANT else None


class Pad(LeafOp):
  """Cells around a map: of one value, mirrored or repeated ones.

  On a device zeros become the padding of the convolutions that read them, which costs nothing there.

  Attributes:
    pads: cells to add, ``((top, bottom), (left, right))``.
    mode: ``"constant"``, ``"reflect"``, the map's own cells as in a mirror on those at its edge, or
      ``"edge"``, these repeated; as ``jnp.pad`` has them.
    value: of the cells that are constant. The range of the tensor is widened to hold it, so it should be one of those
      that the map has; a ``MaxPool``'s own padding never wins, and needs none.

  Raises:
    ValueError: when called, if a field is no number of cells, or the value is not finite.

  Examples:
    >>> Pad(((0, 1), (1, 0)), value=2.0).apply({}, jnp.ones((1, 1, 1, 1)))[0, :, :, 0].tolist()
    [[2.0, 1.0], [2.0, 2.0]]
    >>> row = jnp.array([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1)
    >>> Pad(((0, 0), (2, 1)), mode="reflect").apply({}, row).ravel().tolist()
    [3.0, 2.0, 1.0, 2.0, 3.0, 2.0]
  """

  pads: Pads
  value: float = 0.0
  mode: str = CONSTANT

  operation = Operation(
    route=alike,
    grid=lambda node: "shared" if _fill(node) else "copied",
    within=True,
    fill=_fill,
  )

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_map(self, x)
    pairs = _both(self.pads)
    if len(pairs) != 2 or not all(
      isinstance(pair, list | tuple) and len(pair) == 2 and all(is_whole(n, 0) for n in pair)
      for pair in pairs
    ):
      refuse(
        self,
        "pads must be whole numbers of 0 or more, ((top, bottom), (left, right)), got"
        f" {self.pads!r}; cells are cut off by a Slice.",
      )
    value = self.value
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
      refuse(
        self,
        f"value: {value!r} is no finite number; padding that never wins is a MaxPool's own padding.",
      )
    if self.mode not in MODES:
      refuse(self, f"mode: {self.mode!r} is unknown; it is one of {', '.join(MODES)}.")
    if self.mode != CONSTANT and value:
      refuse(self, f"value: {value!r} is of mode='constant'; {self.mode!r} takes the map's own.")
    if self.mode == "reflect" and any(
      max(pair) >= n for pair, n in zip(pairs, x.shape[1:3], strict=True)
    ):
      refuse(
        self,
        f"pads: {self.pads!r} must be less than the {x.shape[1]} x {x.shape[2]} cells to mirror.",
      )
    options = {"constant_values": float(value)} if self.mode == CONSTANT else {}
    y = jnp.pad(x, ((0, 0), *pairs, (0, 0)), self.mode, **options)
    return jax.lax.neg(y) if shapes_alone() else y  # an array of its own, which has a name
