"""Dataclasses and tuples as JSON and back: types, and names that are unknown, are checked."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from jaxcompress.files.checksums import check_seal
from jaxcompress.files.values import one_line, parse_json, sealed_json, without_seal
from jaxcompress.files.writing import write_atomically

ROWS = "rows"  # under which a list is sealed
T = TypeVar("T")


def plain(value: Any) -> Any:
  """A value as JSON: dataclasses by name, named tuples in order, arrays as lists, bytes in base64.

  Numbers that are not finite become None, and any other value its text.

  Examples:
    >>> import numpy as np
    >>> plain({"a": np.arange(2), "b": (np.float32(0.5), float("nan"), b"png")})
    {'a': [0, 1], 'b': [0.5, None, 'cG5n']}
  """
  text = json.dumps(msgspec.to_builtins(value, str_keys=True, enc_hook=_from_array))
  return json.loads(text, parse_constant=lambda _: None)


def from_plain(kind: type[T], value: Any, *, newer: bool = False) -> T:
  """A dataclass, a named tuple, or a list or dict of them, from what :func:`plain` made of it.

  Args:
    kind: such as ``Entry`` or ``dict[str, Entry]``.
    value: of JSON.
    newer: whether a later version may have written it: names that are unknown are left out then.

  Raises:
    ValueError: in a sentence without its full stop, if a field is missing, unknown, out of range or
      of another type.

  Examples:
    >>> from typing import NamedTuple
    >>> class Pair(NamedTuple):
    ...   name: str
    ...   size: int = 0
    >>> from_plain(list[Pair], [["a", 9], ["b"]])
    [Pair(name='a', size=9), Pair(name='b', size=0)]
    >>> from_plain(dict[str, Pair], {"first": ["a", True]})
    Traceback (most recent call last):
    ValueError: [1]: Expected int, got bool
  """
  try:
    made = msgspec.convert(value, kind)
  except msgspec.ValidationError as error:
    what, _, place = str(error).replace("[...]", "").partition(" - at `$")
    place = place.strip("`.")
    raise ValueError(f"{place}: {what}".removeprefix(": ").replace("`", "").rstrip(".")) from error
  unknown = None if newer else _unknown(value, msgspec.to_builtins(made))
  if unknown is not None:
    raise ValueError(f"{unknown}: there is no such field")
  return made


def read_record(path: pathlib.Path, kind: type[T], remedy: str) -> T:
  """Reads a file of :func:`write_record`, or one of earlier versions, without a checksum.

  Args:
    path: of the file.
    kind: as for :func:`from_plain`.
    remedy: what to do about a damaged file.

  Raises:
    ValueError: naming the file, if it cannot be read or is damaged.

  Examples:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.json"
    >>> _ = path.write_text("null")
    >>> try:
    ...   read_record(path, dict[str, int], "start anew")
    ... except ValueError as error:
    ...   print(str(error).replace(str(path), "run.json"))
    file: run.json is damaged (Expected object, got null); start anew.
  """
  try:
    content = path.read_bytes()
    value = without_seal(parse_json(content), check_seal(content, "the file"))
    return from_plain(
      kind, value[ROWS] if isinstance(value, dict) and [*value] == [ROWS] else value
    )
  except OSError as error:
    raise ValueError(f"file: {path} cannot be read ({error.strerror}).") from error
  except ValueError as error:
    raise damaged(path, error, remedy) from error


def write_record(path: pathlib.Path, value: Any) -> None:
  """Writes a value of :func:`plain` with its checksum, at once or not at all.

  Raises:
    ValueError: if it cannot be written.
  """
  found = plain(value)
  write_atomically(path, sealed_json(found if isinstance(found, Mapping) else {ROWS: found}))


def damaged(path: pathlib.Path, reason: BaseException | str, remedy: str) -> ValueError:
  """The error for a file that cannot be used.

  Examples:
    >>> str(damaged(pathlib.Path("a.json"), "it is empty.", "delete it"))
    'file: a.json is damaged (it is empty); delete it.'
  """
  return ValueError(f"file: {path} is damaged ({one_line(reason)}); {remedy}.")


def _from_array(value: Any) -> Any:
  """NumPy's and JAX's arrays and scalars."""
  return value.tolist() if hasattr(value, "tolist") else str(value)


def _unknown(given: Any, kept: Any) -> str | None:
  """The first name that was given and not kept."""
  if isinstance(given, dict):
    name = next((name for name in given if name not in kept), None)
    return name or _first(_unknown(part, kept[key]) for key, part in given.items())
  if isinstance(given, list) and isinstance(kept, list):
    return _first(map(_unknown, given, kept))
  return None


def _first(names: Any) -> str | None:
  return next(filter(None, names), None)
