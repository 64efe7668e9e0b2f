"""Shift, flip and mixup inside a jitted step."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxcompress.data import Augment
from jaxcompress.data.augment.basic import random_flip, random_shift
from jaxcompress.data.augment.mixing import mix

shift = jax.jit(random_shift, static_argnums=(2, 3))
few = hypothesis.settings(max_examples=25, deadline=None)


def random_batch(seed: int, count: int = 8, side: int = 12) -> dict[str, jax.Array]:
  rng = np.random.default_rng(seed)
  return {
    "image": jnp.asarray(rng.integers(0, 256, (count, side, side, 3), np.uint8)),
    "label": jnp.asarray(rng.integers(0, 5, count, np.int32)),
    "index": jnp.arange(count, dtype=jnp.int32),
  }


@few
@hypothesis.given(
  seed=st.integers(0, 10**6),
  reach=st.sampled_from([1, 2, 4]),
  pad=st.sampled_from(["edge", "zero"]),
)
def test_a_shift_is_a_crop_of_the_image_with_its_edge_repeated_or_zeros_around(seed, reach, pad):
  images = random_batch(seed)["image"]
  moved = np.asarray(shift(jax.random.key(seed), images, reach, pad))
  mode = "edge" if pad == "edge" else "constant"
  padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode=mode)
  for one, around in zip(moved, padded, strict=True):
    windows = [
      around[dy : dy + 12, dx : dx + 12]
      for dy in range(2 * reach + 1)
      for dx in range(2 * reach + 1)
    ]
    assert any((one == window).all() for window in windows)


def test_all_shifts_occur_about_equally_often():
  images = jnp.zeros((5000, 9, 9, 1), jnp.uint8).at[:, 4, 4].set(1)
  moved = shift(jax.random.key(0), images, 2)
  counts = np.asarray(moved, np.int32).sum((0, 3))
  assert counts.sum() == 5000 == counts[2:7, 2:7].sum()
  assert counts[2:7, 2:7].min() > 140 and counts[2:7, 2:7].max() < 260


def test_about_half_of_the_images_are_mirrored_exactly():
  images = random_batch(0, count=200)["image"]
  out = np.asarray(random_flip(jax.random.key(0), images))
  same = (out == images).all((1, 2, 3))
  np.testing.assert_array_equal(out[~same], images[~same][:, :, ::-1])
  assert 70 < same.sum() < 130


mixed = jax.jit(Augment(crop=0, mixup=0.4, classes=5))


@few
@hypothesis.given(seed=st.integers(0, 10**6))
def test_mixed_targets_sum_to_one_and_favour_the_label(seed):
  batch = random_batch(seed)
  out = mixed(jax.random.key(seed), batch)
  np.testing.assert_allclose(out["target"].sum(-1), 1, rtol=1e-6)
  own = out["target"][jnp.arange(8), batch["label"]]
  assert (own >= 0.5 - 1e-6).all()
  np.testing.assert_array_equal(out["label"], batch["label"])


def test_soft_targets_of_the_batch_are_mixed_rather_than_its_labels():
  batch = random_batch(2, count=2) | {"target": jnp.array([[0.5, 0.5], [0.0, 1.0]])}
  out = mix(batch, jnp.float32(0.5), 2)
  np.testing.assert_allclose(out["target"], [[0.25, 0.75], [0.25, 0.75]])


def test_a_step_compiles_once_for_equal_augmentations_and_repeats_for_a_key():
  @functools.partial(jax.jit, static_argnums=0)
  def step(augment, rng, batch):
    traces.append(1)
    return augment(rng, batch)

  traces, batch = [], random_batch(3)
  first = step(Augment(flip=True), jax.random.key(1), batch)
  again = step(Augment(flip=True), jax.random.key(1), batch)
  other = step(Augment(flip=True), jax.random.key(2), batch)
  assert len(traces) == 1
  np.testing.assert_array_equal(first["image"], again["image"])
  assert (first["image"] != other["image"]).any()
  assert first["image"].dtype == jnp.uint8 and set(first) == set(batch)


def test_nothing_to_do_leaves_a_batch_alone():
  batch = random_batch(4)
  out = Augment(crop=0)(jax.random.key(0), batch)
  np.testing.assert_array_equal(out["image"], batch["image"])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"crop": -1}, "crop: -1"),
    ({"mixup": -0.5}, "mixup: -0.5"),
    ({"mixup": float("nan")}, "mixup: nan"),
    ({"mixup": float("inf"), "classes": 3}, "mixup: inf must be a number from 0"),
    ({"mixup": 0.2, "classes": 2.5}, "classes: 2.5 must be a whole number"),
    ({"flip": "no"}, "flip must be True or False, got 'no'"),
    ({"mixup": 0.2}, "classes: None must be the number of classes when mixup is 0.2"),
  ],
)
def test_mistakes_name_the_argument_and_the_value(options, message):
  with pytest.raises(ValueError, match=message):
    Augment(**options)
