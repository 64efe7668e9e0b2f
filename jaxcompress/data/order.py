"""The order of training examples, a pure function of the seed and the position, and balance of classes."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from jaxcompress.arguments import check_whole, shown

ROUNDS, CLASSES, SHARDS = 1, 2, 4  # in the seeds of orders
Members = tuple[np.ndarray, ...]


class Shards(NamedTuple):
  """The files that examples lie in, several in each.

  Attributes:
    files: names of those that have some.
    sizes: how many examples each has.
    examples: (count,) int32, file by file in the order in which they lie.
  """

  files: tuple[str, ...]
  sizes: tuple[int, ...]
  examples: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByShards:
  """An order of examples in which a few files are read at a time, one after the other.

  Each epoch the files come in another random order, and examples are shuffled within every ``window``
  files that follow one another. A batch so has examples of ``window`` files, or twice as many, and files
  can be read whole and in turn, where access to single examples is slow. Every example comes once in each
  epoch, and the order is a function of the seed and the position alone: there is no buffer to fill
  anew, or to save.

  With ``groups`` the files are dealt out to so many streams of equal length, and a batch has as many
  examples of each, one stream after the other. Processes whose number divides that of the groups then
  read different files, but for those at the ends of their streams. The order depends on the groups, not on
  the processes.

  Attributes:
    window: files that are shuffled together. The more, the nearer to a shuffle of all.
    groups: streams; 1: all processes read all files.

  Raises:
    ValueError: if a number is not positive.

  Examples:
    >>> shards = Shards(("a", "b", "c"), (2, 2, 2), np.arange(6, dtype=np.int32))
    >>> by = ByShards(window=1)
    >>> batches = [by.indices(shards, 2, seed=0, position=p) // 2 for p in range(3)]
    >>> sorted(batch.tolist() for batch in batches)  # each of one file
    [[0, 0], [1, 1], [2, 2]]
  """

  window: int = 16
  groups: int = 1

  def __post_init__(self):
    check_whole("window", self.window, 1)
    check_whole("groups", self.groups, 1)

  def indices(self, shards: Shards, batch_size: int, *, seed: int, position: int) -> np.ndarray:
    """Chooses the examples of one training batch.

    Args:
      shards: where the examples lie.
      batch_size: examples in a batch.
      seed: of the order.
      position: number of the batch, from 0.

    Returns:
      (batch_size,) int32.

    Raises:
      ValueError: if a number is out of range, or groups do not divide the batch.
    """
    count = len(shards.examples)
    check_whole("count", count, 1)
    check_whole("batch_size", batch_size, 1)
    check_whole("seed", seed, 0)
    check_whole("position", position, 0)
    each, rest = divmod(batch_size, self.groups)
    if rest:
      raise ValueError(
        f"groups: {self.groups} streams cannot share a batch of {batch_size}; their number must divide it."
      )
    found = []
    for group in range(self.groups):
      at, stop = position * each, (position + 1) * each
      while at < stop:
        # before epoch e, streams have had (e * count + group) // groups examples: all together e * count
        epoch = (at * self.groups + self.groups - 1 - group) // count
        begin, end = ((e * count + group) // self.groups for e in (epoch, epoch + 1))
        stream = _stream(shards.sizes, self, seed, epoch, group)
        found.append(stream[at - begin : min(stop, end) - begin])
        at = min(stop, end)
    return shards.examples[np.concatenate(found)]


def batch_indices(count: int, batch_size: int, *, seed: int, position: int) -> np.ndarray:
  """Chooses the examples of one training batch.

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
  check_whole("count", count, 1)
  check_whole("batch_size", batch_size, 1)
  check_whole("seed", seed, 0)
  check_whole("position", position, 0)
  start, stop = position * batch_size, (position + 1) * batch_size
  first, last = start // count, (stop - 1) // count
  epochs = [_permutation(count, seed, epoch) for epoch in range(first, last + 1)]
  stream = epochs[0] if len(epochs) == 1 else np.concatenate(epochs)
  return stream[start - first * count : stop - first * count].copy()


def balanced_indices(members: Members, batch_size: int, *, seed: int, position: int) -> np.ndarray:
  """Chooses the examples of one training batch so that each class comes equally often.

  The stream of examples is made of rounds. A round has one example of each class, in an order of its
  own, and each class deals out its examples in seeded permutations, one after the other: all come
  before one comes again. Batch ``position`` is elements ``position * batch_size`` onwards. So classes
  differ by two examples at most in any batch, and by one from the start to any place.

  Args:
    members: the examples of each class, from :func:`members_of`.
    batch_size: examples in a batch.
    seed: of the order.
    position: number of the batch, from 0.

  Returns:
    (batch_size,) int32.

  Raises:
    ValueError: if a number is out of range, or there are no examples.

  Examples:
    >>> members = members_of(np.array([0, 0, 0, 0, 1, 1]))
    >>> stream = np.concatenate([balanced_indices(members, 2, seed=0, position=p) for p in range(4)])
    >>> sorted(stream.tolist())  # examples 4 and 5, of the rarer class, come twice
    [0, 1, 2, 3, 4, 4, 5, 5]
  """
  check_whole("batch_size", batch_size, 1)
  check_whole("seed", seed, 0)
  check_whole("position", position, 0)
  present = [index for index in members if len(index)]
  if not present:
    raise ValueError("members: there are no examples; give the labels of one or more.")
  count = len(present)
  start, stop = position * batch_size, (position + 1) * batch_size
  first, last = start // count, (stop - 1) // count
  found = []
  for turn in range(first, last + 1):
    for place in _order(count, (seed, ROUNDS, turn)).tolist():
      epoch, at = divmod(turn, len(present[place]))
      of_class = _permutation_of_class(len(present[place]), seed, place, epoch)
      found.append(present[place][of_class[at]])
  return np.array(found[start - first * count : stop - first * count], np.int32)


def members_of(labels: np.ndarray) -> Members:
  """The places of each class's examples, in their order.

  Args:
    labels: (count,) whole numbers from 0.

  Returns:
    An int32 array for each class, up to the last that has examples.

  Examples:
    >>> [places.tolist() for places in members_of(np.array([2, 0, 2]))]
    [[1], [], [0, 2]]
  """
  order = np.argsort(labels, kind="stable").astype(np.int32)
  ends = np.cumsum(np.bincount(labels))
  return tuple(np.split(order, ends[:-1])) if len(labels) else ()


def class_weights(
  labels: np.ndarray, classes: int | None = None, *, most: float | None = 20.0
) -> np.ndarray:
  """Weights of the classes by which each counts alike, however many examples it has.

  A class of ``n`` of ``N`` examples, ``K`` classes being there, gets ``N / (K n)``: inverse frequency
  with mean 1 over the examples, so that the learning rate keeps its meaning. Where the heaviest would
  count more than ``most`` times the lightest, it counts that much: few examples would else be
  learned by heart, and a batch with one of them would take steps that undo all others.

  Args:
    labels: (count,) whole numbers from 0, of the training images.
    classes: how many there are; None: up to the highest label.
    most: bound of the ratio between two weights; None: none.

  Returns:
    (classes,) float32; a class without examples has the weight of the heaviest. For a loss:
    ``{**batch, "weight": weights[batch["label"]]}``, or ``batch_at(..., weights=weights)``.

  Raises:
    ValueError: if labels are no classes or there are none, or ``most`` is below 1.

  Examples:
    >>> class_weights(np.array([0, 0, 0, 1])).tolist()
    [0.6666666865348816, 2.0]
  """
  labels = np.asarray(labels)
  if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(
      f"labels: {labels.dtype} of shape {labels.shape} must be whole numbers (count,), one for each"
      " image, such as dataset.train.labels."
    )
  if classes is None:
    classes = int(labels.max()) + 1
  check_whole("classes", classes, 1)
  if not 0 <= labels.min() <= labels.max() < classes:
    raise ValueError(
      f"labels: {labels.min()} to {labels.max()} must be 0 to classes - 1 = {classes - 1}."
    )
  if most is not None and not most >= 1:
    raise ValueError(f"most: {shown(most)} must be 1 or more, or None.")
  counts = np.bincount(labels, minlength=classes)
  weights = 1 / np.maximum(counts, 1)
  lightest = weights[counts > 0].min()
  weights = np.where(counts > 0, weights, weights.max())
  if most is not None:
    weights = np.minimum(weights, most * lightest)
  return (weights * len(labels) / np.sum(weights * counts)).astype(np.float32)


@functools.lru_cache(maxsize=8)  # only saves time: the value depends on the arguments alone
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
  return _order(count, (seed, epoch))


@functools.lru_cache(maxsize=4096)
def _permutation_of_class(count: int, seed: int, place: int, epoch: int) -> np.ndarray:
  return _order(count, (seed, CLASSES, place, epoch))


@functools.lru_cache(maxsize=64)
def _stream(sizes: tuple[int, ...], by: ByShards, seed: int, epoch: int, group: int) -> np.ndarray:
  """An epoch of one group's stream: places among all examples, file by file."""
  files = _order(len(sizes), (seed, SHARDS, epoch))
  count = sum(sizes)
  ends = [((epoch + 1) * count + g) // by.groups for g in range(by.groups)]
  lengths = [end - (epoch * count + g) // by.groups for g, end in enumerate(ends)]
  first = sum(lengths[:group])
  last = first + lengths[group]
  after = np.cumsum(np.array(sizes, np.int64)[files])
  before = after - np.array(sizes, np.int64)[files]
  starts = (np.cumsum(sizes) - np.array(sizes))[files]
  own = np.flatnonzero((before < last) & (after > first))  # files with examples of this stream
  parts = [
    starts[i] + np.arange(max(before[i], first), min(after[i], last)) - before[i] for i in own
  ]
  shuffled = []
  for begin in range(0, len(parts), by.window):
    together = np.concatenate(parts[begin : begin + by.window])
    order = _order(len(together), (seed, SHARDS, epoch, group, begin))
    shuffled.append(together[order])
  stream = np.concatenate(shuffled or [np.empty(0)]).astype(np.int32)
  stream.flags.writeable = False
  return stream


def _order(count: int, seeds: tuple[int, ...]) -> np.ndarray:
  order = np.random.default_rng(seeds).permutation(count).astype(np.int32)
  order.flags.writeable = False
  return order
