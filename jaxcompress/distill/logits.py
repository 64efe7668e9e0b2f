"""Cross-entropy, and the divergence of softened logits with its variants."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxcompress.distill.base import Batch, LossTransform, check_nothing, stateful, stateless
from jaxcompress.distill.labels import check_labels, check_soft_labels, expectation, expected
from jaxcompress.distill.layers import init_linear, linear, norm
from jaxcompress.distill.reads import both_logits
from jaxcompress.distill.scalars import at_count, check_number, init_count

LARGE = 1e15  # of a logit; the squares of any number of larger ones may be more than float32 holds


def cross_entropy(label_smoothing: float = 0.0) -> LossTransform:
  """Cross-entropy with the labels.

  ``-mean_i sum_c y_ic log softmax(s_i)_c`` with ``y = (1 - e) target + e / classes``. The target
  is ``batch["target"]`` (batch, classes) if there is one, as mixup makes it, else the one-hot
  ``batch["label"]`` (batch,), any integers. A label of no class, or a target that is negative or
  does not sum to 1, makes the loss NaN.

  Args:
    label_smoothing: ``e``, in [0, 1).

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``cross_entropy``. It reads
    ``logits`` of shape (batch, classes) and no teacher.

  Raises:
    ValueError: if ``label_smoothing`` is out of range; on ``init``, if labels are missing or of
      the wrong shape or dtype; on ``check``, if a soft one is negative or does not sum to 1.

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
    log_p = jax.nn.log_softmax(student.logits)
    likelihood = expected(log_p, batch)
    if label_smoothing:
      even = jnp.mean(log_p, axis=-1)
      likelihood = (1 - label_smoothing) * likelihood + label_smoothing * even
    return -jnp.mean(likelihood)

  return stateless("cross_entropy", compute, check_soft_labels, by_example=True)


def kd(temperature: optax.ScalarOrSchedule = 4.0) -> LossTransform:
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

  def compute(student, teacher, softening, batch):
    return softened_kl(student, teacher, softening)

  return on_logits("kd", temperature, compute)


def lskd(temperature: optax.ScalarOrSchedule = 2.0) -> LossTransform:
  """Logit standardisation: distillation of logits brought to mean 0 and deviation 1.

  ``T**2 * KL(softmax(z(t) / T) || softmax(z(s) / T))``, averaged over the batch, with
  ``z(x) = (x - mean(x)) / (std(x) + 1e-7)`` over each example's classes; ``std`` is unbiased. The
  student need not reach the teacher's range of logits, only their relations.

  Args:
    temperature: softening ``T > 0`` of the standardised logits, or a schedule of the step.

  Returns:
    A :class:`LossTransform` without parameters; metric ``lskd``. It reads ``logits`` of shape
    (batch, classes). The authors weigh it with 9, and cross-entropy with 0.1.

  Raises:
    ValueError: if ``temperature`` is not positive; on ``init``, if there is no teacher or its
      classes differ from the student's.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> student = Endpoints(logits=jnp.array([[1.0, 2.0, 4.0]]))
    >>> teacher = Endpoints(logits=10 * student.logits + 3)
    >>> loss, _, _ = lskd().update((), (), student, (teacher,), {})
    >>> abs(round(float(loss), 4))
    0.0

  References:
    Sun et al., `Logit Standardization in Knowledge Distillation
    <https://arxiv.org/abs/2403.01427>`_, 2024, section 4.2, algorithm 1.
  """

  def compute(student, teacher, softening, batch):
    teacher = standardised(teacher)
    return softened_kl(standardised(student), teacher, softening)

  return on_logits("lskd", temperature, compute)


def ctkd(
  steps: int = 1000,
  *,
  lowest: float = 1.0,
  span: float = 20.0,
  strength: float = 1.0,
  per_example: bool = False,
  hidden: int = 64,
) -> LossTransform:
  """Curriculum temperature: distillation at a temperature that learns to make it harder.

  ``T**2 * KL(softmax(t / T) || softmax(s / T))``, averaged over the batch, at
  ``T = lowest + span * sigmoid(r)``. The student minimises it and ``r`` maximises it: the gradient
  of ``r`` is reversed and multiplied with ``strength * (1 - cos(pi i / steps)) / 2`` in step
  ``i = 1, 2, ...``, which stays at ``strength`` from ``i = steps`` on.

  Args:
    steps: until the reversed gradient has its full strength; the authors take ten epochs.
    lowest: smallest temperature.
    span: largest minus smallest temperature.
    strength: of the reversed gradient.
    per_example: whether each example has its own ``T``, and the loss is the mean of theirs: ``r`` is
      then what two linear layers with a ReLU between make of the student's and the teacher's logits
      side by side. No gradient reaches the student by that way.
    hidden: width between the two layers.

  Returns:
    A :class:`LossTransform` with the parameter ``{"temperature": ()}`` (``r``, starts at 1), or the
    layers ``{"hidden": ..., "temperature": ...}``, whose last bias starts at 1, and a step count;
    metric ``ctkd``. It reads ``logits`` of shape (batch, classes).

  Raises:
    ValueError: if a number is not positive; on ``init``, if there is no teacher or its classes
      differ from the student's.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same = Endpoints(logits=jnp.array([[1.0, 2.0, 3.0]]))
    >>> params, state = ctkd().init(jax.random.key(0), same, (same,), {})
    >>> float(ctkd().update(params, state, same, (same,), {})[0])
    0.0

  References:
    Li et al., `Curriculum Temperature for Knowledge Distillation
    <https://arxiv.org/abs/2211.16231>`_, 2023, section 3: the global and the instance-wise temperature.
  """
  for argument, value in (("steps", steps), ("lowest", lowest), ("span", span), ("hidden", hidden)):
    check_number(argument, value, positive=True)

  def init(rng, student, teachers, batch):
    both_logits("ctkd", student, teachers, of_images=per_example)
    count = jnp.zeros((), jnp.int32)
    if not per_example:
      return {"temperature": jnp.ones((), jnp.float32)}, count
    keys = jax.random.split(rng)
    last = {**init_linear(keys[1], hidden, 1), "bias": jnp.ones(1, jnp.float32)}
    first = init_linear(keys[0], 2 * student.logits.shape[-1], hidden)
    return {"hidden": first, "temperature": last}, count

  def compute(params, count, student, teachers, batch, extras):
    count = count + 1
    progress = jnp.minimum(count.astype(jnp.float32) / steps, 1.0)
    reversal = -strength * (1 - jnp.cos(jnp.pi * progress)) / 2
    student, teacher = both_logits("ctkd", student, teachers)
    raw = of_each(params, student, teacher) if per_example else params["temperature"]
    raw = jax.lax.stop_gradient(raw * (1 - reversal)) + raw * reversal
    softening = lowest + span * jax.nn.sigmoid(raw)
    if per_example:
      return jnp.mean(jax.vmap(softened_kl)(student, teacher, softening)), count
    return softened_kl(student, teacher, softening), count

  def of_each(params, student, teacher):
    both = jax.lax.stop_gradient(jnp.concatenate([student, teacher], axis=-1))
    return linear(params["temperature"], jax.nn.relu(linear(params["hidden"], both)))[:, 0]

  return stateful("ctkd", init, compute, by_example=True)


def on_logits(
  name: str,
  temperature: optax.ScalarOrSchedule,
  compute: Callable[[jax.Array, jax.Array, jax.Array, Batch], jax.Array],
  *,
  reads_labels: bool = False,
) -> LossTransform:
  """A loss on the networks' logits at a temperature from its formula.

  Args:
    name: of its metric.
    temperature: above 0, or a schedule of the step, counted in the state.
    compute: ``(student, teacher, temperature, batch) -> scalar``, of logits (batch, classes), the mean
      of what each example gives.
    reads_labels: whether it reads the batch's labels too, and tells classes apart.

  Returns:
    A :class:`~jaxcompress.distill.LossTransform` without parameters.

  Raises:
    ValueError: if ``temperature`` is not positive; on ``init``, if there is no teacher or its
      classes differ, or labels that it reads are missing or of the wrong shape or dtype.
  """
  check_number("temperature", temperature, positive=True, scheduled=True)

  def init(rng, student, teachers, batch):
    logits, _ = both_logits(name, student, teachers)
    if reads_labels:
      if logits.shape[-1] < 2:
        raise ValueError(f"student: {name} needs at least 2 classes and there is 1.")
      check_labels(logits.shape, batch)
    return (), init_count(temperature)

  def at_step(params, count, student, teachers, batch, extras):
    softening, count = at_count(temperature, count)
    return compute(*both_logits(name, student, teachers), softening, batch), count

  check = check_soft_labels if reads_labels else check_nothing
  return stateful(name, init, at_step, check, by_example=True)


def softened_kl(
  student: jax.Array, teacher: jax.Array, temperature: jax.Array | float
) -> jax.Array:
  """``T**2 * KL(softmax(t / T) || softmax(s / T))``, averaged over the batch.

  Examples:
    >>> softened_kl(jnp.zeros((2, 3)), jnp.zeros((2, 3)), 4.0).item()
    0.0
  """
  log_t, log_s = (jax.nn.log_softmax(softened(x, temperature)) for x in (teacher, student))
  return jnp.square(temperature) * jnp.mean(expectation(jnp.exp(log_t), log_t - log_s))


def softened(logits: jax.Array, temperature: jax.Array | float) -> jax.Array:
  """``logits / temperature`` minus a number for each row, which no softmax sees, so that the largest is 0.

  A softmax of ``logits / temperature`` subtracts the largest quotient. XLA may round the division and
  the subtraction at once, and the quotient that is subtracted by itself, so that what should be 0 is the
  error of a rounding: of large logits, from 1e9 on, a number with an infinite ``exp``.

  Examples:
    >>> softened(jnp.array([[1.0, 7.0]]), 3.0).tolist()
    [[-2.0, 0.0]]
  """
  largest = jnp.max(logits, axis=-1, keepdims=True)
  return (logits - jax.lax.stop_gradient(largest)) / temperature


def standardised(logits: jax.Array) -> jax.Array:
  """Mean 0 and (unbiased) deviation 1 over each row; equal logits give zeros without gradient.

  Rows with logits beyond 1e15, whose squares float32 does not hold, are divided by the largest first.

  Examples:
    >>> standardised(jnp.array([[1.0, 2.0, 3.0]])).round(3).tolist()
    [[-1.0, 0.0, 1.0]]
  """
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(logits), axis=-1, keepdims=True))
  centred = logits / jnp.where(largest > LARGE, largest, 1.0)
  centred = centred - jnp.mean(centred, axis=-1, keepdims=True)
  return centred / (norm(centred) / math.sqrt(max(logits.shape[-1] - 1, 1)) + 1e-7)
