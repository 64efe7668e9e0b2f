"""Endpoints of a model, its graph, and the record of an operation in it."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax.core import FrozenDict

INPUT = "input"
"""Name of the tensor that the network reads."""
LOGITS = "logits"
"""Name of an output that has none of its own."""


class Endpoints(NamedTuple):
  """Everything that a loss may read from a network; ``jit`` drops what nobody uses.

  Attributes:
    logits: unnormalised class scores, (batch, classes).
    pooled: penultimate features, (batch, features).
    maps: feature maps at the end of each stage, (batch, height, width, channels) each.
    preact: the same maps before their last activation function.
    outputs: all that the network is for, by name, where that is more than ``logits``, such as the
      boxes and scores of a detector; files have them by these names.

  Examples:
    >>> import jax.numpy as jnp
    >>> Endpoints(logits=jnp.ones((1, 3))).logits.shape
    (1, 3)
  """

  logits: jax.Array
  pooled: jax.Array | None = None
  maps: tuple[jax.Array, ...] = ()
  preact: tuple[jax.Array, ...] = ()
  outputs: Mapping[str, jax.Array] = FrozenDict()


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


GridKind = Literal["own", "shared", "copied"]


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
    constants: ``(node, params, batch_stats) -> (factor, bias)``, (out,) float64, of what scales channels
      otherwise than by a normalization or a kernel of its own; None: it does not.
    macs: ``(node) -> count``: multiply-adds for one image.
    trained: whether the kernel is a parameter; otherwise it is of ones.
    takes_train: whether the module is called with ``train``.
    grid: that integers of the outputs are on: ``"own"``, to which they are rounded; ``"shared"``: the
      inputs' own, to which they are rounded as well; ``"copied"``: the inputs', whose integers they
      are; or ``(node) -> one of these``.
    within: whether no output is beyond the ends of the inputs.
    fill: ``(node) -> value`` that outputs hold beside those within the inputs; None: none.
    homogeneous: whether each channel is one of the input's, and grows with it by any positive factor.
    linear: whether the mean of an output's channel is the sum of those that it continues; or
      ``(node) -> whether``.
    spreads: whether its stride puts zeros between the cells of the input, over which the kernel moves
      by one, as that of a transposed convolution.
    hosts: whether devices compute what :class:`ActivationFunction` says that fuses within it.
    follows: ``(node) -> whether`` it becomes part of the weights of a layer before it.
    whole: whether it computes each output from all channels at once, so that none of them can go.
    newer: fields that graphs leave out while they are as by default: those that the module did not
      have from the start, so that graphs and files of networks without them stay as they were.
    resized: ``(node, inputs, outputs) -> fields`` with other numbers of channels; raises
      ``ValueError`` where there are none.
    lowered: ``(node) -> fields`` of what devices run in its place.
  """

  route: Callable[..., tuple[tuple[np.ndarray, ...], ...]]
  evaluate: Callable[..., jax.Array] | None = None
  kernel: Callable[[Node], tuple[int, ...]] | None = None
  constants: Callable[..., tuple[np.ndarray, np.ndarray]] | None = None
  groups: Callable[[Node], int] = lambda node: 1
  macs: Callable[[Node], int] = lambda node: 0
  trained: bool = True
  takes_train: bool = False
  grid: GridKind | Callable[[Node], GridKind] = "own"
  within: bool = False
  fill: Callable[[Node], float | None] = lambda node: None
  homogeneous: bool = False
  linear: bool | Callable[[Node], bool] = False
  spreads: bool = False
  hosts: bool = False
  follows: Callable[[Node], bool] = lambda node: False
  whole: bool = False
  newer: tuple[str, ...] = ()
  resized: Callable[[Node, list[int], list[int]], Mapping[str, Any]] = lambda node, ins, outs: {}
  lowered: Callable[[Node], Mapping[str, Any]] = lambda node: {}


def alike(node: Node, *channels: np.ndarray) -> tuple[tuple[np.ndarray, ...], ...]:
  """The route of what computes each channel from the same one of all inputs."""
  return (channels,)


def all_channels(node: Node, inputs: list[int], outputs: list[int]) -> Mapping[str, Any]:
  """The fields of what computes with all channels at once, where none of them has gone.

  Raises:
    ValueError: if some have.
  """
  if inputs[0] != node.input_shapes[0][-1]:
    raise ValueError(f"{node.name!r} computes with all {node.input_shapes[0][-1]} channels")
  return {}


def mixed(node: Node, *channels: np.ndarray) -> tuple[tuple[np.ndarray, ...], ...]:
  """The route of what makes each channel from several, so that it is a new one."""
  return ((),) * len(node.outputs)


class _Graph(NamedTuple):
  nodes: tuple[Node, ...]
  input_shape: tuple[int, ...]
  outputs: tuple[tuple[str, str], ...]


class Graph(_Graph):
  """Leaf ops in the order in which they run. Hashable, so it can be static under ``jit``.

  Attributes:
    nodes: the calls that the outputs depend on.
    input_shape: shape of the tensor named ``"input"``.
    outputs: pairs of an output's name and its tensor, the logits first; a tensor alone is the output
      ``"logits"``.

  Examples:
    >>> Graph((), (1, 4), "input").outputs
    (('logits', 'input'),)
  """

  __slots__ = ()

  def __new__(
    cls,
    nodes: tuple[Node, ...],
    input_shape: tuple[int, ...],
    outputs: str | tuple[tuple[str, str], ...],
  ):
    if isinstance(outputs, str):
      outputs = ((LOGITS, outputs),)
    return super().__new__(cls, nodes, input_shape, outputs)

  @property
  def output(self) -> str:
    """The tensor of the first output, which is read as logits."""
    return self.outputs[0][1]

  def is_output(self, tensor: str) -> bool:
    """Whether a tensor is one of the outputs."""
    return any(tensor == made for _, made in self.outputs)

  def consumers(self, tensor: str) -> tuple[Node, ...]:
    """The nodes that read a tensor."""
    return tuple(node for node in self.nodes if tensor in node.inputs)

  def is_read(self, tensor: str) -> bool:
    """Whether a node reads a tensor, or it is an output: of a split some parts may not be."""
    return bool(self.consumers(tensor)) or self.is_output(tensor)

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
