"""Calibration sees what the network computes, whatever the batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import models
from jaxcompress.nn import fold, init_variables
from jaxcompress.nn.execute import execute, folded_layers
from jaxcompress.quantize import int8
from jaxcompress.quantize.ptq.algorithms import Subject
from jaxcompress.quantize.ptq.calibrators import BINS, CALIBRATORS, Seen, calibrator, percentile
from jaxcompress.quantize.ptq.images import Batches, read_images
from jaxcompress.quantize.ptq.observe import add_counts, by_grid, extremes, grids_of


def tensors_of(case, images):
  tensors = {}

  def record(tensor, array):
    tensors[tensor] = np.asarray(array)
    return array

  layers = folded_layers(fold(case.sites.graph, case.variables))
  execute(case.sites.graph, layers, jnp.asarray(images), record)
  return tensors


def calibrated(case, images=None, **options):
  return calibrate(case.model, case.variables, case.images if images is None else images, **options)


def calibrate(model, variables, images, ranges="minmax", batch_size=32, preprocess=None):
  """The range of every tensor."""
  graph, batches = read_images(model, variables, images, preprocess, batch_size)
  return Subject.of(graph, variables, batches, int8()).ranges(calibrator(ranges))


@pytest.mark.parametrize("batch_size", [1, 7, 24, 100])
def test_extremes_are_those_of_all_images_in_any_batches(case, batch_size):
  found = calibrated(case, batch_size=batch_size)
  for tensor, array in tensors_of(case, case.images).items():
    if tensor in case.sites.rounded:
      low = 0.0 if tensor in case.sites.nonnegative else array.min()
      np.testing.assert_allclose(found[tensor], (low, array.max()), rtol=1e-5, atol=1e-6)


def test_every_tensor_has_a_range_and_those_that_share_a_grid_the_same(case):
  found = calibrated(case)
  assert set(found) == set(case.sites.key_of)
  assert found["max"] == found["depthwise"]


@pytest.mark.slow
def test_histograms_count_every_value_once_even_if_the_last_batch_is_filled_up(case):
  layers = folded_layers(fold(case.sites.graph, case.variables))
  batches = Batches(case.images[:10], None, 4)
  seen = by_grid(case.sites, extremes(case.sites, layers, batches))
  counted = add_counts(case.sites, layers, batches, seen)
  for tensor, array in tensors_of(case, case.images[:10]).items():
    if tensor in case.sites.rounded and case.sites.key_of[tensor] == tensor:
      one = counted[tensor]
      assert one.counts.sum() == array.size, tensor
      expected = np.histogram(array, BINS, (one.low, one.high))[0]
      assert np.abs(np.cumsum(one.counts - expected)).max() <= 0.001 * array.size + 2


@pytest.mark.parametrize("ranges", CALIBRATORS)
def test_every_range_is_finite_ordered_and_within_the_extremes(case, ranges):
  widest = calibrated(case)
  for tensor, (low, high) in calibrated(case, ranges=ranges, batch_size=5).items():
    assert np.isfinite([low, high]).all() and low <= high
    slack = 1e-3 * (widest[tensor][1] - widest[tensor][0])
    assert low >= widest[tensor][0] - slack and high <= widest[tensor][1] + slack


@pytest.mark.parametrize("ranges", ["percentile", "mse", "kl", "aciq"])
def test_outliers_are_left_out(ranges):
  rng = np.random.default_rng(0)
  x = np.concatenate([rng.normal(0, 1, 200_000), [-25.0, 30.0]])
  counts = np.histogram(x, BINS, (x.min(), x.max()))[0].astype(float)
  low, high = CALIBRATORS[ranges].choose(Seen(x.min(), x.max(), (0.0, 0.0), counts))
  assert -25 < low < -2 and 2 < high < 20


@pytest.mark.parametrize("ranges", ["percentile", "mse", "kl"])
def test_a_uniform_tensor_keeps_nearly_all_of_its_range(ranges):
  x = np.linspace(0, 5, 100_000)
  counts = np.histogram(x, BINS, (0, 5))[0].astype(float)
  low, high = CALIBRATORS[ranges].choose(Seen(0.0, 5.0, (0.0, 5.0), counts, True))
  assert low == 0 and high > 4.9


def test_moving_averages_lie_between_the_first_batch_and_the_extremes(case):
  first = calibrated(case, case.images[:8])["stem"][1]
  average = calibrated(case, ranges="ema", batch_size=8)["stem"][1]
  assert average != first
  assert average <= calibrated(case)["stem"][1]


@pytest.mark.parametrize("ranges", CALIBRATORS)
def test_one_image_and_one_that_is_all_zeros_give_finite_scales(case, ranges):
  for images in (case.images[:1], np.zeros((1, 8, 8, 3), np.float32)):
    for grid in grids_of(calibrated(case, images, ranges=ranges)).values():
      assert np.isfinite(grid.scale) and grid.scale > 0
      assert -128 <= grid.zero_point <= 127


@pytest.mark.slow
def test_gates_have_the_range_of_their_function():
  model = models.mobilenet_v3_small(num_classes=4, width=0.35)
  variables = init_variables(model, jax.random.key(0), (32, 32, 3))
  found = calibrate(model, variables, np.ones((1, 32, 32, 3), np.float32))
  assert found["stage0_block0/se/expand"] == (0.0, 1.0)


def test_preprocessing_comes_before_everything(case):
  pixels = np.full((2, 8, 8, 3), 100, np.uint8)
  assert calibrated(case, pixels, preprocess=lambda x: x / 200.0)["input"] == (0.5, 0.5)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda x: x[:0], "images must not be empty"),
    (lambda x: x[0], r"shape \(8, 8, 3\) must be"),
    (lambda x: x[..., :2], r"variables: they do not fit images of shape \(.*, 2\), or are of"),
    (lambda x: x.astype(np.uint8), "uint8 is no float"),
    (lambda x: np.where(np.arange(24).reshape(-1, 1, 1, 1) == 20, np.nan, x), "not finite"),
    (lambda x: np.where(np.arange(24).reshape(-1, 1, 1, 1) == 0, np.inf, x), "not finite"),
    (lambda x: x.astype(str), "is no float"),
  ],
)
def test_images_that_do_not_fit_are_refused(case, change, message):
  with pytest.raises(ValueError, match=message):
    calibrated(case, change(case.images))


def test_networks_that_overflow_are_refused_by_the_name_of_a_tensor(case):
  variables = {**case.variables, "params": {**case.variables["params"]}}
  stem = variables["params"]["stem"]
  variables["params"]["stem"] = {**stem, "kernel": stem["kernel"] * np.float32(1e38)}
  with pytest.raises(ValueError, match="tensor 'stem' is not finite"):
    calibrate(case.model, variables, case.images * np.float32(1e6))


def test_options_that_are_unknown_or_out_of_range_are_refused(case):
  with pytest.raises(ValueError, match="ranges: 'median' is unknown; it must be one of minmax"):
    calibrated(case, ranges="median")
  with pytest.raises(ValueError, match="batch_size: 0"):
    calibrated(case, batch_size=0)
  with pytest.raises(ValueError, match="share: 101"):
    percentile(101)
