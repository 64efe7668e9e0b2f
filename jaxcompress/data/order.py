"""The order of training examples, a pure function of the seed and the position, and balance of classes."""

import functools

import numpy as np

from jaxcompress.arguments import check_whole, shown

ROUNDS, CLASSES = 1, 2  # in the seeds of orders
Members = tuple[np.ndarray, ...]


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
  """Chooses the examples of one training batch so that each class comes alike often.

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


def _order(count: int, seeds: tuple[int, ...]) -> np.ndarray:
  order = np.random.default_rng(seeds).permutation(count).astype(np.int32)
  order.flags.writeable = False
  return order
