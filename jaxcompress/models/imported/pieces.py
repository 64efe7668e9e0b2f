"""Readers of concatenations, splits, slices and padding."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxcompress.models.imported import views
from jaxcompress.models.imported.axes import NAMES, along, merged, plain, role_of
from jaxcompress.models.imported.problems import Unreadable, in_words
from jaxcompress.models.imported.reading import Call, Value
from jaxcompress.models.imported.tokens import with_token
from jaxcompress.models.imported.values import Constant, Tensor


def _concatenate(call: Call, *values: Value) -> Value:
  if not all(isinstance(value, Tensor) for value in values):
    return with_token(call, values)
  tensors = [plain(call, value) for value in values if isinstance(value, Tensor)]
  axis = call.params["dimension"]
  roles = {role_of(tensor, axis) for tensor in tensors} - {""}
  if roles - {"C"}:
    raise Unreadable(
      f"a concatenation along the {NAMES.get(min(roles), 'joined axes')}",
      "concatenate channels only",
    )
  seen = merged([_without(tensor.view, axis) for tensor in tensors])
  if seen is None:
    raise Unreadable("a concatenation of tensors whose axes are not the same ones")
  tensors = [_filled(call, tensor, (*seen[:axis], (), *seen[axis:])) for tensor in tensors]
  shape = (*tensors[0].op.shape[:3], call.shapes[0][axis])
  op = call.op("Concat", [tensor.op for tensor in tensors], shape)
  view = (*seen[:axis], views.whole("C", shape[3]), *seen[axis:])
  return Tensor(op, view)


def _without(view: views.View, axis: int) -> views.View:
  return view[:axis] + view[axis + 1 :]


def _filled(call: Call, tensor: Tensor, seen: views.View) -> Tensor:
  """The tensor with one row or column copied to where others have several."""
  op = tensor.op
  for axis, wanted in zip(tensor.view, seen, strict=True):
    if axis and wanted and axis[0].role == views.STRETCHED != wanted[0].role:
      if len(wanted) > 1 or wanted[0].role not in ("H", "W"):
        raise Unreadable("a concatenation of tensors that are broadcast along joined axes")
      op = along(call, op, wanted[0].role, np.ones((1, wanted[0].size)))
  return Tensor(op, tensor.view)


def _part(call: Call, x: Tensor, axis: int, start: int, stop: int) -> Tensor:
  """A part of the channels that are next to one another."""
  found, total = x.view[axis], x.op.shape[3]
  atom = found[0] if len(found) == 1 else views.Atom("", 1, 1)
  if atom.role != "C" or atom.step * atom.size != total:
    x = plain(call, x)
    role = role_of(x, axis)
    if role != "C":
      raise Unreadable(
        f"a part of the {NAMES.get(role, 'joined axes')}", "take parts of channels only"
      )
    atom = x.view[axis][0]
  shape = (*x.op.shape[:3], (stop - start) * atom.step)
  op = call.op("part", [x.op], shape, start=start * atom.step, stop=stop * atom.step)
  axes = list(x.view)
  axes[axis] = views.joined([atom._replace(size=stop - start)])
  return Tensor(op, tuple(axes))


def _split(call: Call, x: Tensor) -> Sequence[Value]:
  edges = [0, *np.cumsum(call.params["sizes"]).tolist()]
  axis = call.params["axis"]
  return [_part(call, x, axis, *pair) for pair in itertools.pairwise(edges)]


def _cut(call: Call, x: Tensor, starts, stops, steps) -> Value:
  sizes = views.sizes_of(x.view)
  for axis, (start, stop, step) in enumerate(zip(starts, stops, steps, strict=True)):
    if (start, stop, step) == (0, sizes[axis], 1):
      continue
    role = role_of(x, axis)
    if _is_stretched(x.view[axis]):
      x = _taken(call, x, axis, role, np.arange(start, stop, step))
    elif role in ("H", "W"):
      x = _cropped(call, x, role, start, stop, step)
    elif step == 1:
      x = _part(call, x, axis, start, stop)
    elif role == "C":
      x = _taken(call, x, axis, role, np.arange(start, stop, step))
    else:
      what = f"every nth of the {NAMES.get(role, 'joined axes')}"
      raise Unreadable(what, "take parts that are next to one another")
  return x


def _cropped(call: Call, x: Tensor, role: str, start: int, stop: int, step: int) -> Tensor:
  place = views.ROLES.index(role)
  count = -(-(stop - start) // step)
  shape = tuple(count if i == place else n for i, n in enumerate(x.op.shape))
  op = call.op("crop", [x.op], shape, role=role, start=start, stop=stop, step=step)
  old = views.whole(role, x.op.shape[place])
  return Tensor(op, tuple(views.whole(role, count) if axis == old else axis for axis in x.view))


def _slice(call: Call, x: Tensor) -> Value:
  starts, stops = call.params["start_indices"], call.params["limit_indices"]
  return _cut(call, x, starts, stops, call.params["strides"] or (1,) * len(starts))


def _dynamic_slice(call: Call, x: Value, *starts: Value) -> Value:
  known = [int(start.value) for start in starts if isinstance(start, Constant)]
  if not isinstance(x, Tensor) or len(known) < len(starts):
    raise Unreadable("a slice whose place depends on the images")
  sizes = call.params["slice_sizes"]
  whole = views.sizes_of(x.view)
  held = [min(max(s, 0), n - k) for s, n, k in zip(known, whole, sizes, strict=True)]
  stops = [start + size for start, size in zip(held, sizes, strict=True)]
  return _cut(call, x, held, stops, (1,) * len(held))


def _pad(call: Call, x: Value, filler: Value) -> Value:
  if not isinstance(x, Tensor) or not isinstance(filler, Constant):
    raise Unreadable("padding with what depends on the images")
  x = plain(call, x)
  pads, axes = {"H": (0, 0), "W": (0, 0)}, list(x.view)
  for axis, (low, high, inner) in enumerate(call.params["padding_config"]):
    if (low, high, inner) == (0, 0, 0):
      continue
    free = (r for r in "HW" if x.op.shape[views.ROLES.index(r)] == 1 and pads[r] == (0, 0))
    role = role_of(x, axis) or next(free, "")
    if role not in pads or inner:
      what = "zeros between positions" if inner else f"padding of the {NAMES.get(role, 'axes')}"
      raise Unreadable(what, "pad height and width only")
    pads[role] = (low, high)
    axes[axis] = views.whole(role, call.shapes[0][axis])
  n, height, width, channels = x.op.shape
  shape = (n, height + sum(pads["H"]), width + sum(pads["W"]), channels)
  value = float(np.asarray(filler.value).astype(np.float64))
  op = call.op("pad", [x.op], shape, padding=(pads["H"], pads["W"]), value=value)
  return Tensor(op, tuple(axes))


def _gather(call: Call, x: Value, places: Value) -> Value:
  """Entries of one axis at fixed places."""
  numbers, sizes = call.params["dimension_numbers"], call.params["slice_sizes"]
  if not isinstance(x, Tensor) or not isinstance(places, Constant):
    raise Unreadable("indexing by what depends on the images")
  axes = numbers.start_index_map
  whole = views.sizes_of(x.view)
  others = [axis for axis in range(len(whole)) if axis not in axes]
  if (
    len(axes) != 1
    or tuple(numbers.collapsed_slice_dims) != tuple(axes)
    or any(sizes[axis] != whole[axis] for axis in others)
    or places.value.ndim != 2
  ):
    raise Unreadable(*in_words("gather"))
  (axis,) = axes
  if [a for a in range(len(whole)) if a not in numbers.offset_dims] != [axis]:
    raise Unreadable(*in_words("gather"))
  x = plain(call, x)
  role, entries = role_of(x, axis), np.clip(places.value.reshape(-1), 0, whole[axis] - 1)
  return _taken(call, x, axis, role, entries)


def _is_stretched(axis: views.Axis) -> bool:
  """Whether an axis is alike all along."""
  return {atom.role for atom in axis} == {views.STRETCHED}


def _taken(call: Call, x: Tensor, axis: int, role: str, entries: np.ndarray) -> Tensor:
  """The tensor with some entries of an axis, in some order."""
  steps = set(np.diff(entries).tolist())
  step = steps.pop() if len(steps) == 1 else 1 if len(entries) == 1 else 0
  if role in ("H", "W") and step > 0 and len(entries):
    return _cropped(call, x, role, int(entries[0]), int(entries[-1]) + 1, step)
  axes = list(x.view)
  axes[axis] = views.whole(role, len(entries))
  if _is_stretched(x.view[axis]):
    axes[axis] = (views.Atom(views.STRETCHED, len(entries), 0),) if len(entries) > 1 else ()
    return Tensor(x.op, tuple(axes))
  if role in ("H", "W"):
    matrix = np.eye(x.op.shape[views.ROLES.index(role)])[:, entries]
    return Tensor(along(call, x.op, role, matrix), tuple(axes))
  if role == "C" and np.all(np.diff(entries) == 1):
    return _part(call, x, axis, int(entries[0]), int(entries[-1]) + 1)
  if role == "C":
    shape = (*x.op.shape[:3], len(entries))
    return Tensor(call.op("order", [x.op], shape, order=entries), tuple(axes))
  raise Unreadable(
    f"a choice from the {NAMES.get(role, 'joined axes')}", "take parts of channels only"
  )


def _turned_round(call: Call, x: Tensor) -> Value:
  x = plain(call, x)
  for axis in call.params["dimensions"]:
    size = views.sizes_of(x.view)[axis]
    if size > 1:
      x = _taken(call, x, axis, role_of(x, axis), np.arange(size)[::-1])
  return x


READERS: Mapping[str, Callable[..., Value | Sequence[Value]]] = {
  "concatenate": _concatenate,
  "split": _split,
  "slice": _slice,
  "dynamic_slice": _dynamic_slice,
  "pad": _pad,
  "gather": _gather,
  "rev": _turned_round,
}
