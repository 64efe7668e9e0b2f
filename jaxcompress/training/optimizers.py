"""The optimizer that the default run uses, and masks of what decays for any other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Mask = Callable[[Any], Any]


def kernels_only(params: Any) -> Any:
  """A mask that is true for kernels: no weight decay on BatchNorm, biases, or learned scales.

  Examples:
    >>> kernels_only({"stem": {"kernel": 1.0, "scale": 1.0}})
    {'stem': {'kernel': True, 'scale': False}}
  """
  return jax.tree_util.tree_map_with_path(lambda path, _: _is_kernel(path), params)


def dense_kernels_only(params: Any) -> Any:
  """A mask that is true for kernels but those of depthwise convolutions.

  For any optax optimizer that takes one: ``optax.adamw(1e-3, mask=dense_kernels_only)``. Depthwise
  kernels, (height, width, 1, channels), have few weights each and BatchNorm behind them; decay
  shrinks whole channels to zero. The stem of a network for one-channel images has the same shape,
  and does not decay either.

  Examples:
    >>> dense_kernels_only({"depthwise": {"kernel": jnp.ones((3, 3, 1, 8))}})
    {'depthwise': {'kernel': False}}
    >>> dense_kernels_only({"expand": {"kernel": jnp.ones((1, 1, 4, 8))}})
    {'expand': {'kernel': True}}

  References:
    Howard et al., `MobileNets <https://arxiv.org/abs/1704.04861>`_, 2017, section 3.2.
  """

  def decays(path, leaf):
    shape = jnp.shape(leaf)
    return _is_kernel(path) and not (len(shape) == 4 and shape[2] == 1)

  return jax.tree_util.tree_map_with_path(decays, params)


def _is_kernel(path: tuple[Any, ...]) -> bool:
  return bool(path) and getattr(path[-1], "key", None) == "kernel"


def sgd(
  learning_rate: optax.ScalarOrSchedule,
  *,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
  nesterov: bool = True,
  mask: Mask | None = kernels_only,
) -> optax.GradientTransformation:
  """SGD with momentum and weight decay, which is added to the gradient.

  Args:
    learning_rate: a number, or a schedule of the step.
    momentum: share of the velocity that stays.
    weight_decay: times the weights, added to their gradients.
    nesterov: whether the velocity is looked ahead.
    mask: which parameters decay, such as :func:`kernels_only` or :func:`dense_kernels_only`; None:
      all.

  Examples:
    >>> isinstance(sgd(0.1, mask=dense_kernels_only), optax.GradientTransformation)
    True
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask=mask),
    optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov),
  )
