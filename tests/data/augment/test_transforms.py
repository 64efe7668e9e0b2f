"""Mixing, erasing, crops, colours and compositions against numpy and Pillow."""

import colorsys
import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from jaxcompress.data import (
  Augment,
  ColorJitter,
  FixMatchAugment,
  Mix,
  RandAugment,
  RandomErasing,
  RandomResizedCrop,
  Views,
  compose,
)
from jaxcompress.data.augment import color
from jaxcompress.data.augment.boxes import Boxes, random_boxes, resize_boxes
from jaxcompress.data.augment.mixing import mix, random_box

few = hypothesis.settings(max_examples=20, deadline=None)
seeds = hypothesis.given(seed=st.integers(0, 10**6))
CLASSES = 5


def random_batch(seed=0, count=6, size=(10, 14)):
  rng = np.random.default_rng(seed)
  return {
    "image": rng.integers(0, 256, (count, *size, 3), np.uint8),
    "label": rng.integers(0, CLASSES, count).astype(np.int32),
    "index": np.arange(count, dtype=np.int32),
  }


cut = jax.jit(Mix(classes=CLASSES, cutmix=1.0))
both = jax.jit(Mix(classes=CLASSES, mixup=0.4, cutmix=1.0))


@few
@seeds
def test_cutmix_pastes_one_box_and_mixes_labels_by_its_area(seed):
  batch = random_batch(seed)
  out = jax.device_get(cut(jax.random.key(seed), batch))
  own, other = batch["image"], np.roll(batch["image"], 1, axis=0)
  assert out["image"].dtype == np.uint8
  pasted = np.any(out["image"] != own, axis=(0, 3))  # by now nearly every pasted pixel differs
  rows, columns = np.flatnonzero(pasted.any(1)), np.flatnonzero(pasted.any(0))
  box = np.zeros_like(pasted)
  if len(rows):
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
  np.testing.assert_array_equal(out["image"], np.where(box[None, ..., None], other, own))
  share = 1 - box.mean()
  one_hot = np.eye(CLASSES)[batch["label"]]
  target = share * one_hot + (1 - share) * np.roll(one_hot, 1, axis=0)
  np.testing.assert_allclose(out["target"], target, atol=1e-6)
  likely = batch["label"] if share >= 0.5 else np.roll(batch["label"], 1)
  np.testing.assert_array_equal(out["label"], likely)
  np.testing.assert_array_equal(out["index"], batch["index"])


@pytest.mark.slow
@few
@seeds
def test_either_of_both_gives_targets_that_sum_to_one_and_a_likeliest_label(seed):
  out = jax.device_get(both(jax.random.key(seed), random_batch(seed)))
  np.testing.assert_allclose(out["target"].sum(-1), 1, rtol=1e-5)
  np.testing.assert_allclose(
    np.take_along_axis(out["target"], out["label"][:, None], 1)[:, 0],
    out["target"].max(-1),
    rtol=1e-5,
  )


def test_both_kinds_occur_and_probability_leaves_batches_alone():
  batch = random_batch()
  kinds, make = [], jax.jit(Mix(classes=CLASSES, mixup=1.0, cutmix=1.0, probability=0.8))
  for seed in range(40):
    image = np.asarray(make(jax.random.key(seed), batch)["image"])
    whole = np.all(image == np.round(image))
    kinds.append("none" if np.all(image == batch["image"]) else "cutmix" if whole else "mixup")
  assert set(kinds) == {"none", "cutmix", "mixup"}


def test_a_box_has_its_area_where_nothing_is_cut_off():
  boxes = jax.jit(jax.vmap(lambda key: random_box(key, 0.75, (32, 48))))
  areas = np.asarray(boxes(jax.random.split(jax.random.key(0), 200))).sum((1, 2))
  assert areas.max() == 16 * 24  # a quarter
  assert np.mean(areas == areas.max()) > 0.15


def test_one_weight_for_the_image_is_that_of_each_pixel():
  batch = random_batch()
  scalar, each = (mix(batch, w, CLASSES) for w in (jnp.float32(0.3), jnp.full((10, 14), 0.3)))
  for name in scalar:
    np.testing.assert_allclose(scalar[name], each[name], rtol=1e-6, atol=1e-5)
  own, other = batch["image"].astype(np.float64), np.roll(batch["image"], 1, 0).astype(np.float64)
  np.testing.assert_allclose(scalar["image"], 0.3 * own + 0.7 * other, rtol=1e-5)
  one_hot = np.eye(CLASSES)[batch["label"]]
  target = 0.3 * one_hot + 0.7 * np.roll(one_hot, 1, axis=0)
  np.testing.assert_allclose(scalar["target"], target, rtol=1e-6)


@pytest.mark.parametrize("fill", [None, 7])
def test_erasing_fills_one_box_of_allowed_size(fill):
  count, height, width = 300, 20, 30
  erase = RandomErasing(probability=0.6, scale=(0.1, 0.3), ratio=(0.5, 2.0), fill=fill)
  image = np.full((count, height, width, 1), 200, np.uint8)
  out = np.asarray(jax.jit(erase)(jax.random.key(0), {"image": image})["image"])[..., 0]
  assert out.dtype == np.uint8
  erased = out != 200
  share = np.mean(erased.any((1, 2)))
  assert 0.5 < share < 0.7
  for one in erased[erased.any((1, 2))]:
    rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
    tall, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
    if fill is not None:
      assert one.sum() == tall * wide
      assert 0.08 < one.mean() < 0.33 and 0.4 < wide / tall < 2.4
    else:  # noise is the old value now and then
      assert one.sum() > 0.9 * tall * wide
  if fill is None:
    noise = out[erased].astype(float)
    assert abs(noise.mean() - 127.5) < 4 and abs(noise.std() - 73.9) < 3


def test_boxes_have_the_areas_and_ratios_asked_for_and_lie_inside():
  draw = functools.partial(random_boxes, whole=True)
  boxes = draw(jax.random.key(0), 2000, (100, 120), (0.1, 0.6), (0.5, 2.0))
  boxes = Boxes(*map(np.asarray, boxes))
  assert boxes.found.all()
  area = boxes.height * boxes.width / 12000
  assert area.min() > 0.09 and area.max() < 0.62
  assert abs(area.mean() - 0.35) < 0.02
  ratio = np.log(boxes.width / boxes.height)
  assert abs(ratio.mean()) < 0.05 and np.abs(ratio).max() < np.log(2.1)
  assert (boxes.top >= 0).all() and (boxes.top + boxes.height <= 100).all()
  assert (boxes.left >= 0).all() and (boxes.left + boxes.width <= 120).all()


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_resized_boxes_are_those_of_pillow(dtype):
  picture = random_batch(1, 1, (40, 50))["image"][0, ..., 0]
  boxes = np.array([(0, 0, 40, 50), (3, 7, 30, 25), (20, 30, 5, 9), (0, 10, 12, 40)])
  images = np.repeat(picture[None, ..., None].astype(dtype), len(boxes), axis=0)
  given = Boxes(*map(jnp.asarray, boxes.T), jnp.ones(len(boxes), bool))
  ours = np.asarray(jax.jit(resize_boxes, static_argnums=2)(images, given, (16, 12)))[..., 0]
  assert ours.dtype == dtype
  for (top, left, height, width), result in zip(boxes, ours, strict=True):
    theirs = Image.fromarray(picture.astype(np.float32)).resize(
      (12, 16), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)
    )
    atol = 2e-3 if dtype == np.float32 else 0.502
    np.testing.assert_allclose(result, np.asarray(theirs), atol=atol)


def test_crops_of_long_images_fall_back_to_the_middle():
  image = np.zeros((3, 4, 40, 1), np.float32)
  image[:, :, 20:] = 100.0
  crop = RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.5), size=(4, 6))
  out = np.asarray(jax.jit(crop)(jax.random.key(0), {"image": image})["image"])
  np.testing.assert_allclose(out[..., 0], np.tile([0, 0, 0, 100, 100, 100], (3, 4, 1)), atol=1e-3)


def test_hues_turn_as_colorsys_turns_them():
  rng = np.random.default_rng(0)
  pixels = np.concatenate([rng.random((60, 3)), np.eye(3), np.ones((1, 3)), np.zeros((1, 3))])
  turns = rng.uniform(-0.5, 0.5, len(pixels))
  ours = color.turn_hue(
    jnp.asarray(255 * pixels, jnp.float32).reshape(-1, 1, 1, 3), jnp.asarray(turns, jnp.float32)
  )
  for pixel, turn, result in zip(pixels, turns, np.asarray(ours).reshape(-1, 3), strict=True):
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
    expected = 255 * np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))
    np.testing.assert_allclose(result, expected, atol=2e-3)


def test_brightness_contrast_and_saturation_are_blends_in_float64():
  image = random_batch(3, 4)["image"].astype(np.float64)
  factor = np.array([0.4, 0.9, 1.3, 1.8])
  grey = image @ [0.299, 0.587, 0.114]
  bases = {
    color.brighten: 0.0,
    color.saturate: grey[..., None],
    color.contrast: grey.mean((1, 2))[:, None, None, None],
  }
  for change, base in bases.items():
    expected = np.clip(base + factor[:, None, None, None] * (image - base), 0, 255)
    ours = change(jnp.asarray(image, jnp.float32), jnp.asarray(factor, jnp.float32))
    np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_jitter_is_one_of_the_orders_and_stays_in_range():
  image = np.full((40, 4, 4, 3), [200, 100, 50], np.uint8)
  jitter = jax.jit(ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1))
  out = np.asarray(jitter(jax.random.key(0), {"image": image})["image"])
  assert out.dtype == np.uint8
  flat = out.reshape(40, -1, 3)
  np.testing.assert_array_equal(flat, flat[:, :1].repeat(16, 1))  # flat images stay flat
  assert len(np.unique(flat[:, 0], axis=0)) > 30
  only = jax.jit(ColorJitter(brightness=0.5))
  scaled = np.asarray(only(jax.random.key(1), {"image": image.astype(np.float32)})["image"])
  factors = scaled[:, 0, 0, 2] / 50
  assert 0.5 <= factors.min() < 0.6 and 1.4 < factors.max() <= 1.5
  expected = np.minimum(image[:, 0, 0] * factors[:, None], 255)
  np.testing.assert_allclose(scaled[:, 0, 0], expected, rtol=1e-5)
  nothing = ColorJitter()(jax.random.key(0), {"image": image})["image"]
  np.testing.assert_array_equal(nothing, image)


def test_a_composition_gives_each_transform_its_own_key_and_is_hashable():
  def noise(rng, batch):
    return {**batch, "noise": jax.random.uniform(rng), "before": batch.get("noise")}

  out = compose(noise, noise)(jax.random.key(0), {"image": jnp.zeros(1)})
  assert float(out["noise"]) != float(out["before"])
  one, same = (compose(Augment(crop=4), RandomErasing()) for _ in range(2))
  assert one == same and hash(one) == hash(same)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: Mix(classes=3), "both are 0"),
    (lambda: Mix(classes=0, mixup=1.0), "classes: 0"),
    (lambda: Mix(classes=3, cutmix=-1.0), "cutmix: -1.0"),
    (lambda: Mix(classes=3, mixup=1.0, switch=2.0), "switch: 2.0"),
    (lambda: RandomErasing(probability=1.5), "probability: 1.5"),
    (lambda: RandomErasing(scale=(0.5, 0.2)), r"scale: \(0.5, 0.2\)"),
    (lambda: RandomResizedCrop(ratio=(0, 1)), r"ratio: \(0, 1\)"),
    (lambda: RandomResizedCrop(size=(0, 1)), r"size: \(0, 1\)"),
    (lambda: ColorJitter(hue=0.6), "hue: 0.6 must be a number from 0 to 0.5"),
    (lambda: ColorJitter(contrast=-1), "contrast: -1"),
    (lambda: Augment(pad="reflect"), "pad: 'reflect'"),
    (lambda: compose(Augment(), 3), r"transforms\[1\] must be a function, .* got 3"),
  ],
)
def test_mistakes_name_the_argument_and_the_value(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_views_follow_one_another_with_their_labels_and_keys_of_their_own():
  image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8))
  batch = {"image": image, "label": jnp.arange(3), "index": jnp.arange(3) + 7}
  shift = Augment(crop=2)
  seen = Views((lambda rng, batch: batch, shift, shift))(jax.random.key(0), batch)
  np.testing.assert_array_equal(seen["image"][:3], image)
  assert not np.array_equal(seen["image"][3:6], seen["image"][6:])
  assert seen["index"].tolist() == 3 * [7, 8, 9] and seen["label"].tolist() == 3 * [0, 1, 2]
  np.testing.assert_array_equal(seen["view"], np.repeat(np.eye(3, dtype=bool), 3, axis=0))
  of_views = Views((Views((shift, shift)), Views((shift, shift))))(jax.random.key(0), batch)
  np.testing.assert_array_equal(of_views["view"], np.repeat(np.eye(4, dtype=bool), 3, axis=0))
  with pytest.raises(ValueError, match=r"transforms\[0\] must be a function"):
    Views((3,))


@pytest.mark.parametrize(
  "transform",
  [
    Augment(crop=2, flip=True),
    Mix(classes=CLASSES, mixup=0.4),
    RandomErasing(),
    RandomResizedCrop(),
    ColorJitter(brightness=0.5),
    FixMatchAugment(),
    RandAugment(),
  ],
  ids=lambda transform: type(transform).__name__,
)
@pytest.mark.parametrize(
  "change",
  [
    {"image": np.zeros((10, 14, 3), np.uint8)},
    {"image": np.zeros((0, 10, 14, 3), np.uint8)},
    {"label": np.zeros(5, np.int32)},
  ],
  ids=["one image", "none", "fewer labels"],
)
def test_what_is_no_batch_of_images_is_refused(transform, change):
  """Broadcasting would make a batch of one image's rows."""
  with pytest.raises(ValueError, match=r"^batch: '(image|label)' has shape"):
    transform(jax.random.key(0), {**random_batch(), **change})
