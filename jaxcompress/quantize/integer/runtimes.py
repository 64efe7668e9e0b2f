"""Kernel rules of runtimes: a table from a runtime's name and the bits of activations to its rules."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxcompress.codes import INPUT_STEPS
from jaxcompress.quantize.integer import (
  bilinear,
  leaky,
  onnxruntime,
  reference,
  softmax,
  wide,
  xnnpack,
)
from jaxcompress.quantize.integer.grid import Grid


class Rounding(Protocol):
  """Rounds integers as a runtime does, under ``jit``."""

  def __call__(self, *args: Any) -> Any: ...


OfSums = Callable[[Grid, np.ndarray, Grid, np.ndarray], Rounding]
OfPair = Callable[[Grid, Grid, Grid], Rounding]


class Kernels(NamedTuple):
  """The kernel rules of a runtime: how it rounds each operation.

  Each function makes a rule in numpy: a pytree that, called under ``jit`` on exact integers (values
  of ``q - z``, their products or sums; with 16 bits, sums of products are
  :class:`~jaxcompress.quantize.integer.wide.Wide`), gives the output's ``q - z``, not clipped yet. It raises
  ``ValueError`` for numbers that the runtime would refuse.

  Attributes:
    convolution: ``(source, scales, output, reach) -> rule(accumulator)``.
    dense: as ``convolution``, for linear layers.
    matrices: ``(left, right, output, reach) -> rule(accumulator)``, of two activations.
    product: ``(left, right, output) -> rule(product)``.
    addition: ``(left, right, output) -> rule(left, right)`` of two maps.
    subtraction: as ``addition``, of the left map less the right one.
    shift: as ``addition``, of a map and a constant.
    tables: whose tables of activation functions it has; see
      :class:`~jaxcompress.quantize.integer.functions.Function`.
    leaky: ``(slope, source, output) -> table`` of a leaky rectifier: the output's ``q - z`` for every
      code of the input, float32.
    softmax: ``(source, output, channels) -> rule(map)``.
    requantization: ``(source, output) -> rule(map)``, from one grid to another.
    quantize: likewise, by the operator QUANTIZE, where a file has it in place of an addition of zero.
    mean: ``(source, output, cells) -> rule(map)``.
    bilinear: ``(grid, size, to, sampling) -> rule(map)``, of a resizing.
    average: ``(grid, counts) -> rule(maps)`` of the maps of each cell of a window, zero where there
      is none; the counts are those of the cells that exist.
    whole_is_mean: whether an average of the whole map is computed as ``mean``.
    dense_is_convolution: whether the operator of linear layers rounds 16 bits as a convolution does.
    ceiling: ``(value, output) -> code``: the highest one after an activation function.
    input_steps: ``(images, scale) -> steps``: float images, to be rounded half to even.
    narrow: as ``convolution``, of weights that the file holds in 4 bits, by kind:
      ``"plain"``, ``"depthwise"`` or ``"grouped"``; those that are missing do not differ.
  """

  convolution: OfSums
  dense: OfSums
  matrices: Callable[[Grid, Grid, Grid, int], Rounding]
  product: OfPair
  addition: OfPair
  subtraction: OfPair
  shift: OfPair
  tables: str
  leaky: Callable[[float, Grid, Grid], np.ndarray]
  softmax: Callable[[Grid, Grid, int], Rounding]
  requantization: Callable[[Grid, Grid], Rounding]
  quantize: Callable[[Grid, Grid], Rounding]
  mean: Callable[[Grid, Grid, int], Rounding]
  average: Callable[[Grid, np.ndarray], Rounding]
  bilinear: bilinear.OfMaps
  ceiling: Callable[[float, Grid], np.float32]
  input_steps: Callable[[Any, Any], Any]
  narrow: Mapping[str, OfSums] = MappingProxyType({})
  whole_is_mean: bool = False
  dense_is_convolution: bool = True


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


def _quantize(source: Grid, output: Grid) -> Rounding:
  """XNNPACK's QUANTIZE of 8 bits; what it does not take is left to LiteRT's own."""
  ratio = np.float32(source.scale) / np.float32(output.scale)
  low, high = xnnpack.QUANTIZED
  if {source.bits, output.bits} == {8} and low <= ratio <= high:
    return xnnpack.quantize(source, output)
  return reference.requantization(source, output)


def _delegated(left: Grid, right: Grid, output: Grid, reach: int) -> Rounding:
  """XNNPACK's matrix product where zero has code 0 in the second array; elsewhere LiteRT's own."""
  place = xnnpack if right.zero_point == 0 else reference
  return place.matrices(left, right, output, reach)


MICRO = Kernels(
  convolution=reference.convolution,
  dense=reference.convolution,
  matrices=reference.matrices,
  product=reference.product,
  addition=reference.addition,
  subtraction=reference.subtraction,
  shift=reference.addition,
  tables="tflm",
  leaky=leaky.micro,
  softmax=softmax.reference,
  requantization=_by_addition(reference.addition),
  quantize=reference.requantization,
  mean=reference.mean,
  average=reference.average,
  bilinear=bilinear.reference,
  ceiling=reference.ceiling,
  input_steps=INPUT_STEPS["tflm"],
)
KERNELS: Mapping[str, Kernels] = {
  "xnnpack": Kernels(
    convolution=xnnpack.convolution,
    dense=xnnpack.convolution,
    matrices=_delegated,
    product=xnnpack.product,
    addition=xnnpack.addition,
    subtraction=xnnpack.subtraction,
    shift=xnnpack.addition,
    tables="xnnpack",
    leaky=leaky.xnnpack,
    softmax=softmax.litert,
    requantization=_by_addition(xnnpack.addition),
    quantize=_quantize,
    mean=xnnpack.mean,
    average=reference.average,
    bilinear=bilinear.xnnpack,
    ceiling=xnnpack.ceiling,
    input_steps=INPUT_STEPS["xnnpack"],
  ),
  "reference": MICRO._replace(
    dense=reference.dense_in_float64,
    product=reference.product_in_float32,
    tables="reference",
    leaky=leaky.reference,
  ),
  "tflm": MICRO,
  "onnxruntime": Kernels(
    convolution=xnnpack.convolution,
    dense=xnnpack.convolution,
    matrices=xnnpack.matrices,
    product=onnxruntime.product,
    addition=onnxruntime.addition,
    subtraction=onnxruntime.subtraction,
    shift=onnxruntime.addition,
    tables="onnxruntime",
    leaky=leaky.onnxruntime,
    softmax=softmax.onnxruntime,
    requantization=onnxruntime.requantization,
    quantize=onnxruntime.requantization,
    mean=onnxruntime.mean,
    average=onnxruntime.average,
    whole_is_mean=True,
    bilinear=bilinear.exact,
    ceiling=xnnpack.ceiling,
    input_steps=INPUT_STEPS["onnxruntime"],
  ),
}
OF_ARM64 = "-arm64"  # how the names of kernels end that only those processors have
NARROW: Mapping[str, OfSums] = {  # XNNPACK leaves int4 convolutions to LiteRT's own kernels
  "plain": reference.convolution_upward,
  "grouped": reference.convolution,
  "depthwise": reference.depthwise_upward,
}
ARM64 = KERNELS["xnnpack"]._replace(
  product=xnnpack.product_arm64,
  softmax=softmax.litert_arm64,
  mean=xnnpack.mean_arm64,
  tables="xnnpack-arm64",
)
NARROW_ARM64 = {kind: rule for kind, rule in NARROW.items() if kind != "plain"}
VARIANTS: Mapping[str, Kernels] = {
  "xnnpack-int4": KERNELS["xnnpack"]._replace(narrow=NARROW),
  "xnnpack-arm64": ARM64,
  "xnnpack-int4-arm64": ARM64._replace(narrow=NARROW_ARM64),
  "onnxruntime-arm64": KERNELS["onnxruntime"]._replace(
    product=onnxruntime.product_arm64,
    addition=onnxruntime.addition_arm64,
    shift=onnxruntime.addition_arm64,
    tables="onnxruntime-arm64",
  ),
}
MICRO_16 = MICRO._replace(
  convolution=wide.convolution,
  dense=wide.convolution,
  bilinear=bilinear.missing,
  tables="int16",
  softmax=softmax.wide_micro,
)
REFERENCE_16 = MICRO_16._replace(
  product=reference.product_in_float32,
  bilinear=bilinear.reference,
  leaky=leaky.reference,
  softmax=softmax.wide,
  dense_is_convolution=False,
)
OWN_16 = REFERENCE_16._replace(addition=wide.addition)  # LiteRT's: XNNPACK has no 16 bits
RATIOS = {8: xnnpack.RATIOS, 16: wide.RATIOS}  # of scales, that all runtimes run, by bits
MARGIN = 1 + 2.0**-10  # keeps float32 rounding on the right side of a limit
KERNELS_16: Mapping[str, Kernels] = {  # of 16-bit activations
  "xnnpack": OWN_16,
  "xnnpack-int4": OWN_16,
  "reference": REFERENCE_16,
  "tflm": MICRO_16,
}


def kernels_of_file(name: str, *, int4: bool, arm64: bool = False) -> str:
  """The kernels that a runtime has for a file.

  Args:
    name: of the runtime's.
    int4: whether the file holds weights in 4 bits.
    arm64: whether it runs on 64-bit Arm.

  Examples:
    >>> kernels_of_file("xnnpack", int4=True), kernels_of_file("tflm", int4=True)
    ('xnnpack-int4', 'tflm')
    >>> kernels_of_file("xnnpack-int4", int4=False, arm64=True)
    'xnnpack-arm64'
  """
  name = runtime_of(name)
  for suffix in ("-int4" * int4, OF_ARM64 * arm64):
    name = f"{name}{suffix}" if f"{name}{suffix}" in VARIANTS else name
  return name


def runtime_of(name: str) -> str:
  """The runtime that has some kernels, under one of the names of :data:`KERNELS`.

  Examples:
    >>> runtime_of("xnnpack-int4-arm64")
    'xnnpack'
  """
  return name.split("-")[0]


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
  if bits == 8:
    return known[name]
  if runtime_of(name) not in KERNELS_16:
    raise ValueError(
      f"kernels: {name!r} has no 16-bit activations; use 8 bits, or one of {', '.join(KERNELS_16)}."
    )
  return KERNELS_16[name if name in KERNELS_16 else runtime_of(name)]
