"""Batches: a pure function of the seed and the position, read at once or ahead (grain)."""

import gc
import multiprocessing
import os
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxcompress.arguments import check_type, check_whole, unknown
from jaxcompress.data.crops import CropOnRead, box_rng
from jaxcompress.data.order import ByShards, Shards, balanced_indices, batch_indices
from jaxcompress.data.parts import Split
from jaxcompress.data.storage import EncodedImages
from jaxcompress.data.warmth import Warmth

Batch = dict[str, np.ndarray]
SPLIT = "a data.Split, such as dataset.train"
SAMPLINGS = ("uniform", "balanced")
AHEAD = 2  # batches that each process has ready


def batch_at(
  split: Split,
  batch_size: int,
  *,
  seed: int,
  position: int,
  rows: np.ndarray | None = None,
  threads: int | None = None,
  sampling: str | ByShards = "uniform",
  weights: np.ndarray | None = None,
  crop: CropOnRead | None = None,
) -> Batch:
  """Reads the training batch at a position.

  Args:
    split: the examples.
    batch_size: examples in a batch, of all processes together.
    seed: of the order.
    position: number of the batch, from 0.
    rows: which of the batch's examples, such as those of one process; None: all.
    threads: that decode images which lie on disk; None: one for each CPU core.
    sampling: ``"uniform"``: each example comes equally often, see
      :func:`~jaxcompress.data.batch_indices`; ``"balanced"``: each class does, see
      :func:`~jaxcompress.data.balanced_indices`; a :class:`~jaxcompress.data.ByShards`: each example does, of
      a few files at a time.
    weights: (classes,) float32, such as :func:`~jaxcompress.data.class_weights` gives; the batch then
      has ``weight``, (batch_size,) float32, the label's.
    crop: what to read of each picture, of a set that is not in memory; None: the whole, as its reader
      does. The box is a function of ``seed``, ``position`` and the place in the batch.

  Returns:
    ``{"image": (batch_size, height, width, channels) uint8, "label": (batch_size,) int32,
    "index": (batch_size,) int32}``; ``index`` is the examples' place in the split.

  Raises:
    ValueError: if ``split`` is no split, a number is out of range, there is no such sampling,
      there are fewer weights than classes, one is negative or not finite, or pictures are to be cropped
      that are in memory.

  Examples:
    >>> split = Split(np.zeros((5, 8, 8, 3), np.uint8), np.arange(5, dtype=np.int32))
    >>> batch = batch_at(split, 2, seed=0, position=7)
    >>> bool((batch["label"] == batch["index"]).all())
    True
  """
  check_type("split", split, Split, SPLIT)
  _check_sampling(sampling)
  if isinstance(sampling, ByShards):
    index = sampling.indices(_shards(split), batch_size, seed=seed, position=position)
  elif sampling == "balanced":
    index = balanced_indices(split.members, batch_size, seed=seed, position=position)
  else:
    index = batch_indices(len(split), batch_size, seed=seed, position=position)
  rows = np.arange(batch_size) if rows is None else rows
  reads = None
  if crop is not None:
    reader = check_crop(split, crop).reader
    places = (position * batch_size + rows).tolist()
    reads = [partial(crop, reader=reader, rng=box_rng(seed, place)) for place in places]
  batch = _examples(split, index[rows], threads, reads)
  if weights is None:
    return batch
  if np.ndim(weights) != 1 or len(weights) < len(split.members):
    raise ValueError(
      f"weights: shape {np.shape(weights)} must be (classes,), for {len(split.members)} classes or more, as"
      " class_weights(split.labels) gives them."
    )
  weights = np.asarray(weights, np.float32)
  if (wrong := weights[~(weights >= 0) | ~np.isfinite(weights)]).size:
    raise ValueError(
      f"weights: {wrong[0]} of a class must be finite, and 0 or more; class_weights gives such."
    )
  return {**batch, "weight": weights[batch["label"]]}


def check_crop(split: Split, crop: Any) -> EncodedImages:
  """The pictures that boxes are to be cut from; ``ValueError`` where a split has none."""
  check_type("crop", crop, CropOnRead, "a data.CropOnRead, or None")
  if not isinstance(split.images, EncodedImages):
    raise ValueError(
      "crop: the split's images are in memory, at one size, and no originals are left; load it with"
      " in_memory=False, or give the recipe augment=data.RandomResizedCrop()."
    )
  return split.images


def _shards(split: Split) -> Shards:
  """The files that a split lies in."""
  if split.shards is None:
    raise ValueError(
      "sampling: the split's images do not lie in files of several, such as tar files or array_record; use"
      " 'uniform'."
    )
  return split.shards


def _check_sampling(sampling: Any) -> None:
  if not isinstance(sampling, ByShards) and sampling not in SAMPLINGS:
    raise unknown("sampling", sampling, SAMPLINGS)


def eval_batches(split: Split, batch_size: int, rows: np.ndarray | None = None) -> Iterator[Batch]:
  """Reads all examples in order, in batches of one shape.

  The last batch is filled up with copies of the first example, which ``mask`` leaves out.

  Args:
    split: the examples.
    batch_size: of each batch.
    rows: which of each batch's examples, such as those of one process; None: all.

  Returns:
    An iterator over batches as of :func:`batch_at`, with ``mask``, (batch_size,) bool.

  Raises:
    ValueError: if ``split`` is no split, or ``batch_size`` is not positive.

  Examples:
    >>> split = Split(np.zeros((5, 8, 8, 3), np.uint8), np.arange(5, dtype=np.int32))
    >>> [batch["mask"].tolist() for batch in eval_batches(split, 3)]
    [[True, True, True], [True, True, False]]
  """
  check_type("split", split, Split, SPLIT)
  check_whole("batch_size", batch_size, 1)
  return (_padded(split, start, batch_size, rows) for start in range(0, len(split), batch_size))


def _padded(split: Split, start: int, batch_size: int, rows: np.ndarray | None) -> Batch:
  index = np.arange(start, start + batch_size, dtype=np.int32)
  index = index if rows is None else index[rows]
  mask = index < len(split)
  index = np.where(mask, index, 0).astype(np.int32)
  return {**_examples(split, index), "mask": mask}


def _examples(
  split: Split,
  index: np.ndarray,
  threads: int | None = None,
  reads: list[Any] | None = None,
) -> Batch:
  pixels = split.images
  return {
    "image": pixels.take(index, threads, reads)
    if isinstance(pixels, EncodedImages)
    else pixels[index],
    "label": split.labels[index],
    "index": index,
  }


class InputError(RuntimeError):
  """A process that reads images has ended before its time; batches can be asked for again.

  Examples:
    >>> issubclass(InputError, ValueError)  # it is no mistake of the caller's
    False
  """


class Stream:
  """``batch_at`` of a training run, read ahead in the order of positions.

  A batch is a function of the seed, the position and the options alone, the one that
  :func:`~jaxcompress.data.batch_at` gives; there is no state to save. Asking for another position
  than the next starts anew there.

  Args:
    split: the examples.
    batch_size: of all processes together.
    seed: of the order.
    stop: positions end here.
    rows: which of each batch's examples are wanted; None: all.
    sampling: ``"uniform"``, ``"balanced"`` or a :class:`~jaxcompress.data.ByShards`, whose files a thread reads
      whole and in turn before they are needed, so that the system's cache has them.
    weights: of the classes, or None.
    crop: what to read of each picture, or None: the whole.
    workers: processes that read and decode; 0: threads of this one. None: one for each CPU core but
      one, at most 16.

  Raises:
    ValueError: if ``workers`` is negative, or pictures are to be cropped that are in memory; when called, if an image is damaged.
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
    sampling: str | ByShards = "uniform",
    weights: np.ndarray | None = None,
    crop: CropOnRead | None = None,
    workers: int | None = None,
  ):
    _check_sampling(sampling)
    if crop is not None:
      check_crop(split, crop)
    if workers is None:
      workers = min(16, max(1, (os.cpu_count() or 2) - 1))
    check_whole("workers", workers, 0)
    order = {"batch_size": batch_size, "seed": seed, "rows": rows, "sampling": sampling}
    options = {**order, "weights": weights, "crop": crop, "threads": 1}
    self._read = partial(_read, split, options)
    self._stop, self._workers = stop, workers
    self._warmth: Warmth | None = None
    if isinstance(sampling, ByShards):
      self._warmth = Warmth(_shards(split), sampling, batch_size, seed, rows, stop)
    self._next = -1
    self._batches: Any = None

  def __call__(self, position: int) -> Batch:
    """The batch at a position."""
    if position != self._next or self._batches is None:
      self.close()
      self._batches = self._from(position)
    self._next = position + 1
    if self._warmth is not None:
      self._warmth.reach(position)
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
    if self._warmth is not None:
      self._warmth.close()
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


def _read(split: Split, options: dict[str, Any], position: int) -> Batch:
  return batch_at(split, position=position, **options)


def _end_with_parent(*_: object) -> None:
  """Ends a worker process when the run is killed, which cannot tell it so."""

  def watch() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
      parent.join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
