"""A loss as a pair of functions, the two helpers that make one from a formula, and its numbers.

A loss is a pair of pure functions, as a gradient transformation is in optax. To add one, write a
function that returns :func:`stateless` or :func:`stateful` of its formula, export it, and give it
a row in ``tests/distill/test_contract.py``.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxcompress.nn import Endpoints
from jaxcompress.nn.checks import is_whole

Batch = Mapping[str, jax.Array]
Teachers = tuple[Endpoints, ...]
Metrics = dict[str, jax.Array]
Count = jax.Array | tuple[()]


def check_nothing(batch: Batch) -> None:
  """The ``check`` of losses that take any values."""


class LossTransform(NamedTuple):
  """A distillation loss: two pure functions, and a third for losses that not all values suit.

  Attributes:
    init: ``(rng, student, teachers, batch) -> (params, state)``. It reads shapes only and raises
      ``ValueError`` for what does not fit. ``params`` is what the loss trains (``()`` if nothing),
      with the student's own optimizer; ``state`` is what it carries from step to step, plain arrays
      (no typed keys), so that any checkpoint holds them (see :func:`keep_where` for large ones).
    update: ``(params, state, student, teachers, batch, **extras) -> (loss, state, metrics)``. The
      loss is a float32 scalar, averaged over the batch and computed in float32 whatever the
      dtype of the inputs; no gradient reaches the teachers. ``metrics`` maps names to unweighted
      float32 scalars. Extras are ``step`` (int32 scalar), ``rng`` (a key), ``student_params`` and
      ``teacher_params`` (the networks' parameters, of the teachers as a tuple), and ``mesh`` (the
      devices that the batch is split over, or None); others are ignored. A state that is worth
      splitting too has a method ``partition(mesh)``, a tree of ``PartitionSpec`` like itself.
      A batch of any size will do, whatever the size of the one that ``init`` saw.
    check: ``(batch) -> None``, on the host; raises ``ValueError`` for values that ``update``, which
      is traced, can only answer with a loss of NaN, such as places outside of memory banks. What is
      traced or lies elsewhere is left alone. ``init_state`` and ``fit`` call it with their batches.

  ``student`` and each of ``teachers`` are :class:`~jaxcompress.nn.Endpoints`; the batch is a dict
  with ``label`` (batch,) int32 or soft ``target`` (batch, classes), and ``index`` (batch,) int32,
  the examples' places in the training set, for losses with memory banks. A loss reads
  ``teachers[0]`` unless it says otherwise; :func:`~jaxcompress.distill.for_teacher` gives it
  another one.

  Examples:
    >>> transform = stateless("mean", lambda student, teachers, batch: jnp.mean(student.logits))
    >>> student = Endpoints(logits=jnp.ones((2, 3), jnp.bfloat16))
    >>> params, state = transform.init(jax.random.key(0), student, (), {})
    >>> loss, state, metrics = transform.update(params, state, student, (), {})
    >>> loss.dtype.name, {name: float(value) for name, value in metrics.items()}
    ('float32', {'mean': 1.0})
  """

  init: Callable[..., tuple[Any, Any]]
  update: Callable[..., tuple[jax.Array, Any, Metrics]]
  check: Callable[[Batch], None] = check_nothing


def stateless(
  name: str,
  compute: Callable[[Endpoints, Teachers, Batch], jax.Array],
  check: Callable[[Batch], None] = check_nothing,
) -> LossTransform:
  """A loss without parameters or state from its formula.

  Args:
    name: of its metric.
    compute: ``(student, teachers, batch) -> scalar``. It gets float32 endpoints, the teachers'
      without gradient, and raises ``ValueError`` for shapes that do not fit; ``init`` calls it
      abstractly, so mistakes show there.
    check: see :class:`LossTransform`.

  Returns:
    A :class:`LossTransform`.

  Examples:
    >>> transform = stateless("mean", lambda student, teachers, batch: jnp.mean(student.logits))
    >>> transform.init(jax.random.key(0), Endpoints(logits=jnp.ones((2, 3))), (), {})
    ((), ())
  """

  def init(rng, student, teachers, batch):
    jax.eval_shape(lambda student, teachers: compute(student, teachers, batch), student, teachers)
    return (), ()

  def update(params, state, student, teachers, batch, extras):
    return compute(student, teachers, batch), state

  return stateful(name, init, update, check)


def stateful(
  name: str,
  init: Callable[[jax.Array, Endpoints, Teachers, Batch], tuple[Any, Any]],
  compute: Callable[..., tuple[Any, ...]],
  check: Callable[[Batch], None] = check_nothing,
) -> LossTransform:
  """A loss with parameters or state from its formula.

  Args:
    name: of its metric.
    init: ``(rng, student, teachers, batch) -> (params, state)``; reads shapes only.
    compute: ``(params, state, student, teachers, batch, extras) -> (scalar, state)``, and a dict of
      further metrics if there are; ``extras`` is a dict. It gets float32 endpoints, the teachers'
      without gradient.
    check: see :class:`LossTransform`.

  Returns:
    A :class:`LossTransform`.

  Examples:
    >>> def compute(params, state, student, teachers, batch, extras):
    ...   return params * jnp.mean(student.logits), state + 1
    >>> transform = stateful("scaled", lambda *args: (jnp.array(2.0), jnp.array(0)), compute)
    >>> student = Endpoints(logits=jnp.ones((2, 3)))
    >>> params, state = transform.init(jax.random.key(0), student, (), {})
    >>> loss, state, _ = transform.update(params, state, student, (), {})
    >>> float(loss), int(state)
    (2.0, 1)
  """

  def update(params, state, student, teachers, batch, **extras):
    params, state = jax.tree.map(jnp.asarray, (params, state))  # NumPy's from a checkpoint, say
    loss, state, *more = compute(
      params, state, _float32(student), _constant(teachers), batch, extras
    )
    loss = loss.astype(jnp.float32)
    metrics = {name: loss, **{key: value for found in more for key, value in found.items()}}
    return loss, state, jax.lax.stop_gradient(metrics)

  return LossTransform(init, update, check)


def keep_where(keep: jax.Array, new: Any, old: Any, mesh: Mesh | None = None) -> Any:
  """The new tree where ``keep``, else the old one: how a step whose result is bad is taken back.

  A select over large arrays reads, writes and holds them twice. A state that knows how to take an
  update back at less cost has a method ``keep_where(keep, old, mesh)``, which is called instead.

  Args:
    keep: () bool.
    new: any pytree.
    old: a pytree of the same structure; leaves that are the very same are passed through.
    mesh: the devices that the trees lie on, if ``update`` got one.

  Returns:
    A pytree of that structure.

  Examples:
    >>> keep_where(jnp.array(False), {"a": jnp.array(2)}, {"a": jnp.array(1)})["a"].item()
    1
  """

  def knows_better(tree):
    return hasattr(tree, "keep_where")

  def pick(a, b):
    if a is b:
      return a
    return a.keep_where(keep, b, mesh) if knows_better(a) else jnp.where(keep, a, b)

  return jax.tree.map(pick, new, old, is_leaf=knows_better)


def first_teacher(teachers: Teachers, name: str) -> Endpoints:
  """``teachers[0]``, or an error that says which loss wanted it.

  Raises:
    ValueError: if there are no teachers.

  Examples:
    >>> first_teacher((Endpoints(logits=jnp.ones((1, 3))),), "kd").logits.shape
    (1, 3)
  """
  if not teachers:
    raise ValueError(f"teachers: {name} reads one and there are none; give the recipe a teacher.")
  return teachers[0]


def both_logits(name: str, student: Endpoints, teachers: Teachers) -> tuple[jax.Array, jax.Array]:
  """The logits of the student and of the first teacher.

  Raises:
    ValueError: if there is no teacher, or its classes differ.

  Examples:
    >>> same = Endpoints(logits=jnp.ones((1, 3)))
    >>> [x.shape for x in both_logits("kd", same, (same,))]
    [(1, 3), (1, 3)]
  """
  teacher = first_teacher(teachers, name).logits
  if student.logits.shape != teacher.shape:
    raise ValueError(
      f"teachers: logits have shape {teacher.shape} and the student's {student.logits.shape}; both"
      " need the same classes."
    )
  return student.logits, teacher


def both_pooled(
  name: str, student: Endpoints, teachers: Teachers, otherwise: str = ""
) -> tuple[jax.Array, jax.Array]:
  """The pooled features of the student and of the first teacher.

  Args:
    name: of the loss, for errors.
    student: its endpoints.
    teachers: their endpoints.
    otherwise: a way out beside returning such features.

  Raises:
    ValueError: if there is no teacher, or a network has none.

  Examples:
    >>> same = Endpoints(logits=None, pooled=jnp.ones((1, 3)))
    >>> [x.shape for x in both_pooled("rkd", same, (same,))]
    [(1, 3), (1, 3)]
  """
  teacher = first_teacher(teachers, name)
  for network, endpoints in (("student", student), ("teacher", teacher)):
    if endpoints.pooled is None:
      raise ValueError(
        f"{network}: {name} reads pooled features and there are none; return"
        f" Endpoints(pooled=...){otherwise}."
      )
  return student.pooled, teacher.pooled  # type: ignore[return-value]


def init_count(value: optax.ScalarOrSchedule) -> Count:
  """The state that a number needs: a step count, int32 scalar, or ``()`` for a constant.

  Counting in state keeps one compiled step for a whole run, and a step that is taken back (because
  its gradients were not finite) takes its count back too.

  Examples:
    >>> init_count(4.0), init_count(optax.linear_schedule(1.0, 4.0, 10)).dtype.name
    ((), 'int32')
  """
  return jnp.zeros((), jnp.int32) if callable(value) else ()


def at_count(value: optax.ScalarOrSchedule, count: Count) -> tuple[jax.Array, Count]:
  """The number now, float32 scalar, and the count for the next step. The first step is 0.

  Examples:
    >>> schedule = optax.linear_schedule(1.0, 4.0, 3)
    >>> now, count = at_count(schedule, init_count(schedule))
    >>> float(now), float(at_count(schedule, count)[0])
    (1.0, 2.0)
  """
  if callable(value):
    steps = cast(jax.Array, count)  # a schedule's count is an array; see init_count
    return jnp.asarray(value(steps), jnp.float32), optax.safe_increment(steps)
  return jnp.asarray(value, jnp.float32), count


def check_number(name: str, value: optax.ScalarOrSchedule, *, positive: bool = False) -> None:
  """Checks a constant; schedules and traced numbers cannot be checked before they run.

  Raises:
    ValueError: if it is no finite number, or not positive where that is asked for.

  Examples:
    >>> check_number("temperature", -1.0, positive=True)
    Traceback (most recent call last):
    ValueError: temperature: -1.0 must be a finite number above 0, or a schedule of the step.
  """
  if callable(value) or isinstance(value, jax.core.Tracer):
    return
  try:
    wrong = not math.isfinite(value) or (positive and value <= 0)
  except TypeError:
    wrong = True
  if wrong:
    bound = " above 0" if positive else ""
    raise ValueError(
      f"{name}: {value!r} must be a finite number{bound}, or a schedule of the step."
    )


def check_whole(name: str, value: int, least: int = 1) -> None:
  """Checks a number of things.

  Raises:
    ValueError: if it is no whole number, or below the least.

  Examples:
    >>> check_whole("rank", 0)
    Traceback (most recent call last):
    ValueError: rank: 0 must be a whole number, at least 1.
  """
  if not is_whole(value, least):
    raise ValueError(f"{name}: {value!r} must be a whole number, at least {least}.")


def _float32(tree: Any) -> Any:
  """Every float array in float32."""

  def cast(x):
    x = jnp.asarray(x)
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x

  return jax.tree.map(cast, tree)


def _constant(teachers: Teachers) -> Teachers:
  return jax.lax.stop_gradient(_float32(tuple(teachers)))
