"""Sums, products and activation functions as TFLite operators."""

import numpy as np

from jaxcompress.export.emit_operators import ALONE, elementwise, hard_sigmoid, operator, stored
from jaxcompress.export.emitter import Emitter
from jaxcompress.nn import Node
from jaxcompress.nn.structure import OPERATOR


def pair(code: str, emitter: Emitter, node: Node) -> None:
  """The sum, the difference or the product of two tensors."""
  inputs, (output,), act = emitter.inputs(node), emitter.outputs(node), node.attrs.get("act")
  elementwise(emitter, code, inputs, output, node.output, act)


def choice(code: str, emitter: Emitter, node: Node) -> None:
  """The larger or the smaller values of two tensors."""
  inputs, outputs = emitter.inputs(node), emitter.outputs(node)
  operator(emitter, code, inputs, outputs, node.output, "MaximumMinimumOptions")


def requantize(emitter: Emitter, node: Node) -> None:
  """A change of the grid: added to zero, where that is more precise than QUANTIZE in XNNPACK."""
  (source,), (output,), tensor = emitter.inputs(node), emitter.outputs(node), node.inputs[0]
  if emitter.numbers.adds_zero(node) and OPERATOR not in node.attrs:
    zero = emitter.number(emitter.numbers.zero_point(tensor), tensor)
    elementwise(emitter, "ADD", [source, zero], output, node.output)
  else:
    operator(emitter, "QUANTIZE", [source], [output], node.output)


def constant(emitter: Emitter, node: Node) -> None:
  """A tensor of codes that the file holds."""
  (shape,), tensor = node.output_shapes, node.output
  codes = np.array(node.attrs["codes"], emitter.numbers.dtype(tensor)).reshape(shape)
  quantization = emitter.numbers.quantization(emitter.file, tensor)
  emitter.tensors[tensor] = emitter.file.constant(codes, quantization, tensor)


def leaky_relu(emitter: Emitter, node: Node) -> None:
  """LEAKY_RELU."""
  inputs, outputs, slope = emitter.inputs(node), emitter.outputs(node), node.attrs["slope"]
  operator(emitter, "LEAKY_RELU", inputs, outputs, node.output, alpha=float(slope))


def softmax(emitter: Emitter, node: Node) -> None:
  """SOFTMAX, over the last axis."""
  inputs, outputs = emitter.inputs(node), emitter.outputs(node)
  operator(emitter, "SOFTMAX", inputs, outputs, node.output, beta=1.0)


def activation(emitter: Emitter, node: Node) -> None:
  """An activation function on its own."""
  (source,), (output,), act = emitter.inputs(node), emitter.outputs(node), node.attrs["act"]
  if OPERATOR in node.attrs:
    operator(emitter, node.attrs[OPERATOR], [source], [output], node.output)
  elif (table := emitter.numbers.table(node)) is not None:
    stored(emitter, node, source, output, table)
  elif act in ALONE:
    code, options = ALONE[act]
    operator(emitter, code, [source], [output], node.output, **options)
  elif act == "hard_sigmoid":
    hard_sigmoid(emitter, node, source, output)
  else:  # added to zero, which XNNPACK runs, as it does not run int8 RELU
    zero = emitter.number(emitter.numbers.zero_point(node.inputs[0]), node.inputs[0])
    elementwise(emitter, "ADD", [source, zero], output, node.output, act)
