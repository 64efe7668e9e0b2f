"""Averages that are evaluated and deployed: of the weights over steps, of statistics over batches."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.arguments import check_batch, check_batches
from jaxcompress.nn import Graph
from jaxcompress.nn.graph import parameters, with_parameters
from jaxcompress.training.forward import forward
from jaxcompress.training.networks import to_network_input
from jaxcompress.training.state import CompressState

WARMUP = 10  # steps: the average of the first few is nearly that of all so far


def decay_at(decay: float, step: jax.Array) -> jax.Array:
  """Gives the decay of one update: ``min(decay, (1 + step) / (10 + step))``, float32 scalar.

  The average starts at the first weights; with a small decay in the first steps it forgets them.

  Examples:
    >>> [round(float(decay_at(0.99, jnp.array(step))), 3) for step in (0, 10, 10_000)]
    [0.1, 0.55, 0.99]
  """
  step = step.astype(jnp.float32)
  return jnp.minimum(decay, (1 + step) / (WARMUP + step))


def move_average(average: Any, latest: Any, decay: float, step: jax.Array) -> Any:
  """Moves an average by a step: ``a + (1 - d) (x - a)`` in every array, with ``d`` of :func:`decay_at`.

  Written this way, what does not move keeps every bit.

  Args:
    average: ``a``, any pytree.
    latest: ``x``, of the same structure and dtypes.
    decay: in [0, 1).
    step: updates before this one, int32 scalar.

  Examples:
    >>> float(move_average(jnp.array(0.0), jnp.array(1.0), 0.9, jnp.array(1000)))
    0.10000002384185791
  """
  share = 1 - decay_at(decay, step)
  return jax.tree.map(lambda a, x: (a + share * (x - a)).astype(a.dtype), average, latest)


def reestimate_norm(state: CompressState, batches: Iterable[Mapping[str, Any]]) -> CompressState:
  """Replaces every BatchNorm's running statistics in a state by those of whole batches.

  ``m = mean m_B`` and ``v = mean v_B + mean (m_B - m)**2`` over the batches, the network quantized as
  it is by now. The batches' moments are measured, whatever the running ones are; their relative error
  is that of float32. Moving averages lag behind weights that still jump between integers; with few bits,
  and after channels were removed, that costs accuracy which this gives back.

  Args:
    state: after training; with a moving average, that is the network whose statistics are taken.
    batches: of ``image`` (batch, height, width, channels); each counts by its images; labels are not
      read. Images as in evaluation, without augmentation, or as in training: what is better is a matter
      of taste; some thousand images suffice.

  Returns:
    The state; parameters, ranges and the step are the old ones.

  Raises:
    ValueError: if there are no batches, one has no images, or its statistics are not finite.

  Examples:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jaxcompress import models
    >>> from jaxcompress.training import Recipe, init_state
    >>> batch = {"image": 3.0 + jnp.ones((2, 8, 8, 3)), "label": jnp.zeros(2, int)}
    >>> recipe = Recipe(student=models.resnet8(10), optimizer=optax.sgd(0.1))
    >>> state = init_state(recipe, jax.random.key(0), batch)
    >>> stem = reestimate_norm(state, [batch]).batch_stats["stem"]
    >>> bool(jnp.any(stem["mean"] != 0))
    True

  References:
    Wu & Johnson, `Rethinking "Batch" in BatchNorm <https://arxiv.org/abs/2105.07576>`_, 2021,
    section 3.1.
  """
  check_batches(batches)
  graph, student = state.graph(), state.averaged
  found, counts = [], []
  for batch in batches:
    check_batch(batch)
    found.append(jax.device_get(_moments(graph, student, batch["image"])))
    _check_finite(found[-1], len(found) - 1)
    counts.append(len(batch["image"]))
  if not found:
    raise ValueError("batches must not be empty; give at least one with images.")
  stats = student.batch_stats
  for name in found[0]:
    old, new = parameters(stats, name), _joined(counts, [moments[name] for moments in found])
    placed = {key: jax.device_put(new[key], getattr(old[key], "sharding", None)) for key in new}
    stats = with_parameters(stats, name, placed)
  if state.recipe.ema is None:
    return state.replace(batch_stats=stats)
  return state.replace(ema={**state.ema, "batch_stats": stats})


@partial(jax.jit, static_argnums=0)
def _moments(graph: Graph, state: CompressState, images: jax.Array) -> dict[str, Any]:
  """Mean, the rest of it, and variance of what every normalization of a batch sees, (channels,) each."""
  images = to_network_input(state.recipe.preprocess, images)
  _, moments, _ = forward(state, state.trained, images, train=False, measure=True)
  normalised = [node.name for node in graph.nodes if node.attrs.get("norm") is not None]
  return {name: dict(parameters(moments, name)) for name in normalised}


def _check_finite(moments: Mapping[str, Any], place: int) -> None:
  """Raises if what a batch has measured would make the network give no numbers."""
  for name, one in moments.items():
    if not all(np.isfinite(value).all() for value in one.values()):
      raise ValueError(
        f"batches: the statistics of {name!r} in batch {place} are not finite; see that its images, and"
        " the weights, are finite and not too large."
      )


def _joined(counts: list[int], found: list[Mapping[str, Any]]) -> dict[str, Any]:
  """Mean and variance of all batches together, float32; summed in float64."""
  means, rests, variances = (
    np.stack([np.float64(one[key]) for one in found]) for key in ("mean", "rest", "var")
  )
  means += rests
  mean = np.average(means, 0, counts)
  variance = np.average(variances + np.square(means - mean), 0, counts)
  return {"mean": np.float32(mean), "var": np.float32(variance)}
