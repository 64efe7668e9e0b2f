"""Mistakes of devices in the rounding of sums, and in sums and results themselves."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcompress.codes import half_away
from jaxcompress.export.faults.variants import Hypothesis, Operation
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.reference import quantize_multiplier
from jaxcompress.quantize.integer.runtimes import KERNELS, VARIANTS, Kernels, find_kernels
from jaxcompress.quantize.integer.wide import LIMB, Wide, wide

RUNTIMES = (*KERNELS, *VARIANTS)
WEIGHTED = (
  *("ConvNorm", "BatchNorm", "Affine", "FourierPositions"),
  *("Dense", "ChannelMean", "ConvTranspose"),
)
ROUNDED = (
  *WEIGHTED,
  *("Add", "Subtract", "Multiply", "MatMul", "Requantize", "GlobalAvgPool", "AvgPool"),
)
SUMS = ("convolution", "dense")
RULES = (
  *SUMS,
  *("matrices", "product", "addition", "subtraction", "shift", "requantization", "mean", "average"),
)
ROUNDINGS: Mapping[str, Callable[[Any], Any]] = {
  "half up": lambda x: np.floor(x + x.dtype.type(0.5)),
  "half to even": np.rint,
  "half away from zero": half_away,
  "truncation": np.trunc,
  "down": np.floor,
}
TYPES = {"float64": np.float64, "float32": np.float32}  # in which sums are scaled
HIGH_PRODUCTS: Mapping[str, Callable[[Any], Any]] = {  # of products, divided by 2**31
  "half up": lambda p: (p + 2**30) >> 31,
  "half away from zero": lambda p: np.sign(p) * ((np.abs(p) + 2**30) >> 31),
  "down": lambda p: p >> 31,
}
INTEGER_ROUNDINGS: Mapping[str, Callable[[Any, Any], Any]] = {  # of integers, divided by 2**bits
  "half up": lambda v, bits: (v + _half(bits)) >> bits,
  "half to even": lambda v, bits: _to_even(v, bits),
  "half away from zero": lambda v, bits: np.sign(v) * ((np.abs(v) + _half(bits)) >> bits),
  "truncation": lambda v, bits: np.sign(v) * (np.abs(v) >> bits),
  "down": lambda v, bits: v >> bits,
}


def _half(bits: Any) -> Any:
  return np.where(bits > 0, np.int64(1) << np.maximum(bits - 1, 0), 0)


def _to_even(v: Any, bits: Any) -> Any:
  whole = v >> bits
  twice = 2 * (v - (whole << bits))
  one = np.int64(1) << bits
  return whole + ((twice > one) | ((twice == one) & (whole & 1 == 1)))


class Scaled(NamedTuple):
  """Sums times a factor in floating point, rounded.

  Attributes:
    factor: float64 or float32, the type that is computed in.
    rounding: of :data:`ROUNDINGS`.
    zero_point: added before it is rounded, and taken off again; 0: nothing is.
  """

  factor: Any
  rounding: Callable[[Any], Any]
  zero_point: int = 0

  def __call__(self, v: Any) -> np.ndarray:
    factor = np.asarray(self.factor)
    real = whole(v).astype(factor.dtype) * factor + factor.dtype.type(self.zero_point)
    return self.rounding(real).astype(np.float64) - self.zero_point


class FixedPoint(NamedTuple):
  """Sums times a factor of 31 bits.

  Attributes:
    factor: as :func:`~jaxcompress.quantize.integer.reference.quantize_multiplier` makes it.
    rounding: of :data:`INTEGER_ROUNDINGS`, once of the whole product; after a first one the second.
    first: of :data:`HIGH_PRODUCTS`; None: the product is rounded once.
  """

  factor: Any
  rounding: Callable[[Any, Any], Any]
  first: Callable[[Any], Any] | None = None

  def __call__(self, v: Any) -> np.ndarray:
    q31, left, right = (np.asarray(part).astype(np.int64) for part in self.factor)
    if self.first is None:
      return self.rounding(whole(v) * q31, 31 - left + right).astype(np.float64)
    return self.rounding(self.first((whole(v) << left) * q31), right).astype(np.float64)


class OfMeans(NamedTuple):
  """A rule of the sums of maps."""

  rule: Any

  def __call__(self, x: Any) -> np.ndarray:
    return self.rule(whole(x).sum((1, 2), keepdims=True))


class OfPair(NamedTuple):
  """The sum of two maps, each times a factor."""

  left: Any
  right: Any
  rounding: Callable[[Any], Any]
  zero_point: int = 0

  def __call__(self, x: Any, y: Any) -> np.ndarray:
    kind = np.asarray(self.left).dtype.type
    real = whole(x).astype(kind) * self.left + whole(y).astype(kind) * self.right
    return self.rounding(real + kind(self.zero_point)).astype(np.float64) - self.zero_point


class OfCells(NamedTuple):
  """The mean of cells, of their codes or of what they are away from the zero point."""

  counts: np.ndarray
  zero_point: int
  rounding: Callable[[Any], Any]

  def __call__(self, cells: Any) -> np.ndarray:
    total = sum(map(whole, cells)) + self.counts.astype(np.int64) * self.zero_point
    return self.rounding(total / self.counts.astype(np.float64)) - self.zero_point


class Around(NamedTuple):
  """A rule with something before it, and something after it."""

  rule: Any
  before: Callable[[Any], Any] = lambda v: v
  after: Callable[[Any], Any] = lambda steps: steps

  def __call__(self, *values: Any) -> Any:
    return self.after(np.asarray(self.rule(*map(self.before, values)), np.float64))


def whole(v: Any) -> np.ndarray:
  """Integers of any kind as int64."""
  if isinstance(v, Wide):
    return (np.asarray(v.high).astype(np.int64) << LIMB) + np.asarray(v.low)
  return np.rint(np.asarray(v, np.float64)).astype(np.int64)


def like(values: np.ndarray, v: Any) -> Any:
  """int64 as the kind of numbers that a rule was given."""
  if isinstance(v, Wide):
    return Wide(*map(jnp.asarray, wide(values)))
  return jnp.asarray(values.astype(np.asarray(v).dtype))


def with_rules(kernels: Kernels, make: Callable[..., Any]) -> Kernels:
  """Kernels whose sums are scaled by another rule.

  Args:
    kernels: that the rest is from.
    make: ``(numerators, output) -> rule``: the sum times all numerators, over the output's scale.
  """

  def sums(source: Grid, scales: np.ndarray, output: Grid, reach: Any) -> Any:
    return make((source.scale, scales), output)

  def matrices(left: Grid, right: Grid, output: Grid, reach: Any) -> Any:
    return make((left.scale, right.scale), output)

  return kernels._replace(
    convolution=sums,
    dense=sums,
    narrow={},
    matrices=matrices,
    product=lambda left, right, output: make((left.scale, right.scale), output),
    requantization=lambda source, output: make((source.scale,), output),
    mean=lambda source, output, count: OfMeans(make((source.scale, 1 / np.float64(count)), output)),
  )


def around(kernels: Kernels, rules: tuple[str, ...] = RULES, **parts: Any) -> Kernels:
  """Kernels with something before and after their rules; see :class:`Around`."""

  def wrapped(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *numbers: Around(make(*numbers), **parts)

  narrow = {name: wrapped(make) for name, make in kernels.narrow.items()}
  changed: dict[str, Any] = {name: wrapped(getattr(kernels, name)) for name in rules}
  return kernels._replace(narrow=narrow, **changed)


def of_kernels(name: str) -> str:
  """The rule of a runtime's kernels, in words."""
  return f"kernels of {name}"


def by_kernels(operation: Operation) -> Iterator[Hypothesis]:
  """The rules of all runtimes that are known."""
  for name in RUNTIMES:
    if name == operation.kernels_name:
      continue
    try:
      kernels = find_kernels(name, operation.bits)
    except ValueError:  # it has none of these bits
      continue
    yield Hypothesis(of_kernels(name), "", operation.with_kernels(kernels))


def by_rounding(operation: Operation) -> Iterator[Hypothesis]:
  """Sums that are scaled in another type, and rounded in another way."""
  if operation.node.op not in ROUNDED:
    return
  kernels, zero_point = operation.kernels, operation.output.zero_point
  for name, rounding in ROUNDINGS.items():
    words = "truncation" if name == "truncation" else f"rounding {name}"
    for kind, dtype in TYPES.items():
      for zero in (0, zero_point) if zero_point else (0,):
        if zero and kind == "float64" and name in ("half up", "down"):
          continue  # it makes no difference
        made = _in_floats(kernels, dtype, rounding, zero)
        detail = f"{kind} scale" + (", after the zero point was added" if zero else "")
        yield Hypothesis(words, detail, operation.with_kernels(made))
    if operation.bits == 8:
      of_integers = INTEGER_ROUNDINGS[name]
      made = with_rules(kernels, _fixed(of_integers))
      yield Hypothesis(words, "31-bit factor, rounded once", operation.with_kernels(made))
  if operation.bits == 8:
    for name, first in HIGH_PRODUCTS.items():
      for second in ("half up", "half away from zero", "down"):
        made = with_rules(kernels, _fixed(INTEGER_ROUNDINGS[second], first))
        detail = f"31-bit factor, first {name}, then {second}"
        yield Hypothesis("double rounding", detail, operation.with_kernels(made))


def _in_floats(kernels: Kernels, dtype: Any, rounding: Any, zero_point: int) -> Kernels:
  def make(numerators: Any, output: Grid) -> Any:
    first, *others = (np.asarray(part).astype(dtype) for part in numerators)
    factor = first
    for other in others:
      factor = factor * other
    return Scaled(factor / dtype(output.scale), rounding, zero_point)

  def pair(sign: int) -> Any:
    def make(left: Grid, right: Grid, output: Grid) -> Any:
      a, b = (dtype(grid.scale) / dtype(output.scale) for grid in (left, right))
      return OfPair(a, dtype(sign) * b, rounding, zero_point)

    return make

  def average(grid: Grid, counts: np.ndarray) -> Any:
    return OfCells(counts, zero_point, rounding)

  scaled = with_rules(kernels, make)
  return scaled._replace(addition=pair(1), subtraction=pair(-1), shift=pair(1), average=average)


def _fixed(rounding: Any, first: Any = None) -> Callable[..., Any]:
  def make(numerators: Any, output: Grid) -> Any:
    real: Any = np.float64(1)
    for part in numerators:
      real = real * np.asarray(part, np.float64)
    return FixedPoint(quantize_multiplier(real / np.float64(output.scale)), rounding, first)

  return make


def wrapped(values: Any, bits: int) -> Any:
  """Integers as so many bits hold them.

  Examples:
    >>> wrapped(np.array([127, 128, -129]), 8).tolist()
    [127, -128, 127]
  """
  half = 2 ** (bits - 1)
  return (values + half) % (2 * half) - half


def by_sums(operation: Operation) -> Iterator[Hypothesis]:
  """Sums that overflow, and results that are clamped too early, wrap around or lack their zero point."""
  if operation.node.op not in ROUNDED:
    return
  output, kernels = operation.output, operation.kernels
  zero, low, high = output.zero_point, output.low, output.high
  least, most = low + zero, high + zero  # codes

  def after(f: Callable[[Any], Any]) -> Operation:
    return operation.with_kernels(around(kernels, after=f))

  def before(f: Callable[[Any], Any]) -> Operation:
    made = around(kernels, SUMS, before=lambda v: like(f(whole(v)), v))
    return operation.with_kernels(made)

  if zero:
    yield Hypothesis(
      "clamped before the zero point was added",
      "",
      after(lambda steps: np.clip(steps, least, most)),
    )
    yield Hypothesis("output's zero point not added", "", after(lambda steps: steps - zero))
    yield Hypothesis("output's zero point subtracted", "", after(lambda steps: steps - 2 * zero))
  wraps = lambda steps: wrapped(steps + zero, output.bits) - zero  # noqa: E731
  yield Hypothesis("output wraps around in place of saturating", "", after(wraps))
  clamped = operation._replace(write=lambda outputs: tuple(map(wraps, outputs)))
  yield Hypothesis(
    "output wraps around in place of saturating",
    "after the activation function",
    clamped._replace(ends=_act_alone(operation)),
  )
  if operation.node.op in WEIGHTED:
    for bits in (16, 24, 32):
      limit = 2 ** (bits - 1)
      wrap = partial(wrapped, bits=bits)
      yield Hypothesis("accumulator wraps around", f"{bits} bits", before(wrap))
      saturate = partial(np.clip, a_min=-limit, a_max=limit - 1)
      yield Hypothesis("accumulator saturates", f"{bits} bits", before(saturate))
    yield from _bias(operation)


def _act_alone(operation: Operation) -> tuple[float, float]:
  """The ends that an activation function alone asks for."""
  act = operation.node.attrs.get("act")
  low, high = operation.clipped()
  return (
    -np.inf if act is None else float(low),
    np.inf if high == operation.output.high else float(high),
  )


def _bias(operation: Operation) -> Iterator[Hypothesis]:
  """A bias that is missing, or added after what should follow it."""
  integers, kernels = operation.integers, operation.kernels
  assert integers is not None
  without = operation._replace(integers=integers._replace(bias=np.zeros_like(integers.bias)))
  yield Hypothesis("bias missing", "", without)
  twice = integers._replace(bias=2 * integers.bias)
  yield Hypothesis("bias added twice", "", operation._replace(integers=twice))
  if operation.bits != 8 or operation.node.op == "ConvTranspose":
    return
  bias = integers.bias
  low, high = operation.clipped()
  act_low = float(low) if operation.node.attrs.get("act") is not None else -np.inf

  def late(of_sums: Callable[..., Any]) -> Callable[..., Any]:
    def make(*numbers: Any) -> Any:
      rule = of_sums(*numbers)
      steps = np.asarray(rule(jnp.asarray(_spread(bias, numbers[1]))), np.float64)
      return Around(rule, after=lambda found: np.clip(found, low, high) + steps)

    return make

  made = kernels._replace(
    convolution=late(kernels.convolution),
    dense=late(kernels.dense),
    narrow={name: late(rule) for name, rule in kernels.narrow.items()},
  )
  yield Hypothesis("clamped before the bias was added", "", without.with_kernels(made))
  if np.isfinite(act_low):

    def rectified(of_sums: Callable[..., Any]) -> Callable[..., Any]:
      def make(*numbers: Any) -> Any:
        added = _spread(bias, numbers[1])
        return Around(of_sums(*numbers), lambda v: like(np.maximum(whole(v), 0) + added, v))

      return make

    made = kernels._replace(
      convolution=rectified(kernels.convolution),
      dense=rectified(kernels.dense),
      narrow={name: rectified(rule) for name, rule in kernels.narrow.items()},
    )
    yield Hypothesis(
      "clamped before the bias was added",
      "the accumulator",
      without.with_kernels(made)._replace(ends=(float(operation.output.low), float(high))),
    )


def _spread(bias: np.ndarray, scales: np.ndarray) -> np.ndarray:
  """Biases in the shape of the scales that a rule is made with."""
  return bias.reshape(np.shape(scales))
