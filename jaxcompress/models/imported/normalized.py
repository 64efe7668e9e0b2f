"""Recognises normalizations of each cell's channels by what they compute, however they are spelled.

A part of the function that leads from one tensor through sums over channels to another is run on random
numbers. Where it is a LayerNorm, or a division by the root mean square, two arrays of the user's make the
rest: a number added to one of them is seen in the scale or in the bias.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxcompress.models.imported.grouping import LOOSE, Group, Grouping
from jaxcompress.models.imported.layered import alone
from jaxcompress.models.imported.meanings import MEANINGS
from jaxcompress.models.imported.scalings import Polynomial, Scaling, is_one, polynomial
from jaxcompress.models.imported.units import Unit
from jaxcompress.models.imported.values import Constant, Op, Operand

MOST_OPS = 48  # of a normalization, in whatever spelling
CELLS = 12  # that it is tried on
CLOSE = 1e-5
ROOTS = frozenset(["rsqrt", "sqrt", "pow"])


class Part(NamedTuple):
  """The operations that lead from a tensor to another.

  Attributes:
    base: the tensor that it starts from.
    ops: in order; the last is the result.
    constants: the arrays that it reads.
  """

  base: Op
  ops: Sequence[Op]
  constants: Sequence[Constant]

  def run(self, x: np.ndarray, added: Mapping[int, np.ndarray]) -> np.ndarray:
    """Its result in float64, with something added to some constants, by their identity."""
    found = {self.base: x}
    for op in self.ops:
      if (factor := _over_channels(op, self.base)) is not None:
        source = op.inputs[0] if op.inputs[0] in found else self.base
        found[op] = factor * found[source].sum(axis=-1, keepdims=True)
        continue
      if (chosen := _chosen(op)) is not None:
        found[op] = found[chosen]
        continue
      values = []
      for operand in op.fields["operands"]:
        if isinstance(operand, Operand):
          array = operand.array
          value = array if array.dtype == bool else array.astype(np.float64)
          values.append(value + added.get(id(operand.constant), 0))
        else:
          values.append(found[op.inputs[operand]])
      with np.errstate(all="ignore"):
        found[op] = np.asarray(MEANINGS[op.fields["primitive"]](op.fields["params"], *values))
    return np.broadcast_to(found[self.ops[-1]], x.shape).astype(np.float64)


class Found(NamedTuple):
  """A normalization.

  Attributes:
    base: what is normalized.
    epsilon: added to the mean square.
    centered: whether the mean is subtracted first.
    scale: what each channel is multiplied by.
    bias: what is added to it.
  """

  base: Op
  epsilon: float
  centered: bool
  scale: Polynomial
  bias: Polynomial


def normalization(g: Grouping, op: Op) -> Unit | Op | None:
  """The last leaf op of the normalization that ends in ``op``, or its output; None if there is none."""
  for base in _bases(op):
    part = _part(base, op)
    found = None if part is None else _identified(part)
    if found is not None:
      return _written(g, op, found)
  return None


def _bases(op: Op) -> list[Op]:
  """Tensors of which sums over channels are near, the first of the function first."""
  stack, seen, found, has_root = [op], {op}, set(), False
  while stack and len(seen) <= 2 * MOST_OPS:
    read = stack.pop()
    if read.kind not in LOOSE:
      continue
    has_root |= read.fields.get("primitive") in ROOTS
    if read.kind == "sum" and set(read.fields["roles"]) == {"C"}:
      found.update(_behind(read.inputs[0]))
    stack += [x for x in read.inputs if x not in seen]
    seen.update(read.inputs)
  wanted = [base for base in found if base.shape == op.shape]
  return sorted(wanted, key=lambda base: base.number) if has_root else []


def _behind(op: Op) -> set[Op]:
  """A tensor, and what it is a square of."""
  return {op, *op.inputs} if op.kind == "elementwise" else {op}


def _part(base: Op, op: Op) -> Part | None:
  """Returns the operations from ``base`` to ``op``; None if they read other tensors, or are too many."""
  stack: list[Op] = [op]
  ops: set[Op] = set()
  while stack:
    read = stack.pop()
    if read is base or read in ops:
      continue
    is_sum = _over_channels(read, base) is not None
    if (not is_sum and read.kind != "elementwise") or len(ops) == MOST_OPS:
      return None
    ops.add(read)
    if read.inputs != base.inputs or not is_sum:
      stack += read.inputs
  computed = (read for read in ops if _chosen(read) is None)
  operands = [o for r in computed for o in r.fields.get("operands", ()) if isinstance(o, Operand)]
  if any(o.array.shape[:2] != (1, 1) for o in operands):
    return None
  constants = {id(o.constant): o.constant for o in operands if not o.literal}
  if len(constants) > 2:
    return None
  return Part(base, sorted(ops, key=lambda read: read.number), tuple(constants.values()))


def _chosen(op: Op) -> Op | None:
  """The tensor that an operation is which chooses by a constant, as ``jnp.var`` does; None: another."""
  if op.fields.get("primitive") != "select_n":
    return None
  which, *cases = op.fields["operands"]
  if not isinstance(which, Operand) or not which.literal:
    return None
  case = cases[int(which.array.ravel()[0])]
  return None if isinstance(case, Operand) else op.inputs[case]


def _over_channels(op: Op, base: Op) -> float | None:
  """Returns the factor of a sum over the channels of its input or of ``base``; None if it is no such sum.

  A sum over height and width, and one over channels of that, are read as one.
  """
  if op.kind != "sum":
    return None
  roles = set(op.fields["roles"])
  if roles == {"C"}:
    return op.fields["factor"]
  if base.kind == "sum" and op.inputs == base.inputs and roles == {*base.fields["roles"], "C"}:
    return op.fields["factor"] / base.fields["factor"]
  return None


def _identified(part: Part) -> Found | None:
  rng, channels = np.random.default_rng(0), part.base.shape[3]
  if channels < 3:
    return None
  sizes = np.geomspace(1e-3, 10, CELLS).reshape(CELLS, 1, 1, 1)
  x = sizes * (rng.normal(size=(CELLS, 1, 1, channels)) + rng.normal(size=(CELLS, 1, 1, 1)))
  y = part.run(x, {})
  if not np.isfinite(y).all():
    return None
  for epsilon in _epsilons(part):
    for centered in (True, False):
      apart = x - x.mean(axis=-1, keepdims=True) if centered else x
      unit = apart / np.sqrt(np.square(apart).mean(axis=-1, keepdims=True) + epsilon)
      fitted = _fitted(unit, y)
      if fitted is not None:
        return _with_constants(part, x, unit, fitted, epsilon, centered)
  return None


def _epsilons(part: Part) -> list[float]:
  """Numbers of the user's code that may be added to a variance."""
  found = {0.0}
  for op in part.ops:
    for operand in op.fields.get("operands", ()):
      if isinstance(operand, Operand) and operand.literal and operand.array.dtype != bool:
        number = float(str(np.float32(operand.array.ravel()[0])))
        found.add(number if 0 < number < 1 else 0.0)
  return sorted(found)


def _fitted(unit: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
  """Scale and bias of each channel with which ``unit`` is ``y``; None where there are none."""
  u, v = unit.reshape(CELLS, -1), y.reshape(CELLS, -1)
  middle = u - u.mean(axis=0)
  scale = (middle * (v - v.mean(axis=0))).sum(axis=0) / np.square(middle).sum(axis=0)
  bias = v.mean(axis=0) - scale * u.mean(axis=0)
  error = np.abs(u * scale + bias - v).max()
  return (scale, bias) if error <= CLOSE * max(1.0, np.abs(v).max()) else None


def _with_constants(
  part: Part,
  x: np.ndarray,
  unit: np.ndarray,
  fitted: tuple[np.ndarray, np.ndarray],
  epsilon: float,
  centered: bool,
) -> Found | None:
  """The normalization, with what its scale and its bias are made of."""
  ends: dict[str, Polynomial] = {}
  for constant in part.constants:
    step = np.random.default_rng(1).normal(size=fitted[0].shape)
    step = step if np.asarray(constant.value).size > 1 else np.broadcast_to(step[:1], step.shape)
    moved = _fitted(unit, part.run(x, {id(constant): step.reshape(1, 1, -1)}))
    if moved is None:
      return None
    changes = {"scale": moved[0] - fitted[0], "bias": moved[1] - fitted[1]}
    own = [name for name, change in changes.items() if np.abs(change - step).max() < CLOSE * 10]
    others = [name for name, change in changes.items() if np.abs(change).max() > CLOSE * 10]
    if own != others or len(own) != 1 or own[0] in ends:
      return None
    ends[own[0]] = polynomial(constant)
  rest = {"scale": fitted[0] - 1, "bias": fitted[1]}
  if any(np.abs(rest[name]).max() > CLOSE * 10 for name in rest if name not in ends):
    return None
  scale = ends.get("scale", Polynomial.number(1.0))
  return Found(part.base, epsilon, centered, scale, ends.get("bias", Polynomial({}, {})))


def _written(g: Grouping, op: Op, found: Found) -> Unit | Op:
  """The leaf ops, as operations whose groups are below."""
  source = found.base
  below = lambda kind, inputs, shape, place, **fields: Op(  # noqa: E731
    kind, inputs, shape, fields, op.origin, found.base.number + place
  )
  if found.centered:
    mean = below("channel_mean", (source,), (*op.shape[:3], 1), 0.25)
    source = below("centered", (source, mean), op.shape, 0.5)
  unit = below("divided", (source,), op.shape, 0.75, epsilon=found.epsilon)
  if is_one(found.scale) and not found.bias.terms:
    return unit
  return alone(g, op, unit, Scaling(found.scale, found.bias))


def _plain(kind: str, *fields: str) -> Callable[[Grouping, Op], Unit]:
  def group(g: Grouping, op: Op) -> Unit:
    own = {name: op.fields[name] for name in fields}
    return Unit(kind, (op,), op.inputs, own, origin=op.origin)

  return group


GROUPS: Mapping[str, Group] = {
  "channel_mean": _plain("ChannelMean"),
  "centered": _plain("Subtract"),
  "divided": _plain("RmsNorm", "epsilon"),
}
