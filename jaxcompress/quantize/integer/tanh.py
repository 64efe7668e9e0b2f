"""Tables of the hyperbolic tangent.

LiteRT, XNNPACK and onnxruntime compute it in float32, each with the last bits of its own or of the
platform's C library. The codes are the same wherever none lies on the edge of two; so only such scales
are run, and :func:`~jaxcompress.quantize.assemble` makes them a thousandth larger until they are.
"""

import numpy as np

from jaxcompress.quantize.integer.fixed_point import divide32, exponential, twice_reciprocal
from jaxcompress.quantize.integer.grid import ASSEMBLE, Grid
from jaxcompress.quantize.integer.logistic import chords, q27, reals

DOUBT = 2.0**-20  # of a tangent, on both sides; those in float32 are within 2**-21
FARTHEST_CODE = 255  # of ``q - z``


def suits_tanh(scale: float, bits: int) -> bool:
  """Whether all runtimes run a scale of the input alike, whatever its zero point.

  Examples:
    >>> suits_tanh(0.05, 8), suits_tanh(2.0**-11, 16)
    (True, False)
  """
  if bits == 16:
    return np.float32(scale).item() not in (2.0**-11, 2.0**-12)  # which have rules of their own
  x = np.arange(FARTHEST_CODE + 1, dtype=np.float32) * np.float32(scale)
  steps = 128 * np.tanh(x.astype(np.float64))
  return bool(np.all(np.abs(steps - np.floor(steps) - 0.5) >= steps * DOUBT))


def tanh_of_float(source: Grid, output: Grid) -> np.ndarray:
  """The nearest codes.

  Raises:
    ValueError: if a code may lie on the edge of two.
  """
  _check(source)
  steps = np.tanh(reals(source).astype(np.float64)) / np.float64(output.scale)
  return np.clip(np.rint(steps) + 0.0, output.low, output.high).astype(np.float32)


def _check(source: Grid) -> None:
  if not suits_tanh(float(source.scale), source.bits):
    raise ValueError(
      f"scales: that of the input of a tanh is {source.scale}, with which runtimes do not round all"
      f" codes alike; {ASSEMBLE}."
    )


def tanh_of_micro(source: Grid, output: Grid) -> np.ndarray:
  """gemmlowp's: ``(1 - e) / (1 + e)`` with ``e = exp(-2 |x|)``."""
  x, beyond = q27(source, "tanh")
  t = (twice_reciprocal(exponential(-np.abs(x), 5)) - 2**29) << 2
  t = np.where(x == 0, 0, np.minimum(t, 2**31 - 1))
  steps = np.where(beyond == 0, divide32(np.sign(x) * t, 24), 128 * beyond)
  return np.clip(steps, output.low, output.high).astype(np.float32)


def tanh_of_int16(source: Grid, output: Grid) -> np.ndarray:
  """Twice a logistic function of twice the input, less 1: the same chords."""
  _check(source)
  x, y = chords(source, 8, "tanh")
  y = np.where(x >= 0, y - 2**23 + 2**7, -y + 2**23 + 2**7 - 1) >> 8
  return np.clip(y, output.low, output.high).astype(np.float32)
