"""Cutting cells off maps and adding some around them, on integers."""

import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import Node
from jaxcompress.nn.borders import CONSTANT, cells_of
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.leaf import Arrays, Grids, LeafArithmetic, same_grid
from jaxcompress.quantize.integer.runtimes import Kernels


def steps_of(value: float, grid: Grid) -> np.float32:
  """``q - z`` of a number, or of the end of the grid that it is beyond.

  Examples:
    >>> float(steps_of(0.26, Grid(np.float32(0.1), 0))), float(steps_of(99.0, Grid(np.float32(0.1), 3)))
    (3.0, 124.0)
  """
  return np.clip(np.rint(np.float32(value / np.float64(grid.scale))), grid.low, grid.high)


def _prepare_slice(node: Node, grids: Grids, integers, kernels: Kernels):
  same_grid(node, grids)
  return tuple((cells.start, cells.stop, cells.step) for cells in cells_of(node)), {}


def _run_slice(static, arrays: Arrays, x):
  rows, columns = (slice(*cells) for cells in static)
  return (x[:, rows, columns],)


def _prepare_pad(node: Node, grids: Grids, integers, kernels: Kernels):
  steps = steps_of(node.attrs["value"], same_grid(node, grids))
  return (tuple(map(tuple, node.attrs["pads"])), node.attrs["mode"]), {"steps": steps}


def _run_pad(static, arrays: Arrays, x):
  pads, mode = static
  options = {"constant_values": arrays["steps"]} if mode == CONSTANT else {}
  return (jnp.pad(x, ((0, 0), *pads, (0, 0)), mode, **options),)


SLICE = LeafArithmetic(_prepare_slice, _run_slice)
PAD = LeafArithmetic(_prepare_pad, _run_pad)
