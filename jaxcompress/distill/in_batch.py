"""Contrast within a batch: no memory, the other examples are the negatives."""

import jax
import jax.numpy as jnp

from jaxcompress.distill import schedules
from jaxcompress.distill.base import LossTransform, first_teacher, stateful
from jaxcompress.distill.layers import EXACT, init_linear, linear, unit
from jaxcompress.distill.logit_relations import features


def in_batch_infonce(dim: int = 128, temperature: float = 0.07) -> LossTransform:
  """InfoNCE over the batch: each network must find its example among the other's.

  ``-mean_i [log softmax_j(<e_s_i, e_t_j> / T)_i + log softmax_j(<e_t_i, e_s_j> / T)_i] / 2``, with
  ``e = unit(W f + b)`` of both networks' features.

  Args:
    dim: of the embeddings.
    temperature: ``T > 0``.

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
  schedules.check_number("dim", dim, positive=True)
  schedules.check_number("temperature", temperature, positive=True)

  def init(rng, student, teachers, batch):
    del batch
    keys = jax.random.split(rng)
    teacher = first_teacher(teachers, "in_batch_infonce")
    return {
      "student": init_linear(keys[0], features("in_batch_infonce", "student", student), dim),
      "teacher": init_linear(keys[1], features("in_batch_infonce", "teacher", teacher), dim),
    }, ()

  def compute(params, state, student, teachers, batch, extras):
    del batch, extras
    teacher = first_teacher(teachers, "in_batch_infonce")
    e_s = unit(linear(params["student"], student.pooled))
    e_t = unit(linear(params["teacher"], teacher.pooled))
    logits = jnp.dot(e_s, e_t.T, precision=EXACT) / temperature
    found = [jnp.diagonal(jax.nn.log_softmax(logits, axis=axis)) for axis in (0, 1)]
    return -jnp.mean(jnp.stack(found)), state

  return stateful("in_batch_infonce", init, compute)
