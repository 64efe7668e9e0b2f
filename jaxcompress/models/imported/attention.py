"""Reads matrix products of two activations, and groups those that are attention into leaf ops.

Scores have the heads as height, the queries as width and the keys as channels, so that what follows
reads a softmax over channels.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxcompress.models.imported import views
from jaxcompress.models.imported.grouping import Group, Grouping
from jaxcompress.models.imported.probabilities import softmax
from jaxcompress.models.imported.problems import Unreadable
from jaxcompress.models.imported.reading import Call
from jaxcompress.models.imported.units import Unit
from jaxcompress.models.imported.values import Op, Operand, Tensor

WHAT = "a matrix product of two activations that is no attention over all tokens"
HINT = (
  "use softmax(queries keys^T) values without a mask, heads being parts of the channels; or take the"
  " network as a teacher, which may be any function (distill.adapter)"
)


class Side(NamedTuple):
  """One of the arrays of a batched product.

  Attributes:
    op: the tensor.
    batch: axes that both arrays have, with images and heads, in order.
    summed: axes that are summed over.
    free: all others.
  """

  op: Op
  batch: tuple[views.Axis, ...]
  summed: tuple[views.Axis, ...]
  free: tuple[views.Axis, ...]

  def heads(self, role: str) -> tuple[views.Axis, ...]:
    """The batch axes without images, if all are of a role."""
    axes = tuple(tuple(a for a in axis if a.role != "N") for axis in self.batch)
    if any(atom.role != role for axis in axes for atom in axis):
      raise Unreadable(WHAT, HINT)
    return axes


def product(call: Call, x: Tensor, y: Tensor) -> Tensor:
  """Scores of queries and keys, or values mixed by what scores became.

  Raises:
    Unreadable: if it is neither.
  """
  (left, right), (left_batch, right_batch) = call.params["dimension_numbers"]
  sides = [
    Side(
      t.op,
      tuple(t.view[axis] for axis in batch),
      tuple(t.view[axis] for axis in over),
      tuple(axis for i, axis in enumerate(t.view) if i not in (*batch, *over)),
    )
    for t, over, batch in ((x, left, left_batch), (y, right, right_batch))
  ]
  if any(
    atom.role == "N" for side in sides for axis in (*side.summed, *side.free) for atom in axis
  ):
    raise Unreadable(WHAT, HINT)
  roles = [{atom.role for axis in side.summed for atom in axis} for side in sides]
  if roles == [{"C"}, {"C"}]:
    return _scores(call, *sides)
  if {"C"} in roles:
    return _mixed(call, sides, roles.index({"C"}))
  raise Unreadable(WHAT, HINT)


def _scores(call: Call, left: Side, right: Side) -> Tensor:
  heads = [_heads(side, side.summed) for side in (left, right)]
  counts = [_tokens(side.op, side.free) for side in (left, right)]
  if heads[0] != heads[1]:
    raise Unreadable(WHAT, HINT)
  shape = (left.op.shape[0], heads[0], *counts)
  op = call.op("scores", [left.op, right.op], shape)
  batch = _batch(left, "C", (views.Atom("H", heads[0], 1),))
  free = [
    _cut(views.whole(role, n), side.free)
    for role, n, side in zip("WC", counts, (left, right), strict=True)
  ]
  return Tensor(op, (*batch, *free[0], *free[1]))


def _mixed(call: Call, sides: Sequence[Side], first: int) -> Tensor:
  scores, values = sides[first], sides[1 - first]
  images, heads, queries, keys = scores.op.shape
  fits = (
    views.positions(scores.summed, "C", keys) is not None
    and _is_straight(views.positions(scores.heads("H"), "H", heads))
    and _is_straight(views.positions(scores.free, "W", queries))
    and _is_straight(views.positions(scores.summed, "C", keys))
    and _tokens(values.op, values.summed) == keys
    and _heads(values, values.free) == heads
  )
  if not fits:
    raise Unreadable(WHAT, HINT)
  _, height, width, channels = values.op.shape
  size = (height, width) if queries == keys else (queries, 1)
  op = call.op("mixed", [scores.op, values.op], (images, *size, channels))
  depth = channels // heads
  batch = _batch(values, "C", (views.Atom("C", heads, depth),) if heads > 1 else ())
  rows = _cut((*views.whole("H", size[0]), *views.whole("W", size[1])), scores.free)
  columns = _cut((views.Atom("C", depth, 1),) if depth > 1 else (), values.free)
  free = (*rows, *columns) if first == 0 else (*columns, *rows)
  return Tensor(op, (*batch, *free))


def _is_straight(order: np.ndarray | None) -> bool:
  return order is not None and np.array_equal(order, np.arange(len(order)))


def _heads(side: Side, inner: Sequence[views.Axis]) -> int:
  """The number of heads, which with what is inside of them are all channels in order."""
  outer = side.heads("C")
  if not _is_straight(views.positions((*outer, *inner), "C", side.op.shape[3])):
    raise Unreadable(WHAT, HINT)
  return math.prod(atom.size for axis in outer for atom in axis)


def _tokens(op: Op, axes: Sequence[views.Axis]) -> int:
  """The number of cells, if axes go through all of them in order."""
  _, height, width, _ = op.shape
  steps = {"H": width, "W": 1}
  atoms = views.atoms_of(tuple(axes))
  if any(atom.role not in steps for atom in atoms):
    raise Unreadable(WHAT, HINT)
  flat = tuple(a._replace(role="H", step=a.step * steps[a.role]) for a in atoms)
  if not _is_straight(views.positions([flat], "H", height * width)):
    raise Unreadable(WHAT, HINT)
  return height * width


def _batch(side: Side, role: str, heads: views.Axis) -> views.View:
  """The batch axes of the result, with the heads where they were."""
  cut = iter(_cut(heads, side.heads(role)))
  return tuple((*(atom for atom in axis if atom.role == "N"), *next(cut)) for axis in side.batch)


def _cut(axis: views.Axis, like: Sequence[views.Axis]) -> views.View:
  """An axis in as many parts as others, of their sizes."""
  axis = tuple(atom for atom in axis if atom.size > 1)
  made = views.reshaped((axis,), views.sizes_of(tuple(like)))
  if made is None:
    raise Unreadable(WHAT, HINT)
  return made


def _attention(g: Grouping, op: Op) -> Unit | None:
  """Makes two matrix products with a softmax in between for each head."""
  weights, values = op.inputs
  found = _logits(weights)
  if found is None:
    g.report(op.origin, WHAT, HINT)
    return None
  logits, scale = found
  queries, keys = logits.inputs
  images, heads, n, m = logits.shape
  channels, count = values.shape[3], 8 + 6 * heads
  place = iter(range(1, count + 1))

  def made(kind: str, inputs: Sequence[Op], shape: Sequence[int], /, **fields: object) -> Op:
    number = op.number - 1 + next(place) / (count + 1)
    return Op(kind, tuple(inputs), (images, *shape), fields, op.origin, number)

  if scale != 1:
    fields = {"scale": scale, "bias": 0.0, "act": None}
    queries = made("Affine", [queries], queries.shape[1:], **fields)
  parts = []
  for source, tokens in ((queries, n), (keys, m), (values, m)):
    size = source.shape[3]
    tokens_of = made("Reshape", [source], (tokens, 1, size), shape=(tokens, size))
    edges = range(0, size, size // heads)
    parts.append(
      [tokens_of]
      if heads == 1
      else [
        made("part", [tokens_of], (tokens, 1, size // heads), start=a, stop=a + size // heads)
        for a in edges
      ]
    )
  mixed = []
  for query, key, value in zip(*parts, strict=True):
    scores = made("MatMul", [query, key], (n, 1, m), transpose_second=True)
    shares = made("Softmax", [scores], (n, 1, m))
    mixed.append(made("MatMul", [shares, value], (n, 1, value.shape[3]), transpose_second=False))
  joined = mixed[0] if heads == 1 else made("Concat", mixed, (n, 1, channels))
  return Unit("Reshape", (op,), (joined,), {"shape": tuple(op.shape[1:])}, origin=op.origin)


def _logits(weights: Op) -> tuple[Op, float] | None:
  """The scores whose softmax an operation is, and the number that they are multiplied by."""
  if weights.kind != "elementwise" or (logits := softmax(weights)) is None:
    return None
  scale = 1.0
  while logits.kind == "elementwise" and logits.fields["primitive"] in ("mul", "div"):
    first, *rest = logits.fields["operands"]
    constants = [o for o in (first, *rest) if isinstance(o, Operand)]
    is_divided = logits.fields["primitive"] == "div"
    if len(constants) != 1 or not constants[0].literal or (is_divided and first is constants[0]):
      return None
    number = float(constants[0].array.ravel()[0].astype(np.float64))
    scale *= 1 / number if is_divided else number
    (logits,) = logits.inputs
  return (logits, scale) if logits.kind == "scores" else None


def _refused(g: Grouping, op: Op) -> None:
  g.report(op.origin, WHAT, HINT)


def _made(g: Grouping, op: Op) -> Unit:
  return Unit(op.kind, (op,), op.inputs, dict(op.fields), origin=op.origin)


GROUPS: Mapping[str, Group] = {
  "mixed": _attention,
  "scores": _refused,
  **dict.fromkeys(["MatMul", "Softmax", "Reshape", "Affine"], _made),
}
"""Makers by the kind of operation that was read or made."""
