"""Sums, products, activation functions and changes of the grid as C functions."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcompress.export.c99.emitted import Emitted, Params, Reads, Table, Window
from jaxcompress.export.c99.prepared import Fields, Prepared, factor_fields, map_shape, row_count
from jaxcompress.quantize.integer import leaky, logistic
from jaxcompress.quantize.integer.arithmetic import ARITHMETIC
from jaxcompress.quantize.integer.reference import Difference, Factor, Sum

NO_FACTOR = (0, 0)


class Chords(NamedTuple):
  """A function of 16 bits made of that of a sigmoid, ``v``.

  Attributes:
    exponent: there are ``2**exponent`` places from one number to the next.
    above: added to ``v`` of what is not negative.
    below: of which ``v`` is taken away for what is below zero.
    shift: of the result to the right.
  """

  exponent: int
  above: int
  below: int
  shift: int


CHORDS: Mapping[str, Chords] = {
  "sigmoid": Chords(9, 2**9, 2**25 + 2**9 - 1, 10),
  "tanh": Chords(8, 2**7 - 2**23, 2**23 + 2**7 - 1, 8),
}
"""Functions of 16 bits that lie on a sigmoid's chords."""


def pair(prepared: Prepared, name: str) -> Emitted:
  """Two arrays, value by value."""
  node = prepared.node
  rows, columns, channels = map_shape(node.output_shapes[0])
  left, right = (prepared.grids[tensor] for tensor in node.inputs)
  steps = [_steps(shape, (columns, channels)) for shape in node.input_shapes]
  if all(step == (channels, 1) for step in steps):  # one after the other in both
    steps, columns, channels = [(0, 1)] * 2, 1, columns * channels
  rule = prepared.arrays.get("rule")
  fields: Fields = {
    "width": columns,
    "channels": channels,
    **dict(zip(("left_column", "left_channel"), steps[0], strict=True)),
    **dict(zip(("right_column", "right_channel"), steps[1], strict=True)),
    "left_zero": left.zero_point,
    "right_zero": right.zero_point,
    "out_zero": prepared.output.zero_point,
    **(prepared.ends() if rule is not None else {}),
    **_factors(rule),
  }
  reads = tuple(_rows_of(shape, rows) for shape in node.input_shapes)
  same = tuple(
    place for place, shape in enumerate(node.input_shapes) if shape == node.output_shapes[0]
  )
  return Emitted(
    node.name,
    prepared.function(name),
    Params("pair", fields),
    node.inputs,
    reads,
    node.outputs,
    overwrites=same,
  )


def _factors(rule: Any) -> Fields:
  if isinstance(rule, Sum | Difference):
    factors = {name: factor_fields(getattr(rule, name)) for name in ("left", "right", "total")}
    return {"bits": int(rule.shift), **factors}
  total = NO_FACTOR if rule is None else factor_fields(rule)
  return {"bits": 0, "left": NO_FACTOR, "right": NO_FACTOR, "total": total}


def _steps(shape: tuple[int, ...], row: tuple[int, int]) -> tuple[int, int]:
  """Numbers from one column, and from one channel, to the next; 0 where one meets all."""
  _, columns, channels = map_shape(shape)
  column = 0 if columns == 1 and row[0] > 1 else channels
  return column, 0 if channels == 1 and row[1] > 1 else 1


def _rows_of(shape: tuple[int, ...], rows: int) -> Reads:
  """Rows of an input that meet those of the output."""
  return Table(((0,),) * rows) if map_shape(shape)[0] == 1 and rows > 1 else Window()


def unary(prepared: Prepared) -> Emitted:
  """An activation function, or a change of the grid, on its own: a table of all codes of 8 bits."""
  if prepared.source.bits == 8:
    return _table(prepared)
  node, source, output = prepared.node, prepared.source, prepared.output
  rule = prepared.arrays.get("rule")
  if isinstance(rule, Sum):
    return _shift(prepared, rule)
  if rule is not None:
    name = "narrow" if output.bits == 8 else "slopes_16"
    return _slopes(prepared, name, (rule, rule), prepared.ends())
  ends = {name: getattr(output, name) + output.zero_point for name in ("low", "high")}
  if node.op == "LeakyRelu":
    factors = leaky.factors(node.attrs["slope"], source, output, np.float64)
    return _slopes(prepared, "slopes_16", factors, ends)
  return _chords(prepared, CHORDS[node.attrs["act"]])


def _table(prepared: Prepared) -> Emitted:
  """The codes of the output for all of the input."""
  node, source, output = prepared.node, prepared.source, prepared.output
  steps = jnp.arange(source.low, source.high + 1, dtype=jnp.float32)
  (found,) = ARITHMETIC[node.op].run(prepared.static, dict(prepared.arrays), steps)
  codes = (np.asarray(found) + output.zero_point).astype(output.dtype)
  name = "table" if output.bits == 8 else "table_16"
  return _one(prepared, name, name, {"table": codes})


def _one(prepared: Prepared, function: str, struct: str, fields: Fields) -> Emitted:
  """A function of each number."""
  node = prepared.node
  params = Params(struct, {"count": row_count(node.output_shapes[0]), **fields})
  overwrites = (0,) if prepared.source.bits == prepared.output.bits else ()
  reads = (Window(),)
  return Emitted(
    node.name, function, params, node.inputs, reads, node.outputs, overwrites=overwrites
  )


def _shift(prepared: Prepared, rule: Sum) -> Emitted:
  """The sum with a constant."""
  constant = jnp.int32(prepared.arrays["constant"]) << rule.shift
  fields: Fields = {
    **prepared.zeros(),
    **prepared.ends(),
    "bits": int(rule.shift),
    "constant": int(rule.right(constant)),
    "left": factor_fields(rule.left),
    "total": factor_fields(rule.total),
  }
  return _one(prepared, "shift_16", "shift", fields)


def _slopes(
  prepared: Prepared, function: str, factors: tuple[Factor, Factor], ends: Fields
) -> Emitted:
  """Factors of what is not negative, and of what is below zero."""
  above, below = map(factor_fields, factors)
  fields = {**prepared.zeros(), **ends, "above": above, "below": below}
  return _one(prepared, function, "slopes", fields)


def _chords(prepared: Prepared, chords: Chords) -> Emitted:
  """A function between numbers that are looked up."""
  factor, right = logistic.places_of(prepared.source, prepared.node.attrs["act"])
  fields: Fields = {
    "factor": factor,
    "right": right,
    **chords._asdict(),
    "most": logistic.SATURATED[chords.exponent],
    "knots": logistic.knots_of_sigmoid().astype(np.uint16),
  }
  return _one(prepared, "chords_16", "chords", fields)
