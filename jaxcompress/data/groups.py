"""Groups of images that stay in one split: those in whose names a pattern finds the same text."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxcompress.arguments import counted
from jaxcompress.data.splits import name_order
from jaxcompress.data.walk import normal, printable

SHOWN = 3  # names in a note


class Grouping(NamedTuple):
  """Groups of images.

  Attributes:
    order: by part, keys for splits: of the group's text, or of the name of an image that is alone.
    groups: by part, (count,) integers, equal for images of one group, in other parts too.
    notes: a line on them; none without a pattern.
  """

  order: dict[str, np.ndarray]
  groups: dict[str, np.ndarray]
  notes: tuple[str, ...]


def grouped(names: Mapping[str, Sequence[str]], pattern: str | None, seed: int) -> Grouping:
  r"""Groups images by their names.

  Args:
    names: by part, paths of files below it, such as ``cat/burst3_1.jpg``.
    pattern: a regular expression; the text of its first group, or else all that it finds, is the group
      of an image. An image in whose name it finds nothing is alone. None: all are alone.
    seed: of the keys.

  Raises:
    ValueError: if the pattern is no regular expression, or finds nothing or the same in all names.

  Examples:
    >>> names = {"train": ["cat/a_1.jpg", "cat/a_2.jpg", "dog/b_1.jpg", "dog/c.jpg"]}
    >>> found = grouped(names, r"(\w)_", 0)
    >>> found.groups["train"].tolist(), found.notes
    ([0, 0, 1, 2], ('group_by: 2 groups of 3 images; 1 image is alone, it does not match (dog/c.jpg)',))
  """
  if pattern is None:
    return _alone(names, seed)
  texts = {part: [_text(name, pattern) for name in found] for part, found in names.items()}
  number: dict[tuple[str, str], int] = {}
  order, groups = {}, {}
  for part, found in names.items():
    alone = [("name", f"{part}/{name}") for name in found]
    keys = [
      one if text is None else ("text", text) for one, text in zip(alone, texts[part], strict=True)
    ]
    groups[part] = np.array([number.setdefault(key, len(number)) for key in keys], np.int64)
    salted = [
      normal(name) if text is None else text for name, text in zip(found, texts[part], strict=True)
    ]
    order[part] = name_order(salted, seed)
  return Grouping(order, groups, (_note(names, texts, pattern),))


def _alone(names: Mapping[str, Sequence[str]], seed: int) -> Grouping:
  order = {
    part: name_order([normal(name) for name in found], seed) for part, found in names.items()
  }
  starts = np.cumsum([0, *map(len, names.values())])
  groups = {
    part: np.arange(start, start + len(found))
    for start, (part, found) in zip(starts, names.items(), strict=False)
  }
  return Grouping(order, groups, ())


def _text(name: str, pattern: str) -> str | None:
  """Returns the part of a name that the pattern matches; None if that is empty."""
  found = _compiled(pattern).search(name)
  if found is None:
    return None
  return (found[1] if found.re.groups and found[1] else found[0]) or None


def _compiled(pattern: str) -> re.Pattern[str]:
  try:
    return re.compile(pattern)
  except re.error as error:
    raise ValueError(
      f"group_by: {pattern!r} is no regular expression ({error}); give one such as '(burst[0-9]+)_'."
    ) from error


def _note(
  names: Mapping[str, Sequence[str]], texts: Mapping[str, Sequence[str | None]], pattern: str
) -> str:
  pairs = [pair for part in names for pair in zip(names[part], texts[part], strict=True)]
  alone = [name for name, text in pairs if text is None]
  found = {text for _, text in pairs if text is not None}
  if not found:
    raise ValueError(
      f"group_by: {pattern!r} finds nothing in the names, such as {printable(pairs[0][0])!r}; it must match"
      " those of images that belong together."
    )
  if len(found) == 1 and not alone:
    raise ValueError(
      f"group_by: {pattern!r} finds the same, {printable(min(found))!r}, in all {len(pairs):,} names, such as"
      f" {printable(pairs[0][0])!r}; it must tell groups apart."
    )
  line = f"group_by: {counted(len(found), 'group')} of {counted(len(pairs) - len(alone), 'image')}"
  if not alone:
    return line
  what = counted(len(alone), "image is alone, it does", "images are alone, they do")
  shown = printable(", ".join(alone[:SHOWN])) + ", ..." * (len(alone) > SHOWN)
  return f"{line}; {what} not match ({shown})"
