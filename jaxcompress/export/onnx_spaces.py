"""Leaf ops that change the height and width of maps as ONNX operators."""

from collections.abc import Callable

import numpy as np

from jaxcompress.export.onnx_emitter import OnnxEmitter
from jaxcompress.nn import Node
from jaxcompress.nn.operations import pads_of
from jaxcompress.ops.padding import both
from jaxcompress.ops.resizing import cells_between, nearest_cells
from jaxcompress.ops.transposed import phase_kernel, reach_before
from jaxcompress.quantize.integer.grid import LOWEST, Grid
from jaxcompress.quantize.integer.transposed import plan_of

CODES = Grid(np.float32(1), LOWEST)  # codes as numbers: whole, and zero and more


def transposed(emitter: OnnxEmitter, node: Node) -> None:
  """A ConvTranspose; in files of integers, which have none, a Conv of all phases, interleaved."""
  act = node.attrs.get("act")
  if emitter.grid(node.output) is None or emitter.signed:
    emitter.write(node.output, _transposed(emitter, node), act)
    return
  (down, right), plan = both(node.attrs["stride"]), plan_of(node)

  def layout(hwio: np.ndarray) -> np.ndarray:
    return phase_kernel(hwio, (down, right)).transpose(3, 2, 0, 1)

  constants = emitter.weights(node, layout, repeats=down * right)
  (top, bottom), (left, last) = plan.pads
  value = emitter.compute(node, "Conv", *constants, pads=[top, left, bottom, last])
  emitter.write(node.output, value, act)
  axes = zip(
    node.input_shapes[0][1:3], plan.pads, both(node.attrs["kernel"]), (down, right), strict=True
  )
  height, width = (size + sum(pair) + 1 - -(-side // step) for size, pair, side, step in axes)
  value = _interleaved(emitter, node, (height, width))
  whole = (height * down, width * right)
  if (plan.crop, plan.size) != ((0, 0), whole):
    ends = [start + size for start, size in zip(plan.crop, plan.size, strict=True)]
    edges = [emitter.file.constant(np.array(at, np.int64)) for at in (plan.crop, ends, (2, 3))]
    value = emitter.file.operator("Slice", [value, *edges], f"{node.name}/cropped")
    value = emitter.copied(value, node.output)
  emitter.alias(node.output, value)


def _interleaved(emitter: OnnxEmitter, node: Node, size: tuple[int, int]) -> str:
  """The phases of a Conv, taking turns in both directions."""
  value, name = emitter.readable(node.output), f"{node.name}/interleaved"
  (height, width), channels = size, node.output_shapes[0][-1]
  down, right = both(node.attrs["stride"])
  if (down, right) == (1, 1):
    return value
  if down == right:
    value = emitter.file.operator("DepthToSpace", [value], name, blocksize=down)
    return emitter.copied(value, node.output)
  shape = [0, down, right, channels, height, width]
  value = emitter.copied(emitter.reshaped(value, shape, f"{name}/phases"), node.output)
  value = emitter.file.operator("Transpose", [value], f"{name}/turns", perm=[0, 3, 4, 1, 5, 2])
  shape = [0, channels, height * down, width * right]
  value = emitter.reshaped(emitter.copied(value, node.output), shape, name)
  return emitter.copied(value, node.output)


def _transposed(emitter: OnnxEmitter, node: Node) -> str:
  kernel, stride = both(node.attrs["kernel"]), both(node.attrs["stride"])
  reach = reach_before(kernel, pads_of(node))
  axes = zip(
    node.input_shapes[0][1:3], node.output_shapes[0][1:3], kernel, stride, reach, strict=True
  )
  after = [(size - 1) * step + side - before - out for size, out, side, step, before in axes]
  constants = emitter.weights(node, lambda hwio: hwio[::-1, ::-1].transpose(2, 3, 0, 1), axis=1)
  return emitter.compute(
    node,
    "ConvTranspose",
    *constants,
    strides=list(stride),
    pads=[*reach, *(max(end, 0) for end in after)],
    output_padding=[max(-end, 0) for end in after],
  )


def resize(emitter: OnnxEmitter, node: Node) -> None:
  """A Resize, or products with matrices of whole numbers where a Resize of integers is not exact."""
  write = {"nearest": _nearest, "bilinear": _bilinear}[node.attrs["method"]]
  write(emitter, node)


def _axes(node: Node) -> list[tuple[int, int]]:
  return list(zip(node.input_shapes[0][1:3], both(node.attrs["size"]), strict=True))


def _resized(emitter: OnnxEmitter, node: Node, value: str, name: str, **attributes: str) -> str:
  """Writes a Resize by scales of all axes: onnxruntime loses two sizes where it moves channels last."""
  scales = emitter.file.constant(
    np.array([1, 1, *(_scale(*axis) for axis in _axes(node))], np.float32)
  )
  return emitter.file.operator("Resize", [value, "", scales], name, **attributes)


def _scale(size: int, to: int) -> np.float32:
  """The least float32 whose product with the size, cut off, is the size of the output."""
  scale = np.float32(to) / np.float32(size)
  enough = float(scale) * size >= to
  return scale if enough else np.nextafter(scale, np.float32(np.inf))


def _nearest(emitter: OnnxEmitter, node: Node) -> None:
  """A Resize where runtimes, which find positions in float32, copy the node's cells; or two Gathers."""
  (value,), sampling = emitter.inputs(node), node.attrs["sampling"]
  for coordinates, (cells, rounding) in _NEAREST.items():
    if all(np.array_equal(cells(*axis), nearest_cells(*axis, sampling)) for axis in _axes(node)):
      value = _resized(
        emitter,
        node,
        value,
        f"{node.name}/out",
        mode="nearest",
        coordinate_transformation_mode=coordinates,
        nearest_mode=rounding,
      )
      emitter.write(node.output, value)
      return
  for axis, ends in enumerate(_axes(node)):
    places = emitter.file.constant(nearest_cells(*ends, sampling))
    value = emitter.copied(value, node.output)
    value = emitter.file.operator(
      "Gather", [value, places], f"{node.name}/out{axis}", axis=2 + axis
    )
  emitter.write(node.output, value)


def _half_pixel(size: int, to: int) -> np.ndarray:
  one = np.float32
  places = (np.arange(to, dtype=one) + one(0.5)) / _scale(size, to) - one(0.5)
  return np.clip(np.floor(places + one(0.5)), 0, size - 1).astype(np.int64)


def _asymmetric(size: int, to: int) -> np.ndarray:
  places = np.arange(to, dtype=np.float32) / _scale(size, to)
  return np.clip(np.floor(places), 0, size - 1).astype(np.int64)


_NEAREST: dict[str, tuple[Callable[[int, int], np.ndarray], str]] = {
  "half_pixel": (_half_pixel, "round_prefer_ceil"),
  "asymmetric": (_asymmetric, "floor"),
}


def _bilinear(emitter: OnnxEmitter, node: Node) -> None:
  (value,), grid = emitter.inputs(node), emitter.grid(node.output)
  if grid is None or emitter.signed:
    sampling = node.attrs["sampling"]
    value = _resized(
      emitter,
      node,
      value,
      f"{node.name}/out",
      mode="linear",
      coordinate_transformation_mode=sampling,
    )
    emitter.write(node.output, value)
    return
  codes = emitter.rounded(value, f"{node.name}/codes", grid)
  value = emitter.real(codes, f"{node.name}/whole", CODES)
  wholes = []
  for axis, (size, to) in enumerate(_axes(node)):
    cells = cells_between(size, to, node.attrs["sampling"])
    weights = np.zeros((to, size), np.float32)
    np.add.at(weights, (np.arange(to), cells.low), cells.whole - cells.part)
    np.add.at(weights, (np.arange(to), cells.high), cells.part)
    inputs = (
      [emitter.file.constant(weights), value]
      if axis == 0
      else [value, emitter.file.constant(weights.T)]
    )
    value = emitter.file.operator("MatMul", inputs, f"{node.name}/out{axis}")
    wholes.append(cells.whole)
  divisor = Grid(np.float32(np.prod(wholes)), LOWEST)
  codes = emitter.rounded(value, f"{node.name}/quotient", divisor)
  emitter.alias(node.output, emitter.real(codes, f"{node.output}/real", grid))


def depth_to_space(emitter: OnnxEmitter, node: Node) -> None:
  """A DepthToSpace."""
  emitter.write(node.output, emitter.compute(node, "DepthToSpace", blocksize=node.attrs["block"]))


def space_to_depth(emitter: OnnxEmitter, node: Node) -> None:
  """A SpaceToDepth."""
  emitter.write(node.output, emitter.compute(node, "SpaceToDepth", blocksize=node.attrs["block"]))
