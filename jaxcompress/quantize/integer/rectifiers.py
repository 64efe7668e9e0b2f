"""Rectifiers with a slope below zero on integers."""

import numpy as np

from jaxcompress.nn import Node
from jaxcompress.quantize.integer.elementwise import run_table, with_table
from jaxcompress.quantize.integer.grid import ASSEMBLE
from jaxcompress.quantize.integer.leaf import Grids, LeafArithmetic
from jaxcompress.quantize.integer.runtimes import MARGIN, Kernels

LEAST, MOST = 2.0**-8, 2.0**7  # ratios of the input's scale to the output's, that XNNPACK runs


def _prepare(node: Node, grids: Grids, integers, kernels: Kernels):
  source, output = grids[node.inputs[0]], grids[node.output]
  if not LEAST <= (ratio := np.float32(source.scale) / np.float32(output.scale)) <= MOST:
    raise ValueError(
      f"scales: the input's is {ratio:.3g} times the output's; LEAKY_RELU runs from {LEAST:.3g} to"
      f" {MOST:.0f}, and {ASSEMBLE}."
    )
  return with_table(kernels.leaky(node.attrs["slope"], source, output), source)


LEAKY_RELU = LeafArithmetic(
  _prepare,
  run_table,
  least=lambda node, bits, inputs: inputs[0] * MARGIN / MOST,
  least_read=lambda node, bits, output, inputs: [output * LEAST],
)
