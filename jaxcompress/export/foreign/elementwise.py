"""Operators that compute number by number, and products and probabilities of rows, as leaf ops."""

import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from jaxcompress.export.foreign.builder import Builder, Reader
from jaxcompress.export.foreign.parts import Call
from jaxcompress.export.foreign.views import Shape
from jaxcompress.export.foreign.weighted import fused
from jaxcompress.nn.structure import OPERATOR, REQUANTIZE
from jaxcompress.quantize.integer.functions import GATES
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.runtimes import adds_zero
from jaxcompress.quantize.integer.stored import is_clear

PAIRS = {
  "ADD": "Add",
  "SUB": "Subtract",
  "MUL": "Multiply",
  "MAXIMUM": "Maximum",
  "MINIMUM": "Minimum",
}


def pair(builder: Builder, call: Call) -> None:
  """A sum, a difference, a product or a choice of two tensors, of which one may be a constant."""
  output, op = call.outputs[0], PAIRS[call.code]
  grid, act = builder.grid(output), fused(call)
  if grid.bits == 16 and call.code in ("ADD", "SUB") and call.option("potScaleInt16", True):
    raise ValueError("it shifts 16-bit integers by powers of two, in place of scaling them")
  if all(map(builder.is_constant, call.inputs)):
    raise ValueError("it computes with constants alone")
  if call.code == "ADD" and _clips(builder, call, grid, act):
    return
  shapes = [builder.tensor(index).shape for index in call.inputs]
  made = builder.tensor(output).shape
  if made != tuple(np.broadcast_shapes(*shapes)):
    raise ValueError(f"it reads shapes {shapes[0]} and {shapes[1]}, and the file says {made}")
  has_images = len(made) > 1 and made[0] == 1
  read = []
  for index, shape in zip(call.inputs, shapes, strict=True):
    wide: Shape = (*(1,) * (len(made) - len(shape)), *shape)
    wide = wide if has_images else (1, *wide)
    find = builder.number if builder.is_constant(index) else builder.read
    read.append(find(index, wide))
  attrs = {} if act is None else {"act": act}
  shape = made if has_images else (1, *made)
  builder.add(op, attrs, read, output, shape=shape, grid=grid)


def _constant_code(builder: Builder, index: int) -> tuple[Grid, int] | None:
  """Grid and code of a constant of one number."""
  values = builder.tensor(index).values
  if not builder.is_constant(index) or values is None or values.size != 1:
    return None
  return builder.grid(index), int(values.ravel()[0])


def _clips(builder: Builder, call: Call, grid: Grid, act: str | None) -> bool:
  """Reads sums with constants as what we write so: rectifiers, hard-sigmoids, changes of the grid."""
  index, output = call.inputs[0], call.outputs[0]
  found = _constant_code(builder, call.inputs[1])
  if found is None or builder.tensor(index).shape != builder.tensor(output).shape:
    return False
  source = builder.grid(index)
  if found == (source, source.zero_point):
    if act is not None:
      builder.add("Activation", {"act": act}, [builder.read(index)], output, grid=grid)
      return True
    if adds_zero(source, grid):
      builder.add(REQUANTIZE, {}, [builder.read(index)], output, grid=grid)
      return True
  gate = GATES[grid.bits]
  wanted = (gate.three, gate.three.high + gate.three.zero_point)
  if found != wanted or grid != gate.relu6 or act != (None if grid.bits == 8 else "relu"):
    return False
  readers = builder.parts.readers(output)
  if len(readers) != 1 or output in builder.parts.outputs.values() or readers[0].code != "MUL":
    return False
  (product,) = readers
  sixth = _constant_code(builder, product.inputs[1])
  if sixth != (gate.sixth, gate.sixth.high + gate.sixth.zero_point) or fused(product) is not None:
    return False
  if builder.grid(product.outputs[0]) != gate.output:
    return False
  read = [builder.read(index)]
  builder.add("Activation", {"act": "hard_sigmoid"}, read, product.outputs[0], grid=gate.output)
  builder.done.add(product.place)
  return True


def activation(act: str, builder: Builder, call: Call) -> None:
  """An activation function that is an operator in every runtime."""
  grid = builder.grid(call.outputs[0])
  builder.add(
    "Activation", {"act": act}, [builder.read(call.inputs[0])], call.outputs[0], grid=grid
  )


def rectifier(act: str, builder: Builder, call: Call) -> None:
  """RELU or RELU6 as an operator of its own."""
  grid = builder.grid(call.outputs[0])
  attrs = {"act": act, OPERATOR: call.code}
  builder.add("Activation", attrs, [builder.read(call.inputs[0])], call.outputs[0], grid=grid)


def in_float32(act: str, builder: Builder, call: Call) -> None:
  """A function of LiteRT's that is computed in float32, where no code lies on the edge of two."""
  name = "gelu_tanh" if act == "gelu" and call.option("approximate", False) else act
  source, grid = builder.grid(call.inputs[0]), builder.grid(call.outputs[0])
  if not is_clear(name, source, grid):
    raise ValueError("runtimes compute it in float32, and some codes lie on the edge of two")
  builder.add(
    "Activation", {"act": name}, [builder.read(call.inputs[0])], call.outputs[0], grid=grid
  )


def leaky_relu(builder: Builder, call: Call) -> None:
  """LEAKY_RELU."""
  grid, slope = builder.grid(call.outputs[0]), float(call.option("alpha", 0.0))
  if not 0 < slope <= 1:
    raise ValueError(f"its slope is {slope:g}; slopes above 0 and up to 1 are read")
  read = [builder.read(call.inputs[0])]
  builder.add("LeakyRelu", {"slope": slope}, read, call.outputs[0], grid=grid)


def softmax(builder: Builder, call: Call) -> None:
  """SOFTMAX over the last axis."""
  grid, beta = builder.grid(call.outputs[0]), float(call.option("beta", 0.0))
  if beta != 1:
    raise ValueError(f"its beta is {beta:g}; 1 is read")
  builder.add("Softmax", {}, [builder.read(call.inputs[0])], call.outputs[0], grid=grid)


def requantize(builder: Builder, call: Call) -> None:
  """QUANTIZE between two grids of integers."""
  grid, source = builder.grid(call.outputs[0]), builder.grid(call.inputs[0])
  attrs = {OPERATOR: "QUANTIZE"} if adds_zero(source, grid) else {}
  builder.add(REQUANTIZE, attrs, [builder.read(call.inputs[0])], call.outputs[0], grid=grid)


def matrix_product(builder: Builder, call: Call) -> None:
  """BATCH_MATMUL of two activations for each image."""
  grid = builder.grid(call.outputs[0])
  shapes = [builder.tensor(index).shape for index in call.inputs]
  if any(map(builder.is_constant, call.inputs)):
    raise ValueError("one of its matrices is a constant")
  if call.option("adjX", False):
    raise ValueError("its first matrix is transposed")
  if any(len(shape) < 3 or math.prod(shape[:-2]) != 1 for shape in shapes):
    raise ValueError(f"it multiplies several matrices of an image, {shapes[0]} and {shapes[1]}")
  read = [
    builder.read(index, (1, *shape[-2:])) for index, shape in zip(call.inputs, shapes, strict=True)
  ]
  attrs = {"transpose_second": bool(call.option("adjY", False))}
  made = (1, *builder.tensor(call.outputs[0]).shape[-2:])
  builder.add("MatMul", attrs, read, call.outputs[0], shape=made, grid=grid)


READERS: Mapping[str, Reader] = {
  **dict.fromkeys(PAIRS, pair),
  "LOGISTIC": partial(activation, "sigmoid"),
  "TANH": partial(activation, "tanh"),
  "HARD_SWISH": partial(activation, "hard_swish"),
  "RELU": partial(rectifier, "relu"),
  "RELU6": partial(rectifier, "relu6"),
  "GELU": partial(in_float32, "gelu"),
  "ELU": partial(in_float32, "elu"),
  "RELU_N1_TO_1": partial(in_float32, "hard_tanh"),
  "LEAKY_RELU": leaky_relu,
  "SOFTMAX": softmax,
  "QUANTIZE": requantize,
  "BATCH_MATMUL": matrix_product,
}
