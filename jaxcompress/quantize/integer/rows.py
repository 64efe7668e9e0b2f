"""Operations on integers whose outputs depend on all channels of a place."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import Node
from jaxcompress.quantize.integer.leaf import Arrays, Grids, LeafArithmetic, check_fixed
from jaxcompress.quantize.integer.runtimes import Kernels

FINEST = 2.0**-25  # of a softmax's input; TFLite's kernels need factors above 1


def _prepare_softmax(node: Node, grids: Grids, integers, kernels: Kernels):
  source, output = grids[node.inputs[0]], grids[node.output]
  check_fixed(node, output)
  rule = kernels.softmax(source, output, node.input_shapes[0][-1])
  return None, {"rule": rule, "high": np.float32(output.high)}


def _run_softmax(static, arrays: Arrays, x: jax.Array) -> tuple[jax.Array, ...]:
  return (jnp.clip(arrays["rule"](x).astype(jnp.float32), 0, arrays["high"]),)


SOFTMAX = LeafArithmetic(
  _prepare_softmax, _run_softmax, least_read=lambda node, bits, output, inputs: [FINEST]
)
