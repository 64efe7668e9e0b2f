"""Layers with weights as C functions."""

import numpy as np

from jaxcompress.export.c99.emitted import Emitted, Params, Table, Whole, Window
from jaxcompress.export.c99.prepared import Fields, Prepared, map_shape, shifts
from jaxcompress.nn import kernel_shape
from jaxcompress.nn.layers import reads_rows
from jaxcompress.nn.operations import channel_groups, slide_of
from jaxcompress.ops.padding import Slide, both
from jaxcompress.quantize.integer.grid import INT32, check_below
from jaxcompress.quantize.integer.transposed import plan_of
from jaxcompress.quantize.integer.wide import LIMB
from jaxcompress.quantize.integer.wide import Factor as WideFactor

UNMOVED = Slide((1, 1), ((0, 0), (0, 0)))
SINGLE = {"kernel_height": 1, "kernel_width": 1, "stride": 1, "left": 0, "dilation": 1, "groups": 1}
FARTHEST = 2**7  # that a code of 8 bits is from zero


def convolution(prepared: Prepared) -> Emitted:
  """A convolution of any kind, a normalization, constants, or an average of padded cells."""
  node = prepared.node
  slide = slide_of(node) if {"padding", "stride"} <= set(node.attrs) else UNMOVED
  kernel, channels = _kernel(prepared), node.input_shapes[0][-1]
  groups = channels if kernel_shape(node) is None else channel_groups(node)  # of an average
  (height, width), outputs = kernel.shape[:2], kernel.shape[-1]
  fields: Fields = {
    "in_width": map_shape(node.input_shapes[0])[1],
    "out_width": map_shape(node.output_shapes[0])[1],
    "kernel_height": height,
    "kernel_width": width,
    "stride": slide.stride[1],
    "left": slide.pads[1][0],
    "dilation": slide.dilation[1],
  }
  is_depthwise = groups == channels == outputs and groups > 1
  if is_depthwise:
    fields |= {"channels": channels}
  else:
    fields |= {"in_channels": channels, "out_channels": outputs, "groups": groups}
  fields |= _constants(prepared, kernel, is_depthwise)
  reads = Window(height, slide.stride[0], slide.pads[0][0], slide.dilation[0])
  return _emitted(prepared, "depthwise" if is_depthwise else "convolution", fields, reads)


def dense(prepared: Prepared) -> Emitted:
  """A linear layer: a convolution of one cell, which holds the whole input, or of the cells of rows."""
  kernel, rows = _kernel(prepared), reads_rows(prepared.node)
  width = map_shape(prepared.node.output_shapes[0])[1] if rows else 1
  shape = {"in_width": width, "out_width": width} | dict(
    zip(("in_channels", "out_channels"), kernel.shape[2:], strict=True)
  )
  fields: Fields = {**shape, **SINGLE, **_constants(prepared, kernel)}
  return _emitted(prepared, "convolution", fields, Window() if rows else Whole())


def transposed(prepared: Prepared) -> Emitted:
  """A transposed convolution, as the ordinary ones whose outputs take turns."""
  node, kernel = prepared.node, _kernel(prepared)
  (down, right), plan = both(node.attrs["stride"]), plan_of(node)
  taps, in_channels = kernel.shape[0], kernel.shape[2]
  phase: Fields = {
    "in_width": node.input_shapes[0][2],
    "in_channels": in_channels,
    "out_width": node.output_shapes[0][2],
    "out_channels": node.output_shapes[0][-1],
    **SINGLE,
    "kernel_height": taps,
    "kernel_width": kernel.shape[1],
    "left": plan.pads[1][0],
    **_constants(prepared, kernel),
  }
  top, crop = plan.crop
  height, before = node.input_shapes[0][1], plan.pads[0][0]
  reads = Table(
    tuple(
      Window(taps, 1, before).of((y + top) // down, height) for y in range(node.output_shapes[0][1])
    )
  )
  fields = {"phase": phase, "down": down, "right": right, "top": top, "crop": crop}
  return _emitted(prepared, "transposed", fields, reads)


def _emitted(
  prepared: Prepared, name: str, fields: Fields, reads: Window | Table | Whole
) -> Emitted:
  node = prepared.node
  struct = prepared.function(name)
  function = f"{name}_int4" if prepared.is_int4 else struct
  return Emitted(node.name, function, Params(struct, fields), node.inputs, (reads,), node.outputs)


def _kernel(prepared: Prepared) -> np.ndarray:
  """(height, width, in / groups, out) int8."""
  weights = prepared.arrays["weights"]
  return weights.reshape(1, 1, *weights.shape) if weights.ndim == 2 else weights


def _constants(prepared: Prepared, kernel: np.ndarray, is_depthwise: bool = False) -> Fields:
  """A layer's weights, what it adds to its sums, scales them by, and clips them to.

  Raises:
    ValueError: if sums of products with codes are no int32.
  """
  weights = kernel[:, :, 0] if is_depthwise else kernel.transpose(3, 0, 1, 2)
  if prepared.is_int4:
    weights = packed_pairs(weights) if is_depthwise else packed_halves(weights)
  fields: Fields = {"weights": weights, **prepared.ends()}
  rule, bias = prepared.arrays["rule"], prepared.arrays["bias"]
  if isinstance(rule, WideFactor):
    return fields | {
      "bias": ((np.asarray(bias.high, np.int64) << LIMB) + bias.low).ravel(),
      "multiplier": np.asarray(rule.multiplier, np.int16).ravel(),
      "shift": np.asarray(rule.shift, np.int8).ravel(),
    }
  whole = kernel.astype(np.int64)
  largest = np.abs(whole).sum((0, 1, 2)) * FARTHEST
  check_below(INT32, largest, "weights: sums of products with codes", "use fewer inputs")
  sums = np.asarray(bias, np.int64).ravel() - prepared.source.zero_point * whole.sum((0, 1, 2))
  return fields | {
    **prepared.zeros(),
    "bias": sums.astype(np.uint32).astype(np.int32),  # what is cut off comes back as it is added
    "q31": np.asarray(rule.q31, np.int32).ravel(),
    "shift": shifts(rule).astype(np.int8).ravel(),
  }


def packed_halves(weights: np.ndarray) -> np.ndarray:
  """Weights of 4 bits, two in a byte: of the first half of the last axis, and of the second above it.

  Examples:
    >>> packed_halves(np.int8([[1, 2, 3]])).tolist()
    [[49, 2]]
  """
  half = -(-weights.shape[-1] // 2)
  rest = weights[..., half:]
  more = [(0, 0)] * (weights.ndim - 1) + [(0, half - rest.shape[-1])]
  return (weights[..., :half] & 15) | (np.pad(rest, more) << 4)


def packed_pairs(weights: np.ndarray) -> np.ndarray:
  """Weights of 4 bits, two in a byte: every second one of the last axis above the one before.

  Examples:
    >>> packed_pairs(np.int8([[1, 2, 3]])).tolist()
    [[33, 3]]
  """
  more = [(0, 0)] * (weights.ndim - 1) + [(0, weights.shape[-1] % 2)]
  padded = np.pad(weights, more)
  return (padded[..., ::2] & 15) | (padded[..., 1::2] << 4)
