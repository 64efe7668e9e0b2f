"""Tables of hard-swish, in 16-bit fixed point."""

import numpy as np

from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.reference import quantize_multiplier

LARGEST_RATIO = 2.0**7  # of a hard-swish's input scale to the output's (excluded)


LARGEST_GROWTH = 31  # octaves of the gate's slope, which is then shifted by one less, in int32


LARGEST_SCALE = 3 * 2.0**23  # of the input (excluded), with which it grows so much


INT16 = np.array([-(2**15), 2**15 - 1])


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
  scale, shift, slope, growth = _factors(source, output)
  x = np.arange(source.low, source.high + 1) * 128
  gate = _multiply(_saturate(x * 2 ** max(growth - 1, 0)), slope)
  gate = _saturate(gate * 2) if growth > 0 else _divide(gate, -growth)
  gate = (gate + 2**15) >> 1
  y = gate * _multiply(x, scale)
  y = np.sign(y) * (np.abs(y) >> 15)
  return np.clip(_divide(y, -shift), output.low, output.high).astype(np.float32)


def hard_swish_arm64(source: Grid, output: Grid) -> np.ndarray:
  """As :func:`hard_swish_table`, where LiteRT's instructions for 64-bit Arm give the same.

  These compute eight numbers at a time, and divide halves up where the rest of the numbers, as other
  processors, divide them away from zero. So where the two differ, it depends on the place.

  Raises:
    ValueError: as :func:`hard_swish_table`, and if a code has two results.

  Examples:
    >>> source, output = Grid(np.float32(0.05), 0), Grid(np.float32(0.1), -100)
    >>> (hard_swish_arm64(source, output) == hard_swish_table(source, output)).all().item()
    True
  """
  table = hard_swish_table(source, output)
  scale, shift, slope, growth = _factors(source, output)
  x = np.arange(source.low, source.high + 1) * 128
  gate = _multiply(_saturate(x * 2 ** max(growth - 1, 0)), slope)
  gate = _saturate(gate * 2) if growth > 0 else _divide_up(gate, -growth)
  y = (((gate + 2**15) >> 1) * _multiply(x, scale)) >> 15
  if np.any(np.clip(_divide_up(y, -shift), output.low, output.high) != table):
    raise ValueError(
      f"scales: HARD_SWISH from steps of {float(source.scale):.6g} to {float(output.scale):.6g} depends,"
      " on 64-bit Arm, on the place of a number; write it as a gate, or make one of them a thousandth"
      " larger."
    )
  return table


def _factors(source: Grid, output: Grid) -> tuple[int, int, int, int]:
  """Factor and exponent of the output, and of the gate's slope."""
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
  return scale, shift, slope, growth


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


def _divide_up(x: np.ndarray, exponent: int) -> np.ndarray:
  """``x / 2**exponent``, halves up."""
  return (x + (2**exponent >> 1)) >> exponent
