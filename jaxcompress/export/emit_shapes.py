"""Leaf ops that move channels as TFLite operators."""

import numpy as np

from jaxcompress.export.emit_operators import FUSED, operator, reshape
from jaxcompress.export.emitter import Emitter
from jaxcompress.nn import Node

DELEGATED_PARTS = 4  # XNNPACK splits into at most as many equal parts


def concat(emitter: Emitter, node: Node) -> None:
  """Channels side by side."""
  axis = len(node.output_shapes[0]) - 1
  operator(
    emitter,
    "CONCATENATION",
    emitter.inputs(node),
    emitter.outputs(node),
    node.output,
    axis=axis,
    fusedActivationFunction=FUSED[None],
  )


def split(emitter: Emitter, node: Node) -> None:
  """Parts of the channels: SPLIT where XNNPACK has it, elsewhere slices of those that are read."""
  sizes, rank = list(node.attrs["sizes"]), len(node.input_shapes[0])
  (source,), read = emitter.inputs(node), [emitter.graph.is_read(part) for part in node.outputs]
  if len(set(sizes)) == 1 and 1 < len(sizes) <= DELEGATED_PARTS and all(read):
    parts = emitter.outputs(node)
    axis = emitter.file.constant(np.array(rank - 1, np.int32))
    operator(emitter, "SPLIT", [axis, source], parts, node.output, numSplits=len(sizes))
    return
  all_but_last = 2 ** (rank - 1) - 1  # masks: these axes are taken whole
  steps = emitter.file.constant(np.ones(rank, np.int32))
  starts = np.cumsum([0, *sizes])[:-1]
  for tensor, start, size, needed in zip(node.outputs, starts, sizes, read, strict=True):
    if not needed:
      continue
    part = emitter.activation(tensor, (*node.output_shapes[0][:-1], size))
    edges = [
      emitter.file.constant(np.array([0] * (rank - 1) + [at], np.int32))
      for at in (start, start + size)
    ]
    operator(
      emitter,
      "STRIDED_SLICE",
      [source, *edges, steps],
      [part],
      node.output,
      beginMask=all_but_last,
      endMask=all_but_last,
    )


def reshaped(emitter: Emitter, node: Node) -> None:
  """RESHAPE."""
  (source,), (output,) = emitter.inputs(node), emitter.outputs(node)
  reshape(emitter, source, output, [-1, *node.output_shapes[0][1:]])


def shuffle(emitter: Emitter, node: Node) -> None:
  """Reshape, transpose, reshape; the first axis is free, so that batches can be resized."""
  groups, shape = node.attrs["groups"], node.input_shapes[0]
  cells, parts = int(np.prod(shape[1:-1])), shape[-1] // groups
  grouped = emitter.scratch(f"{node.name}/grouped", (cells, groups, parts), node.inputs[0])
  swapped = emitter.scratch(f"{node.name}/swapped", (cells, parts, groups), node.inputs[0])
  order = emitter.file.constant(np.array([0, 2, 1], np.int32))
  reshape(emitter, emitter.inputs(node)[0], grouped, [-1, groups, parts])
  operator(emitter, "TRANSPOSE", [grouped, order], [swapped], node.output)
  reshape(emitter, swapped, emitter.outputs(node)[0], [-1, *shape[1:]])
