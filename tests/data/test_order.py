"""The order of training examples and the batches of evaluation."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxcompress.data import Split, batch_at, batch_indices, batches, eval_batches

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
  batches._permutation.cache_clear()
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
    (lambda: Split(np.zeros((2, 4, 4, 3)), np.zeros(2, np.int32)), "images: float64"),
    (lambda: Split(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, np.int32)), "labels: int32"),
  ],
)
def test_mistakes_name_the_argument_and_the_value(make, message):
  with pytest.raises(ValueError, match=message):
    make()
