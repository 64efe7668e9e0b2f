"""Packed files: a quantized model in the bits that it needs, from which a .tflite file is rebuilt.

A packed file is a safetensors file. Its header holds the format's number and a SHA-256 checksum of
the whole file; ``manifest`` is deflated JSON: graph, grids, forms of the weights, kernels and
metadata; every layer has ``weights/NAME``, see ``packing.py``; ``scales``,
``biases`` and ``moves`` are those of all layers, deflated. Format 1 had ``bits`` in place of the
forms, and all weights dense; it is read, too.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax.core import FrozenDict
from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as to_bytes

from jaxcompress.export.metadata import (
  ENTRY,
  describe_arithmetic,
  encode,
  own_version,
  preprocess_of,
  with_preprocess,
)
from jaxcompress.export.packing import (
  Blob,
  deflate,
  inflate,
  pack_weights,
  restore,
  unpack_bits,
  unpack_weights,
  unzigzag,
  zigzag,
)
from jaxcompress.files.checksums import ZEROS, digest
from jaxcompress.files.values import as_tuples, check_format, one_line, parse_json
from jaxcompress.files.writing import write_atomically
from jaxcompress.nn import Graph, Node, Norm, kernel_shape
from jaxcompress.nn.foreign import check_made
from jaxcompress.nn.graph import LOGITS
from jaxcompress.nn.operations import needed_shape
from jaxcompress.nn.replay import check_graph
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.arithmetic import ARITHMETIC
from jaxcompress.quantize.integer.grid import Grid, Integers
from jaxcompress.quantize.model import QUANTIZED, Move, bias_type

SUFFIX = ".jcz"
FORMAT = 2
Reader = Callable[[Mapping[str, Any], np.ndarray, str, tuple[int, ...]], np.ndarray]


def packed(
  quantized: QuantizedModel, path: str | os.PathLike, *, metadata: Mapping[str, Any] | None = None
) -> pathlib.Path:
  """Writes a model with the weights of each layer in the bits that they need, 1 to 8.

  Zeros of pruned layers are left out, and clustered ones have a codebook, where that is smaller.
  Runtimes keep weights of fewer than 8 bits in a byte each, and so do .tflite files; this one is
  for storing and sending. :func:`load_packed` gives the model back, :func:`~jaxcompress.export.unpack` the .tflite file.

  Args:
    quantized: from ``state.quantized()`` or :func:`jaxcompress.quantize.assemble`; of its
      ``preprocess`` the metadata says what they say in a .tflite file.
    path: the file, by custom ``.jcz``. It is written beside it and renamed, so it is whole, or as
      it was before.
    metadata: JSON values kept in the file, as for :func:`~jaxcompress.export.tflite`.

  Returns:
    The path.

  Raises:
    ValueError: if ``quantized`` is not a quantized model, the metadata or an attribute of a layer is not JSON, or the path cannot
      be written.

  Examples:
    >>> import tempfile
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grid = Grid(np.float32(0.1), 0)
    >>> quantized = QuantizedModel(
    ...   Graph((pool,), (1, 2, 2, 3), "pool"), {"input": grid, "pool": grid}, {}
    ... )
    >>> path = packed(quantized, tempfile.mkdtemp() + "/pool.jcz")
    >>> load_packed(path).integers(np.full((1, 2, 2, 3), 0.52, np.float32)).tolist()
    [[5, 5, 5]]
  """
  check_made("quantized", quantized, QuantizedModel, QUANTIZED)
  names = [node.name for node in quantized.graph.nodes if kernel_shape(node) is not None]
  layers = {name: quantized.layers[name] for name in names}
  blobs = {name: pack_weights(layer.weights) for name, layer in layers.items()}
  manifest = {
    "version": own_version(),
    "kernels": quantized.kernels,
    "graph": _describe_graph(quantized.graph),
    "grids": {
      name: [float(g.scale), int(g.zero_point), g.bits] for name, g in quantized.grids.items()
    },
    "weights": {name: blob for name, (blob, _) in blobs.items()},
    "moves": {name: len(move.scale) for name, move in quantized.moves.items()},
    "metadata": with_preprocess(quantized, metadata),
  }
  arrays = {
    "manifest": deflate(np.frombuffer(encode(manifest), np.uint8)),
    "scales": deflate(_join([layer.scales for layer in layers.values()], np.float32)),
    "biases": deflate(zigzag(_join([layer.bias for layer in layers.values()], np.int64))),
    "moves": deflate(_join([part for move in quantized.moves.values() for part in move])),
    **{f"weights/{name}": data for name, (_, data) in blobs.items()},
  }
  return write_atomically(path, _seal(arrays))


def load_packed(path: str | os.PathLike) -> QuantizedModel:
  """Reads a model that :func:`packed` wrote; every integer, scale and grid is what it was.

  Args:
    path: of the file.

  Returns:
    A :class:`QuantizedModel` that reads images as the one that was saved: with the ``preprocess`` that the
    metadata names, if it names one. :func:`~jaxcompress.export.read_metadata` gives all of the metadata.

  Raises:
    ValueError: if the file is missing, damaged, of a later version, or not one of :func:`packed`'s;
      or if what it describes is no network, or larger than networks are.

  Examples:
    >>> import tempfile
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grids = dict.fromkeys(("input", "pool"), Grid(np.float32(0.1), 0))
    >>> quantized = QuantizedModel(Graph((pool,), (1, 2, 2, 3), "pool"), grids, {})
    >>> loaded = load_packed(packed(quantized, tempfile.mkdtemp() + "/pool.jcz"))
    >>> loaded.graph.nodes[0].op, loaded.grids["pool"].scale
    ('GlobalAvgPool', np.float32(0.1))
  """
  quantized, metadata = read_packed(path)
  return dataclasses.replace(quantized, preprocess=preprocess_of(metadata))


def read_packed(path: str | os.PathLike) -> tuple[QuantizedModel, dict[str, Any]]:
  """The model of a packed file, without ``preprocess``, and the metadata that it was given.

  Raises:
    ValueError: as :func:`load_packed`.
  """
  return _read(path)[:2]


def packed_entry(path: str | os.PathLike) -> dict[str, Any]:
  """Reads what a .tflite file of the same model says about itself.

  Raises:
    ValueError: as :func:`load_packed`.
  """
  quantized, metadata, written_by = _read(path)
  return {"version": written_by, **describe_arithmetic(quantized, quantized.kernels), **metadata}


def _read(path: str | os.PathLike) -> tuple[QuantizedModel, dict[str, Any], str]:
  found, arrays = _unseal(path)
  try:
    manifest = parse_json(inflate(arrays["manifest"], np.uint8).tobytes())
    quantized = _rebuild(manifest, arrays, WEIGHT_READERS[found])
    return quantized, dict(manifest["metadata"].items()), str(manifest["version"])
  except Exception as error:  # whatever a manifest of another program leads to
    raise _refusal(path, "has contents that are no model", error) from error


def _read_dense(
  manifest: Mapping[str, Any], data: np.ndarray, name: str, shape: tuple[int, ...]
) -> np.ndarray:
  """A layer's weights in format 1."""
  count, bits = int(np.prod(shape, dtype=object)), manifest["bits"][name]
  return unpack_bits(restore(data, -(-count * bits // 8)), count, bits).reshape(shape)


def _read_blob(
  manifest: Mapping[str, Any], data: np.ndarray, name: str, shape: tuple[int, ...]
) -> np.ndarray:
  """A layer's weights in format 2."""
  return unpack_weights(Blob(*manifest["weights"][name]), data, shape)


WEIGHT_READERS: Mapping[int, Reader] = {1: _read_dense, 2: _read_blob}


def _rebuild(
  manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray], read: Reader
) -> QuantizedModel:
  graph = _build_graph(manifest["graph"])
  check_graph(graph)
  for node in graph.nodes:
    if node.op not in ARITHMETIC:
      raise ValueError(f"graph: {node.name!r} is a {node.op!r}, which this version does not know")
  with np.errstate(over="ignore"):  # an infinite scale is refused by its own words
    grids = {
      name: Grid(np.float32(scale), int(zero_point), int(bits))
      for name, (scale, zero_point, bits) in manifest["grids"].items()
    }
  nodes = {node.name: node for node in graph.nodes if kernel_shape(node) is not None}
  shapes = {name: needed_shape(node) for name, node in nodes.items()}
  channels = [shape[-1] for shape in shapes.values()]
  scales = _split(inflate(arrays["scales"], np.float32, sum(channels)), channels)
  values = unzigzag(inflate(arrays["biases"], np.uint64, sum(channels)))
  layers = {}
  for (name, node), scale, bias in zip(
    nodes.items(), scales, _split(values, channels), strict=True
  ):
    dtype = bias_type(grids[node.inputs[0]])
    if (bias != bias.astype(dtype)).any():
      raise ValueError(f"layer {name!r} has biases beyond {dtype}")
    weights = read(manifest, arrays[f"weights/{name}"], name, shapes[name])
    layers[name] = Integers(weights, scale, bias.astype(dtype))
  for name, size in manifest["moves"].items():
    if name not in grids:
      raise ValueError(f"moves: {name!r} is no tensor")
    if size != graph.shape(name)[-1]:
      raise ValueError(f"{size} channels of {name!r} moved, and it has {graph.shape(name)[-1]}")
  sizes = [size for size in manifest["moves"].values() for _ in Move._fields]
  parts = iter(_split(inflate(arrays["moves"], np.float64, sum(sizes)), sizes))
  moves = {name: Move(next(parts), next(parts)) for name in manifest["moves"]}
  return QuantizedModel(graph, grids, layers, kernels=manifest["kernels"], moves=moves)


def _seal(arrays: Mapping[str, np.ndarray]) -> bytes:
  """A safetensors file whose header holds the SHA-256 of the file with zeros in its place."""
  header = {ENTRY: json.dumps({"packed": FORMAT, "sha256": ZEROS})}
  content = to_bytes(dict(arrays), header)
  place = content.index(ZEROS.encode())  # arrays come after it
  return content[:place] + digest(content, place) + content[place + len(ZEROS) :]


def _unseal(path: str | os.PathLike) -> tuple[int, dict[str, np.ndarray]]:
  """Number of the format, and the arrays."""
  try:
    content = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise ValueError(f"path: {path} cannot be read ({error.strerror}).") from error
  try:
    size = int.from_bytes(content[:8], "little")
    seal = parse_json(parse_json(content[8 : 8 + size])["__metadata__"][ENTRY])
    found, written = seal["packed"], seal["sha256"].encode()
  except Exception as error:  # whatever other bytes lead to
    raise _refusal(path, "is no packed file of jaxcompress, or is damaged", error) from error
  check_format(found, FORMAT, f"path: {path}")
  place = content.find(written)
  if len(written) != len(ZEROS) or digest(content, place) != written:
    raise ValueError(f"path: {path} is damaged: its checksum is not that of its contents.")
  try:
    return found, read_arrays(content)
  except Exception as error:  # the reader raises its own kinds
    raise _refusal(path, "has contents that are no arrays", error) from error


def _refusal(path: str | os.PathLike, what: str, error: Exception) -> ValueError:
  return ValueError(f"path: {path} {what} ({one_line(f'{type(error).__name__}: {error}')}).")


def _describe_graph(graph: Graph) -> dict[str, Any]:
  nodes = [
    {**node._asdict(), "attrs": {key: _describe(node, key, node.attrs[key]) for key in node.attrs}}
    for node in graph.nodes
  ]
  facts = {"nodes": nodes, "input_shape": graph.input_shape}
  if [name for name, _ in graph.outputs] == [LOGITS]:
    return {**facts, "output": graph.output}  # as earlier versions read it
  return {**facts, "outputs": graph.outputs}


def _describe(node: Node, key: str, value: Any) -> Any:
  if isinstance(value, Norm):
    return value._asdict()
  if isinstance(value, tuple):
    return [_describe(node, key, part) for part in value]
  if isinstance(value, np.generic):
    return value.item()
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  raise ValueError(f"quantized: layer {node.name!r} has {key}={value!r}, which no file can hold.")


def _build_graph(facts: Mapping[str, Any]) -> Graph:
  nodes = []
  for described in facts["nodes"]:
    fields = {key: as_tuples(value) for key, value in described.items() if key != "attrs"}
    attrs = {key: _attribute(value) for key, value in described["attrs"].items()}
    nodes.append(Node(**fields, attrs=FrozenDict(attrs)))
  outputs = facts["output"] if "output" in facts else as_tuples(facts["outputs"])
  return Graph(tuple(nodes), as_tuples(facts["input_shape"]), outputs)


def _attribute(value: Any) -> Any:
  return Norm(**value) if isinstance(value, dict) else as_tuples(value)


def _join(parts: list[np.ndarray], dtype: type = np.float64) -> np.ndarray:
  return np.concatenate([np.zeros(0, dtype), *(np.asarray(part, dtype) for part in parts)])


def _split(array: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
  return np.split(array, np.cumsum(sizes)[:-1]) if sizes else []
