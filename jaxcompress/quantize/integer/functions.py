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
from jaxcompress.quantize.integer.floats import fused
from jaxcompress.quantize.integer.grid import LOWEST, TYPES, Grid
from jaxcompress.quantize.integer.logistic import (
  reals,
  sigmoid_of_int16,
  sigmoid_of_micro,
  sigmoid_of_onnxruntime,
  sigmoid_of_reference,
  sigmoid_of_xnnpack,
  suits_sigmoid,
)
from jaxcompress.quantize.integer.stored import REALS, Real, nearest
from jaxcompress.quantize.integer.swish import LARGEST_RATIO, hard_swish_arm64, hard_swish_table
from jaxcompress.quantize.integer.tanh import (
  suits_tanh,
  tanh_of_float,
  tanh_of_int16,
  tanh_of_micro,
)

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
    suits: whether a scale of the input, with so many bits, is one for which runtimes have one rule and
      no code lies on the edge of two.
    stored: whether files hold the table, which then is the same for all runtimes, in 8 bits.
    gate: the function whose product with the input it is: it is written so where it has no table,
      or another way to write it is faster.
  """

  tables: Mapping[str, Table]
  clips: bool = False
  grids: Mapping[int, Grid] = {}
  ratio: float = np.inf
  least: float = 0.0
  suits: Callable[[float, int], bool] = lambda scale, bits: True
  stored: bool = False
  gate: str | None = None


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
"""Grids of hard-sigmoids, by bits."""


PROBABILITIES = {8: Grid(np.float32(1 / 256), LOWEST), 16: Grid(np.float32(1 / 32768), 0, 16)}
"""Grids from 0 to nearly 1, by bits."""


def by_onnxruntime(function: Callable[[np.ndarray], np.ndarray]) -> Table:
  """A function that onnxruntime computes in float32, between a product and a quotient."""

  def table(source: Grid, output: Grid) -> np.ndarray:
    y = np.asarray(function(reals(source)), np.float32)
    steps = np.rint(y / np.float32(output.scale)) + np.float32(0)  # no negative zero
    return np.clip(steps, output.low, output.high)

  return table


def _gate(x: np.ndarray) -> np.ndarray:
  return np.clip(np.float32(1 / 6) * x + np.float32(0.5), np.float32(0), np.float32(1))


def _fused_gate(x: np.ndarray) -> np.ndarray:
  """The same of 64-bit Arm, whose instruction rounds product and sum once."""
  return np.clip(fused(x, np.float32(1 / 6), np.float32(0.5)), np.float32(0), np.float32(1))


TFLITE = ("xnnpack", "reference", "tflm")
RUNTIMES = (*TFLITE, "onnxruntime")


def stored(function: Real) -> Function:
  """A function whose table files hold.

  Args:
    function: elementwise, of float64.

  Examples:
    >>> one = Grid(np.float32(1), 0)
    >>> stored(np.abs).tables["tflm"](one, one)[[0, 255]].tolist()
    [127.0, 127.0]
  """
  return Function(dict.fromkeys(RUNTIMES, nearest(function)), stored=True)


FUNCTIONS: Mapping[str, Function] = {
  "relu": Function({"onnxruntime": by_onnxruntime(lambda x: np.maximum(x, 0))}, clips=True),
  "relu6": Function({"onnxruntime": by_onnxruntime(lambda x: np.clip(x, 0, 6))}, clips=True),
  "sigmoid": Function(
    {
      "xnnpack": sigmoid_of_xnnpack,
      "reference": sigmoid_of_reference,
      "tflm": sigmoid_of_micro,
      "onnxruntime": by_onnxruntime(sigmoid_of_onnxruntime),
      "int16": sigmoid_of_int16,
    },
    grids=PROBABILITIES,
    least=2.0**-27,
    suits=suits_sigmoid,
  ),
  "hard_sigmoid": Function(
    {"onnxruntime": by_onnxruntime(_gate), "onnxruntime-arm64": by_onnxruntime(_fused_gate)},
    clips=True,
    grids={bits: gate.output for bits, gate in GATES.items()},
  ),
  "hard_swish": Function(
    {
      **dict.fromkeys(TFLITE, hard_swish_table),
      "xnnpack-arm64": hard_swish_arm64,
      "onnxruntime": by_onnxruntime(lambda x: x * _gate(x)),
    },
    ratio=LARGEST_RATIO,
    gate="hard_sigmoid",
  ),
  "silu": Function({}, gate="sigmoid"),
  "tanh": Function(
    {
      **dict.fromkeys(("xnnpack", "reference", "onnxruntime"), tanh_of_float),
      "tflm": tanh_of_micro,
      "int16": tanh_of_int16,
    },
    grids={8: Grid(np.float32(1 / 128), 0), 16: Grid(np.float32(1 / 32768), 0, 16)},
    least=2.0**-27,
    suits=suits_tanh,
  ),
  **{name: stored(function) for name, function in REALS.items()},
}
"""The activation functions that have integers, by their names."""


FIXED: Mapping[str, Mapping[int, Grid]] = {
  "Softmax": PROBABILITIES,
  **{act: function.grids for act, function in FUNCTIONS.items() if function.grids},
}
"""Grids that outputs must have, by bits, by the name of an operation or of an activation function."""


def fixed_kind(node: Node) -> str | None:
  """The name in :data:`FIXED` that says which grid a node's outputs must have; None: any.

  Examples:
    >>> fixed_kind(Node("end", "Softmax", {}, ("x",), ("end",), (), ()))
    'Softmax'
  """
  kind = node.attrs.get("act") or node.op
  return kind if kind in FIXED else None


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
  kind = fixed_kind(node)
  return None if kind is None else FIXED[kind].get(bits)


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
    ValueError: if it has no integer arithmetic of these bits, or the runtime would refuse a scale.

  Examples:
    >>> grid = Grid(np.float32(1), 0)
    >>> activation_table("tflm", "relu", grid, grid) is None
    True
  """
  if act not in FUNCTIONS:
    raise ValueError(f"act: {obstacle_inside(act)}")
  function = FUNCTIONS[act]
  if kind not in function.tables:  # a runtime's own name stands for all processors
    kind = kind.split("-")[0]
  if kind in function.tables:
    return function.tables[kind](source, output)
  if not function.clips and source.bits == 8:
    raise ValueError(f"act: {act!r} has no table of {kind}'s; pass other kernels.")
  if not function.clips:
    raise ValueError(f"act: {of_8_bits(act)}")
  return None


def of_8_bits(act: str) -> str:
  """Says that a function has no integers of 16 bits, and the way out."""
  return (
    f"{act!r} runs on 8-bit integers only; give the layer 8, as Rule(match=...,"
    " activations=ema_range(8)) does."
  )


def has_stored_table(node: Node) -> bool:
  """Whether files hold the table of a node."""
  return node.op == "Activation" and FUNCTIONS[node.attrs["act"]].stored


def stored_table(node: Node, grids: Mapping[str, Grid]) -> np.ndarray | None:
  """Codes of the output of a node whose table files hold, by those of the input; None: they hold none.

  Args:
    node: of a graph.
    grids: of its tensors.

  Returns:
    (256,) int8.

  Examples:
    >>> node = Node("act", "Activation", {"act": "elu"}, ("input",), ("act",), (), ())
    >>> stored_table(node, dict.fromkeys(("input", "act"), Grid(np.float32(0.5), 3)))[:4].tolist()
    [1, 1, 1, 1]
  """
  if not has_stored_table(node):
    return None
  act = node.attrs["act"]
  source, output = grids[node.inputs[0]], grids[node.output]
  return (FUNCTIONS[act].tables[RUNTIMES[0]](source, output) + output.zero_point).astype(
    output.dtype
  )


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
