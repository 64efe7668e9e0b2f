"""From pixels to what the networks read."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.data import Preprocess


def pixels(dtype=np.uint8) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (4, 8, 6, 3)).astype(dtype)


@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_values_are_those_of_the_definition_on_the_host_and_on_the_device(per_image, dtype):
  images = pixels(dtype)
  x = (images.astype(np.float64) - 120) / 50
  if per_image:
    x -= x.mean((1, 2), keepdims=True)
    x /= x.std((1, 2, 3), keepdims=True) + 0.2
  preprocess = Preprocess(center=120, scale=50, per_image=per_image, epsilon=0.2)
  host, device = preprocess(images), jax.jit(preprocess)(images)
  assert isinstance(host, np.ndarray) and host.dtype == device.dtype == np.float32
  np.testing.assert_allclose(host, x, atol=1e-6)
  np.testing.assert_allclose(device, x, atol=1e-6)


def test_brightness_tint_and_contrast_hardly_matter():
  images = np.clip(pixels(np.float32) / 4 + 60, 0, 255)
  changed = 1.5 * images + np.float32([10, -20, 30])
  np.testing.assert_allclose(Preprocess()(changed), Preprocess()(images), atol=0.3)
  np.testing.assert_allclose(
    Preprocess(epsilon=1e-9)(changed), Preprocess(epsilon=1e-9)(images), atol=1e-4
  )


def test_flat_images_become_zero_and_single_images_work():
  assert not Preprocess()(np.full((2, 4, 4, 3), 200, np.uint8)).any()
  np.testing.assert_array_equal(Preprocess()(pixels()[0]), Preprocess()(pixels())[0])


def test_lists_and_arrays_are_taken_as_tuples():
  rgb = Preprocess(center=[124.0, 116.0, 104.0], scale=np.array([58.0, 57.0, 57.0]))
  same = Preprocess(center=(124.0, 116.0, 104.0), scale=(58.0, 57.0, 57.0))
  assert rgb == same and hash(rgb) == hash(same)


def test_only_the_channel_mean_is_removed_so_the_deviation_is_the_images():
  y = np.asarray(Preprocess(epsilon=1e-9)(jnp.asarray(pixels())))
  np.testing.assert_allclose(y.mean((1, 2)), 0, atol=1e-6)
  np.testing.assert_allclose(y.std((1, 2, 3)), 1, atol=1e-5)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: Preprocess(scale=0), "scale: 0 must be positive"),
    (lambda: Preprocess(epsilon=float("nan")), "epsilon: nan must be positive"),
    (lambda: Preprocess(scale=None), "scale: None must be positive"),
    (
      lambda: Preprocess(scale=float("inf")),
      "scale: inf must be a number, or one for each channel",
    ),
    (lambda: Preprocess(center="grey"), "center: 'grey' must be a number, or one for each channel"),
    (lambda: Preprocess(center=((1.0,),)), "center: .* must be a number, or one for each channel"),
    (lambda: Preprocess(center=(1.0, 2.0), scale=(1.0, 2.0, 3.0)), "must be of as many channels"),
    (lambda: Preprocess(per_image="no"), "per_image must be True or False, got 'no'"),
    (lambda: Preprocess.from_metadata({"center": 0, "scale": 1}), "per_image, epsilon missing"),
    (lambda: Preprocess.from_metadata(3), "metadata: 3 must be an object"),
  ],
)
def test_mistakes_name_the_argument_and_the_value(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_channels_have_their_own_centers_and_scales_in_numpy_and_in_jax():
  preprocess = Preprocess(center=(10.0, 20.0, 30.0), scale=(2.0, 4.0, 8.0), per_image=False)
  images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
  expected = (np.float32(images) - np.float32([10, 20, 30])) / np.float32([2, 4, 8])
  np.testing.assert_array_equal(preprocess(images), expected)
  np.testing.assert_array_equal(preprocess(jnp.asarray(images)), expected)
  read = json.loads(json.dumps(preprocess.to_metadata()))
  assert Preprocess.from_metadata(read) == preprocess and hash(preprocess)
  with pytest.raises(ValueError, match=r"scale: \(1.0, 0.0, 1.0\) must be positive"):
    Preprocess(scale=(1.0, 0.0, 1.0))


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_settings_of_other_channels_than_the_images_are_refused(channels, array):
  """Broadcasting would make three channels of one."""
  rgb = Preprocess((1.0, 2.0, 3.0), per_image=False)
  with pytest.raises(
    ValueError, match=f"center: .* is of 3 channels, and the images .* have {channels}"
  ):
    rgb(array(np.zeros((2, 4, 4, channels), np.uint8)))
  one = Preprocess((1.0,), (2.0,), per_image=False)
  assert one(array(np.zeros((2, 4, 4, channels), np.uint8))).shape == (2, 4, 4, channels)


@pytest.mark.parametrize("images", [[[1]], np.zeros((4, 4), np.uint8), 3])
def test_what_is_no_image_is_refused(images):
  with pytest.raises(ValueError, match=r"^images must be an array \(\.\.\., height"):
    Preprocess()(images)
