"""Integer arithmetic of sums, products, activation functions and changes of the grid."""

import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import Node
from jaxcompress.quantize.integer.leaf import Arrays, Grids, LeafArithmetic, clip, clipping
from jaxcompress.quantize.integer.runtimes import Kernels
from jaxcompress.quantize.integer.values import GATES


def _prepare_add(node: Node, grids: Grids, integers, kernels: Kernels):
  left, right = (grids[name] for name in node.inputs)
  output = grids[node.output]
  rule = kernels.addition(left, right, output)
  return None, {"rule": rule, **clipping(node, output, kernels)}


def _run_add(static, arrays: Arrays, x, y):
  return (clip(arrays["rule"](x, y), arrays),)


def _prepare_multiply(node: Node, grids: Grids, integers, kernels: Kernels):
  left, right = (grids[name] for name in node.inputs)
  output = grids[node.output]
  rule = kernels.product(left, right, output)
  return None, {"rule": rule, **clipping(node, output, kernels)}


def _run_multiply(static, arrays: Arrays, x, y):
  return (clip(arrays["rule"](x.astype(jnp.int32) * y.astype(jnp.int32)), arrays),)


def _prepare_activation(node: Node, grids: Grids, integers, kernels: Kernels):
  """A table of all codes, or sums with a constant, which TFLite's runtimes run fast and alike.

  A rectifier is the sum with zero. A hard-sigmoid is the sum with three, saturated at 0 and 6, then
  a sixth of it: the same codes on the grid from 0 to 1.
  """
  source, output = grids[node.inputs[0]], grids[node.output]
  table = kernels.table(node.attrs["act"], source, output)
  if table is not None:
    return "table", {"table": table, "lowest": np.int32(source.low)}
  if node.attrs["act"] == "hard_sigmoid":
    gate = GATES[output.bits]
    rule, constant = kernels.shift(source, gate.three, gate.relu6), gate.three.high
  else:
    rule, constant = kernels.shift(source, source, output), 0
  return "sum", {"rule": rule, "constant": np.float32(constant), **clipping(node, output, kernels)}


def _run_activation(static, arrays: Arrays, x):
  if static == "table":
    return (jnp.asarray(arrays["table"])[x.astype(jnp.int32) - arrays["lowest"]],)
  return (clip(arrays["rule"](x, arrays["constant"]), arrays),)


def _prepare_requantize(node: Node, grids: Grids, integers, kernels: Kernels):
  source, output = grids[node.inputs[0]], grids[node.output]
  return None, {"rule": kernels.requantization(source, output), **clipping(node, output, kernels)}


def _run_requantize(static, arrays: Arrays, x):
  return (clip(arrays["rule"](x), arrays),)


ADD = LeafArithmetic(_prepare_add, _run_add)
MULTIPLY = LeafArithmetic(_prepare_multiply, _run_multiply)
ACTIVATION = LeafArithmetic(_prepare_activation, _run_activation)
REQUANTIZE = LeafArithmetic(_prepare_requantize, _run_requantize)
