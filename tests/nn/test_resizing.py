"""Resize computes what JAX's own resizing does, by every way of sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.nn import ChannelShuffle, DepthToSpace, Resize, SpaceToDepth
from jaxcompress.ops.resizing import cells_between, nearest_cells

SIZES = [
  ((4, 5), (8, 10)),
  ((7, 5), (13, 9)),
  ((6, 8), (3, 4)),
  ((5, 5), (5, 12)),
  ((1, 3), (4, 1)),
]


def image(size):
  return jax.random.normal(jax.random.key(0), (2, *size, 3))


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
@pytest.mark.parametrize(("size", "to"), SIZES)
def test_half_pixels_are_those_of_jax_image_resize(method, size, to):
  x = image(size)

  def theirs(x):
    return jax.image.resize(x, (2, *to, 3), method, antialias=False)

  def ours(x):
    return Resize(to, method).apply({}, x)

  np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)
  weights = jax.random.normal(jax.random.key(1), (2, *to, 3))
  gradients = (jax.grad(lambda x, f=f: jnp.sum(f(x) * weights))(x) for f in (ours, theirs))
  np.testing.assert_allclose(*gradients, atol=1e-5)


def test_enlarging_by_whole_numbers_repeats_cells():
  x = image((3, 4))
  repeated = jnp.repeat(jnp.repeat(x, 3, axis=1), 2, axis=2)
  for sampling in ("half_pixel", "asymmetric"):
    np.testing.assert_array_equal(Resize((9, 8), sampling=sampling).apply({}, x), repeated)


def test_aligned_corners_stay():
  x = image((4, 6))
  y = Resize((7, 11), "bilinear", "align_corners").apply({}, x)
  np.testing.assert_allclose(y[:, ::2, ::2], x, atol=1e-6)
  np.testing.assert_allclose(y[:, 1::2, ::2], (x[:, 1:] + x[:, :-1]) / 2, atol=1e-6)


def test_asymmetric_outputs_start_at_the_first_cell():
  x = image((4, 6))
  y = Resize((8, 6), "bilinear", "asymmetric").apply({}, x)
  np.testing.assert_allclose(y[:, ::2], x, atol=1e-6)
  np.testing.assert_allclose(y[:, 1:7:2], (x[:, 1:] + x[:, :-1]) / 2, atol=1e-6)
  np.testing.assert_allclose(y[:, 7], x[:, 3], atol=1e-6)


@pytest.mark.slow
def test_cells_are_those_of_jax_but_between_two_where_its_float32_decides():
  for size in (1, 2, 3, 4, 5, 7, 8, 12, 19):
    x = jnp.arange(float(size))
    for to in (1, 3, 5, 9, 15, 24, 49):
      between = (2 * np.arange(to) + 1) * size % (2 * to) == 0
      theirs = np.asarray(jax.image.resize(x, (to,), "nearest"))
      differing = nearest_cells(size, to) != theirs
      assert not (differing & ~between).any()
      assert to % size or not differing.any()


@pytest.mark.parametrize("sampling", ["half_pixel", "asymmetric", "align_corners"])
def test_shares_add_up_and_cells_exist(sampling):
  for size in range(1, 9):
    for to in range(1, 30):
      cells = cells_between(size, to, sampling)
      assert (cells.low >= 0).all()
      assert (cells.low <= cells.high).all()
      assert (cells.high < size).all()
      assert (cells.part >= 0).all()
      assert (cells.part < cells.whole).all()


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"size": (4, 0)}, "size must be a whole number"),
    ({"size": 2.0}, "size must be a whole number"),
    ({"size": 4, "method": "cubic"}, "method: 'cubic' is unknown"),
    ({"size": 4, "sampling": "corners"}, "sampling: 'corners' is unknown"),
    ({"size": 4, "sampling": "align_corners"}, "'align_corners' is for method='bilinear'"),
  ],
)
def test_odd_fields_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    Resize(**fields).apply({}, image((2, 2)))


def test_vectors_are_refused():
  with pytest.raises(ValueError, match="must be \\(batch, height, width, channels\\)"):
    Resize(4).apply({}, jnp.ones((2, 3)))


def test_channels_become_cells_as_people_write_it():
  x = jax.random.normal(jax.random.key(0), (2, 3, 4, 12))
  rows = x.reshape(2, 3, 4, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 8, 3)
  np.testing.assert_array_equal(DepthToSpace(2).apply({}, x), rows)
  np.testing.assert_array_equal(SpaceToDepth(2).apply({}, rows), x)
  shuffled = x.reshape(2, 3, 4, 3, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(2, 6, 8, 3)
  pixels = DepthToSpace(2).apply({}, ChannelShuffle(3).apply({}, x))
  np.testing.assert_array_equal(pixels, shuffled)


@pytest.mark.parametrize(
  ("layer", "message"),
  [
    (DepthToSpace(2), "2 x 2 cells must divide the 6 channels"),
    (SpaceToDepth(2), "must divide height and width, 3 x 4"),
    (DepthToSpace(0), "block must be one whole number of 1 or more"),
  ],
)
def test_blocks_that_do_not_fit_are_refused(layer, message):
  with pytest.raises(ValueError, match=message):
    layer.apply({}, jnp.ones((1, 3, 4, 6)))
