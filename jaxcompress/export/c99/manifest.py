"""The manifest of a folder of C: metadata, and the checksum of every file."""

import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.export.interpreters import End
from jaxcompress.export.metadata import describe_arithmetic, from_entry, to_entry, with_preprocess
from jaxcompress.files.checksums import read_sealed, seal
from jaxcompress.files.values import one_line
from jaxcompress.nn import INPUT
from jaxcompress.nn.outputs import last_function
from jaxcompress.quantize import QuantizedModel

MANIFEST = "manifest.json"
SOURCES = "src"  # folder of the network's own files
FORMAT = 1
KERNELS = "tflm"  # whose arithmetic it is


class Calls(NamedTuple):
  """Calls of the network, as C expressions.

  Attributes:
    header: file in ``src`` that declares all of them.
    input: pointer to the integers of an image, which are written there.
    run: computes.
    outputs: pointers to the integers of the outputs, in their order.
  """

  header: str
  input: str
  run: str
  outputs: tuple[str, ...]


class Sizes(NamedTuple):
  """The memory and operations that a network needs on a device.

  Attributes:
    weights: bytes of all constants, which lie in flash.
    arena: bytes of memory for all tensors.
    macs: multiply-adds of an image.
    counters: bytes of memory beside the arena.
  """

  weights: int
  arena: int
  macs: int
  counters: int = 0

  @property
  def ram(self) -> int:
    """Bytes of all variables, which a budget bounds."""
    return self.arena + self.counters


class Manifest(NamedTuple):
  """A folder of C.

  Attributes:
    name: of the network, with which all names in C begin.
    calls: how it is called.
    sizes: what it takes.
    input: what it reads.
    outputs: what it gives.
    ends_in: what computes each: ``"softmax"``, ``"sigmoid"``, or else ``"logits"``.
    entry: all that the folder says of itself, as other model files do: ``classes``, ``reader``,
      ``preprocess`` and the user's own.
  """

  name: str
  calls: Calls
  sizes: Sizes
  input: End
  outputs: tuple[End, ...]
  ends_in: tuple[str, ...]
  entry: Mapping[str, Any]


def ends_of(quantized: QuantizedModel) -> tuple[End, tuple[End, ...]]:
  """Describes the input and the outputs of a model.

  Examples:
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grids = dict.fromkeys(("input", "pool"), Grid(np.float32(0.5), 3))
    >>> ends_of(QuantizedModel(Graph((pool,), (1, 2, 2, 3), "pool"), grids, {}))[1]
    (End(name='logits', shape=(1, 3), dtype='int8', scale=0.5, zero_point=3),)
  """
  graph, grids = quantized.graph, quantized.grids

  def end(name: str, tensor: str, shape: tuple[int, ...]) -> End:
    grid = grids[tensor]
    size = (1, *map(int, shape[1:]))
    return End(name, size, grid.dtype.name, float(grid.scale), int(grid.zero_point))

  outputs = (end(name, tensor, graph.shape(tensor)) for name, tensor in graph.outputs)
  return end(INPUT, INPUT, graph.input_shape), tuple(outputs)


def end_bytes(end: End) -> int:
  """Bytes of an input or output.

  Examples:
    >>> end_bytes(End("logits", (1, 10), "int16"))
    20
  """
  return int(np.prod(end.shape)) * np.dtype(end.dtype).itemsize


def manifest_text(
  quantized: QuantizedModel,
  name: str,
  calls: Calls,
  sizes: Sizes,
  files: Mapping[str, bytes],
  metadata: Mapping[str, Any] | None,
) -> bytes:
  """The manifest of files, by their paths in the folder.

  Raises:
    ValueError: if the metadata is no JSON.
  """
  source, outputs = ends_of(quantized)
  facts = describe_arithmetic(quantized, KERNELS)
  own = {
    "format": FORMAT,
    "name": name,
    "calls": calls._asdict(),
    "sizes": sizes._asdict(),
    "input": source._asdict(),
    "outputs": [end._asdict() for end in outputs],
    "ends_in": [last_function(quantized.graph, tensor) for _, tensor in quantized.graph.outputs],
    "files": {path: hashlib.sha256(content).hexdigest() for path, content in files.items()},
  }
  return seal(to_entry(facts, with_preprocess(quantized, metadata), c=own))


def is_c(path: str | os.PathLike) -> bool:
  """Whether a path is a folder with a manifest."""
  return (pathlib.Path(path) / MANIFEST).is_file()


def read_manifest(folder: str | os.PathLike) -> Manifest:
  """Reads a folder's manifest, and checks that all files are as they were written.

  Files that were added, such as those that a compiler makes, are left alone.

  Raises:
    ValueError: if there is no such folder, jaxcompress did not write it, or a file is missing or was
      changed.
  """
  path = pathlib.Path(folder) / MANIFEST
  if not path.is_file():
    raise ValueError(f"path: {folder} has no {MANIFEST}; it must be a folder that export.c wrote.")
  content, _ = read_sealed(path, f"path: {path}")
  try:
    entry = from_entry(content)
    own = entry["c"]
    if own["format"] != FORMAT:
      raise ValueError(f"format {own['format']}, and this version reads {FORMAT}")
    calls = Calls(**{**own["calls"], "outputs": tuple(own["calls"]["outputs"])})
    sizes = Sizes(**own["sizes"])
    source, *outputs = (
      End(**{**end, "shape": tuple(end["shape"])}) for end in (own["input"], *own["outputs"])
    )
    name, ends_in, files = own["name"], tuple(own["ends_in"]), dict(own["files"])
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    reason = one_line(f"{type(error).__name__}: {error}")
    raise ValueError(f"path: {path} is no manifest of a folder of C ({reason}).") from error
  for inside, sha256 in files.items():
    if pathlib.PurePath(inside).is_absolute() or ".." in pathlib.PurePath(inside).parts:
      raise ValueError(f"path: {path} is no manifest of a folder of C ({inside!r} is not in it).")
    try:
      found = hashlib.sha256((path.parent / inside).read_bytes()).hexdigest()
    except OSError as error:
      raise ValueError(
        f"path: {folder} lacks {inside} ({error.strerror}); write the folder again."
      ) from error
    if found != sha256:
      raise ValueError(
        f"path: {folder} was changed: the checksum of {inside} is another one; write the folder again."
      )
  return Manifest(name, calls, sizes, source, tuple(outputs), ends_in, entry)
