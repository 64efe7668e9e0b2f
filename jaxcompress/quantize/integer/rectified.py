"""Tables of the operators RELU and RELU6 on their own, as each runtime computes them.

A rectifier that ends a layer, or is added to zero, has the rules of these; files of others have it as an
operator of its own too, which XNNPACK leaves to LiteRT.
"""

import numpy as np

from jaxcompress.codes import half_away
from jaxcompress.nn.activations import ACTIVATIONS
from jaxcompress.quantize.integer.fixed_point import divide32, high
from jaxcompress.quantize.integer.functions import FUNCTIONS
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.reference import quantize_multiplier


def rectified(kind: str, act: str, source: Grid, output: Grid) -> np.ndarray:
  """The output's ``q - z`` for every code, float32.

  TFLite-Micro's RELU6 cuts codes off on the grid of its input, and copies them whatever that of its
  output is.

  Args:
    kind: a runtime's name for its tables.
    act: ``"relu"`` or ``"relu6"``.
    source: of the input.
    output: of the output.

  Raises:
    ValueError: if the integers have 16 bits.

  Examples:
    >>> one, two = Grid(np.float32(1), 0), Grid(np.float32(2), 0)
    >>> [rectified(kind, "relu6", one, two)[[120, 132, 250]].tolist() for kind in ("xnnpack", "tflm")]
    [[0.0, 2.0, 3.0], [0.0, 4.0, 6.0]]
  """
  if source.bits != 8 or output.bits != 8:
    raise ValueError(f"act: the operator {act.upper()} runs on 8-bit integers only.")
  if kind in FUNCTIONS[act].tables:
    return FUNCTIONS[act].tables[kind](source, output)
  codes, most = np.arange(source.low, source.high + 1, dtype=np.int64), ACTIVATIONS[act].high
  if kind == "tflm" and act == "relu6":
    ends = 0, half_away(np.float32(most) / np.float32(source.scale))
    raw = np.clip(codes, *ends) + (source.zero_point - output.zero_point)
    return np.clip(raw, output.low, output.high).astype(np.float32)
  factor = quantize_multiplier(np.float64(np.float32(source.scale) / np.float32(output.scale)))
  steps = divide32(high(codes << int(factor.left), int(factor.q31)), int(factor.right))
  top = half_away(np.float32(most) / np.float32(output.scale)) if np.isfinite(most) else output.high
  return np.clip(steps, 0, min(output.high, top)).astype(np.float32)
