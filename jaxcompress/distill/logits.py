"""Losses that read logits."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxcompress.distill import schedules
from jaxcompress.distill.base import LossTransform, first_teacher, stateful, stateless


def cross_entropy(label_smoothing: float = 0.0) -> LossTransform:
  """Cross-entropy with the labels.

  ``-mean_i sum_c y_ic log softmax(s_i)_c`` with ``y = (1 - e) target + e / classes``. The target
  is ``batch["target"]`` (batch, classes) if there is one, as mixup makes it, else the one-hot
  ``batch["label"]`` (batch,).

  Args:
    label_smoothing: ``e``, in [0, 1).

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``cross_entropy``. It reads
    ``logits`` of shape (batch, classes) and no teacher.

  Raises:
    ValueError: if ``label_smoothing`` is out of range; on ``init``, if labels are missing or of
      the wrong shape.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> student, batch = Endpoints(logits=jnp.zeros((1, 4))), {"label": jnp.array([2])}
    >>> loss, _, _ = cross_entropy().update((), (), student, (), batch)
    >>> round(float(loss), 4)  # log 4
    1.3863

  References:
    Szegedy et al., `Rethinking the Inception Architecture
    <https://arxiv.org/abs/1512.00567>`_, 2016, section 7, for the smoothing.
  """
  if not 0 <= label_smoothing < 1:
    raise ValueError(f"label_smoothing: {label_smoothing!r} must be in [0, 1).")

  def compute(student, teachers, batch):
    del teachers
    log_p = jax.nn.log_softmax(student.logits)
    likelihood = _expected(log_p, batch)
    if label_smoothing:
      even = jnp.mean(log_p, axis=-1)
      likelihood = (1 - label_smoothing) * likelihood + label_smoothing * even
    return -jnp.mean(likelihood)

  return stateless("cross_entropy", compute)


def kd(temperature: schedules.ScalarOrSchedule = 4.0) -> LossTransform:
  """Hinton's distillation: KL divergence from softened teacher to student.

  The loss is ``T**2 * KL(softmax(t / T) || softmax(s / T))``, averaged over the batch; ``T**2``
  keeps its gradient scale independent of the temperature.

  Args:
    temperature: softening ``T > 0`` shared by both networks, or a schedule of the step, counted
      in the state.

  Returns:
    A :class:`LossTransform` without parameters; metric ``kd``. It reads ``logits`` of shape
    (batch, classes).

  Raises:
    ValueError: if ``temperature`` is not positive; on ``init``, if there is no teacher or its
      classes differ from the student's.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same = Endpoints(logits=jnp.array([[1.0, 2.0, 3.0]]))
    >>> loss, _, _ = kd(2.0).update((), (), same, (same,), {})
    >>> float(loss)
    0.0

  References:
    Hinton et al., `Distilling the Knowledge in a Neural Network
    <https://arxiv.org/abs/1503.02531>`_, 2015, section 2.
  """
  schedules.check_number("temperature", temperature, positive=True)

  def init(rng, student, teachers, batch):
    del rng, batch
    _check_same_shape(student.logits, first_teacher(teachers, "kd").logits)
    return (), schedules.start(temperature)

  def compute(params, count, student, teachers, batch, extras):
    del params, batch, extras
    softening, count = schedules.read(temperature, count)
    log_t = jax.nn.log_softmax(first_teacher(teachers, "kd").logits / softening)
    log_s = jax.nn.log_softmax(student.logits / softening)
    divergence = _expectation(jnp.exp(log_t), log_t - log_s)
    return jnp.square(softening) * jnp.mean(divergence), count

  return stateful("kd", init, compute)


def _expectation(p: jax.Array, x: jax.Array) -> jax.Array:
  """``sum_c p_c x_c`` over the last axis, where an impossible class costs nothing."""
  return jnp.sum(jnp.where(p == 0, 0.0, p * x), axis=-1)


def _expected(log_p: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
  """Log-likelihood of the target or label, (batch,)."""
  if "target" in batch:
    if batch["target"].shape != log_p.shape:
      raise ValueError(
        f"batch: 'target' has shape {batch['target'].shape}; it must be that of the logits,"
        f" {log_p.shape}."
      )
    return _expectation(batch["target"].astype(jnp.float32), log_p)
  if "label" not in batch:
    raise ValueError(f"batch: it has {', '.join(batch) or 'nothing'}, but no 'label' or 'target'.")
  if batch["label"].shape != log_p.shape[:-1]:
    raise ValueError(
      f"batch: 'label' has shape {batch['label'].shape}; it must be {log_p.shape[:-1]}. Soft"
      " labels go in 'target'."
    )
  return jnp.take_along_axis(log_p, batch["label"][..., None], axis=-1)[..., 0]


def _check_same_shape(student: jax.Array, teacher: jax.Array) -> None:
  if student.shape != teacher.shape:
    raise ValueError(
      f"teachers: logits have shape {teacher.shape} and the student's {student.shape}; both need"
      " the same classes."
    )
