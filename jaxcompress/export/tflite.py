"""Model files for LiteRT, TensorFlow Lite and the tools around them."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcompress.arguments import check_type
from jaxcompress.export.contents import parse_operators
from jaxcompress.export.lint import refuse_errors
from jaxcompress.export.metadata import (
  ENTRY,
  INPUT_NAME,
  as_mapping,
  describe_arithmetic,
  own_version,
  to_entry,
  with_preprocess,
)
from jaxcompress.export.packed import read_packed
from jaxcompress.export.pixels import SHIFT, check_input, is_shift
from jaxcompress.export.targets import find_target
from jaxcompress.export.tensors import FloatNumbers, IntegerNumbers, float_graph, has_one_scale
from jaxcompress.export.trial import write_model
from jaxcompress.files.checksums import seal
from jaxcompress.files.extras import require
from jaxcompress.nn import INPUT, Folded, Graph
from jaxcompress.nn.execute import with_followers
from jaxcompress.nn.foreign import GRAPH, check_made
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import fits_int4
from jaxcompress.quantize.integer.runtimes import kernels_of_file
from jaxcompress.quantize.model import QUANTIZED

OUTPUT_KINDS = ("codes", "uint8")
WEIGHTS = ("int8", "int4")
FLOAT_TYPES = {"float32": np.float32, "float16": np.float16}
CONVOLUTIONS = ("ConvNorm", "BatchNorm", "Affine", "FourierPositions")
MOST_REASONS = 3  # that an error names


def tflite(
  quantized: QuantizedModel,
  path: str | os.PathLike,
  *,
  target: str | None = None,
  input: str = "codes",
  output: str = "codes",
  weights: str = "int8",
  metadata: Mapping[str, Any] | None = None,
  bare: bool = False,
) -> pathlib.Path:
  """Writes an integer .tflite file: integers in and out, and nothing in float in between.

  The integers are those of the model: nothing is calibrated or rounded again, so that the runtime
  of ``quantized.kernels`` computes, bit for bit, what ``quantized`` computes. All runtimes read the
  same file, but they round differently: their logits lie some steps apart. Weights are int8 with a
  scale for each output channel, biases int32, tensors whose grid has 16 bits int16 (then biases of
  the layers that read them are int64), the batch is one image, all constants lie inside the
  file, and operators have the lowest version that holds them, so that old runtimes read it. Outputs
  have their names in the signature ``serving_default``.

  Args:
    quantized: from ``state.quantized()`` or :func:`jaxcompress.quantize.assemble`.
    path: the file. It is written beside it and renamed, so it is whole, or as it was before.
    target: a device, or its compiler, whose requirements the file meets: ``"xnnpack"``, ``"tflm"``,
      ``"ethos-u"`` or ``"edgetpu"``; see :func:`~jaxcompress.export.lint`. For ``"xnnpack"`` gelus
      and elus are operators of LiteRT where these have the same integers, and run ten times as fast as
      tables in the file, which every runtime reads. For ``"tflm"`` and
      ``"edgetpu"`` a dense layer with a scale for each output becomes a 1x1 convolution, which all
      their versions read; ``kernels="reference"`` rounds the two differently, so it is refused.
    input: what the file reads: ``"codes"``, integers on the grid of the model's input, as
      ``quantized.quantize_input`` makes them, or ``"uint8"``, images as they are, which the
      preprocessing has to map pixel by pixel: where each code equals the pixel minus 128 (see
      :func:`~jaxcompress.export.pixel_range`) the first operator subtracts them, elsewhere the file holds the
      code of every pixel in each channel. Or ``"float32"``: images as the network reads them, after
      preprocessing, which the first operator rounds to codes.
    output: ``"codes"``: integers on the grids of the outputs, or ``"uint8"``: the same plus 128. With
      ``input="uint8"`` that is what MediaPipe's tasks run.
    weights: ``"int8"``, or ``"int4"``: layers whose integers have at most 4 bits are written with
      two weights in a byte, for half of the size. TFLite-Micro runs such convolutions, but no such
      dense layers, which stay int8 for it (``target`` or kernels ``"tflm"``). In LiteRT (2.3 was
      tried) XNNPACK runs such dense layers and leaves the convolutions to LiteRT's own kernels,
      which are slow and round differently: ``quantized.with_kernels("xnnpack-int4")`` is what they
      compute. Dense layers with an odd number of inputs, or with sums of 2**27 and more, stay int8,
      since XNNPACK does not hold them. Other targets refuse such files.
    metadata: JSON values kept in the file, such as those of
      :meth:`jaxcompress.data.Dataset.to_metadata`: names of the classes and how pictures are read; see
      :func:`~jaxcompress.export.read_metadata`. Preprocessing that is a
      :class:`jaxcompress.data.Preprocess` of the model is added. From ``classes`` and ``preprocess``
      TFLite's own metadata and a file of labels are made too, which tools for phones read.
    bare: whether to leave out what no runtime computes with: metadata, the checksum among them, the
      signature, and names. That is 1.3 kB, a third of a file of 4 kB; commands that read classes
      or preprocessing from a file need the whole one.

  Returns:
    The path.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if ``quantized`` is not a quantized model, a layer has no TFLite operator, an operator is not as the
      target requires, ``input`` or ``output`` is unknown or not the model's, ``weights`` is unknown,
      no layer has 4 bits or its kernels do not hold a layer's sums, the metadata is no JSON, a file is to be
      ``bare`` that has metadata or several outputs, or the path cannot be written.

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
    >>> path = tflite(quantized, tempfile.mkdtemp() + "/pool.tflite")
    >>> verify(path, quantized, np.ones((4, 2, 2, 3), np.float32)).bit_equal
    1.0

  References:
    `LiteRT 8-bit quantization specification
    <https://ai.google.dev/edge/litert/models/quantization_spec>`_.
  """
  check_made("quantized", quantized, QuantizedModel, QUANTIZED)
  require("tflite")
  codes = check_input(quantized, input)
  _check_output(quantized, output)
  check_type("bare", bare, bool, "True or False")
  if bare:
    _check_bare(quantized, metadata)
  per_tensor = target is not None and _needs_dense_per_tensor(quantized, target)
  operators = () if target is None else find_target(target).functions
  numbers = IntegerNumbers(quantized, _narrow_ops(quantized, weights, target), operators)
  if numbers.narrow:
    _check_narrow(numbers)
  kernels = kernels_of_file(quantized.kernels, int4=bool(numbers.narrow))
  if kernels != quantized.kernels:
    quantized.with_kernels(kernels)  # they may refuse what others run
  details = describe_arithmetic(quantized, kernels)
  if codes is not None:
    grid = details["input"]
    shifted = {"scale": grid["scale"], "zero_point": grid["zero_point"] + SHIFT}
    details["input"] = shifted if is_shift(codes) else {"scale": 1.0, "zero_point": 0}
  if input != "codes":
    details["input"]["type"] = input
  if output != "codes":
    for grid in (details["output"], *details.get("outputs", {}).values()):
      grid |= {"zero_point": grid["zero_point"] + SHIFT, "type": output}
  metadata = with_preprocess(quantized, metadata)
  content = _content(
    quantized.graph,
    numbers,
    details,
    metadata,
    input=input,
    codes=codes,
    output=output,
    dense_per_tensor=per_tensor,
    bare=bare,
  )
  if target is not None:
    refuse_errors(parse_operators(content), target)
  return write_model(path, content)


def _check_output(quantized: QuantizedModel, kind: str) -> None:
  """Checks that outputs can be written in a type."""
  if kind not in OUTPUT_KINDS:
    raise ValueError(f"output: {kind!r} is unknown; it must be one of {', '.join(OUTPUT_KINDS)}.")
  wide = [name for name, tensor in quantized.graph.outputs if quantized.grids[tensor].bits != 8]
  if kind == "uint8" and wide:
    raise ValueError(
      f"output: 'uint8' needs outputs of 8 bits, and {wide[0]!r} has 16; use 'codes'."
    )


def _check_bare(quantized: QuantizedModel, metadata: Any) -> None:
  """Checks that nothing is lost in a file without names and metadata that only it would say."""
  if metadata:
    raise ValueError("bare: a bare file has no metadata; leave out metadata, or bare.")
  if (count := len(quantized.graph.outputs)) > 1:
    raise ValueError(
      f"bare: the model has {count} outputs, which are told apart by their names; leave bare out."
    )


def _narrow_ops(quantized: QuantizedModel, weights: str, target: str | None) -> tuple[str, ...]:
  """The leaf ops whose weights may have 4 bits in a file."""
  if weights not in WEIGHTS:
    raise ValueError(f"weights: {weights!r} is unknown; it must be one of {', '.join(WEIGHTS)}.")
  if weights == "int8":
    return ()
  device = find_target(target or ("tflm" if quantized.kernels == "tflm" else "xnnpack"))
  return CONVOLUTIONS + ("Dense",) * device.dense_int4


def _check_narrow(numbers: Any) -> None:
  """Checks that some layer's weights have 4 bits in the file; the error says why none has."""
  integers = numbers.model.layers
  layers = [node for node in numbers.model.graph.nodes if node.name in integers]
  if any(map(numbers.is_int4, layers)):
    return
  reasons = [f"{node.name!r} {numbers.obstacle_to_int4(node)}" for node in layers]
  shown = ", ".join(reasons[:MOST_REASONS]) + ", ..." * (len(reasons) > MOST_REASONS)
  remedy = "write 'int8'"
  if not all(fits_int4(integers[node.name].weights) for node in layers):
    remedy += ", or quantize with 4 bits, such as quantize.w4a8() or post_training(..., bits=4)"
  raise ValueError(
    "weights: 'int4' needs a layer with weights of at most 4 bits, and no layer can be written so"
    f" ({shown or 'none has weights'}); {remedy}."
  )


def _needs_dense_per_tensor(quantized: QuantizedModel, name: str) -> bool:
  """Whether a target does; an error if that and the bits of the kernels exclude each other."""
  target = find_target(name)
  if target.suffix != ".tflite":
    raise ValueError(f"target: {name!r} takes {target.suffix} files; use another one here.")
  for node in quantized.graph.nodes:
    if (
      target.dense_per_tensor
      and quantized.kernels == "reference"
      and node.op == "Dense"
      and not has_one_scale(quantized.layers[node.name].scales)
    ):
      raise ValueError(
        f"target: {name!r} needs one weight scale in layer {node.name!r}, which LiteRT's reference"
        " kernels round differently as a convolution; use quantized.with_kernels('tflm') or"
        " 'xnnpack'."
      )
  return target.dense_per_tensor


def tflite_float(
  graph: Graph,
  folded: Mapping[str, Folded],
  path: str | os.PathLike,
  *,
  weights: str = "float32",
  metadata: Mapping[str, Any] | None = None,
) -> pathlib.Path:
  """Writes the same network as a float .tflite file, with BatchNorm folded, for comparison.

  It computes in float32. Float16 weights are half as large; runtimes make them float32 again
  through the DEQUANTIZE operators that TFLite's converter writes for them too.

  Args:
    graph: a traced graph; activations are fused here.
    folded: of every node that has a kernel, from :func:`jaxcompress.nn.fold`.
    path: as for :func:`tflite`.
    weights: how kernels and biases are stored: ``"float32"`` or ``"float16"``.
    metadata: as for :func:`tflite`.

  Returns:
    The path.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if ``weights`` is unknown, and as for :func:`tflite`.

  Examples:
    >>> import tempfile
    >>> import jax
    >>> import numpy as np
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import fold
    >>> summary = models.summarize(models.resnet8(num_classes=10))
    >>> ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), summary.variables)
    >>> folder = tempfile.mkdtemp()
    >>> path = tflite_float(summary.graph, fold(summary.graph, ones), folder + "/resnet8.tflite")
    >>> path.stat().st_size - 4 * summary.parameters < 5000
    True
  """
  if weights not in FLOAT_TYPES:
    raise ValueError(
      f"weights: {weights!r} is unknown; it must be one of {', '.join(FLOAT_TYPES)}."
    )
  check_made("graph", graph, Graph, GRAPH)
  require("tflite")
  graph = float_graph(graph)
  numbers = FloatNumbers(with_followers(graph, folded), FLOAT_TYPES[weights])
  content = _content(graph, numbers, {}, metadata)
  return write_model(path, content)


def unpack(path: str | os.PathLike, out: str | os.PathLike) -> pathlib.Path:
  """Writes the .tflite file of a packed one.

  It is, byte for byte, the one that :func:`tflite` writes of the same model
  and metadata (the file names the version of jaxcompress that writes it).

  Args:
    path: of a file of :func:`~jaxcompress.export.packed`.
    out: the .tflite file; what was there is replaced.

  Returns:
    The path of the .tflite file.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: as :func:`~jaxcompress.export.load_packed` and :func:`tflite`.

  Examples:
    >>> import tempfile
    >>> import numpy as np
    >>> from jaxcompress.export import packed
    >>> from jaxcompress.nn import Node
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grid, folder = Grid(np.float32(0.1), 0), tempfile.mkdtemp()
    >>> quantized = QuantizedModel(
    ...   Graph((pool,), (1, 2, 2, 3), "pool"), {"input": grid, "pool": grid}, {}
    ... )
    >>> path = unpack(packed(quantized, folder + "/a.jcz"), folder + "/a.tflite")
    >>> path.read_bytes() == tflite(quantized, folder + "/b.tflite").read_bytes()
    True
  """
  quantized, metadata = read_packed(path)
  return tflite(quantized, out, metadata=metadata)


def _content(
  graph: Graph,
  numbers: Any,
  details: Mapping[str, Any],
  metadata: Any,
  *,
  input: str = "codes",
  codes: np.ndarray | None = None,
  output: str = "codes",
  dense_per_tensor: bool = False,
  bare: bool = False,
) -> bytes:
  from jaxcompress.export.emit import emit, floats, pixels, unsigned
  from jaxcompress.export.emitter import Emitter
  from jaxcompress.export.standard import STANDARD, Ends, standard_metadata, with_labels

  given = as_mapping(metadata)
  entries = {ENTRY: to_entry(details, given)}
  emitter = Emitter(graph, numbers, dense_per_tensor=dense_per_tensor)
  source = emitter.tensors[INPUT]
  if input != "codes":
    source = floats(emitter) if codes is None else pixels(emitter, codes)
  emit(emitter)
  places = dict(emitter.tensors)
  if output != "codes":
    places = {tensor: unsigned(emitter, name, tensor) for name, tensor in graph.outputs}
  if details and emitter.file.computes_in_float:
    raise RuntimeError(
      "an operator of an integer file computes in float; this is a bug of jaxcompress"
    )
  outputs = {name: places[tensor] for name, tensor in graph.outputs}
  if bare:
    return emitter.file.to_bytes({INPUT_NAME: source}, outputs, bare=True)
  first = {place: name for name, place in reversed(outputs.items())}  # of two names of one output
  shapes = {n: graph.shape(tensor) for n, tensor in graph.outputs if first[outputs[n]] == n}
  ends = Ends(INPUT_NAME, graph.input_shape[1:], shapes)
  if (standard := standard_metadata(given, ends)) is not None:
    entries[STANDARD] = standard
  content = emitter.file.to_bytes(
    {INPUT_NAME: source},
    outputs,
    description=f"jaxcompress {own_version()}",
    metadata=entries,
  )
  return seal(with_labels(content, given, ends))
