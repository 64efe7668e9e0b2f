"""Which weights stay: the largest of a layer, of all layers, or of every few in a row."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

Score = Callable[[jax.Array, jax.Array | None], jax.Array]
INPUTS = -2  # axis of a kernel's inputs, (k, k, in, out) or (in, out)


def ranks(scores: jax.Array) -> jax.Array:
  """Place of every score in ascending order, int32 of the same shape; of equal ones the first is lower.

  Examples:
    >>> ranks(jnp.array([0.5, 0.1, 0.5])).tolist()
    [1, 0, 2]
  """
  flat = scores.reshape(-1)
  order = jnp.argsort(flat, stable=True)
  places = jnp.arange(flat.size, dtype=jnp.int32)
  return jnp.zeros_like(places).at[order].set(places).reshape(scores.shape)


def count_of(share: jax.Array | float, size: int) -> jax.Array:
  """``round(share size)``, int32: how many weights a sparsity leaves out.

  Examples:
    >>> int(count_of(0.7, 1152))
    806
  """
  return jnp.round(jnp.asarray(share, jnp.float32) * size).astype(jnp.int32)


def alive_scores(weights: jax.Array, mask: jax.Array | None) -> jax.Array:
  """``|w|``, and -1 for weights that are pruned already, so that they stay the lowest."""
  magnitudes = jnp.abs(weights.astype(jnp.float32))
  return magnitudes if mask is None else jnp.where(mask, magnitudes, -1.0)


def lamp_scores(weights: jax.Array, mask: jax.Array | None) -> jax.Array:
  """``w[u]**2 / sum_{v >= u} w[v]**2`` over the weights in ascending order, and -1 where they are pruned.

  The largest weight of a layer has 1, the most there is.

  Args:
    weights: of a layer.
    mask: bool, alike; None: nothing is pruned.

  Returns:
    float32, shaped like ``weights``.

  Examples:
    >>> lamp_scores(jnp.array([1.0, -2.0, 2.0, 4.0]), None).tolist()
    [0.03999999910593033, 0.1666666716337204, 0.20000000298023224, 1.0]

  References:
    Lee et al., `Layer-adaptive Sparsity for the Magnitude-based Pruning
    <https://arxiv.org/abs/2010.07611>`_, 2021, section 2.
  """
  scores = alive_scores(weights, mask).reshape(-1)
  alive = scores >= 0
  largest = jnp.max(scores)
  shares = jnp.where(alive, scores / jnp.where(largest > 0, largest, 1.0), 0.0)
  order = jnp.argsort(scores, stable=True)
  squares = jnp.square(shares)[order]
  rest = jax.lax.cumsum(squares, reverse=True)
  found = jnp.where(rest > 0, squares / jnp.where(rest > 0, rest, 1.0), 0.0)
  found = jnp.zeros_like(shares).at[order].set(jax.lax.cummax(found))  # ascends, rounding or not
  return jnp.where(alive, found, -1.0).reshape(weights.shape)


def strongest(scores: jax.Array, floor: int) -> jax.Array:
  """A mask of the ``floor`` highest scores of every output; of equal ones the later counts.

  Args:
    scores: any shape whose last axis is that of outputs.
    floor: how many; all, if there are fewer.

  Examples:
    >>> strongest(jnp.array([[1.0, 5.0], [2.0, 4.0], [3.0, 6.0]]), 1).tolist()
    [[False, False], [False, False], [True, True]]
  """
  if floor == 0:
    return jnp.zeros(scores.shape, bool)
  flat = scores.reshape(-1, scores.shape[-1])
  places = jax.vmap(ranks, in_axes=1, out_axes=1)(flat)
  return (places >= len(flat) - floor).reshape(scores.shape)


def keep_largest(
  weights: jax.Array,
  sparsity: jax.Array | float,
  mask: jax.Array | None = None,
  *,
  floor: int = 0,
) -> jax.Array:
  """A mask without the ``round(sparsity size)`` weights of least magnitude.

  Args:
    weights: any shape; outputs are the last axis.
    sparsity: share of zeros; a number or a float32 scalar.
    mask: where it is already false nothing comes back; None: nowhere.
    floor: of every output so many of the largest weights stay in any case. Smaller ones of other
      outputs make up for them as far as there are any.

  Returns:
    bool, shaped like ``weights``.

  Examples:
    >>> keep_largest(jnp.array([0.3, -0.1, 0.2, -0.9]), 0.5).tolist()
    [True, False, False, True]
    >>> w = jnp.array([[0.3, 4.0], [0.1, 5.0]])
    >>> keep_largest(w, 0.5).tolist(), keep_largest(w, 0.5, floor=1).tolist()
    ([[False, True], [False, True]], [[True, False], [False, True]])

  References:
    Han et al., `Learning both Weights and Connections <https://arxiv.org/abs/1506.02626>`_, 2015,
    section 3.
  """
  scores = _guarded(alive_scores(weights, mask), floor)
  kept = (ranks(scores) >= count_of(sparsity, weights.size)) | (scores == jnp.inf)
  return kept if mask is None else kept & mask


def _guarded(scores: jax.Array, floor: int) -> jax.Array:
  """Scores of which each output's highest are infinite, but for those of pruned weights."""
  return jnp.where(strongest(scores, floor) & (scores >= 0), jnp.inf, scores) if floor else scores


def keep_largest_of_all(
  weights: Mapping[str, jax.Array],
  sparsity: jax.Array | float,
  masks: Mapping[str, jax.Array],
  *,
  floor: int = 0,
  score: Score = alive_scores,
) -> dict[str, jax.Array]:
  """Masks of several layers, as if they were one array: one threshold for all.

  Args:
    weights: by layer.
    sparsity: share of zeros over all of them.
    masks: as of :func:`keep_largest`, by layer.
    floor: as of :func:`keep_largest`, in each layer.
    score: of a layer's weights and mask, what is compared with the threshold.

  Examples:
    >>> ones = {name: jnp.ones(2, bool) for name in "ab"}
    >>> found = keep_largest_of_all({"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, 4.0])}, 0.5, ones)
    >>> found["a"].tolist(), found["b"].tolist()
    ([False, False], [True, True])
  """
  each = [_guarded(score(weights[name], masks[name]), floor) for name in weights]
  scores = jnp.concatenate([one.reshape(-1) for one in each])
  kept = (ranks(scores) >= count_of(sparsity, scores.size)) | (scores == jnp.inf)
  found, start = {}, 0
  for name, w in weights.items():
    found[name] = kept[start : start + w.size].reshape(w.shape) & masks[name]
    start += w.size
  return found


def keep_n_of_m(
  weights: jax.Array, n: jax.Array | int, m: int, mask: jax.Array | None = None
) -> jax.Array:
  """A mask with at most ``n`` of every ``m`` successive inputs of an output, the largest ones.

  Inputs are the axis before the last; they are what lies side by side in a .tflite file. Where
  their number is no multiple of ``m``, the last group is short and keeps ``n`` of what there is.

  Args:
    weights: (k, k, in, out) or (in, out).
    n: how many stay; a number or an int32 scalar.
    m: of how many.
    mask: where it is already false nothing comes back; None: nowhere.

  Returns:
    bool, shaped like ``weights``.

  Examples:
    >>> keep_n_of_m(jnp.array([[3.0], [-4.0], [1.0], [2.0]]), 2, 4).ravel().tolist()
    [True, True, False, False]

  References:
    Mishra et al., `Accelerating Sparse Deep Neural Networks <https://arxiv.org/abs/2104.08378>`_,
    2021, section 3.
  """
  inputs = weights.shape[INPUTS]
  short = -inputs % m
  scores = jnp.moveaxis(alive_scores(weights, mask), INPUTS, -1)
  padded = jnp.pad(scores, [(0, 0)] * (scores.ndim - 1) + [(0, short)], constant_values=-2.0)
  groups = padded.reshape(*padded.shape[:-1], -1, m)
  ours, theirs = groups[..., :, None], groups[..., None, :]
  earlier = jnp.tril(jnp.ones((m, m), bool), -1).reshape((1,) * (groups.ndim - 1) + (m, m))
  above = jnp.sum((theirs > ours) | ((theirs == ours) & earlier), axis=-1)
  kept = (above < n).reshape(padded.shape)[..., :inputs]
  kept = jnp.moveaxis(kept, -1, INPUTS)
  return kept if mask is None else kept & mask
