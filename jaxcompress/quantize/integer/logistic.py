"""Tables of the logistic function, as each runtime makes its own."""

from typing import Any

import numpy as np

from jaxcompress.codes import half_away
from jaxcompress.quantize.integer.fixed_point import divide32, exponential, high, twice_reciprocal
from jaxcompress.quantize.integer.floats import expf
from jaxcompress.quantize.integer.grid import INT32, Grid, check_below
from jaxcompress.quantize.integer.onnxruntime import fused
from jaxcompress.quantize.integer.reference import quantize_multiplier

FLAT = (-80.0, 80.0)  # beyond it a logistic function is 0 or 1 in float32


ODD = 2.0**-12  # a scale for which LiteRT has a rule of its own, in 16 bits
SATURATED = {9: 32767 << 10, 8: 65535 << 8}  # chords beyond the last number, by exponent


NUMERATOR = (
  *(4.37031012579801e-11, 1.15627324459942e-07, 6.08574864600143e-05),
  *(8.51377133304701e-03, 2.48287947061529e-01),
)


DENOMINATOR = (
  *(6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06),
  *(1.70198817374094e-03, 1.16817656904453e-01, 9.93151921023180e-01),
)


FAR_TOO_LARGE = "its range comes from weights or ranges that are far too large"


def reals(source: Grid) -> np.ndarray:
  """The real numbers of all codes, float32."""
  return np.arange(source.low, source.high + 1, dtype=np.float32) * np.float32(source.scale)


def _logistic(power: Any) -> np.ndarray:
  """``1 / (1 + exp(-x))`` in the type of the exponential, float32 in the end."""
  one = power.dtype.type(1)
  return (one / (one + power)).astype(np.float32)


def sigmoid_of_xnnpack(source: Grid, output: Grid) -> np.ndarray:
  """A logistic function in float64, then a product, half to even after the zero point was added."""
  power = np.exp(-np.clip(reals(source).astype(np.float64), *FLAT))
  y = _logistic(power) * (np.float32(1) / output.scale)
  zero = np.float32(output.zero_point)
  return np.clip(np.rint(y + zero) - zero, output.low, output.high)


def sigmoid_of_reference(source: Grid, output: Grid) -> np.ndarray:
  """A logistic function in float32, then a product, halves away from zero."""
  y = _logistic(expf(-np.clip(reals(source), *FLAT))) * (np.float32(1) / output.scale)
  return np.clip(half_away(y), output.low, output.high)


def q27(source: Grid, act: str) -> tuple[np.ndarray, np.ndarray]:
  """All codes as 32-bit fixed-point numbers, 4 bits of which are whole, as TFLite-Micro makes them.

  Args:
    source: of the input.
    act: name of the function, for people.

  Returns:
    ``(numbers, beyond)``; ``beyond`` is -1 or 1 where a code is too far from zero for them.
  """
  factor = quantize_multiplier(np.float64(source.scale) * 2.0**27)
  check_below(2.0**35, source.scale, f"scales: those of the input of a {act}", FAR_TOO_LARGE)
  left, codes = int(factor.left), np.arange(source.low, source.high + 1, dtype=np.int64)
  radius = (15 * 2**27) >> left
  inside = np.clip(codes, 1 - radius, radius - 1) if radius else np.zeros_like(codes)
  numbers = divide32(high(inside << left, int(factor.q31)), int(factor.right))
  return numbers, np.where(codes <= -radius, -1, np.where(codes >= radius, 1, 0))


def sigmoid_of_micro(source: Grid, output: Grid) -> np.ndarray:
  """gemmlowp's logistic function of fixed-point numbers."""
  x, beyond = q27(source, "sigmoid")
  y = np.minimum(twice_reciprocal(exponential(-np.abs(x), 4)) << 1, 2**31 - 1)
  y = np.where(x > 0, y, np.where(x < 0, 2**31 - 1 - y, 2**30))
  steps = np.where(beyond == 0, divide32(y, 23), np.where(beyond < 0, 0, 255))
  return np.clip(steps, output.low, output.high).astype(np.float32)


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


def suits_sigmoid(scale: float, bits: int) -> bool:
  """Whether all runtimes of .tflite files have one rule for a scale of the input.

  Examples:
    >>> suits_sigmoid(2.0**-12, 8), suits_sigmoid(2.0**-12, 16)
    (True, False)
  """
  return bits == 8 or bool(np.float32(scale) != ODD)


def sigmoid_of_int16(source: Grid, output: Grid) -> np.ndarray:
  """The chords, rounded, in all runtimes of .tflite files."""
  if not suits_sigmoid(float(source.scale), source.bits):
    raise ValueError(
      f"scales: that of the input of a sigmoid is {ODD}, for which LiteRT has a rule of its own; any"
      " other one will do."
    )
  x, y = chords(source, 9, "sigmoid")
  y = np.where(x >= 0, y + 2**9, 2**25 - y + 2**9 - 1) >> 10
  return np.clip(y, output.low, output.high).astype(np.float32)


def chords(source: Grid, exponent: int, act: str) -> tuple[np.ndarray, np.ndarray]:
  """Chords between 256 numbers near ``sigmoid(i / 24)``.

  The numbers lie above the function by half of what a chord between it would lie below.

  Args:
    source: of the input, in 16 bits.
    exponent: there are ``2**exponent`` places from one number to the next.
    act: name of the function, for people.

  Returns:
    ``(places, values)``: for each code, how far it is from zero, with its sign, and the function of
    what is not negative, times ``2**(16 + exponent)``.
  """
  factor, shift = places_of(source, act)
  codes = np.arange(source.low, source.high + 1, dtype=np.int64)
  x = (codes * factor + ((1 << shift) >> 1)) >> shift
  knots = knots_of_sigmoid()
  whole, part = np.abs(x) >> exponent, np.abs(x) & (2**exponent - 1)
  place = np.minimum(whole, 254)
  y = (knots[place] << exponent) + part * np.diff(knots)[place]
  return x, np.where(whole >= 255, SATURATED[exponent], y)


def places_of(source: Grid, act: str) -> tuple[int, int]:
  """A factor of codes, and by how many bits its products are shifted to the right: places of chords.

  Args:
    source: of the input, in 16 bits.
    act: name of the function, for people.

  Raises:
    ValueError: if products are no int32.
  """
  real, shift = np.float64(source.scale) * 4096 * 3, 0
  while real <= 32767 / 2 and shift <= 30:
    real, shift = real * 2, shift + 1
  reach = int(real) * -source.low
  check_below(INT32, reach, f"scales: products of a {act}'s codes", FAR_TOO_LARGE)
  return int(real), shift


def knots_of_sigmoid() -> np.ndarray:
  """(256,) int64: numbers near ``sigmoid(i / 24)``, times 65536, that chords lie between."""
  s = 1 / (1 + np.exp(-np.arange(256) / 24))
  knots = np.rint(65536 * (s - s * (1 - s) * (1 - 2 * s) / (16 * 24**2))).astype(np.int64)
  knots[-1] = 65535
  return knots
