"""Operations that read all channels of a cell, and products of matrices, as C functions."""

import numpy as np

from jaxcompress.export.c99.emitted import Emitted, Params, Whole, Window
from jaxcompress.export.c99.prepared import Fields, Prepared, factor_fields, map_shape
from jaxcompress.quantize.integer.softmax import looked_up


def softmax(prepared: Prepared) -> Emitted:
  """Probabilities of the channels of each cell."""
  node, rule = prepared.node, prepared.arrays["rule"]
  _, width, channels = map_shape(node.output_shapes[0])
  fields: Fields = {"width": width, "channels": channels}
  if prepared.is_wide:
    found = looked_up(prepared.source)
    fields |= {
      "factor": factor_fields(found.factor),
      "powers": found.powers.astype(np.int16),
      "reciprocals": found.reciprocals.astype(np.int16),
    }
  else:
    high = int(prepared.arrays["high"])
    fields |= {"out_zero": prepared.output.zero_point, "high": high, "table": rule.table}
  name = prepared.function("softmax")
  return _in_place(prepared, name, fields)


def rms_norm(prepared: Prepared) -> Emitted:
  """Channels of each cell divided by their root mean square."""
  node, arrays = prepared.node, prepared.arrays
  _, width, channels = map_shape(node.output_shapes[0])
  levels = arrays["levels"]
  fields: Fields = {
    "width": width,
    "channels": channels,
    **prepared.zeros(),
    **{name: int(arrays[name]) for name in ("low", "high")},
    "digits": arrays["digits"].ravel(),
    "factors": np.concatenate([level["table"] for level in levels]),
    "bias": tuple(int(level["bias"]) for level in levels),
    "sum": tuple(factor_fields(level["sum"]) for level in levels),
    "product": tuple(factor_fields(level["product"]) for level in levels),
  }
  return _in_place(prepared, "norm", fields)


def _in_place(prepared: Prepared, name: str, fields: Fields) -> Emitted:
  node, reads = prepared.node, (Window(),)
  params = Params(name, fields)
  return Emitted(node.name, name, params, node.inputs, reads, node.outputs, overwrites=(0,))


def matrix_product(prepared: Prepared) -> Emitted:
  """A product of two activations, row by row; the second one is there as a whole."""
  node = prepared.node
  left, right = (prepared.grids[name] for name in node.inputs)
  depth, columns = node.input_shapes[0][-1], node.output_shapes[0][-1]
  fields: Fields = {
    "depth": depth,
    "columns": columns,
    **(
      {"down": 1, "right": depth}
      if node.attrs["transpose_second"]
      else {"down": columns, "right": 1}
    ),
    "left_zero": left.zero_point,
    "right_zero": right.zero_point,
    "out_zero": prepared.output.zero_point,
    **prepared.ends(),
    "factor": factor_fields(prepared.arrays["rule"]),
  }
  params, reads = Params("product", fields), (Window(), Whole())
  return Emitted(node.name, "product", params, node.inputs, reads, node.outputs)
