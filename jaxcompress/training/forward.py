"""The student's pass, quantized as the recipe's plan says."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxcompress.nn import Endpoints
from jaxcompress.nn.layers import MOMENTS
from jaxcompress.nn.tracing import intercept, is_leaf_call
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
from jaxcompress.training.stages import still_norms
from jaxcompress.training.state import CompressState, sites_of

BLOCK = "block"  # name of what is kept where the rest of the student is rematerialized
DROPOUT = 2  # folded into the key of a pass


def forward(
  state: CompressState,
  trained: Mapping[str, Any],
  images: jax.Array,
  *,
  train: bool,
  measure: bool = False,
  rng: jax.Array | None = None,
) -> tuple[Endpoints, Any, Any]:
  """The student's pass, quantized from the plan's step on.

  Args:
    state: gives the recipe, statistics, quantizer state and step.
    trained: the tree of trained parameters (see ``CompressState.trained``).
    images: as the network reads them, (batch, height, width, channels).
    train: whether statistics and ranges are updated, those of normalizations that stand still in the
      state's stage excepted (see :func:`~jaxcompress.training.stages.still_norms`). In evaluation
      the pass is quantized once a quantized step was taken.
    measure: whether every normalization uses the batch's statistics, which come back in place of
      the running ones.
    rng: a key for stochastic rounding and the student's own ``"dropout"``, or None.

  Returns:
    ``(endpoints, batch_stats, quantizer_state)``.

  Raises:
    ValueError: if a normalization that stands still is no leaf op.
  """
  recipe, plan = state.recipe, state.recipe.quantize
  if plan is None:
    output, batch_stats = _apply(state, trained["student"], images, train, measure, rng)
    return output, batch_stats, state.quantizer.state
  variables = QuantVariables(trained["quantizer"], state.quantizer.state)
  sites = sites_of(recipe, state.variables, images.shape[1:])
  if train:  # a plan that starts at once costs no choice per value
    active = plan.start_step == 0 or state.step >= plan.start_step
  else:
    active = state.step > plan.start_step
  frozen = plan.freeze_norm_step if train else None
  exact = None
  if plan.exact_step is not None and not measure:
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
    output, batch_stats = _apply(state, params, images, train, measure, rng)
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
  state: CompressState,
  params: Any,
  images: jax.Array,
  train: bool,
  measure: bool,
  rng: jax.Array | None,
) -> tuple[Endpoints, Any]:
  recipe, variables = state.recipe, {"params": params, "batch_stats": state.batch_stats}
  with ExitStack() as interceptors:
    if recipe.remat:
      interceptors.enter_context(intercept(_name_blocks))
    if not train and not measure:
      return as_endpoints(recipe.student.apply(variables, images, train=False)), state.batch_stats
    still = still_norms(state.trainable[state.stage], params, state.batch_stats)
    if still and not measure:
      interceptors.enter_context(intercept(partial(_hold_still, still)))
    key = jax.random.fold_in(jax.random.key(0) if rng is None else rng, DROPOUT)
    mutable = MOMENTS if measure else "batch_stats"
    options: dict[str, Any] = {"mutable": [mutable], "rngs": {"dropout": key}}
    output, updated = recipe.student.apply(variables, images, train=True, **options)
  return as_endpoints(output), updated.get(mutable, {} if measure else state.batch_stats)


def _hold_still(still, next_fun, args, kwargs, context):
  """Calls the normalizations of some paths as in evaluation."""
  if context.module.path not in still or context.method_name != "__call__":
    return next_fun(*args, **kwargs)
  if not is_leaf_call(context):
    path, kind = "/".join(context.module.path), type(context.module).__name__
    raise ValueError(
      f"trainable: {path!r}, a {kind}, does not move, but only the leaf ops of jaxcompress.nn can hold"
      " their running statistics; use ConvNorm or BatchNorm of these, or let it train."
    )
  return next_fun(*args, **{**kwargs, "train": False})


def _name_blocks(next_fun, args, kwargs, context):
  """Names what the student's own layers and blocks return."""
  output = next_fun(*args, **kwargs)
  if context.method_name != "__call__" or len(context.module.path) != 1:
    return output
  return jax.tree.map(lambda x: checkpoint_name(x, BLOCK), output)
