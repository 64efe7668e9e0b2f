"""Losses on where and how strongly maps are active: attention, selectivity, class activation."""

import jax
import jax.numpy as jnp

from jaxcompress.distill import schedules
from jaxcompress.distill.base import LossTransform, first_teacher, stateless
from jaxcompress.distill.layers import EXACT, flat, mean_square, unit
from jaxcompress.distill.maps import Places, check_places, matched, paired


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
  schedules.check_number("power", power, positive=True)
  if power < 1:
    raise ValueError(f"power: {power} must be at least 1.")
  check_places(maps)

  def compute(student, teachers, batch):
    del batch
    pairs = paired("attention", student, first_teacher(teachers, "attention"), maps)
    return sum(
      mean_square(activity(s, power) - activity(t, power))
      for s, t in (matched(*pair) for pair in pairs)
    )

  return stateless("attention", compute)


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
  check_places(maps)

  def channels(x):
    return unit(x.reshape(x.shape[0], -1, x.shape[-1]), axis=1, epsilon=1e-12)

  def kernel(a, b):
    return mean_square(jnp.einsum("bpc,bpd->bcd", a, b, precision=EXACT))

  def discrepancy(s, t):
    s, t = channels(s), channels(t)
    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)

  def compute(student, teachers, batch):
    del batch
    pairs = paired("nst", student, first_teacher(teachers, "nst"), maps)
    return sum(discrepancy(*matched(*pair)) for pair in pairs)

  return stateless("nst", compute)


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
