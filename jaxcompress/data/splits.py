"""Splits that keep every class's share."""

import hashlib

import numpy as np

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
