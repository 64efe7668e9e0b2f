"""BatchNorm's statistics, taken anew when training has ended."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.nn import Graph, parameters, with_parameters
from jaxcompress.training.forward import forward
from jaxcompress.training.networks import to_network_input
from jaxcompress.training.state import CompressState

Moments = dict[str, tuple[jax.Array, jax.Array]]


def reestimate_norm(state: CompressState, batches: Iterable[Mapping[str, Any]]) -> CompressState:
  """The state with every BatchNorm's running statistics replaced by those of whole batches.

  ``m = mean m_B`` and ``v = mean (v_B + m_B**2) - m**2`` over the batches, the network quantized as
  it is by now. Moving averages lag behind weights that still jump between integers; with few bits,
  and after channels were removed, that costs accuracy which this gives back.

  Args:
    state: after training; with a moving average, that is the network whose statistics are taken.
    batches: of ``image`` (batch, height, width, channels), all of one shape; labels are not read.
      Images as in evaluation, without augmentation, or as in training: what is better is a matter
      of taste; some thousand images suffice.

  Returns:
    The state; parameters, ranges and the step are the old ones.

  Raises:
    ValueError: if there are no batches.

  Examples:
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
  graph, total, count = state.graph(), None, 0
  student = state.averaged
  for batch in batches:
    moments = _moments(graph, student, batch["image"])
    total = moments if total is None else jax.tree.map(jnp.add, total, moments)
    count += 1
  if total is None:
    raise ValueError("batches: there are none; give at least one with images.")
  stats = student.batch_stats
  for name, (first, second) in total.items():
    mean = first / count
    variance = jnp.maximum(second / count - jnp.square(mean), 0.0)
    stats = with_parameters(stats, name, {"mean": mean, "var": variance})
  if state.recipe.ema is None:
    return state.replace(batch_stats=stats)
  return state.replace(ema={**state.ema, "batch_stats": stats})


@partial(jax.jit, static_argnums=0)
def _moments(graph: Graph, state: CompressState, images: jax.Array) -> Moments:
  """Mean and mean square of what every normalization of a batch sees, (channels,) each."""
  images = to_network_input(state.recipe, images)
  _, updated, _ = forward(state, state.trained, images, train=False, live_norm=True)
  found = {}
  for node in graph.nodes:
    norm = node.attrs.get("norm")
    if norm is None:
      continue
    old, new = (parameters(stats, node.name) for stats in (state.batch_stats, updated))
    share = 1 - norm.momentum  # the running statistics moved by this much towards the batch's
    mean, variance = (old[key] + (new[key] - old[key]) / share for key in ("mean", "var"))
    found[node.name] = mean, variance + jnp.square(mean)
  return found
