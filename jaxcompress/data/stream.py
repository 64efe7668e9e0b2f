"""Batches read ahead by processes of their own (grain)."""

import dataclasses
import gc
import multiprocessing
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxcompress.data import images
from jaxcompress.data.dataset import Split
from jaxcompress.data.order import Batch, batch_indices
from jaxcompress.data.storage import EncodedImages

AHEAD = 2  # batches that each process has ready


class InputError(RuntimeError):
  """A process that reads images has ended before its time; batches can be asked for again.

  Examples:
    >>> issubclass(InputError, ValueError)  # it is no mistake of the caller's
    False
  """


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
  """Reads a batch by its position; sent to the processes that do it."""

  split: Split
  batch_size: int
  seed: int
  rows: np.ndarray | None

  def __call__(self, position: int) -> Batch:
    index = batch_indices(len(self.split), self.batch_size, seed=self.seed, position=position)
    index = index if self.rows is None else index[self.rows]
    pixels = self.split.images
    if isinstance(pixels, EncodedImages):
      found = images.decode(pixels.read(pixels.place[index]), pixels.size, threads=1)
    else:
      found = pixels[index]
    return {"image": found, "label": self.split.labels[index], "index": index}


class Stream:
  """``batch_at`` of a training run, read ahead in the order of positions.

  A batch is a function of the seed, the position and ``rows`` alone, the one that
  :func:`~jaxcompress.data.batch_at` gives; there is no state to save. Asking for another position
  than the next starts anew there.

  Args:
    split: the examples.
    batch_size: of all processes together.
    seed: of the order.
    stop: positions end here.
    rows: which of each batch's examples are wanted; None: all.
    workers: processes that read and decode; 0: threads of this one. None: one for each CPU core but
      one, at most 16.

  Raises:
    ValueError: if ``workers`` is negative; when called, if an image is damaged.
    InputError: when called, if a process was killed.

  Examples:
    >>> split = Split(np.zeros((6, 8, 8, 3), np.uint8), np.arange(6, dtype=np.int32))
    >>> with Stream(split, 2, seed=0, stop=4, workers=0) as batch_at:
    ...   batch_at(0)["image"].shape, batch_at(1)["label"].shape
    ((2, 8, 8, 3), (2,))
  """

  def __init__(
    self,
    split: Split,
    batch_size: int,
    *,
    seed: int,
    stop: int,
    rows: np.ndarray | None = None,
    workers: int | None = None,
  ):
    if workers is None:
      workers = min(16, max(1, (os.cpu_count() or 2) - 1))
    if workers < 0:
      raise ValueError(f"workers: {workers} must not be negative; 0 reads with threads.")
    self._read = _Reader(split, batch_size, seed, rows)
    self._stop, self._workers = stop, workers
    self._next = -1
    self._batches: Any = None

  def __call__(self, position: int) -> Batch:
    """The batch at a position."""
    if position != self._next or self._batches is None:
      self.close()
      self._batches = self._from(position)
    self._next = position + 1
    try:
      return next(self._batches)
    except RuntimeError as error:  # as grain tells of a process that is gone
      self.close()
      raise InputError(
        f"input: a process that reads images has ended ({str(error).split('. ')[0]}); if memory was"
        " short, fewer of them need less"
      ) from error

  def close(self) -> None:
    """Ends the processes."""
    batches, self._batches = self._batches, None
    if hasattr(batches, "close"):
      batches.close()
      del batches
      gc.collect()  # shared memory of batches that nobody asked for

  def __enter__(self) -> "Stream":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _from(self, position: int) -> Iterator[Batch]:
    import grain  # its import takes a second
    from absl import flags

    if not flags.FLAGS.is_parsed():  # grain reads its own with several processes
      flags.FLAGS.mark_as_parsed()
    batches = grain.MapDataset.range(position, max(self._stop, position + 1)).map(self._read)
    if not self._workers:
      options = grain.ReadOptions(num_threads=AHEAD, prefetch_buffer_size=AHEAD)
      return iter(batches.to_iter_dataset(options))
    one = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    options = grain.MultiprocessingOptions(
      num_workers=min(self._workers, self._stop - position), per_worker_buffer_size=AHEAD
    )
    return iter(batches.to_iter_dataset(one).mp_prefetch(options, _end_with_parent))


def _end_with_parent(*_: object) -> None:
  """In a worker: ends it when the run is killed, which cannot tell it so."""

  def watch() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
      parent.join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
