"""Sums, products, activation functions and changes of the grid on integers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import Node
from jaxcompress.nn.structure import OPERATOR
from jaxcompress.quantize.integer.functions import FUNCTIONS, GATES, activation_table
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.leaf import (
  Arrays,
  Grids,
  LeafArithmetic,
  check_fixed,
  clip,
  clipping,
  same_grid,
)
from jaxcompress.quantize.integer.rectified import rectified
from jaxcompress.quantize.integer.runtimes import MARGIN, RATIOS, Kernels

TABLE = "table"


def _at_most(kind: str) -> Callable[[Node, int, list[float]], float]:
  """The least output scale of what scales each input to it."""
  return lambda node, bits, inputs: max(inputs) * MARGIN / RATIOS[bits][kind][1]


def _prepare_pair(kind: str):
  """Makes the preparation of a rule that a runtime has for both inputs and the output."""

  def prepare(node: Node, grids: Grids, integers, kernels: Kernels):
    (left, right), output = (grids[name] for name in node.inputs), grids[node.output]
    rule = getattr(kernels, kind)(left, right, output)
    return None, {"rule": rule, **clipping(node, output, kernels)}

  return prepare


def _run_pair(static, arrays: Arrays, x, y):
  return (clip(arrays["rule"](x, y), arrays),)


def _least_sum_read(node: Node, bits: int, output: float, inputs: list[float]) -> list[float]:
  return [output * RATIOS[bits]["add"][0]] * len(inputs)


def _prepare_choice(node: Node, grids: Grids, integers, kernels: Kernels):
  same_grid(node, grids)
  return None, {}


def _run_multiply(static, arrays: Arrays, x, y):
  return (clip(arrays["rule"](x.astype(jnp.int32) * y.astype(jnp.int32)), arrays),)


def _least_product(node: Node, bits: int, inputs: list[float]) -> float:
  return inputs[0] * inputs[1] * MARGIN / RATIOS[bits]["multiply"][1]


def _least_product_read(node: Node, bits: int, output: float, inputs: list[float]) -> list[float]:
  return [output * RATIOS[bits]["multiply"][0] / inputs[1]]


def _prepare_activation(node: Node, grids: Grids, integers, kernels: Kernels):
  """A table of all codes, or sums with a constant, which TFLite's runtimes run fast and alike."""
  source, output = grids[node.inputs[0]], grids[node.output]
  check_fixed(node, output)
  if OPERATOR in node.attrs:
    return with_table(rectified(kernels.tables, node.attrs["act"], source, output), source)
  table = activation_table(kernels.tables, node.attrs["act"], source, output)
  if table is not None:
    return with_table(table, source)
  if node.attrs["act"] == "hard_sigmoid":
    gate = GATES[output.bits]
    rule, constant = kernels.shift(source, gate.three, gate.relu6), gate.three.high
  else:
    rule, constant = kernels.shift(source, source, output), 0
  return "sum", {"rule": rule, "constant": np.float32(constant), **clipping(node, output, kernels)}


def with_table(table: np.ndarray, source: Grid) -> tuple[str, Arrays]:
  """Returns the program and arrays of an operation that looks up each code of its input in a table."""
  return TABLE, {"table": table, "lowest": np.int32(source.low)}


def run_table(static: Any, arrays: Arrays, x: jax.Array) -> tuple[jax.Array, ...]:
  """Looks codes up, under ``jit``."""
  return (jnp.asarray(arrays["table"])[x.astype(jnp.int32) - arrays["lowest"]],)


def _run_activation(static, arrays: Arrays, x):
  if static == TABLE:
    return run_table(static, arrays, x)
  return (clip(arrays["rule"](x, arrays["constant"]), arrays),)


def _least_activation(node: Node, bits: int, inputs: list[float]) -> float:
  function = FUNCTIONS[node.attrs["act"]]
  if function.grids:
    return 0.0
  if function.clips:
    return _at_most("add")(node, bits, inputs)
  return inputs[0] * MARGIN / function.ratio


def _least_activation_read(
  node: Node, bits: int, output: float, inputs: list[float]
) -> list[float]:
  function = FUNCTIONS[node.attrs["act"]]
  if not function.clips:
    suited = function.suits(inputs[0], bits)
    return [max(function.least, 0.0 if suited else inputs[0] * MARGIN)]
  end = float(GATES[bits].relu6.scale) if function.grids else output  # of a sum with three
  return _least_sum_read(node, bits, end, inputs)


def _prepare_requantize(node: Node, grids: Grids, integers, kernels: Kernels):
  source, output = grids[node.inputs[0]], grids[node.output]
  by_operator = node.attrs.get(OPERATOR) == "QUANTIZE"
  rule = (kernels.quantize if by_operator else kernels.requantization)(source, output)
  return None, {"rule": rule, **clipping(node, output, kernels)}


def _run_requantize(static, arrays: Arrays, x):
  return (clip(arrays["rule"](x), arrays),)


ADD = LeafArithmetic(
  _prepare_pair("addition"),
  _run_pair,
  least=_at_most("add"),
  least_read=_least_sum_read,
  aligned=True,
)
SUBTRACT = LeafArithmetic(
  _prepare_pair("subtraction"), _run_pair, least=_at_most("add"), least_read=_least_sum_read
)
MAXIMUM = LeafArithmetic(_prepare_choice, lambda static, arrays, x, y: (jnp.maximum(x, y),))
MINIMUM = LeafArithmetic(_prepare_choice, lambda static, arrays, x, y: (jnp.minimum(x, y),))
MULTIPLY = LeafArithmetic(
  _prepare_pair("product"), _run_multiply, least=_least_product, least_read=_least_product_read
)
ACTIVATION = LeafArithmetic(
  _prepare_activation, _run_activation, least=_least_activation, least_read=_least_activation_read
)
REQUANTIZE = LeafArithmetic(_prepare_requantize, _run_requantize, least=_at_most("requantize"))
