"""Which examples are in which batch: a pure function of the seed and the batch's position."""

import functools
from collections.abc import Iterator

import numpy as np

from jaxcompress.data.dataset import Split

Batch = dict[str, np.ndarray]


def batch_indices(count: int, batch_size: int, *, seed: int, position: int) -> np.ndarray:
  """The examples of one training batch.

  Seeded permutations of all examples, one for each epoch, follow one another without a gap, and
  batch ``position`` is elements ``position * batch_size`` onwards of that stream. Every example
  comes once in each epoch, nothing is dropped, and a batch may reach into the next epoch or, where
  it is larger than the set, over several.

  Args:
    count: number of examples.
    batch_size: examples in a batch.
    seed: of the order.
    position: number of the batch, from 0.

  Returns:
    (batch_size,) int32.

  Raises:
    ValueError: if a number is out of range.

  Examples:
    >>> batches = [batch_indices(6, 2, seed=0, position=p) for p in range(3)]
    >>> sorted(np.concatenate(batches).tolist())
    [0, 1, 2, 3, 4, 5]
  """
  for name, value, least in (
    ("count", count, 1),
    ("batch_size", batch_size, 1),
    ("seed", seed, 0),
    ("position", position, 0),
  ):
    if value < least:
      raise ValueError(f"{name}: {value} must be at least {least}.")
  start, stop = position * batch_size, (position + 1) * batch_size
  first, last = start // count, (stop - 1) // count
  epochs = [_permutation(count, seed, epoch) for epoch in range(first, last + 1)]
  stream = epochs[0] if len(epochs) == 1 else np.concatenate(epochs)
  return stream[start - first * count : stop - first * count].copy()


@functools.lru_cache(maxsize=8)  # only saves time: the value depends on the arguments alone
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
  order = np.random.default_rng((seed, epoch)).permutation(count).astype(np.int32)
  order.flags.writeable = False
  return order


def batch_at(
  split: Split, batch_size: int, *, seed: int, position: int, rows: np.ndarray | None = None
) -> Batch:
  """The training batch at a position; see :func:`batch_indices`.

  Args:
    split: the examples.
    batch_size: examples in a batch, of all processes together.
    seed: of the order.
    position: number of the batch, from 0.
    rows: which of the batch's examples, such as those of one process; None: all.

  Returns:
    ``{"image": (batch_size, height, width, channels) uint8, "label": (batch_size,) int32,
    "index": (batch_size,) int32}``; ``index`` is the examples' place in the split.

  Examples:
    >>> split = Split(np.zeros((5, 8, 8, 3), np.uint8), np.arange(5, dtype=np.int32))
    >>> batch = batch_at(split, 2, seed=0, position=7)
    >>> bool((batch["label"] == batch["index"]).all())
    True
  """
  index = batch_indices(len(split), batch_size, seed=seed, position=position)
  index = index if rows is None else index[rows]
  return {"image": split.images[index], "label": split.labels[index], "index": index}


def eval_batches(split: Split, batch_size: int, rows: np.ndarray | None = None) -> Iterator[Batch]:
  """All examples in order, in batches of one shape.

  The last batch is filled up with copies of the first example, which ``mask`` leaves out.

  Args:
    split: the examples.
    batch_size: of each batch.
    rows: which of each batch's examples, such as those of one process; None: all.

  Returns:
    An iterator over batches as of :func:`batch_at`, with ``mask``, (batch_size,) bool.

  Raises:
    ValueError: if ``batch_size`` is not positive.

  Examples:
    >>> split = Split(np.zeros((5, 8, 8, 3), np.uint8), np.arange(5, dtype=np.int32))
    >>> [batch["mask"].tolist() for batch in eval_batches(split, 3)]
    [[True, True, True], [True, True, False]]
  """
  if batch_size < 1:
    raise ValueError(f"batch_size: {batch_size} must be at least 1.")
  return (_padded(split, start, batch_size, rows) for start in range(0, len(split), batch_size))


def _padded(split: Split, start: int, batch_size: int, rows: np.ndarray | None) -> Batch:
  index = np.arange(start, start + batch_size, dtype=np.int32)
  index = index if rows is None else index[rows]
  mask = index < len(split)
  index = np.where(mask, index, 0).astype(np.int32)
  return {
    "image": split.images[index],
    "label": split.labels[index],
    "index": index,
    "mask": mask,
  }
