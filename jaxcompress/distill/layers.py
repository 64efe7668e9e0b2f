"""Layers that losses train on top of features, in full float32 precision, and lengths of vectors."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.nn.norm import spread

Layer = dict[str, jax.Array]
EXACT = jax.lax.Precision.HIGHEST
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class Moments(NamedTuple):
  """Running statistics of a batch normalization.

  Attributes:
    mean: (channels,) float32.
    variance: (channels,) float32, unbiased as PyTorch's.
  """

  mean: jax.Array
  variance: jax.Array


def init_linear(rng: jax.Array, inputs: int, outputs: int) -> Layer:
  """A linear layer, initialised as PyTorch's: all numbers U(-1, 1) / sqrt(inputs).

  Returns:
    ``{"kernel": (inputs, outputs), "bias": (outputs,)}``, float32.

  Examples:
    >>> layer = init_linear(jax.random.key(0), 16, 4)
    >>> layer["kernel"].shape, bool(jnp.all(jnp.abs(layer["kernel"]) <= 0.25))
    ((16, 4), True)
  """
  bound = 1 / math.sqrt(inputs)
  numbers = jax.random.uniform(rng, (inputs + 1, outputs), jnp.float32, -bound, bound)
  return {"kernel": numbers[:-1], "bias": numbers[-1]}


def init_embeddings(rng: jax.Array, sizes: tuple[int, int], dim: int) -> dict[str, Layer]:
  """A linear layer for each network's features, into one space.

  Args:
    rng: a key.
    sizes: of the student's and the teacher's features.
    dim: of the space.
  """
  keys = jax.random.split(rng)
  return {
    name: init_linear(key, size, dim)
    for name, key, size in zip(("student", "teacher"), keys, sizes, strict=True)
  }


def linear(layer: Layer, x: jax.Array) -> jax.Array:
  """``x @ kernel + bias`` in full float32 precision on every backend; (batch, ...) is flattened.

  Examples:
    >>> linear({"kernel": jnp.eye(2), "bias": jnp.ones(2)}, jnp.zeros((1, 2))).tolist()
    [[1.0, 1.0]]
  """
  y = jnp.dot(flat(x), layer["kernel"], precision=EXACT)
  return y + spread(layer["bias"], y)


def init_kernel(rng: jax.Array, size: tuple[int, int], inputs: int, outputs: int) -> jax.Array:
  """A convolution's kernel, initialised as PyTorch's: U(-1, 1) / sqrt(fan-in).

  Returns:
    (height, width, inputs, outputs) float32.

  Examples:
    >>> init_kernel(jax.random.key(0), (3, 3), 4, 8).shape
    (3, 3, 4, 8)
  """
  bound = 1 / math.sqrt(size[0] * size[1] * inputs)
  return jax.random.uniform(rng, (*size, inputs, outputs), jnp.float32, -bound, bound)


def init_conv(rng: jax.Array, size: tuple[int, int], inputs: int, outputs: int) -> Layer:
  """A convolution with a bias, which starts within the kernel's bounds.

  Examples:
    >>> init_conv(jax.random.key(0), (3, 3), 4, 8)["bias"].shape
    (8,)
  """
  kernel_key, bias_key = jax.random.split(rng)
  kernel = init_kernel(kernel_key, size, inputs, outputs)
  return {"kernel": kernel, "bias": init_kernel(bias_key, size, inputs, outputs)[0, 0, 0]}


def init_conv_norm(
  rng: jax.Array, size: tuple[int, int], inputs: int, outputs: int
) -> tuple[Layer, Moments]:
  """A convolution and its batch normalization; a bias between them would have no effect.

  Returns:
    ``({"kernel", "scale", "bias"}, statistics)``.

  Examples:
    >>> layer, statistics = init_conv_norm(jax.random.key(0), (1, 1), 4, 8)
    >>> sorted(layer), statistics.mean.shape
    (['bias', 'kernel', 'scale'], (8,))
  """
  ones, zeros = jnp.ones(outputs, jnp.float32), jnp.zeros(outputs, jnp.float32)
  kernel = init_kernel(rng, size, inputs, outputs)
  return {"kernel": kernel, "scale": ones, "bias": zeros}, Moments(zeros, ones)


def init_conv_norms(
  rng: jax.Array, rows: Sequence[tuple[int, int, int]]
) -> tuple[tuple[Layer, ...], tuple[Moments, ...]]:
  """Several of :func:`init_conv_norm`, one after the other.

  Args:
    rng: a key.
    rows: side of the kernel, inputs and outputs of each.
  """
  keys = jax.random.split(rng, len(rows))
  made = [
    init_conv_norm(key, (size, size), inputs, outputs)
    for key, (size, inputs, outputs) in zip(keys, rows, strict=True)
  ]
  return tuple(zip(*made, strict=True))  # type: ignore[return-value]


def convolve(
  x: jax.Array,
  kernel: jax.Array,
  *,
  stride: int = 1,
  padding: int = 0,
  dilate_input: int = 1,
  groups: int = 1,
) -> jax.Array:
  """A convolution in full float32 precision on every backend.

  Args:
    x: (batch, height, width, inputs).
    kernel: (height, width, inputs, outputs).
    stride: between windows.
    padding: zeros on each side.
    dilate_input: distance between the input's pixels; 2 doubles a map, as a transposed
      convolution of stride 2 does.
    groups: of channels that are convolved apart; the kernel has those of one.

  Examples:
    >>> convolve(jnp.ones((1, 3, 3, 1)), jnp.ones((2, 2, 1, 1))).ravel().tolist()
    [4.0, 4.0, 4.0, 4.0]
  """
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(padding, padding)] * 2,
    lhs_dilation=(dilate_input, dilate_input),
    dimension_numbers=DIMENSIONS,
    feature_group_count=groups,
    precision=EXACT,
  )


def conv(layer: Layer, x: jax.Array, **options: int) -> jax.Array:
  """A convolution, and its bias if it has one; options of :func:`convolve`.

  Examples:
    >>> layer = {"kernel": jnp.ones((1, 1, 1, 1)), "bias": jnp.ones(1)}
    >>> conv(layer, jnp.ones((1, 1, 1, 1))).item()
    2.0
  """
  y = convolve(x, layer["kernel"], **options)
  return y + spread(layer["bias"], y) if "bias" in layer else y


def conv_norm(
  layer: Layer, statistics: Moments, x: jax.Array, **options: int
) -> tuple[jax.Array, Moments]:
  """A convolution, normalised by the batch; options of :func:`convolve`."""
  y, statistics = normalised(statistics, convolve(x, layer["kernel"], **options))
  return y * spread(layer["scale"], y) + spread(layer["bias"], y), statistics


def conv_norms(
  layers: Sequence[Layer],
  statistics: Sequence[Moments],
  x: jax.Array,
  act: Callable[[jax.Array], jax.Array],
) -> tuple[jax.Array, tuple[Moments, ...]]:
  """Several of :func:`conv_norm`, each with an activation; they keep the map's size."""
  states = []
  for layer, before in zip(layers, statistics, strict=True):
    x, after = conv_norm(layer, before, x, padding=layer["kernel"].shape[0] // 2)
    x = act(x)
    states.append(after)
  return x, tuple(states)


def normalised(
  statistics: Moments, x: jax.Array, *, epsilon: float = 1e-5, momentum: float = 0.9
) -> tuple[jax.Array, Moments]:
  """Normalises over all axes but the last, by the batch; no scale and bias.

  Args:
    statistics: running averages.
    x: (..., channels).
    epsilon: added to the variance.
    momentum: share of the old averages that is kept (PyTorch's 0.1 is 0.9 here).

  Returns:
    ``(y, statistics)``.

  Examples:
    >>> start = Moments(jnp.zeros(1), jnp.ones(1))
    >>> y, statistics = normalised(start, jnp.array([[1.0], [3.0]]))
    >>> y.round(3).ravel().tolist(), round(statistics.variance.item(), 4)
    ([-1.0, 1.0], 1.1)
  """
  axes = tuple(range(x.ndim - 1))
  mean = jnp.mean(x, axes, keepdims=True)
  centred = x - mean
  variance = jnp.mean(jnp.square(centred), axes, keepdims=True)
  count = x.size // x.shape[-1]
  unbiased = variance.reshape(-1) * (count / max(count - 1, 1))
  now = jax.lax.stop_gradient(Moments(mean.reshape(-1), unbiased))
  statistics = jax.tree.map(lambda a, b: momentum * a + (1 - momentum) * b, statistics, now)
  return centred * jax.lax.rsqrt(variance + epsilon), statistics


def flat(x: jax.Array) -> jax.Array:
  """(batch, ...) as (batch, numbers).

  Examples:
    >>> flat(jnp.ones((2, 3, 4))).shape
    (2, 12)
  """
  return x.reshape(x.shape[0], -1)


def numbers_of(x: jax.Array) -> int:
  """Numbers per example of (batch, ...).

  Examples:
    >>> numbers_of(jnp.ones((2, 3, 4)))
    12
  """
  return x.size // x.shape[0]


def unit(x: jax.Array, *, axis: int = -1, epsilon: float = 0.0) -> jax.Array:
  """Vectors divided by their length, ``x / max(|x|, epsilon)``.

  The zero vector stays zero and has zero gradient.

  Examples:
    >>> unit(jnp.array([[0.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    >>> jax.grad(lambda x: unit(x).sum())(jnp.zeros(2)).tolist()
    [0.0, 0.0]
  """
  square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
  long = square > epsilon * epsilon
  length = jnp.where(long, jnp.sqrt(jnp.where(long, square, 1.0)), epsilon or 1.0)
  return jnp.where(square == 0, 0.0, x / length)


def norm(x: jax.Array) -> jax.Array:
  """Lengths of the vectors on the last axis, kept as an axis; the gradient of zero's is zero.

  Examples:
    >>> norm(jnp.array([3.0, 4.0])).tolist(), jax.grad(lambda x: norm(x)[0])(jnp.zeros(2)).tolist()
    ([5.0], [0.0, 0.0])
  """
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  zero = square == 0
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))


def mean_square(x: jax.Array) -> jax.Array:
  """``mean(x**2)`` over everything.

  Examples:
    >>> mean_square(jnp.array([1.0, 3.0])).item()
    5.0
  """
  return jnp.mean(jnp.square(x))
