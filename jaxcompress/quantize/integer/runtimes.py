"""How runtimes round: a table from a runtime's name and the bits of activations to its rules."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxcompress.quantize.integer import onnxruntime, reference, wide, xnnpack
from jaxcompress.quantize.integer.grid import Grid


class Rounding(Protocol):
  """Rounds integers as a runtime does, under ``jit``."""

  def __call__(self, *args: Any) -> Any: ...


OfSums = Callable[[Grid, np.ndarray, Grid, np.ndarray], Rounding]
OfPair = Callable[[Grid, Grid, Grid], Rounding]


class Kernels(NamedTuple):
  """How a runtime rounds.

  Each function makes a rule in numpy: a pytree that, called under ``jit`` on exact integers (values
  of ``q - z``, their products or sums; with 16 bits, sums of products are
  :class:`~jaxcompress.quantize.integer.wide.Wide`), gives the output's ``q - z``, not clipped yet. It raises
  ``ValueError`` for numbers that the runtime would refuse.

  Attributes:
    convolution: ``(source, scales, output, reach) -> rule(accumulator)``.
    dense: as ``convolution``, for linear layers.
    product: ``(left, right, output) -> rule(product)``.
    addition: ``(left, right, output) -> rule(left, right)`` of two maps.
    shift: as ``addition``, of a map and a constant.
    tables: whose tables of activation functions it has; see
      :class:`~jaxcompress.quantize.integer.functions.Function`.
    requantization: ``(source, output) -> rule(map)``, from one grid to another.
    mean: ``(source, output, cells) -> rule(map)``.
    average: ``(grid, counts) -> rule(maps)`` of the maps of each cell of a window, zero where there
      is none; the counts are those of the cells that exist.
    ceiling: ``(value, output) -> code``: the highest one after an activation function.
    input_steps: ``(images, grid) -> steps``: float images, to be rounded half to even.
    narrow: as ``convolution``, of weights that the file holds in 4 bits, by kind:
      ``"plain"``, ``"depthwise"`` or ``"grouped"``; those that are missing do not differ.
  """

  convolution: OfSums
  dense: OfSums
  product: OfPair
  addition: OfPair
  shift: OfPair
  tables: str
  requantization: Callable[[Grid, Grid], Rounding]
  mean: Callable[[Grid, Grid, int], Rounding]
  average: Callable[[Grid, np.ndarray], Rounding]
  ceiling: Callable[[float, Grid], np.float32]
  input_steps: Callable[[Any, Grid], Any]
  narrow: Mapping[str, OfSums] = MappingProxyType({})


def adds_zero(source: Grid, output: Grid) -> bool:
  """Whether a .tflite file requantizes by an addition of zero; QUANTIZE does so elsewhere.

  XNNPACK's addition has factors of 21 bits, its QUANTIZE of 8 bits after the point, which is nothing
  for a tensor that is a hundred times finer than its output. It has no addition of 16 bits, nor of
  what is below a 1024th of the output's steps; from such inputs QUANTIZE makes zeros.

  Examples:
    >>> adds_zero(Grid(np.float32(0.1), 3), Grid(np.float32(2), 0))
    True
    >>> adds_zero(Grid(np.float32(0.1), 3), Grid(np.float32(200), 0))
    False
  """
  return bool(source.bits == output.bits == 8 and _finest(output) <= source.scale)


def _finest(output: Grid) -> np.float32:
  """The least step of a summand."""
  return np.float32(output.scale) * np.float32(xnnpack.RATIOS["add"][0])


def _by_addition(addition: OfPair) -> Callable[[Grid, Grid], Rounding]:
  """The requantization of a runtime for .tflite files, from its addition."""

  def requantization(source: Grid, output: Grid) -> Rounding:
    if {source.bits, output.bits} != {8}:
      return reference.requantization(source, output)
    source = source._replace(scale=max(source.scale, _finest(output)))  # below it all are zeros
    return reference.WithZero(addition(source, source, output))

  return requantization


MICRO = Kernels(
  convolution=reference.convolution,
  dense=reference.convolution,
  product=reference.product,
  addition=reference.addition,
  shift=reference.addition,
  tables="tflm",
  requantization=_by_addition(reference.addition),
  mean=reference.mean,
  average=reference.average,
  ceiling=reference.ceiling,
  input_steps=reference.input_steps,
)
KERNELS: Mapping[str, Kernels] = {
  "xnnpack": Kernels(
    convolution=xnnpack.convolution,
    dense=xnnpack.convolution,
    product=xnnpack.product,
    addition=xnnpack.addition,
    shift=xnnpack.addition,
    tables="xnnpack",
    requantization=_by_addition(xnnpack.addition),
    mean=xnnpack.mean,
    average=reference.average,
    ceiling=xnnpack.ceiling,
    input_steps=xnnpack.input_steps,
  ),
  "reference": MICRO._replace(
    dense=reference.dense_in_float64, product=reference.product_in_float32, tables="reference"
  ),
  "tflm": MICRO,
  "onnxruntime": Kernels(
    convolution=xnnpack.convolution,
    dense=xnnpack.convolution,
    product=onnxruntime.product,
    addition=onnxruntime.addition,
    shift=onnxruntime.addition,
    tables="onnxruntime",
    requantization=onnxruntime.requantization,
    mean=onnxruntime.mean,
    average=onnxruntime.average,
    ceiling=xnnpack.ceiling,
    input_steps=onnxruntime.input_steps,
  ),
}
VARIANTS: Mapping[str, Kernels] = {  # XNNPACK leaves int4 convolutions to LiteRT's own kernels
  "xnnpack-int4": KERNELS["xnnpack"]._replace(
    narrow={
      "plain": reference.convolution_upward,
      "grouped": reference.convolution,
      "depthwise": reference.depthwise_upward,
    }
  )
}
MICRO_16 = MICRO._replace(convolution=wide.convolution, dense=wide.convolution, tables="int16")
REFERENCE_16 = MICRO_16._replace(product=reference.product_in_float32)
OWN_16 = REFERENCE_16._replace(addition=wide.addition)  # LiteRT's: XNNPACK has no 16 bits
RATIOS = {8: xnnpack.RATIOS, 16: wide.RATIOS}  # of scales, that all runtimes run, by bits
MARGIN = 1 + 2.0**-10  # keeps float32 rounding on the right side of a limit
KERNELS_16: Mapping[str, Kernels] = {  # of 16-bit activations
  "xnnpack": OWN_16,
  "xnnpack-int4": OWN_16,
  "reference": REFERENCE_16,
  "tflm": MICRO_16,
}


def kernels_of_file(name: str, *, int4: bool) -> str:
  """The kernels that a runtime has for a file.

  Args:
    name: of the runtime's.
    int4: whether the file holds weights in 4 bits.

  Examples:
    >>> kernels_of_file("xnnpack", int4=True), kernels_of_file("tflm", int4=True)
    ('xnnpack-int4', 'tflm')
  """
  if name.split("-")[0] != "xnnpack":
    return name
  return "xnnpack-int4" if int4 else "xnnpack"


def find_kernels(name: str, bits: int = 8) -> Kernels:
  """The rules of a runtime by name.

  Args:
    name: of the runtime.
    bits: 8 or 16, of the activations.

  Raises:
    ValueError: if the name is unknown, or the runtime has no integers of that width.

  Examples:
    >>> find_kernels("tflm").dense is find_kernels("tflm").convolution
    True
  """
  known = {**KERNELS, **VARIANTS}
  if name not in known:
    raise ValueError(f"kernels: {name!r} is unknown; it must be one of {', '.join(known)}.")
  if bits == 16 and name not in KERNELS_16:
    raise ValueError(
      f"kernels: {name!r} has no 16-bit activations; use 8 bits, or one of {', '.join(KERNELS_16)}."
    )
  return (KERNELS_16 if bits == 16 else known)[name]
