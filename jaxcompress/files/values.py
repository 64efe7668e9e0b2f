"""JSON in files: strict, within bounds, and with a checksum."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from jaxcompress.files.checksums import UNSEALED, read_sealed, seal

SEAL = "seal"  # name of the checksum among the values of a file
MOST_BYTES = 1 << 24
DEEPEST = 64  # lists and objects within each other


def parse_json(text: str | bytes) -> Any:
  """The value of strict JSON.

  Raises:
    ValueError: if it is not JSON; it has a number that is not finite, more than 16 MB, or lists and
      objects more than 64 deep.

  Examples:
    >>> parse_json('{"classes": ["a", "b"]}')
    {'classes': ['a', 'b']}
    >>> parse_json('{"scale": Infinity}')
    Traceback (most recent call last):
    ...
    ValueError: it has the number Infinity, which JSON does not have
  """
  if len(text) > MOST_BYTES:
    raise ValueError(f"it has {len(text):,} bytes, more than {MOST_BYTES:,}")
  try:
    value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
  except RecursionError as error:
    raise ValueError(f"it is nested more than {DEEPEST} deep") from error
  check_depth(value)
  return value


def check_depth(value: Any) -> None:
  """Checks that lists and objects lie at most 64 deep within each other.

  Raises:
    ValueError: if they lie deeper.
  """
  level = [value]
  for _ in range(DEEPEST + 1):
    level = [part for one in level if isinstance(one, (dict, list, tuple)) for part in _parts(one)]
    if not level:
      return
  raise ValueError(f"it is nested more than {DEEPEST} deep")


def read_json(path: str | os.PathLike, what: str) -> Any:
  """The value in a file, with its checksum checked if it has one.

  Args:
    path: of the file.
    what: begins the message, such as ``"model: OUT/student/model.json"``.

  Raises:
    ValueError: if there is no such file, it is damaged, or no strict JSON.
  """
  content, is_sealed = read_sealed(path, what)
  try:
    return without_seal(parse_json(content), is_sealed)
  except ValueError as error:
    raise ValueError(f"{what} is no JSON that can be read ({one_line(error)}).") from error


def sealed_json(values: Mapping[str, Any]) -> str:
  """The text of a file with some values and its checksum.

  Examples:
    >>> print(sealed_json({"a": 1})[:40])
    {
      "a": 1,
      "seal": "jaxcompress-sha25
  """
  text = json.dumps({**values, SEAL: UNSEALED}, indent=2, allow_nan=False) + "\n"
  return seal(text.encode()).decode()


def without_seal(value: Any, is_sealed: bool) -> Any:
  """The values of a file without the checksum.

  Args:
    value: all values.
    is_sealed: whether the file was seen to have a checksum.

  Raises:
    ValueError: if there is a checksum among the values, but not one that was seen.
  """
  if not isinstance(value, dict) or SEAL not in value:
    return value
  if not is_sealed:
    raise ValueError("its checksum is damaged")
  return {name: part for name, part in value.items() if name != SEAL}


def check_format(found: Any, newest: int, what: str) -> None:
  """Checks the number of a file's format.

  Args:
    found: what the file says.
    newest: the number that this version writes; it reads all from 1 on.
    what: begins the message, such as ``"path: model.jcz"``.

  Raises:
    ValueError: if it is newer, or no such number.

  Examples:
    >>> check_format(3, 2, "path: model.jcz")
    Traceback (most recent call last):
    ...
    ValueError: path: model.jcz has format 3 and this version reads 1 to 2; update jaxcompress.
  """
  if type(found) is not int or found < 1:
    raise ValueError(f"{what} has format {one_line(repr(found), 40)}; formats are counted from 1.")
  if found > newest:
    raise ValueError(
      f"{what} has format {one_line(repr(found), 40)} and this version reads 1 to {newest};"
      " update jaxcompress."
    )


def one_line(error: BaseException | str, most: int = 200) -> str:
  """Puts what an error says in one line, to go between brackets; of a long one both ends.

  Examples:
    >>> one_line(ValueError("line one\\n line two."))
    'line one line two'
    >>> one_line(OSError("no room" + 100 * "." + "on the disk"), 40)
    'no room.......... ... ......on the disk'
  """
  text = (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
  half = (most - 5) // 2
  return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def as_tuples(value: Any) -> Any:
  """A value of JSON with tuples in place of lists, which can be hashed.

  Examples:
    >>> as_tuples([1, [2, "a"]])
    (1, (2, 'a'))
  """
  return tuple(map(as_tuples, value)) if isinstance(value, (list, tuple)) else value


def _refuse(constant: str) -> float:
  raise ValueError(f"it has the number {constant}, which JSON does not have")


def _finite(digits: str) -> float:
  number = float(digits)
  return number if math.isfinite(number) else _refuse(digits[:20])


def _parts(value: Any) -> Any:
  return value.values() if isinstance(value, dict) else value
