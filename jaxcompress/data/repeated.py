"""The same image in several parts of a data set, or in two classes."""

import hashlib
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
  """Lines that tell of images that are in the training images and another part, or in two classes.

  Args:
    parts: keys of the images of ``train``, ``validation`` and ``test``.
    labels: of each part.
    names: of the images' files, likewise.

  Examples:
    >>> parts = {"train": ["x", "y"], "test": ["z", "x"]}
    >>> labels = {"train": np.array([0, 1]), "test": np.array([1, 0])}
    >>> names = {"train": ["a/1.png", "b/1.png"], "test": ["b/2.png", "a/2.png"]}
    >>> repeated_notes(parts, labels, names)
    ('1 of 2 test images is a training image too (a/2.png is a/1.png)',)
  """
  notes = []
  trained: dict[Hashable, str] = {}
  for key, name in zip(parts["train"], names["train"], strict=True):
    trained.setdefault(key, name)
  for part in parts:
    again = [i for i, key in enumerate(parts[part]) if key in trained]
    if part != "train" and again:
      verb, what = ("is a", "image") if len(again) == 1 else ("are", "images")
      other, own = names[part][again[0]], trained[parts[part][again[0]]]
      notes.append(
        f"{len(again):,} of {len(parts[part]):,} {part} images {verb} training {what} too"
        f" ({printable(other)} is {printable(own)})"
      )
  classes: dict[Hashable, dict[int, str]] = {}
  for part, keys in parts.items():
    for key, label, name in zip(keys, labels[part].tolist(), names[part], strict=True):
      classes.setdefault(key, {}).setdefault(label, name)
  torn = [list(found.values()) for found in classes.values() if len(found) > 1]
  if torn:
    verb = "image is" if len(torn) == 1 else "images are"
    first, second = map(printable, torn[0][:2])
    notes.append(f"{len(torn):,} {verb} in several classes ({first} is {second})")
  return tuple(notes)
