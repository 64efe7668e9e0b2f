"""Learned rounding and corrected biases bring a layer closer to what it was in float."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.nn import Folded, fold
from jaxcompress.nn.execute import execute, folded_layers, linear
from jaxcompress.quantize import int8, levels
from jaxcompress.quantize.codes import round_kernel
from jaxcompress.quantize.ptq.adaround import (
  Samples,
  adaround,
  choose_codes,
  grouped,
  join_groups,
  sample_positions,
  split_groups,
)
from jaxcompress.quantize.ptq.algorithms import Subject
from jaxcompress.quantize.ptq.calibrators import CALIBRATORS
from jaxcompress.quantize.ptq.correct import correct_with_images, correct_with_moments
from jaxcompress.quantize.ptq.images import Batches
from jaxcompress.quantize.ptq.moments import moments_of
from jaxcompress.quantize.ptq.observe import grids_of
from jaxcompress.quantize.ptq.weights import absmax_scales, choose_scales, rounded_weights


def layers_of(case):
  """The case's layers with factors of one."""
  folded = fold(case.sites.graph, case.variables)
  return {
    name: Folded(layer.weights, np.ones_like(layer.factor), layer.bias)
    for name, layer in folded.items()
  }


def inputs_of(case, folded, images):
  tensors = {}

  def record(tensor, array):
    tensors[tensor] = array
    return array

  execute(case.sites.graph, folded_layers(folded), jnp.asarray(images), record)
  return tensors


def correlated(rng, rows, size):
  """Inputs in which neighbours go together, so that errors of neighbours can cancel."""
  common = rng.normal(size=(rows, 1, 1))
  return (common + 0.3 * rng.normal(size=(rows, 1, size))).astype(np.float32)


@pytest.mark.parametrize("act", [None, "relu"])
@pytest.mark.parametrize("bits", [3, 4])
def test_learned_rounding_has_less_error_than_rounding_to_nearest(bits, act):
  rng = np.random.default_rng(0)
  to = levels(bits, symmetric=True, narrow=True)
  kernel = rng.normal(0, 0.3, (24, 6)).astype(np.float32)
  bias = rng.normal(0, 0.3, (1, 6)).astype(np.float32)
  scales = absmax_scales(kernel, to)
  train, test = (correlated(rng, 1500, 24) for _ in range(2))
  real = np.asarray(grouped(train, kernel[None])) + bias
  codes = choose_codes(
    kernel[None],
    scales.reshape(1, 1, -1),
    bias,
    Samples(train, real),
    act=act,
    to=to,
    rng=jax.random.key(0),
  )[0]
  floor = np.floor(kernel / scales)
  assert np.all((codes == floor) | (codes == floor + 1))
  error = lambda c: float(np.square(test[:, 0] @ (c * scales - kernel)).mean())  # noqa: E731
  assert error(codes) < 0.5 * error(round_kernel(kernel, scales, to))


def test_a_channel_that_would_get_worse_keeps_rounding_to_nearest():
  rng = np.random.default_rng(0)
  to = levels(4, symmetric=True, narrow=True)
  kernel = rng.normal(0, 0.3, (1, 5)).astype(np.float32)  # one weight each: nearest is best
  scales = absmax_scales(kernel, to) * 1.3
  x = rng.normal(size=(64, 1, 1)).astype(np.float32)
  codes = choose_codes(
    kernel[None],
    scales.reshape(1, 1, -1),
    np.zeros((1, 5), np.float32),
    Samples(x, np.asarray(grouped(x, kernel[None]))),
    act=None,
    to=to,
    rng=jax.random.key(0),
  )[0]
  np.testing.assert_array_equal(codes, round_kernel(kernel, scales, to))


def test_patches_times_matrices_are_the_layer(case):
  folded = layers_of(case)
  tensors = inputs_of(case, folded, case.images)
  rng = np.random.default_rng(0)
  for node in case.sites.graph.nodes:
    if node.name not in folded:
      continue
    layer, x = folded[node.name], np.asarray(tensors[node.inputs[0]])
    target = np.asarray(linear(node, layer.weights, jnp.asarray(layer.bias, jnp.float32), x))
    rows = sample_positions(node, x, target, rng)
    matrices = split_groups(node, layer.kernel)
    np.testing.assert_array_equal(join_groups(node, matrices), layer.kernel)
    y = np.einsum("mgd,gdo->mgo", rows.patches, matrices) + layer.bias.reshape(
      matrices.shape[0], -1
    )
    np.testing.assert_allclose(y, rows.targets, rtol=1e-4, atol=1e-5, err_msg=node.name)


@pytest.mark.slow
def test_a_whole_network_rounded_by_learning_is_closer_to_the_float_one(case):
  to = levels(3, symmetric=True, narrow=True)
  ticks = []
  batches = Batches(case.images, None, 10, lambda: ticks.append(1))
  network = Subject.of(case.graph, case.variables, batches, int8())
  grids = grids_of(network.ranges(CALIBRATORS["minmax"]))
  scales = choose_scales(network.folded, dict.fromkeys(network.folded, to), "absmax")
  ticks.clear()
  codes, folded = adaround(
    network.sites,
    network.folded,
    scales,
    grids,
    network.batches,
    to=dict.fromkeys(network.folded, to),
  )
  assert len(ticks) == batches.count + len(network.folded)
  graph, x = network.sites.graph, jnp.asarray(case.images)
  before = execute(graph, network.layers, x)

  def distance(weights, layers):
    arrays = {
      name: (jnp.asarray(weights[name]), jnp.asarray(layers[name].bias, jnp.float32))
      for name in layers
    }
    return float(jnp.square(execute(graph, arrays, x) - before).mean())

  nearest = {
    name: rounded_weights(layer, scales[name], to) for name, layer in network.folded.items()
  }
  ours = {name: codes[name] * scales[name] for name in scales}
  assert distance(ours, folded) < 0.5 * distance(nearest, network.folded)


def test_corrected_biases_keep_the_mean_of_every_layer_on_the_float_network(case):
  to = levels(3, symmetric=True, narrow=True)
  folded = layers_of(case)
  scales = choose_scales(folded, dict.fromkeys(folded, to), "absmax")
  rounded = {name: rounded_weights(layer, scales[name], to) for name, layer in folded.items()}
  batches = Batches(case.images, None, 7)
  corrected = correct_with_images(case.sites.graph, folded, rounded, batches)
  tensors = inputs_of(case, folded, case.images)
  for node in case.sites.graph.nodes:
    if node.name in folded:
      x = tensors[node.inputs[0]]
      means = [
        np.asarray(linear(node, weights, jnp.asarray(bias, jnp.float32), x)).mean(
          axis=tuple(range(len(node.output_shapes[0]) - 1))
        )
        for weights, bias in (
          (folded[node.name].weights, folded[node.name].bias),
          (rounded[node.name], corrected[node.name].bias),
        )
      ]
      np.testing.assert_allclose(*means, rtol=1e-4, atol=1e-5, err_msg=node.name)


def test_correction_without_images_uses_the_means_that_normalization_foresees(case):
  to = levels(3, symmetric=True, narrow=True)
  folded = layers_of(case)
  scales = choose_scales(folded, dict.fromkeys(folded, to), "absmax")
  rounded = {name: rounded_weights(layer, scales[name], to) for name, layer in folded.items()}
  moments = moments_of(case.sites.graph, case.variables)
  corrected = correct_with_moments(case.sites.graph, folded, rounded, moments)
  np.testing.assert_array_equal(corrected["stem"].bias, folded["stem"].bias)  # reads images
  error = rounded["depthwise"].astype(np.float64) - folded["depthwise"].weights
  beta, gamma = (moments["stem"].mean, moments["stem"].deviation)
  samples = np.maximum(beta + gamma * np.random.default_rng(0).normal(size=(200_000, 8)), 0)
  expected = folded["depthwise"].bias - error.sum(axis=(0, 1, 2)) * samples.mean(axis=0)
  np.testing.assert_allclose(corrected["depthwise"].bias, expected, atol=5e-3)
