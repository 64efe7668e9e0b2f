"""Which kernels are pruned."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_fraction, check_type, shown
from jaxcompress.nn import Graph, kernel_shape
from jaxcompress.nn.select import Layer, Selector, layers_of, offered_graph, parse, select

STUDENT = "student"  # the branch of a training state's tree that is pruned
BRANCHES = {STUDENT, "quantizer", "loss"}
UNKNOWN = "parameters alone do not tell which layers are the first, the last and depthwise"
GRAPH = "give graph=models.summarize(model, image_size).graph"
KERNEL_DIMS = (2, 4)  # of linear layers and convolutions
KEPT = ("first", "last", "depthwise")  # kinds that keep all weights unless a rule names them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
  """Keeps or prunes some kernels; of several rules the first that matches counts.

  Kernels that no rule matches are pruned like the others, except those of the kinds ``"first"``,
  ``"last"`` and ``"depthwise"``, which keep all their weights. Biases, BatchNorm and learned scales
  are never pruned.

  Attributes:
    match: a selector of layers: kinds, such as ``"first|last"`` or ``"depthwise"``, and regular
      expressions that are searched for in a layer's path (``"stage0_block0/expand"``); see
      :mod:`jaxcompress.nn.select`.
    keep: whether all weights stay.
    sparsity: share of zeros that the kernels get, in [0, 1); None: what the others get.

  Raises:
    ValueError: if the selector is malformed, or the sparsity is out of range.

  Examples:
    >>> Rule(match="stage3", sparsity=0.9).keep
    False
  """

  match: Selector
  keep: bool = False
  sparsity: float | None = None

  def __post_init__(self):
    parse(self.match, "match")
    check_type("keep", self.keep, bool, "True or False")
    if self.sparsity is not None:
      check_fraction("sparsity", self.sparsity)
      if self.keep:
        raise ValueError(f"sparsity: {self.sparsity} is given with keep; leave one of them out.")


def check_layers(rules: Any, graph: Any) -> None:
  """Raises if what says which kernels are pruned is of another kind."""
  if not isinstance(rules, (tuple, list)) or not all(isinstance(rule, Rule) for rule in rules):
    raise ValueError(f"rules: {shown(rules)} must be a tuple of prune.Rule; write (rule,).")
  check_type("graph", graph, Graph | None, "one such as models.summarize(model, image_size).graph")


def root_of(tree: Mapping[str, Any]) -> str:
  """Path, with a slash at its end, of what is pruned in a tree of parameters.

  Examples:
    >>> root_of({"student": {}, "quantizer": {}, "loss": {}}), root_of({"stem": {}})
    ('student/', '')
  """
  return f"{STUDENT}/" if isinstance(tree, Mapping) and set(tree) == BRANCHES else ""


def places_of(tree: Any) -> dict[tuple[Any, ...], str]:
  """Where a tree of parameters has kernels: the layer of each, by the path of its leaf.

  Args:
    tree: any pytree, or the trained tree of a training state, of which the student counts.

  Raises:
    ValueError: if two layers have one name, as ``a`` in ``b`` and ``"b/a"``.

  Examples:
    >>> list(places_of({"a": [{"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}]}).values())
    ['a/0']
  """
  root, found = root_of(tree), dict[tuple[Any, ...], str]()
  for path, _ in jax.tree_util.tree_leaves_with_path(tree):
    names = [jax.tree_util.keystr((key,), simple=True) for key in path]
    name = "/".join(names[:-1])
    if names and names[-1] == "kernel" and name.startswith(root):
      found[path] = name.removeprefix(root)
  twice = [name for name, count in Counter(found.values()).items() if count > 1]
  if twice:
    raise ValueError(f"params: two layers are called {twice[0]!r}; give one of them another name.")
  return found


def kernels_of(tree: Any) -> dict[str, Any]:
  """Every kernel of a network, by the path of its layer.

  Args:
    tree: parameters of a network, or the trained tree of a training state.

  Examples:
    >>> sorted(kernels_of({"a": {"b": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}}))
    ['a/b']
  """
  places, leaves = places_of(tree), jax.tree_util.tree_leaves_with_path(tree)
  return {places[path]: leaf for path, leaf in leaves if path in places and jnp.ndim(leaf) > 1}


class Targets(NamedTuple):
  """The kernels of a network that are pruned, by rules.

  Attributes:
    own: sparsity of the layers that have one of their own.
    shared: the layers that get what the transformation says.
  """

  own: dict[str, float]
  shared: tuple[str, ...]

  @property
  def layers(self) -> tuple[str, ...]:
    """All layers that are pruned."""
    return (*self.own, *self.shared)


def find_targets(
  kernels: Mapping[str, Any], rules: Sequence[Rule], graph: Graph | None = None
) -> Targets:
  """Applies rules to a network's kernels.

  Args:
    kernels: arrays or shapes, by layer.
    rules: in order of precedence.
    graph: of the network; None: the one that :func:`~jaxcompress.nn.select.on_network` offers.
      Without any, linear layers alone, or convolutions alone, are taken for what they are by
      themselves, of which none is the first or the last.

  Raises:
    ValueError: if a rule matches no kernel, nothing is left to prune, the graph is of another
      network, there is none and kernels of convolutions and of linear layers are not all told
      apart by their paths, or a kernel is that of neither and not kept.

  Examples:
    >>> kernels = {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 8)), "c": jnp.ones((8, 2))}
    >>> find_targets(kernels, (Rule(match="^a", sparsity=0.25), Rule(match="c", keep=True)))
    Targets(own={'a': 0.25}, shared=('b',))
  """
  graph = offered_graph() if graph is None else graph
  shapes = {name: tuple(kernel.shape) for name, kernel in kernels.items()}
  if not shapes:
    raise ValueError(
      "params: there are no kernels to prune, which are leaves called 'kernel'; prune where the"
      " optimizer gets the tree of parameters, outside of what flattens it, and give leaves that name."
    )
  layers = _alone(shapes) if graph is None else _in_graph(shapes, graph)
  open_ends = (
    graph is None and len({len(shape) for shape in shapes.values()} & set(KERNEL_DIMS)) > 1
  )
  if open_ends and any(part.kinds for rule in rules for part in parse(rule.match)):
    raise ValueError(f"graph: {UNKNOWN}, which a rule asks for; {GRAPH}.")
  named = [select(rule.match, layers, "rules") for rule in rules]
  left = [name for name in layers if not any(name in names for names in named)]
  if open_ends and left:
    raise ValueError(
      f"graph: {UNKNOWN}, and these keep their weights; {GRAPH}, or name in a prune.Rule what no rule"
      f" matches, {', '.join(left)}."
    )
  chosen = {}
  for name, layer in layers.items():
    usual = Rule(match=".", keep=not layer.kinds.isdisjoint(KEPT))
    matching = (rule for rule, names in zip(rules, named, strict=True) if name in names)
    chosen[name] = next(matching, usual)
  own = {name: rule.sparsity for name, rule in chosen.items() if rule.sparsity is not None}
  shared = tuple(n for n, rule in chosen.items() if rule.sparsity is None and not rule.keep)
  if not own and not shared:
    raise ValueError(
      f"rules: they leave nothing to prune of {', '.join(kernels)}; name a layer in a prune.Rule."
    )
  for name in (*own, *shared):
    if len(shapes[name]) not in KERNEL_DIMS:
      raise ValueError(
        f"params: the kernel of {name!r} is {shapes[name]}, and those that are pruned are (inputs,"
        " outputs) or (height, width, inputs, outputs); keep it, with"
        f" prune.Rule(match={'^' + re.escape(name) + '$'!r}, keep=True)."
      )
  return Targets(own, shared)


def _in_graph(shapes: Mapping[str, tuple[int, ...]], graph: Graph) -> dict[str, Layer]:
  """The layers as a graph knows them, and those on which the logits do not depend by themselves."""
  known, nodes = layers_of(graph), {node.name: node for node in graph.nodes}
  if not nodes.keys() & shapes.keys():
    raise ValueError(
      f"graph: it has none of the layers {', '.join(shapes)}; give the graph of this network."
    )
  for name, shape in shapes.items():
    if name in nodes and kernel_shape(nodes[name]) != shape:
      raise ValueError(
        f"graph: its layer {name!r} has a kernel of {kernel_shape(nodes[name])}, the parameters one of"
        f" {shape}; give the graph of this network."
      )
  return {**_alone(shapes), **{name: known[name] for name in shapes if name in known}}


def _alone(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Layer]:
  """The layers by what each kernel's shape tells."""

  def kinds(shape: tuple[int, ...]) -> frozenset[str]:
    if len(shape) not in KERNEL_DIMS:
      return frozenset()
    if len(shape) == 2:
      return frozenset({"Dense", "dense"})
    pointwise = {"pointwise"} if shape[:2] == (1, 1) else set()
    return frozenset({"ConvNorm", *({"depthwise"} if shape[2] == 1 else pointwise)})

  return {name: Layer((name,), kinds(shape)) for name, shape in shapes.items()}
