"""The small JSON files of a run, checked as they are read: a damaged one is named."""

import math
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from jaxcompress.files.checksums import check_seal
from jaxcompress.files.values import one_line, parse_json, sealed_json, without_seal
from jaxcompress.files.writing import write_atomically
from jaxcompress.training.variables import first_line

DELETE = "delete it, and what it held is found again"  # a remedy
ROWS = "rows"  # under which a list is sealed
T = TypeVar("T")
WORDS = {
  bool: "true or false",
  int: "a whole number",
  float: "a finite number",
  str: "a text",
  type(None): "none",
}


def read_json(path: pathlib.Path, kind: type[T], remedy: str) -> T:
  """The value of a JSON file.

  Args:
    path: the file.
    kind: ``dict`` or ``list``, of which the value must be.
    remedy: what to do about a damaged file.

  Raises:
    ValueError: naming the file, if it cannot be read, is no JSON or holds another kind of value.

  Examples:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.json"
    >>> _ = path.write_text("null")
    >>> try:
    ...   read_json(path, dict, "start anew")
    ... except ValueError as error:
    ...   print(str(error).replace(str(path), "run.json"))
    file: run.json is damaged (it holds no dict); start anew.
  """
  try:
    content = path.read_bytes()
    is_sealed = check_seal(content, "the file")  # those of earlier versions are not
    value = without_seal(parse_json(content), is_sealed)
  except OSError as error:
    raise ValueError(f"file: {path} cannot be read ({error.strerror}).") from error
  except ValueError as error:
    raise damaged(path, one_line(error), remedy) from error
  if kind is list and isinstance(value, dict):
    value = value.get(ROWS)
  if not isinstance(value, kind):
    raise damaged(path, f"it holds no {kind.__name__}", remedy)
  return value


def write_json(path: pathlib.Path, values: Mapping[str, Any] | Sequence[Any]) -> None:
  """Writes what :func:`read_json` reads, with its checksum, at once or not at all.

  Raises:
    ValueError: if it cannot be written.
  """
  write_atomically(path, sealed_json(values if isinstance(values, Mapping) else {ROWS: values}))


def built(kind: type[T], fields: Any, path: pathlib.Path, remedy: str) -> T:
  """A dataclass or NamedTuple of the fields that a file holds.

  Args:
    kind: what to build.
    fields: by name, or a list of them in order.
    path: the file.
    remedy: what to do about a damaged file.

  Raises:
    ValueError: naming the file, if a field is missing, unknown or of another type.

  Examples:
    >>> from jaxcompress.report import Candidate
    >>> built(Candidate, ["a", 9, 0.5], pathlib.Path("a.json"), "delete it").bytes
    9
    >>> built(Candidate, ["a", None, 0.5], pathlib.Path("a.json"), "delete it")
    Traceback (most recent call last):
    ValueError: file: a.json is damaged (bytes: None must be a whole number); delete it.
  """
  names = list(typing.get_type_hints(kind))
  if isinstance(fields, list) and len(fields) <= len(names):
    fields = dict(zip(names, fields, strict=False))
  if not isinstance(fields, Mapping):
    raise damaged(path, f"{fields!r:.40} is no {kind.__name__}", remedy)
  wrong = mistyped(kind, fields)
  if wrong is not None:
    raise damaged(path, wrong, remedy)
  try:
    return kind(**fields)
  except (TypeError, ValueError) as error:  # a field is missing, or out of range
    raise damaged(path, first_line(error).rstrip("."), remedy) from error


def mistyped(kind: type, fields: Mapping[str, Any]) -> str | None:
  """The first field that a dataclass or NamedTuple does not take, in words; None if it takes all.

  Examples:
    >>> from jaxcompress.report import Candidate
    >>> mistyped(Candidate, {"name": "a", "bytes": 1.5})
    'bytes: 1.5 must be a whole number'
    >>> mistyped(Candidate, {"name": "a", "size": 1})
    'size: Candidate has no such field'
  """
  hints = typing.get_type_hints(kind)
  for name, value in fields.items():
    if name not in hints:
      return f"{name}: {kind.__name__} has no such field"
    if not _fits(value, hints[name]):
      words = [WORDS[one] for one in _choices(hints[name]) if one in WORDS]
      return f"{name}: {value!r:.40} must be {' or '.join(words) or 'another value'}"
  return None


def damaged(path: pathlib.Path, reason: str, remedy: str) -> ValueError:
  """The error for a file that cannot be used.

  Examples:
    >>> str(damaged(pathlib.Path("a.json"), "it is empty", "delete it"))
    'file: a.json is damaged (it is empty); delete it.'
  """
  return ValueError(f"file: {path} is damaged ({reason}); {remedy}.")


def _choices(hint: Any) -> tuple[Any, ...]:
  is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
  return typing.get_args(hint) if is_union else (hint,)


def _fits(value: Any, hint: Any) -> bool:
  return any(_is(value, one) for one in _choices(hint))


def _is(value: Any, kind: Any) -> bool:
  """Whether a value of JSON, or one that Python code gives, is of a type."""
  outer = typing.get_origin(kind) or kind
  if outer in (int, float) and isinstance(value, bool):
    return False
  if outer is float:
    return isinstance(value, int | float) and _finite(value)
  if outer is tuple:
    return isinstance(value, list | tuple)
  return isinstance(value, outer) if isinstance(outer, type) else True


def _finite(value: float) -> bool:
  try:
    return math.isfinite(value)
  except OverflowError:  # a whole number beyond all floats
    return False
