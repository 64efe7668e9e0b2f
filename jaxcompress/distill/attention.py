"""Losses on where and how strongly maps are active: attention, selectivity, class activation."""

import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_whole
from jaxcompress.distill.base import LossTransform, stateful
from jaxcompress.distill.heads import on_last_maps
from jaxcompress.distill.layers import EXACT, flat, mean_square, unit
from jaxcompress.distill.maps import Places, adaptive_pool, matched, on_each_map, paired
from jaxcompress.distill.reads import first_teacher
from jaxcompress.distill.scalars import check_number


def attention(power: float = 2.0, *, maps: Places | None = None) -> LossTransform:
  """Attention transfer: where in the image the maps are active.

  The sum over maps of ``mean (a_s - a_t)**2``, where ``a`` is the mean over channels of
  ``|map|**power``, flattened and brought to length 1; the larger map is pooled to the smaller.

  Args:
    power: of the activations, at least 1.
    maps: places in both networks' maps, or pairs of places; by default all but the stem's.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``attention``. It reads ``maps``
    of any sizes.

  Raises:
    ValueError: if ``power`` is below 1 or ``maps`` are no places; on ``init``, if there is no
      teacher or no such map.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> student = Endpoints(None, maps=(jnp.ones((2, 4, 4, 3)),))
    >>> teacher = Endpoints(None, maps=(2 * jnp.ones((2, 8, 8, 5)),))
    >>> float(attention().update((), (), student, (teacher,), {})[0])
    0.0

  References:
    Zagoruyko & Komodakis, `Paying More Attention to Attention
    <https://arxiv.org/abs/1612.03928>`_, 2017, section 3.1, equation 2; a mean here, as in the
    authors' code.
  """
  check_number("power", power, positive=True)
  if power < 1:
    raise ValueError(f"power: {power} must be at least 1.")

  def compute(s, t):
    s, t = matched(s, t)
    return mean_square(activity(s, power) - activity(t, power))

  return on_each_map("attention", maps, compute, by_example=True)


def nst(*, maps: Places | None = None) -> LossTransform:
  """Neuron selectivity transfer: the channels' patterns as two samples of one distribution.

  The sum over maps of the squared maximum mean discrepancy with the kernel ``<a, b>**2``:
  ``mean k(t, t) + mean k(s, s) - 2 mean k(s, t)`` over pairs of channels and the batch; each
  channel's pixels are brought to length 1, and the larger map is pooled to the smaller.

  Args:
    maps: places in both networks' maps, or pairs of places; by default all but the stem's.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``nst``. It reads ``maps`` of any
    sizes.

  Raises:
    ValueError: if ``maps`` are no places; on ``init``, if there is no teacher or no such map.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> student = Endpoints(None, maps=(jnp.ones((2, 4, 4, 3)),))
    >>> teacher = Endpoints(None, maps=(2 * jnp.ones((2, 8, 8, 5)),))
    >>> float(nst().update((), (), student, (teacher,), {})[0])
    0.0

  References:
    Huang & Wang, `Like What You Like: Knowledge Distill via Neuron Selectivity Transfer
    <https://arxiv.org/abs/1707.01219>`_, 2017, section 4.
  """

  def channels(x):
    return unit(x.reshape(x.shape[0], -1, x.shape[-1]), axis=1, epsilon=1e-12)

  def kernel(a, b):
    return mean_square(jnp.einsum("bpc,bpd->bcd", a, b, precision=EXACT))

  def compute(s, t):
    s, t = map(channels, matched(s, t))
    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)

  return on_each_map("nst", maps, compute, by_example=True)


def cat_kd(
  head: str = "classifier", teacher_head: str | None = None, *, resolution: int = 2
) -> LossTransform:
  """Class attention transfer: what each class sees in each part of the image.

  ``mean (unit(A_s) - unit(A_t))**2``: the classifier, applied to each pixel of the last map
  without its bias, gives a map for each class, pooled to ``resolution`` x ``resolution``; ``unit``
  brings the whole of an example's maps to length 1.

  The classifiers are read from the networks' parameters, the extras ``student_params`` and
  ``teacher_params`` of ``update``; the training step passes them, and gradients reach the
  student's.

  Args:
    head: path of the student's last layer in its parameters, such as ``classifier`` or ``head/fc``;
      a layer with a ``kernel`` (channels, classes).
    teacher_head: that of the teacher; None: the same.
    resolution: pixels per side after pooling.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``cat_kd``. It reads ``maps[-1]``,
    which must be what the network averages before its classifier.

  Raises:
    ValueError: if ``resolution`` is not positive; on ``init``, if there is no teacher or no map; on
      ``update``, if the heads are not passed, not found, or do not fit the maps.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same = Endpoints(None, maps=(jnp.ones((2, 4, 4, 3)),))
    >>> params = {"classifier": {"kernel": jnp.ones((3, 10))}}
    >>> extras = {"student_params": params, "teacher_params": (params,)}
    >>> float(cat_kd().update((), (), same, (same,), {}, **extras)[0])
    0.0

  References:
    Guo et al., `Class Attention Transfer Based Knowledge Distillation
    <https://arxiv.org/abs/2304.12777>`_, 2023, section 3.
  """
  check_whole("resolution", resolution, 1)

  def last_maps(student, teachers):
    return paired("cat_kd", student, first_teacher(teachers, "cat_kd"), (-1,))[0]

  def init(rng, student, teachers, batch):
    last_maps(student, teachers)
    return (), ()

  def compute(params, state, student, teachers, batch, extras):
    s, t = last_maps(student, teachers)
    heads = on_last_maps("cat_kd", extras, head, teacher_head, (s, t))
    maps = [class_maps(x, layer["kernel"]) for x, layer in zip((s, t), heads, strict=True)]
    size = (resolution, resolution)
    gaps = [unit(flat(adaptive_pool(x, size)), epsilon=1e-12) for x in maps]
    return mean_square(gaps[0] - gaps[1]), state

  return stateful("cat_kd", init, compute, by_example=True)


def activity(x: jax.Array, power: float) -> jax.Array:
  """The mean over channels of ``|x|**power``, flattened and brought to length 1.

  Args:
    x: (batch, height, width, channels).
    power: at least 1.

  Returns:
    (batch, height * width).

  Examples:
    >>> activity(jnp.ones((1, 2, 2, 3)), 2.0).tolist()
    [[0.5, 0.5, 0.5, 0.5]]
  """
  strength = jnp.square(x) if power == 2 else jnp.abs(x) ** power
  return unit(flat(jnp.mean(strength, axis=-1)), epsilon=1e-12)


def class_maps(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A classifier applied to every pixel: (batch, height, width, classes).

  Examples:
    >>> class_maps(jnp.ones((1, 2, 2, 3)), jnp.ones((3, 5))).shape
    (1, 2, 2, 5)
  """
  return jnp.dot(x, kernel, precision=EXACT)
