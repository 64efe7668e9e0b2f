"""Feature maps that a loss compares, and their pooling to one size."""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.distill.base import LossTransform, stateful, stateless
from jaxcompress.distill.layers import EXACT
from jaxcompress.distill.reads import check_examples, first_teacher
from jaxcompress.nn import Endpoints

Places = Sequence[int | tuple[int, int]]
Pair = tuple[jax.Array, jax.Array]
Pairs = tuple[Pair, ...]


def on_maps(
  name: str,
  maps: Places | None,
  compute: Callable[..., Any],
  init: Callable[[jax.Array, Pairs], tuple[Any, Any]] | None = None,
  *,
  field: str = "maps",
  skip: int = 1,
  by_example: bool = False,
) -> LossTransform:
  """A loss on pairs of feature maps from its formula.

  Args:
    name: of its metric.
    maps: places in both networks' maps; see :func:`paired`.
    compute: ``(pairs) -> scalar``; where there is an ``init``,
      ``(params, state, pairs) -> (scalar, state)``.
    init: ``(rng, pairs) -> (params, state)``; reads shapes only. None: nothing is trained or carried.
    field: ``maps`` or ``preact``.
    skip: maps at the beginning that None leaves out.
    by_example: whether it is the mean of what each example alone would give.

  Returns:
    A :class:`~jaxcompress.distill.LossTransform`.

  Raises:
    ValueError: if ``maps`` are no places; on ``init``, if there is no teacher or no such map.

  Examples:
    >>> loss = on_maps("gap", (-1,), lambda pairs: sum(jnp.mean(s - t) for s, t in pairs))
    >>> one, two = (Endpoints(None, maps=(x * jnp.ones((1, 2, 2, 3)),)) for x in (1.0, 2.0))
    >>> float(loss.update((), (), one, (two,), {})[0])
    -1.0
  """
  check_places(maps)

  def pairs(student, teachers):
    return paired(name, student, first_teacher(teachers, name), maps, field=field, skip=skip)

  if init is None:
    return stateless(
      name,
      lambda student, teachers, _: compute(pairs(student, teachers)),
      by_example=by_example,
    )
  return stateful(
    name,
    lambda rng, student, teachers, _: init(rng, pairs(student, teachers)),
    lambda params, state, student, teachers, *_: compute(params, state, pairs(student, teachers)),
    by_example=by_example,
  )


def on_each_map(
  name: str,
  maps: Places | None,
  compute: Callable[..., Any],
  init: Callable[..., tuple[Any, Any]] | None = None,
  *,
  by_example: bool = False,
) -> LossTransform:
  """A sum over pairs of feature maps, each with parameters and state of its own.

  Args:
    name: of its metric.
    maps: places in both networks' maps; see :func:`paired`.
    compute: ``(student, teacher) -> scalar``, of one pair; where there is an ``init``,
      ``(params, state, student, teacher) -> (scalar, state)``.
    init: ``(rng, student, teacher) -> (params, state)``; None: nothing is trained or carried.
    by_example: whether it is the mean of what each example alone would give.

  Returns:
    A :class:`~jaxcompress.distill.LossTransform`.

  Raises:
    ValueError: as :func:`on_maps`.

  Examples:
    >>> loss = on_each_map("gap", None, lambda s, t: jnp.mean(s - t))
    >>> one = Endpoints(None, maps=(jnp.ones((1, 2, 2, 3)),) * 3)
    >>> float(loss.update((), (), one, (one,), {})[0])
    0.0
  """
  if init is None:
    in_all = lambda pairs: sum(compute(s, t) for s, t in pairs)  # noqa: E731
    return on_maps(name, maps, in_all, by_example=by_example)

  def init_all(rng, pairs):
    made = [init(jax.random.fold_in(rng, i), s, t) for i, (s, t) in enumerate(pairs)]
    return tuple(zip(*made, strict=True))

  def compute_all(params, state, pairs):
    found = [compute(*own, *pair) for *own, pair in zip(params, state, pairs, strict=True)]
    terms, states = zip(*found, strict=True)
    return sum(terms), states

  return on_maps(name, maps, compute_all, init_all, by_example=by_example)


def paired(
  name: str,
  student: Endpoints,
  teacher: Endpoints,
  places: Places | None,
  *,
  field: str = "maps",
  skip: int = 1,
) -> Pairs:
  """The maps that a loss compares.

  Args:
    name: of the loss, for errors.
    student: its endpoints.
    teacher: its endpoints.
    places: each a place in both networks' maps, or a pair ``(student's, teacher's)``; negative
      ones count from the end. None: all but the stem's, and of the network that has more, the last.
    field: ``maps`` or ``preact``.
    skip: maps at the beginning that None leaves out.

  Returns:
    Pairs of (batch, height, width, channels) maps.

  Raises:
    ValueError: if there are no maps, or not so many.

  Examples:
    >>> maps = tuple(jnp.zeros((1, size, size, 1)) for size in (8, 4, 2))
    >>> three, two = Endpoints(None, maps=maps), Endpoints(None, maps=maps[1:])
    >>> [(s.shape[1], t.shape[1]) for s, t in paired("kd", three, two, None)]
    [(2, 2)]
    >>> [(s.shape[1], t.shape[1]) for s, t in paired("kd", three, two, ((0, 0), -1))]
    [(8, 4), (2, 2)]
  """
  both = {"student": getattr(student, field), "teacher": getattr(teacher, field)}
  for network, maps in both.items():
    if not maps:
      raise ValueError(
        f"{network}: {name} reads {field}, which are missing; return Endpoints({field}=...), or"
        " wrap the model in distill.adapter."
      )
  if places is None:
    places = range(-max(1, min(map(len, both.values())) - skip), 0)
  pairs = []
  for place in places:
    i, j = place if isinstance(place, tuple) else (place, place)
    pairs.append((_at(name, "student", field, both["student"], i),
                  _at(name, "teacher", field, both["teacher"], j)))  # fmt: skip
    check_examples(name, *pairs[-1])
  return tuple(pairs)


def check_places(places: Places | None) -> None:
  """Checks the form of a loss's ``maps`` argument.

  Raises:
    ValueError: if it is no sequence of places and pairs of them.

  Examples:
    >>> check_places(2)
    Traceback (most recent call last):
    ValueError: maps: 2 must be places such as (1, 2), or pairs of places such as ((1, 2), (2, 3)).
  """

  def is_place(x):
    return isinstance(x, Integral) and not isinstance(x, bool)

  def is_pair(x):
    return isinstance(x, tuple) and len(x) == 2 and all(map(is_place, x))

  listed = isinstance(places, (tuple, list, range)) and len(places) > 0
  if places is not None and not (listed and all(is_place(x) or is_pair(x) for x in places)):
    raise ValueError(
      f"maps: {places!r} must be places such as (1, 2), or pairs of places such as"
      " ((1, 2), (2, 3))."
    )


def _at(name: str, network: str, field: str, maps: tuple[jax.Array, ...], i: int) -> jax.Array:
  if not -len(maps) <= i < len(maps):
    raise ValueError(
      f"maps: {name} was asked for place {i} and the {network} has {len(maps)} {field}; name others"
      " in maps=."
    )
  if maps[i].ndim != 4:
    raise ValueError(
      f"{network}: place {i} of {field} has shape {maps[i].shape}; a map is (batch, height, width,"
      " channels)."
    )
  return maps[i]


def adaptive_pool(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
  """Averages over ``size`` windows that cover the map and may overlap.

  Window i of o covers pixels from ``floor(i n / o)`` to ``ceil((i + 1) n / o)``.

  Args:
    x: (batch, height, width, channels).
    size: (height, width) of the result.

  Examples:
    >>> adaptive_pool(jnp.arange(3.0).reshape(1, 3, 1, 1), (2, 1)).ravel().tolist()
    [0.5, 1.5]
  """
  for axis, outputs in ((1, size[0]), (2, size[1])):
    inputs = x.shape[axis]
    if inputs != outputs:
      weights = jnp.asarray(_windows(inputs, outputs))
      x = jnp.moveaxis(jnp.tensordot(x, weights, (axis, 1), precision=EXACT), -1, axis)
  return x


def _windows(inputs: int, outputs: int) -> np.ndarray:
  """(outputs, inputs) weights of the windows."""
  weights = np.zeros((outputs, inputs), np.float32)
  for i in range(outputs):
    first, end = i * inputs // outputs, -(-(i + 1) * inputs // outputs)
    weights[i, first:end] = 1 / (end - first)
  return weights


def nearest(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
  """Nearest-neighbour resizing: pixel i of the result is ``floor(i n / o)`` of the map.

  Examples:
    >>> nearest(jnp.arange(2.0).reshape(1, 2, 1, 1), (4, 1)).ravel().tolist()
    [0.0, 0.0, 1.0, 1.0]
  """
  for axis, outputs in ((1, size[0]), (2, size[1])):
    inputs = x.shape[axis]
    if inputs != outputs:
      x = jnp.take(x, np.arange(outputs) * inputs // outputs, axis=axis)
  return x


def matched(student: jax.Array, teacher: jax.Array) -> Pair:
  """Both maps pooled to the smaller height and the smaller width.

  Examples:
    >>> [x.shape for x in matched(jnp.ones((1, 8, 8, 3)), jnp.ones((1, 4, 4, 5)))]
    [(1, 4, 4, 3), (1, 4, 4, 5)]
  """
  size = tuple(min(student.shape[axis], teacher.shape[axis]) for axis in (1, 2))
  return adaptive_pool(student, size), adaptive_pool(teacher, size)


def check_channels(name: str, pairs: Sequence[Pair]) -> None:
  """Checks that maps have equal channels, for losses that cannot convert one number to the other.

  Raises:
    ValueError: if a pair's channels differ.

  Examples:
    >>> check_channels("fsp", [(jnp.ones((1, 4, 4, 3)), jnp.ones((1, 4, 4, 5)))])
    Traceback (most recent call last):
    ValueError: maps: fsp compares maps of equal channels, but the student has 3 and the teacher 5; choose others with maps=, or another loss.
  """
  for s, t in pairs:
    if s.shape[-1] != t.shape[-1]:
      raise ValueError(
        f"maps: {name} compares maps of equal channels, but the student has {s.shape[-1]} and the"
        f" teacher {t.shape[-1]}; choose others with maps=, or another loss."
      )
