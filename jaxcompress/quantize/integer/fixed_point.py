"""Arithmetic of gemmlowp's fixed-point numbers of 32 bits, with which TFLite-Micro computes."""

from typing import Any

import numpy as np

POWERS_OF_E = (  # -1/4, -1/2 ... -16
  *(1672461947, 1302514674, 790015084, 290630308, 39332535, 720401),
  242,
)


def high(a: Any, b: Any) -> Any:
  """``(a * b + 2**30) >> 31``."""
  return (a * b + 2**30) >> 31


def divide32(x: Any, exponent: int) -> Any:
  """``x / 2**exponent``, halves away from zero."""
  return np.sign(x) * ((np.abs(x) + (2**exponent >> 1)) >> exponent)


def exponential(n: np.ndarray, whole: int) -> np.ndarray:
  """``exp`` of numbers that are not positive; the result has no whole bits.

  Of the rest of ``n`` modulo a quarter it is a polynomial, times powers of e by its other bits.

  Args:
    n: integers of 32 bits.
    whole: how many of their bits are whole: 4 or 5.
  """
  quarter = 2 ** (29 - whole)
  rest = (n & (quarter - 1)) - quarter
  z = (rest << whole) + 2**28  # exp(-1/8 + z) follows, all of it beyond 32 bits rounded away
  square = high(z, z)
  cube, fourth = high(square, z), high(square, square)
  series = divide32(high(divide32(fourth, 2) + cube, 715827883) + square, 1)
  power: Any = 1895147668 + high(z + series, 1895147668)
  for i, e in enumerate(POWERS_OF_E[: whole + 2]):
    power = np.where((rest - n) & (quarter << i), high(power, e), power)
  return np.where(n == 0, 2**31 - 1, power)


def twice_reciprocal(x: np.ndarray) -> np.ndarray:
  """``2 / (1 + x)`` of numbers from 0 to 1, with two whole bits: three of Newton's steps."""
  half = (x + 2**31) // 2
  y = 1515870810 + high(half, -1010580540)
  for _ in range(3):
    y = y + (high(y, 2**29 - high(half, y)) << 2)
  return y
