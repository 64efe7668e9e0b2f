"""Tables of activation functions that files hold themselves, so that all runtimes read the same.

Each is the code nearest to a function in float64. No runtime computes the function, and none can round
it in its own way: its float32 ``erf`` or ``tanh`` differs by runtime, by platform and by version.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.logistic import reals

SELU = (1.0507009873554805, 1.6732632423543772)  # scale and alpha (Klambauer et al., 2017)
FLAT = 700.0  # exponentials of it are finite
LAST_BITS = 2.0**-21  # how far float32 functions are off, of the numbers that they add up
ADDED = 2.0**-15  # what rounding beside a zero point is off

Real = Callable[[np.ndarray], np.ndarray]


def _exp(x: np.ndarray) -> np.ndarray:
  return np.exp(np.clip(x, -FLAT, FLAT))


def _softplus(x: np.ndarray) -> np.ndarray:
  return np.maximum(x, 0) + np.log1p(_exp(-np.abs(x)))


def _elu(x: np.ndarray) -> np.ndarray:
  return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _gelu(x: np.ndarray) -> np.ndarray:
  tails = [math.erfc(-float(v) / math.sqrt(2)) for v in x]
  return x * np.array(tails) / 2


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
  return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


REALS: Mapping[str, Real] = {
  "elu": _elu,
  "gelu": _gelu,
  "gelu_tanh": _gelu_tanh,
  "hard_tanh": lambda x: np.clip(x, -1, 1),
  "log_sigmoid": lambda x: -_softplus(-x),
  "mish": lambda x: x * np.tanh(_softplus(x)),
  "selu": lambda x: SELU[0] * np.where(x > 0, x, SELU[1] * np.expm1(np.minimum(x, 0))),
  "soft_sign": lambda x: x / (1 + np.abs(x)),
  "softplus": _softplus,
  "squareplus": lambda x: (x + np.sqrt(x**2 + 4)) / 2,
}
"""Activation functions in float64, by name."""


def is_clear(act: str, source: Grid, output: Grid) -> bool:
  """Whether a runtime that computes a function in float32 has the codes of its table, for certain.

  It has unless a code lies so near to the edge of two that the last bits decide.

  Args:
    act: a name in :data:`REALS`.
    source: of the input.
    output: of the output.

  Examples:
    >>> is_clear("elu", Grid(np.float32(0.05), 0), Grid(np.float32(0.05), -107))
    True
    >>> is_clear("elu", Grid(np.float32(0.05), 0), Grid(np.float32(0.1), -107))
    False
  """
  x = reals(source).astype(np.float64)
  steps, scale = REALS[act](x) / np.float64(output.scale), np.float64(output.scale)
  doubt = (np.maximum(np.abs(x), 1) / scale + np.abs(steps)) * LAST_BITS + ADDED
  kept = (steps > output.low - 1) & (steps < output.high + 1)
  return bool(np.all((np.abs(steps - np.floor(steps) - 0.5) > doubt)[kept]))


def nearest(function: Real) -> Callable[[Grid, Grid], np.ndarray]:
  """The table of the codes that are nearest to a function, half to even.

  Args:
    function: elementwise, of float64.

  Returns:
    ``(source, output) -> table``: the output's ``q - z`` for every code of the input, float32.

  Examples:
    >>> grid = Grid(np.float32(1), 0)
    >>> nearest(np.abs)(grid, grid)[[0, 127, 255]].tolist()
    [127.0, 1.0, 127.0]
  """

  def table(source: Grid, output: Grid) -> np.ndarray:
    y = function(reals(source).astype(np.float64)) / np.float64(output.scale)
    return np.clip(np.rint(y) + 0.0, output.low, output.high).astype(np.float32)  # no negative zero

  return table
