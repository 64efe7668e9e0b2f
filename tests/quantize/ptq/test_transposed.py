"""Calibration of layers whose outputs take turns at the taps of a kernel."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.nn import (
  ConvNorm,
  ConvTranspose,
  Resize,
  fold,
  fuse_activations,
  init_variables,
  trace,
)
from jaxcompress.nn.execute import execute, folded_layers, linear
from jaxcompress.quantize.ptq.adaround import sample_positions, split_groups
from jaxcompress.quantize.ptq.correct import correct_with_moments
from jaxcompress.quantize.ptq.equalize import equalize, find_chains
from jaxcompress.quantize.ptq.moments import Moments, moments_of

GEOMETRIES = [
  {"kernel": 2, "stride": 2},
  {"kernel": 3, "stride": 2},
  {"kernel": 4, "stride": 2, "padding": "VALID"},
  {"kernel": 3, "padding": ((0, 1), (2, 1))},
]


class Enlarged(nn.Module):
  """A rectified layer, its channels resized and transposed."""

  fields: dict

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(6, kernel=3, act="relu", name="first")(x, train=train)
    x = Resize((7, 9), method="bilinear", name="resize")(x)
    return ConvTranspose(4, name="up", **self.fields)(x, train=train)


def built(fields):
  model = Enlarged(fields)
  rng = np.random.default_rng(0)

  def change(path, leaf):  # channels that are nearly always above zero, and others
    draw = {"scale": lambda: np.exp(rng.normal(-1, 1, leaf.shape)), "var": lambda: leaf + 0.5}
    draw |= dict.fromkeys(("bias", "mean"), lambda: rng.normal(1, 1.5, leaf.shape))
    return jnp.asarray(draw.get(path[-1].key, lambda: leaf)(), jnp.float32)

  variables = jax.tree_util.tree_map_with_path(
    change, init_variables(model, jax.random.key(0), (5, 6, 3))
  )
  graph = fuse_activations(trace(model, variables, jnp.ones((1, 5, 6, 3))))
  return graph, fold(graph, variables), moments_of(graph, variables)


@pytest.mark.parametrize("fields", GEOMETRIES)
def test_patches_times_a_kernel_are_the_outputs(fields):
  graph, folded, _ = built(fields)
  node, layer = graph.nodes[-1], folded["up"]
  x = np.random.default_rng(1).normal(size=(3, *node.input_shapes[0][1:])).astype(np.float32)
  target = np.asarray(linear(node, layer.weights, jnp.asarray(layer.bias, jnp.float32), x))
  rows = sample_positions(node, x, target, np.random.default_rng(0))
  y = np.einsum("mgd,gdo->mgo", rows.patches, split_groups(node, layer.weights)) + layer.bias
  np.testing.assert_allclose(y, rows.targets, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fields", GEOMETRIES[:2])
def test_scales_move_through_resizing_and_change_nothing(fields):
  graph, folded, moments = built(fields)
  assert [chain.layers for chain in find_chains(graph)] == [("first", "up")]
  moved = equalize(graph, folded, moments, {})
  ranges = [np.abs(f["first"].weights).max((0, 1, 2)) for f in (folded, moved.folded)]
  assert np.ptp(np.log(ranges[1] / ranges[0])) > 0.1
  x = jax.random.normal(jax.random.key(2), (4, 5, 6, 3))
  before, after = (execute(graph, folded_layers(f), x) for f in (folded, moved.folded))
  np.testing.assert_allclose(after, before, atol=1e-3)


def test_the_foreseen_mean_of_an_error_is_that_of_all_outputs():
  graph, folded, _ = built({"kernel": 2, "stride": 2})
  rng = np.random.default_rng(3)
  rounded = {name: layer.weights for name, layer in folded.items()}
  rounded["up"] = rounded["up"] + rng.normal(0, 0.1, rounded["up"].shape)
  moments = {"first": Moments(np.full(6, 50.0), np.full(6, 1e-3))}
  corrected = correct_with_moments(graph, folded, rounded, moments)
  node = graph.nodes[-1]
  x = np.full((1, *node.input_shapes[0][1:]), 50.0, np.float32)
  means = [
    np.mean(linear(node, weights, jnp.asarray(layer.bias, jnp.float32), x), (0, 1, 2))
    for weights, layer in ((rounded["up"], corrected["up"]), (folded["up"].weights, folded["up"]))
  ]
  np.testing.assert_allclose(*means, rtol=1e-4)
