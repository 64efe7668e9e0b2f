"""Integer convolution in float32: exact because no partial sum reaches 2**24.

Float32 holds every integer up to 2**24, and products and sums of integers below that are exact, in
any order and with or without fused multiply-adds. A layer whose sums could get larger is cut into
groups of input channels that stay below; the groups are added up in int32.
"""

from functools import partial, reduce
from operator import add
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress import ops
from jaxcompress.ops.dispatch import exact_convolutions

EXACT = 2**24  # integers below this are float32 values
AT_ONCE = 2**31 // EXACT - 1  # parts whose sums int32 holds together

Parts = tuple[tuple[int, int], ...]


class Interval(Protocol):
  """The interval of values of ``q - zero_point``, as those of a :class:`~jaxcompress.quantize.integer.grid.Grid`."""

  @property
  def low(self) -> int: ...

  @property
  def high(self) -> int: ...


def reach(weights: np.ndarray, grid: Interval) -> np.ndarray:
  """How far a partial sum can get from zero, per input channel of a group and output channel.

  With ``q - z`` in [low, high] and zero among them (padding is zero), every partial sum of
  ``w * (q - z)`` lies between the sum of its negative and the sum of its positive extremes.

  Args:
    weights: int8, (k, k, in / groups, out) or (in, out).
    grid: of the input.

  Returns:
    (2, in / groups, out) int64: largest downward and upward contribution of an input channel.

  Examples:
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> reach(np.int8([[3], [-2]]), Grid(np.float32(1), -128)).tolist()
    [[[0], [510]], [[765], [0]]]
  """
  w = np.asarray(weights, np.int64).reshape(-1, *weights.shape[-2:])
  positive, negative = np.maximum(w, 0).sum(0), np.maximum(-w, 0).sum(0)
  low, high = -grid.low, grid.high
  return np.stack([positive * low + negative * high, positive * high + negative * low])


def split_exactly(weights: np.ndarray, grid: Interval) -> Parts:
  """Intervals of input channels (of one group) whose float32 sums are exact.

  Args:
    weights: int8, (k, k, in / groups, out) or (in, out).
    grid: of the input.

  Returns:
    ``((start, stop), ...)``, consecutive; one interval for nearly every layer.

  Raises:
    ValueError: if a single channel's sum can reach 2**24 (kernels of 23x23 and more).

  Examples:
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> split_exactly(np.full((1000, 4), 127, np.int8), Grid(np.float32(1), -128))
    ((0, 518), (518, 1000))
  """
  bounds = reach(weights, grid)
  if bounds.size and bounds.max() >= EXACT:
    raise ValueError(
      f"weights: one input channel of a kernel of shape {weights.shape} sums up to"
      f" {bounds.max()}, which float32 does not hold exactly; use a smaller kernel."
    )
  parts, start, total = [], 0, np.zeros_like(bounds[:, 0])
  for channel in range(bounds.shape[1]):
    total = total + bounds[:, channel]
    if total.max() >= EXACT:
      parts.append((start, channel))
      start, total = channel, bounds[:, channel]
  return (*parts, (start, bounds.shape[1]))


def largest_accumulator(weights: np.ndarray, grid: Interval) -> np.ndarray:
  """(out,) int64: how far a whole sum can get from zero.

  Examples:
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> largest_accumulator(np.int8([[3], [-2]]), Grid(np.float32(1), -128)).tolist()
    [765]
  """
  return reach(weights, grid).sum(1).max(0)


def accumulate(x: jax.Array, weights: jax.Array, parts: Parts, **shape: Any) -> jax.Array:
  """The convolution or matrix product in int32, computed in float32.

  Args:
    x: as for :func:`sums_of_parts`.
    weights: likewise.
    parts: from :func:`split_exactly`; no sum of theirs reaches 2**31.
    **shape: stride, padding, dilation and groups.

  Returns:
    int32, (batch, out_height, out_width, out) or (batch, out).

  Examples:
    >>> accumulate(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 2), jnp.int8), ((0, 3),))[0, 1, 1]
    Array([27, 27], dtype=int32)
  """
  return reduce(add, sums_of_parts(x, weights, parts, **shape))


def sums_of_parts(
  x: jax.Array,
  weights: jax.Array,
  parts: Parts,
  *,
  stride: ops.Sides = 1,
  padding: ops.Padding = "SAME",
  dilation: ops.Sides = 1,
  groups: int = 1,
) -> list[jax.Array]:
  """Convolutions or matrix products of some input channels, which together are the whole one.

  Args:
    x: (batch, height, width, in) or (batch, in), integer-valued float32.
    weights: int8, (k, k, in / groups, out) or (in, out).
    parts: from :func:`split_exactly`.
    stride: as for :func:`jaxcompress.ops.conv`.
    padding: likewise; padded cells are zero.
    dilation: likewise.
    groups: number of channel groups.

  Returns:
    int32 below 2**31, each of as many parts as that allows: (batch, out_height, out_width, out) or
    (batch, out).

  Examples:
    >>> x, weights = jnp.ones((1, 300)), jnp.ones((300, 1), jnp.int8)
    >>> parts = [(i, i + 1) for i in range(300)]
    >>> [total.item() for total in sums_of_parts(x, weights, parts)]
    [127, 127, 46]
  """
  weights = jnp.asarray(weights)  # constants stay int8 in a file
  if weights.ndim == 2:
    total = _products
  else:
    how: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    convolve = partial(ops.conv, **how, groups=groups)
    total = partial(_convolutions, convolve=convolve, groups=groups)
  with jax.default_matmul_precision("highest"), exact_convolutions():
    return [total(x, weights, parts[i : i + AT_ONCE]) for i in range(0, len(parts), AT_ONCE)]


def _products(x: jax.Array, weights: jax.Array, parts: Parts) -> jax.Array:
  """The sum of matrix products of parts, of which thousands compile as quickly as one."""
  if len(parts) == 1:
    first, last = parts[0]
    return jnp.matmul(x[:, first:last], weights[first:last].astype(jnp.float32)).astype(jnp.int32)
  length = 2 * -(-(parts[-1][1] - parts[0][0]) // len(parts))  # long ones are cut: less is padded
  pieces = [(i, min(i + length, stop)) for start, stop in parts for i in range(start, stop, length)]
  starts, stops = np.array(pieces).T
  rows = jnp.asarray(starts)[:, None] + jnp.arange(length)[None]
  inside = (rows < jnp.asarray(stops)[:, None])[..., None]
  rows = jnp.minimum(rows, len(weights) - 1)
  taken = jnp.where(inside, weights[rows], 0).astype(jnp.float32)
  products = jnp.einsum("npk,pko->npo", x[:, rows], taken)
  return jnp.sum(products.astype(jnp.int32), 1)


def _convolutions(x, weights, parts: Parts, convolve, groups: int) -> jax.Array:
  """The sum of convolutions of parts."""
  sums = [
    convolve(_channels(x, groups, *part), _rows(weights, *part).astype(jnp.float32))
    for part in parts
  ]
  return reduce(add, [part.astype(jnp.int32) for part in sums])


def _channels(x: jax.Array, groups: int, start: int, stop: int) -> jax.Array:
  """The channels ``start`` to ``stop`` of every group."""
  if stop - start == x.shape[-1] // groups:
    return x
  grouped = x.reshape(*x.shape[:-1], groups, -1)[..., start:stop]
  return grouped.reshape(*x.shape[:-1], -1)


def _rows(weights: jax.Array, start: int, stop: int) -> jax.Array:
  return jax.lax.slice_in_dim(weights, start, stop, axis=weights.ndim - 2)
