"""Multiplications and additions of constants as polynomials of the variables, and normalizations in them.

What follows a convolution channel by channel is ``x * factor + offset``. Both are written as sums of
products of the user's arrays, however the code groups them, so that ``(x - mean) * (rsqrt(var + e) *
scale) + bias`` and ``x * inv + (beta - mean * inv)`` are the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.models.imported.constants import slim
from jaxcompress.models.imported.values import Constant, Leaves, Op, Operand

MOST_TERMS = 64
Key = tuple[Any, ...]
Monomial = tuple[tuple[Key, int], ...]


class Root(NamedTuple):
  """One over the square root of a variance, times a number where its sum is kept, and epsilon."""

  variance: Constant
  epsilon: float
  share: float = 1.0


class NotAffine(Exception):
  """An expression that is no polynomial of a size worth writing out."""


class Polynomial:
  """A sum of products of constants.

  Attributes:
    terms: the coefficient of each product; a product is its factors' keys and powers.
    factors: constants and roots by their keys.
  """

  def __init__(self, terms: Mapping[Monomial, float], factors: Mapping[Key, Constant | Root]):
    self.terms = {key: value for key, value in terms.items() if value != 0}
    self.factors = dict(factors)
    if len(self.terms) > MOST_TERMS:
      raise NotAffine

  @classmethod
  def number(cls, value: float) -> "Polynomial":
    """A polynomial without constants."""
    return cls({(): value}, {})

  @classmethod
  def one(cls, key: Key, factor: Constant | Root, power: int = 1) -> "Polynomial":
    """A single factor."""
    return cls({((key, power),): 1.0}, {key: factor})

  def __add__(self, other: "Polynomial") -> "Polynomial":
    terms = dict(self.terms)
    for key, value in other.terms.items():
      terms[key] = terms.get(key, 0.0) + value
    return Polynomial(terms, self.factors | other.factors)

  def __mul__(self, other: "Polynomial") -> "Polynomial":
    terms: dict[Monomial, float] = {}
    for a, x in self.terms.items():
      for b, y in other.terms.items():
        key = _times(a, b)
        terms[key] = terms.get(key, 0.0) + x * y
    return Polynomial(terms, self.factors | other.factors)

  def __neg__(self) -> "Polynomial":
    return Polynomial({key: -value for key, value in self.terms.items()}, self.factors)

  def inverse(self) -> "Polynomial":
    """One over it, if it is one product."""
    if len(self.terms) != 1:
      raise NotAffine
    ((key, value),) = self.terms.items()
    return Polynomial({tuple((k, -p) for k, p in key): 1 / value}, self.factors)

  def roots(self) -> set[Key]:
    """Keys of the roots in it."""
    return {k for key in self.terms for k, _ in key if isinstance(self.factors[k], Root)}

  def values(self, leaves: Leaves, size: int) -> np.ndarray:
    """Its value for each of ``size`` channels, in float64."""
    total = np.zeros(size)
    for key, coefficient in self.terms.items():
      product = np.full(size, coefficient)
      for name, power in key:
        product = product * factor_values(self.factors[name], leaves, size) ** float(power)
      total += product
    return total


def _times(a: Monomial, b: Monomial) -> Monomial:
  powers: dict[Key, int] = dict(a)
  for key, power in b:
    powers[key] = powers.get(key, 0) + power
  return tuple(sorted((key, power) for key, power in powers.items() if power))


def factor_values(factor: Constant | Root, leaves: Leaves, size: int) -> np.ndarray:
  """Values of one factor for each channel."""
  if isinstance(factor, Root):
    variance = vector(factor.variance, leaves, size) * factor.share
    return 1 / np.sqrt(variance + factor.epsilon)
  return vector(factor, leaves, size)


def vector(constant: Constant, leaves: Leaves, size: int) -> np.ndarray:
  """A constant for each channel, in float64."""
  found = _flat(leaves.read(constant), constant, size)
  return np.broadcast_to(found, (size,))


def places_of(constant: Constant, size: int) -> np.ndarray | None:
  """Where the numbers for each channel come from; None: from no place, or one for all."""
  if constant.index is None:
    return None
  found = _flat(constant.index, constant, size)
  return found if found.size == size else None


def _flat(array: np.ndarray, constant: Constant, size: int) -> np.ndarray:
  """The array as one number or one for each channel."""
  own = slim(constant.value)
  if array.size != own.size:  # axes along which it was broadcast are taken once
    array = array[tuple(slice(1) if s == 0 else slice(None) for s in constant.value.strides)]
  if array.size not in (1, size):
    raise NotAffine
  return array.reshape(-1)


def polynomial(constant: Constant) -> Polynomial:
  """Writes a constant as a polynomial of the arrays that it is computed from."""
  if constant.index is None and not constant.learned:
    own = slim(np.asarray(constant.value))
    if own.size == 1 or (own.size and np.all(own == own.flat[0])):
      return Polynomial.number(float(own.reshape(-1)[0].astype(np.float64)))
  if constant.made is not None and constant.made[0] in EXPANDED:
    try:
      return EXPANDED[constant.made[0]](*constant.made[1])
    except NotAffine:
      pass
  return Polynomial.one(_key(constant), constant)


def _key(constant: Constant) -> Key:
  if constant.index is not None and constant.index.size:
    own = constant.index.reshape(-1)
    return ("leaf", int(own[0]), int(own[-1]), constant.index.size)
  return ("value", id(constant), 0, 0)


def _root(inner: Constant, power: int) -> Polynomial:
  """A power of one over the square root of a variance plus epsilon."""
  found = polynomial(inner)
  epsilon = float(str(np.float32(found.terms.get((), 0.0))))  # as it stands in the code
  rest = {key: value for key, value in found.terms.items() if key}
  if len(rest) != 1:
    raise NotAffine
  ((key, value),) = rest.items()
  if value <= 0 or len(key) != 1 or key[0][1] != 1 or epsilon < 0:
    raise NotAffine
  variance = found.factors[key[0][0]]
  if isinstance(variance, Root):
    raise NotAffine
  root = Root(variance, epsilon, value)
  return Polynomial.one(("root", *key[0][0][1:], epsilon, value), root, power)


def _power(base: Constant, exponent: Constant) -> Polynomial:
  number = float(np.asarray(exponent.value).reshape(-1)[0]) if exponent.value.size == 1 else 0.0
  if exponent.learned or number not in (0.5, -0.5):
    raise NotAffine
  return _root(base, 1 if number < 0 else -1)


EXPANDED: Mapping[str, Any] = {
  "same": polynomial,
  "add": lambda a, b: polynomial(a) + polynomial(b),
  "add_any": lambda a, b: polynomial(a) + polynomial(b),
  "sub": lambda a, b: polynomial(a) + -polynomial(b),
  "mul": lambda a, b: polynomial(a) * polynomial(b),
  "div": lambda a, b: polynomial(a) * polynomial(b).inverse(),
  "neg": lambda a: -polynomial(a),
  "rsqrt": lambda a: _root(a, 1),
  "sqrt": lambda a: _root(a, -1),
  "pow": _power,
}
"""Operations whose results are polynomials, by name."""


class Scaling(NamedTuple):
  """``x * factor + offset`` of each channel."""

  factor: Polynomial
  offset: Polynomial


IDENTITY = Scaling(Polynomial.number(1.0), Polynomial({}, {}))


class Parts(NamedTuple):
  """The parts of a normalization by running statistics.

  Attributes:
    root: one over its standard deviation.
    scale: gamma.
    bias: beta.
    mean: running mean.
    inner: what is added before.
  """

  root: Root
  scale: Polynomial
  bias: Polynomial
  mean: Polynomial
  inner: Polynomial


def parts_of(scaling: Scaling) -> Parts | None:
  """Returns the normalization that a scaling is; None if it is not one."""
  roots = scaling.factor.roots()
  if len(roots) != 1 or len(scaling.factor.terms) != 1:
    return None
  (key,) = roots
  ((monomial, _),) = scaling.factor.terms.items()
  root = scaling.factor.factors[key]
  if dict(monomial)[key] != 1 or not isinstance(root, Root):
    return None
  inverse = scaling.factor.inverse()
  inner, bias = Polynomial({}, {}), Polynomial({}, {})
  for term, coefficient in scaling.offset.terms.items():
    product = Polynomial({term: coefficient}, scaling.offset.factors)
    quotient = product * inverse
    if all(k != key and power > 0 for m in quotient.terms for k, power in m):
      inner += quotient
    else:
      bias += product
  if key in bias.roots():
    return None
  taken = {m: -c for m, c in inner.terms.items() if c < 0}
  added = {m: c for m, c in inner.terms.items() if c > 0}
  scale = Polynomial.one(key, root).inverse() * scaling.factor
  return Parts(
    root, scale, bias, Polynomial(taken, inner.factors), Polynomial(added, inner.factors)
  )


def is_array(polynomial: Polynomial, scaled: bool = False) -> bool:
  """Whether it is one constant alone, or its opposite, or times a number."""
  if len(polynomial.terms) != 1:
    return False
  ((monomial, coefficient),) = polynomial.terms.items()
  return len(monomial) == 1 and monomial[0][1] == 1 and (scaled or abs(coefficient) == 1)


def is_one(polynomial: Polynomial) -> bool:
  """Whether it is the number one."""
  return polynomial.terms == {(): 1.0}


def is_fixed(polynomial: Polynomial) -> bool:
  """Whether nothing of it is trained."""
  factors = [polynomial.factors[key] for monomial in polynomial.terms for key, _ in monomial]
  return not any(f.variance.learned if isinstance(f, Root) else f.learned for f in factors)


def is_simple(scaling: Scaling, weighted: bool) -> bool:
  """Whether each part of a layer would be one array of the user's, so that it trains as there."""
  parts = parts_of(scaling)
  if parts is not None:
    others = (parts.bias, parts.inner)
    return (
      (is_one(parts.scale) or is_array(parts.scale))
      and all(not part.terms or is_array(part) for part in others)
      and (not parts.mean.terms or is_array(parts.mean, scaled=True))
    )
  if scaling.factor.roots():
    return False
  if weighted:
    return is_one(scaling.factor) and (not scaling.offset.terms or is_array(scaling.offset))
  offset = scaling.offset
  return (is_fixed(scaling.factor) or is_array(scaling.factor)) and (
    is_fixed(offset) or is_array(offset)
  )


STEPS = {
  "add": lambda s, c, first: Scaling(s.factor, s.offset + c),
  "add_any": lambda s, c, first: Scaling(s.factor, s.offset + c),
  "mul": lambda s, c, first: Scaling(s.factor * c, s.offset * c),
  "sub": lambda s, c, first: (
    Scaling(-s.factor, c + -s.offset) if first else Scaling(s.factor, s.offset + -c)
  ),
}
"""``(scaling, constant, whether the constant is the first operand) -> scaling`` after one operation."""


def is_step(op: Op) -> bool:
  """Whether an operation multiplies channels by constants, or adds them."""
  if op.kind != "elementwise" or len(op.inputs) != 1 or op.inputs[0].shape != op.shape:
    return False
  name, operands = op.fields["primitive"], op.fields["operands"]
  constants = [o for o in operands if isinstance(o, Operand)]
  if name == "neg":
    return True
  if (name not in STEPS and name != "div") or len(constants) != 1:
    return False
  if name == "div" and isinstance(operands[0], Operand):
    return False
  return constants[0].array.shape[:2] == (1, 1)


def after(scaling: Scaling, op: Op) -> Scaling:
  """The scaling with one more step."""
  if op.fields["primitive"] == "neg":
    return Scaling(-scaling.factor, -scaling.offset)
  operands: Sequence[Any] = op.fields["operands"]
  first = isinstance(operands[0], Operand)
  constant = operands[0] if first else operands[1]
  value = polynomial(constant.constant)
  if op.fields["primitive"] != "div":
    return STEPS[op.fields["primitive"]](scaling, value, first)
  if len(value.terms) != 1:
    value = Polynomial.one(_key(constant.constant), constant.constant)
  return Scaling(scaling.factor * value.inverse(), scaling.offset * value.inverse())
