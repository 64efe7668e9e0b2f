"""ConvTranspose computes what Flax's does, forward and backward, whatever its geometry."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxcompress.nn import ConvTranspose, kernel_shape, trace
from jaxcompress.nn.operations import count_macs
from jaxcompress.ops.transposed import (
  conv_transpose,
  phase_kernel,
  phases,
  resolve_transposed,
  transposed_size,
)

AXIS = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))  # size, kernel, stride


def agree(size, kernel, stride, padding):
  """Outputs and gradients of ours and of lax's."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
  weights = jnp.asarray(rng.normal(size=(*kernel, 3, 2)), jnp.float32)

  def theirs(x, weights):
    return lax.conv_transpose(
      x, weights, stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  def ours(x, weights):
    return conv_transpose(x, weights, stride=stride, padding=padding)

  expected = theirs(x, weights)
  np.testing.assert_allclose(ours(x, weights), expected, atol=1e-4)
  shape = transposed_size(size, kernel, stride, resolve_transposed(padding, kernel, stride))
  assert shape == expected.shape[1:3]
  target = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
  gradients = (
    jax.grad(lambda *args, f=f: jnp.sum(f(*args) * target), (0, 1))(x, weights)
    for f in (ours, theirs)
  )
  for one, other in zip(*gradients, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.slow
@given(AXIS, AXIS, st.sampled_from(["SAME", "VALID"]))
@settings(max_examples=15, deadline=None)
def test_named_padding_is_that_of_lax(rows, columns, padding):
  agree(*zip(rows, columns, strict=True), padding)


@pytest.mark.slow
@given(AXIS, AXIS, st.data())
@settings(max_examples=15, deadline=None)
def test_explicit_padding_is_that_of_lax(rows, columns, data):
  size, kernel, stride = zip(rows, columns, strict=True)
  pads = tuple(
    (data.draw(st.integers(0, k - 1)), data.draw(st.integers(0, k + s - 2)))
    for k, s in zip(kernel, stride, strict=True)
  )
  if min(transposed_size(size, kernel, stride, pads)) > 0:
    agree(size, kernel, stride, pads)


def test_a_layer_is_that_of_flax():
  x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
  theirs = nn.ConvTranspose(6, (3, 4), (2, 2))
  variables = theirs.init(jax.random.key(1), x)
  ours = ConvTranspose(6, kernel=(3, 4), stride=2, norm=None)
  np.testing.assert_allclose(
    ours.apply(variables, x, train=False), theirs.apply(variables, x), atol=1e-5
  )


@pytest.mark.slow
def test_it_normalises_and_rectifies_as_batch_norm_does():
  x = jax.random.normal(jax.random.key(0), (4, 3, 3, 5))
  layer = ConvTranspose(6, kernel=4, stride=2, act="relu")
  variables = layer.init(jax.random.key(1), x, train=False)
  y, updates = layer.apply(variables, x, train=True, mutable=["batch_stats"])
  kernel = variables["params"]["kernel"]
  plain = lax.conv_transpose(x, kernel, (2, 2), "SAME")
  mean, var = (f((0, 1, 2), keepdims=True) for f in (plain.mean, plain.var))
  expected = jax.nn.relu((plain - mean) / jnp.sqrt(var + layer.norm.epsilon))
  np.testing.assert_allclose(y, expected, atol=1e-4)
  moved = updates["batch_stats"]["mean"]
  np.testing.assert_allclose(moved, (1 - layer.norm.momentum) * mean.ravel(), atol=1e-4)


def test_its_node_has_a_kernel_and_a_cost():
  layer = ConvTranspose(6, kernel=(3, 2), stride=2)
  x = jax.ShapeDtypeStruct((1, 5, 4, 3), jnp.float32)
  variables = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, train=False), x)
  graph = trace(layer, variables, x)
  assert kernel_shape(graph.nodes[0]) == (3, 2, 3, 6)
  assert count_macs(graph) == 5 * 4 * 3 * 2 * 3 * 6


def test_a_kernel_that_the_stride_divides_costs_no_zeros():
  kernel = np.arange(2 * 4 * 3 * 5).reshape(2, 4, 3, 5)
  phased = phase_kernel(kernel, (2, 2))
  assert phased.shape == (1, 2, 3, 4 * 5)
  assert sorted(phased.ravel()) == sorted(kernel.ravel())
  assert phases((6, 6), 2, 2, resolve_transposed("SAME", 2, 2)).pads == ((0, 0), (0, 0))


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"kernel": 0}, "kernel must be a whole number of 1 or more"),
    ({"stride": (2, 2, 2)}, "stride must be a whole number of 1 or more"),
    ({"padding": "SYMMETRIC"}, "padding: 'SYMMETRIC' is unknown"),
    ({"padding": ((3, 0), (0, 0)), "kernel": 3}, "leaves outputs that read nothing"),
    ({"padding": ((0, 4), (0, 0)), "kernel": 3, "stride": 2}, "at most 2 cells before and 3 after"),
    ({"padding": ((-1, 0), (0, 0))}, "whole numbers of cells, zero or more"),
    ({"padding": 3}, "must be \\(\\(top, bottom\\), \\(left, right\\)\\)"),
    ({"padding": ((0, 0), (0, 0)), "kernel": 5}, "cuts off all of the output"),
    ({"act": "relu7"}, "act: 'relu7' is no activation function"),
  ],
)
def test_odd_fields_are_refused(fields, message):
  layer = ConvTranspose(4, **fields)
  with pytest.raises(ValueError, match=message):
    layer.init(jax.random.key(0), jnp.ones((1, 2, 2, 3)), train=False)
