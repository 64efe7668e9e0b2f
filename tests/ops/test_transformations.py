"""Convolutions under jit, grad, vmap and remat, in every formulation of a backend."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import ops
from jaxcompress.ops import dispatch

KERNELS = {"depthwise": (3, 3, 1, 4), "pointwise": (1, 1, 4, 6), "standard": (3, 3, 4, 6)}


@pytest.fixture(params=["cpu", "gpu"])
def formulations(request):
  """Uses the formulations that a backend would choose."""
  with ops.formulations(**dispatch.BACKENDS[request.param]._asdict()) as names:
    yield names


def convolution(kind):
  return partial(ops.conv, stride=2, padding="SAME", groups=4 if kind == "depthwise" else 1)


def arrays(kind, copies=()):
  keys = jax.random.split(jax.random.key(0), 2)
  x = jax.random.normal(keys[0], (*copies, 2, 5, 6, 4))
  return x, jax.random.normal(keys[1], (*copies, *KERNELS[kind]))


def loss(kind, x, kernel):
  return jnp.sum(jnp.sin(convolution(kind)(x, kernel)))


@pytest.mark.parametrize("kind", KERNELS)
def test_an_ensemble_by_vmap_equals_a_loop(formulations, kind):
  x, kernels = arrays(kind, copies=(3,))
  step = jax.jit(jax.value_and_grad(partial(loss, kind), argnums=(0, 1)))
  together = jax.jit(jax.vmap(step))(x, kernels)
  one_by_one = [step(*pair) for pair in zip(x, kernels, strict=True)]
  jax.tree.map(
    partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
    together,
    jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one),
  )


@pytest.mark.parametrize("kind", KERNELS)
def test_only_the_kernel_may_be_mapped(formulations, kind):
  x, kernels = arrays(kind)[0], arrays(kind, copies=(3,))[1]
  gradient = jax.jit(jax.grad(partial(loss, kind), argnums=1))
  together = jax.jit(jax.vmap(gradient, in_axes=(None, 0)))(x, kernels)
  np.testing.assert_allclose(together[2], gradient(x, kernels[2]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KERNELS)
def test_jit_within_jit_and_remat_change_nothing(formulations, kind):
  x, kernel = arrays(kind)
  plain = jax.jit(jax.grad(partial(loss, kind), argnums=(0, 1)))
  nested = jax.jit(jax.grad(jax.checkpoint(jax.jit(partial(loss, kind))), argnums=(0, 1)))
  jax.tree.map(
    partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), plain(x, kernel), nested(x, kernel)
  )


@pytest.mark.parametrize("kind", KERNELS)
def test_gradients_that_nobody_asks_for_are_not_computed(kind):
  x, kernel = arrays(kind)

  def flops(argnums):
    compiled = jax.jit(jax.grad(partial(loss, kind), argnums=argnums)).lower(x, kernel).compile()
    return compiled.cost_analysis()["flops"]

  both = flops((0, 1))
  assert flops(0) < 0.85 * both
  assert flops(1) < 0.85 * both
