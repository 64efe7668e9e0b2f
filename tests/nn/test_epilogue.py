"""Gradients of a normalization with its epilogue, against those of the operations one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import nn, ops
from jaxcompress.nn.activations import activate
from jaxcompress.nn.epilogue import Epilogue, ending, norm_act
from jaxcompress.ops.sums import extremes

EPSILON = 1e-3


def problem(shape=(3, 4, 4, 5), dtype=jnp.float32):
  """``(x, scale, bias, running mean, running variance)`` and the gradient with respect to the output."""
  rng = np.random.default_rng(0)
  draw = lambda *size: jnp.asarray(rng.normal(size=size), jnp.float32)  # noqa: E731
  channels = shape[-1]
  operands = (draw(*shape).astype(dtype), draw(channels), draw(channels))
  return operands, (draw(channels), 1 + draw(channels) ** 2), draw(*shape).astype(dtype)


def scaled(factor):
  """``y = factor * z``, with a gradient with respect to the factor."""
  return Epilogue(
    prepare=lambda z: ((factor,), ()),
    forward=lambda z, trained, fixed: (z * trained[0]).astype(z.dtype),
    backward=lambda z, g, trained, fixed: ((g * trained[0]).astype(g.dtype), (1.0 * g * z,)),
  )


@pytest.mark.parametrize(
  ("act", "live", "formulation", "shape"),
  [
    ("relu6", True, "together", (3, 4, 4, 5)),
    ("hard_swish", True, "together", (2, 3, 5, 4)),
    (None, False, "together", (3, 4, 4, 5)),
    ("relu", True, "apart", (6, 5)),
  ],
)
def test_gradients_are_those_of_the_parts(act, live, formulation, shape):
  operands, running, g = problem(shape)

  def together(factor, *operands):
    with ending(scaled(factor)):
      return norm_act(*operands, *running, live, EPSILON, act)[0]

  def apart(factor, *operands):
    return activate(act, norm_act(*operands, *running, live, EPSILON, None)[0]) * factor

  def pulled(function):
    y, pull_back = jax.vjp(function, jnp.float32(1.5), *operands)
    return y, pull_back(g)

  with ops.formulations(reductions=formulation):
    ours = jax.jit(lambda: pulled(together))()
  for mine, reference in zip(jax.tree.leaves(ours), jax.tree.leaves(pulled(apart)), strict=True):
    limit = 1e-5 * np.abs(reference).max()
    np.testing.assert_allclose(mine, reference, rtol=0, atol=limit)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("act", ["relu6", None, "hard_swish"])
@pytest.mark.parametrize("live", [True, False])
def test_the_ends_of_the_range_are_those_of_the_tensor(act, live, dtype):
  operands, running, _ = problem(dtype=dtype)
  epilogue = Epilogue(
    prepare=lambda z: ((), extremes(z)),
    forward=lambda z, trained, fixed: jnp.stack(fixed),
    by_ends=True,
  )
  with ending(epilogue):
    ends, mean, variance = norm_act(*operands, *running, live, EPSILON, act)
  y, *statistics = norm_act(*operands, *running, live, EPSILON, act)
  expected = jnp.stack([jnp.min(y), jnp.max(y)])
  limit = 1e-6 if dtype == jnp.float32 else 2**-7
  np.testing.assert_allclose(*(np.float32(a) for a in (ends, expected)), rtol=limit)
  np.testing.assert_allclose((mean, variance), statistics, rtol=1e-5, atol=1e-6)


def test_a_layer_without_normalization_prepares_nothing():
  def refuse(z):
    raise AssertionError("prepared")

  layer, x = nn.ConvNorm(4, norm=None, act="relu"), jnp.ones((1, 2, 2, 3))
  variables = layer.init(jax.random.key(0), x, train=False)
  with ending(Epilogue(refuse, refuse)):
    y = layer.apply(variables, x, train=False)
  np.testing.assert_array_equal(y, layer.apply(variables, x, train=False))
