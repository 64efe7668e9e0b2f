"""The arrays of a layer, each with the way back to the user's variables."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from jaxcompress.models.imported.scalings import (
  NotAffine,
  Polynomial,
  Root,
  Scaling,
  is_one,
  parts_of,
  places_of,
  vector,
)
from jaxcompress.models.imported.values import Constant, Leaves


class Source(NamedTuple):
  """An array of a layer as ``leaf * factor + offset``.

  Attributes:
    places: for each of its numbers, the place among all numbers of the user's variables.
    factor: of each number.
    offset: of each number.
    fixed: numbers of the leaves that factor and offset are made of.
  """

  places: np.ndarray
  factor: np.ndarray
  offset: np.ndarray
  fixed: frozenset[int] = frozenset()


class Weight(NamedTuple):
  """An array of a layer.

  Attributes:
    value: float32.
    source: where it comes from; None if it is no array of the user's.
    why: what it is instead, for a message.
    read: numbers of the leaves that it is computed of.
  """

  value: np.ndarray
  source: Source | None
  why: str = ""
  read: frozenset[int] = frozenset()

  def reshaped(self, shape: tuple[int, ...]) -> "Weight":
    """The same numbers in another shape."""
    source = self.source
    if source is not None:
      size = source.places.shape
      factor, offset = (np.broadcast_to(part, size).reshape(shape) for part in source[1:3])
      source = Source(source.places.reshape(shape), factor, offset, source.fixed)
    return self._replace(value=self.value.reshape(shape), source=source)


SEVERAL = "is computed from several of the variables"
MISSING = "does not exist in the original"
LITERAL = "is a number in the original's code"
CLOSED_OVER = "is no part of the variables: the function closes over it"


def weight_of(polynomial: Polynomial, leaves: Leaves, size: int) -> Weight:
  """An array for each channel from a polynomial; one leaf takes what training changes."""
  value = polynomial.values(leaves, size)
  source = _solved(polynomial, leaves, size)
  why = SEVERAL
  used = [polynomial.factors[key] for monomial in polynomial.terms for key, _ in monomial]
  if source is None and not any(isinstance(f, Root) or f.learned for f in used):
    neutral = not polynomial.terms or is_one(polynomial)
    why = CLOSED_OVER if used else MISSING if neutral else LITERAL
  return Weight(value.astype(np.float32), source, why, leaves_of(used, leaves))


def _solved(polynomial: Polynomial, leaves: Leaves, size: int) -> Source | None:
  """The leaf in which the polynomial is linear, the simplest of several."""
  options = []
  for monomial, coefficient in polynomial.terms.items():
    for key, power in monomial:
      leaf = polynomial.factors[key]
      if isinstance(leaf, Root) or power != 1:
        continue
      if sum(any(k == key for k, _ in other) for other in polynomial.terms) > 1:
        continue
      index = places_of(leaf, size)
      if index is not None and np.unique(index).size == size:
        options.append((len(monomial), abs(coefficient) != 1, monomial, key, index))
  if not options:
    return None
  _, _, monomial, key, index = min(options, key=lambda option: option[:2])
  rest = Polynomial(
    {m: c for m, c in polynomial.terms.items() if m != monomial}, polynomial.factors
  )
  factor = Polynomial(
    {tuple(kp for kp in monomial if kp[0] != key): polynomial.terms[monomial]}, polynomial.factors
  )
  used = [polynomial.factors[k] for part in (rest, factor) for m in part.terms for k, _ in m]
  return Source(
    index, factor.values(leaves, size), rest.values(leaves, size), leaves_of(used, leaves)
  )


def leaves_of(factors: Iterable[Constant | Root], leaves: Leaves) -> frozenset[int]:
  """Numbers of the leaves that factors are made of."""
  constants = (factor.variance if isinstance(factor, Root) else factor for factor in factors)
  return frozenset(leaves.behind(constants))


def kernel_of(constant: Constant, leaves: Leaves, factor: Polynomial) -> Weight:
  """A kernel, with each of its output channels multiplied by a factor."""
  size = constant.value.shape[-1]
  by = factor.values(leaves, size)
  value = leaves.read(constant) * by
  fixed = leaves_of([factor.factors[k] for m in factor.terms for k, _ in m], leaves)
  if constant.index is None:
    read = fixed | leaves_of([constant], leaves)
    return Weight(value.astype(np.float32), None, _why(constant), read)
  spread = np.broadcast_to(by, constant.index.shape)
  return Weight(value.astype(np.float32), Source(constant.index, spread, np.zeros(()), fixed))


def _why(constant: Constant) -> str:
  return SEVERAL if constant.learned else CLOSED_OVER


class Normalization(NamedTuple):
  """A batch normalization.

  Attributes:
    epsilon: added to the variance.
    scale: gamma.
    bias: beta.
    mean: running mean.
    var: running variance.
    inner: a bias before it, or None.
    names: path of the leaf with the variance, or None.
  """

  epsilon: float
  scale: Weight
  bias: Weight
  mean: Weight
  var: Weight
  inner: Weight | None
  names: str | None


def normalization_of(scaling: Scaling, leaves: Leaves, size: int) -> Normalization | None:
  """Returns the normalization that a scaling by running statistics is; None if it is not one."""
  parts = parts_of(scaling)
  if parts is None:
    return None
  try:
    return Normalization(
      parts.root.epsilon,
      weight_of(parts.scale, leaves, size),
      weight_of(parts.bias, leaves, size),
      weight_of(parts.mean, leaves, size),
      _variance(parts.root, leaves, size),
      weight_of(parts.inner, leaves, size) if parts.inner.terms else None,
      leaves.path_of(parts.root.variance),
    )
  except NotAffine:
    return None


def _variance(root: Root, leaves: Leaves, size: int) -> Weight:
  value = (vector(root.variance, leaves, size) * root.share).astype(np.float32)
  index = places_of(root.variance, size)
  if index is None:
    return Weight(value, None, _why(root.variance), leaves_of([root], leaves))
  return Weight(value, Source(index, np.full((), root.share), np.zeros(())))
