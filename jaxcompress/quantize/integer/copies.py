"""Operations that copy integers."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import Node
from jaxcompress.quantize.integer.leaf import Arrays, Grids, LeafArithmetic, same_grid
from jaxcompress.quantize.integer.runtimes import Kernels


def _prepare_copy(read_attrs: Callable[[Mapping[str, Any]], Any]):
  def prepare(node: Node, grids: Grids, integers, kernels: Kernels):
    same_grid(node, grids)
    return read_attrs(node.attrs), {}

  return prepare


def _run_concat(static, arrays: Arrays, *xs):
  return (jnp.concatenate(xs, axis=-1),)


def _run_split(edges: tuple[int, ...], arrays: Arrays, x):
  return tuple(jnp.split(x, edges, axis=-1))


def _split_edges(attrs: Mapping[str, Any]) -> tuple[int, ...]:
  return tuple(int(edge) for edge in np.cumsum(attrs["sizes"])[:-1])


def _run_shuffle(groups: int, arrays: Arrays, x):
  y = x.reshape(*x.shape[:-1], groups, -1)
  return (jnp.swapaxes(y, -1, -2).reshape(x.shape),)


def _run_reshape(shape: tuple[int, ...], arrays: Arrays, x):
  return (x.reshape(-1, *shape),)


def _run_channel_max(static, arrays: Arrays, x):
  return (jnp.max(x, axis=-1, keepdims=True),)


def _prepare_constant(node: Node, grids: Grids, integers, kernels: Kernels):
  grid, codes = grids[node.output], np.array(node.attrs["codes"], np.int64)
  steps = codes - grid.zero_point
  if steps.min() < grid.low or steps.max() > grid.high:
    raise ValueError(f"codes: {codes.min()} to {codes.max()} must be {grid.dtype}.")
  return None, {"codes": steps.astype(np.float32).reshape(node.output_shapes[0])}


def _run_constant(static, arrays: Arrays):
  return (jnp.asarray(arrays["codes"]),)


CONSTANT = LeafArithmetic(_prepare_constant, _run_constant)
CONCAT = LeafArithmetic(_prepare_copy(lambda attrs: None), _run_concat)
SPLIT = LeafArithmetic(_prepare_copy(_split_edges), _run_split)
RESHAPE = LeafArithmetic(_prepare_copy(lambda attrs: tuple(attrs["shape"])), _run_reshape)
CHANNEL_MAX = LeafArithmetic(_prepare_copy(lambda attrs: None), _run_channel_max)
SHUFFLE = LeafArithmetic(_prepare_copy(lambda attrs: attrs["groups"]), _run_shuffle)
