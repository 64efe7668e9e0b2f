"""Knowledge review: deep maps of the student help shallow ones to guess the teacher's."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_whole
from jaxcompress.distill.base import LossTransform, stateful
from jaxcompress.distill.layers import (
  Layer,
  Moments,
  conv,
  conv_norm,
  init_conv,
  init_conv_norm,
  mean_square,
)
from jaxcompress.distill.maps import (
  Pair,
  Places,
  adaptive_pool,
  check_channels,
  check_places,
  nearest,
  on_each_map,
  paired,
)
from jaxcompress.distill.reads import both_pooled, first_teacher

LEVELS = (4, 2, 1)


def review(
  mid: int | None = None, *, maps: Places | None = None, pooled: bool = True
) -> LossTransform:
  """Knowledge review: each teacher's map is compared with a fusion of the student's deeper ones.

  From the deepest map on: ``x = norm(conv1x1(s))``; but for the first,
  ``x = z_0 x + z_1 y`` with ``y`` the ``x`` of the map before, enlarged, and
  ``z = sigmoid(conv1x1([x, y]))``; then ``hcl(norm(conv3x3(x)), t)``, see
  :func:`hierarchical_context`. The loss is the sum over maps.

  Args:
    mid: channels of ``x``; None: those of the student's deepest map, at most 512.
    maps: places in both networks' ``preact``, or pairs of places; by default all but the stem's.
    pooled: whether the pooled features are the deepest map, of one pixel.

  Returns:
    A :class:`LossTransform` with ``{"reduce", "attend", "expand"}`` for each map as parameters (the
    deepest's ``attend`` is ``()``) and running
    :class:`~jaxcompress.distill.layers.Moments` as state; metric ``review``. It reads
    ``preact`` and ``pooled``. The authors let its weight rise from 0 to 1 over 20 epochs.

  Raises:
    ValueError: if ``mid`` is not positive or ``maps`` are no places; on ``init``, if there is no
      teacher, no such map or no pooled features.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> student = Endpoints(None, jnp.ones((2, 6)), preact=(jnp.ones((2, 4, 4, 3)),))
    >>> teacher = Endpoints(None, jnp.ones((2, 8)), preact=(jnp.ones((2, 4, 4, 5)),))
    >>> params, state = review().init(jax.random.key(0), student, (teacher,), {})
    >>> [layers["expand"]["kernel"].shape for layers in params]
    [(3, 3, 6, 5), (3, 3, 6, 8)]

  References:
    Chen et al., `Distilling Knowledge via Knowledge Review <https://arxiv.org/abs/2104.09044>`_,
    2021, section 3.
  """
  if mid is not None:
    check_whole("mid", mid, 1)
  check_places(maps)

  def levels(student, teachers):
    pairs = paired("review", student, first_teacher(teachers, "review"), maps, field="preact")
    if pooled:
      pairs = (
        *pairs,
        tuple(map(_pixel, both_pooled("review", student, teachers, ", or set pooled=False"))),
      )
    return pairs

  def init(rng, student, teachers, batch):
    pairs = levels(student, teachers)
    channels = min(512, pairs[-1][0].shape[-1]) if mid is None else mid
    made = []
    for i, (s, t) in enumerate(pairs):
      keys = jax.random.split(jax.random.fold_in(rng, i), 3)
      reduce, reduced = init_conv_norm(keys[0], (1, 1), s.shape[-1], channels)
      expand, expanded = init_conv_norm(keys[1], (3, 3), channels, t.shape[-1])
      attend = () if i == len(pairs) - 1 else init_conv(keys[2], (1, 1), 2 * channels, 2)
      params = {"reduce": reduce, "attend": attend, "expand": expand}
      made.append((params, {"reduce": reduced, "expand": expanded}))
    return tuple(zip(*made, strict=True))

  def compute(params, state, student, teachers, batch, extras):
    pairs = levels(student, teachers)
    fused, state = fuse(params, state, pairs)
    terms = (hierarchical_context(s, t) for s, (_, t) in zip(fused, pairs, strict=True))
    return sum(terms), state

  return stateful("review", init, compute)


def hcl(*, maps: Places | None = None) -> LossTransform:
  """The distance of :func:`review` between maps of equal channels, without anything trained.

  The sum over maps of :func:`hierarchical_context`.

  Args:
    maps: places in both networks' maps, or pairs of places; by default all but the stem's.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``hcl``. It reads ``maps``.

  Raises:
    ValueError: if ``maps`` are no places; on ``init``, if there is no teacher, no such map, or
      channels differ.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same = Endpoints(None, maps=(jnp.ones((2, 4, 4, 3)),))
    >>> float(hcl().update((), (), same, (same,), {})[0])
    0.0

  References:
    Chen et al., 2021 (see :func:`review`), section 3.3.
  """

  def compute(s, t):
    check_channels("hcl", [(s, t)])
    return hierarchical_context(s, t)

  return on_each_map("hcl", maps, compute, by_example=True)


def fuse(
  params: Sequence[dict[str, Layer]],
  state: Sequence[dict[str, Moments]],
  pairs: Sequence[Pair],
) -> tuple[tuple[jax.Array, ...], tuple[dict[str, Moments], ...]]:
  """The student's maps as :func:`review` compares them, in the sizes of the teacher's.

  Returns:
    ``(maps, state)``, in the order of ``pairs``.
  """
  fused, states, deeper = [], [], None
  for layers, seen, (s, t) in reversed(list(zip(params, state, pairs, strict=True))):
    x, reduced = conv_norm(layers["reduce"], seen["reduce"], s)
    if deeper is not None:
      y = nearest(deeper, x.shape[1:3])
      z = jax.nn.sigmoid(conv(layers["attend"], jnp.concatenate([x, y], axis=-1)))
      x = x * z[..., :1] + y * z[..., 1:]
    deeper = nearest(x, t.shape[1:3])
    x, expanded = conv_norm(layers["expand"], seen["expand"], deeper, padding=1)
    fused.append(x)
    states.append({"reduce": reduced, "expand": expanded})
  return tuple(reversed(fused)), tuple(reversed(states))


def hierarchical_context(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Mean squared differences of two maps and of their averages over 4x4, 2x2 and 1x1 windows.

  Weighted 1, 1/2, 1/4, 1/8 over their sum; sizes that the map does not exceed are left out.

  Args:
    student: (batch, height, width, channels).
    teacher: of the same channels; pooled to the student's size if that differs.

  Examples:
    >>> hierarchical_context(jnp.ones((1, 8, 8, 3)), jnp.zeros((1, 8, 8, 3))).item()
    1.0
  """
  teacher = adaptive_pool(teacher, student.shape[1:3])
  total, weight, weights = mean_square(student - teacher), 1.0, 1.0
  for level in LEVELS:
    if level < student.shape[1]:
      weight /= 2
      size = (level, min(level, student.shape[2]))
      gap = adaptive_pool(student, size) - adaptive_pool(teacher, size)
      total += weight * mean_square(gap)
      weights += weight
  return total / weights


def _pixel(x: jax.Array) -> jax.Array:
  """Pooled features as a map of one pixel."""
  return x.reshape(x.shape[0], 1, 1, -1)
