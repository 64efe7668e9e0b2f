"""How a compress run prunes and clusters: what was asked, and the optimizer that prunes."""

from typing import Any, Protocol

import optax

from jaxcompress import prune

UNSTRUCTURED = "unstructured"
DISTRIBUTIONS: dict[str, dict[str, Any]] = {  # the first where none is asked for
  "erk": {"distribution": "erk"},
  "uniform": {"distribution": "uniform"},
  "global": {"scope": "global"},
}
CHOICES = 40  # of masks, over the steps in which sparsity grows


class Asked(Protocol):
  """The options that say how a network is pruned and clustered; see
  :class:`~jaxcompress.pipeline.Options`.
  """

  @property
  def sparsity(self) -> float | None: ...

  @property
  def sparsity_pattern(self) -> str | None: ...

  @property
  def sparsity_distribution(self) -> str | None: ...

  @property
  def cluster(self) -> int | None: ...

  @property
  def bits(self) -> int: ...


def check_pruning(asked: Asked) -> None:
  """Checks what was asked.

  Raises:
    ValueError: if a number or the pattern is out of range, or they do not fit together.
  """
  sparsity, pattern, distribution = (
    asked.sparsity,
    asked.sparsity_pattern,
    asked.sparsity_distribution,
  )
  if sparsity is not None and not 0 < sparsity < 1:
    raise ValueError(f"sparsity: {sparsity} is out of range; it must be above 0 and below 1.")
  if distribution is not None:
    if distribution not in DISTRIBUTIONS:
      raise ValueError(
        f"sparsity_distribution: {distribution!r} is unknown; it must be one of"
        f" {', '.join(DISTRIBUTIONS)}."
      )
    if sparsity is None or pattern not in (None, UNSTRUCTURED):
      raise ValueError(
        f"sparsity_distribution: {distribution} shares out a sparsity, and there is none to share;"
        " give a sparsity without a pattern, or leave it out."
      )
  if pattern in (None, UNSTRUCTURED):
    if pattern is not None and sparsity is None:
      raise ValueError(f"sparsity_pattern: {pattern} needs a share of zeros; give sparsity too.")
    return
  try:
    n, m = prune.parse_pattern(pattern)
  except ValueError as error:
    raise ValueError(
      f"sparsity_pattern: {pattern!r} is unknown; it must be {UNSTRUCTURED}, or n:m with 0 < n < m,"
      " such as 2:4."
    ) from error
  if sparsity not in (None, 1 - n / m):
    raise ValueError(
      f"sparsity: {sparsity} does not fit the pattern {pattern}, which has {1 - n / m:g}; leave it"
      " out."
    )


def check_clusters(asked: Asked) -> None:
  """Checks how many values were asked for.

  Raises:
    ValueError: if they are out of range, or fewer bits were asked for too.
  """
  if asked.cluster is None:
    return
  if not 2 <= asked.cluster <= 128:
    raise ValueError(f"cluster: {asked.cluster} is out of range; it must be 2 to 128.")
  if asked.bits != 8:
    raise ValueError(
      f"bits: {asked.bits} does not fit cluster {asked.cluster}, whose values have 8; leave one out."
    )


def is_pruned(asked: Asked) -> bool:
  """Whether anything is."""
  return asked.sparsity is not None or asked.sparsity_pattern is not None


def pruned(
  optimizer: optax.GradientTransformation, asked: Asked, steps: int
) -> optax.GradientTransformation:
  """An optimizer that prunes as was asked, from the first to the third quarter of some steps.

  Args:
    optimizer: what trains.
    asked: nothing is pruned if nothing was.
    steps: that training in float takes; the last quarter mends what pruning did.
  """
  begin = steps // 4
  end = max(begin + 1, 3 * steps // 4)
  schedule = prune.agp(begin, end, every=max(1, (end - begin) // CHOICES))
  if asked.sparsity_pattern not in (None, UNSTRUCTURED):
    return prune.n_m(optimizer, asked.sparsity_pattern, schedule=schedule)
  if asked.sparsity is None:
    return optimizer
  shares = DISTRIBUTIONS[asked.sparsity_distribution or next(iter(DISTRIBUTIONS))]
  return prune.magnitude(optimizer, sparsity=asked.sparsity, schedule=schedule, **shares)
