"""Sums, products and activation functions as TFLite operators."""

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from jaxcompress.export.emitter import FLOAT_BITS, Emitter
from jaxcompress.nn import Node
from jaxcompress.quantize.integer.functions import GATES

FUSED = {  # into the operator before; an int8 hard-sigmoid is in the weights and the output's grid
  None: schema.ActivationFunctionType.NONE,
  "hard_sigmoid": schema.ActivationFunctionType.NONE,
  "relu": schema.ActivationFunctionType.RELU,
  "relu6": schema.ActivationFunctionType.RELU6,
}


def add(emitter: Emitter, node: Node) -> None:
  """The sum of two tensors."""
  inputs, (output,), act = emitter.inputs(node), emitter.outputs(node), node.attrs.get("act")
  elementwise(emitter, "ADD", inputs, output, node.output, act)


def multiply(emitter: Emitter, node: Node) -> None:
  """The product of two tensors."""
  inputs, (output,), act = emitter.inputs(node), emitter.outputs(node), node.attrs.get("act")
  elementwise(emitter, "MUL", inputs, output, node.output, act)


def requantize(emitter: Emitter, node: Node) -> None:
  """A change of the grid: added to zero, where that is more precise than QUANTIZE in XNNPACK."""
  (source,), (output,), tensor = emitter.inputs(node), emitter.outputs(node), node.inputs[0]
  if emitter.numbers.adds_zero(node):
    zero = emitter.number(emitter.numbers.zero_point(tensor), tensor)
    elementwise(emitter, "ADD", [source, zero], output, node.output)
  else:
    emitter.operator("QUANTIZE", [source], [output], node.output)


def activation(emitter: Emitter, node: Node) -> None:
  """An activation function on its own."""
  (source,), (output,), act = emitter.inputs(node), emitter.outputs(node), node.attrs["act"]
  if act == "hard_swish":
    emitter.operator("HARD_SWISH", [source], [output], node.output)
  elif act == "hard_sigmoid":
    hard_sigmoid(emitter, node, source, output)
  else:  # added to zero, which XNNPACK runs, as it does not run int8 RELU
    zero = emitter.number(emitter.numbers.zero_point(node.inputs[0]), node.inputs[0])
    elementwise(emitter, "ADD", [source, zero], output, node.output, act)


def hard_sigmoid(emitter: Emitter, node: Node, source: int, output: int) -> None:
  """The sum with three, between 0 and 6, which are the ends of its grid; then a sixth of it."""
  shape, bits = (1, *node.output_shapes[0][1:]), emitter.bits(node.output)
  relu6, three, sixth = GATES[bits][1:] if bits < FLOAT_BITS else (None, None, None)
  quantization = relu6 and emitter.file.quantization(relu6.scale, relu6.zero_point)
  dtype = emitter.numbers.dtype(node.output)
  shifted = emitter.file.tensor(f"{node.name}/relu6", shape, dtype, quantization)
  act = {8: None, 16: "relu", FLOAT_BITS: "relu6"}[bits]  # what the ends of the grid do not clip
  shift, factor = emitter.real(3.0, three), emitter.real(1 / 6, sixth)
  elementwise(emitter, "ADD", [source, shift], shifted, node.output, act)
  elementwise(emitter, "MUL", [shifted, factor], output, node.output)


def elementwise(
  emitter: Emitter, code: str, inputs: list[int], output: int, like: str, act: str | None = None
) -> None:
  """ADD or MUL of tensors that exist, with an activation function fused into it."""
  fields: dict[str, Any] = {"fusedActivationFunction": FUSED[act]}
  if code == "ADD" and emitter.bits(like) == 16:
    fields["potScaleInt16"] = False  # the rule of all scales, also where they are powers of two
  emitter.operator(code, inputs, [output], like, **fields)
