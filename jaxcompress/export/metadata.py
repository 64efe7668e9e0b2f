"""The entry of JSON values by which every model file says what it is."""

import json
from collections.abc import Mapping
from importlib import metadata as packages
from typing import Any

from jaxcompress.files.checksums import UNSEALED
from jaxcompress.files.values import MOST_BYTES, SEAL, check_depth, parse_json
from jaxcompress.nn import INPUT
from jaxcompress.quantize import QuantizedModel

ENTRY = "jaxcompress"  # name of our part of a file's metadata
INPUT_NAME, OUTPUT_NAME = "image", "logits"  # of what a file reads and writes
FREE_BATCH = "batch"  # name of a number of images that is left open


def describe_arithmetic(quantized: QuantizedModel, kernels: str) -> dict[str, Any]:
  """The runtime whose arithmetic a file has, and the grids of its ends."""
  ends = {"input": INPUT, "output": quantized.graph.output}
  return {
    "kernels": kernels,
    **{name: _grid(quantized, tensor) for name, tensor in ends.items()},
  }


def _grid(quantized: QuantizedModel, tensor: str) -> dict[str, float | int]:
  grid = quantized.grids[tensor]
  return {"scale": float(grid.scale), "zero_point": int(grid.zero_point)}


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


def from_entry(entry: str | bytes | None) -> dict[str, Any]:
  """Reads an entry, but for the checksum.

  Raises:
    ValueError: if it is none.

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
