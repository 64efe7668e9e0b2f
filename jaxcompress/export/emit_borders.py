"""Leaf ops that cut cells off maps, or add some around them, as TFLite operators."""

import numpy as np

from jaxcompress.export.emit_operators import FUSED, operator, pad
from jaxcompress.export.emitter import Emitter
from jaxcompress.nn import Node
from jaxcompress.nn.borders import CONSTANT, cells_of

WHOLE = 0b1001  # a mask: batch and channels are taken as a whole


def cut(emitter: Emitter, node: Node) -> None:
  """STRIDED_SLICE."""
  cells = cells_of(node)
  ends = [
    emitter.file.constant(np.array([first, *(getattr(c, field) for c in cells), first], np.int32))
    for field, first in (("start", 0), ("stop", 0), ("step", 1))
  ]
  operator(
    emitter,
    "STRIDED_SLICE",
    [*emitter.inputs(node), *ends],
    emitter.outputs(node),
    node.output,
    beginMask=WHOLE,
    endMask=WHOLE,
  )


def border(emitter: Emitter, node: Node) -> None:
  """PAD, or PADV2 of another number than zero; copies of rows and columns of the map's own cells."""
  (source,), pads, mode = emitter.inputs(node), node.attrs["pads"], node.attrs["mode"]
  if mode == CONSTANT:
    (output,) = emitter.outputs(node)
    fill = emitter.numbers.code(node.attrs["value"], node.output)
    pad(emitter, node.output, source, output, pads, fill)
    return
  shape, made = [1, *node.input_shapes[0][1:]], node.output_shapes[0]
  axes = [axis for axis in (2, 1) if any(pads[axis - 1])] or [2]
  for axis in axes:
    last = axis == axes[-1]
    wide = [*shape[:axis], made[axis], *shape[axis + 1 :]]
    between = (
      emitter.outputs(node)[0]
      if last
      else emitter.scratch(f"{node.name}/wide", tuple(wide), node.output)
    )
    _extended(emitter, node, source, between, shape, axis)
    source, shape = between, wide


def _extended(
  emitter: Emitter, node: Node, source: int, output: int, shape: list[int], axis: int
) -> None:
  """CONCATENATION of single rows, or columns, with those that there are: every runtime copies so."""
  before, after = node.attrs["pads"][axis - 1]
  size, slices = shape[axis], {}
  places = np.pad(np.arange(size), (before, after), node.attrs["mode"])
  outside = [*places[:before], *places[before + size :]]
  for place in dict.fromkeys(map(int, outside)):
    one = [*shape[:axis], 1, *shape[axis + 1 :]]
    slices[place] = emitter.scratch(f"{node.name}/{axis}/{place}", tuple(one), node.output)
    begin, end = [0] * 4, list(shape)
    begin[axis], end[axis] = place, place + 1
    parts = [emitter.file.constant(np.array(n, np.int32)) for n in (begin, end, [1] * 4)]
    mask = 0b1111 - 2**axis
    operator(
      emitter,
      "STRIDED_SLICE",
      [source, *parts],
      [slices[place]],
      node.output,
      beginMask=mask,
      endMask=mask,
    )
  edges = [slices[int(place)] for place in outside]
  tensors = [*edges[:before], source, *edges[before:]]
  act = FUSED[None]
  fields = {"axis": axis, "fusedActivationFunction": act}
  operator(emitter, "CONCATENATION", tensors, [output], node.output, **fields)
