"""Results as plain JSON and back."""

import base64
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcompress.report.results import (
  STAGES,
  Entry,
  Layer,
  Point,
  Results,
  Run,
  Sample,
  Search,
  Spread,
  TensorRange,
)

FORMAT = 1


def to_json(results: Results) -> dict[str, Any]:
  """The results as plain JSON: dicts, lists, strings and finite numbers.

  Returns:
    A dict with the objects ``teacher``, ``alone``, ``distilled`` and ``int8``, each with
    ``top1``, ``parameters``, ``macs`` and ``bytes``; ``int8`` also with ``bit_equal`` and
    ``latency_ms`` (null where they were not measured). Further entries are under ``others``.
    Numbers that are not finite become null.

  Examples:
    >>> entries = dict.fromkeys(STAGES, Entry("resnet8", 0.9, 77_850, 12_501_632, 80_000))
    >>> results = Results(Run("digits", ("odd", "even"), (8, 8, 3), 1000, 200), entries)
    >>> data = to_json(results)
    >>> data["int8"]["top1"], data["run"]["classes"]
    (0.9, ['odd', 'even'])
  """
  entries = {key: _entry_json(key, entry) for key, entry in results.entries.items()}
  return {
    "format": FORMAT,
    **{key: entries.pop(key) for key in STAGES},
    "others": entries,
    "run": plain(dataclasses.asdict(results.run)),
    "curves": plain(results.curves),
    "confusion": plain(results.confusion),
    "layers": [_layer_json(layer) for layer in results.layers],
    "ranges": [plain(r._asdict()) for r in results.ranges],
    "samples": [
      s._asdict() | {"png": base64.b64encode(s.png).decode("ascii")} for s in results.samples
    ],
    "preprocess": plain(results.preprocess),
    "search": None if results.search is None else _search_json(results.search),
  }


def from_json(data: Mapping[str, Any]) -> Results:
  """The results that :func:`to_json` wrote.

  Raises:
    ValueError: if an object is missing or the file is of a later format.

  Examples:
    >>> entries = dict.fromkeys(STAGES, Entry("resnet8", 0.9, 77_850, 12_501_632, 80_000))
    >>> results = Results(Run("digits", ("odd", "even"), (8, 8, 3), 1000, 200), entries)
    >>> same = from_json(to_json(results))
    >>> same.run == results.run, same.entries == results.entries
    (True, True)
  """
  if data.get("format", FORMAT) > FORMAT:
    raise ValueError(
      f"format: {data['format']} is later than {FORMAT}, the last that this version reads; "
      "update jaxcompress."
    )
  missing = [key for key in (*STAGES, "run") if key not in data]
  if missing:
    raise ValueError(f"data: {', '.join(missing)} missing; this is no report.json.")
  entries = {key: data[key] for key in STAGES} | dict(data.get("others", {}))
  run = dict(data["run"])
  run |= {"classes": tuple(run["classes"]), "image_shape": tuple(run["image_shape"])}
  confusion = data.get("confusion")
  return Results(
    run=_build(Run, run),
    entries={key: _build(Entry, value) for key, value in entries.items()},
    curves=data.get("curves", {}),
    confusion=None if confusion is None else np.asarray(confusion, np.int64),
    layers=tuple(_layer(layer) for layer in data.get("layers", ())),
    ranges=tuple(TensorRange(**r) for r in data.get("ranges", ())),
    samples=tuple(
      Sample(base64.b64decode(s["png"]), s["label"], s["prediction"])
      for s in data.get("samples", ())
    ),
    preprocess=data.get("preprocess", {}),
    search=None if data.get("search") is None else _search(data["search"]),
  )


def plain(value: Any) -> Any:
  """Arrays, tuples and NumPy scalars as JSON; numbers that are not finite as None.

  Examples:
    >>> plain({"a": np.arange(2), "b": (np.float32(0.5), float("nan"))})
    {'a': [0, 1], 'b': [0.5, None]}
  """
  if isinstance(value, Mapping):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  if isinstance(value, str | bool | int | None):
    return value
  if hasattr(value, "tolist"):  # numpy and jax arrays and scalars
    return plain(value.tolist())
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  return str(value)


def _entry_json(key: str, entry: Entry) -> dict[str, Any]:
  always = ("bit_equal", "latency_ms") if key == "int8" else ()
  fields = plain(dataclasses.asdict(entry))
  return {name: v for name, v in fields.items() if v is not None or name in always}


def _search_json(search: Search) -> dict[str, Any]:
  fields = plain(search._asdict())
  return fields | {"candidates": [plain(one._asdict()) for one in search.candidates]}


def _search(fields: Mapping[str, Any]) -> Search:
  candidates = tuple(Point(**one) for one in fields["candidates"])
  return Search(candidates, fields["reference"], fields["images"])


def _layer_json(layer: Layer) -> dict[str, Any]:
  fields = plain(layer._asdict())
  if layer.weights is not None:
    fields["weights"] = plain(layer.weights._asdict())
    fields["weights"]["absmax"] = plain(layer.weights.high)
    fields["weights"]["spread"] = plain(layer.weights.ratio)
  return fields


def _layer(fields: Mapping[str, Any]) -> Layer:
  weights = fields.get("weights")
  spread = weights and Spread(weights["low"], weights["median"], weights["high"])
  shape = tuple(fields["output_shape"])
  return Layer(**{**fields, "output_shape": shape, "weights": spread or None})


def _build(kind: type, fields: Mapping[str, Any]) -> Any:
  """An instance of a dataclass; fields that it has not are left out, so older code reads on."""
  known = {field.name for field in dataclasses.fields(kind)}
  return kind(**{name: value for name, value in fields.items() if name in known})
