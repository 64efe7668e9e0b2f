"""Pools, means and changes of the size of maps as leaf ops."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from jaxcompress.export.emit_spaces import cells_of_tflite
from jaxcompress.export.foreign.builder import Builder, Reader
from jaxcompress.export.foreign.parts import Call
from jaxcompress.export.foreign.weighted import fused, slides
from jaxcompress.ops.padding import shortest
from jaxcompress.ops.resizing import nearest_cells

WIDEST = 2  # windows of a pool, in sides of the map; padding lets them be larger than it
POOLS: dict[str, tuple[str, dict[str, Any]]] = {
  "AVERAGE_POOL_2D": ("AvgPool", {"count_padding": False}),
  "MAX_POOL_2D": ("MaxPool", {}),
}


def _map(builder: Builder, call: Call) -> str:
  """The map that an operator reads."""
  source = builder.read(call.inputs[0])
  if len(builder.shapes[source]) != 4:
    raise ValueError(f"it reads shape {builder.shapes[source]}, which is no map")
  return source


def pool(builder: Builder, call: Call) -> None:
  """AVERAGE_POOL_2D and MAX_POOL_2D."""
  grid, (op, more) = builder.grid(call.outputs[0]), POOLS[call.code]
  act = fused(call)
  if act == "relu6" or (act == "relu" and grid.low < 0):
    raise ValueError("it ends in an activation function that cuts codes off")
  sides = int(call.option("filterHeight", 1)), int(call.option("filterWidth", 1))
  source = _map(builder, call)
  rows, columns = builder.shapes[source][1:3]
  if not (0 < sides[0] <= WIDEST * rows and 0 < sides[1] <= WIDEST * columns):
    raise ValueError(
      f"its window of {sides[0]} x {sides[1]} does not fit a map of {rows} x {columns}"
    )
  attrs = {"kernel": shortest(sides), **slides(call), **more}
  builder.add(op, attrs, [source], call.outputs[0], grid=grid)


def mean(builder: Builder, call: Call) -> None:
  """MEAN over the rows and columns of a map, or over rows of numbers."""
  index, output = call.inputs[0], call.outputs[0]
  grid, shape = builder.grid(output), builder.tensor(index).shape
  axes = sorted(int(axis) % len(shape) for axis in builder.values(call, 1, "axes").ravel())
  if (len(shape), axes) not in ((4, [1, 2]), (3, [1])) or shape[0] != 1:
    raise ValueError(f"it is over axes {axes} of {len(shape)}; that over rows and columns is read")
  source = builder.read(index, shape if len(shape) == 4 else (1, shape[1], 1, shape[2]))
  keep = len(builder.tensor(output).shape) == 4
  made = (1, 1, 1, shape[-1]) if keep else (1, shape[-1])
  builder.add("GlobalAvgPool", {"keepdims": keep}, [source], output, shape=made, grid=grid)


def resize(builder: Builder, call: Call) -> None:
  """RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR."""
  output = call.outputs[0]
  grid, source = builder.grid(output), _map(builder, call)
  size = builder.tensor(output).shape[1:3]
  if len(size) != 2 or min(size) < 1:
    raise ValueError(f"it resizes to {size}")
  corners, half = (bool(call.option(name, False)) for name in ("alignCorners", "halfPixelCenters"))
  if corners and half:
    raise ValueError("it aligns corners and centres at once")
  sampling = "align_corners" if corners else "half_pixel" if half else "asymmetric"
  method = "bilinear"
  if call.code == "RESIZE_NEAREST_NEIGHBOR":
    method, sampling = "nearest", _nearest(builder.shapes[source][1:3], size, sampling)
  attrs = {"size": shortest(size), "method": method, "sampling": sampling}
  shape = (1, *size, builder.shapes[source][-1])
  builder.add("Resize", attrs, [source], output, shape=shape, grid=grid)


def _nearest(shape: tuple[int, ...], size: tuple[int, ...], sampling: str) -> str:
  """A sampling whose cells are those that TFLite copies."""
  axes = list(zip(shape, size, strict=True))
  for found in ("half_pixel", "asymmetric"):
    if all(
      np.array_equal(cells_of_tflite(*axis, sampling), nearest_cells(*axis, found)) for axis in axes
    ):
      return found
  raise ValueError(f"it copies other cells from {shape} to {size} than the nearest ones")


def moved(op: str, builder: Builder, call: Call) -> None:
  """DEPTH_TO_SPACE and SPACE_TO_DEPTH."""
  grid, block = builder.grid(call.outputs[0]), int(call.option("blockSize", 0))
  builder.add(op, {"block": block}, [_map(builder, call)], call.outputs[0], grid=grid)


READERS: Mapping[str, Reader] = {
  **dict.fromkeys(POOLS, pool),
  "MEAN": mean,
  **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), resize),
  "DEPTH_TO_SPACE": partial(moved, "DepthToSpace"),
  "SPACE_TO_DEPTH": partial(moved, "SpaceToDepth"),
}
