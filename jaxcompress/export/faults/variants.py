"""An operation as a device may compute it, and what would follow of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import Node
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.arithmetic import ARITHMETIC
from jaxcompress.quantize.integer.functions import clip_range
from jaxcompress.quantize.integer.grid import Grid, Integers
from jaxcompress.quantize.integer.runtimes import Kernels, find_kernels

Values = tuple[Any, ...]


def _as_they_are(values: Values) -> Values:
  return values


class Operation(NamedTuple):
  """An operation on integers, each part of which can be another one.

  Attributes:
    node: in the graph.
    grids: of the tensors that it reads and writes.
    integers: of its layer, if it has weights.
    kernels: the rules by which it is computed.
    kernels_name: of the model's rules.
    read: what it makes of its inputs' ``q - z`` first.
    ends: of its outputs' ``q - z``; None: as the node says.
    write: what it makes of its outputs' ``q - z`` last.
  """

  node: Node
  grids: Mapping[str, Grid]
  integers: Integers | None
  kernels: Kernels
  kernels_name: str
  read: Callable[[Values], Values] = _as_they_are
  ends: tuple[float, float] | None = None
  write: Callable[[Values], Values] = _as_they_are

  @property
  def source(self) -> Grid:
    """The grid of the first input."""
    return self.grids[self.node.inputs[0]]

  @property
  def output(self) -> Grid:
    """The grid of the first output."""
    return self.grids[self.node.output]

  @property
  def bits(self) -> int:
    """Bits of the activations that it computes with."""
    return self.output.bits

  def with_kernels(self, kernels: Kernels) -> "Operation":
    """The same by other rules."""
    return self._replace(kernels=kernels)

  def with_node(self, **attrs: Any) -> "Operation":
    """The same with other attributes of its node."""
    return self._replace(node=self.node._replace(attrs={**self.node.attrs, **attrs}))

  def clipped(self) -> tuple[np.float32, np.float32]:
    """The ends of its output, by its activation function."""
    return clip_range(self.node.attrs.get("act"), self.output, self.kernels.ceiling)

  def run(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """``q - z`` of its outputs from that of its inputs, both float32.

    Raises:
      ValueError: if its rules refuse its numbers.
    """
    arithmetic = ARITHMETIC[self.node.op]
    static, arrays = arithmetic.prepare(self.node, self.grids, self.integers, self.kernels)
    if self.ends is not None and "low" in arrays:
      low, high = (np.float32(end) for end in self.ends)
      arrays = arrays | {"low": low, "high": high}
    values = tuple(jnp.asarray(value, jnp.float32) for value in self.read(tuple(inputs)))
    outputs = tuple(np.asarray(output) for output in arithmetic.run(static, arrays, *values))
    return tuple(np.asarray(output, np.float32) for output in self.write(outputs))


class Hypothesis(NamedTuple):
  """A way in which a device may have computed an operation.

  Attributes:
    rule: in words.
    detail: in which way, if there are several.
    operation: that does so.
  """

  rule: str
  detail: str
  operation: Operation


def operation_of(quantized: QuantizedModel, node: Node) -> Operation:
  """A node as the model computes it."""
  grids = {name: quantized.grids[name] for name in (*node.inputs, *node.outputs)}
  kernels = find_kernels(quantized.kernels, grids[node.output].bits)
  return Operation(node, grids, quantized.layers.get(node.name), kernels, quantized.kernels)
