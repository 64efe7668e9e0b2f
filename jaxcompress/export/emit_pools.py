"""Pools and means as TFLite operators."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from jaxcompress.export.emit_layers import convolution
from jaxcompress.export.emit_operators import operator, padded, padding_name, reshape, steps
from jaxcompress.export.emitter import Emitter
from jaxcompress.nn import Node
from jaxcompress.nn.activations import ACTIVATIONS
from jaxcompress.nn.operations import slide_of, window_of
from jaxcompress.quantize.integer.pools import counts_padding

WHOLE = 0b1001  # a mask of axes that are taken whole: images and channels


def mean(emitter: Emitter, node: Node) -> None:
  """The mean over height and width."""
  axes = emitter.file.constant(np.array([1, 2], np.int32))
  operator(
    emitter,
    "MEAN",
    [*emitter.inputs(node), axes],
    emitter.outputs(node),
    node.output,
    "ReducerOptions",
    keepDims=node.attrs["keepdims"],
  )


def max_pool(emitter: Emitter, node: Node) -> None:
  """MAX_POOL_2D."""
  dtype = np.dtype(emitter.numbers.dtype(node.output))
  lowest = np.finfo(dtype).min if dtype.kind == "f" else np.iinfo(dtype).min
  makers = (maker for maker in emitter.graph.nodes if node.inputs[0] in maker.outputs)
  # where nothing is below zero, zeros lose too, and all targets have PAD
  acts = [ACTIVATIONS[maker.attrs.get("act")] for maker in makers]
  fill = None if acts and all(act.fuses for act in acts) else lowest
  _pool(emitter, node, "MAX_POOL_2D", *padded(emitter, node, fill))


def average_pool(emitter: Emitter, node: Node) -> None:
  """AVERAGE_POOL_2D, or a convolution where padded cells count."""
  if counts_padding(node):
    convolution(emitter, node)
    return
  (source,), (_, padding) = emitter.inputs(node), padding_name(node)
  if padding is None:
    _chosen_averages(emitter, node, source)
  else:
    _pool(emitter, node, "AVERAGE_POOL_2D", source, padding)


def _chosen_averages(emitter: Emitter, node: Node, source: int) -> None:
  """Writes averages of all places and picks the wanted ones: TFLite only leaves out SAME padding.

  With steps of one cell, SAME begins ``(k - 1) // 2`` cells before the map, whatever its size.
  """
  window, (stride, pads, _) = window_of(node), slide_of(node)
  shape, output = (1, *node.input_shapes[0][1:]), node.output_shapes[0]
  first = [(side - 1) // 2 - before for side, (before, _) in zip(window, pads, strict=True)]
  axes = zip(first, output[1:3], stride, strict=True)
  stop = [start + (count - 1) * step + 1 for start, count, step in axes]
  if min(first) < 0 or any(end > size for end, size in zip(stop, shape[1:3], strict=True)):
    raise ValueError(
      f"model: layer {node.name!r} averages without its padding {node.attrs['padding']!r}; with a"
      f" kernel of {window[0]} x {window[1]} TFLite does so up to {(window[0] - 1) // 2} rows above and"
      f" {window[0] // 2} below the map and {(window[1] - 1) // 2} columns left and {window[1] // 2} right"
      " of it. Pad less, or use count_padding=True."
    )
  everywhere = emitter.scratch(f"{node.name}/everywhere", shape, node.output)
  _window(emitter, node, "AVERAGE_POOL_2D", source, everywhere, steps(schema.Padding.SAME, 1))
  slices = ((0, *first, 0), (0, *stop, 0), (1, *stride, 1))
  operator(
    emitter,
    "STRIDED_SLICE",
    [everywhere, *(emitter.file.constant(np.array(part, np.int32)) for part in slices)],
    emitter.outputs(node),
    node.output,
    beginMask=WHOLE,
    endMask=WHOLE,
  )


def channel_max(emitter: Emitter, node: Node) -> None:
  """MAX_POOL_2D over the channels of each cell, as the columns of a map: all runtimes have it."""
  _, height, width, channels = node.input_shapes[0]
  cells = height * width
  rows = emitter.scratch(f"{node.name}/rows", (1, cells, channels, 1), node.inputs[0])
  largest = emitter.scratch(f"{node.name}/largest", (1, cells, 1, 1), node.output)
  reshape(emitter, emitter.inputs(node)[0], rows, [-1, cells, channels, 1])
  operator(
    emitter,
    "MAX_POOL_2D",
    [rows],
    [largest],
    node.output,
    "Pool2DOptions",
    filterHeight=1,
    filterWidth=channels,
    **steps(schema.Padding.VALID, (1, channels)),
  )
  reshape(emitter, largest, emitter.outputs(node)[0], [-1, height, width, 1])


def _pool(emitter: Emitter, node: Node, code: str, source: int, padding: int) -> None:
  (output,) = emitter.outputs(node)
  _window(emitter, node, code, source, output, steps(padding, node.attrs["stride"]))


def _window(emitter: Emitter, node: Node, code: str, source: int, output: int, fields) -> None:
  height, width = window_of(node)
  operator(
    emitter,
    code,
    [source],
    [output],
    node.output,
    "Pool2DOptions",
    filterHeight=height,
    filterWidth=width,
    **fields,
  )
