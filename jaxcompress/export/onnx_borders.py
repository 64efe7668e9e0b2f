"""Leaf ops that cut cells off maps, or add some around them, as ONNX operators."""

import numpy as np

from jaxcompress.export.onnx_emitter import OnnxEmitter
from jaxcompress.nn import Node
from jaxcompress.nn.borders import CONSTANT, cells_of


def cut(emitter: OnnxEmitter, node: Node) -> None:
  """A Slice of height and width."""
  cells = cells_of(node)
  fields = ([getattr(c, field) for c in cells] for field in ("start", "stop"))
  axes, steps = [2, 3], [c.step for c in cells]
  constants = [emitter.file.constant(np.array(n, np.int64)) for n in (*fields, axes, steps)]
  emitter.write(node.output, emitter.compute(node, "Slice", *constants))


def border(emitter: OnnxEmitter, node: Node) -> None:
  """A Pad, of a constant with the number that its code stands for."""
  (top, bottom), (left, right) = node.attrs["pads"]
  amounts = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
  constants = [emitter.file.constant(amounts)]
  if node.attrs["mode"] == CONSTANT:
    value = emitter.numbers.on_grid(node.attrs["value"], node.output)
    constants.append(emitter.file.constant(np.float32(value)))
  emitter.write(node.output, emitter.compute(node, "Pad", *constants, mode=node.attrs["mode"]))
