"""Readers of operations that move axes, which change how a tensor is seen and nothing else."""

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from jaxcompress.models.imported import views
from jaxcompress.models.imported.blocks import with_blocks
from jaxcompress.models.imported.constants import SAME
from jaxcompress.models.imported.problems import Unreadable
from jaxcompress.models.imported.reading import Call, Value
from jaxcompress.models.imported.values import Op, Tensor


def plain(call: Call, tensor: Tensor) -> Tensor:
  """The tensor with its axes whole; channels in another order are shuffled.

  Axes of height and width may stay joined, as tokens have them.
  """
  tensor = with_blocks(call, _repeated(call, tensor))
  shape, op, axes = tensor.op.shape, tensor.op, []
  for axis in tensor.view:
    roles = {atom.role for atom in axis}
    sizes = dict(zip(views.ROLES, shape, strict=True))
    if (
      roles <= {"H", "W"}
      or roles == {views.STRETCHED}
      or any(axis == views.whole(role, sizes.get(role, 0)) for role in roles)
    ):
      axes.append(axis)
      continue
    order = views.positions([axis], "C", shape[3])
    if order is None or len(axis) != 2:
      raise Unreadable(
        f"a reshape that no leaf op has, of axes {_words(tensor.view)}",
        GROUPED if sum(_has_channels(axis) for axis in tensor.view) > 1 else KEEP,
      )
    op = call.op("ChannelShuffle", [op], shape, groups=axis[1].size)
    axes.append(views.whole("C", shape[3]))
  return Tensor(op, tuple(axes))


KEEP = (
  "keep (batch, height, width, channels) between layers; return the maps of a head as they are, and"
  " reshape and join them behind the network"
)
GROUPED = (
  "groups of channels may be shuffled or convolved; use BatchNorm or LayerNorm in place of GroupNorm, and"
  " reshape and join the maps of a head behind the network"
)


def _has_channels(axis: views.Axis) -> bool:
  return any(atom.role == "C" for atom in axis)


def along(call: Call, op: Op, role: str, matrix: np.ndarray) -> Op:
  """Rows, or columns, as sums of others: ``matrix`` (before, after)."""
  place = views.ROLES.index(role)
  shape = tuple(matrix.shape[1] if i == place else n for i, n in enumerate(op.shape))
  return call.op("along", [op], shape, role=role, matrix=matrix)


def _repeated(call: Call, tensor: Tensor) -> Tensor:
  """The tensor with rows and columns copied, where its axes say that each is there several times."""
  op, axes = tensor.op, list(tensor.view)
  for place, axis in enumerate(axes):
    if len(axis) == 2 and axis[0].role in ("H", "W") and axis[1].role == views.STRETCHED:
      role, size = axis[0].role, op.shape[views.ROLES.index(axis[0].role)]
      if axis[0] == views.whole(role, size)[0]:
        op = along(call, op, role, np.repeat(np.eye(size), axis[1].size, axis=1))
        axes[place] = views.whole(role, size * axis[1].size)
    order = _copies(axis, op.shape[3])
    if order is not None:
      op = call.op("order", [op], (*op.shape[:3], len(order)), order=order)
      axes[place] = views.whole("C", len(order))
  return Tensor(op, tuple(axes))


def _copies(axis: views.Axis, size: int) -> np.ndarray | None:
  """The channels that an axis goes through, each several times; None if it is another."""
  roles = "".join(atom.role for atom in axis)
  if roles not in ("C" + views.STRETCHED, views.STRETCHED + "C") or size == 1:
    return None
  channels, copies = axis if roles[0] == "C" else axis[::-1]
  if (channels,) != views.whole("C", size):
    return None
  repeat = np.repeat if roles[0] == "C" else np.tile
  return repeat(np.arange(size), copies.size)


def spread(call: Call, tensor: Tensor, axis: int, count: int) -> Tensor:
  """The tensor with its one channel copied, where others have ``count`` of them along an axis."""
  found, op = tensor.view[axis], tensor.op
  if op.shape[3] > 1 or count == 1 or not {atom.role for atom in found} <= {views.STRETCHED}:
    return tensor
  axes = list(tensor.view)
  axes[axis] = views.whole("C", count)
  return Tensor(call.op("Concat", [op] * count, (*op.shape[:3], count)), tuple(axes))


NAMES = {"N": "batch", "H": "height", "W": "width", "C": "channels", "*": "repeats", "?": "unknown"}


def _words(view: views.View) -> str:
  axes = (" x ".join(f"{NAMES[a.role]} {a.size}" for a in axis) or "1" for axis in view)
  return f"({', '.join(axes)})"


def merged(parts: Sequence[views.View]) -> views.View | None:
  """The view of what is computed of several elementwise; None where their axes differ."""
  if len({len(view) for view in parts}) > 1:
    return None
  axes = []
  for column in zip(*parts, strict=True):
    real = {axis for axis in column if any(atom.role != views.STRETCHED for atom in axis)}
    if len(real) > 1:
      return None
    axes.append(real.pop() if real else max(column, key=lambda axis: sum(a.size for a in axis)))
  return tuple(axes)


def _reshape(call: Call, x: Tensor, *_: Value) -> Value:
  view = views.reshaped(x.view, call.shapes[0])
  if view is None:
    raise Unreadable(f"a reshape of {_words(x.view)} to {call.shapes[0]}")
  return Tensor(x.op, view)


def _transpose(call: Call, x: Tensor) -> Value:
  return Tensor(x.op, tuple(x.view[axis] for axis in call.params["permutation"]))


def _squeeze(call: Call, x: Tensor) -> Value:
  gone = {axis % len(x.view) for axis in call.params["dimensions"]}
  return Tensor(x.op, tuple(axis for i, axis in enumerate(x.view) if i not in gone))


def _broadcast(call: Call, x: Tensor, *_: Value) -> Value:
  shape, places = call.shapes[0], call.params["broadcast_dimensions"]
  axes = [views.whole(views.STRETCHED, size)[:1] for size in shape]
  axes = [tuple(atom._replace(step=0) for atom in axis) for axis in axes]
  for place, axis in zip(places, x.view, strict=True):
    if axis:
      axes[place] = axis
  return Tensor(x.op, tuple(axes))


def _tile(call: Call, x: Tensor) -> Value:
  repeats = zip(call.params["reps"], x.view, strict=True)
  copies = (((views.Atom(views.STRETCHED, n, 0),) if n > 1 else ()) + axis for n, axis in repeats)
  return Tensor(x.op, tuple(copies))


def _convert(call: Call, x: Tensor, *_: Value) -> Value:
  if not jnp.issubdtype(call.dtypes[0], jnp.floating) and call.dtypes[0] != np.bool_:
    raise Unreadable(f"a conversion of activations to {call.dtypes[0]}", "leave them floats")
  return x


def _same(call: Call, *xs: Value) -> Sequence[Value]:
  return xs[: len(call.shapes)]


READERS: Mapping[str, Callable[..., Value | Sequence[Value]]] = {
  **dict.fromkeys(SAME, _same),
  "convert_element_type": _convert,
  "reshape": _reshape,
  "transpose": _transpose,
  "squeeze": _squeeze,
  "broadcast_in_dim": _broadcast,
  "tile": _tile,
  "expand_dims": _reshape,
}


def role_of(tensor: Tensor, axis: int) -> str:
  """The role of a whole axis; nothing for one of length one, or for one that is not whole."""
  found = tensor.view[axis]
  sizes = dict(zip(views.ROLES, tensor.op.shape, strict=True))
  if len(found) == 1 and found == views.whole(found[0].role, sizes.get(found[0].role, 0)):
    return found[0].role
  return ""
