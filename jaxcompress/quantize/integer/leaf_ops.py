"""Integer arithmetic of every leaf op: a table from its name to two functions."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import Node
from jaxcompress.quantize.integer.elementwise import ACTIVATION, ADD, MULTIPLY, REQUANTIZE
from jaxcompress.quantize.integer.leaf import Arrays, Grids, LeafArithmetic, same_grid
from jaxcompress.quantize.integer.pools import AVERAGE_POOL, MAX_POOL, MEAN
from jaxcompress.quantize.integer.runtimes import Kernels
from jaxcompress.quantize.integer.weighted import CONVOLUTION, DENSE


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


ARITHMETIC: Mapping[str, LeafArithmetic] = {
  "ConvNorm": CONVOLUTION,
  "BatchNorm": CONVOLUTION,
  "Dense": DENSE,
  "Add": ADD,
  "Multiply": MULTIPLY,
  "Activation": ACTIVATION,
  "Requantize": REQUANTIZE,
  "GlobalAvgPool": MEAN,
  "AvgPool": AVERAGE_POOL,
  "MaxPool": MAX_POOL,
  "Concat": LeafArithmetic(_prepare_copy(lambda attrs: None), _run_concat),
  "Split": LeafArithmetic(_prepare_copy(_split_edges), _run_split),
  "ChannelShuffle": LeafArithmetic(_prepare_copy(lambda attrs: attrs["groups"]), _run_shuffle),
}
