"""Normalization by the channels of each cell as TFLite operators."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from jaxcompress.export.emit_layers import convolution
from jaxcompress.export.emit_operators import elementwise, operator, reshape, steps
from jaxcompress.export.emitter import Emitter
from jaxcompress.nn import Node
from jaxcompress.quantize.integer.grid import LOWEST, Grid
from jaxcompress.quantize.integer.normalizing import DIGITS, digit_weights, digits, levels
from jaxcompress.quantize.integer.weighted import as_map

UNDILATED = {"dilationHFactor": 1, "dilationWFactor": 1}


def channel_mean(emitter: Emitter, node: Node) -> None:
  """CONV_2D of equal weights; of vectors on maps of one column."""
  shape = node.input_shapes[0]
  if len(shape) == 4:
    convolution(emitter, node)
    return
  cells = as_map(shape)
  source = emitter.scratch(f"{node.name}/cells", (1, *cells[1:]), node.inputs[0])
  result = emitter.scratch(f"{node.name}/result", (1, *cells[1:-1], 1), node.output)
  reshape(emitter, emitter.inputs(node)[0], source, [-1, *cells[1:]])
  constants = emitter.weights(node, lambda hwio: hwio.transpose(3, 0, 1, 2), 0)
  fields = {**steps(schema.Padding.VALID, 1), **UNDILATED}
  operator(emitter, "CONV_2D", [source, *constants], [result], node.output, **fields)
  reshape(emitter, result, emitter.outputs(node)[0], [-1, *shape[1:-1], 1])


def rms_norm(emitter: Emitter, node: Node) -> None:
  """Tables, a convolution for each level, products and sums; RSQRT in files of floats."""
  if emitter.is_integer:
    _integer_rms_norm(emitter, node)
  else:
    _float_rms_norm(emitter, node)


def _float_rms_norm(emitter: Emitter, node: Node) -> None:
  (source,), (output,), shape = emitter.inputs(node), emitter.outputs(node), node.input_shapes[0]
  square = emitter.scratch(f"{node.name}/square", (1, *shape[1:]), node.output)
  mean, sum_, root = (
    emitter.scratch(f"{node.name}/{name}", (1, *shape[1:-1], 1), node.output)
    for name in ("mean", "sum", "root")
  )
  elementwise(emitter, "MUL", [source, source], square, node.output)
  axes = emitter.file.constant(np.array([len(shape) - 1], np.int32))
  operator(emitter, "MEAN", [square, axes], [mean], node.output, "ReducerOptions", keepDims=True)
  elementwise(emitter, "ADD", [mean, emitter.real(node.attrs["epsilon"], None)], sum_, node.output)
  operator(emitter, "RSQRT", [sum_], [root], node.output)
  elementwise(emitter, "MUL", [source, root], output, node.output)


def _integer_rms_norm(emitter: Emitter, node: Node) -> None:
  (source,), shape, tensor = emitter.inputs(node), node.input_shapes[0], node.inputs[0]
  numbers, cells, channels = emitter.numbers, as_map(shape), shape[-1]
  grid: Grid = numbers.model.grids[tensor]  # type: ignore[attr-defined]  # of integers
  pairs = emitter.file.tensor(
    f"{node.name}/pairs", (1, *shape[1:], 2), np.int8, emitter.file.quantization(*DIGITS[:2])
  )
  _look_up(emitter, node.name, source, shape, digits(grid), DIGITS, pairs)
  squares = _tensor(emitter, f"{node.name}/squares", (*cells[1:-1], 2 * channels), DIGITS)
  reshape(emitter, pairs, squares, [-1, *cells[1:-1], 2 * channels])
  ones = np.ones(1, np.float32)
  weights = emitter.file.tensor(
    f"{node.name}/weights",
    (1, 1, 1, 2 * channels),
    np.int8,
    emitter.file.quantization(ones, 0, 0),
    np.ascontiguousarray(digit_weights(channels).transpose(3, 0, 1, 2)),
  )
  fields = {**steps(schema.Padding.VALID, 1), **UNDILATED}
  total = None
  found = levels(grid, channels, node.attrs["epsilon"])
  for i, level in enumerate(found):
    name = f"{node.name}/level{i}"
    bias = emitter.file.tensor(
      f"{name}/bias",
      (1,),
      np.int32,
      emitter.file.quantization(ones, 0, 0),
      np.array([level.bias], np.int32),
    )
    sums = _tensor(emitter, f"{name}/sums", (*cells[1:-1], 1), level.sums)
    operator(emitter, "CONV_2D", [squares, weights, bias], [sums], node.output, **fields)
    found_factor = _tensor(emitter, f"{name}/factor", (*cells[1:-1], 1), level.factors)
    _look_up(emitter, name, sums, (*cells[:-1], 1), level.table, level.factors, found_factor)
    factor = found_factor
    if len(shape) != 4:
      factor = _tensor(emitter, f"{name}/cells", (*shape[1:-1], 1), level.factors)
      reshape(emitter, found_factor, factor, [-1, *shape[1:-1], 1])
    product = emitter.scratch(f"{name}/product", (1, *shape[1:]), node.output)
    elementwise(emitter, "MUL", [source, factor], product, node.output)
    if total is None:
      total = product
      continue
    is_last = i == len(found) - 1
    if is_last:
      (result,) = emitter.outputs(node)
    else:
      result = emitter.scratch(f"{name}/total", (1, *shape[1:]), node.output)
    elementwise(emitter, "ADD", [total, product], result, node.output)
    total = result


def _tensor(emitter: Emitter, name: str, shape: tuple[int, ...], grid: Grid) -> int:
  quantization = emitter.file.quantization(grid.scale, grid.zero_point)
  return emitter.file.tensor(name, (1, *shape), np.int8, quantization)


def _look_up(
  emitter: Emitter,
  name: str,
  source: int,
  shape: tuple[int, ...],
  table: np.ndarray,
  grid: Grid,
  output: int,
) -> None:
  """Rows of a table of codes that begin at zero, by the codes of a tensor."""
  codes, places = (
    emitter.file.tensor(f"{name}/{part}", (1, *shape[1:]), np.int32) for part in ("codes", "places")
  )
  types = {"inDataType": schema.TensorType.INT8, "outDataType": schema.TensorType.INT32}
  emitter.file.operator("CAST", 1, [source], [codes], **types)
  first = emitter.file.constant(np.array([-LOWEST], np.int32))
  emitter.file.operator("ADD", 1, [codes, first], [places])
  stored = (table.astype(np.int16) + LOWEST).astype(np.int8)
  quantization = emitter.file.quantization(grid.scale, grid.zero_point)
  inputs = [emitter.file.constant(stored, quantization), places]
  emitter.file.operator("GATHER", 2, inputs, [output], axis=0)
