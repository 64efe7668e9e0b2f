"""Activation functions on integers: as clips of what is before them, or as tables of all codes.

A rectifier is the sum with zero. A hard-sigmoid is the sum with three, saturated at 0 and 6, then a
sixth of it: the same codes on the grid from 0 to 1. Both end a layer as well. The others are tables,
made here in numpy as each runtime makes its own.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.nn import Node
from jaxcompress.nn.activations import ACTIVATIONS
from jaxcompress.quantize.integer.grid import INT32, LOWEST, TYPES, Grid, check_below
from jaxcompress.quantize.integer.onnxruntime import fused
from jaxcompress.quantize.integer.reference import half_away, quantize_multiplier

LARGEST_RATIO = 2.0**7  # of a hard-swish's input scale to the output's (excluded)
LARGEST_GROWTH = 31  # octaves of the gate's slope, which is then shifted by one less, in int32
LARGEST_SCALE = 3 * 2.0**23  # of the input (excluded), with which it grows so much
FLAT = (-80.0, 80.0)  # beyond it a logistic function is 0 or 1 in float32
POWERS_OF_E = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401)  # -1/4, -1/2 ... -8
NUMERATOR = (
  *(4.37031012579801e-11, 1.15627324459942e-07, 6.08574864600143e-05),
  *(8.51377133304701e-03, 2.48287947061529e-01),
)
DENOMINATOR = (
  *(6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06),
  *(1.70198817374094e-03, 1.16817656904453e-01, 9.93151921023180e-01),
)
FAR_TOO_LARGE = "its range comes from weights or ranges that are far too large"
INT16 = np.array([-(2**15), 2**15 - 1])

Table = Callable[[Grid, Grid], np.ndarray]


class Function(NamedTuple):
  """An activation function on integers.

  Attributes:
    tables: ``(source, output) -> table``, by the name that a runtime's
      :class:`~jaxcompress.quantize.integer.runtimes.Kernels` have for its tables: the output's
      ``q - z`` for every code, float32.
    clips: whether it is a clip, of a map that may be shifted and scaled: a layer can end in it, and
      on its own it is a sum with a constant where it is no table.
    grids: that its output must have, by their bits; none: any.
    ratio: of the input's scale to the output's, below which there are tables.
    least: of the input's scale.
  """

  tables: Mapping[str, Table]
  clips: bool = False
  grids: Mapping[int, Grid] = {}
  ratio: float = np.inf
  least: float = 0.0


class GateGrids(NamedTuple):
  """The grids that a hard-sigmoid is computed on; the highest code of each is its end.

  Attributes:
    output: from 0 to 1: saturation is the clip, with 16 bits above only.
    relu6: from 0 to 6, likewise.
    three: its highest code is 3.
    sixth: its highest code is 1 / 6.
  """

  output: Grid
  relu6: Grid
  three: Grid
  sixth: Grid


def _gate_grids(bits: int) -> GateGrids:
  signed = lambda top: Grid(np.float32(top / (2 ** (bits - 1) - 1)), 0, bits)  # noqa: E731
  if bits == 8:
    positive = lambda top: Grid(np.float32(top / 255), LOWEST)  # noqa: E731
    return GateGrids(positive(1), positive(6), signed(3), signed(1 / 6))
  return GateGrids(*(signed(top) for top in (1, 6, 3, 1 / 6)))


GATES: Mapping[int, GateGrids] = {bits: _gate_grids(bits) for bits in TYPES}
"""Of hard-sigmoids, by bits."""


def reals(source: Grid) -> np.ndarray:
  """The real numbers of all codes, float32."""
  return np.arange(source.low, source.high + 1, dtype=np.float32) * np.float32(source.scale)


def _by_onnxruntime(function: Callable[[np.ndarray], np.ndarray]) -> Table:
  """A function that onnxruntime computes in float32, between a product and a quotient."""

  def table(source: Grid, output: Grid) -> np.ndarray:
    y = np.asarray(function(reals(source)), np.float32)
    steps = np.rint(y / np.float32(output.scale)) + np.float32(0)  # no negative zero
    return np.clip(steps, output.low, output.high)

  return table


def _gate(x: np.ndarray) -> np.ndarray:
  return np.clip(np.float32(1 / 6) * x + np.float32(0.5), np.float32(0), np.float32(1))


def hard_swish_table(source: Grid, output: Grid) -> np.ndarray:
  """Outputs of ``x * relu6(x + 3) / 6`` for every code, in 16-bit fixed point.

  Args:
    source: of the input.
    output: of the output.

  Returns:
    (256,) float32, the output's ``q - z`` for the input's codes -128 to 127.

  Raises:
    ValueError: if the input's scale is 128 times the output's or more, or 3 * 2**23 and more.

  Examples:
    >>> grid = Grid(np.float32(0.05), 0)
    >>> hard_swish_table(grid, grid)[[0, 108, 128, 138, 255]].tolist()
    [0.0, -7.0, 0.0, 6.0, 127.0]

  References:
    Howard et al., `Searching for MobileNetV3 <https://arxiv.org/abs/1905.02244>`_, 2019,
    section 5.2.
  """
  fine = np.float32(1 / 128) * np.float32(source.scale)
  scale, shift = _factor(fine / np.float32(output.scale))
  slope, growth = _factor(fine / np.float32(3 / 32768))
  if shift > 0:
    raise ValueError(
      f"scales: the input's is {float(source.scale) / float(output.scale):.3g} times the output's;"
      f" HARD_SWISH runs below {LARGEST_RATIO:.0f}, and quantize.assemble widens grids so that it fits."
    )
  if growth > LARGEST_GROWTH:
    raise ValueError(
      f"grids: the input's scale is {float(source.scale):.3g}, which HARD_SWISH runs below"
      f" {LARGEST_SCALE:.3g} only; its range comes from weights or ranges that are far too large."
    )
  x = np.arange(source.low, source.high + 1) * 128
  gate = _multiply(_saturate(x * 2 ** max(growth - 1, 0)), slope)
  gate = _saturate(gate * 2) if growth > 0 else _divide(gate, -growth)
  gate = (gate + 2**15) >> 1
  y = gate * _multiply(x, scale)
  y = np.sign(y) * (np.abs(y) >> 15)
  return np.clip(_divide(y, -shift), output.low, output.high).astype(np.float32)


def _factor(real: np.float32) -> tuple[int, int]:
  """A 15-bit factor and its exponent."""
  factor = quantize_multiplier(real)
  q15 = min((int(factor.q31) + 2**15) >> 16, 2**15 - 1)
  return q15, int(factor.left) - int(factor.right)


def _saturate(x: np.ndarray) -> np.ndarray:
  return np.clip(x, *INT16)


def _multiply(x: np.ndarray, q15: int) -> np.ndarray:
  """``(x * q15 + 2**14) >> 15``."""
  return (x * q15 + 2**14) >> 15


def _divide(x: np.ndarray, exponent: int) -> np.ndarray:
  """``x / 2**exponent`` of 16-bit integers, halves away from zero.

  From 16 on, where all should be zero, the kernels' mask of the bits that are lost has no room in 16
  bits: then they take every integer away from zero.
  """
  if exponent >= 16:
    return np.where(x < 0, -1, 1)
  return np.sign(x) * ((np.abs(x) + (2**exponent >> 1)) >> exponent)


def _logistic(x: np.ndarray, dtype: type) -> np.ndarray:
  """``1 / (1 + exp(-x))`` in a type, float32 in the end; ``exp`` is rounded correctly in both."""
  power: Any = np.exp(-np.clip(x.astype(np.float64), *FLAT)).astype(dtype)
  return (dtype(1) / (dtype(1) + power)).astype(np.float32)


def sigmoid_of_xnnpack(source: Grid, output: Grid) -> np.ndarray:
  """A logistic function in float64, then a product, half to even after the zero point was added."""
  y = _logistic(reals(source), np.float64) * (np.float32(1) / output.scale)
  zero = np.float32(output.zero_point)
  return np.clip(np.rint(y + zero) - zero, output.low, output.high)


def sigmoid_of_reference(source: Grid, output: Grid) -> np.ndarray:
  """A logistic function in float32, then a product, halves away from zero."""
  y = _logistic(reals(source), np.float32) * (np.float32(1) / output.scale)
  return np.clip(half_away(y), output.low, output.high)


def sigmoid_of_micro(source: Grid, output: Grid) -> np.ndarray:
  """gemmlowp's logistic function of 32-bit fixed-point numbers, 4 bits of which are whole.

  ``exp(-n)`` of the rest of ``n`` modulo a quarter is a polynomial, times powers of e by its other
  bits; ``1 / (1 + exp(-n))`` comes from three of Newton's steps.
  """
  factor = quantize_multiplier(np.float64(source.scale) * 2.0**27)
  check_below(2.0**35, source.scale, "scales: those of the input of a sigmoid", FAR_TOO_LARGE)
  left, codes = int(factor.left), np.arange(source.low, source.high + 1, dtype=np.int64)
  radius = (15 * 2**27) >> left
  inside = np.clip(codes, 1 - radius, radius - 1) if radius else np.zeros_like(codes)
  x = _divide32(_high(inside << left, int(factor.q31)), int(factor.right))
  n = -np.abs(x)
  rest = (n & (2**25 - 1)) - 2**25
  z = (rest << 4) + 2**28  # exp(-1/8 + z) follows, all of it beyond 32 bits rounded away
  square = _high(z, z)
  cube, fourth = _high(square, z), _high(square, square)
  series = _divide32(_high(_divide32(fourth, 2) + cube, 715827883) + square, 1)
  power: Any = 1895147668 + _high(z + series, 1895147668)
  for i, e in enumerate(POWERS_OF_E):
    power = np.where((rest - n) & (1 << (25 + i)), _high(power, e), power)
  power = np.where(n == 0, 2**31 - 1, power)
  half = (power + 2**31) // 2
  y = 1515870810 + _high(half, -1010580540)
  for _ in range(3):
    y = y + (_high(y, 2**29 - _high(half, y)) << 2)
  y = np.minimum(y << 1, 2**31 - 1)
  y = np.where(x > 0, y, np.where(x < 0, 2**31 - 1 - y, 2**30))
  steps = np.where(codes <= -radius, 0, np.where(codes >= radius, 255, _divide32(y, 23)))
  return np.clip(steps, output.low, output.high).astype(np.float32)


def _high(a: Any, b: Any) -> Any:
  """``(a * b + 2**30) >> 31``."""
  return (a * b + 2**30) >> 31


def _divide32(x: Any, exponent: int) -> Any:
  """``x / 2**exponent``, halves away from zero."""
  return np.sign(x) * ((np.abs(x) + (2**exponent >> 1)) >> exponent)


def sigmoid_of_onnxruntime(x: np.ndarray) -> np.ndarray:
  """A quotient of polynomials in float32, whose products and sums are fused."""
  x = np.clip(x, np.float32(-18), np.float32(18))
  square = x * x

  def polynomial(coefficients: tuple[float, ...]) -> np.ndarray:
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
      total = fused(total, square, np.float32(coefficient))
    return total

  return polynomial(NUMERATOR) * x / polynomial(DENOMINATOR) + np.float32(0.5)


def sigmoid_of_int16(source: Grid, output: Grid) -> np.ndarray:
  """Chords between 256 numbers near ``sigmoid(i / 24)``, in all runtimes of .tflite files.

  The numbers lie above the function by half of what a chord between it would lie below.
  """
  if source.scale == (odd := 2.0**-12):
    raise ValueError(
      f"scales: that of the input of a sigmoid is {odd}, for which LiteRT has a rule of its own; any"
      " other one will do."
    )
  real, shift = np.float64(source.scale) * 4096 * 3, 0
  while real <= 32767 / 2 and shift <= 30:
    real, shift = real * 2, shift + 1
  codes = np.arange(source.low, source.high + 1, dtype=np.int64)
  check_below(INT32, codes * int(real), "scales: products of a sigmoid's codes", FAR_TOO_LARGE)
  x = (codes * int(real) + ((1 << shift) >> 1)) >> shift
  s = 1 / (1 + np.exp(-np.arange(256) / 24))
  knots = np.rint(65536 * (s - s * (1 - s) * (1 - 2 * s) / (16 * 24**2))).astype(int)
  knots[-1] = 65535
  place, part = np.minimum(np.abs(x) >> 9, 254), np.abs(x) & 511
  y = (knots[place] << 9) + part * np.diff(knots)[place]
  y = np.where(np.abs(x) >> 9 >= 255, 32767 << 10, y)
  y = np.where(x >= 0, y + 2**9, 2**25 - y + 2**9 - 1) >> 10
  return np.clip(y, output.low, output.high).astype(np.float32)


TFLITE = ("xnnpack", "reference", "tflm")
FUNCTIONS: Mapping[str, Function] = {
  "relu": Function({"onnxruntime": _by_onnxruntime(lambda x: np.maximum(x, 0))}, clips=True),
  "relu6": Function({"onnxruntime": _by_onnxruntime(lambda x: np.clip(x, 0, 6))}, clips=True),
  "sigmoid": Function(
    {
      "xnnpack": sigmoid_of_xnnpack,
      "reference": sigmoid_of_reference,
      "tflm": sigmoid_of_micro,
      "onnxruntime": _by_onnxruntime(sigmoid_of_onnxruntime),
      "int16": sigmoid_of_int16,
    },
    grids={8: Grid(np.float32(1 / 256), LOWEST), 16: Grid(np.float32(1 / 32768), 0, 16)},
    least=2.0**-27,
  ),
  "hard_sigmoid": Function(
    {"onnxruntime": _by_onnxruntime(_gate)},
    clips=True,
    grids={bits: gate.output for bits, gate in GATES.items()},
  ),
  "hard_swish": Function(
    {
      **dict.fromkeys(TFLITE, hard_swish_table),
      "onnxruntime": _by_onnxruntime(lambda x: x * _gate(x)),
    },
    ratio=LARGEST_RATIO,
  ),
}
"""The activation functions that have integers, by their names."""


def fixed_grid(node: Node, bits: int = 8) -> Grid | None:
  """The grid that a node's outputs must have whatever was seen of them; None: any.

  Args:
    node: of a graph with fused activations.
    bits: 8 or 16, of its output.

  Examples:
    >>> node = Node("gate", "Activation", {"act": "hard_sigmoid"}, ("x",), ("gate",), (), ())
    >>> fixed_grid(node).zero_point
    -128
  """
  function = FUNCTIONS.get(node.attrs.get("act", ""))
  return function.grids.get(bits) if function else None


def obstacle_inside(act: str | None) -> str | None:
  """Says what keeps a layer from ending in an activation function; None: nothing.

  Examples:
    >>> obstacle_inside("relu") is None, "followed by" in obstacle_inside("hard_swish")
    (True, True)
  """
  if act is None or (act in FUNCTIONS and FUNCTIONS[act].clips):
    return None
  if act in FUNCTIONS:
    return (
      f"{act!r} has no integer arithmetic inside another layer; write it as a layer without act"
      f" followed by Activation({act!r})."
    )
  return f"{act!r} has no integer arithmetic; use one of {', '.join(FUNCTIONS)}."


def activation_table(kind: str, act: str, source: Grid, output: Grid) -> np.ndarray | None:
  """The table of an activation function on its own; None where it is a sum with a constant.

  Args:
    kind: a runtime's name for its tables.
    act: name of the function.
    source: of the input.
    output: of the output.

  Raises:
    ValueError: if it is none that has integers of these bits, or the runtime would refuse a scale.

  Examples:
    >>> grid = Grid(np.float32(1), 0)
    >>> activation_table("tflm", "relu", grid, grid) is None
    True
  """
  if act not in FUNCTIONS:
    raise ValueError(f"act: {obstacle_inside(act)}")
  function = FUNCTIONS[act]
  if kind in function.tables:
    return function.tables[kind](source, output)
  if not function.clips and source.bits == 8:
    raise ValueError(f"act: {act!r} has no table of {kind}'s; pass other kernels.")
  if not function.clips:
    raise ValueError(
      f"act: {act!r} runs on 8-bit integers only; give the layer 8, as Rule(match=...,"
      " activations=ema_range(8)) does."
    )
  return None


def clip_range(
  act: str | None, grid: Grid, ceiling: Callable[[float, Grid], np.float32]
) -> tuple[np.float32, np.float32]:
  """Smallest and largest value of ``q - zero_point`` after a fused activation function.

  Args:
    act: name of a function that a layer can end in, or None.
    grid: of the output.
    ceiling: of a runtime: the code of the largest value that is let through.

  Raises:
    ValueError: if another activation function is asked for, or nothing is left between the bounds.

  Examples:
    >>> from jaxcompress.quantize.integer import xnnpack
    >>> clip_range("relu6", Grid(np.float32(0.05), -28), xnnpack.ceiling)
    (np.float32(0.0), np.float32(120.0))
  """
  low, high = np.float32(grid.low), np.float32(grid.high)
  if act is None:
    return low, high
  if (obstacle := obstacle_inside(act)) is not None:
    raise ValueError(f"act: {obstacle}")
  if FUNCTIONS[act].grids:
    if grid != (fixed := FUNCTIONS[act].grids[grid.bits]):
      raise ValueError(
        f"grids: the output of a {act} has {grid}; it must be {fixed}, whose ends are 0 and 1."
      )
    return np.float32(0), high
  if np.isfinite(most := ACTIVATIONS[act].high):
    high = min(high, ceiling(most, grid) - np.float32(grid.zero_point))
  if high <= 0:
    raise ValueError(
      f"act: {act!r} leaves nothing of the grid {grid}; its range must exceed 0, and its steps be"
      " smaller than what is left (steps as large as that come from weights or ranges that are far"
      " too large)."
    )
  return np.float32(0), np.float32(high)
