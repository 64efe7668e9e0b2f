"""Runs both networks on random images, so that no wrong pattern passes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.models.imported.compiling import compiled
from jaxcompress.models.imported.restoring import Key
from jaxcompress.models.imported.results import End, seen
from jaxcompress.models.imported.values import Leaves, leaves_in, take
from jaxcompress.models.imported.weights import SEVERAL, Weight
from jaxcompress.nn.replay import Replay

MOST = 1e-4  # of the largest logit
MOST_IN_HALF = {"bfloat16": 1e-1, "float16": 2e-2}  # where the original computes in half precision


def random_images(shape: tuple[int, ...], dtype: Any) -> jax.Array:
  """Images as networks read them after scaling, and one with the numbers of pixels."""
  draw = np.random.default_rng(0)
  images = draw.normal(size=shape)
  images[-1] = draw.uniform(0, 255, shape[1:])
  return jnp.asarray(images, dtype)


def shaken(
  leaves: Leaves, weights: Mapping[Key, Weight]
) -> tuple[Any, dict[Key, np.ndarray]] | None:
  """The user's variables with other numbers, and the arrays of the layers that follow from them.

  Networks that were not trained have means of zero and scales of one, which hide whose they are.

  Returns:
    None if some array follows in a way that is not written down.
  """
  sources = [weight.source for weight in weights.values() if weight.source is not None]
  if any(weight.source is None and weight.why == SEVERAL for weight in weights.values()):
    return None
  fixed = frozenset[int]().union(*(source.fixed for source in sources))
  used = {number for s in sources for number in leaves_in(leaves.starts, s.places)} - fixed
  draw = np.random.default_rng(1)
  values = list(leaves.values)
  for number in used:
    leaf = values[number].astype(np.float64)
    first, second = draw.uniform(0, 0.1, (2, *leaf.shape))
    more = second if leaf.ndim < 2 or not leaf.any() else 0.0
    values[number] = np.asarray(leaf * (1 + first) + more).astype(values[number].dtype)
  arrays = {}
  for key, weight in weights.items():
    source, value = weight.source, weight.value
    if source is not None:
      value = take(values, leaves.starts, source.places) * source.factor + source.offset
    arrays[key] = value.astype(np.float32)
  return jax.tree.unflatten(leaves.treedef, values), arrays


def check(
  original: Callable[..., Any],
  model: Replay,
  pairs: Sequence[tuple[Any, Any]],
  images: jax.Array,
  turn: Callable[[Any], Any],
  half: str | None,
  ends: Mapping[str, End],
) -> float:
  """The largest difference, as a share of the largest number that an image has in an output.

  Args:
    original: ``(variables, images) -> outputs``.
    model: made of it.
    pairs: variables of the original, and those of ``model``; all of the same shapes.
    images: as the original reads them.
    turn: makes of them what ``model`` reads.
    half: the dtype of half precision that the original computes in, or None.
    ends: the outputs.

  Raises:
    ValueError: if it is above what precision explains.
  """
  read = turn(images).astype(jnp.float32)
  error = 0.0
  with jax.default_matmul_precision("highest"):
    original, imported = compiled(
      [
        (original, (pairs[0][0], images)),
        (lambda v, x: _outputs(model, v, x), (pairs[0][1], read)),
      ]
    )
    for variables, made in pairs:
      wanted, found = jax.tree.leaves(original(variables, images)), imported(made, read)
      for name, end in ends.items():
        array = np.asarray(wanted[end.place]).astype(np.float64)
        if not np.all(np.isfinite(array)):
          raise ValueError(
            "apply: its outputs are not finite on random images; check its variables, such as"
            " variances below zero."
          )
        error = max(error, _difference(seen(np.asarray(found[name]), end), array))
  bound = MOST if half is None else MOST_IN_HALF[half]
  if not error <= bound:
    within = f" ({half} computes within {bound:g})" if half else ""
    raise ValueError(
      f"model: the imported network's outputs differ from the original's by {error:.1e} of the largest"
      f" on random images, more than {bound:g}{within}; please report the network, which is read"
      " wrongly."
    )
  return error


def _outputs(model: Replay, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
  found: Any = model.apply(variables, images, train=False)
  return {"": found.logits, **found.outputs}


def _difference(found: np.ndarray, wanted: np.ndarray) -> float:
  found, wanted = (x.reshape(len(x), -1).astype(np.float64) for x in (found, wanted))
  scale = np.maximum(np.max(np.abs(wanted), axis=1, keepdims=True), 1e-30)
  return float(np.max(np.abs(found - wanted) / scale))
