"""The student's pass, quantized as the recipe's plan says."""

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jaxcompress.nn import Endpoints
from jaxcompress.nn.layers import MOMENTS
from jaxcompress.nn.outputs import as_endpoints
from jaxcompress.nn.tracing import intercept
from jaxcompress.ops.parts import on_devices
from jaxcompress.quantize.transforms import DROPOUT, transform
from jaxcompress.training.frozen import frozen_norms, hold_frozen
from jaxcompress.training.stages import Path
from jaxcompress.training.state import CompressState

BLOCK = "block"  # name of what is kept where the rest of the student is rematerialized


def forward(
  state: CompressState,
  trained: Mapping[str, Any],
  images: jax.Array,
  *,
  train: bool,
  measure: bool = False,
  rng: jax.Array | None = None,
  dtype: Any = None,
) -> tuple[Endpoints, Any, Any]:
  """The student's pass, quantized from the plan's step on.

  Args:
    state: gives the recipe, statistics, quantizer state and step.
    trained: the tree of trained parameters (see ``CompressState.trained``).
    images: as the network reads them, (batch, height, width, channels).
    train: whether statistics and ranges are updated, those of frozen normalizations excepted (see
      :func:`~jaxcompress.training.frozen.frozen_norms`). In evaluation
      the pass is quantized once a quantized step was taken.
    measure: whether every normalization uses the batch's statistics, which come back in place of
      the running ones.
    rng: a key for stochastic rounding and the student's own ``"dropout"``, or None.
    dtype: of activations and products; None: that of the images.

  Returns:
    ``(endpoints, batch_stats, quantizer_state)``.

  Raises:
    ValueError: if a normalization that is frozen is no leaf op.
  """
  recipe, plan = state.recipe, state.recipe.quantize
  variables = {"params": trained["student"], "batch_stats": state.batch_stats}
  frozen = (
    frozen_norms(state) if train and not measure else {}
  )  # reads a graph: before interceptors
  call = partial(_call, state, frozen, train=train, measure=measure, rng=rng)
  quantizer_state = state.quantizer.state
  if plan is None:
    output, updated = call(variables, images if dtype is None else images.astype(dtype))
  else:
    if measure:  # by the rounded network, whose gradients nobody asks for
      plan = dataclasses.replace(plan, exact_step=None)
    output, updated, quantizer_state = transform(recipe.student, plan).apply(
      trained["quantizer"],
      quantizer_state,
      variables,
      images,
      train=train,
      step=state.step,
      rng=rng,
      call=call,
      dtype=dtype,
    )
  found = updated.get(MOMENTS, {}) if measure else updated.get("batch_stats", state.batch_stats)
  return as_endpoints(output), found, quantizer_state


def _call(
  state: CompressState,
  frozen: Mapping[Path, int],
  variables: dict[str, Any],
  images: jax.Array,
  *,
  train: bool,
  measure: bool,
  rng: jax.Array | None,
) -> tuple[Any, Mapping[str, Any]]:
  """The student's output, and the collections that it changed."""
  recipe = state.recipe
  with ExitStack() as interceptors:
    if recipe.remat:
      interceptors.enter_context(intercept(_name_blocks))
    if not train and not measure:
      return recipe.student.apply(variables, images, train=False), {}
    if frozen:
      interceptors.enter_context(intercept(hold_frozen(frozen, state.step)))
    key = jax.random.fold_in(jax.random.key(0) if rng is None else rng, DROPOUT)
    options: dict[str, Any] = {
      "mutable": [MOMENTS if measure else "batch_stats"],
      "rngs": {"dropout": key},
    }
    output, updated = recipe.student.apply(variables, images, train=True, **options)
  if recipe.batch_norm == "local" and not measure:
    updated = {**updated, "batch_stats": _averaged(updated["batch_stats"], state.batch_stats)}
  return output, updated


def _averaged(statistics: Any, before: Any) -> Any:
  """Statistics of which each device has its own, (parts, channels), averaged in one exchange."""
  leaves, structure = jax.tree.flatten(statistics)
  olds = jax.tree.leaves(before)
  own = [i for i, old in enumerate(olds) if leaves[i].ndim > old.ndim]
  if own:  # as differences, so that frozen statistics stay to the bit
    changes = jnp.concatenate([leaves[i] - olds[i].reshape(1, -1) for i in own], 1)
    ends = np.cumsum([olds[i].size for i in own])[:-1]
    for i, change in zip(own, jnp.split(jnp.mean(on_devices(changes), 0), ends), strict=True):
      leaves[i] = olds[i] + change
  return jax.tree.unflatten(structure, leaves)


def _name_blocks(next_fun, args, kwargs, context):
  """Names what the student's own layers and blocks return."""
  output = next_fun(*args, **kwargs)
  if context.method_name != "__call__" or len(context.module.path) != 1:
    return output
  return jax.tree.map(lambda x: checkpoint_name(x, BLOCK), output)
