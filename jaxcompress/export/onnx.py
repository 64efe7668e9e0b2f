"""ONNX files for onnxruntime and the tools around it."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxcompress.export.contents import parse_operators
from jaxcompress.export.lint import refuse_errors
from jaxcompress.export.metadata import (
  ENTRY,
  FREE_BATCH,
  INPUT_NAME,
  describe_arithmetic,
  own_version,
  to_entry,
  with_preprocess,
)
from jaxcompress.export.targets import find_target
from jaxcompress.export.tensors import FloatNumbers, IntegerNumbers, float_graph
from jaxcompress.export.trial import write_model
from jaxcompress.files.checksums import seal
from jaxcompress.files.extras import require
from jaxcompress.nn import INPUT, Folded, Graph
from jaxcompress.nn.execute import with_followers
from jaxcompress.nn.foreign import GRAPH, check_made
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.functions import fixed_grid
from jaxcompress.quantize.model import QUANTIZED

LAYOUT = "NCHW"


def onnx(
  quantized: QuantizedModel,
  path: str | os.PathLike,
  *,
  target: str | None = None,
  metadata: Mapping[str, Any] | None = None,
  batch: int | None = None,
) -> pathlib.Path:
  """Writes an integer ONNX file: opset 21, with QuantizeLinear and DequantizeLinear around each op.

  The integers are those of the model; nothing is calibrated or rounded again, and onnxruntime, in
  an ordinary session on the CPU, computes bit for bit what ``quantized.with_kernels("onnxruntime")``
  computes. x86 processors without VNNI saturate sums of products of uint8 and int8, unless the session
  has ``add_session_config_entry("session.x64quantprecision", "1")``, as those here have. Activations
  are uint8, the codes plus 128; weights are int8 with a scale for each output channel, biases int32.

  The file reads and writes float32, as ONNX files do: ``image``, (batch, channels, height, width),
  after preprocessing, and ``logits``, (batch, classes), or several outputs by name, maps (batch,
  channels, height, width). Its first operator rounds the images to codes.

  Args:
    quantized: from ``state.quantized()`` or :func:`jaxcompress.quantize.assemble`; its kernels do
      not matter.
    path: the file. It is written beside it and renamed, so it is whole, or as it was before.
    target: ``"tensorrt"``, or None for onnxruntime. TensorRT's activations are int8 with zero point
      0, its biases float, and activation functions come before the rounding: quantize with
      ``quantize.int8(symmetric=True)`` or ``post_training(..., symmetric=True)``. The integers stay
      the model's. onnxruntime runs such a file too, but in float, so that the last bit of sums
      differs and a few values on the edge of rounding with it; the file without a target is what
      proves them. What TensorRT itself computes was not checked.
    metadata: JSON values kept in the file under ``jaxcompress`` in its ``metadata_props``, as
      for :func:`~jaxcompress.export.tflite`; see :func:`~jaxcompress.export.read_metadata`.
    batch: number of images; None: any.

  Returns:
    The path.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if ``quantized`` is not a quantized model, a layer has no ONNX operator, a tensor has 16 bits, the target is another one or
      does not take a grid or an operator, the metadata is no JSON, or the path cannot be written.

  Examples:
    >>> import tempfile
    >>> import numpy as np
    >>> from jaxcompress.export import verify
    >>> from jaxcompress.nn import Node
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grid = Grid(np.float32(0.1), 0)
    >>> quantized = QuantizedModel(
    ...   Graph((pool,), (1, 2, 2, 3), "pool"), {"input": grid, "pool": grid}, {}
    ... )
    >>> path = onnx(quantized, tempfile.mkdtemp() + "/pool.onnx")
    >>> verify(path, quantized, np.ones((4, 2, 2, 3), np.float32)).bit_equal
    1.0

  References:
    `Quantize ONNX models
    <https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html>`_.
  """
  check_made("quantized", quantized, QuantizedModel, QUANTIZED)
  require("onnx")
  for tensor, grid in quantized.grids.items():
    if grid.bits != 8:
      raise ValueError(
        f"quantized: tensor {tensor!r} has {grid.bits} bits, and onnxruntime has 8-bit operators"
        " only; use activations of 8 bits, or export.tflite."
      )
  if target is not None:
    _check_target(quantized, target)
  details = describe_arithmetic(quantized, "onnxruntime")
  numbers, metadata = IntegerNumbers(quantized), with_preprocess(quantized, metadata)
  content = _content(quantized.graph, numbers, details, metadata, batch, signed=target is not None)
  if target is not None:
    refuse_errors(parse_operators(content), target)
  return write_model(path, content)


def _check_target(quantized: QuantizedModel, name: str) -> None:
  """Checks that a target takes .onnx files and all grids of a model."""
  target = find_target(name)
  if target.suffix != ".onnx":
    raise ValueError(f"target: {name!r} takes {target.suffix} files; use export.tflite.")
  for tensor, grid in quantized.grids.items():
    if grid.zero_point != 0:
      gate = grid in map(fixed_grid, quantized.graph.nodes)
      raise ValueError(
        f"target: {name!r} has activations with zero point 0, and {tensor!r} has"
        f" {int(grid.zero_point)}; "
        + (
          "that is a gate, whose integers are those from 0 to 1: take another network, or leave a softmax"
          " at its end to the host."
          if gate
          else "quantize with quantize.int8(symmetric=True) or post_training(..., symmetric=True)."
        )
      )


def onnx_float(
  graph: Graph,
  folded: Mapping[str, Folded],
  path: str | os.PathLike,
  *,
  metadata: Mapping[str, Any] | None = None,
  batch: int | None = None,
) -> pathlib.Path:
  """Writes the same network as a float32 ONNX file, with BatchNorm folded, for comparison.

  Args:
    graph: a traced graph; activations are fused here.
    folded: of every node that has a kernel, from :func:`jaxcompress.nn.fold`.
    path: as for :func:`onnx`.
    metadata: as for :func:`onnx`.
    batch: as for :func:`onnx`.

  Returns:
    The path.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: as for :func:`onnx`.

  Examples:
    >>> import tempfile
    >>> import jax
    >>> import numpy as np
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import fold
    >>> summary = models.summarize(models.resnet8(num_classes=10))
    >>> ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), summary.variables)
    >>> folder = tempfile.mkdtemp()
    >>> path = onnx_float(summary.graph, fold(summary.graph, ones), folder + "/resnet8.onnx")
    >>> path.stat().st_size - 4 * summary.parameters < 8000
    True
  """
  check_made("graph", graph, Graph, GRAPH)
  require("onnx")
  graph = float_graph(graph)
  numbers = FloatNumbers(with_followers(graph, folded))
  content = _content(graph, numbers, {}, metadata, batch)
  return write_model(path, content)


def _content(
  graph: Graph,
  numbers: Any,
  details: Mapping[str, Any],
  metadata: Any,
  batch: int | None,
  *,
  signed: bool = False,
) -> bytes:
  from jaxcompress.export.onnx_emit import OnnxEmitter, emit

  if batch is not None and (isinstance(batch, bool) or batch < 1):
    raise ValueError(f"batch: {batch} must be at least 1, or None for any number of images.")
  entry = to_entry(details, metadata, layout=LAYOUT)
  emitter = OnnxEmitter(graph, numbers, signed=signed)
  emit(emitter, INPUT_NAME)
  size = FREE_BATCH if batch is None else batch

  def nchw(tensor: str) -> tuple[int | str, ...]:
    _, *sides, channels = graph.shape(tensor)
    return size, channels, *sides

  content = emitter.file.to_bytes(
    "jaxcompress",
    {INPUT_NAME: nchw(INPUT)},
    {name: nchw(tensor) for name, tensor in graph.outputs},
    producer=("jaxcompress", own_version()),
    metadata={ENTRY: entry.decode()},
  )
  return seal(content)
