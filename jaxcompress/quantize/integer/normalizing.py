"""Root-mean-square normalization on integers, of operators that all runtimes compute exactly.

Squares of codes are looked up, as two digits of 8 bits each, so that a 1x1 convolution adds them up
without any rounding. The sum is rounded to 8 bits on three grids, each 16 times finer than the one
before; tables hold the reciprocal root of each code where its grid is the right one, and zero
elsewhere. So of three products with the input one is not zero, and their sum is the result.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import Node
from jaxcompress.quantize.integer.convolve import accumulate, largest_accumulator, split_exactly
from jaxcompress.quantize.integer.grid import INT32, LOWEST, Grid, check_below
from jaxcompress.quantize.integer.leaf import Arrays, Grids, LeafArithmetic, clip, clipping
from jaxcompress.quantize.integer.runtimes import MARGIN, RATIOS, Kernels

CODES = 255  # the highest, counted from zero
DIGITS = Grid(np.float32(1), LOWEST)  # of the digits of squares
BASE = 127  # of digits, and the largest weight
LARGEST_SQUARED = 180  # whose square two digits hold
FINER = 16  # times a level is finer than the one before
SPANS = (
  (16, 255, 0.0),
  (14, 247, 0.5),
  (0, 223, 0.5),
)  # codes of each level, and what it adds to them
LEAST_STEP = (
  10  # bits that the coarsest level leaves off at least, so that all have halves to round
)


class Level(NamedTuple):
  """One of the grids of a sum of squares.

  Attributes:
    sums: the grid of sums; its codes begin at zero.
    bias: added to them before they are rounded.
    factors: the grid of reciprocal roots, likewise.
    table: (256,) uint8, codes of the factor for those of the sum; zero where another level has it.
  """

  sums: Grid
  bias: int
  factors: Grid
  table: np.ndarray


def digits(grid: Grid) -> np.ndarray:
  """(256, 2) uint8: the square of each code as ``127 * first + second``, halved where it is too large.

  Examples:
    >>> digits(Grid(np.float32(1), 0))[128 + np.array([3, 100])].tolist()
    [[0, 9], [78, 94]]
  """
  codes = np.arange(grid.low, grid.high + 1)
  unit = _unit(grid)
  squares = (codes**2 + unit // 2) // unit
  first = np.minimum(squares // BASE, CODES)
  return np.stack([first, squares - BASE * first], axis=-1).astype(np.uint8)


def digit_weights(channels: int) -> np.ndarray:
  """(1, 1, 2 * channels, 1) int8, of the convolution that adds up the digits of all channels."""
  return np.tile(np.array([BASE, 1], np.int8), channels).reshape(1, 1, -1, 1)


def levels(grid: Grid, channels: int, epsilon: float) -> tuple[Level, ...]:
  """The grids of the sum of squares of all channels, the coarsest first.

  Args:
    grid: of the input.
    channels: of it.
    epsilon: added to the mean square.

  Examples:
    >>> [int(level.sums.scale) for level in levels(Grid(np.float32(0.1), 0), 64, 1e-6)]
    [8192, 512, 32]
  """
  unit, farthest = _unit(grid), max(-grid.low, grid.high)
  largest = channels * ((farthest**2 + unit // 2) // unit)
  bits = max(int(np.ceil(np.log2(largest / CODES))), LEAST_STEP)
  found = []
  for i, (first, last, shift) in enumerate(SPANS):
    step, codes = 2.0**bits / FINER**i, np.arange(CODES + 1)
    square = (codes + shift) * step * unit / channels * np.float64(grid.scale) ** 2 + epsilon
    factor = 1 / np.sqrt(np.maximum(square, np.finfo(np.float32).tiny))
    scale = np.float32(factor[max(first, 1)] / CODES)
    table = np.clip(np.rint(factor / np.float64(scale)), 0, CODES)
    table[(codes < first) | (codes > last)] = 0
    sums, factors = Grid(np.float32(step), LOWEST), Grid(scale, LOWEST)
    found.append(Level(sums, -int(shift * step), factors, table.astype(np.uint8)))
  return tuple(found)


def _unit(grid: Grid) -> int:
  """Returns the unit that squares are counted in."""
  return 1 if max(-grid.low, grid.high) <= LARGEST_SQUARED else 2


def _prepare(node: Node, grids: Grids, integers: Any, kernels: Kernels):
  source, output = grids[node.inputs[0]], grids[node.output]
  if source.bits != 8:
    raise ValueError(
      "grids: RmsNorm runs on 8-bit integers only; give the layer 8, as Rule(match=...,"
      " activations=ema_range(8)) does."
    )
  channels = node.input_shapes[0][-1]
  found, weights = levels(source, channels, node.attrs["epsilon"]), digit_weights(channels)
  reach = largest_accumulator(weights, DIGITS)
  check_below(INT32, reach, "channels: sums of squares", "normalize fewer channels")
  spread = (1,) * len(node.output_shapes[0])
  one = np.ones(spread, np.float32)
  arrays = {
    "digits": digits(source),
    "lowest": np.int32(source.low),
    "weights": weights.reshape(-1, 1),
    "levels": [
      {
        "bias": np.int32(level.bias),
        "sum": kernels.convolution(DIGITS, one, level.sums, (reach - level.bias).reshape(spread)),
        "table": level.table,
        "product": kernels.product(source, level.factors, output),
      }
      for level in found
    ],
    "rule": kernels.addition(output, output, output),
  }
  return split_exactly(weights, DIGITS), arrays | clipping(node, output, kernels)


def _run(parts, arrays: Arrays, x):
  codes = x.astype(jnp.int32)
  squares = jnp.asarray(arrays["digits"])[codes - arrays["lowest"]].astype(jnp.float32)
  total = accumulate(squares.reshape(-1, 2 * x.shape[-1]), arrays["weights"], parts)
  total = total.reshape(*x.shape[:-1], 1)
  products = []
  for level in arrays["levels"]:
    place = jnp.clip(level["sum"](total + level["bias"]), 0, CODES).astype(jnp.int32)
    factor = jnp.asarray(level["table"])[place].astype(jnp.int32)
    products.append(clip(level["product"](codes * factor), arrays))
  y, *rest = products
  for product in rest:
    y = clip(arrays["rule"](y, product), arrays)
  return (y,)


def _least(node: Node, bits: int, inputs: list[float]) -> float:
  grid = Grid(np.float32(inputs[0]), 0)
  found = levels(grid, node.input_shapes[0][-1], node.attrs["epsilon"])
  largest = max(float(level.factors.scale) for level in found)
  return inputs[0] * largest * MARGIN / RATIOS[8]["multiply"][1]


def _least_read(node: Node, bits: int, output: float, inputs: list[float]) -> list[float]:
  """Below it epsilon is all that counts, and a code is less than a step of the output."""
  least = output * RATIOS[8]["multiply"][0] * CODES
  rest = 1 / least**2 - (CODES**2 + 1)
  return [float(np.sqrt(node.attrs["epsilon"] / rest)) * MARGIN if rest > 0 else 0.0]


RMS = LeafArithmetic(_prepare, _run, least=_least, least_read=_least_read)
