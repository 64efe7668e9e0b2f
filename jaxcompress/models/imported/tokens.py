"""Reads a trained token that stands before or behind the tokens of a map, such as a class token.

It is a constant of each channel on one cell without numbers of its own; zeros beside both make them
maps of one size, and their sum is the concatenation.
"""

from collections.abc import Sequence

import numpy as np

from jaxcompress.models.imported import constants, views
from jaxcompress.models.imported.elementwise import operand
from jaxcompress.models.imported.problems import Unreadable
from jaxcompress.models.imported.reading import Call, Value
from jaxcompress.models.imported.values import Constant, Op, Operand, Tensor


def with_token(call: Call, values: Sequence[Value]) -> Tensor:
  """Tokens with one more, which is a constant.

  Raises:
    Unreadable: if it is another concatenation.
  """
  axis, tensors = call.params["dimension"], [v for v in values if isinstance(v, Tensor)]
  (images, height, width, channels), view = tensors[0].op.shape, tensors[0].view
  tokens = (*views.whole("H", height), *views.whole("W", width))
  count = height * width
  if len(values) != 2 or view[axis] != tokens or call.shapes[0][axis] != count + 1 or count == 1:
    raise Unreadable(
      "a concatenation of activations and constants that is no class token",
      "average the tokens in place of it",
    )
  (op,), shape = (tensor.op for tensor in tensors), (images, count, 1, channels)
  if width > 1:
    op = call.op("Reshape", [op], shape, shape=shape[1:])
  one = (images, 1, 1, channels)
  cell = call.op("crop", [op], one, role="H", start=0, stop=1, step=1)
  zero = Operand(constants.literal(np.float32(0)), np.zeros((1, 1, 1), np.float32))
  (constant,) = (v for v in values if isinstance(v, Constant))
  number = operand(constant, (*view[:axis], (), *view[axis + 1 :]))
  if number.array.shape != (1, 1, channels):
    raise Unreadable("a token that is no constant of each channel")
  cell = _computed(call, "add", [_computed(call, "mul", [cell], one, zero)], one, number)
  parts = [cell, op] if isinstance(values[0], Constant) else [op, cell]
  padded = []
  for part, pads in zip(parts, ((0, parts[1].shape[1]), (parts[0].shape[1], 0)), strict=True):
    size = (images, count + 1, 1, channels)
    padded.append(call.op("pad", [part], size, padding=(pads, (0, 0)), value=0.0))
  both = _computed(call, "add", padded, padded[0].shape)
  return Tensor(both, (*view[:axis], views.whole("H", count + 1), *view[axis + 1 :]))


def _computed(
  call: Call, name: str, inputs: Sequence[Op], shape: views.Shape, *numbers: Operand
) -> Op:
  operands = (*range(len(inputs)), *numbers)
  return call.op("elementwise", inputs, shape, primitive=name, params={}, operands=operands)
