"""How runtimes round: a table from a runtime's name to its rules."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from jaxcompress.quantize.integer import reference, xnnpack
from jaxcompress.quantize.integer.values import Grid

Rule = Callable[..., jax.Array]


class Kernels(NamedTuple):
  """How a runtime rounds.

  Each function makes a rule in numpy: a pytree that, called under ``jit`` on exact integers (values
  of ``q - z``, their products or sums), gives the output's ``q - z``, not clipped yet. It raises
  ``ValueError`` for numbers that the runtime would refuse.

  Attributes:
    convolution: ``(source, scales, output, reach) -> rule(accumulator)``.
    dense: as ``convolution``, for linear layers.
    product: ``(left, right, output) -> rule(product)``.
    addition: ``(left, right, output) -> rule(left, right)``.
    mean: ``(source, output, cells) -> rule(map)``.
    ceiling: ``(value, output) -> code``: the highest one after an activation function.
  """

  convolution: Callable[[Grid, np.ndarray, Grid, np.ndarray], Rule]
  dense: Callable[[Grid, np.ndarray, Grid, np.ndarray], Rule]
  product: Callable[[Grid, Grid, Grid], Rule]
  addition: Callable[[Grid, Grid, Grid], Rule]
  mean: Callable[[Grid, Grid, int], Rule]
  ceiling: Callable[[float, Grid], np.float32]


MICRO = Kernels(
  convolution=reference.convolution,
  dense=reference.convolution,
  product=reference.product,
  addition=reference.addition,
  mean=reference.mean,
  ceiling=reference.ceiling,
)
KERNELS: Mapping[str, Kernels] = {
  "xnnpack": Kernels(
    convolution=xnnpack.convolution,
    dense=xnnpack.convolution,
    product=xnnpack.product,
    addition=xnnpack.addition,
    mean=xnnpack.mean,
    ceiling=xnnpack.ceiling,
  ),
  "reference": MICRO._replace(
    dense=reference.dense_in_float64, product=reference.product_in_float32
  ),
  "tflm": MICRO,
}


def find_kernels(name: str) -> Kernels:
  """The rules of a runtime by name.

  Raises:
    ValueError: if the name is unknown.

  Examples:
    >>> find_kernels("tflm").dense is find_kernels("tflm").convolution
    True
  """
  if name not in KERNELS:
    raise ValueError(f"kernels: {name!r} is unknown; it must be one of {', '.join(KERNELS)}.")
  return KERNELS[name]
