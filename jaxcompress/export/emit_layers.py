"""Leaf ops with weights as TFLite operators."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from jaxcompress.export.emit_operators import FUSED, hard_sigmoid, operator, padded, reshape, steps
from jaxcompress.export.emitter import Emitter
from jaxcompress.export.tensors import has_one_scale
from jaxcompress.nn import Node, kernel_shape
from jaxcompress.nn.layers import reads_rows
from jaxcompress.nn.operations import channel_groups, needed_shape
from jaxcompress.nn.structure import OPERATOR
from jaxcompress.ops.padding import Sides, both
from jaxcompress.quantize.integer.weighted import as_map

ROWS_VERSION = 5  # of FULLY_CONNECTED, of several rows
GROUPED_VERSION = 6  # of CONV_2D
DILATED_VERSION = 2  # of DEPTHWISE_CONV_2D


def _dilated(sides: Sides) -> dict[str, Any]:
  """Options of a dilated kernel."""
  return dict(zip(("dilationHFactor", "dilationWFactor"), both(sides), strict=True))


def convolution(emitter: Emitter, node: Node) -> None:
  """CONV_2D or DEPTHWISE_CONV_2D, also for a normalization or an average of its own."""
  source, padding = padded(emitter, node)
  channels = node.input_shapes[0][-1]
  groups = channels if kernel_shape(node) is None else channel_groups(node)
  dilation = node.attrs.get("dilation", 1)
  fields = steps(padding, node.attrs["stride"], fused_in(emitter, node)) | _dilated(dilation)
  version = 1
  if groups == channels > 1:
    code = "DEPTHWISE_CONV_2D"
    constants = emitter.weights(node, lambda hwio: hwio.transpose(2, 0, 1, 3), 3)
    fields["depthMultiplier"] = node.output_shapes[0][-1] // channels
    version = 1 if dilation == 1 else DILATED_VERSION
  else:
    code = "CONV_2D"
    constants = emitter.weights(node, lambda hwio: hwio.transpose(3, 0, 1, 2), 0)
    version = 1 if groups == 1 else GROUPED_VERSION
  write = partial(operator, emitter, like=node.output, least_version=version)
  with_gate(
    emitter, node, lambda y: write(code, inputs=[source, *constants], outputs=[y], **fields)
  )


def with_gate(emitter: Emitter, node: Node, write: Callable[[int], None]) -> None:
  """Writes a layer to its output, and in a file of floats the hard-sigmoid behind it."""
  (output,) = emitter.outputs(node)
  if node.attrs.get("act") == "hard_sigmoid" and not emitter.is_integer:
    affine = emitter.scratch(f"{node.name}/affine", (1, *node.output_shapes[0][1:]), node.output)
    write(affine)
    hard_sigmoid(emitter, node, affine, output)
  else:
    write(output)


def pointwise(emitter: Emitter, node: Node) -> None:
  """A normalization, or constants, of each channel; of vectors on maps of one column."""
  shape = node.input_shapes[0]
  if len(shape) == 4:
    convolution(emitter, node)
    return
  cells, channels = as_map(shape), shape[-1]
  source = emitter.scratch(f"{node.name}/cells", (1, *cells[1:]), node.inputs[0])
  result = emitter.scratch(f"{node.name}/result", (1, *cells[1:]), node.output)
  reshape(emitter, emitter.inputs(node)[0], source, [-1, *cells[1:]])
  constants = emitter.weights(node, lambda hwio: hwio.transpose(2, 0, 1, 3), 3)
  fields = steps(schema.Padding.VALID, 1, fused_in(emitter, node)) | _dilated(1)
  code = "DEPTHWISE_CONV_2D" if channels > 1 else "CONV_2D"
  if channels > 1:
    fields["depthMultiplier"] = 1
  operator(emitter, code, [source, *constants], [result], node.output, **fields)
  with_gate(emitter, node, lambda output: reshape(emitter, result, output, [-1, *shape[1:]]))


def fused_in(emitter: Emitter, node: Node) -> int:
  """TFLite's activation function in a layer; the zero of an int16 gate is not the end of its grid."""
  act = node.attrs.get("act")
  return FUSED["relu" if act == "hard_sigmoid" and emitter.bits(node.output) == 16 else act]


def dense(emitter: Emitter, node: Node) -> None:
  """FULLY_CONNECTED, or a 1x1 convolution where that is what runs."""
  scales = emitter.numbers.weights(node).kernel_scales
  as_convolution = emitter.dense_per_tensor and not (scales is None or has_one_scale(scales))
  if (emitter.bits(node.output) == 16 and OPERATOR not in node.attrs) or as_convolution:
    _pointwise_dense(emitter, node)
    return
  constants = emitter.weights(node, np.transpose, 0)
  rows: dict[str, Any] = {"keepNumDims": True} if reads_rows(node) else {}
  operator(
    emitter,
    "FULLY_CONNECTED",
    [*emitter.inputs(node), *constants],
    emitter.outputs(node),
    node.output,
    least_version=ROWS_VERSION if rows else 1,
    fusedActivationFunction=fused_in(emitter, node),
    **rows,
  )


def _pointwise_dense(emitter: Emitter, node: Node) -> None:
  """A linear layer as a 1x1 convolution.

  Runtimes round int16 FULLY_CONNECTED differently, and older ones read one scale for all outputs.
  """
  (features, count), output = needed_shape(node), node.output_shapes[0]
  rows = int(np.prod(output[1:-1]))
  cell = emitter.scratch(f"{node.name}/cell", (1, rows, 1, features), node.inputs[0])
  result = emitter.scratch(f"{node.name}/result", (1, rows, 1, count), node.output)
  reshape(emitter, emitter.inputs(node)[0], cell, [-1, rows, 1, features])
  constants = emitter.weights(node, lambda kernel: kernel.T[:, None, None], 0)
  operator(
    emitter,
    "CONV_2D",
    [cell, *constants],
    [result],
    node.output,
    **steps(schema.Padding.VALID, 1, fused_in(emitter, node)),
    **_dilated(1),
  )
  reshape(emitter, result, emitter.outputs(node)[0], [-1, *output[1:]])
