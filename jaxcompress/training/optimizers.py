"""The optimizer that the default run uses, and masks for any other."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax


def kernels_only(params: Any) -> Any:
  """A mask that is true for kernels: no weight decay on BatchNorm, biases, or learned scales.

  Examples:
    >>> kernels_only({"stem": {"kernel": 1.0, "scale": 1.0}})
    {'stem': {'kernel': True, 'scale': False}}
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: getattr(path[-1], "key", None) == "kernel", params
  )


def warmup_cosine(peak: float, steps: int, *, warmup: float = 0.1) -> optax.Schedule:
  """Linear warm-up over a share of the steps, then a cosine to zero.

  Raises:
    ValueError: if ``peak`` or ``steps`` is not positive or ``warmup`` is no share.

  Examples:
    >>> float(warmup_cosine(0.1, 100)(10))
    0.10000000149011612
  """
  if peak <= 0 or steps < 1 or not 0 <= warmup < 1:
    raise ValueError(
      f"peak, steps, warmup: {peak}, {steps}, {warmup} must be above 0, at least 1, and in [0, 1)."
    )
  return optax.warmup_cosine_decay_schedule(0.0, peak, max(1, round(warmup * steps)), steps)


def sgd(
  learning_rate: optax.ScalarOrSchedule, *, momentum: float = 0.9, weight_decay: float = 5e-4
) -> optax.GradientTransformation:
  """SGD with Nesterov momentum and weight decay on kernels only.

  Examples:
    >>> isinstance(sgd(0.1), optax.GradientTransformation)
    True
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask=kernels_only),
    optax.sgd(learning_rate, momentum=momentum, nesterov=True),
  )


class DotState(NamedTuple):
  """State of :func:`dot`: a momentum for each of two gradients, in the tree's form."""

  task: Any
  distill: Any


def dot(
  learning_rate: optax.ScalarOrSchedule,
  *,
  momentum: float = 0.9,
  delta: float = 0.075,
  weight_decay: float = 5e-4,
  mask: Callable[[Any], Any] = kernels_only,
) -> optax.GradientTransformationExtraArgs:
  """Distillation-oriented SGD: the teacher's gradient has more momentum than the labels'.

  ``v_task = (m - d) v_task + g_task``, ``v_distill = (m + d) v_distill + g_distill`` and
  ``p = p - learning_rate * (v_task + v_distill)``; weight decay is part of ``g_task``.

  Args:
    learning_rate: a number or a schedule.
    momentum: ``m``.
    delta: ``d``; ``m - d`` and ``m + d`` must be in [0, 1).
    weight_decay: of what ``mask`` selects.
    mask: ``tree -> tree of bools``; by default kernels.

  Returns:
    An optax transformation whose ``update`` needs ``parts={"task": gradients, "distill":
    gradients}``, as the training step passes for a recipe with ``apart``.

  Raises:
    ValueError: if a momentum is out of range; on ``update``, without ``parts``.

  Examples:
    >>> optimizer = dot(1.0, momentum=0.5, delta=0.25, weight_decay=0.0)
    >>> params, one = {"kernel": 0.0}, {"kernel": 1.0}
    >>> state = optimizer.init(params)
    >>> for _ in range(2):
    ...   updates, state = optimizer.update(one, state, params, parts={"task": one, "distill": one})
    >>> float(updates["kernel"])  # 1 + 0.25 and 1 + 0.75
    -3.0

  References:
    Zhao et al., `DOT: A Distillation-Oriented Trainer <https://arxiv.org/abs/2307.08436>`_, 2023,
    section 3.
  """
  if not (0 <= momentum - delta < 1 and 0 <= momentum + delta < 1):
    raise ValueError(
      f"delta: {momentum} - {delta} and {momentum} + {delta} must both be in [0, 1)."
    )

  def init(params):
    return DotState(*(optax.tree.zeros_like(params) for _ in range(2)))

  def update(updates, state, params=None, *, parts=None, **extras):
    del updates, extras
    if parts is None:
      raise ValueError("parts: dot needs two gradients; name the distillation terms in apart=.")
    task, distill = parts["task"], parts["distill"]
    if weight_decay:
      decayed = mask(params)
      task = jax.tree.map(lambda g, p, m: g + weight_decay * p if m else g, task, params, decayed)
    task = jax.tree.map(lambda v, g: (momentum - delta) * v + g, state.task, task)
    distill = jax.tree.map(lambda v, g: (momentum + delta) * v + g, state.distill, distill)
    return optax.tree.add(task, distill), DotState(task, distill)

  momenta = optax.GradientTransformationExtraArgs(init, update)
  return optax.chain(momenta, optax.scale_by_learning_rate(learning_rate))
