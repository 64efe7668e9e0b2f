"""Evaluates every operation of a model from what a device printed of its inputs, and compares."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import INPUT, Node
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.arithmetic import ARITHMETIC

MOST_BYTES = 2**28  # of the tensors that are evaluated at once, as float32
Arrays = Mapping[str, Any]


class Difference(NamedTuple):
  """The difference of a printed tensor from the result of its operation on its inputs.

  Attributes:
    share: of the integers that differ.
    most_steps: of the largest difference.
    mean: of the differences, the device's less ours, over all integers; signed.
    where: ``(row, column, channel)`` of the first one; of vectors ``(channel,)``.
    image: of the first one.
  """

  share: float
  most_steps: int
  mean: float
  where: tuple[int, ...]
  image: int


def compared(
  quantized: QuantizedModel, tensors: Mapping[str, np.ndarray]
) -> dict[str, Difference | None]:
  """Differences of all printed tensors, in the order of execution; None: they are equal.

  Args:
    quantized: the model.
    tensors: integers that a device printed, by name, with the input among them.
  """
  count, batch = len(tensors[INPUT]), images_at_once(quantized)
  sums = {name: _Sum() for name in tensors if name != INPUT}
  for start in range(0, count, batch):
    part = {name: array[start : start + batch] for name, array in tensors.items()}
    found = evaluated(quantized, part, count=min(batch, count))
    for name, total in sums.items():
      total.add(part[name], found[name], start)
  order = [tensor for node in quantized.graph.nodes for tensor in node.outputs]
  return {name: sums[name].difference() for name in order if name in sums}


class _Sum:
  """A difference in the making, batch by batch."""

  def __init__(self) -> None:
    self.size = self.differing = self.most = self.total = 0
    self.first: tuple[int, ...] | None = None

  def add(self, theirs: np.ndarray, ours: np.ndarray, start: int) -> None:
    steps = theirs.astype(np.int64) - ours
    self.size += steps.size
    self.differing += int(np.count_nonzero(steps))
    self.most = max(self.most, int(np.abs(steps).max(initial=0)))
    self.total += int(steps.sum())
    if self.first is None and steps.any():
      image, *where = (int(i) for i in np.unravel_index(np.flatnonzero(steps)[0], steps.shape))
      self.first = (start + image, *where)

  def difference(self) -> Difference | None:
    if self.first is None:
      return None
    image, *where = self.first
    share, mean = self.differing / self.size, self.total / self.size
    return Difference(share, self.most, mean, tuple(where), image)


def difference_of(theirs: np.ndarray, ours: np.ndarray) -> Difference | None:
  """How one array differs from another; None: they are equal.

  Examples:
    >>> difference_of(np.int8([[1, 5]]), np.int8([[1, 2]]))
    Difference(share=0.5, most_steps=3, mean=1.5, where=(1,), image=0)
  """
  total = _Sum()
  total.add(theirs, ours, 0)
  return total.difference()


def images_at_once(quantized: QuantizedModel) -> int:
  """How many images fit in memory with all of their tensors."""
  shapes = [shape for node in quantized.graph.nodes for shape in node.output_shapes]
  image = 8 * sum(int(np.prod(shape[1:])) for shape in shapes)  # as printed, and as evaluated
  return max(1, MOST_BYTES // max(image, 1))


def evaluated(
  quantized: QuantizedModel, tensors: Mapping[str, np.ndarray], count: int | None = None
) -> dict[str, np.ndarray]:
  """Evaluates each operation on its inputs as printed, or else as evaluated; returns codes by name.

  Args:
    quantized: the model.
    tensors: integers that a device printed, with the input among them.
    count: of images that the program is compiled for.
  """
  program, size = quantized.program, len(tensors[INPUT])
  missing = 0 if count is None else count - size
  known = {
    name: steps_of(quantized, name, _more(array, missing)) for name, array in tensors.items()
  }
  found = _evaluate(program.steps, jax.device_put(program.arrays), known)
  return {name: codes_of(quantized, name, array)[:size] for name, array in found.items()}


def _more(array: np.ndarray, missing: int) -> np.ndarray:
  """An array with its last image some times more."""
  return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


@partial(jax.jit, static_argnums=0)
def _evaluate(steps, arrays, known):
  tensors, found = dict(known), {}
  for step, numbers in zip(steps, arrays, strict=True):
    inputs = [tensors[name] for name in step.inputs]
    for name, output in zip(
      step.outputs, ARITHMETIC[step.op].run(step.static, numbers, *inputs), strict=True
    ):
      found[name] = output
      tensors.setdefault(name, output)
  return found


def steps_of(quantized: QuantizedModel, name: str, codes: np.ndarray) -> np.ndarray:
  """``q - z`` of a tensor's integers, float32."""
  return codes.astype(np.float32) - np.float32(quantized.grids[name].zero_point)


def codes_of(quantized: QuantizedModel, name: str, steps: Any) -> np.ndarray:
  """The integers of a tensor of ``q - z``, int32: rules of devices may be beyond its type."""
  return np.rint(np.asarray(steps)).astype(np.int32) + int(quantized.grids[name].zero_point)


def unseen_before(quantized: QuantizedModel, node: Node, printed: Any) -> tuple[Node, ...]:
  """The operations whose results were not printed and that lead to one, with that, in order."""
  makers = {tensor: maker for maker in quantized.graph.nodes for tensor in maker.outputs}
  wanted, found = [node], {node.name}
  while wanted:
    for tensor in wanted.pop().inputs:
      if tensor not in printed and tensor in makers and makers[tensor].name not in found:
        found.add(makers[tensor].name)
        wanted.append(makers[tensor])
  return tuple(maker for maker in quantized.graph.nodes if maker.name in found)


def seen_after(quantized: QuantizedModel, node: Node, printed: Any) -> tuple[Node, ...]:
  """A node, and the operations that read what it makes by way of tensors that were not printed."""
  changed: set[str] = set()
  found = []
  for reader in quantized.graph.nodes:
    if reader == node or changed.intersection(reader.inputs):
      found.append(reader)
      changed.update(tensor for tensor in reader.outputs if tensor not in printed)
  return tuple(found)


def run_node(
  quantized: QuantizedModel, node: Node, tensors: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
  """``q - z`` of a node's outputs by name, from those of its inputs."""
  place = [one.name for one in quantized.graph.nodes].index(node.name)
  step, numbers = quantized.program.steps[place], quantized.program.arrays[place]
  inputs = [jnp.asarray(tensors[name]) for name in node.inputs]
  yield from zip(node.outputs, ARITHMETIC[step.op].run(step.static, numbers, *inputs), strict=True)
