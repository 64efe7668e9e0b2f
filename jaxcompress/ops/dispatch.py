"""The one place where an operation's formulation is chosen: by backend, when it is traced.

The backend is the one that a program is made for: the host's, unless :func:`traced_for` names
another, as for a file that is to run elsewhere.

On CPU these are the formulations that won measurements (``benchmarks/ops.py`` repeats them). On
GPU, XLA's depthwise convolution is slow too and its other convolutions are not; on TPU all of them
are native. The choices for GPU and TPU follow from what XLA is known to do there; they were not
timed here. Where every backend must compute the same, there are matrix products and sums only.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.ops import depthwise, reductions, standard
from jaxcompress.ops.padding import Slide
from jaxcompress.ops.standard import xla_conv


class Formulations(NamedTuple):
  """Name of the formulation of each kind of operation: a key of :data:`CHOICES`."""

  depthwise: str
  pointwise: str
  standard: str
  reductions: str
  codes: str


def _xla_depthwise(x, kernel, slide, result=None):
  return xla_conv(x, kernel, slide, x.shape[-1], result)


def _xla_pointwise(x, kernel, stride, result=None):
  return xla_conv(x, kernel, Slide(stride, ((0, 0), (0, 0))), result=result)


def _unstrided(x, kernel, stride, result=None):
  """A matrix product, but of strided maps: XLA's own fusions on GPU end the process on some of these."""
  product = standard.matrix_product if stride == (1, 1) else _xla_pointwise
  return product(x, kernel, stride, result)


CHOICES: Mapping[str, Mapping[str, Any]] = {
  "depthwise": {
    "xla": _xla_depthwise,
    "taps": partial(depthwise.shifted, weight_gradient=depthwise.by_taps, keep_padded=False),
    "rows": partial(depthwise.shifted, weight_gradient=depthwise.by_rows, keep_padded=True),
  },
  "pointwise": {
    "xla": _xla_pointwise,
    "product": standard.matrix_product,
    "unstrided": _unstrided,
  },
  "standard": {
    "xla": xla_conv,
    "cases": standard.by_case,
    "products": standard.tap_products,
  },
  "reductions": {"apart": reductions.APART, "together": reductions.TOGETHER},
  "codes": {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "int8": jnp.int8},
}

BACKENDS: Mapping[str, Formulations] = {
  "cpu": Formulations(
    depthwise="rows",
    pointwise="product",
    standard="cases",
    reductions="together",
    codes="float32",
  ),
  "gpu": Formulations(
    depthwise="taps",
    pointwise="unstrided",
    standard="xla",
    reductions="apart",
    codes="bfloat16",
  ),
  "tpu": Formulations(
    depthwise="xla", pointwise="xla", standard="xla", reductions="apart", codes="bfloat16"
  ),
}
ALIASES = {"cuda": "gpu", "rocm": "gpu"}
XLA_ONLY = BACKENDS["tpu"]  # also the quickest to trace
"""XLA's own convolutions and reductions for everything."""
ANYWHERE = "anywhere"
"""The name of no backend in particular: of a program that is for all of them."""
ROUNDING = ("gpu", "tpu")
"""The backends that multiply float32 numbers as TF32 or bfloat16, unless they are told otherwise."""
FEWER_DIGITS = (None, "default", "fastest", "bfloat16", "tensorfloat32")
"""The settings of ``jax_default_matmul_precision`` with which they do."""
WITHOUT_CONVOLUTIONS = {"depthwise": "taps", "pointwise": "product", "standard": "products"}

_chosen = jax.make_user_context(default_value=None)
_target = jax.make_user_context(default_value=None)
_only_shapes = jax.make_user_context(default_value=False)


def backend() -> str:
  """The backend that programs are now traced for: a key of :data:`BACKENDS` or :data:`ANYWHERE`.

  It is the one of :func:`traced_for`, else that of ``jax.default_device``, else the host's.
  """
  return default_platform() if _target.value is None else _target.value


def default_platform() -> str:
  """Where programs of arrays that lie nowhere in particular run: a key of :data:`BACKENDS`.

  It is that of ``jax.default_device``, else the host's.
  """
  device = jax.config.jax_default_device  # type: ignore[attr-defined]  # jax makes it when imported
  if device is None:
    return jax.default_backend()
  name = device if isinstance(device, str) else device.platform
  return ALIASES.get(name, name)


@contextmanager
def traced_for(name: str, *, unless_named: bool = False) -> Iterator[None]:
  """Whatever is traced inside is for one backend, or for all, whichever the host has.

  Args:
    name: ``"cpu"``, ``"gpu"``, ``"tpu"``, or :data:`ANYWHERE`: formulations are XLA's own.
    unless_named: whether it counts only where no other ``traced_for`` is around it.

  Raises:
    ValueError: for another name.

  Examples:
    >>> with traced_for("tpu"):
    ...   backend()
    'tpu'
  """
  if name not in (*BACKENDS, ANYWHERE):
    raise ValueError(
      f"name: {name!r} is no backend; it must be one of {', '.join((*BACKENDS, ANYWHERE))}."
    )
  with _target(_target.value if unless_named and _target.value is not None else name):
    yield


def rounds_products(dtype: Any) -> bool:
  """Whether products of arrays of a dtype are those of numbers with fewer digits than float32 has.

  Args:
    dtype: of the arrays: float32 is multiplied so on TPUs and GPUs, at JAX's default precision, and
      bfloat16 everywhere.

  Examples:
    >>> rounds_products(jnp.float32), rounds_products(jnp.bfloat16)
    (False, True)
    >>> with traced_for("tpu"):
    ...   rounds_products(jnp.float32)
    True
  """
  if dtype == jnp.bfloat16:
    return True
  precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # as above
  return dtype == jnp.float32 and backend() in ROUNDING and precision in FEWER_DIGITS


@contextmanager
def exact_convolutions() -> Iterator[None]:
  """Convolutions traced inside are exact where each sum of integers is below ``2**24``.

  On CPU all formulations are. Other backends have convolutions that are not, so there they are
  matrix products and sums.

  Examples:
    >>> with traced_for(ANYWHERE), exact_convolutions():
    ...   pick("standard").__name__
    'tap_products'
  """
  if backend() == "cpu":
    yield
  else:
    with formulations(**WITHOUT_CONVOLUTIONS):
      yield


def current() -> Formulations:
  """The formulations in force: the context's, else the backend's."""
  return _chosen.value or BACKENDS.get(backend(), XLA_ONLY)


@contextmanager
def formulations(**names: str) -> Iterator[Formulations]:
  """Overrides the formulations of operations that are traced inside; for tests and benchmarks.

  ``jit`` keeps the programs of different contexts apart.

  Args:
    **names: formulation by kind of operation; kinds not given stay as they are. ``depthwise``:
      ``"xla"``, ``"taps"``, ``"rows"``; ``pointwise``: ``"xla"``, ``"product"``, ``"unstrided"``;
      ``standard``: ``"xla"``, ``"cases"``, ``"products"``; ``reductions``: ``"apart"``,
      ``"together"``; ``codes``, what those of grids are multiplied as: ``"float32"``,
      ``"bfloat16"``, ``"int8"``.

  Yields:
    The :class:`Formulations` in force.

  Raises:
    ValueError: for an unknown kind or formulation.

  Examples:
    >>> with formulations(depthwise="xla") as names:
    ...   names.depthwise
    'xla'
  """
  for kind, name in names.items():
    if kind not in CHOICES:
      raise ValueError(
        f"formulations: {kind!r} is no kind of operation; they are {', '.join(CHOICES)}."
      )
    if name not in CHOICES[kind]:
      choices = ", ".join(CHOICES[kind])
      raise ValueError(f"{kind}: {name!r} is no formulation; it must be one of {choices}.")
  chosen = current()._replace(**names)
  with _chosen(chosen):
    yield chosen


def pick(kind: str) -> Any:
  """The function, or functions, that compute one kind of operation here.

  Examples:
    >>> with formulations(pointwise="product"):
    ...   pick("pointwise").__name__
    'matrix_product'
  """
  return CHOICES[kind][getattr(current(), kind)]


@contextmanager
def only_shapes() -> Iterator[None]:
  """Leaf ops called inside return arrays of the right shapes and dtypes, with any values.

  Without normalization, activation functions and random numbers a graph is recorded in less than half
  of the time.

  Examples:
    >>> with only_shapes():
    ...   shapes_alone()
    True
  """
  with _only_shapes(True), formulations(**XLA_ONLY._asdict()):
    yield


def shapes_alone() -> bool:
  """Whether values do not matter here."""
  return _only_shapes.value
