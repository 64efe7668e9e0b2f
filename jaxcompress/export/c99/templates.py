"""Texts of C and others with names between at signs, such as ``@header@``, that are filled in."""

import pathlib
import re
import textwrap
from collections.abc import Sequence

FOLDER = pathlib.Path(__file__).parent / "around"
PLACE = re.compile(r"@(\w+)@")


def fill(template: str, **values: object) -> str:
  """A text around the sources, with values in its places.

  Args:
    template: name of the file.
    **values: for each place one.

  Raises:
    KeyError: if one is missing.
  """
  return fill_text((FOLDER / template).read_text(), **values)


def fill_text(text: str, **values: object) -> str:
  """As :func:`fill`, of a text.

  Examples:
    >>> fill_text("int @name@_x;", name="net")
    'int net_x;'
  """
  return PLACE.sub(lambda found: str(values[found[1]]), text)


def lines_of(numbers: Sequence[int], width: int = 100) -> str:
  """Numbers between commas, in lines.

  Examples:
    >>> print(lines_of([1, 2, 3], 8))
      1, 2,
      3
  """
  return textwrap.fill(
    ", ".join(map(str, numbers)), width, initial_indent="  ", subsequent_indent="  "
  )
