"""Mistakes of devices about layouts: padding, weights, channels, zero points, activations."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.codes import half_away
from jaxcompress.export.faults.rounding import WEIGHTED
from jaxcompress.export.faults.variants import Hypothesis, Operation, Values
from jaxcompress.nn.operations import kernel_shape, pads_of, slide_of, window_of
from jaxcompress.ops.padding import resolve_padding, spans
from jaxcompress.ops.resizing import SAMPLINGS
from jaxcompress.quantize.integer.grid import LOWEST

KERNEL_LAYOUTS = {  # orders of the axes of an HWIO kernel
  "HWIO": (0, 1, 2, 3),
  "OHWI": (3, 0, 1, 2),
  "OIHW": (3, 2, 0, 1),
  "IHWO": (2, 0, 1, 3),
  "HWOI": (0, 1, 3, 2),
}
DENSE_LAYOUTS = {"(inputs, outputs)": (0, 1), "(outputs, inputs)": (1, 0)}
SLIDING = ("ConvNorm", "MaxPool", "AvgPool")
CHOSEN_ACTS = (None, "relu", "relu6")
MOST_COLORS = 4  # channels of an input that are read in another order


def by_padding(operation: Operation) -> Iterator[Hypothesis]:
  """Cells around a map that hold another number, or lie on other sides."""
  node = operation.node
  if node.op == "Pad" and node.attrs["mode"] == "constant":
    step = float(operation.output.scale)
    for code in (0, operation.output.zero_point, LOWEST):
      value = (code - operation.output.zero_point) * step
      if code == operation.output.zero_point:
        value = 0.0
      yield Hypothesis("padding with another code", f"{code}", operation.with_node(value=value))
    return
  if node.op not in SLIDING or not any(map(any, pads := pads_of(node))):
    return
  zero = operation.source.zero_point
  codes = {"code 0": 0, "the lowest code": LOWEST, "the zero point": zero}
  for words, code in codes.items():
    if node.op == "AvgPool" or (node.op == "ConvNorm" and code == zero):
      continue
    yield Hypothesis(
      "padding with 0 in place of the zero point" if code == 0 else "padding with another code",
      "" if code == 0 else words,
      _padded(operation, pads, float(code - zero)),
    )
  size, slide = node.input_shapes[0][1:3], slide_of(node)
  sides = spans(window_of(node), slide.dilation)
  found = {tuple(map(tuple, pads))}
  ways: dict[str, Any] = {
    "on the other side": tuple(tuple(reversed(pair)) for pair in pads),
    "SAME, as TensorFlow's": "SAME",
    "SYMMETRIC, as PyTorch's": "SYMMETRIC",
    "none before the map": tuple((0, sum(pair)) for pair in pads),
    "none behind the map": tuple((sum(pair), 0) for pair in pads),
  }
  for words, way in ways.items():
    (top, bottom), (left, right) = resolve_padding(way, size, sides, slide.stride)
    cells = (top, bottom), (left, right)
    if cells in found or _outputs(size, sides, slide.stride, cells) != node.output_shapes[0][1:3]:
      continue
    found.add(cells)
    yield Hypothesis("padding on other sides", words, operation.with_node(padding=cells))


def _outputs(size: Any, sides: Any, stride: Any, pads: Any) -> tuple[int, ...]:
  return tuple(
    (cells + sum(pad) - side) // step + 1
    for cells, pad, side, step in zip(size, pads, sides, stride, strict=True)
  )


def _padded(operation: Operation, pads: Any, value: float) -> Operation:
  """An operation that reads a map with numbers around it."""
  node = operation.node
  batch, height, width, channels = node.input_shapes[0]
  shape = (batch, height + sum(pads[0]), width + sum(pads[1]), channels)

  def read(values: Values) -> Values:
    return (np.pad(values[0], ((0, 0), *pads, (0, 0)), constant_values=value),)

  changed = operation.with_node(padding="VALID")
  return changed._replace(node=changed.node._replace(input_shapes=(shape,)), read=read)


def by_weights(operation: Operation) -> Iterator[Hypothesis]:
  """Weights in another order, and scales of other channels."""
  node, integers = operation.node, operation.integers
  if integers is None or node.op not in WEIGHTED:
    return
  seen = [integers.weights]

  def other(rule: str, detail: str, weights: np.ndarray) -> Iterator[Hypothesis]:
    if weights.shape == integers.weights.shape and not any(
      np.array_equal(weights, known) for known in seen
    ):
      seen.append(weights)
      yield Hypothesis(
        rule, detail, operation._replace(integers=integers._replace(weights=weights))
      )

  w = integers.weights
  layouts = KERNEL_LAYOUTS if w.ndim == 4 else DENSE_LAYOUTS
  for stored, order in layouts.items():
    for taken, places in layouts.items():
      shape = tuple(w.shape[axis] for axis in places)
      mistaken = w.transpose(order).reshape(shape).transpose(np.argsort(places))
      yield from other("weights in another order", f"{stored} read as {taken}", mistaken)
  if w.ndim == 4:
    yield from other("kernel turned by 180 degrees", "", w[::-1, ::-1])
    yield from other("kernel transposed", "", w.transpose(1, 0, 2, 3))
  elif len(node.input_shapes[0]) == 4:
    height, width, channels = node.input_shapes[0][1:]
    as_chw = w.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(w.shape)
    yield from other("map flattened in another order", "channels first", as_chw)
    as_hwc = w.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(w.shape)
    yield from other("map flattened in another order", "weights for channels first", as_hwc)
  yield from other("weights shifted by one output channel", "", np.roll(w, 1, -1))
  scales = integers.scales
  for words, scale in {
    "the first channel's": scales[0],
    "the last channel's": scales[-1],
    "the largest": scales.max(),
    "the smallest": scales.min(),
    "the mean": scales.mean(dtype=np.float64),
  }.items():
    if len(set(scales.tolist())) > 1:
      same = np.full_like(scales, scale)
      changed = operation._replace(integers=integers._replace(scales=same))
      yield Hypothesis("one scale in place of one for each channel", words, changed)


def by_zero_points(operation: Operation) -> Iterator[Hypothesis]:
  """Zero points of inputs that are not taken off."""
  node = operation.node
  if node.op not in (
    *WEIGHTED,
    "Add",
    "Subtract",
    "Multiply",
    "MatMul",
    "GlobalAvgPool",
    "RmsNorm",
  ):
    return
  zeros = [operation.grids[name].zero_point for name in node.inputs]
  which = {"": tuple(range(len(zeros)))}
  if len(zeros) > 1:
    which |= {f"of {node.inputs[i]!r}": (i,) for i in range(len(zeros))}
    which["of both"] = which.pop("")
  for words, places in which.items():
    if any(zeros[i] for i in places):
      for rule, times in (("ignored", 1), ("added in place of subtracted", 2)):
        read = partial(_moved, moves=[times * z * (i in places) for i, z in enumerate(zeros)])
        changed = operation._replace(read=read)
        yield Hypothesis(f"input's zero point {rule}", words, changed)
  pads = pads_of(node) if node.op == "ConvNorm" else ()
  if zeros[0] and any(map(any, pads)):  # padded cells hold the zero point, which is not taken off
    moved = _padded(operation, pads, float(zeros[0]))
    inner = moved.read
    coded = moved._replace(read=lambda values: inner(_moved(values, [zeros[0]])))
    yield Hypothesis("input's zero point ignored", "also in padding", coded)


def _moved(values: Values, moves: Any) -> Values:
  return tuple(
    np.asarray(value) + np.float32(move) for value, move in zip(values, moves, strict=True)
  )


def by_activation(operation: Operation) -> Iterator[Hypothesis]:
  """Activation functions that are left out, others, or others' ends."""
  node, output = operation.node, operation.output
  if "act" not in node.attrs or node.op == "Activation" or "Pool" in node.op:
    return
  act = node.attrs["act"]
  for other in CHOSEN_ACTS:
    if other == act or act == "hard_sigmoid":
      continue
    rule = "activation not applied" if other is None else "another activation function"
    detail = "" if other is None else f"{other} in place of {act or 'none'}"
    yield Hypothesis(rule, detail, operation.with_node(act=other))
  if act is None:
    return
  low, high = map(float, operation.clipped())
  zero = output.zero_point
  rule = "activation between other bounds"
  if zero:
    yield Hypothesis(rule, "from code 0 on", operation._replace(ends=(-float(zero), high)))
  if act == "relu6":
    steps = np.float64(6) / np.float64(output.scale)
    ends = {
      "6 rounded down": np.floor(steps),
      "6 rounded up": np.ceil(steps),
      "6 rounded half away from zero": half_away(steps),
      "6 rounded half to even": np.rint(steps),
      "6 without the zero point": np.rint(steps) - zero,
    }
    for words, end in ends.items():
      end = min(float(end), float(output.high))
      if end != high:
        yield Hypothesis(rule, words, operation._replace(ends=(low, end)))


def by_arrangement(operation: Operation) -> Iterator[Hypothesis]:
  """Inputs, channels and blocks that are taken in another order, and other ways to sample."""
  node = operation.node
  if node.op == "Concat":
    yield Hypothesis("inputs in another order", "", operation._replace(read=_reversed))
  if node.op in ("Subtract", "MatMul") and node.input_shapes[0] == node.input_shapes[1]:
    yield Hypothesis("inputs in another order", "", operation._replace(read=_reversed))
  if node.op in ("Add", "Subtract") and len({operation.grids[name] for name in node.inputs}) > 1:
    swapped = operation._replace(node=node._replace(inputs=node.inputs[::-1]))
    yield Hypothesis("scales of the inputs swapped", "", swapped)
  if node.op == "Split" and len({shape for shape in node.output_shapes}) == 1:
    yield Hypothesis("outputs in another order", "", operation._replace(write=_reversed))
  if node.op == "ChannelShuffle":
    groups = node.input_shapes[0][-1] // node.attrs["groups"]
    yield Hypothesis(
      "channels shuffled the other way round", "", operation.with_node(groups=groups)
    )
  if node.op == "AvgPool":
    counts = not node.attrs["count_padding"]
    yield Hypothesis(
      "padded cells counted" if counts else "padded cells not counted",
      "",
      operation.with_node(count_padding=counts),
    )
  if node.op == "Resize":
    for method in ("nearest", "bilinear"):
      for sampling in SAMPLINGS:
        if (method, sampling) != (node.attrs["method"], node.attrs["sampling"]):
          changed = operation.with_node(method=method, sampling=sampling)
          yield Hypothesis("resized in another way", f"{method}, {sampling}", changed)
  if node.op in ("DepthToSpace", "SpaceToDepth"):
    block = node.attrs["block"]
    if node.op == "DepthToSpace":
      changed = operation._replace(read=partial(_blocks_last, block=block))
    else:
      changed = operation._replace(write=partial(_blocks_first, block=block))
    yield Hypothesis("blocks in another order", "channels first, as PyTorch's", changed)
  if kernel_shape(node) is not None and 1 < node.input_shapes[0][-1] <= MOST_COLORS:
    flipped = operation._replace(read=lambda values: (np.asarray(values[0])[..., ::-1],))
    yield Hypothesis("input's channels in reverse order", "such as BGR for RGB", flipped)


def _reversed(values: Values) -> Values:
  return values[::-1]


def _blocks_last(values: Values, block: int) -> Values:
  """Channels whose blocks come first, as those whose blocks come last."""
  x = np.asarray(values[0])
  parts = x.reshape(*x.shape[:-1], -1, block * block)
  return (np.swapaxes(parts, -1, -2).reshape(x.shape),)


def _blocks_first(values: Values, block: int) -> Values:
  x = np.asarray(values[0])
  parts = x.reshape(*x.shape[:-1], block * block, -1)
  return (np.swapaxes(parts, -1, -2).reshape(x.shape),)


class Turn(NamedTuple):
  """Another way in which a map may lie.

  Attributes:
    rule: in words.
    detail: in which way.
    of: ``(map) -> map``; one of another shape cannot be.
  """

  rule: str
  detail: str
  of: Callable[[np.ndarray], np.ndarray]


def _by_axes(*axes: int) -> Callable[[np.ndarray], np.ndarray]:
  """The memory of a map whose axes lie in another order."""
  return lambda x: x.transpose(axes).reshape(x.shape)


def _slides(words: str, axis: int, by: int) -> tuple[Turn, Turn]:
  return (
    Turn("shifted", f"by {by} {words}", lambda x: np.roll(x, by, axis)),
    Turn("shifted", f"by {by} {words}, the edge repeated", lambda x: _slid(x, by, axis)),
  )


def _slid(x: np.ndarray, by: int, axis: int) -> np.ndarray:
  places = np.clip(np.arange(x.shape[axis]) - by, 0, x.shape[axis] - 1)
  return np.take(x, places, axis)


def _channels_last(x: np.ndarray) -> np.ndarray:
  count, height, width, channels = x.shape
  return x.reshape(count, channels, height, width).transpose(0, 2, 3, 1)


TURNS = (
  Turn("flipped", "left to right", lambda x: x[:, :, ::-1]),
  Turn("flipped", "upside down", lambda x: x[:, ::-1]),
  Turn("turned", "by 180 degrees", lambda x: x[:, ::-1, ::-1]),
  Turn("transposed", "", lambda x: np.swapaxes(x, 1, 2)),
  Turn("turned", "by 90 degrees", lambda x: np.rot90(x, 1, (1, 2))),
  Turn("turned", "by 270 degrees", lambda x: np.rot90(x, 3, (1, 2))),
  Turn("with channels in reverse order", "such as BGR for RGB", lambda x: x[..., ::-1]),
  Turn("in another order of memory", "channels first", _by_axes(0, 3, 1, 2)),
  Turn("in another order of memory", "channels first taken for channels last", _channels_last),
  Turn("in another order of memory", "columns first", _by_axes(0, 2, 1, 3)),
  *_slides("row", 1, 1),
  *_slides("row", 1, -1),
  *_slides("column", 2, 1),
  *_slides("column", 2, -1),
)
"""How maps (images, rows, columns, channels) may lie otherwise."""


def by_memory(operation: Operation) -> Iterator[Hypothesis]:
  """Results that lie otherwise in memory, or were not written."""
  shapes = operation.node.output_shapes
  if len(shapes[0]) == 4:
    for turn in TURNS:

      def write(outputs: Values, of: Any = turn.of) -> Values:
        return tuple(of(np.asarray(output)) for output in outputs)

      changed = operation._replace(write=write)
      yield Hypothesis(f"output {turn.rule}", turn.detail, changed)
  zero = operation.output.zero_point
  for words, code in {"zeros": 0, "zero points": zero, "-1": -1, "lowest codes": LOWEST}.items():

    def fill(outputs: Values, code: int = code) -> Values:
      return tuple(np.full_like(output, code - zero) for output in outputs)

    yield Hypothesis("output not written", f"all {words}", operation._replace(write=fill))
  inputs = operation.node.input_shapes
  for i, shape in enumerate(inputs):
    if shape[1:] == shapes[0][1:] and len(shapes) == 1:
      name = operation.node.inputs[i]
      yield Hypothesis(
        "operation left out", f"it holds the integers of {name!r}", _copying(operation, i)
      )


def _copying(operation: Operation, place: int) -> Operation:
  """An operation whose output holds the codes of an input."""
  kept: dict[str, np.ndarray] = {}
  move = operation.grids[operation.node.inputs[place]].zero_point - operation.output.zero_point

  def read(values: Values) -> Values:
    kept["codes"] = np.asarray(values[place]) + np.float32(move)
    return values

  return operation._replace(read=read, write=lambda outputs: (kept["codes"],))
