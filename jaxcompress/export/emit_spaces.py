"""Leaf ops that change the height and width of maps as TFLite operators."""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from jaxcompress.codes import half_away
from jaxcompress.export.emit_layers import fused_in, with_gate
from jaxcompress.export.emit_operators import FUSED, operator, reshape
from jaxcompress.export.emitter import Emitter
from jaxcompress.nn import Node
from jaxcompress.nn.operations import pads_of
from jaxcompress.ops.padding import both
from jaxcompress.ops.resizing import nearest_cells
from jaxcompress.ops.transposed import reach_before
from jaxcompress.quantize.integer.grid import LOWEST

SAMPLED_VERSION = 3  # that of outputs elsewhere than at whole multiples of the step
FUSED_VERSION = 4  # of TRANSPOSE_CONV, with an activation function
BATCH_AND_CHANNELS = 0b1001  # masks: these axes are taken whole
FLAGS = {"half_pixel": "halfPixelCenters", "align_corners": "alignCorners"}


def transposed(emitter: Emitter, node: Node) -> None:
  """TRANSPOSE_CONV, and a slice of what it makes where TFLite's names of padding do not say it."""
  (source,) = emitter.inputs(node)
  padding, reach, made = _window(node)
  stride, channels = both(node.attrs["stride"]), node.output_shapes[0][-1]
  shape = emitter.file.constant(np.array([1, *made, channels], np.int32))
  constants = emitter.weights(node, lambda hwio: hwio[::-1, ::-1].transpose(3, 0, 1, 2), 0)
  act = FUSED[None] if _ends_at_zero(emitter, node) else fused_in(emitter, node)

  def write(output: int) -> None:
    whole = output
    if made != node.output_shapes[0][1:3]:
      whole = emitter.scratch(f"{node.name}/whole", (1, *made, channels), node.output)
    operator(
      emitter,
      "TRANSPOSE_CONV",
      [shape, constants[0], source, constants[1]],
      [whole],
      node.output,
      least_version=FUSED_VERSION if act else 1,
      padding=padding,
      strideH=stride[0],
      strideW=stride[1],
      fusedActivationFunction=act,
    )
    if whole != output:
      _crop(emitter, node, whole, output, reach)

  with_gate(emitter, node, write)


def _ends_at_zero(emitter: Emitter, node: Node) -> bool:
  """Whether the grid of the output has nothing that a ReLU cuts, so that older versions do."""
  zero_point = emitter.numbers.zero_point(node.output)
  return emitter.is_integer and node.attrs.get("act") == "relu" and zero_point == LOWEST


def _window(node: Node) -> tuple[int, tuple[int, int], tuple[int, int]]:
  """TFLite's padding of a node, the rows and columns left out at the start, and what is made."""
  kernel, stride = both(node.attrs["kernel"]), both(node.attrs["stride"])
  size, out = (both(shapes[0][1:3]) for shapes in (node.input_shapes, node.output_shapes))
  reach = reach_before(kernel, pads_of(node))
  axes = list(zip(size, out, kernel, stride, reach, strict=True))
  if all(
    side >= step and -(-to // step) == n and before == max((n - 1) * step + side - to, 0) // 2
    for n, to, side, step, before in axes
  ):
    return schema.Padding.SAME, (0, 0), out
  height, width = (max((n - 1) * step + side, before + to) for n, to, side, step, before in axes)
  return schema.Padding.VALID, reach, (height, width)


def _crop(emitter: Emitter, node: Node, source: int, output: int, starts: tuple[int, int]) -> None:
  shape = node.output_shapes[0]
  ends = [start + size for start, size in zip(starts, shape[1:3], strict=True)]
  edges = ([0, *starts, 0], [1, *ends, shape[-1]], [1] * 4)
  constants = [emitter.file.constant(np.array(edge, np.int32)) for edge in edges]
  masks: dict[str, Any] = {"beginMask": BATCH_AND_CHANNELS, "endMask": BATCH_AND_CHANNELS}
  operator(emitter, "STRIDED_SLICE", [source, *constants], [output], node.output, **masks)


def resize(emitter: Emitter, node: Node) -> None:
  """RESIZE_BILINEAR or RESIZE_NEAREST_NEIGHBOR."""
  to, sampling = both(node.attrs["size"]), node.attrs["sampling"]
  if node.attrs["method"] == "nearest":
    code, sampling = "RESIZE_NEAREST_NEIGHBOR", _nearest_sampling(node, to)
  else:
    code = "RESIZE_BILINEAR"
  size = emitter.file.constant(np.array(to, np.int32))
  fields: dict[str, Any] = {FLAGS[sampling]: True} if sampling in FLAGS else {}
  operator(
    emitter,
    code,
    [*emitter.inputs(node), size],
    emitter.outputs(node),
    node.output,
    least_version=SAMPLED_VERSION if fields else 1,
    **fields,
  )


def _nearest_sampling(node: Node, to: tuple[int, int]) -> str:
  """A sampling with which TFLite, which finds positions in float32, copies the node's cells."""
  axes = list(zip(node.input_shapes[0][1:3], to, strict=True))
  for sampling in ("asymmetric", "half_pixel"):  # the first is the older one
    if all(
      np.array_equal(cells_of_tflite(*axis, sampling), nearest_cells(*axis, node.attrs["sampling"]))
      for axis in axes
    ):
      return sampling
  raise ValueError(
    f"model: layer {node.name!r} resizes {axes[0][0]} x {axes[1][0]} cells to {to[0]} x {to[1]}, of"
    " which TFLite copies others, since it finds positions in float32; resize by a whole number."
  )


def cells_of_tflite(size: int, to: int, sampling: str) -> np.ndarray:
  """(to,) int64: the cell that TFLite copies to each output along one axis.

  Examples:
    >>> cells_of_tflite(2, 5, "half_pixel").tolist(), cells_of_tflite(3, 5, "align_corners").tolist()
    ([0, 0, 1, 1, 1], [0, 1, 1, 2, 2])
  """
  ends = int(sampling == "align_corners" and to > 1)
  scale = np.float32(size - ends) / np.float32(to - ends)
  places = np.arange(to, dtype=np.float32) + np.float32(0.5 * (sampling == "half_pixel"))
  nearest = half_away if sampling == "align_corners" else np.floor
  return np.minimum(nearest(places * scale), size - 1).astype(np.int64)


def depth_to_space(emitter: Emitter, node: Node) -> None:
  """Rows of blocks change places with the cells of a row, which all devices do, in all widths."""
  height, width, depth = node.input_shapes[0][1:]
  block = node.attrs["block"]
  _turned(emitter, node, (height, width, block, depth // block))


def space_to_depth(emitter: Emitter, node: Node) -> None:
  """The inverse of :func:`depth_to_space`."""
  height, width, depth = node.input_shapes[0][1:]
  block = node.attrs["block"]
  _turned(emitter, node, (height // block, block, width // block, block * depth))


def _turned(emitter: Emitter, node: Node, shape: tuple[int, int, int, int]) -> None:
  """Reshape, transpose, reshape; the first axis is free, so that batches can be resized."""
  first, second, third, last = shape
  apart = emitter.scratch(f"{node.name}/apart", shape, node.inputs[0])
  turned = emitter.scratch(f"{node.name}/turned", (first, third, second, last), node.inputs[0])
  order = emitter.file.constant(np.array([0, 2, 1, 3], np.int32))
  reshape(emitter, emitter.inputs(node)[0], apart, [-1, *shape[1:]])
  operator(emitter, "TRANSPOSE", [apart, order], [turned], node.output)
  reshape(emitter, turned, emitter.outputs(node)[0], [-1, *node.output_shapes[0][1:]])
