"""Chooses tensors that keep a grid of their own where they are joined with others, from ranges.

A concatenation copies integers, so that what it joins has one grid. A tensor that is much smaller than
the others then loses most of its levels, for its other readers as well. It can keep a grid of its own
if it is requantized before the concatenation. With own steps ``s`` and shared steps ``c``, the others
then read it with the error ``s**2 / 12`` in place of ``c**2 / 12``, and the concatenation, which rounds
twice, with ``(s**2 + c**2) / 12``. That is done where ``c > 2 s``: the others gain more than 6 dB, and the
concatenation loses less than 1. An average pool loses nothing: as a convolution it writes any grid, so
it does where its steps differ at all.

Ties are made one by one, those first that cost least, as long as no tensor in the group gets steps that
are too coarse for it. What a single concatenation reads and nothing else is written on its grid.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress.nn import Graph, fold
from jaxcompress.nn.execute import folded_layers
from jaxcompress.nn.operations import joins, shares_grid
from jaxcompress.quantize.integer.lower import is_linear
from jaxcompress.quantize.limits import coarsest
from jaxcompress.quantize.ptq.calibrators import Bounds
from jaxcompress.quantize.ptq.images import Preprocess, read_images
from jaxcompress.quantize.ptq.observe import extremes, ranges_of
from jaxcompress.quantize.sites import Apart, Sites, find_sites

WORTH_OF_POOLS = 1.25  # as limits.WORTH, for what needs no operator


def grids_apart(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: Any,
  *,
  preprocess: Preprocess | None = None,
  batch_size: int = 32,
) -> tuple[tuple[str, str], ...]:
  """Finds pairs of a node and a tensor of a trained network that lose less with grids of their own.

  :func:`~jaxcompress.quantize.post_training` finds them itself. For fine-tuning they are given to the
  plan, such as ``int8(apart=grids_apart(...))``, since a network's ranges are known only once it is
  trained.

  Args:
    model: a linen module made of the leaf ops.
    variables: its trained ``params`` and ``batch_stats``.
    images: (N, height, width, channels), float; or whatever numbers ``preprocess`` takes.
    preprocess: maps images to what the network reads.
    batch_size: images at once.

  Returns:
    The pairs, in order of their names; none where all tensors that are joined are alike.

  Raises:
    ValueError: if the images do not fit the model.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> grids_apart(model, variables, jax.numpy.ones((2, 8, 8, 3)))
    ()
  """
  graph, batches = read_images(model, variables, images, preprocess, batch_size)
  sites = find_sites(graph)
  layers = folded_layers(fold(sites.graph, jax.device_get(variables)))
  return tuple(sorted(choose_apart(sites, ranges_of(extremes(sites, layers, batches)))))


class Group(NamedTuple):
  """Tensors that share a grid.

  Attributes:
    range: of all of them.
    bits: that are asked for, 2 to 8 or 16; tensors with unlike ones have grids apart.
    limit: the largest step that does no harm to those that more than one node reads.
  """

  range: Bounds
  bits: int
  limit: float

  @property
  def step(self) -> float:
    """The scale of the grid of 8 or 16 bits, as :func:`~jaxcompress.quantize.fake_quant.affine` makes it."""
    low, high = min(self.range[0], 0.0), max(self.range[1], 0.0)
    whole = high - low if self.bits <= 8 else 2 * max(-low, high)
    return whole / (2 ** max(8, self.bits) - 1)

  def join(self, other: "Group") -> "Group | None":
    """Both on one grid; None where that does harm."""
    ends = min(self.range[0], other.range[0]), max(self.range[1], other.range[1])
    joined = Group(ends, self.bits, min(self.limit, other.limit))
    return joined if self.bits == other.bits and joined.step <= joined.limit else None


def choose_apart(
  sites: Sites, ranges: Mapping[str, Bounds], bits: Mapping[str, int] | None = None
) -> Apart:
  """Chooses pairs of a node and a tensor that it reads, which had better not share a grid.

  Args:
    sites: where all tensors that can share a grid do.
    ranges: smallest and largest value of the input and every rounded or joined tensor.
    bits: 2 to 8, or 16, by tensor; 8 where it says nothing.

  Returns:
    Pairs for :func:`~jaxcompress.quantize.sites.find_sites`; of gates, too, which are always apart.

  Examples:
    >>> from jaxcompress.nn import Node
    >>> one, two = ((1, 4, 4, 2),), ((1, 4, 4, 2),) * 2
    >>> graph = Graph((
    ...   Node("act", "Activation", {"act": "relu"}, ("input",), ("act",), one, one),
    ...   Node("cat", "Concat", {}, ("act", "input"), ("cat",), two, ((1, 4, 4, 4),)),
    ...   Node("sum", "Add", {}, ("act", "act"), ("sum",), two, one),
    ...   Node("both", "Concat", {}, ("cat", "sum"), ("both",), ((1, 4, 4, 4), *one), ((1, 4, 4, 6),)),
    ... ), (1, 4, 4, 2), "both")
    >>> ranges = {"input": (-9.0, 3.0), "act": (0.0, 3.0), "sum": (0.0, 6.0)}
    >>> joined = dict.fromkeys(("cat", "both"), (-9.0, 6.0))
    >>> sorted(choose_apart(find_sites(graph), ranges | joined))
    [('cat', 'act')]
  """
  graph, bits = sites.graph, bits or {}
  ties = {
    (node.name, tensor): node
    for node in graph.nodes
    if joins(node) or is_linear(node)
    for tensor in node.inputs
    if (node.name, tensor) not in sites.apart
  }
  key_of = find_sites(graph, {*ties, *sites.apart}).key_of
  groups: dict[str, Group] = {}
  for tensor, key in key_of.items():
    if tensor in ranges:
      own = Group(ranges[tensor], bits.get(tensor, 8), float("inf"))
      groups[key] = groups[key].join(own) or own if key in groups else own
  for key in _read_by_many(graph, key_of):
    if groups[key].step > 0:  # zeros are zeros on every grid
      limit = coarsest(groups[key].step, groups[key].bits)
      groups[key] = groups[key]._replace(limit=limit)
  place = {key: key for key in groups}  # of a grid, in groups of those that share one
  while True:
    costs = []
    for (_, tensor), node in ties.items():
      left, right = (place[key_of[end]] for end in (tensor, node.output))
      joined = groups[left].join(groups[right]) if left != right else None
      if joined is not None:
        finer = min(groups[left].step, groups[right].step)
        growth = joined.step / finer if finer else 1.0
        is_pool = not joins(node)
        if not is_pool or growth <= WORTH_OF_POOLS:
          costs.append((is_pool, growth, left, right))
    if not costs:
      break
    *_, left, right = min(costs)
    groups[left] = groups[left].join(groups[right]) or groups[left]
    place = {key: left if group == right else group for key, group in place.items()}
  unlike = (pair for pair, n in ties.items() if place[key_of[pair[1]]] != place[key_of[n.output]])
  return sites.apart | frozenset(unlike)


def _read_by_many(graph: Graph, key_of: Mapping[str, str]) -> set[str]:
  """Grids whose numbers are not merely written for one node that has a grid in common with them."""
  readers: dict[str, int] = {key_of[tensor]: 2 for _, tensor in graph.outputs}
  for node in graph.nodes:
    for key in dict.fromkeys(key_of[tensor] for tensor in node.inputs):
      if not shares_grid(node):
        readers[key] = 2
      elif key_of[node.output] != key:
        readers[key] = readers.get(key, 0) + 1
  return {key for key, count in readers.items() if count > 1}
