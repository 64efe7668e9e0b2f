"""FixMatch's strong view: its strengths as numbers, its box against Pillow's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageDraw

from jaxcompress.data import FixMatchAugment
from jaxcompress.data.augment.fixmatch import GREY, amounts_at, draw_boxes
from jaxcompress.data.augment.randaugment import NAMES

WIDTH = 30
ORIGINAL = {  # amounts from the code's ranges: factors less 1, bits that go, shifts in pixels
  "shear_x": lambda u: -0.3 + 0.6 * u,
  "rotate": lambda u: -30 + 60 * u,
  "color": lambda u: 0.05 + 0.9 * u - 1,
  "posterize": lambda u: 8 - int(4 + 4 * u),
  "solarize": lambda u: 256 * u,
  "identity": lambda u: 0.0,
}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.99])
def test_strengths_are_those_of_the_code(share):
  which = jnp.arange(len(NAMES))
  found = dict(
    zip(NAMES, np.asarray(amounts_at(which, jnp.full(which.shape, share), (8, WIDTH))), strict=True)
  )
  for name, original in ORIGINAL.items():
    np.testing.assert_allclose(found[name], original(share), rtol=1e-5, atol=1e-5)
  for name, length in (("translate_x", WIDTH), ("translate_y", 8)):
    nearest = np.floor((-0.3 + 0.6 * share) * length + 0.5)  # what Pillow picks for such a shift
    assert np.trunc(found[name] * length) == nearest


def test_boxes_are_those_that_pillow_draws():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (20, 12, WIDTH, 3), np.uint8)
  rows, columns, sides = rng.uniform(0, [[12], [WIDTH], [WIDTH / 2]], (3, 20))
  expected = []
  for image, y, x, side in zip(images, rows, columns, sides, strict=True):
    drawn = Image.fromarray(image)
    left, top = int(max(0, x - side / 2)), int(max(0, y - side / 2))
    corners = (left, top, min(WIDTH, left + side), min(12, top + side))
    ImageDraw.Draw(drawn).rectangle(corners, GREY)
    expected.append(np.asarray(drawn))
  np.testing.assert_array_equal(draw_boxes(jnp.asarray(images), rows, columns, sides), expected)


def test_a_view_keeps_the_batchs_form_and_differs_from_image_to_image():
  batch = {"image": jnp.tile(jnp.arange(8, dtype=jnp.float32).reshape(1, 8, 1, 1) * 30, (6, 1, 8, 3)),
           "label": jnp.arange(6)}  # fmt: skip
  found = jax.jit(FixMatchAugment())(jax.random.key(1), batch)
  assert found["image"].shape == (6, 8, 8, 3) and found["image"].dtype == jnp.float32
  assert len(np.unique(np.asarray(found["image"]).reshape(6, -1), axis=0)) == 6
  np.testing.assert_array_equal(found["label"], batch["label"])
