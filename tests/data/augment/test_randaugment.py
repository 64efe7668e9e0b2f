"""RandAugment's operations against Pillow's, pixel by pixel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from jaxcompress.data import RandAugment
from jaxcompress.data.augment.pillow import affine
from jaxcompress.data.augment.randaugment import NAMES, OPS, amounts_of, apply_ops

SIZE = (21, 26)
FILL = 77
ENHANCE = {
  "brightness": ImageEnhance.Brightness,
  "color": ImageEnhance.Color,
  "contrast": ImageEnhance.Contrast,
  "sharpness": ImageEnhance.Sharpness,
}


def pillow(name, image, amount, resample=Image.Resampling.NEAREST):
  """One operation as AutoAugment's authors and torchvision write it."""
  height, width = SIZE
  fill = FILL if image.mode == "L" else (FILL,) * 3
  matrices = {
    "shear_x": (1, amount, 0, 0, 1, 0),
    "shear_y": (1, 0, 0, amount, 1, 0),
    "translate_x": (1, 0, int(amount * width), 0, 1, 0),
    "translate_y": (1, 0, 0, 0, 1, int(amount * height)),
  }
  if name in matrices:
    kind = Image.Transform.AFFINE
    return image.transform(image.size, kind, matrices[name], resample, fillcolor=fill)
  if name == "rotate":
    return image.rotate(amount, resample, fillcolor=fill)
  if name in ENHANCE:
    return ENHANCE[name](image).enhance(1 + amount)
  if name == "posterize":
    return ImageOps.posterize(image, 8 - round(amount))
  if name == "solarize":
    return ImageOps.solarize(image, amount)
  return {"autocontrast": ImageOps.autocontrast, "equalize": ImageOps.equalize}.get(
    name, lambda image: image
  )(image)


@pytest.fixture(scope="module")
def pictures():
  """Colour pictures: noise, a dark gradient with few values, and a flat one."""
  rng = np.random.default_rng(0)
  y, x = np.mgrid[: SIZE[0], : SIZE[1]]
  gradient = np.stack([40 + 2 * x, 60 + 3 * y, 50 + x + y], -1)
  blurred = Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).filter(ImageFilter.BLUR)
  return [np.asarray(blurred), gradient.astype(np.uint8), np.full((*SIZE, 3), 9, np.uint8)]


@pytest.fixture(scope="module")
def cases(pictures):
  """(picture, place in OPS, amount) for every operation."""
  return [
    (picture, NAMES.index(name), sign * (op.weakest + level * (op.strongest - op.weakest)))
    for picture in pictures
    for name, op in OPS.items()
    for level in (0.3, 0.8)
    for sign in ((1, -1) if op.signed else (1,))
  ]


@functools.partial(jax.jit, static_argnames="interpolation")
def apply(images, which, amounts, interpolation="nearest"):
  return apply_ops(images, which, amounts, fill=FILL, interpolation=interpolation)


@pytest.fixture(scope="module")
def results(cases):
  images, which, amounts = (np.stack(part) for part in zip(*cases, strict=True))
  return np.asarray(apply(images, which.astype(np.int32), amounts.astype(np.float32)))


@pytest.mark.parametrize("name", NAMES)
def test_an_operation_is_that_of_pillow(name, cases, results):
  seen = 0
  for (picture, which, amount), ours in zip(cases, results, strict=True):
    if which != NAMES.index(name):
      continue
    theirs = np.asarray(pillow(name, Image.fromarray(picture), amount), int)
    off = np.abs(ours.astype(int) - theirs)
    if name in ("brightness", "color", "contrast", "sharpness", "autocontrast"):
      assert off.max() <= 1 and np.mean(off > 0) < 0.05, (amount, off.max(), np.mean(off > 0))
    else:
      assert off.max() == 0, (amount, np.mean(off > 0))
    seen += 1
  assert seen >= 6


def test_grey_images_are_treated_alike(pictures):
  grey = pictures[0][..., 0]
  which = np.arange(len(OPS), dtype=np.int32)
  images = np.repeat(grey[None, ..., None], len(OPS), axis=0)
  amounts = np.array([op.strongest * 0.5 for op in OPS.values()], np.float32)
  ours = np.asarray(apply(images, which, amounts))[..., 0].astype(int)
  for name, result, amount in zip(NAMES, ours, amounts, strict=True):
    theirs = np.asarray(pillow(name, Image.fromarray(grey), float(amount)), int)
    assert np.abs(result - theirs).max() <= 1, name


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_bilinear_sampling_is_that_of_pillow(pictures, dtype):
  rng = np.random.default_rng(1)
  matrices = np.tile(np.eye(2, 3), (6, 1, 1)) + rng.normal(size=(6, 2, 3)) * [[0.2, 0.2, 3.0]]
  picture = pictures[0][..., 0].astype(dtype)
  images = np.repeat(picture[None, ..., None], 6, axis=0)
  ours = affine(images, jnp.asarray(matrices, jnp.float32), fill=FILL, interpolation="bilinear")
  for matrix, result in zip(matrices, np.asarray(ours)[..., 0], strict=True):
    theirs = Image.fromarray(picture).transform(
      SIZE[::-1], Image.Transform.AFFINE, tuple(matrix.ravel()), Image.Resampling.BILINEAR,
      fillcolor=FILL,
    )  # fmt: skip
    off = np.abs(result.astype(float) - np.asarray(theirs, float))
    assert np.mean(off > 1) < 0.005  # pixels on the border between inside and outside
    assert np.median(off) < 1e-3


def test_magnitudes_are_the_published_ones():
  which, no = jnp.arange(len(OPS)), jnp.zeros(len(OPS), bool)
  at = dict(zip(NAMES, np.asarray(amounts_of(which, 9.0, no)).tolist(), strict=True))
  published = {"shear_x": 0.09, "rotate": 9.0, "color": 0.27, "posterize": 1.2, "solarize": 178.5}
  assert {key: round(at[key], 4) for key in published} == published
  assert at["translate_x"] * 331 == pytest.approx(45, rel=1e-5)
  negative = np.asarray(amounts_of(which, 9.0, ~no))
  signs = [-1 if op.signed else 1 for op in OPS.values()]
  np.testing.assert_allclose(negative, np.array(signs) * list(at.values()))


def test_images_get_different_operations_by_key_and_keep_dtype_and_labels(pictures):
  augment = jax.jit(RandAugment(count=1, magnitude=20.0))
  image = np.repeat(pictures[0][None], 32, axis=0)
  batch = {"image": image, "label": np.arange(32, dtype=np.int32)}
  first, again, other = (augment(jax.random.key(seed), batch)["image"] for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert first.dtype == jnp.uint8 and np.any(first != other)
  assert len({np.asarray(one).tobytes() for one in first}) > 10
  as_float = augment(jax.random.key(0), {**batch, "image": image.astype(np.float32)})
  assert as_float["image"].dtype == jnp.float32
  np.testing.assert_array_equal(as_float["image"], first.astype(np.float32))
  np.testing.assert_array_equal(as_float["label"], batch["label"])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"count": 0}, "count: 0 must be a whole number, at least 1"),
    ({"magnitude": 31}, "magnitude: 31 must be a number from 0 to 30"),
    ({"ops": ("rotate", "twist")}, r"ops: \['twist'\] must be among identity"),
    ({"interpolation": "cubic"}, "interpolation: 'cubic' must be"),
  ],
)
def test_mistakes_name_the_argument_and_the_value(options, message):
  with pytest.raises(ValueError, match=message):
    RandAugment(**options)


def test_images_of_two_channels_are_refused():
  with pytest.raises(ValueError, match="image: 2 channels"):
    RandAugment()(jax.random.key(0), {"image": jnp.zeros((1, 4, 4, 2), jnp.uint8)})
