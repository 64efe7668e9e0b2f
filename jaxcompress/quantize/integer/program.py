"""A whole graph on integers: prepared once in numpy, run by one compiled function."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import INPUT, Graph, Node
from jaxcompress.nn.outputs import only_or_all
from jaxcompress.nn.structure import REQUANTIZE
from jaxcompress.quantize.integer.arithmetic import ARITHMETIC
from jaxcompress.quantize.integer.grid import Grid, Integers
from jaxcompress.quantize.integer.runtimes import find_kernels
from jaxcompress.quantize.integer.transposed import Interleaved
from jaxcompress.quantize.integer.weighted import Sums

LARGEST_BATCH = 256
BATCH_BYTES = 2**28  # of the float32 maps of a batch, about


class Step(NamedTuple):
  """One node of a compiled program: hashable."""

  op: str
  static: Any
  inputs: tuple[str, ...]
  outputs: tuple[str, ...]


class Output(NamedTuple):
  """An output of a program.

  Attributes:
    name: of the output.
    tensor: that holds it.
    dtype: of its integers.
    zero_point: of its grid.
  """

  name: str
  tensor: str
  dtype: np.dtype
  zero_point: int


class Program(NamedTuple):
  """A graph prepared for evaluation.

  Attributes:
    steps: what is compiled; equal for networks of one architecture, so they share a program.
    arrays: what it is called with: a dict for each step.
    outputs: of the graph.
    zero_point: of the input.
    batch: images that are evaluated at once.
  """

  steps: tuple[Step, ...]
  arrays: tuple[dict[str, Any], ...]
  outputs: tuple[Output, ...]
  zero_point: int
  batch: int


def prepare(
  graph: Graph,
  grids: Mapping[str, Grid],
  layers: Mapping[str, Integers],
  kernels: str = "xnnpack",
) -> Program:
  """Computes every constant of a graph.

  Args:
    graph: with fused activations.
    grids: of every tensor.
    layers: integers of every node that has a kernel.
    kernels: name of the runtime whose arithmetic it is.

  Raises:
    ValueError: for an unknown runtime, an op that has no integer arithmetic or numbers that the device would refuse;
      it names the layer.
  """
  find_kernels(kernels)
  steps, arrays = [], []
  for node in graph.nodes:
    if node.op not in ARITHMETIC:
      raise ValueError(
        f"model: layer {node.name!r} is a {node.op}, which has no integer arithmetic; it can be"
        f" one of {', '.join(ARITHMETIC)}."
      )
    if 0 in (size for shape in node.output_shapes for size in shape[1:]):
      raise ValueError(
        f"model: layer {node.name!r} makes maps of shape {node.output_shapes[0][1:]}, which are"
        " empty; give it larger images."
      )
    rules = find_kernels(kernels, _width(node, grids))
    try:
      static, numbers = ARITHMETIC[node.op].prepare(node, grids, layers.get(node.name), rules)
    except ValueError as error:
      raise ValueError(f"model: layer {node.name!r}: {error}") from error
    steps.append(Step(node.op, static, node.inputs, node.outputs))
    arrays.append(numbers)
  outputs = tuple(
    Output(name, tensor, grids[tensor].dtype, grids[tensor].zero_point)
    for name, tensor in graph.outputs
  )
  zero_point = grids[INPUT].zero_point
  return Program(tuple(steps), tuple(arrays), outputs, zero_point, _batch(graph))


def _width(node: Node, grids: Mapping[str, Grid]) -> int:
  """Bits of the activations that a node computes with."""
  bits = grids[node.output].bits
  mixed = {name: grids[name].bits for name in (*node.inputs, *node.outputs)}
  if node.op != REQUANTIZE and set(mixed.values()) != {bits}:
    raise ValueError(
      f"grids: layer {node.name!r} has tensors of several widths ({mixed} bits); only a Requantize"
      " may, and quantize.assemble puts them in."
    )
  return bits


def _batch(graph: Graph) -> int:
  """A power of two of images whose largest maps fit in the memory that is allowed."""
  shapes = [graph.input_shape, *(shape for node in graph.nodes for shape in node.output_shapes)]
  image_bytes = 4 * 4 * max(int(np.prod(shape[1:])) for shape in shapes)  # a few maps are alive
  fitting = max(1, BATCH_BYTES // image_bytes)
  return min(LARGEST_BATCH, 2 ** (fitting.bit_length() - 1))


def run(program: Program, codes: np.ndarray) -> Any:
  """The output of a program on any number of images; of several a dict, see :func:`run_all`."""
  return only_or_all(run_all(program, codes))


def run_all(program: Program, codes: np.ndarray) -> dict[str, np.ndarray]:
  """Evaluates a program on any number of images, a bounded number at a time.

  Args:
    program: of :func:`prepare`.
    codes: int8 or int16, (images, height, width, channels).

  Returns:
    int8 or int16 outputs by name, (images, ...) each.
  """
  count = len(codes)
  batch = min(program.batch, 2 ** max(count - 1, 0).bit_length())
  arrays = jax.device_put(program.arrays)
  ends = tuple((output.tensor, output.dtype) for output in program.outputs)
  zero_points = program.zero_point, tuple(output.zero_point for output in program.outputs)
  results: dict[str, list[np.ndarray]] = {output.name: [] for output in program.outputs}
  for start in range(0, max(count, 1), batch):
    part = codes[start : start + batch]
    padding = ((0, batch - len(part)), *((0, 0),) * (codes.ndim - 1))
    padded = np.pad(part, padding)
    found = _evaluate(program.steps, ends, arrays, zero_points, padded)
    for parts, array in zip(results.values(), found, strict=True):
      parts.append(np.asarray(array)[: len(part)])
  return {name: np.concatenate(parts) for name, parts in results.items()}


@partial(jax.jit, static_argnums=(0, 1))
def _evaluate(steps, ends, arrays, zero_points, codes):
  source, zeros = zero_points
  tensors = all_tensors(steps, arrays, codes.astype(jnp.float32) - source)
  return [
    (tensors[tensor] + zero).astype(dtype)
    for (tensor, dtype), zero in zip(ends, zeros, strict=True)
  ]


def all_tensors(
  steps: tuple[Step, ...], arrays: tuple[dict[str, Any], ...], x: jax.Array
) -> dict[str, jax.Array]:
  """``q - zero_point`` of every tensor of a program, float32, by name; for use under ``jit``.

  Args:
    steps: of a :class:`Program`; static.
    arrays: of the same program, or of one of equal steps.
    x: ``q - zero_point`` of the input, float32 (batch, height, width, channels).
  """
  tensors = {INPUT: x}
  for step, numbers in zip(steps, arrays, strict=True):
    inputs = [tensors[name] for name in step.inputs]
    outputs = ARITHMETIC[step.op].run(step.static, numbers, *inputs)
    tensors.update(zip(step.outputs, outputs, strict=True))
  return tensors


def for_any_weights(program: Program) -> tuple[Step, ...]:
  """The program's steps as they are for all weights and grids, to be called with other arrays."""
  return tuple(
    step._replace(static=step.static.for_any(numbers["weights"]))
    if isinstance(step.static, Sums | Interleaved)
    else step
    for step, numbers in zip(program.steps, program.arrays, strict=True)
  )
