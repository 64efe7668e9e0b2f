"""The student's pass, quantized as the recipe's plan says."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxcompress.nn import Endpoints, intercept
from jaxcompress.quantize import (
  Exact,
  Quantization,
  QuantVariables,
  Sites,
  exact_values,
  quantize_activations,
  quantize_kernels,
)
from jaxcompress.training.networks import as_endpoints
from jaxcompress.training.recipe import Recipe
from jaxcompress.training.state import CompressState, sites_of

BLOCK = "block"  # name of what is kept where the rest of the student is rematerialized
DROPOUT = 2  # folded into the key of a pass


def forward(
  state: CompressState,
  trained: Mapping[str, Any],
  images: jax.Array,
  *,
  train: bool,
  live_norm: bool | None = None,
  rng: jax.Array | None = None,
) -> tuple[Endpoints, Any, Any]:
  """The student's pass, quantized from the plan's step on.

  Args:
    state: gives the recipe, statistics, quantizer state and step.
    trained: the tree of trained parameters (see ``CompressState.trained``).
    images: as the network reads them, (batch, height, width, channels).
    train: whether statistics and ranges are updated. In evaluation the pass is quantized once a
      quantized step was taken.
    live_norm: whether BatchNorm uses the batch's statistics; None: in training, until the plan
      freezes it.
    rng: a key for stochastic rounding and the student's own ``"dropout"``, or None.

  Returns:
    ``(endpoints, batch_stats, quantizer_state)``.
  """
  recipe, plan = state.recipe, state.recipe.quantize
  live = train if live_norm is None else live_norm
  if plan is None:
    output, batch_stats = _apply(recipe, trained["student"], state.batch_stats, images, live, rng)
    return output, batch_stats, state.quantizer.state
  variables = QuantVariables(trained["quantizer"], state.quantizer.state)
  sites = sites_of(recipe, state.variables, images.shape[1:])
  if train:  # a plan that starts at once costs no choice per value
    active = plan.start_step == 0 or state.step >= plan.start_step
  else:
    active = state.step > plan.start_step
  frozen = plan.freeze_norm_step if train and live_norm is None else None
  exact = None
  if plan.exact_step is not None and live_norm is None:
    is_exact = state.step >= plan.exact_step if train else state.step > plan.exact_step
    exact = _exact(is_exact, plan, state, variables, sites, trained["student"], images)
  activations = quantize_activations(
    plan,
    sites,
    variables,
    active=active,
    train=train,
    live_norm=None if frozen is None else state.step < frozen,
    rng=rng,
    exact=exact,
  )
  params, weight_state = quantize_kernels(
    plan, sites, variables, trained["student"], active, train=train, rng=rng
  )
  images = activations.round_input(images)
  with activations.intercept():
    output, batch_stats = _apply(recipe, params, state.batch_stats, images, live, rng)
  new_state = {"weights": weight_state, "activations": activations.new_state()}
  return output, batch_stats, new_state


def _exact(
  active: jax.Array,
  plan: Quantization,
  state: CompressState,
  variables: QuantVariables,
  sites: Sites,
  params: Any,
  images: jax.Array,
) -> Exact:
  """The device's values of every tensor where ``active``; nothing is computed elsewhere."""
  of_model = {"params": params, "batch_stats": state.batch_stats}
  values = jax.lax.cond(
    active,
    lambda *args: exact_values(plan, sites, *args),
    lambda *args: {
      name: jnp.zeros((len(images), *sites.graph.shape(name)[1:])) for name in sites.rounded
    },
    variables,
    of_model,
    images,
  )
  return Exact(active, values)


def _apply(
  recipe: Recipe,
  params: Any,
  batch_stats: Any,
  images: jax.Array,
  live: bool,
  rng: jax.Array | None,
) -> tuple[Endpoints, Any]:
  variables = {"params": params, "batch_stats": batch_stats}
  with intercept(_name_blocks) if recipe.remat else nullcontext():
    if not live:
      return as_endpoints(recipe.student.apply(variables, images, train=False)), batch_stats
    key = jax.random.fold_in(jax.random.key(0) if rng is None else rng, DROPOUT)
    options: dict[str, Any] = {"mutable": ["batch_stats"], "rngs": {"dropout": key}}
    output, updated = recipe.student.apply(variables, images, train=True, **options)
  return as_endpoints(output), updated.get("batch_stats", batch_stats)


def _name_blocks(next_fun, args, kwargs, context):
  """Names what the student's own layers and blocks return."""
  output = next_fun(*args, **kwargs)
  if context.method_name != "__call__" or len(context.module.path) != 1:
    return output
  return jax.tree.map(lambda x: checkpoint_name(x, BLOCK), output)
