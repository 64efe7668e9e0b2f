"""A loss as a pair of functions, and the two helpers that make one from a formula.

A loss is a pair of pure functions, as a gradient transformation is in optax. To add one, write a
function that returns :func:`stateless` or :func:`stateful` of its formula, export it, and give it
a row in ``tests/distill/test_contract.py``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxcompress.nn import Endpoints
from jaxcompress.ops.dispatch import backend

Batch = Mapping[str, jax.Array]
Teachers = tuple[Endpoints, ...]
Metrics = dict[str, jax.Array]


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
      splitting too has a method ``partition(mesh)``, a tree of ``PartitionSpec`` like itself, and
      perhaps ``cut_for(mesh)``, the state in a form that so many devices can share.
      A batch of any size will do, whatever the size of the one that ``init`` saw.
    check: ``(batch) -> None``, on the host; raises ``ValueError`` for values that ``update``, which
      is traced, can only answer with a loss of NaN, such as places outside of memory banks. What is
      traced or lies elsewhere is left alone. ``init_state`` and ``fit`` call it with their batches.

  A batch may have ``weight`` (batch,) float, 0 or more: losses that take examples one by one then give
  the mean ``sum_i w_i loss_i / sum_i w_i``, and metrics without weights all the same. The others raise
  ``ValueError``, unless :func:`~jaxcompress.distill.unweighted` keeps the weights from them.

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
  *,
  by_example: bool = False,
) -> LossTransform:
  """Makes a loss without parameters or state from its formula.

  Args:
    name: of its metric.
    compute: ``(student, teachers, batch) -> scalar``. It gets float32 endpoints, the teachers'
      without gradient, and raises ``ValueError`` for shapes that do not fit; ``init`` calls it
      abstractly, so mistakes show there.
    check: see :class:`LossTransform`.
    by_example: whether it is the mean of what each example alone would give, so that a batch's
      ``weight`` means something.

  Returns:
    A :class:`LossTransform`.

  Examples:
    >>> transform = stateless("mean", lambda student, teachers, batch: jnp.mean(student.logits))
    >>> transform.init(jax.random.key(0), Endpoints(logits=jnp.ones((2, 3))), (), {})
    ((), ())
  """

  def init(rng, student, teachers, batch):
    loss = lambda student, teachers: _scalar(name, compute(student, teachers, batch))  # noqa: E731
    jax.eval_shape(loss, student, teachers)
    return (), ()

  def update(params, state, student, teachers, batch, extras):
    return compute(student, teachers, batch), state

  return stateful(name, init, update, check, by_example=by_example)


def stateful(
  name: str,
  init: Callable[[jax.Array, Endpoints, Teachers, Batch], tuple[Any, Any]],
  compute: Callable[..., tuple[Any, ...]],
  check: Callable[[Batch], None] = check_nothing,
  *,
  by_example: bool = False,
) -> LossTransform:
  """Makes a loss with parameters or state from its formula.

  Args:
    name: of its metric.
    init: ``(rng, student, teachers, batch) -> (params, state)``; reads shapes only.
    compute: ``(params, state, student, teachers, batch, extras) -> (scalar, state)``, and a dict of
      further metrics if there are; ``extras`` is a dict. It gets float32 endpoints, the teachers'
      without gradient.
    check: see :class:`LossTransform`.
    by_example: whether it is the mean of what each example alone would give, and its new state is the
      same for all, so that a batch's ``weight`` means something.

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

  def checked_init(rng, student, teachers, batch):
    _check_weight(name, batch, by_example)
    return init(rng, student, teachers, batch)

  def update(params, state, student, teachers, batch, **extras):
    _check_weight(name, batch, by_example)
    params, state = jax.tree.map(jnp.asarray, (params, state))  # NumPy's from a checkpoint, say
    student, teachers = _float32(student), _constant(teachers)

    def found(student, teachers, batch):
      loss, new, *more = compute(params, state, student, teachers, batch, extras)
      loss = _scalar(name, loss)
      return loss, new, {name: loss, **{key: value for one in more for key, value in one.items()}}

    if "weight" in batch:
      loss, state, metrics = _weighted(found, student, teachers, batch)
    else:
      loss, state, metrics = found(student, teachers, batch)
    return loss, state, jax.lax.stop_gradient(metrics)

  def checked(batch):
    if by_example:
      check_weights(batch)
    check(batch)

  return LossTransform(checked_init, update, checked)


def _weighted(
  compute: Callable[..., tuple[jax.Array, Any, Metrics]],
  student: Endpoints,
  teachers: Teachers,
  batch: Batch,
) -> tuple[jax.Array, Any, Metrics]:
  """The weighted mean of each example's loss, the new state, and the plain means of the metrics."""
  weight = jnp.asarray(batch["weight"], jnp.float32)
  weight = jnp.where(weight < 0, jnp.nan, weight)  # the step is then skipped, and counted
  inputs = student, teachers, {name: x for name, x in batch.items() if name != "weight"}
  of_each = lambda x: jnp.ndim(x) > 0 and len(x) == len(weight)  # noqa: E731
  axes = jax.tree.map(lambda x: 0 if of_each(x) else None, inputs)
  alone = jax.tree.map(lambda x: x[:, None] if of_each(x) else x, inputs)
  losses, state, metrics = jax.vmap(compute, axes, (0, None, 0))(*alone)
  parts = jnp.where(weight == 0, 0.0, weight * losses)  # what does not count may be no number
  total = jnp.sum(weight)
  loss = jnp.sum(parts) / jnp.where(total == 0, 1.0, total)
  return loss, state, jax.tree.map(jnp.mean, metrics)


def _check_weight(name: str, batch: Batch, by_example: bool) -> None:
  """Raises if a batch has weights and the loss does not know what they would mean."""
  if "weight" in batch and not by_example:
    raise ValueError(
      f"batch: it has a 'weight' for each example, and {name} does not take examples one by one; write"
      f" distill.unweighted(...) around it, in which all count alike, or by_example=True if {name} is"
      " of your own and a mean over examples."
    )


def check_weights(batch: Batch) -> None:
  """The ``check`` of losses that take examples one by one.

  Args:
    batch: with ``weight`` or without.

  Raises:
    ValueError: if there is not one weight for each image, or one is negative or not finite.

  Examples:
    >>> check_weights({"weight": np.array([1.0, -1.0])})
    Traceback (most recent call last):
    ValueError: batch: 'weight' has -1.0; weights must be finite, and 0 or more.
  """
  weight = batch.get("weight")
  if weight is None:
    return
  if jnp.ndim(weight) != 1:
    raise ValueError(
      f"batch: 'weight' has shape {jnp.shape(weight)}; it must be (batch,), a number for each example."
    )
  if not np.issubdtype(weight.dtype, np.number) and weight.dtype != bool:
    raise ValueError(
      f"batch: 'weight' is {weight.dtype}; it must be numbers, one for each example."
    )
  values = on_host(weight)
  if values is None:
    return
  if (wrong := values[~(values >= 0) | ~np.isfinite(values)]).size:
    raise ValueError(f"batch: 'weight' has {wrong[0]}; weights must be finite, and 0 or more.")


def on_host(values: Any) -> np.ndarray | None:
  """An array as NumPy's, or None where its numbers are not to be had: traced, or elsewhere.

  Examples:
    >>> on_host(jnp.arange(3)).tolist(), on_host(jax.ShapeDtypeStruct((3,), jnp.int32))
    ([0, 1, 2], None)
  """
  if isinstance(values, jax.core.Tracer | jax.ShapeDtypeStruct):
    return None
  if isinstance(values, jax.Array) and not values.is_fully_addressable:
    return None
  return np.asarray(values)


def _scalar(name: str, loss: Any) -> jax.Array:
  """Converts a loss to float32; raises if it is not a scalar."""
  if jnp.shape(loss):
    raise ValueError(
      f"loss: {name!r} has shape {jnp.shape(loss)}; it must be a scalar, such as its jnp.mean."
    )
  return jnp.asarray(loss, jnp.float32)


def keep_where(keep: jax.Array, new: Any, old: Any, mesh: Mesh | None = None) -> Any:
  """Returns the new tree where ``keep``, else the old one, so that a bad step is rolled back.

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

  knows_better = lambda tree: hasattr(tree, "keep_where")  # noqa: E731
  news, form = jax.tree.flatten(new, is_leaf=knows_better)
  kept, asked = list(news), []
  for i, old_one in enumerate(jax.tree.leaves(old, is_leaf=knows_better)):
    if news[i] is old_one:
      continue
    if knows_better(news[i]):
      kept[i] = news[i].keep_where(keep, old_one, mesh)
    else:
      asked.append((i, news[i], old_one))
  if asked:
    places, *both = zip(*asked, strict=True)
    for i, array in zip(places, _either(keep, *both), strict=True):
      kept[i] = array
  return jax.tree.unflatten(form, kept)


def _either(keep: jax.Array, new: Sequence[Any], old: Sequence[Any]) -> Sequence[Any]:
  """Picks arrays by one branch on CPU, where each select is a program to compile; elsewhere, where the host
  would wait for a branch, by selects."""
  kind = lambda arrays: [(jnp.shape(x), jnp.result_type(x)) for x in arrays]  # noqa: E731
  if backend() == "cpu" and kind(new) == kind(old):
    return jax.lax.cond(keep, lambda new, old: new, lambda new, old: old, new, old)
  return [jnp.where(keep, a, b) for a, b in zip(new, old, strict=True)]


def _float32(tree: Any) -> Any:
  """Every float array in float32."""

  def cast(x):
    x = jnp.asarray(x)
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x

  return jax.tree.map(cast, tree)


def _constant(teachers: Teachers) -> Teachers:
  return jax.lax.stop_gradient(_float32(tuple(teachers)))
