"""Operators with weights as leaf ops."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcompress.export.foreign.builder import Builder, Reader
from jaxcompress.export.foreign.parts import Call
from jaxcompress.export.foreign.views import Shape, batched
from jaxcompress.nn.structure import OPERATOR
from jaxcompress.ops.padding import Pair, shortest
from jaxcompress.quantize.integer.grid import HIGHEST, Grid, Integers, fits_int4
from jaxcompress.quantize.model import bias_type

PADDINGS = ("SAME", "VALID")
NARROW = ("CONV_2D", "DEPTHWISE_CONV_2D")
ACTS = {0: None, 1: "relu", 3: "relu6"}
OTHER_ACTS = {2: "RELU_N1_TO_1", 4: "TANH", 5: "SIGN_BIT"}


def fused(call: Call) -> str | None:
  """The activation function that an operator ends in.

  Raises:
    ValueError: if none of the leaf ops has it.
  """
  act = int(call.option("fusedActivationFunction", 0))
  if act not in ACTS:
    raise ValueError(f"it ends in {OTHER_ACTS.get(act, act)}, and layers end in RELU or RELU6 only")
  return ACTS[act]


def slides(call: Call) -> dict[str, Any]:
  """Stride and padding of what slides over a map."""
  stride = shortest((int(call.option("strideH", 1)), int(call.option("strideW", 1))))
  return {"stride": stride, "padding": PADDINGS[int(call.option("padding", 0))]}


def _integers(
  builder: Builder, call: Call, places: Pair, source: Grid, order: tuple[int, ...], axis: int
) -> Integers:
  """A layer's integers.

  Args:
    builder: of the graph.
    call: the operator.
    places: of the weights and the bias among what it reads.
    source: grid of its input.
    order: of the axes of the weights, output channels last.
    axis: of the output channels in the file.
  """
  weights = builder.values(call, places[0], "weights")
  tensor = builder.tensor(call.inputs[places[0]])
  if tensor.type not in ("INT8", "INT4"):
    raise ValueError(f"its weights are {tensor.type}; those of 8 or 4 bits are read")
  if tensor.zero_points.any():
    raise ValueError("its weights have a zero point, which runtimes of 8-bit integers do not take")
  count = weights.shape[axis]
  if tensor.scales.size not in (1, count) or (tensor.scales.size > 1 and tensor.axis != axis):
    raise ValueError(f"its weights have {tensor.scales.size} scales on axis {tensor.axis}")
  if weights.min() < -HIGHEST:
    raise ValueError("its weights go down to -128; from -127 on they are what all runtimes take")
  scales = np.broadcast_to(tensor.scales.astype(np.float32), (count,)).copy()
  bias, dtype = np.zeros(count, bias_type(source)), bias_type(source)
  if len(call.inputs) > places[1] and call.inputs[places[1]] >= 0:
    bias = builder.values(call, places[1], "bias")
    if bias.dtype != dtype or bias.shape != (count,):
      raise ValueError(f"its bias is {bias.dtype} {bias.shape}; it must be {dtype} ({count},)")
  _check_narrow(builder, call, weights, tensor.type)
  layout = np.ascontiguousarray(weights.astype(np.int8).transpose(order))
  return Integers(layout, scales, np.asarray(bias))


def _check_narrow(builder: Builder, call: Call, weights: np.ndarray, kind: str) -> None:
  """LiteRT computes layers of 4 bits by other kernels; which a layer gets must show in its weights."""
  if kind == "INT8" and builder.holds_int4 and call.code in NARROW and fits_int4(weights):
    raise ValueError("its weights have 8 bits where others have 4, and would fit in them")
  if kind == "INT4" and call.code == "FULLY_CONNECTED" and weights.shape[-1] % 2:
    raise ValueError("its weights have 4 bits and an odd number of inputs")


def convolution(builder: Builder, call: Call) -> None:
  """CONV_2D, also of groups."""
  grid = builder.grid(call.outputs[0])
  source, act = builder.read(call.inputs[0]), fused(call)
  layer = _integers(builder, call, (1, 2), builder.grids[source], (1, 2, 3, 0), 0)
  height, width, depth, features = layer.weights.shape
  channels = _channels(builder, source)
  if channels % depth:
    raise ValueError(f"its weights read {depth} channels, and it has {channels}")
  groups: int | str = channels // depth
  if depth == 1 and channels > 1:
    groups = "depthwise"
  attrs = {
    "features": features,
    "kernel": shortest((height, width)),
    **slides(call),
    "groups": groups,
    "act": act,
    "norm": None,
    "use_bias": True,
    **_dilated(call),
  }
  builder.add("ConvNorm", attrs, [source], call.outputs[0], grid=grid, layer=layer)


def depthwise(builder: Builder, call: Call) -> None:
  """DEPTHWISE_CONV_2D, of any multiplier."""
  grid = builder.grid(call.outputs[0])
  source, act = builder.read(call.inputs[0]), fused(call)
  layer = _integers(builder, call, (1, 2), builder.grids[source], (1, 2, 0, 3), 3)
  height, width, one, features = layer.weights.shape
  if one != 1 or features % _channels(builder, source):
    raise ValueError(f"its weights have shape {layer.weights.shape}")
  attrs = {
    "features": features,
    "kernel": shortest((height, width)),
    **slides(call),
    "groups": "depthwise",
    "act": act,
    "norm": None,
    "use_bias": True,
    **_dilated(call),
  }
  builder.add("ConvNorm", attrs, [source], call.outputs[0], grid=grid, layer=layer)


def _dilated(call: Call) -> dict[str, Any]:
  dilation = shortest(
    (int(call.option("dilationHFactor", 1)), int(call.option("dilationWFactor", 1)))
  )
  return {} if dilation == 1 else {"dilation": dilation}


def _channels(builder: Builder, source: str) -> int:
  shape = builder.shapes[source]
  if len(shape) != 4:
    raise ValueError(f"it reads shape {shape}, which is no map")
  return shape[-1]


def dense(builder: Builder, call: Call) -> None:
  """FULLY_CONNECTED, of an image or of each of its rows."""
  index, output = call.inputs[0], call.outputs[0]
  grid, act = builder.grid(output), fused(call)
  if int(call.option("weightsFormat", 0)):
    raise ValueError("its weights are shuffled, which no runtime of 8-bit integers reads")
  source = builder.grid(index)
  layer = _integers(builder, call, (1, 2), source, (1, 0), 0)
  count, features = layer.weights.shape
  shape = builder.tensor(index).shape
  rows, rest = divmod(math.prod(shape), count)
  if rest:
    raise ValueError(f"its weights read {count} numbers, and it has shape {shape}")
  attrs = {"features": features, "use_bias": True, "act": act}
  if source.bits == 16:
    attrs[OPERATOR] = call.code
  made: Shape
  if rows == 1:
    read, made = builder.read(index), (1, features)
  elif shape[-1] == count:
    read, made = builder.read(index), (*batched(shape)[:-1], features)
    if len(made) == 2:
      raise ValueError(f"it reads shape {shape} as {rows} rows")
  else:
    read, made = builder.read(index, (1, rows, count)), (1, rows, features)
  builder.add("Dense", attrs, [read], output, shape=made, grid=grid, layer=layer)


def transposed(builder: Builder, call: Call) -> None:
  """TRANSPOSE_CONV."""
  grid, act = builder.grid(call.outputs[0]), fused(call)
  source = builder.read(call.inputs[2])
  size = builder.tensor(call.outputs[0]).shape
  if len(size) != 4:
    raise ValueError(f"it makes shape {size}, which is no map")
  layer = _integers(builder, call, (1, 3), builder.grids[source], (1, 2, 3, 0), 0)
  layer = layer._replace(weights=np.ascontiguousarray(layer.weights[::-1, ::-1]))
  height, width, _, features = layer.weights.shape
  _channels(builder, source)
  stride = int(call.option("strideH", 1)), int(call.option("strideW", 1))
  same = int(call.option("padding", 0)) == 0
  pads = []
  for n, to, side, step in zip(
    builder.shapes[source][1:3], size[1:3], (height, width), stride, strict=True
  ):
    reach = max((n - 1) * step + side - to, 0) // 2 if same else 0
    before = side - 1 - reach
    pads.append((before, to - (n - 1) * step - 2 - before + side))
  attrs = {
    "features": features,
    "kernel": shortest((height, width)),
    "stride": shortest(stride),
    "padding": tuple(pads),
    "act": act,
    "norm": None,
    "use_bias": True,
  }
  builder.add("ConvTranspose", attrs, [source], call.outputs[0], grid=grid, layer=layer)


READERS: Mapping[str, Reader] = {
  "CONV_2D": convolution,
  "DEPTHWISE_CONV_2D": depthwise,
  "FULLY_CONNECTED": dense,
  "TRANSPOSE_CONV": transposed,
}
