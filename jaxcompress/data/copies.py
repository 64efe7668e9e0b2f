"""Images that are in several classes or splits, and what is left out for it."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxcompress.arguments import counted
from jaxcompress.data.walk import printable

DAMAGED, TORN, CROSSING = "damaged", "in several classes", "in several splits"
GROUPED = "of a group that another split has"
SHOWN = 3  # in a note


class Skipped(NamedTuple):
  """An image file that is left out.

  Attributes:
    name: of the file, below the folder.
    kind: ``"damaged"``, ``"in several classes"``, ``"in several splits"`` or ``"of a group that another
      split has"``.
    reason: what is wrong with it, or which other file it is a copy of.
  """

  name: str
  kind: str
  reason: str


def torn(
  keys: Sequence[Hashable], labels: np.ndarray, name: Callable[[int], str]
) -> dict[int, Skipped]:
  """Copies that have several labels: which one is right cannot be known.

  Args:
    keys: of all images, equal for copies.
    labels: their labels.
    name: the file's of an image.

  Returns:
    What is left out, by position.

  Examples:
    >>> found = torn(["x", "y", "x"], np.array([0, 0, 1]), "a/1 a/2 b/1".split().__getitem__)
    >>> {place: one.reason for place, one in found.items()}
    {0: 'it is b/1 too', 2: 'it is a/1 too'}
  """
  firsts: dict[Hashable, dict[int, int]] = {}
  for i, (key, label) in enumerate(zip(keys, labels.tolist(), strict=True)):
    firsts.setdefault(key, {}).setdefault(label, i)
  found = {}
  for i, (key, label) in enumerate(zip(keys, labels.tolist(), strict=True)):
    others = [place for other, place in firsts[key].items() if other != label]
    if others:
      found[i] = Skipped(name(i), TORN, f"it is {name(others[0])} too")
  return found


def crossing(
  parts: Mapping[str, np.ndarray],
  keys: Sequence[Hashable],
  groups: np.ndarray,
  name: Callable[[int], str],
) -> dict[int, Skipped]:
  """Images that are in a later part too, or are of a group that one has: what is tested stays.

  Args:
    parts: positions of each part's images, in the order in which they give way.
    keys: of all images, equal for copies.
    groups: of all images, equal for those that must not be apart.
    name: the file's of an image.

  Returns:
    What is left out, by position.

  Examples:
    >>> parts = {"train": np.array([0, 1]), "test": np.array([2])}
    >>> names = "train/1 train/2 test/1".split()
    >>> crossing(parts, ["x", "y", "y"], np.array([0, 1, 1]), names.__getitem__)[1].reason
    'it is test/1 too'
  """
  found: dict[int, Skipped] = {}
  kept_keys: dict[Hashable, int] = {}
  kept_groups: dict[int, int] = {}
  for places in reversed(tuple(parts.values())):
    here = places.tolist()
    for i in here:
      if keys[i] in kept_keys:
        found[i] = Skipped(name(i), CROSSING, f"it is {name(kept_keys[keys[i]])} too")
      elif groups[i] in kept_groups:
        found[i] = Skipped(name(i), GROUPED, f"{name(kept_groups[groups[i]])} is of it too")
    for i in here:
      if i not in found:
        kept_keys.setdefault(keys[i], i)
        kept_groups.setdefault(groups[i], i)
  return found


def again(
  keys: Sequence[Hashable], kept: Sequence[int], name: Callable[[int], str]
) -> tuple[str, ...]:
  """A line on copies that are in one class and one part, if there are any.

  Examples:
    >>> again(["x", "y", "x"], [0, 1, 2], "a/1 a/2 a/3".split().__getitem__)
    ('1 image is a copy of another of its class and in the same split (a/3 is a/1)',)
  """
  first: dict[Hashable, int] = {}
  found = [(i, first[keys[i]]) for i in kept if first.setdefault(keys[i], i) != i]
  if not found:
    return ()
  what = counted(
    len(found), "image is a copy of another of its", "images are copies of others of their"
  )
  shown = ", ".join(f"{name(i)} is {name(other)}" for i, other in found[:SHOWN])
  more = ", ..." * (len(found) > SHOWN)
  return (f"{what} class and in the same split ({printable(shown)}{more})",)


def notes(skipped: Sequence[Skipped]) -> tuple[str, ...]:
  """Lines that count what is left out, by kind, with the first names.

  Examples:
    >>> notes([Skipped("cat/1.png", DAMAGED, "it is empty")])
    ('1 image is left out: damaged (cat/1.png: it is empty)',)
  """
  lines = []
  for kind in dict.fromkeys(one.kind for one in skipped):
    found = [one for one in skipped if one.kind == kind]
    shown = "; ".join(f"{one.name}: {one.reason}" for one in found[:SHOWN])
    more = "; ..." * (len(found) > SHOWN)
    count = counted(len(found), "image is", "images are")
    lines.append(f"{count} left out: {kind} ({printable(shown)}{more})")
  return tuple(lines)
