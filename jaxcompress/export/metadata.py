"""The entry of JSON values by which every model file says what it is."""

import json
from collections.abc import Iterable, Mapping
from importlib import metadata as packages
from typing import TYPE_CHECKING, Any

from jaxcompress.data import Preprocess
from jaxcompress.files.checksums import UNSEALED
from jaxcompress.files.values import MOST_BYTES, SEAL, check_depth, parse_json

if TYPE_CHECKING:
  from jaxcompress.quantize import QuantizedModel

ENTRY = "jaxcompress"  # name of our part of a file's metadata
INPUT_NAME = "image"  # of what a file reads
LABELS = "labels.txt"  # name of a file of classes
FREE_BATCH = "batch"  # name of a number of images that is left open


def describe_arithmetic(quantized: "QuantizedModel", kernels: str) -> dict[str, Any]:
  """The runtime whose arithmetic a file has, and the grids of its ends.

  ``"output"`` is that of the first one; ``"outputs"``, where there are several, holds all by name.
  """
  from jaxcompress.nn import INPUT

  outputs, ends = quantized.graph.outputs, {"input": INPUT, "output": quantized.graph.output}
  facts: dict[str, Any] = {"kernels": kernels}
  facts |= {name: _grid(quantized, tensor) for name, tensor in ends.items()}
  if len(outputs) > 1:
    facts["outputs"] = {name: _grid(quantized, tensor) for name, tensor in outputs}
  return facts


def _grid(quantized: "QuantizedModel", tensor: str) -> dict[str, float | int]:
  grid = quantized.grids[tensor]
  return {"scale": float(grid.scale), "zero_point": int(grid.zero_point)}


def with_preprocess(
  quantized: "QuantizedModel", metadata: Mapping[str, Any] | None
) -> dict[str, Any]:
  """Returns a user's metadata, with the preprocessing that the model was quantized with.

  A :class:`~jaxcompress.data.Preprocess` of the model stands in the place of any that the user names,
  since it is what exact evaluation computes; of another function nothing can be said.

  Raises:
    ValueError: if the metadata is no mapping.

  Examples:
    >>> import numpy as np
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize import QuantizedModel
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grids = dict.fromkeys(("input", "pool"), Grid(np.float32(0.1), 0))
    >>> quantized = QuantizedModel(Graph((pool,), (1, 2, 2, 3), "pool"), grids, {}, Preprocess())
    >>> with_preprocess(quantized, {"classes": ["a"]})["preprocess"]["center"]
    127.5
  """
  given = as_mapping(metadata)
  if isinstance(quantized.preprocess, Preprocess):
    given["preprocess"] = quantized.preprocess.to_metadata()
  return given


def own_version() -> str:
  """The version of jaxcompress that writes."""
  return packages.version("jaxcompress")


def to_entry(facts: Mapping[str, Any], metadata: Mapping[str, Any] | None, **fixed: Any) -> bytes:
  """The entry of a file, with a place for its checksum.

  Args:
    facts: what the writer says of the file.
    metadata: what the user adds, or says instead.
    fixed: what readers of the file rely on, whatever the user says.

  Raises:
    ValueError: if the metadata is no mapping, no JSON, or has the name of the checksum.
  """
  given = as_mapping(metadata)
  if SEAL in given:
    raise ValueError(f"metadata: {SEAL!r} is the name of the file's checksum; use another one.")
  return encode({"version": own_version(), **facts, **given, **fixed, SEAL: UNSEALED})


def as_mapping(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
  """Checks what the user says of a file; nothing is an empty mapping.

  Raises:
    ValueError: if it is no mapping.
  """
  if metadata is not None and not isinstance(metadata, Mapping):
    raise ValueError(f"metadata: {metadata!r} must be a mapping of names to JSON values.")
  return dict(metadata or {})


def preprocess_of(entry: Mapping[str, Any]) -> Preprocess | None:
  """The preprocessing that a file's own metadata names; None if it names none that is ours.

  Examples:
    >>> preprocess_of({"preprocess": Preprocess().to_metadata()}) == Preprocess()
    True
  """
  try:
    return Preprocess.from_metadata(entry["preprocess"])
  except (KeyError, TypeError, ValueError):
    return None


def class_names(entry: Mapping[str, Any]) -> list[str] | None:
  """The classes that a file's own metadata names; None if it names none.

  Examples:
    >>> class_names({"classes": ["a", "b"]}), class_names({"classes": 2})
    (['a', 'b'], None)
  """
  names = entry.get("classes")
  if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
    return None
  return list(names) or None


def labels_text(classes: Iterable[str]) -> str:
  r"""Labels as a text, a name a line.

  Examples:
    >>> labels_text(["cat", "dog"])
    'cat\ndog\n'
  """
  return "".join(" ".join(name.splitlines()) + "\n" for name in classes)


def from_entry(entry: str | bytes | None) -> dict[str, Any]:
  """Reads an entry, but for the checksum.

  Raises:
    ValueError: if it is not a JSON object.

  Examples:
    >>> from_entry(to_entry({"name": "a"}, None))["name"]
    'a'
  """
  values = parse_json(entry or "")
  if not isinstance(values, dict):
    raise ValueError(f"{type(values).__name__} in place of an object")
  return {name: value for name, value in values.items() if name != SEAL}


def encode(values: Mapping[str, Any]) -> bytes:
  """Values as JSON in UTF-8.

  Raises:
    ValueError: if they are no JSON, or more than is read again: 16 MB, or 64 lists and objects
      within each other.

  Examples:
    >>> encode({"classes": ["a"]})
    b'{"classes":["a"]}'
  """
  try:
    check_depth(values)
    text = json.dumps(values, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
    if len(text) > MOST_BYTES:
      raise ValueError(f"{len(text):,} bytes, more than {MOST_BYTES:,}")
    return text
  except (TypeError, ValueError) as error:
    raise ValueError(f"metadata: it is no JSON ({error}); give plain values.") from error
