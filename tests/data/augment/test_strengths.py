"""How much images are changed by a word, and whether they are mirrored."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import data as datasets
from jaxcompress.data import augmentation, decide_flip, unsafe_to_mirror
from jaxcompress.data.augment.strengths import STRENGTHS

KEY = jax.random.key(0)


def batch_of(shape, dtype=np.uint8, count=8):
  pixels = np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(dtype)
  return {"image": jnp.asarray(pixels), "label": jnp.arange(count), "index": jnp.arange(count)}


@pytest.mark.slow
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("shape", [(12, 16, 3), (9, 9, 1), (1, 1, 3), (8, 8, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_every_strength_keeps_shape_dtype_and_range_compiled_or_not(strength, shape, dtype):
  augment = augmentation(strength, shape, flip=True)
  batch = batch_of(shape, dtype)
  found = jax.jit(augment)(KEY, batch)
  assert found["image"].shape == batch["image"].shape and found["image"].dtype == dtype
  assert found["image"].min() >= 0 and found["image"].max() <= 255
  for name in ("label", "index"):
    np.testing.assert_array_equal(found[name], batch[name])
  direct = augment(KEY, batch)["image"].astype(jnp.float32)
  differ = jnp.abs(found["image"].astype(jnp.float32) - direct)
  assert jnp.mean(differ > 1) < 0.02  # equalize and rotations turn on last bits


def test_none_changes_nothing_and_mirrors_alone_where_that_is_asked():
  batch = batch_of((6, 7, 3), count=64)
  np.testing.assert_array_equal(
    augmentation("none", (6, 7, 3))(KEY, batch)["image"], batch["image"]
  )
  found = augmentation("none", (6, 7, 3), flip=True)(KEY, batch)["image"]
  same = np.asarray((found == batch["image"]).all((1, 2, 3)))
  mirrored = np.asarray((found == batch["image"][:, :, ::-1]).all((1, 2, 3)))
  assert (same ^ mirrored).all() and 16 < mirrored.sum() < 48


@pytest.mark.slow
@pytest.mark.parametrize("strength", ["light", "medium", "strong"])
def test_stronger_words_change_more_and_none_mirrors_unasked(strength):
  ramp = np.tile(np.arange(32, dtype=np.uint8) * 7, (64, 32, 1))[..., None].repeat(3, -1)
  batch = {"image": jnp.asarray(ramp), "label": jnp.zeros(64, int)}

  def rising(flip):
    pixels = augmentation(strength, (32, 32, 3), flip=flip)(KEY, batch)["image"].astype(int)
    return np.asarray(pixels[:, :, 24:].mean((1, 2, 3)) > pixels[:, :, :8].mean((1, 2, 3)))

  assert rising(False).mean() > 0.9  # solarize inverts a few
  assert 0.25 < rising(True).mean() < 0.75


@pytest.mark.slow
def test_change_grows_with_the_word():
  rows = jnp.sin(jnp.arange(32) / 3).reshape(1, -1, 1, 1)
  smooth = 128 + 60 * rows * jnp.cos(jnp.arange(32) / 5).reshape(1, 1, -1, 1)
  batch = {"image": jnp.tile(smooth, (32, 1, 1, 3)).astype(jnp.uint8)}
  change = [
    float(jnp.abs(augmentation(s, (32, 32, 3))(KEY, batch)["image"].astype(float) - smooth).mean())
    for s in STRENGTHS
  ]
  assert change == sorted(change) and change[0] < 1 < change[1]


def test_equal_arguments_give_equal_transforms_that_share_a_compiled_step():
  for strength in STRENGTHS:
    first, second = (augmentation(strength, (8, 8, 3), flip=True) for _ in range(2))
    assert first == second and hash(first) == hash(second)


def test_an_unknown_strength_is_refused_with_those_that_are_known():
  with pytest.raises(ValueError, match="strength: 'hard' is unknown; it must be one of none, lig"):
    augmentation("hard", (8, 8, 3))


@pytest.mark.parametrize(
  "names",
  [
    *(("left", "right"), ("links", "rechts"), ("arrow_l", "arrow_r"), ("turnLeft", "other")),
    *(("b", "d"), ("p", "q"), ("A", "ä"), ("0", "1"), ("10", "11"), ("class 3", "class_4")),
    *(("six", "nine"), ("exit text", "none"), ("stop sign", "car"), ("upper-b", "upper-d")),
    *(("gauche", "droite"), ("向左", "向右"), ("ok", "Rechts abbiegen"), ("左", "x1"), ("?", "!")),
    ("cat", "facing-right"),
  ],
)
def test_names_of_directions_numbers_and_writing_are_seen(names):
  assert unsafe_to_mirror(names)


@pytest.mark.parametrize(
  "names",
  [
    *(("cat", "dog"), ("bright", "copyright", "sparrow"), ("001.Albatross", "002.Jay")),
    *(("n02084071-dog", "boeing 737"), ("Löwe", "猫", "狗狗")[:1], ("sixty", "starfish")),
  ],
)
def test_names_of_things_are_safe(names):
  assert unsafe_to_mirror(names) is None


def data_of(classes, flip):
  part = datasets.Split(np.zeros((2, 8, 8, 3), np.uint8), np.arange(2, dtype=np.int32))
  return datasets.Dataset(
    name="x", classes=classes, train=part, validation=part, test=part, flip=flip
  )


@pytest.mark.parametrize(
  ("classes", "flip", "asked", "mirrored", "says"),
  [
    (("cat", "dog"), None, False, False, "not mirrored in training (flip decides)"),
    (("cat", "dog"), None, True, True, "mirrored in training: no class has a name that looks"),
    (("cat", "left"), None, True, False, "'left' looks like a direction (flip decides)"),
    (("cat", "left"), True, True, True, "images are mirrored in training"),
    (("cat", "dog"), False, True, False, "images are not mirrored in training"),
  ],
)
def test_mirroring_is_asked_for_and_safe_or_decided_and_told(classes, flip, asked, mirrored, says):
  found = decide_flip(data_of(classes, flip), asked)
  assert found.flip is mirrored and says in found.notes[-1]
  assert decide_flip(dataclasses.replace(found, notes=())).flip is mirrored
