"""Contrast within the batch: each network's example among the other network's."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxcompress.arguments import check_whole
from jaxcompress.distill.base import LossTransform, stateful
from jaxcompress.distill.labels import expectation
from jaxcompress.distill.layers import EXACT, init_embeddings, linear, numbers_of, unit
from jaxcompress.distill.reads import both_pooled
from jaxcompress.distill.scalars import check_number
from jaxcompress.distill.schedules import on_schedules


def in_batch_infonce(dim: int = 128, temperature: optax.ScalarOrSchedule = 0.07) -> LossTransform:
  """InfoNCE over the batch: each network must find its example among the other's.

  ``-mean_i [log softmax_j(<e_s_i, e_t_j> / T)_i + log softmax_j(<e_t_i, e_s_j> / T)_i] / 2``, with
  ``e = unit(W f + b)`` of both networks' features.

  Args:
    dim: of the embeddings.
    temperature: ``T > 0``, or a schedule of the step.

  Returns:
    A :class:`LossTransform` with the parameters ``{"student", "teacher"}``, linear layers each;
    metric ``in_batch_infonce``. It reads ``pooled`` (batch, features) of any sizes. A batch of one
    example costs nothing.

  Raises:
    ValueError: if a number is not positive; on ``init``, if there is no teacher or features are
      missing.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> one = Endpoints(None, pooled=jnp.ones((1, 3)))
    >>> params, state = in_batch_infonce(4).init(jax.random.key(0), one, (one,), {})
    >>> abs(float(in_batch_infonce(4).update(params, state, one, (one,), {})[0]))
    0.0

  References:
    van den Oord et al., `Representation Learning with Contrastive Predictive Coding
    <https://arxiv.org/abs/1807.03748>`_, 2018, equation 4; both directions as in Radford et al.,
    `Learning Transferable Visual Models From Natural Language Supervision
    <https://arxiv.org/abs/2103.00020>`_, 2021, figure 3.
  """
  if loss := on_schedules(partial(in_batch_infonce, dim), temperature=temperature):
    return loss
  check_whole("dim", dim, 1)
  check_number("temperature", temperature, positive=True)

  def init(rng, student, teachers, batch):
    sizes = map(numbers_of, both_pooled("in_batch_infonce", student, teachers))
    return init_embeddings(rng, tuple(sizes), dim), ()

  def compute(params, state, student, teachers, batch, extras):
    s, t = both_pooled("in_batch_infonce", student, teachers)
    e_s, e_t = unit(linear(params["student"], s)), unit(linear(params["teacher"], t))
    logits = jnp.dot(e_s, e_t.T, precision=EXACT) / temperature
    found = [jnp.diagonal(jax.nn.log_softmax(logits, axis=axis)) for axis in (0, 1)]
    return -jnp.mean(jnp.stack(found)), state

  return stateful("in_batch_infonce", init, compute)


def dcd(
  dim: int = 128,
  alpha: optax.ScalarOrSchedule = 0.5,
  *,
  log_scale: float = 1.0,
  most_scale: float = 10.0,
) -> LossTransform:
  """Discriminative and consistent distillation: find the teacher's example, and agree on the others.

  ``-mean_i log p_ii + alpha KL(q || p)``: ``p`` is the softmax of ``a <e_s_i, e_t_j>`` over the
  teacher's examples ``j`` for each of the student's, and ``q`` that over the student's for each of the
  teacher's, with ``e = unit(W f + b)`` of both networks' features. The scale
  ``a = min(exp(r), most_scale)`` is learned.

  Args:
    dim: of the embeddings.
    alpha: weight of the divergence, a mean over the batch, or a schedule of the step.
    log_scale: ``r`` at the start.
    most_scale: largest ``a``.

  Returns:
    A :class:`LossTransform` with the parameters ``{"student", "teacher", "log_scale"}``, linear layers
    and a number; metric ``dcd``. It reads ``pooled`` (batch, features) of any sizes. The authors also
    learn a number that is added to all products, to which neither term responds.

  Raises:
    ValueError: if a number is out of range; on ``init``, if there is no teacher or features are
      missing.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> one = Endpoints(None, pooled=jnp.ones((1, 3)))
    >>> params, state = dcd(4).init(jax.random.key(0), one, (one,), {})
    >>> float(dcd(4).update(params, state, one, (one,), {})[0])
    0.0

  References:
    Giakoumoglou & Stathaki, `Discriminative and Consistent Representation Distillation
    <https://arxiv.org/abs/2407.11802>`_, 2024, as their code has it.
  """
  constant = partial(dcd, dim, log_scale=log_scale, most_scale=most_scale)
  if loss := on_schedules(constant, alpha=alpha):
    return loss
  check_whole("dim", dim, 1)
  check_number("alpha", alpha)
  check_number("log_scale", log_scale)
  check_number("most_scale", most_scale, positive=True)

  def init(rng, student, teachers, batch):
    sizes = map(numbers_of, both_pooled("dcd", student, teachers))
    layers = init_embeddings(rng, tuple(sizes), dim)
    return {**layers, "log_scale": jnp.asarray(log_scale, jnp.float32)}, ()

  def compute(params, state, student, teachers, batch, extras):
    s, t = both_pooled("dcd", student, teachers)
    e_s, e_t = (
      unit(linear(params[name], x), epsilon=1e-12) for name, x in (("student", s), ("teacher", t))
    )
    scale = jnp.exp(jnp.minimum(params["log_scale"], math.log(most_scale)))
    products = scale * jnp.dot(e_s, e_t.T, precision=EXACT)
    log_p, log_q = jax.nn.log_softmax(products), jax.nn.log_softmax(products.T)
    consistency = jnp.mean(expectation(jnp.exp(log_q), log_q - log_p))
    return alpha * consistency - jnp.mean(jnp.diagonal(log_p)), state

  return stateful("dcd", init, compute)
