"""Readers of elementwise operations, of tensors and of constants."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from jaxcompress.models.imported import views
from jaxcompress.models.imported.axes import merged, plain, spread
from jaxcompress.models.imported.constants import slim
from jaxcompress.models.imported.meanings import MEANINGS
from jaxcompress.models.imported.problems import Unreadable
from jaxcompress.models.imported.reading import Call, Value
from jaxcompress.models.imported.values import Constant, Op, Operand, Tensor
from jaxcompress.ops.padding import output_size


def operand(constant: Constant, view: views.View) -> Operand:
  """A constant as an operation on a tensor of a view reads it."""
  value = np.asarray(constant.value)
  if value.ndim == 0:
    value = value.reshape((1,) * len(view))
    return Operand(constant, value.reshape(1, 1, 1))
  varies = constant.index
  if varies is None and constant.learned:  # numbers that are alike today may be trained apart
    own = slim(value)
    varies = np.broadcast_to(np.arange(own.size).reshape(own.shape), value.shape)
  array = views.canonical(value, view, value if varies is None else varies)
  if array is None:
    raise Unreadable("a constant that differs from image to image")
  return Operand(constant, array)


def _select(call: Call, which: Value, *cases: Value) -> Value:
  """One of two, by a constant: the one that is chosen."""
  if isinstance(which, Constant):
    numbers = np.unique(slim(which.value).astype(int))
    if numbers.size == 1:
      return cases[int(numbers[0])]
  return elementwise(call, which, *cases)


def elementwise(call: Call, *values: Value) -> Value:
  """One operation, number by number."""
  tensors = [value for value in values if isinstance(value, Tensor)]
  view = merged([tensor.view for tensor in tensors])
  if view is None or _shuffled(view, values):
    tensors = [plain(call, tensor) for tensor in tensors]
    view = merged([tensor.view for tensor in tensors])
  if view is None:
    raise Unreadable(
      f"{call.name!r} of tensors whose axes are not the same ones", "align their axes first"
    )
  wide = _widened(view, values)
  if wide != view:
    axis = next(i for i, pair in enumerate(zip(view, wide, strict=True)) if pair[0] != pair[1])
    count = views.sizes_of(wide)[axis]
    tensors = [spread(call, x, axis, count) if _is_gray(x.op) else x for x in tensors]
  view = wide
  read = iter(range(len(tensors)))
  operands = tuple(
    operand(value, view) if isinstance(value, Constant) else next(read) for value in values
  )
  if len(tensors) == 1:
    op = _scaled_sum(call, tensors[0].op, operands)
    if op is not None:
      return Tensor(op, view)
    if _has_all_values(call, tensors[0].op, operands, view):
      return Tensor(_value_by_value(call, tensors[0].op, operands), view)
  shape = views.canonical_shape(view)
  op = call.op(
    "elementwise",
    [tensor.op for tensor in tensors],
    shape,
    primitive=call.name,
    params=dict(call.params),
    operands=operands,
  )
  return Tensor(op, view)


BY_VALUES = ("add", "add_any", "sub", "mul")


def _has_all_values(call: Call, op: Op, operands: tuple, view: views.View) -> bool:
  """Whether a constant has a number for each value of a map, in order, as position embeddings do."""
  constants = [o for o in operands if isinstance(o, Operand)]
  if call.name not in BY_VALUES or op.shape[1:3] == (1, 1) or len(constants) != 1:
    return False
  ((constant, array),) = constants
  own = slim(constant.value)
  if array.shape != op.shape[1:] or own.size != array.size:
    return False
  places = np.arange(own.size).reshape(own.shape)
  order = views.canonical(places, view, places)
  return order is not None and np.array_equal(order.ravel(), np.arange(own.size))


def _value_by_value(call: Call, op: Op, operands: tuple) -> Op:
  """The operation on vectors of all values of a map."""
  images, *shape = op.shape
  size = math.prod(shape)
  flat = call.op("Reshape", [op], (images, 1, 1, size), shape=(size,))
  operands = tuple(
    o._replace(array=o.array.reshape(1, 1, size)) if isinstance(o, Operand) else o for o in operands
  )
  fields = {"primitive": call.name, "params": dict(call.params), "operands": operands}
  made = call.op("elementwise", [flat], flat.shape, **fields)
  return call.op("Reshape", [made], op.shape, shape=tuple(shape))


def _is_gray(op: Op) -> bool:
  """Whether a tensor is computed of images of one channel number by number."""
  return op.kind == "input" or (op.kind == "elementwise" and all(map(_is_gray, op.inputs)))


def _widened(view: views.View, values: tuple[Value, ...]) -> views.View:
  """The view with an axis of channels where constants for each meet a tensor without them."""
  axes = list(view)
  for value in values:
    if isinstance(value, Constant) and np.ndim(value.value) == len(view):
      for axis, size in enumerate(slim(value.value).shape):
        if size > 1 and not any(atom.role in views.ROLES for atom in axes[axis]):
          if views.canonical_shape(tuple(axes))[3] > 1:
            raise Unreadable("constants along an axis that activations do not have")
          axes[axis] = views.whole("C", size)
  return tuple(axes)


def _shuffled(view: views.View, values: tuple[Value, ...]) -> bool:
  """Whether channels are in another order, and a constant tells them apart."""
  if all(isinstance(value, Tensor) or np.asarray(value.value).size == 1 for value in values):
    return False
  axes = [axis for axis in view if any(atom.role == "C" for atom in axis)]
  order = views.positions(axes, "C", views.canonical_shape(view)[3])
  return order is not None and bool(np.any(np.diff(order) < 0))


def _scaled_sum(call: Call, op: Op, operands: tuple) -> Op | None:
  """A sum that is divided by a number is one operation, a mean if that is the count."""
  by = next((o for o in operands if isinstance(o, Operand)), None)
  if op.kind not in ("sum", "window_sum") or by is None or call.name not in ("mul", "div"):
    return None
  if call.name == "div" and isinstance(operands[0], Operand):
    return None
  if by.literal:
    number = float(by.array.ravel()[0].astype(np.float64))
    factor = op.fields["factor"] * (number if call.name == "mul" else 1 / number)
    return call.op(op.kind, op.inputs, op.shape, **{**op.fields, "factor": factor})
  if call.name == "div" and op.kind == "window_sum" and _counts(op, by.array):
    return call.op("window_mean", op.inputs, op.shape, **op.fields)
  return None


def _counts(op: Op, array: np.ndarray) -> bool:
  """Whether an array holds how many cells of the map each window has."""
  kernel, stride, pads = (op.fields[name] for name in ("kernel", "stride", "padding"))
  size = op.inputs[0].shape[1:3]
  counts = []
  for n, k, s, pad, out in zip(
    size, kernel, stride, pads, output_size(size, kernel, stride, pads), strict=True
  ):
    starts = np.arange(out) * s - pad[0]
    counts.append(np.minimum(starts + k, n) - np.maximum(starts, 0))
  wanted = np.multiply.outer(*counts)[..., None]
  return np.array_equal(
    np.broadcast_to(array, np.broadcast_shapes(array.shape, wanted.shape)), wanted
  )


READERS: Mapping[str, Callable[..., Value]] = {
  **{name: elementwise for name in MEANINGS if name not in ("convert_element_type", "copy")},
  "select_n": _select,
}
