"""Groups elementwise operations: activation functions, constants, sums and products of tensors."""

import math
from collections.abc import Mapping

from jaxcompress.models.imported import normalized
from jaxcompress.models.imported.grouping import Group, Grouping
from jaxcompress.models.imported.layered import WITH_CONSTANTS, alone
from jaxcompress.models.imported.probabilities import softmax
from jaxcompress.models.imported.scalings import NotAffine, is_step
from jaxcompress.models.imported.slopes import with_slope
from jaxcompress.models.imported.units import Unit
from jaxcompress.models.imported.values import Op, Operand
from jaxcompress.nn.activations import ACTIVATIONS


def _elementwise(g: Grouping, op: Op) -> Unit | Op | None:
  function = g.function(op)
  if function is not None:
    base, found = function
    if found is None:
      return base
    return Unit(found.op, (op,), (base,), dict(found.fields), origin=op.origin)
  normal = normalized.normalization(g, op)
  if normal is not None:
    return normal
  if is_step(op):
    return _scaling(g, op)
  name = op.fields["primitive"]
  tensors = [op.inputs[o] for o in op.fields["operands"] if not isinstance(o, Operand)]
  if (logits := softmax(op)) is not None:
    return Unit("Softmax", (op,), (logits,), {}, origin=op.origin)
  if (parts := with_slope(op)) is not None:
    return Unit("Subtract", (op,), parts, {}, origin=op.origin)
  if name in PAIRS and len(tensors) == 2 and len(op.fields["operands"]) == 2:
    if name in ("add", "add_any", "mul"):  # the larger one first, as a gate comes second
      tensors.sort(key=lambda tensor: -math.prod(tensor.shape))
    return Unit(PAIRS[name], (op,), tuple(tensors), {}, origin=op.origin)
  if (name == "square" or op.fields["params"].get("y") == 2) and len(tensors) == 1:
    return Unit("Multiply", (op,), (tensors[0], tensors[0]), {}, origin=op.origin)
  if name == "abs":
    return _absolute(op)
  _refuse_function(g, op)
  return None


def _absolute(op: Op) -> Unit:
  """The larger one of a number and its opposite."""
  (source,) = op.inputs
  fields = {"primitive": "neg", "params": {}, "operands": (0,)}
  opposite = Op("elementwise", (source,), op.shape, fields, op.origin, op.number - 0.5)
  return Unit("Maximum", (op,), (source, opposite), {}, origin=op.origin)


def _refuse_function(g: Grouping, op: Op) -> None:
  operands = [o for o in op.fields["operands"] if isinstance(o, Operand)]
  if any(o.array.shape[:2] != (1, 1) for o in operands):
    what = f"a constant for each pixel, such as a position embedding ({op.fields['primitive']})"
    g.report(
      op.origin, what, "leave it out, or use one for each channel, or for each value of the maps"
    )
    return
  names = g.around(op)[0]
  listed = ", ".join(sorted(names))
  if "sum" in names and names & {"exp", "largest"}:
    g.report(
      op.origin,
      f"a softmax of another kind ({listed})",
      "return what it reads as the logits, or use jax.nn.softmax over channels",
    )
  elif names & {"rsqrt", "sqrt"}:
    what = f"a root of activations, as in a normalization of each image ({listed})"
    g.report(op.origin, what, "use BatchNorm, LayerNorm or RMSNorm in place of others")
  else:
    what = f"an elementwise function without a leaf operation ({listed})"
    g.report(op.origin, what, f"leaf operations have {', '.join(_known())}")


def _known() -> list[str]:
  return [act for act in ACTIVATIONS if act is not None]


def _is_pair(op: Op) -> bool:
  return op.kind == "elementwise" and len(op.inputs) == 2 and op.fields["primitive"] in PAIRS


PAIRS: Mapping[str, str] = {
  "add": "Add",
  "add_any": "Add",
  "sub": "Subtract",
  "mul": "Multiply",
  "max": "Maximum",
  "min": "Minimum",
}
"""Leaf ops of two tensors, by the primitive."""


def _scaling(g: Grouping, op: Op) -> Unit | None:
  """Makes a unit of a scaling by constants: folded into a convolution or linear layer, or alone."""
  try:
    base, scaling, taken = g.scaled(op)
    if taken:
      return WITH_CONSTANTS[base.kind](g, op, base, scaling)
    unknown = base.kind == "elementwise" and not _is_pair(base) and not is_step(base)
    if unknown and not g.stands(base):
      _refuse_function(g, op)
      return None
    return alone(g, op, base, scaling)
  except NotAffine:
    _refuse_function(g, op)
    return None


GROUPS: Mapping[str, Group] = {"elementwise": _elementwise, **normalized.GROUPS}
