"""Endpoints of a model, its graph, and the record of an operation in it."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

INPUT = "input"
"""Name of the tensor that the network reads."""


class Endpoints(NamedTuple):
  """Everything that a loss may read from a network; ``jit`` drops what nobody uses.

  Attributes:
    logits: unnormalised class scores, (batch, classes).
    pooled: penultimate features, (batch, features).
    maps: feature maps at the end of each stage, (batch, height, width, channels) each.
    preact: the same maps before their last activation function.

  Examples:
    >>> import jax.numpy as jnp
    >>> Endpoints(logits=jnp.ones((1, 3))).logits.shape
    (1, 3)
  """

  logits: jax.Array
  pooled: jax.Array | None = None
  maps: tuple[jax.Array, ...] = ()
  preact: tuple[jax.Array, ...] = ()


class Node(NamedTuple):
  """One call of a leaf op.

  Attributes:
    name: the module's path, joined by slashes; parameters and ranges are found under it.
    op: the leaf op's class name, such as ``"ConvNorm"``.
    attrs: the module's fields.
    inputs: names of the tensors read.
    outputs: names of the tensors written: ``name``, then ``name:1``, ... where there are more.
    input_shapes: shapes of the inputs, the batch included.
    output_shapes: shapes of the outputs, the batch included.
  """

  name: str
  op: str
  attrs: Mapping[str, Any]
  inputs: tuple[str, ...]
  outputs: tuple[str, ...]
  input_shapes: tuple[tuple[int, ...], ...]
  output_shapes: tuple[tuple[int, ...], ...]

  @property
  def output(self) -> str:
    """Name of the first output."""
    return self.outputs[0]


class Operation(NamedTuple):
  """Record of a leaf op: all that there is to know of it beside its layer.

  Its fields are those of the module, its shapes those of what it computes. Its integers and its
  operators in files are entries under its name in the tables of ``quantize.integer`` and ``export``.

  Attributes:
    route: ``(node, *channels) -> sources``: where channels go. From an array for each input, with an
      entry for each channel, to a tuple for each output: arrays with the entries that its channels
      continue, none where they are new, and several where it joins them one by one.
    evaluate: ``(node, weights, bias, x) -> y`` in evaluation, before an activation function, where
      there are weights, which are folded; None: what the module computes.
    kernel: ``(node) -> shape``, (k, k, in / groups, out) or (in, out); None: there are no weights.
    groups: ``(node) -> count`` of the groups of channels, in the order of the channels, that must be
      of one size.
    macs: ``(node) -> count``: multiply-adds for one image.
    trained: whether the kernel is a parameter; otherwise it is of ones.
    takes_train: whether the module is called with ``train``.
    grid: that integers of the outputs are on: ``"own"``, to which they are rounded; ``"shared"``: the
      inputs' own, to which they are rounded as well; ``"copied"``: the inputs', whose integers they
      are.
    within: whether no output is beyond the ends of the inputs.
    linear: whether the mean of an output's channel is the sum of those that it continues.
    hosts: whether devices compute what :class:`ActivationFunction` says that fuses within it.
    resized: ``(node, inputs, outputs) -> fields`` with other numbers of channels; raises
      ``ValueError`` where there are none.
    lowered: ``(node) -> fields`` of what devices run in its place.
  """

  route: Callable[..., tuple[tuple[np.ndarray, ...], ...]]
  evaluate: Callable[..., jax.Array] | None = None
  kernel: Callable[[Node], tuple[int, ...]] | None = None
  groups: Callable[[Node], int] = lambda node: 1
  macs: Callable[[Node], int] = lambda node: 0
  trained: bool = True
  takes_train: bool = False
  grid: Literal["own", "shared", "copied"] = "own"
  within: bool = False
  linear: bool = False
  hosts: bool = False
  resized: Callable[[Node, list[int], list[int]], Mapping[str, Any]] = lambda node, ins, outs: {}
  lowered: Callable[[Node], Mapping[str, Any]] = lambda node: {}


def alike(node: Node, *channels: np.ndarray) -> tuple[tuple[np.ndarray, ...], ...]:
  """The route of what computes each channel from the same one of all inputs."""
  return (channels,)


def mixed(node: Node, *channels: np.ndarray) -> tuple[tuple[np.ndarray, ...], ...]:
  """The route of what makes each channel from several, so that it is a new one."""
  return ((),) * len(node.outputs)


class Graph(NamedTuple):
  """Leaf ops in the order in which they run. Hashable, so it can be static under ``jit``.

  Attributes:
    nodes: the calls that the logits depend on.
    input_shape: shape of the tensor named ``"input"``.
    output: name of the tensor that holds the logits.
  """

  nodes: tuple[Node, ...]
  input_shape: tuple[int, ...]
  output: str

  def consumers(self, tensor: str) -> tuple[Node, ...]:
    """The nodes that read a tensor."""
    return tuple(node for node in self.nodes if tensor in node.inputs)

  def producer(self, tensor: str) -> Node | None:
    """The node that writes a tensor; None for the input."""
    return next((node for node in self.nodes if tensor in node.outputs), None)

  def shape(self, tensor: str) -> tuple[int, ...]:
    """A tensor's shape, the batch included."""
    if tensor == INPUT:
      return self.input_shape
    node = next(node for node in self.nodes if tensor in node.outputs)
    return node.output_shapes[node.outputs.index(tensor)]


def parameters(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
  """The entry of one leaf op in a nested collection such as ``variables["params"]``.

  Examples:
    >>> parameters({"stem": {"conv": {"kernel": 1}}}, "stem/conv")
    {'kernel': 1}
  """
  for part in name.split("/"):
    tree = tree.get(part, {})
  return tree


def with_parameters(tree: Mapping[str, Any], name: str, entry: Any) -> dict[str, Any]:
  """The collection with another entry for one leaf op, or for one array of it.

  Examples:
    >>> with_parameters({"stem": {"kernel": 1, "bias": 2}}, "stem/kernel", 3)
    {'stem': {'kernel': 3, 'bias': 2}}
  """
  head, _, rest = name.partition("/")
  return {**tree, head: with_parameters(tree[head], rest, entry) if rest else entry}
