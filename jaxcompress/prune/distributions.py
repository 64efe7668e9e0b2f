"""How a network's sparsity is shared out among its layers."""

import math
from collections.abc import Mapping
from typing import Literal

Distribution = Literal["erk", "uniform"]


def erdos_renyi(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, float]:
  """Sparsities such that a layer's density falls with its size: Erdos-Renyi-Kernel (ERK).

  The density of a kernel is ``e (h + w + in + out) / (h w in out)``, at most 1, with the ``e`` for
  which the network as a whole is as sparse as asked; without ``h`` and ``w`` for linear layers.

  Args:
    shapes: of the kernels, (h, w, in, out) or (in, out), by layer.
    sparsity: share of zeros of all of them, in [0, 1).

  Returns:
    The share of zeros of each layer.

  Examples:
    >>> shapes = {"large": (64, 64), "small": (8, 8)}
    >>> {name: round(share, 3) for name, share in erdos_renyi(shapes, 0.5).items()}
    {'large': 0.508, 'small': 0.0}

  References:
    Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, 2020, section 3.1;
    Mocanu et al., `Scalable training of artificial neural networks with adaptive sparse
    connectivity <https://arxiv.org/abs/1707.04780>`_, 2018, equation 1.
  """
  sizes = {name: math.prod(shape) for name, shape in shapes.items()}
  ends = {name: sum(shape) for name, shape in shapes.items()}
  left = (1 - sparsity) * sum(sizes.values())  # weights to hand out
  dense: set[str] = set()
  while True:
    others = shapes.keys() - dense
    budget = left - sum(sizes[name] for name in dense)
    scale = budget / sum(ends[name] for name in others) if others else 0.0
    full = {name for name in others if scale * ends[name] >= sizes[name]}
    if not full:
      break
    dense |= full
  return {name: 0.0 if name in dense else 1 - scale * ends[name] / sizes[name] for name in shapes}


def uniform(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, float]:
  """The same sparsity for every layer.

  Examples:
    >>> uniform({"a": (2, 2)}, 0.5)
    {'a': 0.5}
  """
  return dict.fromkeys(shapes, sparsity)


DISTRIBUTIONS = {"erk": erdos_renyi, "uniform": uniform}


def check_distribution(distribution: str) -> None:
  """Raises if there is no such distribution."""
  if distribution not in DISTRIBUTIONS:
    raise ValueError(
      f"distribution: {distribution!r} is unknown; it must be one of {', '.join(DISTRIBUTIONS)}."
    )


def shares_of(
  distribution: str, shapes: Mapping[str, tuple[int, ...]], sparsity: float
) -> dict[str, float]:
  """The share of zeros of each layer by a distribution's name.

  Examples:
    >>> shares_of("uniform", {"a": (2, 2)}, 0.5)
    {'a': 0.5}
  """
  return DISTRIBUTIONS[distribution](shapes, sparsity)
