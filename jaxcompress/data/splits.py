"""Splits that keep every class's share, and images that are in several parts or classes."""

import hashlib
import itertools
import pathlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxcompress.data.images import FileFacts
from jaxcompress.data.walk import printable

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1


def random_order(count: int, seed: int) -> np.ndarray:
  """Random keys for :func:`split_off`: (count,) float64."""
  return np.random.default_rng(seed).random(count)


def name_order(names: list[str], seed: int) -> np.ndarray:
  """Keys for :func:`split_off` that depend on each name alone: (count,) uint64.

  An example so keeps its place, or nearly, when others come and go.
  """
  salt = seed.to_bytes(8, "little")
  data = b"".join(
    hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8, salt=salt).digest()
    for name in names
  )
  return np.frombuffer(data, "<u8")


def split_off(labels: np.ndarray, order: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
  """Takes a share out of every class.

  Args:
    labels: (count,) integers.
    order: (count,) keys; those of a class with the smallest ones are taken.
    share: of each class, 0 to 1; at least one example of each is taken if another one stays.

  Returns:
    ``(rest, taken)``: two ascending arrays of positions in ``labels``.

  Examples:
    >>> rest, taken = split_off(np.array([0, 0, 0, 1, 1, 1]), np.arange(6), 1 / 3)
    >>> rest.tolist(), taken.tolist()
    ([1, 2, 4, 5], [0, 3])
  """
  taken = np.zeros(len(labels), bool)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    count = min(max(round(share * len(members)), 1), len(members) - 1)
    taken[members[np.argsort(order[members], kind="stable")[:count]]] = True
  return np.flatnonzero(~taken), np.flatnonzero(taken)


def three_way(
  labels: np.ndarray, order: np.ndarray, has_test: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Splits into 70 % to train on, 10 % for validation and 20 % to test.

  Args:
    labels: (count,) integers.
    order: keys as of :func:`split_off`.
    has_test: whether there is a test set already; then nothing is taken for it.

  Returns:
    ``(train, validation, test)``: positions in ``labels``.
  """
  rest, test = np.arange(len(labels)), np.zeros(0, np.int64)
  share = VALIDATION_SHARE
  if not has_test:
    rest, test = split_off(labels, order, TEST_SHARE)
    share /= 1 - TEST_SHARE
  train, validation = split_off(labels[rest], order[rest], share)
  return rest[train], rest[validation], test


def at_most(labels: np.ndarray, order: np.ndarray, limit: int | None) -> np.ndarray:
  """Positions of at most ``limit`` examples, ascending, with the classes' shares kept.

  Every class has one as long as there is room.

  Examples:
    >>> at_most(np.array([0, 0, 0, 0, 1, 1]), np.arange(6), 3).tolist()
    [0, 1, 4]
  """
  if limit is None or limit >= len(labels):
    return np.arange(len(labels))
  place = np.zeros(len(labels))
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    ranked = members[np.argsort(order[members], kind="stable")]
    place[ranked] = np.arange(len(ranked)) / len(ranked)
  return np.sort(np.lexsort((order, place))[:limit])


def shared_out(
  parts: Mapping[str, Any], order_of: Callable[[Any], np.ndarray], limit: int | None
) -> dict[str, Any]:
  """All three parts of a set; what is missing is split off the training images.

  Without a test part, validation's is it.

  Args:
    parts: examples with ``labels``, of which ``pick`` takes those at some positions.
    order_of: keys of a part's examples, as of :func:`split_off`.
    limit: at most this many examples in each part; None: all.
  """
  if "test" not in parts and "validation" in parts:
    parts = {"train": parts["train"], "test": parts["validation"]}
  if len(parts) < 3:
    whole = parts["train"]
    places = three_way(whole.labels, order_of(whole), "test" in parts)
    train, validation, test = map(whole.pick, places)
    parts = {"train": train, "validation": validation, "test": parts.get("test", test)}
  return {
    part: found.pick(at_most(found.labels, order_of(found), limit)) for part, found in parts.items()
  }


def pixel_keys(pixels: np.ndarray) -> list[bytes]:
  """A key for each image, equal for equal pixels.

  Examples:
    >>> first, second, third = pixel_keys(np.array([[[[1]]], [[[2]]], [[[1]]]], np.uint8))
    >>> first == third, first == second
    (True, False)
  """
  with ThreadPoolExecutor() as pool:
    return list(pool.map(lambda image: hashlib.blake2b(image, digest_size=16).digest(), pixels))


def file_keys(paths: Sequence[pathlib.Path], facts: Sequence[FileFacts]) -> list[bytes]:
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


def repeated_notes(parts: Mapping[str, Sequence[tuple[Hashable, int, str]]]) -> tuple[str, ...]:
  """Lines that tell of images that are in two parts, or in two classes.

  Args:
    parts: key, label and file of each part's images.

  Examples:
    >>> parts = {
    ...   "train": [("x", 0, "a/1.png"), ("y", 1, "b/1.png")],
    ...   "test": [("z", 1, "b/2.png"), ("x", 0, "a/2.png")],
    ... }
    >>> repeated_notes(parts)
    ('1 of 2 test images is a train image too (a/2.png is a/1.png)',)
  """
  notes = []
  first: dict[str, dict[Hashable, str]] = {part: {} for part in parts}
  classes: dict[Hashable, dict[int, str]] = {}
  for part, examples in parts.items():
    for key, label, name in examples:
      first[part].setdefault(key, name)
      classes.setdefault(key, {}).setdefault(label, name)
  for earlier, part in itertools.combinations(parts, 2):
    known = first[earlier]
    again = [f"{name} is {known[key]}" for key, _, name in parts[part] if key in known]
    if again:
      what = f"is a {earlier} image" if len(again) == 1 else f"are {earlier} images"
      count = f"{len(again):,} of {len(parts[part]):,} {part} images"
      notes.append(f"{count} {what} too ({printable(again[0])})")
  torn = [list(found.values()) for found in classes.values() if len(found) > 1]
  if torn:
    what = "image is" if len(torn) == 1 else "images are"
    example = f"{torn[0][0]} is {torn[0][1]}"
    notes.append(f"{len(torn):,} {what} in several classes ({printable(example)})")
  return tuple(notes)
