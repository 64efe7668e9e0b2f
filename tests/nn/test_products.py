"""Matrix products of two activations: numbers, gradients, what is refused, records."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxcompress.nn import MatMul, Node, Softmax, Split, trace
from jaxcompress.nn.operations import macs
from jaxcompress.prune.routes import find_routes

X = jax.random.normal(jax.random.key(0), (2, 5, 6))


@pytest.mark.parametrize("transposed", [False, True])
def test_a_matrix_product_is_that_of_einsum_and_its_gradient_that_of_differences(transposed):
  y = jax.random.normal(jax.random.key(1), (2, 4, 6) if transposed else (2, 6, 4))
  wanted = np.einsum("bnk,bmk->bnm" if transposed else "bnk,bkm->bnm", X, y)
  op = lambda x, y: MatMul(transpose_second=transposed).apply({}, x, y)  # noqa: E731
  np.testing.assert_allclose(op(X, y), wanted, rtol=1e-5, atol=1e-5)
  check_grads(op, (X, y), order=1, modes=["rev"])


def test_attention_is_that_of_jax():
  q, k, v = (jax.random.normal(jax.random.key(i), (2, 5, 6)) for i in range(3))
  scores = MatMul(transpose_second=True).apply({}, q / 6**0.5, k)
  found = MatMul().apply({}, Softmax().apply({}, scores), v)
  wanted = jax.nn.dot_product_attention(*(array[:, :, None] for array in (q, k, v)))
  np.testing.assert_allclose(found, wanted[:, :, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ("shapes", "message"),
  [
    ([(2, 5, 6)], r"MatMul: it reads two arrays, got 1"),
    ([(2, 5, 6), (2, 5, 6)], r"shapes \(2, 5, 6\) and \(2, 5, 6\), which must be \(batch, n, k\)"),
    ([(2, 5, 6), (6, 4)], r"a Reshape makes tokens"),
    ([(2, 5, 6, 1), (2, 5, 1, 6)], r"a Reshape makes tokens"),
  ],
)
def test_arrays_that_do_not_meet_are_refused(shapes, message):
  with pytest.raises(ValueError, match=message):
    MatMul().apply({}, *map(jnp.ones, shapes))


def test_multiply_adds_are_those_of_all_products():
  shapes = ((1, 5, 6), (1, 6, 4)), ((1, 5, 4),)
  assert macs(Node("op", "MatMul", {}, ("x", "y"), ("op",), *shapes)) == 5 * 6 * 4


class Halves(nn.Module):
  """The products of the halves of channels."""

  @nn.compact
  def __call__(self, x, *, train):
    left, right = Split((3, 3), name="split")(x)
    return MatMul(transpose_second=True, name="op")(left, right)


def test_pruning_keeps_channels_that_are_summed():
  graph = trace(Halves(), {}, jax.ShapeDtypeStruct((1, 5, 6), jnp.float32))
  routes = find_routes(graph)
  assert all(routes.locked[ids].all() for ids in routes.ids.values())
