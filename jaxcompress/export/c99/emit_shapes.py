"""Operations that move integers as C functions."""

from typing import Any

import numpy as np

from jaxcompress.export.c99.emitted import PADDING, Emitted, Params, Reads, Table, Whole, Window
from jaxcompress.export.c99.prepared import Fields, Prepared, map_shape
from jaxcompress.nn.borders import CONSTANT, cells_of
from jaxcompress.ops.padding import both
from jaxcompress.ops.resizing import nearest_cells


def _emitted(
  prepared: Prepared, function: str, struct: str, fields: Fields, *reads: Reads, **more: Any
) -> Emitted:
  node = prepared.node
  params = Params(struct, fields)
  return Emitted(node.name, function, params, node.inputs, reads, node.outputs, **more)


def reshape(prepared: Prepared) -> Emitted:
  """The same numbers in another shape."""
  size = int(np.prod(prepared.node.output_shapes[0][1:])) * prepared.output.bits // 8
  more = {"kind": "whole", "overwrites": (0,), "is_view": True}
  return _emitted(prepared, "copy", "copy", {"bytes": size}, Whole(), **more)


def constant(prepared: Prepared) -> Emitted:
  """An array of codes."""
  node, kind = prepared.node, prepared.output.dtype
  codes = np.array(node.attrs["codes"], kind).reshape(-1)
  rows, _, _ = map_shape(node.output_shapes[0])
  fields = {"bytes": codes.nbytes // rows, "rows": codes}
  return _emitted(prepared, "constant", "constant", fields)


def concat(prepared: Prepared) -> Emitted:
  """Channels of several maps side by side."""
  shapes = prepared.node.input_shapes
  return _emitted(
    prepared, "concat", "parts", _parts(prepared, shapes), *(Window() for _ in shapes)
  )


def split(prepared: Prepared) -> Emitted:
  """Channels taken apart."""
  fields = _parts(prepared, prepared.node.output_shapes)
  return _emitted(prepared, "split", "parts", fields, Window())


def _parts(prepared: Prepared, shapes: tuple[tuple[int, ...], ...]) -> Fields:
  each = prepared.output.bits // 8
  sizes = np.array([shape[-1] * each for shape in shapes], np.int32)
  return {"width": map_shape(shapes[0])[1], "count": len(shapes), "bytes": sizes}


def shuffle(prepared: Prepared) -> Emitted:
  """Channels of groups in turns."""
  _, width, channels = map_shape(prepared.node.output_shapes[0])
  groups = prepared.node.attrs["groups"]
  fields = {"width": width, "groups": groups, "each": channels // groups}
  return _emitted(prepared, prepared.function("shuffle"), "shuffle", fields, Window())


def channel_max(prepared: Prepared) -> Emitted:
  """The largest channel of each cell."""
  _, width, channels = map_shape(prepared.node.input_shapes[0])
  fields = {"width": width, "channels": channels}
  return _emitted(prepared, prepared.function("channel_max"), "channels", fields, Window())


def cut(prepared: Prepared) -> Emitted:
  """Rows and columns at equal steps."""
  rows, columns = (range(c.start, c.stop, c.step) for c in cells_of(prepared.node))
  return _cells(prepared, rows, columns)


def border(prepared: Prepared) -> Emitted:
  """Cells around a map: of one number, or copies of its own."""
  attrs, shape = prepared.node.attrs, prepared.node.input_shapes[0]
  options = {"constant_values": PADDING} if attrs["mode"] == CONSTANT else {}
  rows, columns = (
    np.pad(np.arange(size), pair, attrs["mode"], **options).tolist()
    for size, pair in zip(shape[1:3], attrs["pads"], strict=True)
  )
  fill = int(prepared.arrays["steps"]) + prepared.output.zero_point
  return _cells(prepared, rows, columns, fill)


def resize(prepared: Prepared) -> Emitted:
  """A map of another size."""
  node = prepared.node
  if node.attrs["method"] == "bilinear":
    return _bilinear(prepared)
  axes = zip(node.input_shapes[0][1:3], both(node.attrs["size"]), strict=True)
  rows, columns = (nearest_cells(*axis, node.attrs["sampling"]).tolist() for axis in axes)
  return _cells(prepared, rows, columns)


def _cells(prepared: Prepared, rows: Any, columns: Any, fill: int = 0) -> Emitted:
  """Chosen rows and columns of a map."""
  fields = {
    "width": len(columns),
    "channels": prepared.node.output_shapes[0][-1],
    "fill": fill,
    "columns": np.array(columns, np.int16),
  }
  reads = Table(tuple((int(row),) for row in rows))
  return _emitted(prepared, prepared.function("cells"), "cells", fields, reads)


def _bilinear(prepared: Prepared) -> Emitted:
  rule, shape = prepared.arrays["rule"], prepared.node.output_shapes[0]
  rows, columns = rule.rows, rule.columns
  fields = {
    "width": shape[2],
    "channels": shape[-1],
    **prepared.ends(),
    "first": columns.low.astype(np.int16),
    "second": columns.high.astype(np.int16),
    "column_share": columns.share.astype(np.int16),
    "row_share": rows.share.astype(np.int16),
  }
  reads = Table(tuple(zip(rows.low.tolist(), rows.high.tolist(), strict=True)))
  return _emitted(prepared, "bilinear", "bilinear", fields, reads)


def depth_to_space(prepared: Prepared) -> Emitted:
  """Channels as blocks of cells."""
  block, shape = prepared.node.attrs["block"], prepared.node.output_shapes[0]
  fields = _blocks(prepared, prepared.node.input_shapes[0][2], shape[-1])
  reads = Table(tuple((y // block,) for y in range(shape[1])))
  return _emitted(prepared, "depth_to_space", "blocks", fields, reads)


def space_to_depth(prepared: Prepared) -> Emitted:
  """Blocks of cells as channels."""
  block, shape = prepared.node.attrs["block"], prepared.node.input_shapes[0]
  fields = _blocks(prepared, prepared.node.output_shapes[0][2], shape[-1])
  return _emitted(prepared, "space_to_depth", "blocks", fields, Window(block, block))


def _blocks(prepared: Prepared, width: int, channels: int) -> Fields:
  """Blocks in a row, and bytes of each of their rows; channels are those of a cell in a block."""
  block = prepared.node.attrs["block"]
  return {"width": width, "block": block, "bytes": block * channels * prepared.output.bits // 8}
