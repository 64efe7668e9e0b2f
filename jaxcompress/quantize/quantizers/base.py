"""The form of a quantizer, and what several share: checks and straight-through estimators."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Collection
from typing import Any, Literal, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_type
from jaxcompress.ops.sums import channel_sums, total
from jaxcompress.quantize.fake_quant import Levels, check_bits, finite

EDGE = 1e-3  # steps beyond an edge that still count as on it: x * (1 / s) is not exact
LEAST_STEP = 1e-8
INT8 = Levels(-127, 127, True)  # of weights

Kind = Literal["weights", "activations"]
EXAMPLES: dict[Kind, str] = {
  "weights": "absmax(8) or lsq(4)",
  "activations": "ema_range(8) or lsq_activations(4)",
}


Settings = ParamSpec("Settings")


def largest(a: Any, b: Any) -> Any:
  """Joins two states leaf by leaf, by their maximum."""
  return jax.tree.map(jnp.maximum, a, b)


@dataclasses.dataclass(frozen=True)
class FusedRounding:
  """An ``apply`` of activations that measures first, and then rounds element by element.

  A normalization can end in it (:class:`jaxcompress.nn.epilogue.Epilogue`).

  Attributes:
    prepare: ``(params, state, x, *, train, nonnegative) -> (trained, fixed, state)``. Two tuples of
      scalars: those with respect to which there is a gradient, and the others.
    forward: ``(x, trained, fixed) -> y``; differentiable.
    backward: see :class:`jaxcompress.nn.epilogue.Epilogue`.
    by_ends: likewise.
  """

  prepare: Callable
  forward: Callable
  backward: Callable | None = None
  by_ends: bool = False

  def __call__(
    self,
    params: Any,
    state: Any,
    x: jax.Array,
    *,
    train: bool | jax.Array = True,
    nonnegative: bool = False,
    rng: jax.Array | None = None,
  ) -> tuple[jax.Array, Any]:
    """As ``apply`` of a :class:`Quantizer`."""
    del rng
    trained, fixed, state = self.prepare(params, state, x, train=train, nonnegative=nonnegative)
    return self.forward(x, trained, fixed), state


class Quantizer(NamedTuple):
  """A fake quantizer of weights or activations in training, as pure functions.

  Kernels have their output channels last. For activations ``init`` needs the shape only, the batch
  first; a :class:`jax.ShapeDtypeStruct` will do.

  Attributes:
    init: ``(x) -> (params, state)``. What is trained, and what runs along, such as ranges.
    apply: ``(params, state, x, *, train, nonnegative=False, rng=None) -> (y, state)``. ``x`` on its
      grid, in its dtype, with a straight-through gradient. The state changes only where ``train``,
      a bool or a scalar bool array. ``nonnegative`` promises that ``x`` is at least zero. ``rng``
      is for stochastic rounding; without it everything is rounded to nearest. A
      :class:`FusedRounding` if it can be taken apart.
    grid: ``(params, state, x) -> (scale, zero_point)``. The grid on which ``apply`` puts ``x``, so
      that ``round(y / scale) + zero_point`` are the integers to export. Kernels: shaped
      ``(1, ..., 1, out)`` and zero point 0; activations: scalars, and ``x`` is not read.
    levels: the integers.
    merge: ``(state, state) -> state``. One state for two tensors that share a grid.
    training_only: why no integer file can hold what ``apply`` gives; None where one can.
    fits: what it is for: ``"weights"``, ``"activations"``, or ``"both"``. A plan or a rule that
      would use it for the other is refused.
    call: the call that makes it, such as ``"lsq(4)"``, as which it prints; see :func:`named`.
  """

  init: Callable
  apply: Callable
  grid: Callable
  levels: Levels
  merge: Callable = largest
  training_only: str | None = None
  fits: Kind | Literal["both"] = "both"
  call: str = ""

  @property
  def keeps_range(self) -> bool:
    """Whether it rounds activations by ends that it counts on from step to step, and by nothing else.

    Then it can round by those of the step before: ``by_ends`` of its ``apply``, a
    :class:`FusedRounding`, is set, and its state has a ``count`` of the tensors that it has seen.
    """
    if not (isinstance(self.apply, FusedRounding) and self.apply.by_ends):
      return False
    _, state = self.init(jax.ShapeDtypeStruct((1, 1), jnp.float32))
    return "count" in getattr(state, "_fields", ())

  def __repr__(self) -> str:
    return self.call or f"Quantizer(levels={self.levels}, fits={self.fits!r})"


def named(make: Callable[Settings, Quantizer]) -> Callable[Settings, Quantizer]:
  """Decorates a function that makes quantizers: what it makes prints as the call that made it.

  Positional arguments are always told, the others where they are not the default.

  Examples:
    >>> from jaxcompress.quantize.quantizers.lsq import lsq
    >>> lsq(), lsq(4, per_channel=False)
    (lsq(8), lsq(4, per_channel=False))
  """
  signature = inspect.signature(make)
  text = lambda value: getattr(value, "__name__", repr(value))  # noqa: E731

  @functools.wraps(make)
  def wrapped(*args: Settings.args, **kwargs: Settings.kwargs) -> Quantizer:
    quantizer = make(*args, **kwargs)
    given = signature.bind(*args, **kwargs)
    given.apply_defaults()
    words = [text(value) for value in given.args]
    for name, value in given.kwargs.items():
      if value != signature.parameters[name].default:
        words.append(f"{name}={text(value)}")
    return quantizer._replace(call=f"{make.__name__}({', '.join(words)})")

  return wrapped


def stateless(
  to: Levels,
  fits: Kind,
  function: Callable[[Any, jax.Array], jax.Array],
  grid: Callable[[Any], tuple[jax.Array, jax.Array]],
  *,
  init: Callable[[Any], Any] = lambda x: (),
  training_only: str | None = None,
) -> Quantizer:
  """Makes a quantizer whose values follow from the tensor, and from what is trained if anything.

  Args:
    to: the integers.
    fits: ``"weights"`` or ``"activations"``.
    function: ``(params, x) -> y``, the tensor on its grid.
    grid: ``x -> (scale, zero_point)``; of activations, ``x`` is None.
    init: ``x -> params``; by default nothing is trained.
    training_only: see :class:`Quantizer`.
  """

  def apply(params, state, x, *, train=True, nonnegative=False, rng=None):
    del train, nonnegative, rng
    return function(params, x), state

  return Quantizer(
    lambda x: (init(x), ()),
    apply,
    lambda params, state, x=None: grid(x),
    to,
    training_only=training_only,
    fits=fits,
  )


def check_quantizer(argument: str, quantizer: Any, kind: Kind | None = None) -> None:
  """Checks that an argument is a quantizer, and one for weights or for activations.

  Args:
    argument: its name.
    quantizer: what was given.
    kind: what it will be used for; None: either.

  Raises:
    ValueError: if it is not.

  Examples:
    >>> from jaxcompress.quantize.quantizers.uniform import ema_range
    >>> check_quantizer("activations", ema_range(8), "activations")
    >>> check_quantizer("weights", ema_range(8), "weights")
    Traceback (most recent call last):
    ValueError: weights must be a quantizer for weights, such as absmax(8) or lsq(4), got one for activations.
  """
  wanted = "a quantizer" if kind is None else f"a quantizer for {kind}, such as {EXAMPLES[kind]}"
  check_type(argument, quantizer, Quantizer, wanted)
  if kind is not None and quantizer.fits not in (kind, "both"):
    raise ValueError(f"{argument} must be {wanted}, got one for {quantizer.fits}.")


def check_choice(argument: str, value: str, known: Collection[str]) -> None:
  """Checks that an argument is one of the words that are known.

  Raises:
    ValueError: if it is not.

  Examples:
    >>> check_choice("gradient", "max", ("sum", "mean"))
    Traceback (most recent call last):
    ValueError: gradient: 'max' is unknown; it is one of sum, mean.
  """
  if value not in known:
    raise ValueError(f"{argument}: {value!r} is unknown; it is one of {', '.join(known)}.")


def check_activation_bits(bits: int, fewest: int = 2, most: int = 8) -> None:
  """Checks that a method has so many levels; beyond them, names those that have.

  Raises:
    ValueError: if it has not.
  """
  if most < bits <= 16:
    raise ValueError(
      f"bits: {bits} is out of range; activations have {fewest} to {most} here; ema_range,"
      " minmax_range, mean_range and lsq_activations have up to 16."
    )
  check_bits("bits", bits, most, fewest=fewest)


@jax.custom_jvp
def positive(x: jax.Array) -> jax.Array:
  """Returns ``x``, at least ``LEAST_STEP``, with gradient 1 everywhere, so that a lost step finds its way back.

  Examples:
    >>> value, slope = jax.value_and_grad(positive)(jnp.float32(-1.0))
    >>> float(slope), bool(value > 0)
    (1.0, True)
  """
  return jnp.maximum(x, LEAST_STEP)


positive.defjvps(lambda tangent, y, x: tangent)


@jax.custom_jvp
def sloped(x: jax.Array, slope: jax.Array | float) -> jax.Array:
  """``x``, with gradient ``slope``.

  Examples:
    >>> value, slope = jax.value_and_grad(sloped)(2.0, 0.25)
    >>> float(value), float(slope)
    (2.0, 0.25)
  """
  del slope
  return x


sloped.defjvps(lambda tangent, y, x, slope: tangent * slope, None)


@jax.custom_jvp
def round_through(x: jax.Array) -> jax.Array:
  """Rounds half to even, with gradient 1.

  Examples:
    >>> value, slope = jax.value_and_grad(round_through)(jnp.float32(2.5))
    >>> float(value), float(slope)
    (2.0, 1.0)
  """
  return jnp.round(x)


round_through.defjvps(lambda tangent, y, x: tangent)


def axes_within(x: jax.Array, per_channel: bool) -> tuple[int, ...]:
  """The axes over which one scale is shared: all, or all but the last."""
  return tuple(range(x.ndim - 1 if per_channel else x.ndim))


def spread(scale: jax.Array | float, x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """A kernel's grid as :class:`Quantizer` promises it: ``(1, ..., 1, out)``, and zero point 0."""
  shape = (1,) * (x.ndim - 1) + x.shape[-1:]
  scale = jnp.asarray(scale, jnp.float32)
  if scale.ndim == 0:
    scale = scale.reshape((1,) * x.ndim)
  scale = jnp.broadcast_to(finite(scale), shape)
  return scale, jnp.zeros_like(scale)


def features(x: jax.Array) -> int:
  """Numbers in one example of a batch."""
  return max(1, math.prod(x.shape[1:]))


def sum_to(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Sums whatever broadcasting ``shape`` against ``x`` repeats.

  Examples:
    >>> sum_to(jnp.ones((2, 3, 4)), (1, 1, 4)).tolist()
    [[[6.0, 6.0, 6.0, 6.0]]]
    >>> float(sum_to(jnp.ones((2, 3)), ()))
    6.0
  """
  if not shape:
    return total(x)
  if shape == (1,) * (x.ndim - 1) + x.shape[-1:]:
    return channel_sums(x.reshape(1, -1, x.shape[-1]))[0].reshape(shape)
  repeated = [i for i, n in enumerate(shape) if n == 1 and x.shape[i] != 1]
  return jnp.sum(x, tuple(repeated), keepdims=True)


def sides(to: Levels, signed: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Zero point of a grid that is not shifted freely, and its lowest and highest step from zero.

  Without negative values all levels are at least zero, unless the grid is symmetric.

  Examples:
    >>> from jaxcompress.quantize.fake_quant import levels
    >>> [float(n) for n in sides(levels(4, symmetric=False), jnp.bool_(False))]
    [-8.0, 0.0, 15.0]
    >>> [float(n) for n in sides(levels(4, symmetric=False), jnp.bool_(True))]
    [0.0, -8.0, 7.0]
  """
  zero = jnp.where(signed | to.symmetric, 0.0, float(to.low))
  return zero, to.low - zero, to.high - zero
