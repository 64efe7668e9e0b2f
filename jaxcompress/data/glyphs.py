"""The built-in set: characters in many fonts, colours and poses, made on the spot."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxcompress.data.dataset import Dataset, Split
from jaxcompress.data.glyph_atlas import CLASSES, FONTS, atlas
from jaxcompress.data.glyph_render import CHUNK, GlyphStyle, render
from jaxcompress.data.storage import read_cached, write_cached

VERSION = 1  # of the pictures; raise it when they change, so that no older cache is read
COUNTS = {"train": 24_000, "validation": 2_000, "test": 4_000}
STREAMS = {"train": 0, "validation": 1, "test": 2}


def glyphs(*, seed: int = 0, size: int = 32, limit: int | None = None) -> Dataset:
  """47 classes of characters as in EMNIST-balanced, rendered from matplotlib's bundled fonts.

  24,000 images to train on, 2,000 for validation and 4,000 to test, each part from random numbers
  of its own; see :class:`GlyphStyle` for what varies. Rendered images are kept under
  ``~/.cache/jaxcompress`` (or ``$XDG_CACHE_HOME``).

  Args:
    seed: of everything random.
    size: side of the images in pixels.
    limit: at most this many images in each part; they are the first of the whole part.

  Returns:
    A :class:`Dataset` of (size, size, 3) images.

  Raises:
    ValueError: if ``size`` is out of range or a bundled font is missing.

  Examples:
    >>> glyphs(limit=47).train.images.shape
    (47, 32, 32, 3)
  """
  style = GlyphStyle(size=size)
  parts: Any = {
    part: _part(style, seed, STREAMS[part], count if limit is None else min(count, limit))
    for part, count in COUNTS.items()
  }
  return Dataset(name="glyphs", classes=CLASSES, flip=False, **parts)


def _part(style: GlyphStyle, seed: int, stream: int, count: int) -> Split:
  """The first ``count`` pictures of a stream, from the cache as far as it has them."""
  key = repr((VERSION, style, FONTS, seed, stream))
  name = f"glyphs-{style.size}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
  stored = _valid(read_cached(name), style.size)
  if len(stored) < count:
    stored = np.concatenate([stored, _render_from(style, seed, stream, len(stored), count)])
    write_cached(name, stored)
  return Split(stored[:count], labels_of(range(count)))


def labels_of(positions: Sequence[int]) -> np.ndarray:
  """Labels of the pictures at some positions: all classes in turn, so every part is balanced."""
  return np.asarray(positions, np.int32) % len(CLASSES)


def _valid(images: np.ndarray | None, size: int) -> np.ndarray:
  """Cached pictures in whole chunks, or none of them."""
  shape = (size, size, 3)
  if images is None or images.dtype != np.uint8 or images.shape[1:] != shape or len(images) % CHUNK:
    return np.zeros((0, *shape), np.uint8)
  return images


def _render_from(style: GlyphStyle, seed: int, stream: int, start: int, stop: int) -> np.ndarray:
  """Whole chunks of pictures that cover ``start`` to ``stop``."""
  atlas(style.size)  # once, before the threads
  fonts = np.arange(len(FONTS))

  def chunk(number: int) -> np.ndarray:
    labels = labels_of(range(number * CHUNK, (number + 1) * CHUNK))
    return render(style, labels, fonts, (seed, stream, number))

  with ThreadPoolExecutor(4) as pool:  # numpy lets other threads run
    return np.concatenate(list(pool.map(chunk, range(start // CHUNK, -(-stop // CHUNK)))))
