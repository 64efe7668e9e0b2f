"""Codes of places: numbers by their definition, what is refused, and the fate of their weights."""

import math

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import nn, prune
from jaxcompress.nn.execute import execute, folded_layers
from jaxcompress.nn.positions import fourier_codes

SIDES = (4, 6)


def test_codes_are_sines_and_cosines_of_rows_and_columns():
  found = fourier_codes(SIDES, 3, 100.0).reshape(*SIDES, 6)
  for row in range(SIDES[0]):
    for column in range(SIDES[1]):
      places = (row + 1) / SIDES[0], (column + 1) / SIDES[1]
      wanted = [
        function(2 * math.pi * place / 100.0 ** (power / 3))
        for place in places
        for function, power in ((math.sin, 0), (math.cos, 0), (math.sin, 2))
      ]
      np.testing.assert_allclose(found[row, column], wanted, rtol=0, atol=1e-5)


class Placed(linen.Module):
  """A map whose cells are told apart."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(24, norm=None, act="relu", name="wide")(x, train=train)
    x = nn.ConvNorm(5, norm=None, name="stem")(x, train=train)
    x = nn.Reshape((5 * math.prod(SIDES),), name="flat")(x)
    x = nn.FourierPositions(SIDES, frequencies=4, name="positions")(x)
    x = nn.Reshape((*SIDES, 5), name="map")(x)
    return nn.Dense(3, name="classifier")(x)


@pytest.fixture(scope="module")
def variables():
  found = nn.init_variables(Placed(), jax.random.key(0), (*SIDES, 3))
  bias = found["params"]["positions"]["bias"] + 0.5
  found["params"]["positions"]["bias"] = bias
  return found


def test_what_is_added_is_linear_in_the_codes_also_once_it_is_folded(variables):
  own = {"params": variables["params"]["positions"]}
  projection, bias = own["params"]["projection"], own["params"]["bias"]
  x = jax.random.normal(jax.random.key(1), (2, math.prod(SIDES) * 5))
  found = nn.FourierPositions(SIDES, frequencies=4).apply(own, x)
  added = fourier_codes(SIDES, 4, 10000.0) @ np.asarray(projection[0, 0]) + np.asarray(bias)
  np.testing.assert_allclose(found - x, np.tile(added.ravel(), (2, 1)), rtol=0, atol=1e-5)
  assert np.ptp(added, axis=0).min() > 0.1
  images = jax.random.normal(jax.random.key(2), (2, *SIDES, 3))
  graph = nn.fuse_activations(nn.trace(Placed(), variables, images))
  folded = execute(graph, folded_layers(nn.fold(graph, variables)), images)
  logits = Placed().apply(variables, images, train=False)
  np.testing.assert_allclose(folded, logits, rtol=0, atol=1e-5)


def test_the_projection_stays_where_channels_go(variables):
  image = jax.ShapeDtypeStruct((1, *SIDES, 3), jnp.float32)
  found = prune.channel_importance(Placed(), variables, image)
  keep = prune.choose_channels(found, 0.5, divisor=2)
  smaller, few = prune.remove_channels(Placed(), variables, keep)
  assert few["params"]["wide"]["bias"].shape == (12,)
  np.testing.assert_array_equal(
    few["params"]["positions"]["projection"], variables["params"]["positions"]["projection"]
  )
  images = jnp.ones((2, *SIDES, 3))
  assert smaller.apply(few, images, train=False).logits.shape == (2, 3)


@pytest.mark.parametrize(
  ("fields", "shape", "message"),
  [
    ({"size": 4}, (1, 16), "size must be two whole numbers of 1 or more, .height, width., got 4"),
    ({"size": (0, 4)}, (1, 16), r"got \(0, 4\)"),
    ({"frequencies": 0}, (1, 24), "frequencies must be one whole number of 1 or more"),
    ({"temperature": -1.0}, (1, 24), "temperature must be a finite number above zero, got -1.0"),
    ({}, (1, 25), r"reads shape \(1, 25\), which must be .* maps of 4 x 6 cells; a Reshape"),
    ({}, (1, 4, 6, 2), "a Reshape makes vectors of them"),
  ],
)
def test_what_does_not_fit_is_refused(fields, shape, message):
  layer = nn.FourierPositions(**{"size": SIDES, **fields})
  with pytest.raises(ValueError, match=f"FourierPositions: .*{message}"):
    layer.init(jax.random.key(0), jnp.ones(shape))
