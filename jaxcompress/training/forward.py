"""The student's pass, quantized as the recipe's plan says."""

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from jaxcompress.nn import Endpoints
from jaxcompress.nn.layers import MOMENTS
from jaxcompress.nn.tracing import intercept, is_leaf_call
from jaxcompress.quantize.transforms import DROPOUT, transform
from jaxcompress.training.networks import as_endpoints
from jaxcompress.training.stages import still_norms
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
  variables = {"params": trained["student"], "batch_stats": state.batch_stats}
  call = partial(_call, state, train=train, measure=measure, rng=rng)
  quantizer_state = state.quantizer.state
  if plan is None:
    output, updated = call(variables, images)
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
    )
  found = updated.get(MOMENTS, {}) if measure else updated.get("batch_stats", state.batch_stats)
  return as_endpoints(output), found, quantizer_state


def _call(
  state: CompressState,
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
    still = still_norms(state.trainable[state.stage], variables["params"], state.batch_stats)
    if still and not measure:
      interceptors.enter_context(intercept(partial(_hold_still, still)))
    key = jax.random.fold_in(jax.random.key(0) if rng is None else rng, DROPOUT)
    options: dict[str, Any] = {
      "mutable": [MOMENTS if measure else "batch_stats"],
      "rngs": {"dropout": key},
    }
    return recipe.student.apply(variables, images, train=True, **options)


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
