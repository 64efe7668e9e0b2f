"""The optimizer that the default run uses, and masks for any other."""

from typing import Any

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
