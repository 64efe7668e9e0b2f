"""Weight clustering: the weights of a layer share a few trained values, one of which is zero."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.quantize.fake_quant import finite
from jaxcompress.quantize.quantizers.anchors import Learned, where_first
from jaxcompress.quantize.quantizers.base import (
  INT8,
  Quantizer,
  axes_within,
  check_choice,
  named,
  round_through,
  spread,
)

GRADIENTS = ("sum", "mean")
ROUNDS = 25  # of Lloyd's algorithm; later ones move centroids by less than an int8 step
SAMPLES = 2**16  # of a kernel's weights, from which centroids are found
Start = Literal["linear", "k-means++"]


class Centroids(NamedTuple):
  """The initial centroids of a layer.

  Attributes:
    base: (clusters - 1,) float32, of the first kernel seen in training, evenly spaced before; zero
      is not among them.
    count: kernels seen in training, int32 scalar.
  """

  base: jax.Array
  count: jax.Array  # type: ignore[assignment]  # tuple.count is not needed


def nearest(w: jax.Array, codebook: jax.Array) -> jax.Array:
  """Index of the entry that is nearest to each weight, int32; halfway between two, the lower one.

  Args:
    w: any shape, float32.
    codebook: (entries,) float32, in any order.

  Examples:
    >>> nearest(jnp.array([0.9, -3.0, 0.1]), jnp.array([0.0, 1.0, -2.0])).tolist()
    [1, 2, 0]
  """
  order = jnp.argsort(codebook)
  ascending = codebook[order]
  edges = (ascending[1:] + ascending[:-1]) / 2
  return order[jnp.searchsorted(edges, w, method="compare_all")]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def cluster_weights(
  w: jax.Array, codebook: jax.Array, gradient: Literal["sum", "mean"] = "sum"
) -> jax.Array:
  """Every weight as the nearest entry of a codebook: ``y_i = c_k``, ``k = argmin_k |w_i - c_k|``.

  ``dL/dc_k`` is the sum of ``dL/dy_i`` over the weights of entry ``k``, and ``dL/dw_i = dL/dy_i``
  goes straight through, so that weights move from one entry to another.

  Args:
    w: any shape, float32 or bfloat16; the result has the same dtype.
    codebook: (entries,) float32, in any order.
    gradient: "sum" as published; "mean" divides it by the number of weights of the entry, so that
      entries move as fast as weights.

  Raises:
    ValueError: if ``gradient`` is unknown.

  Examples:
    >>> w, codebook = jnp.array([0.75, 1.25, -0.25]), jnp.array([0.0, 1.0])
    >>> cluster_weights(w, codebook).tolist()
    [1.0, 1.0, 0.0]
    >>> jax.grad(lambda c: jnp.sum(cluster_weights(w, c) * w))(codebook).tolist()
    [-0.25, 2.0]

  References:
    Han et al., `Deep Compression <https://arxiv.org/abs/1510.00149>`_, 2016, section 3, equation 3.
  """
  return _forward(w, codebook, gradient)[0]


def _forward(w, codebook, gradient):
  check_choice("gradient", gradient, GRADIENTS)
  index = nearest(w.astype(jnp.float32), codebook)
  return codebook[index].astype(w.dtype), (index, codebook)


def _backward(gradient, saved, g):
  index, codebook = saved
  entries, flat = codebook.size, index.reshape(-1)
  slope = jax.ops.segment_sum(g.astype(jnp.float32).reshape(-1), flat, entries)
  if gradient == "mean":
    slope /= jnp.maximum(jax.ops.segment_sum(jnp.ones(flat.shape), flat, entries), 1.0)
  return g, slope.astype(codebook.dtype)


cluster_weights.defvjp(_forward, _backward)


def find_centroids(w: jax.Array, clusters: int, start: Start = "k-means++") -> jax.Array:
  """Centroids of a kernel's weights by k-means, one of which is held at zero.

  Args:
    w: any shape; of more than 65,536 weights about as many are taken, evenly.
    clusters: how many there are, zero included.
    start: "linear": evenly from the least to the largest weight, which keeps the few large ones
      apart; "k-means++": weights drawn with the square of their distance from those before.

  Returns:
    (clusters - 1,) float32, ascending, without zero. The same weights give the same centroids.

  Examples:
    >>> w = jnp.array([-2.0, -1.9, 0.0, 0.1, 0.9, 1.1])
    >>> [round(value, 3) for value in find_centroids(w, 3).tolist()]
    [-1.95, 1.0]

  References:
    Han et al., 2016, section 3.2; Arthur & Vassilvitskii, `k-means++
    <https://theory.stanford.edu/~sergei/papers/kMeansPP-soda.pdf>`_, 2007, section 2.2.
  """
  values = jnp.asarray(jax.lax.stop_gradient(w), jnp.float32).reshape(-1)
  values = values[:: -(-values.size // SAMPLES)]
  codebook = jnp.sort(jnp.append(STARTS[start](values, clusters - 1), 0.0))
  zero = jnp.argmax(codebook == 0)
  places, rows = jnp.arange(clusters), values.reshape(1, -1)

  def move(_, codebook):  # means of intervals in order are in order, and none crosses zero
    edges = (codebook[1:] + codebook[:-1]) / 2
    beyond = (rows > edges.reshape(-1, 1)).astype(jnp.float32)
    count = -jnp.diff(jnp.sum(beyond, 1), prepend=values.size, append=0)
    total = -jnp.diff(jnp.sum(beyond * rows, 1), prepend=jnp.sum(values), append=0)
    return jnp.where((count > 0) & (places != zero), total / jnp.maximum(count, 1.0), codebook)

  codebook = jax.lax.fori_loop(0, ROUNDS, move, codebook)
  return codebook[jnp.where(places[:-1] < zero, places[:-1], places[:-1] + 1)]


def _linear(values: jax.Array, count: int) -> jax.Array:
  share = (jnp.arange(count) + 0.5) / count
  return jnp.min(values) + share * (jnp.max(values) - jnp.min(values))


def _plus_plus(values: jax.Array, count: int) -> jax.Array:
  draws = jnp.asarray(np.random.default_rng(0).random(count, np.float32))

  def add(i, carry):
    centroids, distance = carry  # squared, from the nearest one so far; zero is the first
    sums = jnp.cumsum(distance)
    at = jnp.minimum(jnp.sum(sums < draws[i] * sums[-1]), values.size - 1)
    return centroids.at[i].set(values[at]), jnp.minimum(distance, jnp.square(values - values[at]))

  return jax.lax.fori_loop(0, count, add, (jnp.zeros(count), jnp.square(values)))[0]


STARTS: dict[str, Callable[[jax.Array, int], jax.Array]] = {
  "linear": _linear,
  "k-means++": _plus_plus,
}


@named
def cluster(
  clusters: int = 32,
  *,
  per_channel: bool = True,
  gradient: Literal["sum", "mean"] = "sum",
  start: Start = "k-means++",
) -> Quantizer:
  """Weights that share the few values of a codebook, which is trained; see :func:`cluster_weights`.

  The codebook starts at the k-means centroids of the first kernel seen in training and is rounded,
  straight through, to multiples of 1/127 of its largest entry, so that an int8 file holds it
  exactly. One entry is zero for good: pruned weights stay zero. A packed file takes
  ``log2(clusters)`` bits for a weight (:func:`jaxcompress.export.packed`); a .tflite file, a byte.

  Args:
    clusters: values of a layer, zero included, 2 to 128; 16 to 64 are usual.
    per_channel: weights are clustered as shares of the largest one of their output channel, whose
      scale the file holds anyway; False: as they are, as published.
    gradient: of an entry, "sum" or "mean" of its weights'.
    start: of k-means, "linear" or "k-means++"; see :func:`find_centroids`.

  Returns:
    A :class:`Quantizer` that trains a :class:`Learned`, the distance of the
    ``clusters - 1`` entries that are not zero from their :class:`Centroids`.

  Raises:
    ValueError: if ``clusters`` is out of range, or ``gradient`` or ``start`` is unknown.

  Examples:
    >>> quantizer, w = cluster(3), jnp.array([[1.0], [0.96], [-0.5], [-0.46], [0.0], [0.02]])
    >>> y, _ = quantizer.apply(*quantizer.init(w), w, train=True)
    >>> [round(value, 2) for value in y.ravel().tolist()]
    [0.98, 0.98, -0.48, -0.48, 0.0, 0.0]

  References:
    Han et al., `Deep Compression: Compressing Deep Neural Networks with Pruning, Trained
    Quantization and Huffman Coding <https://arxiv.org/abs/1510.00149>`_, 2016, section 3.
  """
  if not 2 <= clusters <= 128:
    raise ValueError(f"clusters: {clusters} is out of range; it must be 2 to 128.")
  check_choice("gradient", gradient, GRADIENTS)
  check_choice("start", start, STARTS)

  def unit(x):
    """The largest weight, of which a channel's weights are shares."""
    if not per_channel:
      return jnp.ones((), jnp.float32)
    size = jnp.abs(jax.lax.stop_gradient(x).astype(jnp.float32))
    return finite(jnp.max(size, axes_within(x, per_channel), keepdims=True))

  def shares(x):
    return x.astype(jnp.float32) * (1.0 / unit(x))

  def init(x):
    base = _linear(shares(x).reshape(-1), clusters - 1)
    return Learned(jnp.zeros_like(base)), Centroids(base, jnp.zeros((), jnp.int32))

  def step(params, state):
    """Returns the step of the int8 grid, in shares."""
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(state.base + params.delta)))
    return finite(largest * (1.0 / INT8.high))

  def apply(params, state, x, *, train=True, nonnegative=False, rng=None):
    del nonnegative, rng
    state = where_first(
      state, train, lambda state: state._replace(base=find_centroids(shares(x), clusters, start))
    )
    scale = step(params, state)
    codes = round_through((state.base + params.delta) * (1.0 / scale))
    codebook = jnp.concatenate([jnp.zeros((1,), jnp.float32), codes]) * scale
    return (cluster_weights(shares(x), codebook, gradient) * unit(x)).astype(x.dtype), state

  def grid(params, state, x):
    return spread(step(params, state) * unit(x), x)

  return Quantizer(init, apply, grid, INT8, fits="weights")
