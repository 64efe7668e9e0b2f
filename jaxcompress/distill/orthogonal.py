"""Features through a projector that keeps angles and lengths."""

import jax
import jax.numpy as jnp
import optax

from jaxcompress.distill.base import LossTransform, stateful
from jaxcompress.distill.layers import EXACT, flat, numbers_of
from jaxcompress.distill.reads import both_pooled

EPSILON = 1e-5  # of the layer normalization


def vkd() -> LossTransform:
  """Orthogonal projection: the teacher's normalised features from the student's, which stay as they are.

  ``mean H(Q f_s - n(f_t))`` with Huber's function ``H``, which bends at 1; ``n`` brings each example's
  features to mean 0 and variance 1, and the learned projector ``Q`` has orthonormal columns, or rows
  where the teacher has fewer features: all that is learned about the teacher must be in the student.

  Returns:
    A :class:`LossTransform` with the parameter ``{"moves"}``, (larger, smaller) of the two numbers of
    features, and an orthogonal matrix (larger, larger) as state, which stays; metric ``vkd``. ``Q`` is
    that matrix times what :func:`orthogonal` makes of the parameter, zeros at first. It reads
    ``pooled``.

  Raises:
    ValueError: on ``init``, if there is no teacher or features are missing.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same = Endpoints(None, pooled=jnp.eye(3, 5))
    >>> params, state = vkd().init(jax.random.key(0), same, (same,), {})
    >>> params["moves"].shape
    (5, 5)

  References:
    Miles et al., `VkD: Improving Knowledge Distillation using Orthogonal Projections
    <https://arxiv.org/abs/2403.06213>`_, 2024, as their code has it; it pools a transformer's tokens.
  """

  def init(rng, student, teachers, batch):
    sizes = sorted(map(numbers_of, both_pooled("vkd", student, teachers)), reverse=True)
    return {"moves": jnp.zeros(sizes, jnp.float32)}, jax.random.orthogonal(rng, sizes[0])

  def compute(params, base, student, teachers, batch, extras):
    s, t = map(flat, both_pooled("vkd", student, teachers))
    basis = jnp.dot(base, orthogonal(params["moves"]), precision=EXACT)
    projected = jnp.dot(s, basis if s.shape[1] > t.shape[1] else basis.T, precision=EXACT)
    return jnp.mean(optax.losses.huber_loss(projected, layer_normalised(t))), base

  return stateful("vkd", init, compute, by_example=True)


def orthogonal(moves: jax.Array) -> jax.Array:
  """A matrix with orthonormal columns, the first ones of the identity for zeros.

  Of a square matrix it is ``exp(L - L')`` with its strictly lower part ``L``; of another, less the
  product of the Householder reflections whose vectors are the columns of ``L`` with ones on the
  diagonal: the maps of PyTorch's orthogonal parametrization.

  Args:
    moves: (rows, columns), not more columns than rows.

  Examples:
    >>> q = orthogonal(jax.random.normal(jax.random.key(0), (5, 3)))
    >>> bool(jnp.allclose(q.T @ q, jnp.eye(3), atol=1e-5))
    True
  """
  rows, columns = moves.shape
  lower = jnp.tril(moves, -1)
  if rows == columns:
    with jax.default_matmul_precision("highest"):
      return jax.scipy.linalg.expm(lower - lower.T)
  vectors = lower + jnp.eye(rows, columns)
  products = jnp.dot(vectors.T, vectors, precision=EXACT)
  inverse = jnp.triu(products, 1) + jnp.diag(jnp.diagonal(products)) / 2
  weights = jax.scipy.linalg.solve_triangular(inverse, vectors[:columns].T)
  return jnp.dot(vectors, weights, precision=EXACT) - jnp.eye(rows, columns)


def layer_normalised(x: jax.Array) -> jax.Array:
  """Each row with mean 0 and variance 1.

  Examples:
    >>> layer_normalised(jnp.array([[1.0, 3.0]])).round(2).tolist()
    [[-1.0, 1.0]]
  """
  centred = x - jnp.mean(x, axis=-1, keepdims=True)
  variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
  return centred * jax.lax.rsqrt(variance + EPSILON)
