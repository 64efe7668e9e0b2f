"""Losses that compare relations between the examples of a batch."""

import jax
import jax.numpy as jnp
import optax

from jaxcompress.arguments import check_whole
from jaxcompress.distill.base import LossTransform, stateful, stateless
from jaxcompress.distill.layers import (
  EXACT,
  flat,
  init_embeddings,
  linear,
  mean_square,
  norm,
  numbers_of,
  unit,
)
from jaxcompress.distill.maps import Places, on_each_map
from jaxcompress.distill.reads import both_pooled
from jaxcompress.distill.scalars import check_number
from jaxcompress.distill.schedules import on_schedules


def similarity(*, maps: Places | None = (-1,)) -> LossTransform:
  """Similarity-preserving distillation: who resembles whom in a batch.

  ``|unit(G_t) - unit(G_s)|**2 / batch**2`` with ``G = X X'`` of the flattened maps
  X (batch, numbers), whose rows are brought to length 1; summed over maps.

  Args:
    maps: places in both networks' maps, or pairs of places; by default the last.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``similarity``. It reads ``maps``
    of any sizes.

  Raises:
    ValueError: if ``maps`` are no places; on ``init``, if there is no teacher or no such map.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> student = Endpoints(None, maps=(jnp.ones((2, 4, 4, 3)),))
    >>> teacher = Endpoints(None, maps=(jnp.ones((2, 2, 2, 8)),))
    >>> round(float(similarity().update((), (), student, (teacher,), {})[0]), 6)
    0.0

  References:
    Tung & Mori, `Similarity-Preserving Knowledge Distillation
    <https://arxiv.org/abs/1907.09682>`_, 2019, section 3.
  """

  def gram(x):
    x = flat(x)
    return unit(jnp.dot(x, x.T, precision=EXACT), epsilon=1e-12)

  return on_each_map("similarity", maps, lambda s, t: mean_square(gram(t) - gram(s)))


def correlation(dim: int | None = 128) -> LossTransform:
  """Correlation congruence, as its authors' code: products of neighbours' differences.

  ``mean_i sum_c d_ic d_(i+1)c`` with ``d = |e_s - e_t|`` of consecutive examples of the batch;
  ``e = W f + b``. A batch of one example costs nothing.

  Args:
    dim: of the linear embeddings of both networks' features, or None to compare features of equal
      size as they are.

  Returns:
    A :class:`LossTransform` with the parameters ``{"student", "teacher"}``, linear layers each
    (``()`` without embeddings); metric ``correlation``. It reads ``pooled`` (batch, features).

  Raises:
    ValueError: if ``dim`` is not positive; on ``init``, if there is no teacher, features are
      missing, or they differ in size and are not embedded.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> student, teacher = (Endpoints(None, pooled=x * jnp.ones((2, 3))) for x in (1.0, 3.0))
    >>> float(correlation(dim=None).update((), (), student, (teacher,), {})[0])
    12.0

  References:
    Peng et al., `Correlation Congruence for Knowledge Distillation
    <https://arxiv.org/abs/1904.01802>`_, 2019; the formula is that of the code that its authors
    gave to Tian et al., `Contrastive Representation Distillation
    <https://arxiv.org/abs/1910.10699>`_, 2020.
  """
  if dim is not None:
    check_whole("dim", dim, 1)

  def init(rng, student, teachers, batch):
    s, t = map(numbers_of, both_pooled("correlation", student, teachers))
    if dim is None and s != t:
      raise ValueError(
        f"dim: None compares features of equal size, but the student has {s} and the teacher {t};"
        " give a dim to embed them."
      )
    return (() if dim is None else init_embeddings(rng, (s, t), dim)), ()

  def compute(params, state, student, teachers, batch, extras):
    s, t = map(flat, both_pooled("correlation", student, teachers))
    if dim is not None:
      s, t = linear(params["student"], s), linear(params["teacher"], t)
    difference = jnp.abs(s - t)
    return jnp.sum(difference[:-1] * difference[1:]) / max(len(difference) - 1, 1), state

  return stateful("correlation", init, compute)


def rkd(
  distance: optax.ScalarOrSchedule = 25.0, angle: optax.ScalarOrSchedule = 50.0
) -> LossTransform:
  """Relational distillation: distances and angles between the examples of a batch.

  ``distance * H(D_s - D_t) + angle * H(A_s - A_t)``, where ``H`` is the mean of ``x**2 / 2``
  within 1 and ``|x| - 1/2`` outside; ``D_ij = |x_i - x_j|`` over its mean off zero, and ``A_ijk``
  is the cosine of the angle at example i between the directions to j and k.

  Args:
    distance: weight of the distances, or a schedule of the step.
    angle: weight of the angles, or a schedule.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``rkd``. It reads ``pooled``
    (batch, features) of any sizes. Distances of less than 1e-6 count as 1e-6, and examples with
    equal features have no direction and no gradient.

  Raises:
    ValueError: if a weight is not finite; on ``init``, if there is no teacher or features are
      missing.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> student = Endpoints(None, pooled=jnp.eye(3))
    >>> teacher = Endpoints(None, pooled=5 * jnp.eye(3, 8))
    >>> abs(round(float(rkd().update((), (), student, (teacher,), {})[0]), 5))
    0.0

  References:
    Park et al., `Relational Knowledge Distillation <https://arxiv.org/abs/1904.05068>`_, 2019,
    sections 3.2.1 and 3.2.2.
  """
  if loss := on_schedules(rkd, distance=distance, angle=angle):
    return loss
  check_number("distance", distance)
  check_number("angle", angle)

  def relations(x):
    steps = x[None] - x[:, None]  # (i, j): from i to j
    square = jnp.sum(jnp.square(steps), axis=-1)
    apart = square > 1e-12
    lengths = jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1.0)), 1e-6)
    lengths = jnp.where(jnp.eye(len(x), dtype=bool), 0.0, lengths)
    pairs = max(len(x) * (len(x) - 1), 1)
    scale = jnp.sum(lengths) / pairs if len(x) > 1 else 1.0
    directions = unit(steps, epsilon=1e-12)
    cosines = jnp.einsum("ijc,ikc->ijk", directions, directions, precision=EXACT)
    return lengths / scale, cosines

  def compute(student, teachers, batch):
    found = (relations(flat(x)) for x in both_pooled("rkd", student, teachers))
    (lengths_s, cosines_s), (lengths_t, cosines_t) = found
    return distance * _smooth(lengths_s - lengths_t) + angle * _smooth(cosines_s - cosines_t)

  return stateless("rkd", compute)


def pkt(epsilon: float = 1e-7) -> LossTransform:
  """Probabilistic transfer: each example's distribution of similarity over the batch.

  ``mean_ij q_ij log((q_ij + e) / (p_ij + e))`` over all pairs of the batch; ``p`` (student) and
  ``q`` (teacher) are ``(cosine + 1) / 2``, divided by their sum over j.

  Args:
    epsilon: ``e``; also added to the lengths of feature vectors.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``pkt``. It reads ``pooled``
    (batch, features) of any sizes. Its mean over pairs is small: the usual weight is 30000.

  Raises:
    ValueError: if ``epsilon`` is not positive; on ``init``, if there is no teacher or features are
      missing.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same = Endpoints(None, pooled=jnp.eye(3))
    >>> float(pkt().update((), (), same, (same,), {})[0])
    0.0

  References:
    Passalis & Tefas, `Learning Deep Representations with Probabilistic Knowledge Transfer
    <https://arxiv.org/abs/1803.10837>`_, 2018, section 3.
  """
  check_number("epsilon", epsilon, positive=True)

  def affinities(x):
    x = x / (norm(x) + epsilon)
    cosines = (jnp.dot(x, x.T, precision=EXACT) + 1) / 2
    return cosines / jnp.sum(cosines, axis=1, keepdims=True)

  def compute(student, teachers, batch):
    p, q = (affinities(flat(x)) for x in both_pooled("pkt", student, teachers))
    # log((q + e) / (p + e)), exact where q is close to p
    return jnp.mean(q * jnp.log1p((q - p) / (p + epsilon)))

  return stateless("pkt", compute)


def _smooth(x: jax.Array) -> jax.Array:
  """Mean of Huber's function with its bend at 1."""
  size = jnp.abs(x)
  return jnp.mean(jnp.where(size < 1, 0.5 * jnp.square(x), size - 0.5))
