"""Splits of groups: nothing is torn, every class is trained on, shares are near what was asked."""

import collections

import hypothesis
import numpy as np
from hypothesis import strategies as st

from jaxcompress.data import gather, splits

SETS = st.lists(
  st.tuples(st.integers(0, 3), st.integers(0, 30)), min_size=3, max_size=120
)  # class and group of each example


def classes_of(pairs):
  labels, groups = (np.array(values) for values in zip(*pairs, strict=True))
  return labels, groups, np.random.default_rng(len(pairs)).permutation(len(pairs)).astype(np.uint64)


@hypothesis.given(pairs=SETS, has_test=st.booleans())
def test_groups_are_whole_and_every_class_is_trained_on(pairs, has_test):
  labels, groups, order = classes_of(pairs)
  parts = splits.three_way(labels, order, has_test, groups)
  assert sorted(np.concatenate(parts).tolist()) == list(range(len(pairs)))
  found = [set(groups[part].tolist()) for part in parts]
  assert not found[0] & found[1] and not found[0] & found[2] and not found[1] & found[2]
  assert set(labels[parts[0]].tolist()) == set(labels.tolist())
  assert not (has_test and len(parts[2]))


@hypothesis.given(
  sizes=st.lists(st.integers(1, 6), min_size=10, max_size=60), seed=st.integers(0, 99)
)
def test_the_share_of_a_class_is_off_by_half_a_group_at_most(sizes, seed):
  groups = np.repeat(np.arange(len(sizes)), sizes)
  order = np.random.default_rng(seed).random(len(groups))
  train, validation, test = splits.three_way(np.zeros(len(groups), int), order, groups=groups)
  assert abs(len(test) - round(0.2 * len(groups))) <= max(sizes) / 2
  assert abs(len(validation) - round(0.125 * (len(train) + len(validation)))) <= max(sizes) / 2


@hypothesis.given(sizes=st.lists(st.integers(1, 40), min_size=3, max_size=9))
def test_a_class_of_three_groups_has_one_in_each_part(sizes):
  groups = np.repeat(np.arange(len(sizes)), sizes)
  parts = splits.three_way(np.zeros(len(groups), int), np.arange(len(groups)), groups=groups)
  assert all(len(part) for part in parts)


@hypothesis.given(pairs=SETS)
def test_groups_of_one_are_split_as_if_there_were_none(pairs):
  labels, _, order = classes_of(pairs)
  alone = splits.three_way(labels, order, groups=np.arange(len(labels)))
  for one, other in zip(alone, splits.three_way(labels, order), strict=True):
    np.testing.assert_array_equal(one, other)


@hypothesis.given(
  values=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=30)
)
def test_joined_groups_are_those_that_can_be_walked_between(values):
  together = splits.joined(*(list(kind) for kind in zip(*values, strict=True)))
  for start in range(len(values)):
    seen, waiting = {start}, collections.deque([start])
    while waiting:
      here = values[waiting.popleft()]
      for i, other in enumerate(values):
        if i not in seen and (here[0] == other[0] or here[1] == other[1]):
          seen.add(i)
          waiting.append(i)
    assert set(np.flatnonzero(together == together[start]).tolist()) == seen
  first = np.unique(together, return_index=True)[1]
  assert (np.diff(first) > 0).all() or len(first) == 1


@hypothesis.given(count=st.integers(1, 40), data=st.data())
def test_rows_are_arranged_in_place(count, data):
  chosen = np.array(data.draw(st.permutations(range(count))), int)
  chosen = chosen[: data.draw(st.integers(0, count))]
  rows = np.random.default_rng(count).integers(0, 256, (count, 2, 3), np.uint8)
  wanted, before = rows[chosen], rows.copy()
  found = gather.arrange(rows, chosen)
  np.testing.assert_array_equal(found, wanted)
  assert not len(chosen) or np.shares_memory(found, rows)
  assert sorted(map(bytes, rows)) == sorted(map(bytes, before))
