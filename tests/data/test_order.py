"""The order of training examples and the batches of evaluation."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxcompress.data import (
  Split,
  Stream,
  balanced_indices,
  batch_at,
  batch_indices,
  class_weights,
  eval_batches,
  members_of,
  order,
)

counts = st.integers(1, 60)
sizes = st.integers(1, 90)

unhurried = hypothesis.settings(deadline=None)


def split_of(count: int) -> Split:
  images = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
  return Split(np.broadcast_to(images, (count, 4, 4, 3)), np.arange(count, dtype=np.int32))


@unhurried
@hypothesis.given(
  count=counts, batch_size=sizes, seed=st.integers(0, 2**63), epochs=st.integers(1, 3)
)
def test_every_example_comes_once_in_each_epoch(count, batch_size, seed, epochs):
  needed = -(-count * epochs // batch_size)
  stream = np.concatenate(
    [batch_indices(count, batch_size, seed=seed, position=p) for p in range(needed)]
  )
  for epoch in range(epochs):
    seen = stream[epoch * count : (epoch + 1) * count]
    np.testing.assert_array_equal(np.sort(seen), np.arange(count))


@unhurried
@hypothesis.given(count=counts, batch_size=sizes, position=st.integers(0, 10**9))
def test_a_batch_depends_on_seed_and_position_alone(count, batch_size, position):
  first = batch_indices(count, batch_size, seed=3, position=position)
  first_again = first.copy()
  first[:] = -1  # what a caller does to a batch changes no other
  order._permutation.cache_clear()
  batch_indices(count, batch_size, seed=3, position=position + 1)
  again = batch_indices(count, batch_size, seed=3, position=position)
  np.testing.assert_array_equal(again, first_again)
  assert again.shape == (batch_size,) and again.dtype == np.int32


def test_seeds_and_epochs_give_other_orders():
  orders = [
    batch_indices(100, 100, seed=seed, position=epoch).tolist()
    for seed in (0, 1)
    for epoch in (0, 1)
  ]
  assert len({tuple(o) for o in orders}) == 4


def test_batches_hold_the_images_and_labels_of_their_indices():
  batch = batch_at(split_of(10), 4, seed=0, position=5)
  assert batch["image"].shape == (4, 4, 4, 3) and batch["image"].dtype == np.uint8
  np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
  np.testing.assert_array_equal(batch["label"], batch["index"])


labels_of_classes = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.int32)


def balanced_stream(labels, batch_size, examples, seed):
  """A stream of at least so many examples."""
  members = members_of(labels)
  needed = -(-examples // batch_size)
  return np.concatenate(
    [balanced_indices(members, batch_size, seed=seed, position=p) for p in range(needed)]
  )


@unhurried
@hypothesis.given(labels=labels_of_classes, batch_size=sizes, seed=st.integers(0, 2**63))
def test_balanced_classes_come_alike_often_up_to_any_place(labels, batch_size, seed):
  stream = labels[balanced_stream(labels, batch_size, 100, seed)]
  present = np.unique(labels)
  counts = np.cumsum(stream[:, None] == present, axis=0)
  assert (np.ptp(counts, axis=1) <= 1).all()


@unhurried
@hypothesis.given(labels=labels_of_classes, batch_size=sizes, seed=st.integers(0, 2**63))
def test_all_examples_of_a_class_come_before_one_comes_again(labels, batch_size, seed):
  stream = balanced_stream(labels, batch_size, 3 * len(labels), seed)
  for kind in np.unique(labels):
    own, dealt = np.flatnonzero(labels == kind), stream[labels[stream] == kind]
    for start in range(0, len(dealt) - len(own) + 1, len(own)):
      np.testing.assert_array_equal(np.sort(dealt[start : start + len(own)]), own)


@unhurried
@hypothesis.given(labels=labels_of_classes, batch_size=sizes, position=st.integers(0, 10**9))
def test_a_balanced_batch_depends_on_seed_and_position_alone(labels, batch_size, position):
  members = members_of(labels)
  first = balanced_indices(members, batch_size, seed=3, position=position)
  order._permutation_of_class.cache_clear()
  again = balanced_indices(members, batch_size, seed=3, position=position)
  np.testing.assert_array_equal(again, first)
  assert again.shape == (batch_size,) and again.dtype == np.int32
  halves = [
    balanced_indices(members, batch_size, seed=3, position=2 * position + half) for half in (0, 1)
  ]
  whole = balanced_indices(members, 2 * batch_size, seed=3, position=position)
  np.testing.assert_array_equal(np.concatenate(halves), whole)


def test_balanced_seeds_and_rounds_give_other_orders():
  members = members_of(np.arange(40, dtype=np.int32) % 4)
  orders = [
    balanced_indices(members, 40, seed=seed, position=epoch).tolist()
    for seed in (0, 1)
    for epoch in (0, 1)
  ]
  assert len({tuple(o) for o in orders}) == 4
  rounds = np.array(orders[0]).reshape(10, 4) % 4
  assert len({tuple(row) for row in rounds.tolist()}) > 1


@unhurried
@hypothesis.given(labels=labels_of_classes)
def test_weighted_classes_count_alike_and_the_mean_weight_is_one(labels):
  weights = class_weights(labels, 9, most=None)
  assert weights.dtype == np.float32 and weights.shape == (9,)
  np.testing.assert_allclose(weights[labels].mean(), 1.0, rtol=1e-5)
  totals = [weights[kind] * np.sum(labels == kind) for kind in np.unique(labels)]
  np.testing.assert_allclose(totals, totals[0], rtol=1e-5)
  capped = class_weights(labels, 9, most=3.0)
  np.testing.assert_allclose(capped[labels].mean(), 1.0, rtol=1e-5)
  assert capped.max() <= 3.0001 * capped.min()


def test_batches_have_their_weights_and_their_sampling_at_once_and_ahead():
  split = split_of(12)
  uneven = Split(split.images, np.int32([0] * 9 + [1] * 3))
  options = {"sampling": "balanced", "weights": np.float32([0.5, 2.0])}
  plain = batch_at(uneven, 8, seed=1, position=3, **options)
  assert np.bincount(plain["label"]).tolist() == [4, 4]
  np.testing.assert_array_equal(plain["weight"], np.where(plain["label"] == 1, 2.0, 0.5))
  rows = np.array([1, 6])
  with Stream(uneven, 8, seed=1, stop=9, rows=rows, workers=0, **options) as ahead:
    found = ahead(3)
  assert found.keys() == plain.keys()
  for name, values in found.items():
    np.testing.assert_array_equal(values, plain[name][rows])


@unhurried
@hypothesis.given(count=st.integers(0, 40), batch_size=st.integers(1, 50))
def test_evaluation_sees_every_example_once_in_batches_of_one_shape(count, batch_size):
  batches = list(eval_batches(split_of(count), batch_size))
  assert all(batch["image"].shape == (batch_size, 4, 4, 3) for batch in batches)
  seen = [i for batch in batches for i in batch["image"][batch["mask"], 0, 0, 0]]
  assert seen == list(range(count))
  assert all(batch["mask"].all() for batch in batches[:-1])


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (
      lambda: batch_indices(0, 4, seed=0, position=0),
      "count: 0 must be a whole number, at least 1",
    ),
    (lambda: batch_indices(4, 0, seed=0, position=0), "batch_size: 0"),
    (lambda: batch_indices(4, 4, seed=-1, position=0), "seed: -1"),
    (lambda: batch_indices(4, 4, seed=0, position=-1), "position: -1"),
    (lambda: eval_batches(split_of(3), 0), "batch_size: 0"),
    (
      lambda: batch_at(split_of(3), 2, seed=0, position=0, sampling="balance"),
      "sampling: .*balanced",
    ),
    (lambda: Stream(split_of(3), 2, seed=0, stop=1, sampling=""), "sampling: "),
    (
      lambda: batch_at(split_of(3), 2, seed=0, position=0, weights=np.ones(2)),
      r"weights: shape \(2,\) must be \(classes,\), for 3 classes",
    ),
    *(
      (
        lambda wrong=wrong: batch_at(split_of(3), 2, seed=0, position=0, weights=[1, 1, wrong]),
        f"weights: {wrong} of a class must be finite, and 0 or more",
      )
      for wrong in (np.nan, np.inf, -1.0)
    ),
    (lambda: balanced_indices((), 2, seed=0, position=0), "members: there are no examples"),
    (lambda: class_weights(np.ones(3)), "labels: float64 of shape"),
    (lambda: class_weights(np.int32([0, 3]), 3), "labels: 0 to 3 must be 0 to classes - 1 = 2"),
    (lambda: class_weights(np.int32([0, 1]), most=0.5), "most: 0.5 must be 1 or more"),
    (lambda: Split(np.zeros((2, 4, 4, 3)), np.zeros(2, np.int32)), "images: float64"),
    (lambda: Split(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, np.int32)), "labels: int32"),
  ],
)
def test_mistakes_name_the_argument_and_the_value(make, message):
  with pytest.raises(ValueError, match=message):
    make()
