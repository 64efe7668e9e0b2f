"""Functions of float32 numbers as the C library computes them, to the last bit."""

import numpy as np

PARTS = 32  # of an octave
CUBIC = tuple(
  float.fromhex(coefficient) / PARTS**power
  for power, coefficient in (
    (3, "0x1.c6af84b912394p-5"),
    (2, "0x1.ebfce50fac4f3p-3"),
    (1, "0x1.62e42ff0c52d6p-1"),
  )
)
PARTS_OF_E = PARTS * float.fromhex("0x1.71547652b82fep+0")  # of ``log2(e)``


def expf(x: np.ndarray) -> np.ndarray:
  """``exp`` of float32, as in glibc since 2.27, musl and bionic: in float64, by a polynomial.

  One in 2000 results is not the nearest float32 number.

  Args:
    x: float32, of any shape.

  Examples:
    >>> expf(np.float32([0, -1])).tolist()
    [1.0, 0.3678794503211975]

  References:
    Arm, `Optimized Routines <https://github.com/ARM-software/optimized-routines>`_.
  """
  parts = PARTS_OF_E * np.clip(x, -200, 200).astype(np.float64)
  whole = np.rint(parts)
  rest = parts - whole
  power = (CUBIC[0] * rest + CUBIC[1]) * (rest * rest) + (CUBIC[2] * rest + 1)
  with np.errstate(over="ignore"):
    return (power * np.exp2(whole / PARTS)).astype(np.float32)


def fused(x: np.ndarray, factor: np.float32, added: np.ndarray | np.float32) -> np.ndarray:
  """``x * factor + added`` of float32 numbers, rounded once to float32.

  The product is exact in float64. What the sum of it loses makes the last bit odd, so that rounding
  to float32 goes where the exact sum is nearer.

  Examples:
    >>> fused(np.float32([2**23 + 1]), np.float32(1.5), np.float32(-1.5 * 2**23)).tolist()
    [1.5]
  """
  product = x.astype(np.float64) * np.float64(factor)
  summand = np.float64(added)
  total = product + summand
  back = total - product
  lost = (product - (total - back)) + (summand - back)
  is_even = (total.view(np.int64) & 1) == 0
  odd = np.nextafter(total, np.where(lost > 0, np.inf, -np.inf))
  return np.where((lost != 0) & is_even, odd, total).astype(np.float32)
