"""The record of an operation's integer arithmetic, and what all of them do."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.nn import Node
from jaxcompress.quantize.integer.functions import clip_range, fixed_grid, fixed_kind
from jaxcompress.quantize.integer.grid import (
  Grid,
)
from jaxcompress.quantize.integer.runtimes import Kernels

Grids = Mapping[str, Grid]


Arrays = dict[str, Any]


class LeafArithmetic(NamedTuple):
  """Integer arithmetic of one operation.

  Attributes:
    prepare: ``(node, grids, integers, kernels) -> (static, arrays)`` in numpy: what the compiled
      program depends on (hashable), and the numbers and rules that it is called with. Raises
      ``ValueError`` for what the device would refuse.
    run: ``(static, arrays, *inputs) -> outputs`` under ``jit``, on integer-valued float32 arrays
      that hold ``q - zero_point``.
    least: ``(node, bits, inputs) -> scale``: the least of its output that all runtimes run, from the
      scales of its inputs.
    least_read: ``(node, bits, output, inputs) -> scales``: the least of its inputs, likewise.
    aligned: whether runtimes round alike with 16 bits only if the inputs' scales are a power of two
      apart.
  """

  prepare: Callable[[Node, Grids, Any, Kernels], tuple[Any, Arrays]]
  run: Callable[..., tuple[jax.Array, ...]]
  least: Callable[[Node, int, list[float]], float] = lambda node, bits, inputs: 0.0
  least_read: Callable[[Node, int, float, list[float]], list[float]] = (
    lambda node, bits, output, inputs: []
  )
  aligned: bool = False


def clipping(node: Node, output: Grid, kernels: Kernels) -> Arrays:
  """The ends of an output, after the activation function that is fused into its node."""
  low, high = clip_range(node.attrs.get("act"), output, kernels.ceiling)
  return {"low": low, "high": high}


def clip(steps: jax.Array, arrays: Arrays) -> jax.Array:
  """Steps between the ends that :func:`clipping` found, as float32."""
  return jnp.clip(steps.astype(jnp.float32), arrays["low"], arrays["high"])


def check_fixed(node: Node, output: Grid) -> None:
  """Checks that a node's output has the grid that it must have.

  Raises:
    ValueError: if it has another one.
  """
  if (fixed := fixed_grid(node, output.bits)) not in (None, output):
    raise ValueError(
      f"grids: the output of a {fixed_kind(node)} has {output}; it must be {fixed}, which"
      " quantize.assemble gives it."
    )


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
