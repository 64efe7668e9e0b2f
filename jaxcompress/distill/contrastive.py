"""Contrastive representation distillation."""

import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.distill import banks, schedules
from jaxcompress.distill.base import LossTransform, first_teacher, keep_where, stateful
from jaxcompress.distill.gradients import with_gradient
from jaxcompress.distill.layers import Linear, init_linear, linear, unit
from jaxcompress.nn import Endpoints

EPSILON = 1e-7  # the original adds it to the noise probability


class CRDParams(NamedTuple):
  """What :func:`crd` trains: a linear layer, ``kernel`` (features, dim) and ``bias`` (dim,), each.

  Attributes:
    student: embeds the student's pooled features.
    teacher: embeds the teacher's pooled features.
  """

  student: Linear
  teacher: Linear


class Overwritten(NamedTuple):
  """What the last update of the banks replaced.

  Attributes:
    index: places in the banks, (batch,) int32.
    student_rows: rows of the student's bank, (batch, dim) float32.
    teacher_rows: rows of the teacher's bank, (batch, dim) float32.
  """

  index: jax.Array  # type: ignore[assignment]  # tuple.index is not needed
  student_rows: jax.Array
  teacher_rows: jax.Array


class CRDState(NamedTuple):
  """What :func:`crd` carries along.

  Attributes:
    student_bank: the last embedding of every example by the student, (n, dim) float32.
    teacher_bank: the same by the teacher, (n, dim) float32.
    student_log_z: log of the constant that normalises scores of student embeddings, () float32;
      set by the first update.
    teacher_log_z: the same for teacher embeddings, () float32.
    count: updates so far, () int32.
    seed: negatives are drawn from it and ``count``, unless ``update`` gets an ``rng``; () uint32,
      so that checkpoints see plain numbers.
    overwritten: what the last update replaced, to take it back at the cost of a batch.
  """

  student_bank: jax.Array
  teacher_bank: jax.Array
  student_log_z: jax.Array
  teacher_log_z: jax.Array
  count: jax.Array  # type: ignore[assignment]  # tuple.count is not needed
  seed: jax.Array
  overwritten: Overwritten

  def keep_where(self, keep: jax.Array, old: "CRDState") -> "CRDState":
    """Takes an update back unless ``keep``, without a second copy of the banks.

    Args:
      keep: () bool.
      old: the state before the update; its banks are not read.
    """
    index, student_rows, teacher_rows = self.overwritten
    kept: dict[str, Any] = {
      "student_bank": banks.write_rows(self.student_bank, index, student_rows, ~keep),
      "teacher_bank": banks.write_rows(self.teacher_bank, index, teacher_rows, ~keep),
    }
    for name in ("student_log_z", "teacher_log_z", "count", "overwritten"):
      kept[name] = keep_where(keep, getattr(self, name), getattr(old, name))
    return self._replace(**kept)


def crd(
  num_examples: int,
  *,
  dim: int = 128,
  negatives: int = 16384,
  temperature: float = 0.07,
  momentum: float = 0.5,
  formulation: banks.Formulation = "auto",
) -> LossTransform:
  """Contrastive representation distillation: student and teacher must tell examples apart alike.

  Both networks' features are embedded linearly and normalised, ``e_s`` and ``e_t``; a bank per
  network holds a vector ``m`` for every training example. With ``c = K / n``, the scores of
  student embeddings ``out_k = exp(<m_t[id_k], e_s> / T) / Z``, id_0 the example's own and the
  others' random, give ``-mean_i [log(out_0 / (out_0 + c)) + sum_k log(c / (out_k + c))]``; teacher
  embeddings against the student's bank give a second such term. ``Z`` is n times the mean of
  ``exp`` in the first update, then fixed. After the loss, which so sees an example's vector from
  its last visit, ``m = unit(momentum * m + (1 - momentum) * e)`` for the batch's examples.

  As in the authors' code, with these details: negatives are uniform over the other examples, with
  replacement, of any class; an example that is twice in a batch gets the vector of its last
  occurrence; features that embed to zero stay zero instead of NaN; a batch whose loss or gradient
  is not finite leaves the state as it was; an index outside the banks makes the loss NaN.

  Donate the state to the jitted step, and banks are written in place: no copy, whatever n is. The
  gradient with respect to the embeddings is computed with the loss, and the rows are written only
  where both are finite, so XLA knows that nothing reads the old banks after the write. Take a step
  back with :func:`~jaxcompress.distill.keep_where`; ``jnp.where`` over the state would copy them.

  Args:
    num_examples: training examples ``n``; the banks take ``8 * n * dim`` bytes.
    dim: of the embeddings.
    negatives: others per example, ``K``.
    temperature: ``T > 0`` of the scores.
    momentum: share of a bank's old row that is kept, in [0, 1).
    formulation: how scores are computed: ``"dense"`` (product with the whole bank), ``"gather"``
      (only the rows that are needed), or ``"auto"``: dense up to n = batch * K. Values agree.
      On CPUs ``"gather"`` was seen to win from about n = 10 K on.

  Returns:
    A :class:`LossTransform` with :class:`CRDParams` and :class:`CRDState`; metric ``crd``. It
    reads ``pooled`` (batch, features) of both networks, and ``batch["index"]`` (batch,) int32,
    places in the training set. ``batch["contrast_index"]`` (batch, 1 + K) int32, column 0 the same
    as ``index``, replaces the random choice and its K.

  Raises:
    ValueError: if a number is out of range; on ``init``, if features, index or teacher are
      missing or of the wrong shape.

  Examples:
    >>> features = Endpoints(logits=jnp.zeros((2, 3)), pooled=jnp.eye(2, 8))
    >>> batch = {"index": jnp.array([4, 1])}
    >>> transform = crd(num_examples=10, dim=4, negatives=6)
    >>> params, state = transform.init(jax.random.key(0), features, (features,), batch)
    >>> loss, state, _ = jax.jit(transform.update)(params, state, features, (features,), batch)
    >>> state.student_bank.shape, int(state.count), bool(jnp.isfinite(loss))
    ((10, 4), 1, True)

  References:
    Tian et al., `Contrastive Representation Distillation <https://arxiv.org/abs/1910.10699>`_,
    2020, section 3 and equation 18; https://github.com/HobbitLong/RepDistiller.
  """
  for name, value, low in (
    ("num_examples", num_examples, 2),
    ("dim", dim, 1),
    ("negatives", negatives, 1),
  ):
    if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
      raise ValueError(f"{name}: {value!r} must be a whole number, at least {low}.")
  if callable(temperature):
    raise ValueError("temperature: a schedule would invalidate Z; it must be a number above 0.")
  schedules.check_number("temperature", temperature, positive=True)
  if not 0 <= momentum < 1:
    raise ValueError(f"momentum: {momentum!r} must be in [0, 1).")
  if formulation not in banks.FORMULATIONS:
    raise ValueError(
      f"formulation: {formulation!r} must be one of {', '.join(banks.FORMULATIONS)}."
    )

  def init(rng, student, teachers, batch):
    teacher = first_teacher(teachers, "crd")
    keys = jax.random.split(rng, 5)
    size = len(student.logits)
    _check_index(batch, size)
    params = CRDParams(
      student=init_linear(keys[0], _features("student", student), dim),
      teacher=init_linear(keys[1], _features("teachers", teacher), dim),
    )
    state = CRDState(
      student_bank=banks.init_bank(keys[2], num_examples, dim),
      teacher_bank=banks.init_bank(keys[3], num_examples, dim),
      student_log_z=jnp.zeros((), jnp.float32),
      teacher_log_z=jnp.zeros((), jnp.float32),
      count=jnp.zeros((), jnp.int32),
      seed=jax.random.bits(keys[4], (), jnp.uint32),
      overwritten=Overwritten(jnp.zeros(size, jnp.int32), *jnp.zeros((2, size, dim), jnp.float32)),
    )
    return params, state

  def compute(params, state, student, teachers, batch, extras):
    teacher = first_teacher(teachers, "crd")
    e_s = unit(linear(params.student, student.pooled))
    e_t = unit(linear(params.teacher, teacher.pooled))
    index = batch["index"].astype(jnp.int32)
    ids = contrast(batch, index, state, extras)
    inside = jnp.all((ids >= 0) & (ids < num_examples))

    def objective(e_s, e_t):
      terms = []
      for vectors, bank, log_z in (
        (e_s, state.teacher_bank, state.student_log_z),
        (e_t, state.student_bank, state.teacher_log_z),
      ):
        logits = banks.scores(vectors, bank, ids, formulation) / temperature
        total = jax.nn.logsumexp(jax.lax.stop_gradient(logits))
        log_z = jnp.where(state.count == 0, total - math.log(logits.size / num_examples), log_z)
        terms.append((noise_contrastive(logits - log_z, num_examples), log_z))
      (loss_s, log_z_s), (loss_t, log_z_t) = terms
      return jnp.where(inside, loss_s + loss_t, jnp.nan), (log_z_s, log_z_t)

    constants = jax.lax.stop_gradient((e_s, e_t))
    (loss, log_z), gradients = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)(
      *constants
    )
    finite = jnp.isfinite(loss + jnp.sum(gradients[0]) + jnp.sum(gradients[1]))
    old_s = state.student_bank.at[index].get(mode="clip")
    old_t = state.teacher_bank.at[index].get(mode="clip")
    new_s, new_t = renewed(old_s, constants[0]), renewed(old_t, constants[1])
    state = CRDState(
      student_bank=banks.write_rows(state.student_bank, index, new_s, finite),
      teacher_bank=banks.write_rows(state.teacher_bank, index, new_t, finite),
      student_log_z=jnp.where(finite, log_z[0], state.student_log_z),
      teacher_log_z=jnp.where(finite, log_z[1], state.teacher_log_z),
      count=state.count + finite.astype(jnp.int32),
      seed=state.seed,
      overwritten=Overwritten(index, old_s, old_t),
    )
    return with_gradient(loss, gradients, (e_s, e_t)), state

  def renewed(old, embedding):
    return unit(momentum * old + (1 - momentum) * embedding)

  def contrast(batch, index, state, extras):
    if "contrast_index" in batch:
      return batch["contrast_index"].astype(jnp.int32)
    key = extras.get("rng")
    if key is None:
      key = jax.random.fold_in(jax.random.key(state.seed), state.count)
    return banks.draw_contrast(key, index, num_examples, negatives)

  return stateful("crd", init, compute)


def noise_contrastive(log_out: jax.Array, num_examples: int) -> jax.Array:
  """Noise-contrastive estimation from log-scores, stable for any of them.

  ``-1/B [sum_i log(P_i / (P_i + c + e)) + sum_ik log(c / (N_ik + c + e))]`` with ``P`` the first
  column, ``N`` the others, ``c = K / n`` and ``e = 1e-7``.

  Args:
    log_out: (batch, 1 + K), logarithms of normalised scores.
    num_examples: ``n``.

  Returns:
    () float32.

  Examples:
    >>> even = jnp.log(jnp.full((1, 2), 0.25))  # P = N = c = 1/4: twice log 2
    >>> round(float(noise_contrastive(even, 4)), 4)
    1.3863
  """
  batch, width = log_out.shape
  noise = (width - 1) / num_examples
  log_noise = math.log(noise + EPSILON)
  positive = jnp.sum(jax.nn.softplus(log_noise - log_out[:, 0]))
  negative = jnp.sum(jax.nn.softplus(log_out[:, 1:] - log_noise))
  floor = batch * (width - 1) * (log_noise - math.log(noise))
  return (positive + negative + floor) / batch


def _features(name: str, endpoints: Endpoints) -> int:
  """Numbers per example in ``pooled``."""
  if endpoints.pooled is None:
    raise ValueError(
      f"{name}: crd reads pooled features and there are none; return Endpoints(pooled=...)."
    )
  return endpoints.pooled.size // endpoints.pooled.shape[0]


def _check_index(batch: Mapping[str, jax.Array], size: int) -> None:
  if "index" not in batch:
    raise ValueError(
      f"batch: it has {', '.join(batch) or 'nothing'}, but no 'index', the examples' places in the"
      " training set, which crd's banks need."
    )
  if batch["index"].shape != (size,) or not jnp.issubdtype(batch["index"].dtype, jnp.integer):
    raise ValueError(
      f"batch: 'index' is {batch['index'].dtype} of shape {batch['index'].shape}; it must be int32"
      f" of shape {(size,)}."
    )
  contrast = batch.get("contrast_index")
  if contrast is not None and (
    contrast.ndim != 2 or len(contrast) != size or contrast.shape[1] < 2
  ):
    raise ValueError(
      f"batch: 'contrast_index' has shape {contrast.shape}; it must be ({size}, 1 + negatives)."
    )
