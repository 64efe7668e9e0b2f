"""Checks which image files can be decoded, and which are equal; cached for sets that stay on disk."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcompress.data import images
from jaxcompress.data.images import Damage
from jaxcompress.data.reader import ImageReader
from jaxcompress.data.sources import Stored, opened
from jaxcompress.data.storage import read_cached, write_cached

DIGEST = 16  # bytes


class Sound(NamedTuple):
  """The results of decoding files.

  Attributes:
    keys: of each file, equal for equal pixels; empty where it is damaged.
    damage: what is wrong with those, by position.
    pixels: (count, height, width, channels) uint8, whose rows of damaged files mean nothing; None where
      they were not wanted.
  """

  keys: list[bytes]
  damage: Damage
  pixels: np.ndarray | None


def decoded(paths: Sequence[images.Picture], reader: ImageReader) -> Sound:
  """Decodes files into memory.

  Args:
    paths: of the files, or pictures that are stored otherwise.
    reader: how; it has a size.

  Raises:
    ValueError: if the arrays would not fit in memory.
  """
  pixels, damage = images.decode_sound(paths, reader)
  keys, _ = images.for_each(_key, pixels, os.cpu_count())
  return Sound([b"" if i in damage else key for i, key in enumerate(keys)], damage, pixels)


def decodable(paths: Sequence[images.Picture], reader: ImageReader, home: pathlib.Path) -> Sound:
  """Decodes every file once and forgets its pixels, so that none fails later in training.

  Keys are kept in the cache's folder: files that have not changed since are not decoded again.

  Args:
    paths: of the files, or pictures that are stored otherwise.
    reader: how; it has a size.
    home: the set's folder; what is kept is kept for each apart.
  """
  where = os.fsencode(home.absolute())
  name = f"sound-{_digest(repr((where, _way(reader))).encode()).hex()}.npz"
  stamps, damage = images.for_each(_stamp, paths)
  known = _remembered(name)

  def find(i: int) -> bytes:
    return known.get(stamps[i]) or _key(reader(opened(paths[i])))

  places = [i for i in range(len(paths)) if i not in damage]
  found, failed = images.for_each(find, places, os.cpu_count())
  keys = dict(zip(places, (key or b"" for key in found), strict=True))
  damage = damage | {places[i]: text for i, text in failed.items()}
  fresh = {stamps[i]: key for i, key in keys.items() if key}
  if fresh.keys() - known.keys():
    rows = [np.frombuffer(stamp + key, np.uint8) for stamp, key in (known | fresh).items()]
    write_cached(name, np.stack(rows))
  return Sound([keys.get(i, b"") for i in range(len(paths))], damage, None)


def _remembered(name: str) -> dict[bytes, bytes]:
  """Keys by the stamps of files."""
  rows = read_cached(name)
  if rows is None or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 2 * DIGEST:
    return {}
  return {row[:DIGEST].tobytes(): row[DIGEST:].tobytes() for row in rows}


def _stamp(path: pathlib.Path | Stored) -> bytes:
  """Returns a hash of a file's name, length and time, which changes when the file does."""
  if isinstance(path, Stored):
    return _digest(path.stamp())
  facts = path.stat()
  return _digest(repr((os.fsencode(path.absolute()), facts.st_size, facts.st_mtime_ns)).encode())


def _key(pixels: np.ndarray) -> bytes:
  return _digest(np.ascontiguousarray(pixels))


def _way(reader: ImageReader) -> dict:
  """Returns the fields of a reader that the pixels depend on."""
  fields = (field.name for field in dataclasses.fields(reader))
  return {name: getattr(reader, name) for name in fields if name != "preprocess"}


def _digest(data: bytes | np.ndarray) -> bytes:
  return hashlib.blake2b(data, digest_size=DIGEST).digest()  # type: ignore[arg-type]
