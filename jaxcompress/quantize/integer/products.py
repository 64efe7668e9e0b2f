"""Matrix products of two activations on integers."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.nn import Node
from jaxcompress.quantize.integer.convolve import EXACT
from jaxcompress.quantize.integer.grid import INT32, check_below, reach_of
from jaxcompress.quantize.integer.leaf import Arrays, Grids, LeafArithmetic, clip, clipping
from jaxcompress.quantize.integer.runtimes import MARGIN, RATIOS, Kernels
from jaxcompress.quantize.integer.xnnpack import LARGEST_STEPS

FARTHEST = 255  # that a code of 8 bits is from a zero point
SUMMED = (EXACT - 1) // FARTHEST**2  # products whose sum float32 holds exactly
FEWER = "give a MatMul shorter rows, such as those of parts of the tokens"


def _prepare(node: Node, grids: Grids, integers: Any, kernels: Kernels):
  left, right = (grids[name] for name in node.inputs)
  output = grids[node.output]
  if output.bits != 8:
    raise ValueError(
      "grids: MatMul runs on 8-bit integers only; give the layer 8, as Rule(match=...,"
      " activations=ema_range(8)) does."
    )
  count = node.input_shapes[0][-1]
  reach = count * reach_of(left) * reach_of(right)
  check_below(INT32, reach, "rows: sums of products", FEWER)
  rule = kernels.matrices(left, right, output, reach)
  return node.attrs["transpose_second"], {"rule": rule, **clipping(node, output, kernels)}


def _run(transposed: bool, arrays: Arrays, x: jax.Array, y: jax.Array) -> tuple[jax.Array, ...]:
  y = jnp.swapaxes(y, -1, -2) if transposed else y
  total = jnp.zeros((), jnp.int32)
  for start in range(0, x.shape[-1], SUMMED):
    part = slice(start, start + SUMMED)
    product = jnp.matmul(x[..., part], y[..., part, :], precision="highest")
    total = total + product.astype(jnp.int32)
  return (clip(arrays["rule"](total), arrays),)


def _least(node: Node, bits: int, inputs: list[float]) -> float:
  reach = node.input_shapes[0][-1] * FARTHEST**2
  factor = max(MARGIN / RATIOS[bits]["conv"][1], reach / LARGEST_STEPS)
  return inputs[0] * inputs[1] * factor


def _least_read(node: Node, bits: int, output: float, inputs: list[float]) -> list[float]:
  return [output * RATIOS[bits]["conv"][0] * MARGIN / inputs[1]]


MATMUL = LeafArithmetic(_prepare, _run, least=_least, least_read=_least_read)
