"""Operators that copy integers as leaf ops."""

import math
from collections.abc import Mapping

import numpy as np

from jaxcompress.export.foreign.builder import Builder, Reader
from jaxcompress.export.foreign.parts import Call
from jaxcompress.export.foreign.views import Shape, batched
from jaxcompress.export.foreign.weighted import fused

SHAPES = ("SHAPE", "PACK", "STRIDED_SLICE", "GATHER", "CONCATENATION", "CAST", "REDUCE_PROD", "MUL")
SHAPED = {  # what reads a shape beside its tensor, and where that stands
  **dict.fromkeys(("RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), 0),
  "TRANSPOSE_CONV": 2,
}
WHOLE = ("INT32", "INT64")


def computes_a_shape(builder: Builder, call: Call) -> bool:
  """Whether an operator only computes the shape that another one gives to its tensor."""
  kinds = {builder.tensor(index).type for index in call.outputs}
  if call.code not in SHAPES or not kinds <= set(WHOLE):
    return False
  return all(
    (reader.code in SHAPED and index != reader.inputs[SHAPED[reader.code]])
    or computes_a_shape(builder, reader)
    for index in call.outputs
    for reader in builder.parts.readers(index)
  )


def _axis(axis: int, rank: int) -> int:
  if not -rank <= axis < rank:
    raise ValueError(f"its axis {axis} is out of range for {rank} axes")
  return axis % rank


def reshape(builder: Builder, call: Call) -> None:
  """RESHAPE, SQUEEZE and EXPAND_DIMS: the shape is that which the file says of the output."""
  output = call.outputs[0]
  made = builder.tensor(output).shape
  builder.grid(output)
  if call.code == "RESHAPE" and len(call.inputs) > 1 and builder.is_constant(call.inputs[1]):
    asked = [int(n) for n in builder.values(call, 1, "shape").ravel()]
    if len(asked) != len(made) or any(n not in (-1, m) for n, m in zip(asked, made, strict=True)):
      raise ValueError(f"it asks for shape {tuple(asked)}, and the file says {made}")
  builder.show(output, builder.view(call.inputs[0]).reshaped(made))


def transpose(builder: Builder, call: Call) -> None:
  """TRANSPOSE."""
  builder.grid(call.outputs[0])
  order = tuple(int(axis) for axis in builder.values(call, 1, "order").ravel())
  rank = len(builder.tensor(call.inputs[0]).shape)
  order = tuple(_axis(axis, rank) for axis in order)
  builder.show(call.outputs[0], builder.view(call.inputs[0]).turned(order))


def concatenate(builder: Builder, call: Call) -> None:
  """CONCATENATION on any axis: on the last one of rows that hold all axes from it on."""
  output = call.outputs[0]
  grid, made = builder.grid(output), builder.tensor(output).shape
  if fused(call) is not None:
    raise ValueError("it ends in an activation function")
  if any(map(builder.is_constant, call.inputs)):
    raise ValueError("one of its tensors is a constant")
  axis = _axis(int(call.option("axis", 0)), len(made))
  _along(builder, call, "Concat", axis)
  shapes = [builder.tensor(index).shape for index in call.inputs]
  total = sum(shape[axis] for shape in shapes if len(shape) == len(made))
  if any(_but(shape, axis) != _but(made, axis) for shape in shapes) or total != made[axis]:
    raise ValueError(f"it joins shapes {shapes}, and the file says {made}")
  read = [
    builder.read(index, _rows(shape, axis))
    for index, shape in zip(call.inputs, shapes, strict=True)
  ]
  builder.add("Concat", {}, read, output, shape=_rows(made, axis), grid=grid)


def _along(builder: Builder, call: Call, what: str, axis: int) -> None:
  """Refuses what would join images."""
  shape = builder.tensor(call.outputs[0]).shape
  if axis == 0 and len(shape) > 1 and builder.tensor(call.inputs[0]).shape[0] == 1 != shape[0]:
    raise ValueError(f"{what} is along the axis of images")


def _but(shape: Shape, axis: int) -> Shape:
  return (*shape[:axis], *shape[axis + 1 :])


def _rows(shape: Shape, axis: int) -> Shape:
  """A shape whose last axis holds an axis of another one and all behind it."""
  if axis == len(shape) - 1:
    return batched(shape)
  before, after = math.prod(shape[:axis]), math.prod(shape[axis:])
  return (1, before, after) if before > 1 else (1, after)


def split(builder: Builder, call: Call) -> None:
  """SPLIT, SPLIT_V and UNPACK."""
  data = 1 if call.code == "SPLIT" else 0
  shape = builder.tensor(call.inputs[data]).shape
  if call.code == "UNPACK":
    axis = _axis(int(call.option("axis", 0)), len(shape))
    sizes = [1] * len(call.outputs)
  else:
    place = 0 if call.code == "SPLIT" else 2
    axis = _axis(int(builder.values(call, place, "axis").ravel()[0]), len(shape))
    sizes = [_size(builder, call, index, axis) for index in call.outputs]
  if sum(sizes) != shape[axis]:
    raise ValueError(f"it makes parts of {sizes} of {shape[axis]}")
  source = builder.read(call.inputs[data], _rows(shape, axis))
  _cut(builder, source, shape, axis, list(zip(call.outputs, sizes, strict=True)))


def _size(builder: Builder, call: Call, index: int, axis: int) -> int:
  shape = builder.tensor(index).shape
  if _but(shape, axis) != _but(builder.tensor(call.inputs[call.code == "SPLIT"]).shape, axis):
    raise ValueError(f"it makes a part of shape {shape}")
  return shape[axis]


def _cut(
  builder: Builder, source: str, shape: Shape, axis: int, parts: list[tuple[int, int]]
) -> None:
  """A Split of rows into parts of some of an axis; -1 where a part is not read."""
  each, rows = math.prod(shape[axis + 1 :]), builder.shapes[source]
  for index, size in parts:
    if (
      index >= 0 and math.prod(builder.tensor(index).shape) * shape[axis] != math.prod(shape) * size
    ):
      raise ValueError(f"{builder.tensor(index).name!r} has shape {builder.tensor(index).shape}")
  attrs = {"sizes": tuple(size * each for _, size in parts)}
  shapes = [(index, (*rows[:-1], size * each)) for index, size in parts]
  builder.add_parts("Split", attrs, source, shapes)


def cut(builder: Builder, call: Call) -> None:
  """SLICE and STRIDED_SLICE."""
  index, output = call.inputs[0], call.outputs[0]
  grid, shape = builder.grid(output), builder.tensor(index).shape
  if call.code == "SLICE":
    starts, counts = (
      builder.values(call, i, name).ravel() for i, name in ((1, "begin"), (2, "size"))
    )
    cells = [
      range(int(start), n if count == -1 else int(start + count))
      for start, count, n in zip(starts, counts, shape, strict=True)
    ]
    made = tuple(map(len, cells))
  else:
    cells, made = _strided(builder, call, shape)
  if made != builder.tensor(output).shape:
    raise ValueError(f"it makes shape {made}, and the file says {builder.tensor(output).shape}")
  for taken, n in zip(cells, shape, strict=True):
    if not taken or taken[0] < 0 or taken[-1] >= n or taken.step < 1:
      raise ValueError(f"it takes cells {taken.start} to {taken.stop} by {taken.step} of {n}")
  axes = [i for i, (taken, n) in enumerate(zip(cells, shape, strict=True)) if len(taken) != n]
  if not axes:
    builder.show(output, builder.view(index).reshaped(made))
    return
  if axes == [len(shape) - 1] and cells[-1].step == 1:
    parts = [(-1, cells[-1].start), (output, len(cells[-1])), (-1, shape[-1] - cells[-1].stop)]
    source = builder.read(index)
    _cut(builder, source, shape, len(shape) - 1, [part for part in parts if part[1]])
    return
  if len(shape) == 4 and shape[0] == 1 and set(axes) <= {1, 2}:
    fields = {
      name: tuple(getattr(part, name) for part in cells[1:3]) for name in ("start", "stop", "step")
    }
    attrs = {"begin": fields["start"], "end": fields["stop"], "step": fields["step"]}
    made = (1, *map(len, cells[1:3]), shape[3])
    builder.add("Slice", attrs, [builder.read(index)], output, shape=made, grid=grid)
    return
  source = builder.read(index)
  for axis in axes:
    before, behind, taken = math.prod(shape[:axis]), math.prod(shape[axis + 1 :]), cells[axis]
    attrs = {"begin": (0, taken.start), "end": (before, taken.stop), "step": (1, taken.step)}
    rows = builder.between("Reshape", source, (1, before, shape[axis], behind))
    made = (1, before, len(taken), behind)
    shape = (*shape[:axis], len(taken), *shape[axis + 1 :])
    if axis == axes[-1]:
      builder.add("Slice", attrs, [rows], output, shape=made, grid=grid)
    else:
      source = builder.between("Slice", rows, made, attrs)


def _strided(builder: Builder, call: Call, shape: Shape) -> tuple[list[range], Shape]:
  """The cells that a STRIDED_SLICE takes, and the shape that it makes of them."""
  if (
    call.option("ellipsisMask", 0) or call.option("newAxisMask", 0) or call.option("offset", False)
  ):
    raise ValueError("it has an ellipsis, a new axis or an offset")
  begin, end, step = (
    [int(n) for n in builder.values(call, i, name).ravel()]
    for i, name in ((1, "begin"), (2, "end"), (3, "strides"))
  )
  if not len(begin) == len(end) == len(step) <= len(shape):
    raise ValueError(f"it takes {len(begin)} axes of {len(shape)}")
  masks = [int(call.option(f"{name}Mask", 0)) for name in ("begin", "end", "shrinkAxis")]
  cells, made = [], []
  for axis, n in enumerate(shape):
    if axis >= len(begin):
      cells.append(range(n))
      made.append(n)
      continue
    first, last, shrinks = (bool(mask >> axis & 1) for mask in masks)
    if shrinks:
      start = begin[axis] % n if -n <= begin[axis] < n else n
      cells.append(range(start, start + 1))
      continue
    place = slice(None if first else begin[axis], None if last else end[axis], step[axis] or None)
    cells.append(range(*place.indices(n)))
    made.append(len(cells[-1]))
  return [range(c.start, c[-1] + 1, c.step) if c and c.step > 0 else c for c in cells], tuple(made)


def pad(builder: Builder, call: Call) -> None:
  """PAD and PADV2 of any axes, and MIRROR_PAD of rows and columns."""
  index, output = call.inputs[0], call.outputs[0]
  grid, shape = builder.grid(output), builder.tensor(index).shape
  pads = builder.values(call, 1, "padding").reshape(-1, 2)
  if len(pads) != len(shape) or pads.min() < 0:
    raise ValueError(f"it pads {pads.tolist()}")
  amounts = [(int(before), int(after)) for before, after in pads]
  value, mode = 0.0, "constant"
  if call.code == "PADV2":
    if builder.grid(call.inputs[2]) != grid:
      raise ValueError("its number is on another grid than its tensor")
    code = int(builder.values(call, 2, "number").ravel()[0])
    value = float((code - grid.zero_point) * np.float64(grid.scale))
  if call.code == "MIRROR_PAD":
    mode = "reflect"
    if int(call.option("mode", 0)) != 0 or len(shape) != 4:
      raise ValueError("it mirrors the edges of a map too, or something that is no map")
  axes = [i for i, pair in enumerate(amounts) if any(pair)]
  if mode == "reflect" and not set(axes) <= {1, 2}:
    raise ValueError("it mirrors other axes than rows and columns")
  if not axes:
    builder.show(output, builder.view(index))
    return
  if axes[0] == 0 and shape[0] == 1 and len(shape) > 1:
    raise ValueError("it pads the axis of images")
  made = tuple(n + sum(pair) for n, pair in zip(shape, amounts, strict=True))
  if made != builder.tensor(output).shape:
    raise ValueError(f"it makes shape {made}, and the file says {builder.tensor(output).shape}")
  if len(shape) == 4 and shape[0] == 1 and set(axes) <= {1, 2}:
    attrs = {"pads": (amounts[1], amounts[2]), "value": value, "mode": mode}
    builder.add("Pad", attrs, [builder.read(index)], output, grid=grid)
    return
  source = builder.read(index)
  for axis in axes:
    before, behind = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    attrs = {"pads": ((0, 0), amounts[axis]), "value": value, "mode": mode}
    rows = builder.between("Reshape", source, (1, before, shape[axis], behind))
    shape = (*shape[:axis], made[axis], *shape[axis + 1 :])
    wide = (1, before, made[axis], behind)
    if axis == axes[-1]:
      builder.add("Pad", attrs, [rows], output, shape=wide, grid=grid)
    else:
      source = builder.between("Pad", rows, wide, attrs)


def tile(builder: Builder, call: Call) -> None:
  """TILE: a concatenation of a tensor with itself, axis by axis."""
  index, output = call.inputs[0], call.outputs[0]
  grid, shape = builder.grid(output), builder.tensor(index).shape
  counts = [int(n) for n in builder.values(call, 1, "multiples").ravel()]
  made = tuple(n * count for n, count in zip(shape, counts, strict=True))
  if made != builder.tensor(output).shape or min(counts) < 1:
    raise ValueError(f"it makes {counts} of shape {shape}")
  axes = [axis for axis, count in enumerate(counts) if count > 1]
  if not axes:
    builder.show(output, builder.view(index))
    return
  if axes[0] == 0 and shape[0] == 1 and len(shape) > 1:
    raise ValueError("it repeats along the axis of images")
  source = builder.read(index)
  for axis in axes:
    rows = builder.between("Reshape", source, _rows(shape, axis))
    shape = (*shape[:axis], made[axis], *shape[axis + 1 :])
    inputs = [rows] * counts[axis]
    if axis == axes[-1]:
      builder.add("Concat", {}, inputs, output, shape=_rows(shape, axis), grid=grid)
    else:
      source = builder.between("Concat", rows, _rows(shape, axis), {}, count=counts[axis])


READERS: Mapping[str, Reader] = {
  **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), reshape),
  "TRANSPOSE": transpose,
  "CONCATENATION": concatenate,
  **dict.fromkeys(("SPLIT", "SPLIT_V", "UNPACK"), split),
  **dict.fromkeys(("SLICE", "STRIDED_SLICE"), cut),
  "TILE": tile,
  **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), pad),
}
