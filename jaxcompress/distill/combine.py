"""Sums, weights and choices of losses, and weights that find themselves."""

from collections.abc import Collection, Iterator, Mapping
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.distill.base import LossTransform, Metrics
from jaxcompress.distill.scalars import Count, at_count, check_number, init_count


class ScaleState(NamedTuple):
  """State of :func:`scale`.

  Attributes:
    count: steps so far, () int32; ``()`` where the weight is a constant.
    inner: state of the scaled loss.
  """

  count: Count  # type: ignore[assignment]  # tuple.count is not needed
  inner: Any


def chain(*transforms: LossTransform) -> LossTransform:
  """Adds up losses.

  ``loss = sum_i loss_i``. Parameters and states are tuples in the order of the terms. Metrics are
  merged; of two with one name, the later gets a suffix: ``kd``, ``kd_2``, ``kd_3``. If an ``rng``
  is passed to ``update``, each term gets its own fold of it.

  Args:
    *transforms: the terms.

  Returns:
    A :class:`LossTransform`.

  Raises:
    ValueError: if there are no terms, or one is no transform.

  Examples:
    >>> from jaxcompress.distill import cross_entropy, kd
    >>> from jaxcompress.nn import Endpoints
    >>> loss = chain(scale(0.1, cross_entropy()), scale(0.9, kd(temperature=4.0)))
    >>> same, batch = Endpoints(logits=jnp.zeros((2, 4))), {"label": jnp.array([0, 1])}
    >>> params, state = loss.init(jax.random.key(0), same, (same,), batch)
    >>> _, _, metrics = loss.update(params, state, same, (same,), batch)
    >>> {name: round(float(value), 4) for name, value in metrics.items()}
    {'cross_entropy': 1.3863, 'kd': 0.0}
  """
  if not transforms:
    raise ValueError("transforms must not be empty; chain needs at least one loss.")
  for i, transform in enumerate(transforms):
    _check(f"transforms: item {i}", transform)
  numbered = dict(enumerate(transforms))

  def init(rng, student, teachers, batch):
    parts = [
      transform.init(jax.random.fold_in(rng, i), student, teachers, batch)
      for i, transform in enumerate(transforms)
    ]
    return tuple(params for params, _ in parts), tuple(state for _, state in parts)

  def update(params, state, student, teachers, batch, **extras):
    total, states, metrics = jnp.zeros((), jnp.float32), [], {}
    for _, loss, new, found in _terms(numbered, params, state, student, teachers, batch, **extras):
      total += loss
      states.append(new)
      for name, value in found.items():
        metrics[_unused(name, metrics)] = value
    return total, tuple(states), metrics

  def check(batch):
    for transform in transforms:
      transform.check(batch)

  return LossTransform(init, update, check)


def named_chain(*pairs: tuple[str, LossTransform], **transforms: LossTransform) -> LossTransform:
  """Adds up losses by name.

  Like :func:`chain`, but parameters and states are dicts, and every metric is prefixed with the
  name of its term: ``teacher/kd``. The extra ``only`` of ``update``, a tuple of names, computes
  some terms alone, and returns their states alone.

  Args:
    *pairs: ``(name, transform)``, for names that are no identifiers.
    **transforms: further terms.

  Returns:
    A :class:`LossTransform`.

  Raises:
    ValueError: if there are no terms, a name occurs twice, or a term is no transform.

  Examples:
    >>> from jaxcompress.distill import cross_entropy, kd
    >>> from jaxcompress.nn import Endpoints
    >>> loss = named_chain(labels=cross_entropy(), teacher=kd())
    >>> same, batch = Endpoints(logits=jnp.zeros((2, 4))), {"label": jnp.array([0, 1])}
    >>> params, state = loss.init(jax.random.key(0), same, (same,), batch)
    >>> sorted(loss.update(params, state, same, (same,), batch)[2])
    ['labels/cross_entropy', 'teacher/kd']
  """
  terms: dict[str, LossTransform] = {}
  for pair in (*pairs, *transforms.items()):
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
      raise ValueError(f"pairs: {pair!r} must be a (name, transform) tuple.")
    name, transform = pair
    if not name or name in terms:
      raise ValueError(f"pairs: the name {name!r} is empty or used twice; names must differ.")
    _check(f"transforms: {name!r}", transform)
    terms[name] = transform
  if not terms:
    raise ValueError("transforms must not be empty; named_chain needs at least one loss.")
  names = tuple(terms)
  chained = chain(*terms.values())

  def init(rng, student, teachers, batch):
    params, state = chained.init(rng, student, teachers, batch)
    return dict(zip(names, params, strict=True)), dict(zip(names, state, strict=True))

  def update(params, state, *args, only=None, **extras):
    losses, states, metrics = _by_name(terms, params, state, *args, only=only, **extras)
    return sum(losses.values(), jnp.zeros((), jnp.float32)), states, metrics

  return LossTransform(init, update, chained.check)


def scale(weight: optax.ScalarOrSchedule, transform: LossTransform) -> LossTransform:
  """Multiplies a loss by a weight; its metrics stay unweighted.

  Args:
    weight: a number, or a schedule: any function of the step, such as optax's. Steps are counted
      in the state, so a changing weight never recompiles; the first update sees step 0.
    transform: the loss.

  Returns:
    A :class:`LossTransform` with the same parameters and a :class:`ScaleState`.

  Raises:
    ValueError: if the weight is not finite, or ``transform`` is no transform.

  Examples:
    >>> import optax
    >>> from jaxcompress.distill import cross_entropy
    >>> from jaxcompress.nn import Endpoints
    >>> loss = scale(optax.linear_schedule(0.0, 1.0, 2), cross_entropy())
    >>> student, batch = Endpoints(logits=jnp.zeros((1, 4))), {"label": jnp.array([0])}
    >>> params, state = loss.init(jax.random.key(0), student, (), batch)
    >>> for _ in range(3):
    ...   value, state, metrics = loss.update(params, state, student, (), batch)
    ...   print(round(float(value), 2), round(float(metrics["cross_entropy"]), 2))
    0.0 1.39
    0.69 1.39
    1.39 1.39
  """
  check_number("weight", weight, scheduled=True)
  _check("transform", transform)

  def init(rng, student, teachers, batch):
    params, inner = transform.init(rng, student, teachers, batch)
    return params, ScaleState(init_count(weight), inner)

  def update(params, state, student, teachers, batch, **extras):
    loss, inner, metrics = transform.update(params, state.inner, student, teachers, batch, **extras)
    factor, count = at_count(weight, state.count)
    return factor * loss, ScaleState(count, inner), metrics

  return LossTransform(init, update, transform.check)


def unweighted(transform: LossTransform) -> LossTransform:
  """Hides the batch's ``weight`` from a loss, in which all examples then count alike.

  For losses that compare examples with each other, or normalise by the batch, beside others that
  weigh them; they raise an error otherwise.

  Args:
    transform: the loss.

  Returns:
    A :class:`LossTransform` with the same parameters and state.

  Raises:
    ValueError: if ``transform`` is no transform.

  Examples:
    >>> from jaxcompress.distill import cross_entropy, rkd
    >>> loss = chain(cross_entropy(), unweighted(rkd()))
  """
  _check("transform", transform)
  without = lambda batch: {name: x for name, x in batch.items() if name != "weight"}  # noqa: E731

  def init(rng, student, teachers, batch):
    return transform.init(rng, student, teachers, without(batch))

  def update(params, state, student, teachers, batch, **extras):
    return transform.update(params, state, student, teachers, without(batch), **extras)

  return LossTransform(init, update, lambda batch: transform.check(without(batch)))


def for_teacher(i: int, transform: LossTransform) -> LossTransform:
  """Lets a loss see one teacher only: it gets ``(teachers[i],)``.

  Args:
    i: place in the recipe's ``teachers``, from 0.
    transform: the loss.

  Returns:
    A :class:`LossTransform` with the same parameters and state.

  Raises:
    ValueError: if ``i`` is negative; on ``init``, if there are not so many teachers.

  Examples:
    >>> from jaxcompress.distill import kd
    >>> both = chain(scale(0.5, for_teacher(0, kd())), scale(0.5, for_teacher(1, kd())))
  """
  if isinstance(i, bool) or not isinstance(i, Integral) or i < 0:
    raise ValueError(f"i: {i!r} must be a teacher's place, 0 or more.")
  _check("transform", transform)

  def chosen(teachers):
    if i >= len(teachers):
      raise ValueError(
        f"i: teacher {i} was asked for and there are {len(teachers)}; places start at 0."
      )
    return (teachers[i],)

  def init(rng, student, teachers, batch):
    return transform.init(rng, student, chosen(teachers), batch)

  def update(params, state, student, teachers, batch, **extras):
    if extras.get("teacher_params") is not None:
      extras = {**extras, "teacher_params": chosen(extras["teacher_params"])}
    return transform.update(params, state, student, chosen(teachers), batch, **extras)

  return LossTransform(init, update, transform.check)


def by_uncertainty(**transforms: LossTransform) -> LossTransform:
  """Weights losses by learned uncertainties.

  ``sum_i exp(-v_i) loss_i / 2 + v_i / 2``, with a log-variance ``v_i`` per loss that is trained
  along and starts at 0. It suits losses that are not negative.

  Args:
    **transforms: the losses by name.

  Returns:
    A :class:`LossTransform` with the parameters ``{"log_variance", "terms"}``; metrics are those of
    the named chain, and ``weight/NAME``.

  Raises:
    ValueError: as :func:`~jaxcompress.distill.named_chain`.

  Examples:
    >>> from jaxcompress.distill import cross_entropy
    >>> from jaxcompress.nn import Endpoints
    >>> loss = by_uncertainty(labels=cross_entropy())
    >>> student, batch = Endpoints(jnp.zeros((1, 4))), {"label": jnp.array([2])}
    >>> params, state = loss.init(jax.random.key(0), student, (), batch)
    >>> round(float(loss.update(params, state, student, (), batch)[0]), 4)  # log(4) / 2
    0.6931

  References:
    Kendall et al., `Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
    Semantics <https://arxiv.org/abs/1705.07115>`_, 2018, equation 7.
  """
  chained, names = named_chain(**transforms), tuple(transforms)

  def init(rng, student, teachers, batch):
    params, state = chained.init(rng, student, teachers, batch)
    zeros = {name: jnp.zeros((), jnp.float32) for name in names}
    return {"log_variance": zeros, "terms": params}, state

  def update(params, state, *args, **extras):
    values, state, metrics = _by_name(transforms, params["terms"], state, *args, **extras)
    weights = {name: jnp.exp(-params["log_variance"][name]) / 2 for name in names}
    total = sum(weights[name] * values[name] + params["log_variance"][name] / 2 for name in names)
    return total, state, {**metrics, **_shown(weights)}

  return LossTransform(init, update, chained.check)


class MagnitudeState(NamedTuple):
  """State of :func:`by_magnitude`.

  Attributes:
    count: updates so far, () int32.
    sizes: running mean of each loss's size, () float32 by name.
    terms: states of the losses by name.
  """

  count: jax.Array  # type: ignore[assignment]  # tuple.count is not needed
  sizes: dict[str, jax.Array]
  terms: Any


def by_magnitude(decay: float = 0.99, **transforms: LossTransform) -> LossTransform:
  """Divides losses by the running mean of their size, so that each weighs as much.

  ``sum_i loss_i / m_i`` with ``m_i = decay m_i + (1 - decay) |loss_i|``, corrected for its start at
  0, from which no gradient comes; the first step's losses count 1 each.

  Args:
    decay: of the running means, in [0, 1).
    **transforms: the losses by name; scaling one changes nothing.

  Returns:
    A :class:`LossTransform` with :class:`MagnitudeState`; metrics are those of the named chain, and
    ``weight/NAME``.

  Raises:
    ValueError: if ``decay`` is out of range; else as :func:`~jaxcompress.distill.named_chain`.

  Examples:
    >>> from jaxcompress.distill import cross_entropy
    >>> from jaxcompress.nn import Endpoints
    >>> loss = by_magnitude(labels=cross_entropy())
    >>> student, batch = Endpoints(jnp.zeros((1, 4))), {"label": jnp.array([2])}
    >>> params, state = loss.init(jax.random.key(0), student, (), batch)
    >>> round(float(loss.update(params, state, student, (), batch)[0]), 4)
    1.0

  References:
    Chen et al., `GradNorm <https://arxiv.org/abs/1711.02257>`_, 2018, balances sizes of gradients in
    this spirit; sizes of losses cost no further backward pass.
  """
  check_number("decay", decay)
  if not 0 <= decay < 1:
    raise ValueError(f"decay: {decay} must be in [0, 1).")
  chained, names = named_chain(**transforms), tuple(transforms)

  def init(rng, student, teachers, batch):
    params, state = chained.init(rng, student, teachers, batch)
    zeros = {name: jnp.zeros((), jnp.float32) for name in names}
    return params, MagnitudeState(jnp.zeros((), jnp.int32), zeros, state)

  def update(params, state, *args, **extras):
    values, terms, metrics = _by_name(transforms, params, state.terms, *args, **extras)
    count = state.count + 1
    sizes = {
      name: decay * state.sizes[name] + (1 - decay) * jax.lax.stop_gradient(jnp.abs(values[name]))
      for name in names
    }
    started = 1 - jnp.power(jnp.float32(decay), count.astype(jnp.float32))
    weights = {name: started / jnp.maximum(sizes[name], 1e-12) for name in names}
    total = sum(weights[name] * values[name] for name in names)
    return total, MagnitudeState(count, sizes, terms), {**metrics, **_shown(weights)}

  return LossTransform(init, update, chained.check)


def _terms(
  transforms: Mapping[Any, LossTransform],
  params: Any,
  state: Any,
  *args: Any,
  only: Collection[Any] | None = None,
  **extras: Any,
) -> Iterator[tuple[Any, jax.Array, Any, Metrics]]:
  """Each term's key, loss, state and metrics; each gets an ``rng`` of its own."""
  for i, (key, transform) in enumerate(transforms.items()):
    if only is None or key in only:
      own = {} if extras.get("rng") is None else {"rng": jax.random.fold_in(extras["rng"], i)}
      yield key, *transform.update(params[key], state[key], *args, **{**extras, **own})


def _by_name(
  transforms: Mapping[str, LossTransform], *args: Any, **extras: Any
) -> tuple[dict[str, jax.Array], dict[str, Any], Metrics]:
  """The terms' losses and states by name, and their metrics, each under its name."""
  losses: dict[str, jax.Array] = {}
  states: dict[str, Any] = {}
  metrics: Metrics = {}
  for name, losses[name], states[name], found in _terms(transforms, *args, **extras):
    metrics |= {f"{name}/{key}": value for key, value in found.items()}
  return losses, states, metrics


def _shown(weights: dict[str, jax.Array]) -> Metrics:
  return {f"weight/{name}": jax.lax.stop_gradient(value) for name, value in weights.items()}


def _unused(name: str, metrics: Metrics) -> str:
  """The name, or with the first suffix that is free."""
  candidate, i = name, 2
  while candidate in metrics:
    candidate, i = f"{name}_{i}", i + 1
  return candidate


def _check(what: str, transform: Any) -> None:
  if not isinstance(transform, LossTransform):
    found = getattr(transform, "__name__", repr(transform))
    raise ValueError(f"{what} is {found}, not a LossTransform; write a call such as kd().")
