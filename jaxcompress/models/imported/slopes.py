"""Recognises rectifiers with a trained slope, as sums of rectifiers."""

import numpy as np

from jaxcompress.models.imported import constants
from jaxcompress.models.imported.scalings import is_step
from jaxcompress.models.imported.values import Op, Operand

ABOVE = {"gt": True, "ge": True, "lt": False, "le": False}


def with_slope(op: Op) -> tuple[Op, Op] | None:
  """``relu(x)`` and ``slope * relu(-x)``, whose difference an operation is; None if it is not one.

  It is ``where(x > 0, x, slope * x)`` with a slope that is trained.
  """
  if op.fields["primitive"] != "select_n":
    return None
  which, *cases = op.fields["operands"]
  if any(isinstance(o, Operand) for o in (which, *cases)) or len(cases) != 2:
    return None
  test, below, above = (op.inputs[o] for o in (which, *cases))
  sign = _sign(test)
  if sign is None:
    return None
  x, positive = sign
  below, above = (below, above) if positive else (above, below)
  if above is not x or not is_step(below) or below.fields["primitive"] != "mul":
    return None
  if below.inputs != (x,):
    return None
  number = op.number
  high = _with_number("max", x, 0.0, op, number - 0.5)
  turned = _with_number("mul", x, -1.0, op, number - 0.4)
  low = _with_number("max", turned, 0.0, op, number - 0.3)
  scaled = Op("elementwise", (low,), op.shape, below.fields, below.origin, number - 0.2)
  return high, scaled


def _sign(test: Op) -> tuple[Op, bool] | None:
  """The tensor that is compared with zero, and whether the test is that it is above."""
  if test.kind != "elementwise" or test.fields["primitive"] not in ABOVE:
    return None
  operands = test.fields["operands"]
  zeros = [o for o in operands if isinstance(o, Operand) and o.literal and not o.array.any()]
  if len(zeros) != 1 or len(test.inputs) != 1:
    return None
  positive = ABOVE[test.fields["primitive"]]
  return test.inputs[0], positive if operands[1] is zeros[0] else not positive


def _with_number(name: str, x: Op, value: float, like: Op, number: float) -> Op:
  array = np.full((1, 1, 1), value, np.float32)
  operands = (0, Operand(constants.literal(array), array))
  fields = {"primitive": name, "params": {}, "operands": operands}
  return Op("elementwise", (x,), like.shape, fields, like.origin, number)
