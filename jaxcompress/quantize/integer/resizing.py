"""Resizing on integers, and channels that become cells."""

from collections.abc import Callable

from jaxcompress.nn import Node
from jaxcompress.ops.padding import both
from jaxcompress.ops.resizing import depth_to_space, resize, space_to_depth
from jaxcompress.quantize.integer.leaf import (
  Arrays,
  Grids,
  LeafArithmetic,
  clip,
  clipping,
  same_grid,
)
from jaxcompress.quantize.integer.runtimes import Kernels


def _prepare_resize(node: Node, grids: Grids, integers, kernels: Kernels):
  grid, to = same_grid(node, grids), both(node.attrs["size"])
  if node.attrs["method"] == "nearest":
    return (to, node.attrs["sampling"]), {}
  rule = kernels.bilinear(grid, both(node.input_shapes[0][1:3]), to, node.attrs["sampling"])
  return None, {"rule": rule, **clipping(node, grid, kernels)}


def _run_resize(static, arrays: Arrays, x):
  if static is None:
    return (clip(arrays["rule"](x), arrays),)
  to, sampling = static
  return (resize(x, to, method="nearest", sampling=sampling),)


def _moving(move: Callable) -> LeafArithmetic:
  """Arithmetic of an operation that moves integers in blocks."""

  def prepare(node: Node, grids: Grids, integers, kernels: Kernels):
    same_grid(node, grids)
    return node.attrs["block"], {}

  return LeafArithmetic(prepare, lambda block, arrays, x: (move(x, block),))


RESIZE = LeafArithmetic(_prepare_resize, _run_resize)
DEPTH_TO_SPACE = _moving(depth_to_space)
SPACE_TO_DEPTH = _moving(space_to_depth)
