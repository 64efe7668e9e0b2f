"""Pools and means as C functions."""

from jaxcompress.export.c99.emit_layers import convolution
from jaxcompress.export.c99.emitted import Emitted, Params, Window
from jaxcompress.export.c99.prepared import Prepared, factor_fields, map_shape
from jaxcompress.nn import Node
from jaxcompress.nn.operations import slide_of, window_of
from jaxcompress.quantize.integer.pools import counts_padding


def mean(prepared: Prepared) -> Emitted:
  """The mean of all cells, row after row."""
  node = prepared.node
  height, width, channels = map_shape(node.input_shapes[0])
  fields = {
    **{"height": height, "width": width, "channels": channels},
    **prepared.zeros(),
    **prepared.ends(),
    "factor": factor_fields(prepared.arrays["rule"].factor),
  }
  return Emitted(
    node.name,
    prepared.function("mean"),
    Params("mean", fields),
    node.inputs,
    (Window(),),
    node.outputs,
    kind="fold",
    scratch=4 * channels,
  )


def max_pool(prepared: Prepared) -> Emitted:
  """The largest codes of each window."""
  zero = prepared.output
  low, high = (getattr(zero, name) + zero.zero_point for name in ("low", "high"))
  return _pool(prepared, "max_pool", {"low": low, "high": high})


def average_pool(prepared: Prepared) -> Emitted:
  """The means of each window; a convolution where padded cells count."""
  if counts_padding(prepared.node):
    static, arrays = prepared.static[1], prepared.arrays
    return convolution(prepared._replace(static=static, arrays=arrays))
  emitted = _pool(prepared, "average_pool", prepared.ends())
  return emitted._replace(scratch=4 * prepared.node.input_shapes[0][-1])


def _pool(prepared: Prepared, name: str, ends: dict[str, int]) -> Emitted:
  node = prepared.node
  (height, width), slide = window_of(node), slide_of(node)
  _check_windows(prepared)
  fields = {
    "in_width": node.input_shapes[0][2],
    "out_width": node.output_shapes[0][2],
    "channels": node.input_shapes[0][-1],
    "kernel_height": height,
    "kernel_width": width,
    "stride": slide.stride[1],
    "left": slide.pads[1][0],
    **ends,
  }
  reads = Window(height, slide.stride[0], slide.pads[0][0])
  function = prepared.function(name)
  return Emitted(node.name, function, Params("pool", fields), node.inputs, (reads,), node.outputs)


def _check_windows(prepared: Prepared) -> None:
  """Checks that each window of a pool has a cell."""
  node = prepared.node
  slide = slide_of(node)
  axes = zip(window_of(node), slide.stride, slide.pads, *_sizes(node), strict=True)
  for kernel, stride, (before, _), size, count in axes:
    if before >= kernel or (count - 1) * stride - before >= size:
      raise ValueError("padding: a window has no cell of the map; pad less than the kernel's size.")


def _sizes(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
  return node.input_shapes[0][1:3], node.output_shapes[0][1:3]
