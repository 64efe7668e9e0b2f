"""Tables of rectifiers with a slope below zero, as each runtime makes its own."""

import numpy as np

from jaxcompress.quantize.integer.fixed_point import divide32, high
from jaxcompress.quantize.integer.functions import by_onnxruntime
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.reference import Factor, quantize_multiplier

LEAST = np.float32(2.0**-8)  # of the slope times the ratio, that XNNPACK runs


def _codes(source: Grid) -> np.ndarray:
  return np.arange(source.low, source.high + 1, dtype=np.int64)


def reference(slope: float, source: Grid, output: Grid, dtype: type = np.float32) -> np.ndarray:
  """Two factors of 31 bits, found in a type, whose products are rounded twice."""

  def scaled(v, factor):
    return divide32(high(v << int(factor.left), int(factor.q31)), int(factor.right))

  above, below = factors(slope, source, output, dtype)
  codes = _codes(source)
  steps = np.where(codes >= 0, scaled(codes, above), scaled(codes, below))
  return np.clip(steps, output.low, output.high).astype(np.float32)


def factors(slope: float, source: Grid, output: Grid, dtype: type) -> tuple[Factor, Factor]:
  """The factors of what is not negative, and of what is below zero; found in a type."""
  step, scale = dtype(source.scale), dtype(output.scale)
  ratios = step / scale, step * dtype(np.float32(slope)) / scale
  above, below = (quantize_multiplier(np.float64(ratio)) for ratio in ratios)
  return above, below


def xnnpack(slope: float, source: Grid, output: Grid) -> np.ndarray:
  """Two factors of 8 bits after the point, halves rounded up; a flatter slope is left to LiteRT."""
  ratio = np.float32(source.scale) / np.float32(output.scale)
  below = ratio * np.float32(slope)
  if below < LEAST:
    return reference(slope, source, output)
  codes = _codes(source)
  factors = (np.rint(np.float32(256) * real).astype(np.int64) for real in (ratio, below))
  above, under = ((codes * factor + 128) >> 8 for factor in factors)
  return np.clip(np.where(codes >= 0, above, under), output.low, output.high).astype(np.float32)


def micro(slope: float, source: Grid, output: Grid) -> np.ndarray:
  """As :func:`reference`, the factors found in float64."""
  return reference(slope, source, output, np.float64)


def onnxruntime(slope: float, source: Grid, output: Grid) -> np.ndarray:
  """A product in float32, then a quotient."""
  rectified = lambda x: np.where(x >= 0, x, np.float32(slope) * x)  # noqa: E731
  return by_onnxruntime(rectified)(source, output)
