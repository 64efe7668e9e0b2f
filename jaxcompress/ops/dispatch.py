"""The one place where an operation's formulation is chosen: by backend, when it is traced.

On CPU these are the formulations that won measurements (``benchmarks/ops.py`` repeats them). On
GPU, XLA's depthwise convolution is slow too and its other convolutions are not; on TPU all of them
are native. The choices for GPU and TPU follow from what XLA is known to do there; they were not
timed here.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax

from jaxcompress.ops import depthwise, pointwise, reductions, standard
from jaxcompress.ops.xla import xla_conv


class Formulations(NamedTuple):
  """Name of the formulation of each kind of operation: a key of :data:`CHOICES`."""

  depthwise: str
  pointwise: str
  standard: str
  sums: str
  sums_of: str
  moments: str
  extremes: str


def _xla_depthwise(x, kernel, stride, pads):
  return xla_conv(x, kernel, stride, pads, groups=x.shape[-1])


def _xla_pointwise(x, kernel, stride):
  return xla_conv(x, kernel, stride, ((0, 0), (0, 0)))


CHOICES: Mapping[str, Mapping[str, Callable[..., Any]]] = {
  "depthwise": {
    "xla": _xla_depthwise,
    "taps": partial(depthwise.shifted, weight_gradient=depthwise.by_taps, keep_padded=False),
    "rows": partial(depthwise.shifted, weight_gradient=depthwise.by_rows, keep_padded=True),
  },
  "pointwise": {"xla": _xla_pointwise, "product": pointwise.matrix_product},
  "standard": {"xla": xla_conv, "cases": standard.by_case},
  "sums": {"apart": reductions.sums_apart, "together": reductions.sums_together},
  "sums_of": {"whole": reductions.sums_of_whole, "blocks": reductions.sums_of_blocks},
  "moments": {"apart": reductions.moments_apart, "together": reductions.moments_together},
  "extremes": {"apart": reductions.extremes_apart, "together": reductions.extremes_together},
}

BACKENDS: Mapping[str, Formulations] = {
  "cpu": Formulations(
    depthwise="rows",
    pointwise="product",
    standard="cases",
    sums="together",
    sums_of="blocks",
    moments="together",
    extremes="together",
  ),
  "gpu": Formulations(
    depthwise="taps",
    pointwise="product",
    standard="xla",
    sums="apart",
    sums_of="whole",
    moments="apart",
    extremes="apart",
  ),
  "tpu": Formulations(
    depthwise="xla",
    pointwise="xla",
    standard="xla",
    sums="apart",
    sums_of="whole",
    moments="apart",
    extremes="apart",
  ),
}
ALIASES = {"cuda": "gpu", "rocm": "gpu"}
XLA_ONLY = BACKENDS["tpu"]  # also the quickest to trace
"""XLA's own convolutions and reductions for everything."""

_chosen = jax.make_user_context(default_value=None)


def backend() -> str:
  """The key of :data:`BACKENDS` that programs are now traced for; heeds ``jax.default_device``."""
  device = jax.config.jax_default_device  # type: ignore[attr-defined]  # jax makes it when imported
  if device is None:
    return jax.default_backend()
  name = device if isinstance(device, str) else device.platform
  return ALIASES.get(name, name)


def current() -> Formulations:
  """The formulations in force: the context's, else the backend's."""
  return _chosen.value or BACKENDS.get(backend(), XLA_ONLY)


@contextmanager
def formulations(**names: str) -> Iterator[Formulations]:
  """Overrides how operations are computed by what is traced inside; for tests and benchmarks.

  ``jit`` keeps the programs of different contexts apart.

  Args:
    **names: formulation by kind of operation; kinds not given stay as they are. ``depthwise``:
      ``"xla"``, ``"taps"``, ``"rows"``; ``pointwise``: ``"xla"``, ``"product"``;
      ``standard``: ``"xla"``, ``"cases"``; ``sums``, ``moments`` and
      ``extremes``: ``"apart"``, ``"together"``; ``sums_of``: ``"whole"``, ``"blocks"``.

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


def pick(kind: str) -> Callable[..., Any]:
  """The function that computes one kind of operation here.

  Examples:
    >>> with formulations(pointwise="product"):
    ...   pick("pointwise").__name__
    'matrix_product'
  """
  return CHOICES[kind][getattr(current(), kind)]
