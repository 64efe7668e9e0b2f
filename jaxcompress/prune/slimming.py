"""Network slimming: training that drives the scales of unneeded channels towards zero."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcompress.prune.rules import root_of


def slimming(strength: float | optax.Schedule) -> optax.GradientTransformation:
  """Adds the gradient of ``strength * sum |gamma|`` over all BatchNorm scales.

  To be chained before the optimizer: ``optax.chain(prune.slimming(1e-4), optax.sgd(0.1))``. Then
  ``channel_importance(method="bn_gamma")`` tells the channels apart better.

  Args:
    strength: of the penalty, at least 0; a number, or a schedule of the step.

  Returns:
    An optax transformation whose ``update`` needs the parameters.

  Raises:
    ValueError: if the strength is negative; on ``update``, without parameters.

  Examples:
    >>> params = {"stem": {"scale": jnp.array([0.5, -2.0, 0.0]), "bias": jnp.ones(3)}}
    >>> penalty = slimming(0.25)
    >>> updates, _ = penalty.update(jax.tree.map(jnp.zeros_like, params), penalty.init(params), params)
    >>> updates["stem"]["scale"].tolist(), updates["stem"]["bias"].tolist()
    ([0.25, -0.25, 0.0], [0.0, 0.0, 0.0])

  References:
    Liu et al., `Learning Efficient Convolutional Networks through Network Slimming
    <https://arxiv.org/abs/1708.06519>`_, 2017, equation 1.
  """
  if not callable(strength) and strength < 0:
    raise ValueError(f"strength: {strength} must not be negative.")

  def init(params: Any) -> optax.ScaleByScheduleState:
    del params
    return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError("params: slimming needs the parameters; pass them to update.")
    now = strength(state.count) if callable(strength) else strength
    root = root_of(params)

    def penalised(path, update, param):
      names = jax.tree_util.keystr(path, simple=True, separator="/")
      if not names.startswith(root) or names.split("/")[-1] != "scale":
        return update
      return update + now * jnp.sign(param).astype(update.dtype)

    updates = jax.tree_util.tree_map_with_path(penalised, updates, params)
    return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

  return optax.GradientTransformation(init, update)
