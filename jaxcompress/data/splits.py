"""Splits that keep every class's share, and what belongs together in one part."""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

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


def joined(*kinds: Sequence[Hashable]) -> np.ndarray:
  """Numbers of groups: examples that agree in any of the sequences, if only by way of others, share one.

  Args:
    kinds: values of all examples, each of one kind; examples belong together where they are equal.

  Returns:
    (count,) integers, from 0 in the order of the groups' first examples.

  Examples:
    >>> joined(["a", "a", "b", "c"], [1, 2, 2, 3]).tolist()
    [0, 0, 0, 1]
  """
  count = len(kinds[0])
  firsts = []
  for values in kinds:
    first: dict[Hashable, int] = {}
    firsts.append([first.setdefault(value, i) for i, value in enumerate(values)])
  rows, columns = np.tile(np.arange(count), len(kinds)), np.concatenate(firsts).astype(np.int64)
  links = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(count, count))
  return connected_components(links.tocsr(), directed=False)[1]


def split_off(
  labels: np.ndarray,
  order: np.ndarray,
  share: float,
  groups: np.ndarray | None = None,
  stay: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
  """Takes a share out of every class.

  Args:
    labels: (count,) integers.
    order: (count,) keys; those of a class with the smallest ones are taken.
    share: of each class, 0 to 1; at least one example of each is taken if another one stays.
    groups: (count,) integers; examples with the same one are taken together or stay together, and the
      share is kept as well as that allows. The key of a group is its first example's. None: each is
      alone.
    stay: of each class, this many groups stay, if it has more.

  Returns:
    ``(rest, taken)``: two ascending arrays of positions in ``labels``.

  Examples:
    >>> rest, taken = split_off(np.array([0, 0, 0, 1, 1, 1]), np.arange(6), 1 / 3)
    >>> rest.tolist(), taken.tolist()
    ([1, 2, 4, 5], [0, 3])
    >>> rest, taken = split_off(np.zeros(6, int), np.arange(6), 1 / 3, np.array([0, 0, 0, 1, 1, 2]))
    >>> rest.tolist(), taken.tolist()
    ([0, 1, 2, 5], [3, 4])
  """
  if groups is not None and len(np.unique(groups)) < len(groups):
    taken = _groups_taken(labels, order, share, groups, stay)
    return np.flatnonzero(~taken), np.flatnonzero(taken)
  taken = np.zeros(len(labels), bool)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    count = _wanted(share, len(members))
    taken[members[np.argsort(order[members], kind="stable")[:count]]] = True
  return np.flatnonzero(~taken), np.flatnonzero(taken)


def _wanted(share: float, members: int) -> int:
  return min(max(round(share * members), 1), members - 1)


@dataclasses.dataclass
class _Taking:
  """Groups, of which some are taken.

  Attributes:
    sizes: of each group, its classes and how many examples of each it has.
    open: by class, how many examples are still to be taken; below 0, there are too many.
    spare: by class, how many groups may still be taken.
    chosen: numbers of those that are.
    served: the classes of those.
  """

  sizes: list[list[tuple[int, int]]]
  open: dict[int, int]
  spare: dict[int, int]
  chosen: list[int] = dataclasses.field(default_factory=list)
  served: set[int] = dataclasses.field(default_factory=set)

  def take(self, group: int) -> None:
    self.chosen.append(group)
    for label, count in self.sizes[group]:
      self.open[label] -= count
      self.spare[label] -= 1
      self.served.add(label)

  def may(self, group: int) -> bool:
    return all(self.spare[label] > 0 for label, _ in self.sizes[group])

  def fits(self, group: int) -> bool:
    return all(count <= self.open[label] for label, count in self.sizes[group])

  def gain(self, group: int) -> int:
    """Returns by how much the classes together come nearer to their shares."""
    return sum(
      abs(self.open[label]) - abs(self.open[label] - count) for label, count in self.sizes[group]
    )


def _groups_taken(
  labels: np.ndarray, order: np.ndarray, share: float, groups: np.ndarray, stay: int
) -> np.ndarray:
  """Which examples are taken: whole groups by their keys if they fit, then those that fit best."""
  _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
  sizes: list[list[tuple[int, int]]] = [[] for _ in first]
  classes = int(labels.max()) + 1
  pairs, counts = np.unique(group_of * classes + labels, return_counts=True)
  for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
    sizes[pair // classes].append((pair % classes, count))
  taking = _Taking(
    sizes,
    {label: _wanted(share, n) for label, n in collections.Counter(labels.tolist()).items()},
    {
      label: n - max(1, min(stay, n - 1))
      for label, n in collections.Counter((pairs % classes).tolist()).items()
    },
  )
  ranked = np.argsort(order[first], kind="stable").tolist()
  for group in ranked:
    if taking.fits(group) and taking.may(group):
      taking.take(group)
  chosen = set(taking.chosen)
  left = [group for group in ranked if group not in chosen]
  for group in sorted(left, key=taking.gain, reverse=True):
    if taking.gain(group) > 0 and taking.may(group):
      taking.take(group)
  chosen = set(taking.chosen)
  left = [group for group in left if group not in chosen]
  for group in sorted(
    left, key=taking.gain, reverse=True
  ):  # no class without any, if it can be helped
    if any(label not in taking.served for label, _ in sizes[group]) and taking.may(group):
      taking.take(group)
  return np.isin(group_of, taking.chosen)


def three_way(
  labels: np.ndarray,
  order: np.ndarray,
  has_test: bool = False,
  groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Splits into 70 % to train on, 10 % for validation and 20 % to test.

  Args:
    labels: (count,) integers.
    order: keys as of :func:`split_off`.
    has_test: whether there is a test set already; then nothing is taken for it.
    groups: as of :func:`split_off`.

  Returns:
    ``(train, validation, test)``: positions in ``labels``.
  """
  rest, test = np.arange(len(labels)), np.zeros(0, np.int64)
  share = VALIDATION_SHARE
  if not has_test:
    rest, test = split_off(labels, order, TEST_SHARE, groups, stay=2)
    share /= 1 - TEST_SHARE
  kept = None if groups is None else groups[rest]
  train, validation = split_off(labels[rest], order[rest], share, kept)
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
  parts: Mapping[str, Any],
  order_of: Callable[[Any], np.ndarray],
  limit: int | None,
  groups_of: Callable[[Any], np.ndarray | None] = lambda part: None,
) -> dict[str, Any]:
  """All three parts of a set; what is missing is split off the training images.

  Without a test part, validation's is it.

  Args:
    parts: examples with ``labels``, of which ``pick`` takes those at some positions.
    order_of: keys of a part's examples, as of :func:`split_off`.
    limit: at most this many examples in each part; None: all.
    groups_of: the groups of a part's examples, likewise.
  """
  if "test" not in parts and "validation" in parts:
    parts = {"train": parts["train"], "test": parts["validation"]}
  if len(parts) < 3:
    whole = parts["train"]
    places = three_way(whole.labels, order_of(whole), "test" in parts, groups_of(whole))
    train, validation, test = map(whole.pick, places)
    parts = {"train": train, "validation": validation, "test": parts.get("test", test)}
  return {
    part: found.pick(at_most(found.labels, order_of(found), limit)) for part, found in parts.items()
  }
