"""Requirements of targets on operators, and the functions that check them."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.export.contents import FLOATS, Operator, Tensor

ERROR, WARNING = "error", "warning"

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
BIASES = {"TRANSPOSE_CONV": 3}  # where they are among the inputs, if not third


class Requirement(NamedTuple):
  """Something that a target asks of operators.

  Attributes:
    name: of the check, a key of :data:`CHECKS`, such as ``"stride"``.
    limit: what the check compares with: a number, names, or a table by operator.
    reason: why, in words.
    operators: names of those that it is about; none: all.
    severity: ``"error"``: the target refuses the file, computes something else, or leaves the
      operator off the accelerator that it is named for. ``"warning"``: the result is the same, but
      takes longer or needs a newer version.

  Examples:
    >>> must("stride", 3, "a window moves by at most three cells", ("CONV_2D",)).severity
    'error'
  """

  name: str
  limit: Any
  reason: str
  operators: tuple[str, ...] = ()
  severity: str = ERROR


def must(name: str, limit: Any, reason: str, operators: tuple[str, ...] = ()) -> Requirement:
  """A requirement without which the target does not take a file as it is."""
  return Requirement(name, limit, reason, operators, ERROR)


def should(name: str, limit: Any, reason: str, operators: tuple[str, ...] = ()) -> Requirement:
  """A requirement without which a file is slower, or needs a newer version."""
  return Requirement(name, limit, reason, operators, WARNING)


class Target(NamedTuple):
  """A device, or the tool that makes its files.

  Attributes:
    title: its name.
    suffix: of the files that it takes.
    requirements: that they obey.
    dense_per_tensor: whether the weights of FULLY_CONNECTED need one scale for all of its outputs;
      :func:`jaxcompress.export.tflite` then writes layers with more as 1x1 convolutions.
    dense_int4: whether FULLY_CONNECTED may have weights of 4 bits where convolutions may.
    functions: activation functions that are operators of its own, rather than tables that files hold,
      where all that compute them have the codes of these.

  Examples:
    >>> from jaxcompress.export.lint import check
    >>> npu = Target("my NPU", ".tflite", (must("operator", ("CONV_2D",), "it has no other"),))
    >>> operators = [Operator(name, version=1) for name in ("CONV_2D", "SPLIT")]
    >>> [finding.op for finding in check(operators, npu)]
    ['SPLIT']
  """

  title: str
  suffix: str
  requirements: tuple[Requirement, ...]
  dense_per_tensor: bool = False
  dense_int4: bool = True
  functions: tuple[str, ...] = ()


CONVERTING = ("CAST", "DEQUANTIZE", "QUANTIZE")  # from and to float
DEQUANTIZE = "DequantizeLinear"


def _used(operator: Operator) -> list[Tensor]:
  return [tensor for tensor in (*operator.inputs, *operator.outputs) if tensor is not None]


def _activations(operator: Operator) -> list[Tensor]:
  return [tensor for tensor in _used(operator) if not tensor.is_constant]


def _input(operator: Operator, index: int) -> Tensor | None:
  return operator.inputs[index] if index < len(operator.inputs) else None


def _computes_in_float(operator: Operator) -> bool:
  return operator.is_float and operator.name not in CONVERTING


def _outside(tensors: Collection[Tensor], types: Collection[str]) -> str | None:
  found = sorted({tensor.type for tensor in tensors if tensor.type not in types})
  return ", ".join(found) or None


def _operator(found: Operator, limit: Collection[str]) -> str | None:
  """Whether the target has it."""
  return None if found.name in limit else found.name


def _version(found: Operator, limit: Mapping[str, int]) -> str | None:
  """The highest versions, of some operators."""
  return f"version {found.version}" if found.version > limit.get(found.name, 2**31) else None


def _integer(found: Operator, limit: None) -> str | None:
  """Nothing computes in float; conversions at the ends do not compute."""
  return "float" if _computes_in_float(found) else None


def _activation_types(found: Operator, limit: Collection[str]) -> str | None:
  """Types of what is not constant, where it is not float as a whole."""
  return None if _computes_in_float(found) else _outside(_activations(found), limit)


def _weight_types(found: Operator, limit: Collection[str]) -> str | None:
  """Types of weights, where they are not float."""
  weights = _input(found, 1)
  if weights is None or weights.type in FLOATS:
    return None
  return _outside([weights], limit)


def _weight_range(found: Operator, limit: tuple[int, int]) -> str | None:
  """Lowest and highest int8 weight."""
  weights = _input(found, 1)
  if weights is None or weights.type != "INT8" or weights.values is None or not weights.values.size:
    return None
  ends = int(weights.values.min()), int(weights.values.max())
  return None if limit[0] <= ends[0] and ends[1] <= limit[1] else f"{ends[0]} to {ends[1]}"


def _weight_zero_point(found: Operator, limit: int) -> str | None:
  """Zero points of signed weights."""
  weights = _input(found, 1)
  if weights is None or not weights.type.startswith("INT"):
    return None
  others = weights.zero_points[weights.zero_points != limit]
  return f"zero point {int(others[0])}" if others.size else None


def _bias_types(found: Operator, limit: Collection[str]) -> str | None:
  """Types of the bias of a layer."""
  is_layer = found.name in WEIGHTED and not _computes_in_float(found)
  bias = _input(found, BIASES.get(found.name, 2)) if is_layer else None
  return None if bias is None else _outside([bias], limit)


def _per_channel(found: Operator, limit: Collection[str]) -> str | None:
  """Operators whose tensors may have a scale for each channel."""
  most = max((tensor.scales.size for tensor in _used(found)), default=0)
  return None if most <= 1 or found.name in limit else f"{most} scales"


def _constant(found: Operator, limit: Mapping[str, tuple[int, ...]]) -> str | None:
  """Inputs, by operator, that are constants."""
  inputs = (_input(found, index) for index in limit.get(found.name, ()))
  free = [tensor.name for tensor in inputs if tensor is not None and not tensor.is_constant]
  return f"{free[0]!r} is computed" if free else None


def _inline(found: Operator, limit: None) -> str | None:
  """Constants lie inside the flatbuffer."""
  apart = [tensor.name for tensor in _used(found) if tensor.is_constant and not tensor.is_inline]
  return f"{apart[0]!r} lies outside" if apart else None


def _static_shape(found: Operator, limit: None) -> str | None:
  """All sizes are known."""
  free = [tensor for tensor in _activations(found) if any(size < 0 for size in tensor.shape)]
  return f"shape {list(free[0].shape)}" if free else None


def _first(found: Operator) -> Tensor:
  """The first input, which is never left out."""
  tensor = found.inputs[0]
  assert tensor is not None
  return tensor


def _batch(found: Operator, limit: int) -> str | None:
  """Images at a time."""
  size = _first(found).shape[0]
  return None if size == limit else f"batch {size}"


def _stride(found: Operator, limit: int) -> str | None:
  """The most that a window moves."""
  moved = max(found.options.get("strideH", 1), found.options.get("strideW", 1))
  return f"stride {moved}" if moved > limit else None


def _free_stride(found: Operator, limit: int) -> str | None:
  """The most that a window with padding or dilation moves."""
  dilation = max(found.options.get(f"dilation{side}Factor", 1) for side in "HW")
  return _stride(found, limit) if _pads(found) or dilation > 1 else None


def _transposed(found: Operator, limit: Collection[tuple[int, int]]) -> str | None:
  """Strides of a transposed convolution, which makes all outputs that its kernel reaches, or SAME."""
  source, weights = _input(found, 2), _input(found, 1)
  strides = found.options.get("strideH", 1), found.options.get("strideW", 1)
  if strides not in limit:
    return f"stride {strides[0]}x{strides[1]}"
  if source is None or weights is None:
    return None
  made = tuple(found.outputs[0].shape[1:3])
  more = [
    0 if _is_same(found) else max(side - step, 0)
    for side, step in zip(weights.shape[1:3], strides, strict=True)
  ]
  axes = zip(source.shape[1:3], strides, more, strict=True)
  whole = tuple(size * step + rest for size, step, rest in axes)
  return None if made == whole else f"output {made[0]}x{made[1]}"


def _enlargement(found: Operator, limit: Mapping[str, tuple[int, ...]]) -> str | None:
  """The ratios by which a resizing may enlarge both sides, by operator and sampling."""
  sizes, made = _first(found).shape[1:3], found.outputs[0].shape[1:3]
  ends = int(bool(found.options.get("alignCorners")))
  if sizes == made or tuple(sizes) == (1, 1):
    return None
  half = "half" if found.options.get("halfPixelCenters") else "whole"
  factors = {
    (to - ends) / (size - ends) if size > ends else 1.0
    for size, to in zip(sizes, made, strict=True)
  }
  allowed = limit.get(f"{found.name} {half}", limit[half])
  if len(factors) == 1 and factors <= set(allowed):
    return None
  return f"from {sizes[0]}x{sizes[1]} to {made[0]}x{made[1]}"


def _is_same(found: Operator) -> bool:
  return found.options.get("padding") == 0


def _pads(found: Operator) -> bool:
  """Whether SAME padding adds cells, which it does not where the window fits."""
  weights = _input(found, 1)
  for axis, side in ((1, "Height"), (2, "Width")):
    size = found.options.get(f"filter{side}", 1) if weights is None else weights.shape[axis]
    moved = (found.outputs[0].shape[axis] - 1) * found.options.get(f"stride{side[0]}", 1)
    if _is_same(found) and moved + size > _first(found).shape[axis]:
      return True
  return False


def _window(found: Operator, limit: int) -> str | None:
  """The highest window of a pool."""
  height = found.options.get("filterHeight", 1)
  return f"height {height}" if height > limit else None


def _padded_window(found: Operator, limit: int) -> str | None:
  """The largest side of a pool's window with padding."""
  side = max(found.options.get("filterHeight", 1), found.options.get("filterWidth", 1))
  return f"side {side}" if _is_same(found) and side > limit else None


def _weight_sum(found: Operator, limit: int) -> str | None:
  """The largest sum of absolute weights of an output channel."""
  weights = _input(found, 1)
  if weights is None or weights.values is None or weights.type != "INT8":
    return None
  axis = weights.values.ndim - 1 if found.name == "DEPTHWISE_CONV_2D" else 0
  axes = tuple(i for i in range(weights.values.ndim) if i != axis)
  most = int(np.abs(weights.values.astype(np.int32)).sum(axes, dtype=np.int64).max(initial=0))
  return f"sum {most}" if most > limit else None


def _fan_in(found: Operator, limit: int) -> str | None:
  """Number of inputs."""
  return f"{len(found.inputs)} inputs" if len(found.inputs) > limit else None


def _fan_out(found: Operator, limit: int) -> str | None:
  """Number of outputs."""
  return f"{len(found.outputs)} outputs" if len(found.outputs) > limit else None


def _row(found: Operator, limit: int) -> str | None:
  """The most channels."""
  channels = _first(found).shape[-1]
  return f"{channels} channels" if channels > limit else None


def _unit_steps(found: Operator, limit: None) -> str | None:
  """A slice leaves nothing out."""
  steps = _input(found, 3)
  if steps is None or steps.values is None or np.all(steps.values == 1):
    return None
  return f"steps {steps.values.tolist()}"


def _scale_ratio(found: Operator, limit: tuple[float, float]) -> str | None:
  """Scales of the inputs over the output's: from the first up to below the second."""
  ends = found.outputs[0].scales
  for tensor in found.inputs:
    if tensor is not None and tensor.scales.size == ends.size == 1:
      ratio = float(tensor.scales[0] / ends[0])
      if not limit[0] <= ratio < limit[1]:
        return f"ratio {ratio:.3g}"
  return None


def _same_grid(found: Operator, limit: None) -> str | None:
  """Inputs and output have one scale and one zero point."""
  grids = {
    (tensor.scales.tobytes(), tensor.zero_points.tobytes()) for tensor in _activations(found)
  }
  return f"{len(grids)} grids" if len(grids) > 1 else None


def _codes(found: Operator, limit: Collection[str]) -> str | None:
  """Types of the codes that are written or read."""
  tensor = found.outputs[0] if found.name == "QuantizeLinear" else _first(found)
  return _outside([tensor], limit)


def _zero_point(found: Operator, limit: int) -> str | None:
  """The code of zero."""
  tensor = _input(found, 2)
  if tensor is None or tensor.values is None:
    return None
  others = tensor.values[tensor.values != limit]
  return f"zero point {int(others[0])}" if others.size else None


def _quantized_inputs(found: Operator, limit: None) -> str | None:
  """Input and weights come from codes."""
  return _in_float(found.inputs[:2])


def _residual(found: Operator, limit: None) -> str | None:
  """Terms of a sum come from codes, constants apart."""
  return _in_float([tensor for tensor in found.inputs if tensor and not tensor.is_constant])


def _in_float(tensors: Collection[Tensor | None]) -> str | None:
  others = [tensor for tensor in tensors if tensor is not None and tensor.maker != DEQUANTIZE]
  return f"{others[0].name!r} is float" if others else None


CHECKS: Mapping[str, Callable[[Operator, Any], str | None]] = {
  check.__name__[1:].replace("_", "-"): check
  for check in (
    *(
      _activation_types,
      _batch,
      _bias_types,
      _codes,
      _constant,
      _fan_in,
      _fan_out,
      _free_stride,
      _inline,
      _row,
    ),
    *(_integer, _operator, _padded_window, _per_channel, _quantized_inputs, _residual, _same_grid),
    *(_enlargement, _transposed),
    *(_scale_ratio, _static_shape, _stride, _unit_steps, _version, _weight_range, _weight_sum),
    *(_weight_types, _weight_zero_point, _window, _zero_point),
  )
}
