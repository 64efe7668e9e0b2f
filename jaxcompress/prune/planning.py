"""The graph that is left without some channels, and where its channels come from."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.nn import Graph
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
      raise ValueError(f"keep: the mask of {name!r} removes channels of the image or logits.")
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
