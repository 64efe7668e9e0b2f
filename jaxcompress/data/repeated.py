"""The same image in several parts of a data set, or in two classes."""

import hashlib
import itertools
import pathlib
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxcompress.data.images import Facts
from jaxcompress.data.names import printable


def pixel_keys(pixels: np.ndarray) -> list[bytes]:
  """A key for each image, equal for equal pixels.

  Examples:
    >>> first, second, third = pixel_keys(np.array([[[[1]]], [[[2]]], [[[1]]]], np.uint8))
    >>> first == third, first == second
    (True, False)
  """
  with ThreadPoolExecutor() as pool:
    return list(pool.map(lambda image: hashlib.blake2b(image, digest_size=16).digest(), pixels))


def file_keys(paths: Sequence[pathlib.Path], facts: Sequence[Facts]) -> list[bytes]:
  """A key for each file, equal for equal files; those alone in their length and ends are not read."""
  alike: dict[bytes, list[int]] = {}
  for i, fact in enumerate(facts):
    alike.setdefault(fact.digest, []).append(i)
  keys = [fact.digest for fact in facts]
  for positions in alike.values():
    for i in positions if len(positions) > 1 else ():
      with paths[i].open("rb") as file:
        keys[i] = hashlib.file_digest(file, "blake2b").digest()
  return keys


def repeated_notes(
  parts: Mapping[str, Sequence[Hashable]],
  labels: Mapping[str, np.ndarray],
  names: Mapping[str, Sequence[str]],
) -> tuple[str, ...]:
  """Lines that tell of images that are in two parts, or in two classes.

  Args:
    parts: keys of the images of each part.
    labels: of each part.
    names: of the images' files, likewise.

  Examples:
    >>> parts = {"train": ["x", "y"], "test": ["z", "x"]}
    >>> labels = {"train": np.array([0, 1]), "test": np.array([1, 0])}
    >>> names = {"train": ["a/1.png", "b/1.png"], "test": ["b/2.png", "a/2.png"]}
    >>> repeated_notes(parts, labels, names)
    ('1 of 2 test images is a train image too (a/2.png is a/1.png)',)
  """
  notes = []
  first: dict[str, dict[Hashable, str]] = {part: {} for part in parts}
  classes: dict[Hashable, dict[int, str]] = {}
  for part, keys in parts.items():
    for key, label, name in zip(keys, labels[part].tolist(), names[part], strict=True):
      first[part].setdefault(key, name)
      classes.setdefault(key, {}).setdefault(label, name)
  for earlier, part in itertools.combinations(parts, 2):
    again = [i for i, key in enumerate(parts[part]) if key in first[earlier]]
    if again:
      what = f"is a {earlier} image" if len(again) == 1 else f"are {earlier} images"
      example = f"{names[part][again[0]]} is {first[earlier][parts[part][again[0]]]}"
      count = f"{len(again):,} of {len(parts[part]):,} {part} images"
      notes.append(f"{count} {what} too ({printable(example)})")
  torn = [list(found.values()) for found in classes.values() if len(found) > 1]
  if torn:
    what = "image is" if len(torn) == 1 else "images are"
    example = f"{torn[0][0]} is {torn[0][1]}"
    notes.append(f"{len(torn):,} {what} in several classes ({printable(example)})")
  return tuple(notes)
