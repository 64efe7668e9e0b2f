"""Network slimming: training that drives the scales of unneeded channels towards zero."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.prune.rules import root_of


class SlimmingState(NamedTuple):
  """State of :func:`slimming`: updates so far, int32 scalar."""

  count: jax.Array  # type: ignore[assignment]  # tuple.count is not needed


def slimming(strength: float | optax.Schedule) -> optax.GradientTransformation:
  """Adds the gradient of ``strength * sum |gamma|`` over all BatchNorm scales.

  To be chained before the optimizer: ``optax.chain(prune.slimming(1e-4), optax.sgd(0.1))``. After it,
  it would drive the scales away from zero, which ``training.init_state`` refuses where nothing comes
  behind. Then ``channel_importance(method="bn_gamma")`` tells the channels apart better.

  Args:
    strength: of the penalty, at least 0; a number, or a schedule of the step.

  Returns:
    An optax transformation whose ``update`` needs the parameters.

  Raises:
    ValueError: if the strength is negative; on ``init``, if there are no scales; on ``update``,
      without parameters.

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

  def init(params: Any) -> SlimmingState:
    root = root_of(params)
    if not any(_is_scale(path, root) for path, _ in jax.tree_util.tree_leaves_with_path(params)):
      raise ValueError(
        "params: they have no BatchNorm scale, so slimming would do nothing; leave it out."
      )
    return SlimmingState(jnp.zeros((), jnp.int32))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError("params: slimming needs the parameters; pass them to update.")
    now = strength(state.count) if callable(strength) else strength
    root = root_of(params)

    def penalised(path, update, param):
      if not _is_scale(path, root):
        return update
      return update + (now * jnp.sign(param)).astype(update.dtype)

    updates = jax.tree_util.tree_map_with_path(penalised, updates, params)
    return updates, SlimmingState(optax.safe_increment(state.count))

  return optax.GradientTransformation(init, update)


def _is_scale(path: tuple[Any, ...], root: str) -> bool:
  names = jax.tree_util.keystr(path, simple=True, separator="/")
  return names.startswith(root) and names.split("/")[-1] == "scale"


def check_slimming(opt_state: Any) -> None:
  """Checks that an optimizer comes after every penalty.

  Raises:
    ValueError: if a penalty is the last of a chain, or alone.

  Examples:
    >>> params = {"stem": {"scale": jnp.ones(3)}}
    >>> check_slimming(optax.chain(slimming(1e-4), optax.sgd(0.1)).init(params))
  """
  last = opt_state
  while type(last) is tuple and last:
    last = last[-1]
  if isinstance(last, SlimmingState):
    raise ValueError(
      "optimizer: slimming comes last, so that its gradient is added to the weights; chain it before"
      " the optimizer, optax.chain(prune.slimming(1e-4), optax.sgd(0.1))."
    )
