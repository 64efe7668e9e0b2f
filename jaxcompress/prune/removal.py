"""Removes channels from a network, so that it becomes another, smaller one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from jaxcompress.arguments import check_type
from jaxcompress.nn import Endpoints, Graph, Node
from jaxcompress.nn.foreign import check_model
from jaxcompress.nn.graph import parameters
from jaxcompress.nn.operations import by_groups
from jaxcompress.nn.replay import Replay, replay
from jaxcompress.nn.tracing import trace_endpoints
from jaxcompress.prune.routes import (
  Routes,
  continued,
  find_routes,
  is_birth,
  name_depthwise,
  with_counts,
)


class Keep(NamedTuple):
  """Which channels stay.

  Attributes:
    masks: by layer that makes channels (convolutions but depthwise ones, and linear layers),
      (features,) bool; layers that are not named keep all but what belongs to removed channels.
    image_shape: (height, width, channels) of the images, for which the network is built.

  Examples:
    >>> keep = Keep({"stem": np.arange(16) < 12}, image_shape=(32, 32, 3))
    >>> int(keep.masks["stem"].sum())
    12
  """

  masks: Mapping[str, Any]
  image_shape: tuple[int, int, int]

  def __repr__(self) -> str:
    kept, of = (sum(int(f(mask)) for mask in self.masks.values()) for f in (np.sum, np.size))
    shape = "x".join(map(str, self.image_shape))
    return f"Keep({len(self.masks)} layers, {kept:,} of {of:,} channels, {shape})"


class Removal(NamedTuple):
  """A smaller graph, and where its channels come from.

  Attributes:
    graph: the smaller one.
    sources: by tensor, the positions that its channels had, (channels,) int.
  """

  graph: Graph
  sources: dict[str, np.ndarray]


def kept_classes(graph: Graph, routes: Routes, masks: Mapping[str, Any]) -> np.ndarray:
  """(classes,) bool: which classes of channels masks leave.

  Raises:
    ValueError: as :func:`~jaxcompress.prune.remove_channels`.
  """
  layers = {node.name: node for node in graph.nodes if is_birth(node)}
  stay, go = np.zeros((2, len(routes.locked)), bool)
  for name, mask in masks.items():
    if name not in layers:
      raise ValueError(f"keep: {name!r} makes no channels; the layers are {', '.join(layers)}.")
    ids, mask = routes.ids[layers[name].output], np.asarray(mask)
    if mask.dtype != bool or mask.shape != ids.shape:
      raise ValueError(
        f"keep: the mask of {name!r} is {mask.dtype} {mask.shape}; it must be bool {ids.shape}."
      )
    if routes.locked[ids[~mask]].any():
      raise ValueError(
        f"keep: the mask of {name!r} removes channels of the image or logits, or another output."
      )
    stay[ids[mask]] = go[ids[~mask]] = True
  both = [name for name in masks if (stay & go)[routes.ids[layers[name].output]].any()]
  if both:
    raise ValueError(
      f"keep: the masks of {', '.join(both)} differ on channels that belong together; give those"
      " one mask, or only one of the layers."
    )
  return ~go


def plan_removal(graph: Graph, masks: Mapping[str, Any]) -> Removal:
  """The smaller graph, without computing any weights.

  Args:
    graph: traced, not fused.
    masks: of :class:`Keep`.

  Raises:
    ValueError: as :func:`~jaxcompress.prune.remove_channels`.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import count_macs
    >>> graph = models.summarize(models.resnet8(10)).graph
    >>> removal = plan_removal(graph, {"stage0_block0/conv1": np.arange(16) < 8})
    >>> count_macs(graph) - count_macs(removal.graph) == 2 * 32 * 32 * 9 * 16 * 8
    True
  """
  graph = name_depthwise(graph)
  old = find_routes(graph)
  return match(graph, old, kept_classes(graph, old, masks))


def match(graph: Graph, old: Routes, kept: np.ndarray) -> Removal:
  """Gives every channel of the smaller graph one of the kept channels that goes the same way."""
  counts = {tensor: int(kept[ids].sum()) for tensor, ids in old.ids.items()}
  small = with_counts(graph, counts)
  new = find_routes(small)
  survivors = np.flatnonzero(kept)
  ours = survivors[_by_signature(old, survivors)]
  theirs = _by_signature(new, np.arange(len(new.signatures)))
  if len(ours) != len(theirs) or (old.signatures[ours] != new.signatures[theirs]).any():
    raise ValueError(
      "keep: a shuffle or a grouped convolution would have groups of different sizes; let"
      " prune.choose_channels choose."
    )
  renamed = np.full(len(kept), -1)
  renamed[ours] = theirs
  sources = {}
  for tensor, ids in old.ids.items():
    places = np.flatnonzero(kept[ids])
    source = np.empty(counts[tensor], int)
    source[np.argsort(new.ids[tensor], kind="stable")] = places[
      np.argsort(renamed[ids[places]], kind="stable")
    ]
    sources[tensor] = source
  _verify(graph, small, sources)
  return Removal(small, sources)


def _by_signature(routes: Routes, classes: np.ndarray) -> np.ndarray:
  """Positions of classes by signature, and by their place in the network among equal ones."""
  first = np.empty(len(routes.signatures), int)
  order = np.concatenate(list(routes.ids.values()))
  first[order[::-1]] = np.arange(len(order))[::-1]
  return np.lexsort((first[classes], routes.signatures[classes]))


def _verify(graph: Graph, small: Graph, sources: Mapping[str, np.ndarray]) -> None:
  """Raises if an operation of the smaller graph joins channels that the larger one does not."""
  for old, new in zip(graph.nodes, small.nodes, strict=True):
    starts = np.cumsum([0, *(shape[-1] for shape in old.input_shapes)])
    pairs = list(zip(starts, old.input_shapes, old.inputs, strict=False))
    was = continued(old, *(start + np.arange(shape[-1]) for start, shape, _ in pairs))
    now = continued(new, *(start + sources[name] for start, _, name in pairs))
    for tensor, before, after in zip(old.outputs, was, now, strict=True):
      if any((a[sources[tensor]] != b).any() for a, b in zip(before, after, strict=True)):
        raise ValueError(f"keep: {old.name!r}, a {old.op}, would join channels that it does not.")


def remove_channels(
  model: nn.Module, variables: Mapping[str, Any], keep: Keep
) -> tuple[Replay, dict[str, Any]]:
  """A network without some of the channels of another, and its variables.

  Whatever belongs to a removed channel goes with it: what it is added to and multiplied with, its
  depthwise convolutions and normalizations, and the weights that read it. Splits, concatenations
  and shuffles stay what they are, with smaller parts. The logits are those of the network in which
  removed channels are zero in every tensor, up to the order of sums: also behind functions that are
  not zero at zero, such as a sigmoid, and behind constants that are added.

  The result is made of the same leaf ops under the same names, so everything else in the library
  takes it: it is trained, traced, quantized, exported, and saved with ``models.save``. Take its
  running statistics anew afterwards, with ``training.reestimate_norm``, and train it on.

  Args:
    model: a linen module made of leaf ops.
    variables: its ``params`` and ``batch_stats``.
    keep: as from :func:`choose_channels`.

  Returns:
    ``(smaller model, smaller variables)``; parameters that the endpoints do not depend on are left
    out.

  Raises:
    ValueError: if an argument is of another kind, a mask is of no layer or does not fit it, two masks differ on channels that
      belong together, nothing of a tensor is left, or groups would differ in size.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (32, 32, 3))
    >>> keep = Keep({"stage0_block0/conv1": np.arange(16) < 12}, (32, 32, 3))
    >>> smaller, few = remove_channels(model, variables, keep)
    >>> few["params"]["stage0_block0"]["conv2"]["kernel"].shape
    (3, 3, 12, 16)

  References:
    Li et al., `Pruning Filters for Efficient ConvNets <https://arxiv.org/abs/1608.08710>`_, 2017,
    section 3; Fang et al., `DepGraph: Towards Any Structural Pruning
    <https://arxiv.org/abs/2301.12900>`_, 2023, for channels that belong together.
  """
  check_model("model", model)
  check_type("keep", keep, Keep, "a prune.Keep, as choose_channels(importance, 0.5) gives it")
  graph, ends = traced(model, variables, keep.image_shape)
  removal = plan_removal(graph, keep.masks)
  small = {}
  for collection, tree in jax.device_get(dict(variables)).items():
    entries = {node: parameters(tree, node.name) for node in graph.nodes}
    sliced = {
      node.name: _sliced(node, entry, removal.sources) for node, entry in entries.items() if entry
    }
    small[collection] = unflatten_dict(sliced, sep="/")
  origin = getattr(model, "origin", "") or f"{type(model).__name__}, pruned"
  return replay(removal.graph, ends, origin), jax.device_put(small)


def traced(
  model: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, ...]
) -> tuple[Graph, Endpoints]:
  """The graph of all that the endpoints depend on, and the names of these."""
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.float32), variables)
  graph, ends = trace_endpoints(model, abstract, image)
  return name_depthwise(graph), ends


def _sliced(
  node: Node, entry: Mapping[str, Any], sources: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """A layer's arrays without the removed channels."""
  outputs, inputs = sources[node.output], sources[node.inputs[0]]
  found = {}
  for name, array in entry.items():
    array = np.asarray(array)
    if array.ndim and array.shape[-1] == node.output_shapes[0][-1]:  # others belong to no channel
      array = array[..., outputs]
    if name == "kernel" and is_birth(node):
      array = _slice_inputs(node, array, inputs)
    found[name] = array
  return found


def _slice_inputs(node: Node, kernel: np.ndarray, inputs: np.ndarray) -> np.ndarray:
  grouped = by_groups(node, kernel)
  rows = inputs.reshape(grouped.shape[2], -1).T % grouped.shape[1]
  taken = np.take_along_axis(grouped, rows[None, :, :, None], axis=1)
  return taken.reshape(*kernel.shape[:-2], -1, kernel.shape[-1])
