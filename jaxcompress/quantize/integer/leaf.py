"""What the integer arithmetic of every leaf op is made of."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.nn import Node
from jaxcompress.quantize.integer.runtimes import Kernels
from jaxcompress.quantize.integer.values import Grid, clip_range

Grids = Mapping[str, Grid]
Arrays = dict[str, Any]


class LeafArithmetic(NamedTuple):
  """How one leaf op runs on integers.

  Attributes:
    prepare: ``(node, grids, integers, kernels) -> (static, arrays)`` in numpy: what the compiled
      program depends on (hashable), and the numbers and rules that it is called with. Raises
      ``ValueError`` for what the device would refuse.
    run: ``(static, arrays, *inputs) -> outputs`` under ``jit``, on integer-valued float32 arrays
      that hold ``q - zero_point``.
  """

  prepare: Callable[[Node, Grids, Any, Kernels], tuple[Any, Arrays]]
  run: Callable[..., tuple[jax.Array, ...]]


def clipping(node: Node, output: Grid, kernels: Kernels) -> Arrays:
  """The ends of an output, after the activation function that is fused into its node."""
  low, high = clip_range(node.attrs.get("act"), output, kernels.ceiling)
  return {"low": low, "high": high}


def clip(steps: jax.Array, arrays: Arrays) -> jax.Array:
  """Steps between the ends that :func:`clipping` found, as float32."""
  return jnp.clip(steps.astype(jnp.float32), arrays["low"], arrays["high"])


def same_grid(node: Node, grids: Grids) -> Grid:
  """The grid that all tensors of a node share, which copies integers.

  Raises:
    ValueError: if they do not share one.
  """
  found = {grids[name] for name in (*node.inputs, *node.outputs)}
  if len(found) > 1:
    raise ValueError(
      f"grids: {node.op} copies integers, so its tensors must share one grid; it has"
      f" {', '.join(map(str, found))}."
    )
  return found.pop()
