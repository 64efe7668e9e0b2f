"""Activation functions on integers: as clips of what is before them, or as tables of all codes.

A rectifier is the sum with zero. A hard-sigmoid is the sum with three, saturated at 0 and 6, then a
sixth of it: the same codes on the grid from 0 to 1. Both end a layer as well. The others are tables,
made here in numpy as each runtime makes its own.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from jaxcompress.nn import Node
from jaxcompress.nn.activations import ACTIVATIONS
from jaxcompress.quantize.integer.grid import LOWEST, TYPES, Grid
from jaxcompress.quantize.integer.reference import quantize_multiplier

LARGEST_RATIO = 2.0**7  # of a hard-swish's input scale to the output's (excluded)
LARGEST_GROWTH = 31  # octaves of the gate's slope, which is then shifted by one less, in int32
LARGEST_SCALE = 3 * 2.0**23  # of the input (excluded), with which it grows so much
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
  """What every code stands for, float32."""
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


TFLITE = ("xnnpack", "reference", "tflm")
FUNCTIONS: Mapping[str, Function] = {
  "relu": Function({"onnxruntime": _by_onnxruntime(lambda x: np.maximum(x, 0))}, clips=True),
  "relu6": Function({"onnxruntime": _by_onnxruntime(lambda x: np.clip(x, 0, 6))}, clips=True),
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
  """What keeps a layer from ending in an activation function, in words; None: nothing.

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
