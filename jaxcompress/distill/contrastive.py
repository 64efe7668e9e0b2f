"""Contrast between examples: with memory banks of the whole training set, or within the batch."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxcompress.arguments import check_whole
from jaxcompress.distill.bank_state import CRDParams, CRDState, Overwritten
from jaxcompress.distill.banks import (
  FORMULATIONS,
  Devices,
  Formulation,
  choose_strata,
  draw_contrast,
  draw_rows,
  init_bank,
  is_shared,
  padded_shape,
  places_in,
  scores,
  share_out,
  strata_of,
  write_rows,
)
from jaxcompress.distill.base import LossTransform, stateful
from jaxcompress.distill.labels import on_host
from jaxcompress.distill.layers import init_linear, linear, numbers_of, unit
from jaxcompress.distill.reads import both_pooled
from jaxcompress.distill.scalars import check_number

EPSILON = 1e-7  # CRD's authors add it to the noise probability


def crd(
  num_examples: int,
  *,
  dim: int = 128,
  negatives: int = 16384,
  temperature: float = 0.07,
  momentum: float = 0.5,
  formulation: Formulation = "auto",
  strata: int | None = None,
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
  replacement, of any class, as many from each of the ``strata`` ``i % strata`` (one more from some, by
  chance, where their number does not divide ``K``); an example that is
  twice in a batch gets the vector of its last occurrence; features that embed to zero stay zero
  instead of NaN; a batch whose loss or gradient is not finite leaves the state as it was; a place
  outside the banks makes the loss NaN, and ``check``, which ``init_state`` and ``fit`` call, raises.

  Donate the state to the jitted step, and banks are written in place: no copy, whatever n is. The
  gradient with respect to the embeddings is computed with the loss, and the rows are written only
  where both are finite, so XLA knows that nothing reads the old banks after the write. Take a step
  back with :func:`~jaxcompress.distill.keep_where`; ``jnp.where`` over the state would copy them.

  On a mesh each device holds its strata of the banks, draws and scores their negatives, and writes
  their rows. Embeddings are gathered, and their gradients summed: what is sent depends on the batch
  alone. The numbers are those of one device with as many strata: :func:`~jaxcompress.training.shard`
  keeps their number where the devices divide it, and else cuts the banks into more.

  Args:
    num_examples: training examples ``n``; the banks take ``8 * n * dim`` bytes.
    dim: of the embeddings.
    negatives: others per example, ``K``.
    temperature: ``T > 0`` of the scores.
    momentum: share of a bank's old row that is kept, in [0, 1).
    formulation: how scores are computed: ``"dense"`` (product with the whole bank), ``"gather"``
      (only the rows that are needed), or ``"auto"``: dense up to n = batch * K. Values agree.
      On CPUs ``"gather"`` was seen to win from about n = 10 K on.
    strata: into how many equal parts the training set is cut for the draw, on one device and on those
      that divide it; it divides ``negatives`` and is at most n / 2. None: 64 where that can be, else 1.
      Other numbers of devices have more of them, or hold the whole banks if these are small.

  Returns:
    A :class:`LossTransform` with :class:`CRDParams` and :class:`CRDState`; metrics ``crd``, and
    ``crd_outside``, how many of the batch's places are outside the banks. Batches may differ in
    size. It reads ``pooled`` (batch, features) of both networks, and ``batch["index"]`` (batch,) int32,
    places in the training set. ``batch["contrast_index"]`` (batch, 1 + K) int32, column 0 the same
    as ``index``, replaces the random choice and its K. The extra ``mesh`` of ``update`` says which
    devices share the banks.

  Raises:
    ValueError: if a number is out of range; on ``init``, if features, index or teacher are
      missing or of the wrong shape; on ``check``, if a place is not from 0 to ``num_examples - 1``.

  Examples:
    >>> from jaxcompress.nn import Endpoints
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
  check_whole("num_examples", num_examples, 2)
  check_whole("dim", dim, 1)
  check_whole("negatives", negatives, 1)
  if callable(temperature):
    raise ValueError(
      "temperature: a schedule would invalidate Z; it must be a number above 0. For a weight that"
      " changes, write distill.scale(schedule, loss)."
    )
  check_number("temperature", temperature, positive=True)
  if not 0 <= momentum < 1:
    raise ValueError(f"momentum: {momentum!r} must be in [0, 1).")
  if formulation not in FORMULATIONS:
    raise ValueError(f"formulation: {formulation!r} must be one of {', '.join(FORMULATIONS)}.")
  at_first = choose_strata(strata, num_examples, negatives)

  def init(rng, student, teachers, batch):
    pooled = both_pooled("crd", student, teachers)
    features = map(numbers_of, pooled)
    keys = jax.random.split(rng, 5)
    size = len(pooled[0])
    _check_index(batch, size)
    params = CRDParams(*(init_linear(keys[i], inputs, dim) for i, inputs in enumerate(features)))
    state = CRDState(
      student_bank=init_bank(keys[2], padded_shape(num_examples, at_first, dim)),
      teacher_bank=init_bank(keys[3], padded_shape(num_examples, at_first, dim)),
      student_log_z=jnp.zeros((), jnp.float32),
      teacher_log_z=jnp.zeros((), jnp.float32),
      count=jnp.zeros((), jnp.int32),
      seed=jax.random.bits(keys[4], (), jnp.uint32),
      overwritten=Overwritten(jnp.zeros(size, jnp.int32), *jnp.zeros((2, size, dim), jnp.float32)),
    )
    return params, state

  def compute(params, state, student, teachers, batch, extras):
    s, t = both_pooled("crd", student, teachers)
    _check_index(batch, len(s))
    e_s, e_t = unit(linear(params.student, s)), unit(linear(params.teacher, t))
    index = batch["index"].astype(jnp.int32)
    rng = extras.get("rng")
    if rng is None:
      rng = jax.random.fold_in(jax.random.key(state.seed), state.count)
    given = batch.get("contrast_index")
    constants = jax.lax.stop_gradient((e_s, e_t))
    arguments = (*constants, index, rng, state)
    mesh = extras.get("mesh")
    if given is not None:
      result = update(Devices(), *arguments, ids=given[:, 1:].astype(jnp.int32))
    elif is_shared(mesh, state.student_bank.shape):
      result = update_on(mesh, *arguments)
    else:
      result = update(Devices(), *arguments)
    loss, gradients, state, outside = result
    metrics = {"crd_outside": outside.astype(jnp.float32)}
    return with_gradient(loss, gradients, (e_s, e_t)), state, metrics

  def update_on(mesh, e_s, e_t, index, rng, state):
    parts = strata_of(state.student_bank.shape)
    split, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    places = state.partition(mesh)
    after = places._replace(overwritten=Overwritten(split, split, split))

    def of_device(*arguments):
      loss, gradients, state, outside = update(Devices(mesh.axis_names), *arguments, parts)
      own = jax.tree.map(lambda x: x.reshape(1, *x.shape), state.overwritten)
      return loss, gradients, state._replace(overwritten=own), outside

    return jax.shard_map(
      of_device,
      mesh=mesh,
      in_specs=(split, split, split, whole, places),
      out_specs=(whole, (split, split), after, whole),
    )(e_s, e_t, index, rng, state)

  def update(devices, e_s, e_t, index, rng, state, parts=None, ids=None):
    """Loss, its gradients with respect to the embeddings, the next state, and how many places are outside the
    banks, as one device computes them; ``parts`` are the strata of all devices."""
    parts = strata_of(state.student_bank.shape) if parts is None else parts
    outside = sum(jnp.sum(is_outside(i)) for i in (index, ids) if i is not None)
    outside = devices.add(outside)
    vectors, index = devices.gather(jnp.concatenate([e_s, e_t], 1)), devices.gather(index)
    e_s, e_t = vectors[:, :dim], vectors[:, dim:]
    place, owned = places_in(state.student_bank.shape, index, parts, devices)
    old_s, old_t = (
      bank.reshape(-1, dim).at[place].get(mode="clip")
      for bank in (state.student_bank, state.teacher_bank)
    )
    others_at, counted = negative_places(devices, state.student_bank.shape, index, rng, parts, ids)

    def contrasted(e_s, e_t):
      pairs = ((e_s, old_t, state.teacher_bank), (e_t, old_s, state.student_bank))
      return [
        (
          jnp.sum(vector * row, 1) / temperature,
          scores(vector, bank.reshape(-1, dim), others_at, formulation) / temperature,
        )
        for vector, row, bank in pairs
      ]

    logits, by_embeddings = jax.vjp(contrasted, e_s, e_t)
    size, others = len(index), negatives if ids is None else ids.shape[1]
    log_z = jnp.stack([state.student_log_z, state.teacher_log_z])
    first = jax.lax.cond(  # a pass over all scores that only the first update needs
      state.count == 0,
      lambda logits: jnp.stack([log_sum(*pair, owned, counted) for pair in logits]),
      lambda _: devices.of_each(log_z),
      logits,
    )
    first = devices.log_sum_exp(first) - math.log(size * (1 + others) / num_examples)
    log_z = jnp.where(state.count == 0, first, log_z)

    def objective(logits):
      terms = (
        noise_contrastive(positive - z, negative - z, others / num_examples, owned, counted)
        for (positive, negative), z in zip(logits, log_z, strict=True)
      )
      return sum(terms) / size

    loss, slopes = jax.value_and_grad(objective)(logits)
    loss = jnp.where(outside == 0, devices.add(loss), jnp.nan)
    gradients = devices.add_and_share(jnp.concatenate(by_embeddings(slopes), 1))
    finite = jnp.isfinite(loss + devices.add(jnp.sum(gradients)))
    state = CRDState(
      student_bank=write_rows(state.student_bank, place, renewed(old_s, e_s), finite & owned),
      teacher_bank=write_rows(state.teacher_bank, place, renewed(old_t, e_t), finite & owned),
      student_log_z=jnp.where(finite, log_z[0], state.student_log_z),
      teacher_log_z=jnp.where(finite, log_z[1], state.teacher_log_z),
      count=state.count + finite.astype(jnp.int32),
      seed=state.seed,
      overwritten=Overwritten(place, old_s, old_t),
    )
    return loss, (gradients[:, :dim], gradients[:, dim:]), state, outside

  def is_outside(places):
    return (places < 0) | (places >= num_examples)

  def check(batch):
    for name in ("index", "contrast_index"):
      places = on_host(batch[name]) if name in batch else None
      if places is not None and (wrong := places[is_outside(places)]).size:
        raise ValueError(
          f"batch: '{name}' must be places from 0 to {num_examples - 1} in the training set, got"
          f" {wrong[0]}; num_examples of crd is {num_examples} and must be its size."
        )

  def renewed(old, embedding):
    return unit(momentum * old + (1 - momentum) * embedding)

  def negative_places(devices, bank_shape, index, rng, parts, ids):
    """Rows, in a device's share of a bank, of the negatives that it scores, (batch, its K), and which
    of them count; None: all."""
    if ids is None and parts == 1:
      ids = draw_contrast(rng, index, num_examples, negatives)[:, 1:]
    if ids is not None:
      return places_in(bank_shape, ids, parts, devices)[0], None
    if 2 * parts > num_examples:
      raise ValueError(
        f"strata: banks of {num_examples} examples cannot have {parts}, which need two each; start anew"
        " on these devices."
      )
    share, size, _ = bank_shape
    here = jnp.arange(share, dtype=jnp.int32)
    numbers, each = devices.first(share) + here, math.ceil(negatives / parts)
    rows = draw_rows(rng, index, numbers, parts, num_examples, each)
    counted = None
    if negatives % parts:
      counted = share_out(rng, numbers, parts, negatives, len(index)).reshape(len(index), -1)
    return (rows + size * here.reshape(1, -1, 1)).reshape(len(index), -1), counted

  return stateful("crd", init, compute, check)


def log_sum(
  positive: jax.Array, negative: jax.Array, owned: jax.Array, counted: jax.Array | None = None
) -> jax.Array:
  """Log of the summed exponentials of one device's scores, () float32."""
  own = jax.nn.logsumexp(jnp.where(owned, positive, -jnp.inf))
  if counted is not None:
    negative = jnp.where(counted, negative, -jnp.inf)
  return jnp.logaddexp(own, jax.nn.logsumexp(negative))


def noise_contrastive(
  positive: jax.Array,
  negative: jax.Array,
  noise: float,
  owned: jax.Array | bool = True,
  counted: jax.Array | None = None,
) -> jax.Array:
  """Noise-contrastive estimation from log-scores, summed, stable for any of them.

  ``-sum_i log(P_i / (P_i + c + e)) - sum_ik log(c / (N_ik + c + e))`` with ``c = K / n`` and
  ``e = 1e-7``.

  Args:
    positive: (batch,), logarithms of normalised scores ``P``.
    negative: of any shape, of ``N``.
    noise: ``c``.
    owned: (batch,) bool, which of ``positive`` count.
    counted: bool, as ``negative``, which of those do; None: all.

  Returns:
    () float32.

  Examples:
    >>> even = jnp.log(jnp.full(2, 0.25))  # P = N = c = 1/4: twice log 2
    >>> round(float(noise_contrastive(even[:1], even[1:], 0.25)), 4)
    1.3863
  """
  log_noise = math.log(noise + EPSILON)
  positive = jnp.sum(jnp.where(owned, jax.nn.softplus(log_noise - positive), 0.0))
  floor = log_noise - math.log(noise)
  others = jax.nn.softplus(negative - log_noise)
  if counted is None:
    return positive + jnp.sum(others) + negative.size * floor
  return positive + jnp.sum(jnp.where(counted, others + floor, 0.0))


@jax.custom_jvp
def with_gradient(value: jax.Array, gradients: Any, inputs: Any) -> jax.Array:
  """A scalar whose gradient with respect to ``inputs`` was computed before.

  Differentiation then reads nothing but ``gradients``, so whatever else the value was computed
  from may be overwritten.

  Args:
    value: a scalar, () float32.
    gradients: a pytree; taken as constants.
    inputs: a pytree of the same structure and shapes.

  Returns:
    ``value``.

  Examples:
    >>> jax.grad(lambda x: with_gradient(jnp.array(9.0), jnp.array([6.0]), x))(jnp.array([3.0]))
    Array([6.], dtype=float32)
  """
  return value


@with_gradient.defjvp
def _jvp(primals, tangents):
  value, gradients, _ = primals
  slopes = jax.tree.map(lambda g, t: jnp.sum(g * t), gradients, tangents[2])
  return value, sum(jax.tree.leaves(slopes))


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
  if contrast is None:
    return
  whole = jnp.issubdtype(contrast.dtype, jnp.integer)
  if not whole or contrast.ndim != 2 or len(contrast) != size or contrast.shape[1] < 2:
    raise ValueError(
      f"batch: 'contrast_index' has shape {contrast.shape} and is {contrast.dtype}; it must be int32"
      f" of shape ({size}, 1 + negatives)."
    )
