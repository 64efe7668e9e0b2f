"""Takes what follows a normalization element by element as a part of the normalization's gradient.

Behind a normalization come an activation function and, in quantized training, rounding to a step
that is trained. Taken one by one, the gradient between them is written to memory and read again,
because the normalization's sums and its result both need it. Here both compute it anew, from the
input and the gradient with respect to the output alone, and the step's gradient is summed in the same pass.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.nn.activations import ACTIVATIONS, activate
from jaxcompress.nn.norm import (
  Frame,
  Statistics,
  affine,
  frame,
  input_gradient,
  normalise,
  of_each_part,
  over_parts,
  statistics,
  wide,
)
from jaxcompress.ops.dispatch import shapes_alone
from jaxcompress.ops.parts import normalised_apart, parted
from jaxcompress.ops.sums import sums_of


class Epilogue(NamedTuple):
  """An elementwise operation with scalar parameters.

  Attributes:
    prepare: ``(z) -> (trained, fixed)``: scalars with respect to which there is a gradient, and
      the others, two tuples of float32, from the tensor that the operation is applied to.
    forward: ``(z, trained, fixed) -> y``, like ``z``.
    backward: ``(z, g, trained, fixed) -> (dz, parts)``: the gradient with respect to ``z``, and for each trained
      scalar an array, float32, whose sum is the gradient with respect to it. All are elementwise in ``z`` and
      ``g``, whose shape may be another than that of the tensor. None: that is left to JAX, which is
      as fast if nothing is trained.
    by_ends: ``prepare`` reads the smallest and the largest value only, and takes the tensor that
      has those of each channel, (2, channels) or (parts, 2, channels): they are found where the
      statistics are.
  """

  prepare: Callable
  forward: Callable
  backward: Callable | None = None
  by_ends: bool = False


_ending = jax.make_user_context(default_value=None)


@contextmanager
def ending(epilogue: Epilogue | None) -> Iterator[None]:
  """The normalization with an activation function called inside ends in ``epilogue``.

  Where nothing is normalised inside, nothing is prepared, and nothing applied.

  Args:
    epilogue: for one tensor; None: there is nothing to add.

  Examples:
    >>> double = Epilogue(
    ...   prepare=lambda z: ((jnp.float32(2.0),), ()),
    ...   forward=lambda z, trained, fixed: z * trained[0],
    ...   backward=lambda z, g, trained, fixed: (g * trained[0], (g * z,)),
    ... )
    >>> ones, zeros = jnp.ones(1), jnp.zeros(1)
    >>> with ending(double):
    ...   y, *_ = norm_act(jnp.array([[1.0], [3.0]]), ones, zeros, zeros, ones, True, 0.0, "relu")
    >>> y.ravel().tolist()
    [0.0, 2.0]
  """
  with _ending(epilogue):
    yield


def norm_act(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  running_mean: jax.Array,
  running_variance: jax.Array,
  live: bool | jax.Array,
  epsilon: float,
  act: str | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Normalises, then applies an activation function by name, then the :class:`Epilogue` in force.

  ``y = (x - m) / sqrt(v + epsilon) * scale + bias`` (Ioffe & Szegedy, 2015, algorithm 1), over the
  batch where ``live``, and by the running statistics elsewhere. Where its parts are normalised apart
  (:class:`~jaxcompress.ops.parts.Parts`), the statistics that come back are (parts, channels).

  Args:
    x: (..., channels), any float dtype; the result has the same.
    scale: (channels,) float32, gamma.
    bias: (channels,) float32, beta.
    running_mean: (channels,) float32.
    running_variance: (channels,) float32.
    live: bool or scalar bool array; whether the batch's own statistics are used. It can change
      from step to step without recompilation, which is how statistics are frozen in mid-run.
    epsilon: added to the variance; static.
    act: see :func:`activate`.

  Returns:
    ``(y, mean, variance)``; the statistics are those of the batch where ``live``, else the
    running ones, and carry no gradient. Differentiable in reverse by ``x``, ``scale``, ``bias``.

  Examples:
    >>> ones, zeros = jnp.ones(1), jnp.zeros(1)
    >>> x = jnp.array([[1.0], [3.0]])
    >>> y, mean, _ = norm_act(x, ones, zeros, zeros, ones, True, 0.0, None)
    >>> y.ravel().tolist(), mean.item()
    ([-1.0, 1.0], 2.0)
  """
  if shapes_alone():
    return activate(act, x), running_mean, running_variance
  running = Statistics(running_mean, running_variance)
  if live is False or (count := normalised_apart(x)) == 1:
    y, found = _norm_act(x, scale, bias, running, live, epsilon, act)
    return y, found.mean, found.variance
  shape = count, x.shape[-1]
  running = Statistics(*(jnp.broadcast_to(old, shape) for old in running[:2]))
  y, found = _norm_act(parted(x, count), scale, bias, running, live, epsilon, act, x.shape)
  return y.reshape(x.shape), found.mean, found.variance


def _norm_act(x, scale, bias, running, live, epsilon, act, whole=None):
  """:func:`norm_act` of a batch, or of its parts, which together have the shape ``whole``."""
  epilogue = _ending.value
  by_ends = epilogue is not None and epilogue.by_ends and ACTIVATIONS[act].monotone
  found = statistics(x, running, live, ends=by_ends)
  normalised = lambda: activate(act, normalise(x, scale, bias, found, live, epsilon))  # noqa: E731
  if epilogue is None:
    return normalised(), found
  by = frame(x, found, live, epsilon)
  seen = jax.lax.stop_gradient((x if found.ends is None else found.ends, scale, bias))
  z = activate(act, affine(*seen, by)[0])
  trained, fixed = epilogue.prepare(z.reshape(whole) if whole and found.ends is None else z)
  if epilogue.backward is None:
    y = epilogue.forward(normalised(), trained, fixed)
  else:
    y = _ended(x, scale, bias, trained, fixed, by, act, epilogue.forward, epilogue.backward)
  return y, found


@partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def _ended(x, scale, bias, trained, fixed, by, act, forward, backward):
  return _forward(x, scale, bias, trained, fixed, by, act, forward, backward)[0]


def _forward(x, scale, bias, trained, fixed, by, act, forward, backward):
  del backward
  z = activate(act, affine(x, scale, bias, by)[0])
  return forward(z, trained, fixed), (x, scale, bias, trained, fixed, by)


def _backward(act, forward, backward, saved, g):
  del forward
  x, scale, bias, trained, fixed, by = saved

  def terms(by, x, g):
    y, centred = affine(x, scale, bias, by)
    z, pull_back = jax.vjp(partial(activate, act), y)
    dz, parts = backward(z, g, trained, fixed)
    dy = wide(*pull_back(dz))
    return dy, dy * centred, *parts

  def summed(mean, inverse, x, g):
    return sums_of(partial(terms, Frame(mean, inverse, by.share)), x, g)

  sums = of_each_part(summed, by.mean)(by.mean, by.inverse, x, g)
  centred, dy = affine(x, scale, bias, by)[1], terms(by, x, g)[0]
  dx = input_gradient(dy, centred, sums, scale, by)
  d_scale, d_bias = over_parts(sums[1] * by.inverse), over_parts(sums[0])
  d_trained = tuple(jnp.sum(part) for part in sums[2:])
  return dx.astype(x.dtype), d_scale, d_bias, d_trained, None, None


_ended.defvjp(_forward, _backward)
