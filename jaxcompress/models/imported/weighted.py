"""Readers of convolutions and matrix products, as operations with a kernel."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxcompress.models.imported import views
from jaxcompress.models.imported.attention import product
from jaxcompress.models.imported.axes import along, plain, role_of, spread
from jaxcompress.models.imported.constants import slim
from jaxcompress.models.imported.elementwise import elementwise
from jaxcompress.models.imported.problems import Unreadable
from jaxcompress.models.imported.reading import Call, Value
from jaxcompress.models.imported.values import Constant, Tensor


def moved(constant: Constant, move: Callable[[np.ndarray], np.ndarray]) -> Constant:
  """A constant with its numbers, and the places that they come from, moved."""
  index = None if constant.index is None else move(constant.index)
  made = None if index is not None else ("same", (constant,))
  return Constant(move(constant.value), index, made, constant.learned, constant.random)


def unscaled(kernel: Constant) -> tuple[Constant, float]:
  """Splits a kernel into another one and a constant factor, which is not trained."""
  by = 1.0
  while kernel.index is None and kernel.made is not None:
    name, operands = kernel.made
    shape = kernel.value.shape
    wide = [c for c in operands if c.learned and c.value.shape == shape]
    numbers = [_number(c) for c in operands if c not in wide]
    first = len(wide) == 1 and wide[0] is operands[0]
    if name == "same" and first and len(operands) == 1:
      kernel = wide[0]
    elif len(wide) != 1 or len(numbers) != 1 or not numbers[0]:
      break
    elif name == "mul" or (name == "div" and first):
      kernel, by = wide[0], by * numbers[0] if name == "mul" else by / numbers[0]
    else:
      break
  return kernel, by


def _number(constant: Constant) -> float | None:
  own = slim(np.asarray(constant.value))
  return None if constant.learned or own.size != 1 else float(own.reshape(-1)[0].astype(np.float64))


def _note(call: Call, kernel: Constant) -> None:
  """Problems that follow are about this layer, or what follows it."""
  call.reader.layer = call.reader.leaves.path_of(kernel) or call.reader.layer


def _convolution(call: Call, x: Value, kernel: Value) -> Value:
  if not isinstance(x, Tensor) or not isinstance(kernel, Constant):
    raise Unreadable("a convolution whose kernel depends on the images")
  _note(call, kernel)
  kernel, by = unscaled(kernel)
  numbers = call.params["dimension_numbers"]
  x = plain(call, _coloured(call, x, numbers.lhs_spec[1]))
  roles, out = _roles(x, numbers.lhs_spec), numbers.out_spec
  o, i, *spatial = numbers.rhs_spec
  places = dict(zip(roles, spatial, strict=True))

  def turned(array: np.ndarray) -> np.ndarray:
    axes = [places[role] for role in "HW" if role in places]
    array = np.transpose(array, (*axes, i, o))
    for axis, role in enumerate("HW"):
      array = array if role in places else np.expand_dims(array, axis)
    return array

  def both(name: str, other: object) -> tuple:
    found = dict(zip(roles, call.params[name], strict=True))
    return tuple(found.get(role, other) for role in "HW")

  if call.params["batch_group_count"] != 1:
    raise Unreadable("a convolution in groups of the batch")
  axes: list[str] = [""] * len(out)
  for role, axis in zip(("N", "C", *roles), out, strict=True):
    axes[axis] = role
  sizes = dict(zip(axes, call.shapes[0], strict=True))
  shape = tuple(sizes.get(role, 1) for role in views.ROLES)
  source = x.op
  if (
    source.kind == "order"
    and source.shape == source.inputs[0].shape
    and call.params["feature_group_count"] == 1
    and np.unique(source.fields["order"]).size == source.shape[3]
  ):
    back = np.argsort(source.fields["order"])  # the kernel reads the channels in their order
    before = turned
    turned = lambda array: before(array)[:, :, back]  # noqa: E731
    (source,) = source.inputs
  op = call.op(
    "conv",
    [source],
    shape,
    kernel=moved(kernel, turned),
    by=by,
    stride=both("window_strides", 1),
    padding=tuple(tuple(map(int, pair)) for pair in both("padding", (0, 0))),
    dilation=both("rhs_dilation", 1),
    spread=both("lhs_dilation", 1),
    groups=int(call.params["feature_group_count"]),
  )
  return Tensor(op, views.straight(shape, axes))


def _coloured(call: Call, x: Tensor, axis: int) -> Tensor:
  return spread(call, x, axis, views.sizes_of(x.view)[axis])


def _roles(x: Tensor, spec: Sequence[int]) -> list[str]:
  """Which of height and width each spatial axis of a convolution is."""
  batch, channels, *spatial = spec
  found = [role_of(x, axis) for axis in spatial]
  for axis, role in ((batch, "N"), (channels, "C")):
    if x.view[axis] != views.whole(role, x.op.shape[views.ROLES.index(role)]):
      raise Unreadable("a convolution over other axes than height and width")
  for place, axis in enumerate(spatial):
    if not x.view[axis]:
      found[place] = next(role for role in "HW" if role not in found)
  if len(set(found)) != len(found) or not set(found) <= {"H", "W"}:
    raise Unreadable(
      "a convolution over other axes than height and width", "use one over two axes of maps"
    )
  return found


def _product(call: Call, x: Value, y: Value) -> Value:
  (left, right), (left_batch, right_batch) = call.params["dimension_numbers"]
  if isinstance(x, Tensor) and isinstance(y, Tensor):
    if not left and min(len(x.view) - len(left_batch), len(y.view) - len(right_batch)) == 0:
      return _gated(call, x, y)
    return product(call, x, y)
  first = isinstance(x, Tensor)
  tensor, kernel = (x, y) if first else (y, x)
  over, rows = (left, right) if first else (right, left)
  assert isinstance(tensor, Tensor) and isinstance(kernel, Constant)
  _note(call, kernel)
  if left_batch or right_batch:
    raise Unreadable("a batched matrix product, with a matrix of its own for each batch")
  columns = [axis for axis in range(kernel.value.ndim) if axis not in rows]
  count = math.prod(kernel.value.shape[axis] for axis in columns)

  def turned(array: np.ndarray) -> np.ndarray:
    array = np.transpose(array, (*rows, *columns))
    return array.reshape(-1, count)

  kernel, by = unscaled(kernel)
  matrix = moved(kernel, turned)
  free = [axis for i, axis in enumerate(tensor.view) if i not in over]
  op = _linear(call, tensor, [tensor.view[axis] for axis in over], free, matrix, count)
  op.fields = {**op.fields, "by": by}
  role = op.fields["role"] if op.kind == "along" else "C"
  made = views.reshaped((views.whole(role, count),), [kernel.value.shape[axis] for axis in columns])
  assert made is not None
  return Tensor(op, (*free, *made) if first else (*made, *free))


def _gated(call: Call, x: Tensor, y: Tensor) -> Value:
  """A product that sums nothing, as ``einsum("bhwc,bc->bhwc")`` has it, number by number."""
  _, batch = call.params["dimension_numbers"]
  free = max(len(x.view), len(y.view)) - len(batch[0])
  parts = []
  for tensor, first in ((x, batch[0]), (y, batch[1])):
    rest = [axis for i, axis in enumerate(tensor.view) if i not in first]
    sizes = call.shapes[0][len(first) :] if not rest else ()
    rest += [(views.Atom(views.STRETCHED, size, 0),) if size > 1 else () for size in sizes]
    parts.append(Tensor(tensor.op, (*(tensor.view[axis] for axis in first), *rest)))
  assert all(len(part.view) == len(batch[0]) + free for part in parts)
  return elementwise(call._replace(name="mul", params={}), *parts)


def _linear(call, tensor, contracted, free, matrix, count):
  """A 1x1 convolution of maps, or a linear layer, with its rows in the order of the channels."""
  shape = tensor.op.shape
  order = views.positions(contracted, "C", shape[3])
  if order is not None:
    if shape[1:3] == (1, 1):
      return _dense(call, tensor.op, matrix, np.argsort(order), count)
    kernel = moved(matrix, lambda a: a[np.argsort(order)].reshape(1, 1, shape[3], count))
    ones = {"stride": (1, 1), "dilation": (1, 1), "spread": (1, 1), "groups": 1}
    padding = ((0, 0), (0, 0))
    return call.op("conv", [tensor.op], (*shape[:3], count), kernel=kernel, padding=padding, **ones)
  along = _along(call, tensor, contracted, matrix)
  if along is not None:
    return along
  order = _flattened(contracted, shape)
  if order is not None and views.atoms_of(tuple(free)) == views.whole("N", shape[0]):
    return _dense(call, tensor.op, matrix, np.argsort(order), count)
  raise Unreadable(
    "a matrix product over other axes than channels, or all of height, width and channels"
  )


def _along(call, tensor, contracted, matrix):
  """A matrix that mixes rows, or columns, such as one that resizes."""
  for place, role in ((1, "H"), (2, "W")):
    if tuple(contracted) == (views.whole(role, tensor.op.shape[place]),) and contracted[0]:
      if matrix.learned:
        break
      return along(call, tensor.op, role, np.asarray(matrix.value, np.float64))
  return None


def _dense(call, op, matrix, order, count):
  straight = np.array_equal(order, np.arange(len(order)))
  kernel = matrix if straight else moved(matrix, lambda a: a[order])
  return call.op("dense", [op], (op.shape[0], 1, 1, count), kernel=kernel)


def _flattened(contracted: Sequence[views.Axis], shape: views.Shape) -> np.ndarray | None:
  """Order in which axes go through (height, width, channels); None unless all are there, alone."""
  _, height, width, channels = shape
  steps = {"H": width * channels, "W": channels, "C": 1}
  atoms = [atom for axis in contracted for atom in axis]
  if any(atom.role not in steps for atom in atoms):
    return None
  flat = tuple(a._replace(role="C", step=a.step * steps[a.role]) for a in atoms)
  return views.positions([flat], "C", height * width * channels)


READERS: Mapping[str, Callable[..., Value]] = {
  "conv_general_dilated": _convolution,
  "dot_general": _product,
}
