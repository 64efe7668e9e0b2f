"""Which kernels are pruned, and how far."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.nn import Graph
from jaxcompress.nn.kinds import layer_kinds
from jaxcompress.prune.kinds import Readings, readings_of

STUDENT = "student"  # the branch of a training state's tree that is pruned
BRANCHES = {STUDENT, "quantizer", "loss"}
KEPT = ("first", "last", "depthwise")  # kinds that keep all weights unless a rule names them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
  """What is done to some kernels; of several rules the first that matches counts.

  Kernels that no rule matches are pruned like the others, except those of the kinds ``"first"``,
  ``"last"`` and ``"depthwise"``, which keep all their weights. Biases, BatchNorm and learned scales
  are never pruned.

  Attributes:
    match: regular expression, searched for in a layer's path (``"stage0_block0/expand"``), or one
      that is the whole of a kind: ``"depthwise"``, ``"pointwise"``, ``"dense"``, ``"first"`` (it
      reads the image) or ``"last"`` (it makes the logits); see :func:`jaxcompress.nn.kinds.layer_kinds`.
    keep: whether all weights stay.
    sparsity: share of zeros that the kernels get, in [0, 1); None: what the others get.

  Raises:
    ValueError: if the expression is none, or the sparsity is out of range.

  Examples:
    >>> Rule(match="stage3", sparsity=0.9).keep
    False
  """

  match: str
  keep: bool = False
  sparsity: float | None = None

  def __post_init__(self):
    try:
      re.compile(self.match)
    except (re.error, TypeError) as error:
      raise ValueError(f"match: {self.match!r} is no regular expression ({error}).") from error
    if self.sparsity is not None:
      check_sparsity(self.sparsity)
      if self.keep:
        raise ValueError(f"sparsity: {self.sparsity} is given with keep; leave one of them out.")


def check_sparsity(sparsity: float) -> None:
  """Raises if a share of zeros is none."""
  if not 0 <= sparsity < 1:
    raise ValueError(f"sparsity: {sparsity} is out of range; it must be at least 0 and below 1.")


def check_floor(floor: int) -> None:
  """Raises if a number of weights that stay is none."""
  if isinstance(floor, bool) or not isinstance(floor, int) or floor < 0:
    raise ValueError(f"floor: {floor!r} must be a whole number, at least 0.")


def first_and_last(graph: Graph) -> tuple[Rule, ...]:
  """Rules that keep the layers that read the image and those that make the logits, by their paths.

  Without any rules they are kept too; these are for rules of one's own that would match them.

  Args:
    graph: of the network, as ``models.summarize(model, shape).graph``.

  Examples:
    >>> from jaxcompress import models
    >>> [rule.match for rule in first_and_last(models.summarize(models.vgg8(), 32).graph)]
    ['^stage0_conv0$', '^classifier$']
  """
  ends = [name for name, kinds in layer_kinds(graph).items() if kinds & {"first", "last"}]
  return tuple(Rule(match=f"^{re.escape(name)}$", keep=True) for name in ends)


def root_of(tree: Mapping[str, Any]) -> str:
  """Path, with a slash at its end, of what is pruned in a tree of parameters.

  Examples:
    >>> root_of({"student": {}, "quantizer": {}, "loss": {}}), root_of({"stem": {}})
    ('student/', '')
  """
  return f"{STUDENT}/" if isinstance(tree, Mapping) and set(tree) == BRANCHES else ""


def kernels_of(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Every kernel of a network, by the path of its layer.

  Args:
    tree: parameters of a network, or the trained tree of a training state.

  Examples:
    >>> sorted(kernels_of({"a": {"b": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}}))
    ['a/b']
  """
  tree = tree[STUDENT] if root_of(tree) else tree
  found = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    names = [jax.tree_util.keystr((key,), simple=True) for key in path]
    if names and names[-1] == "kernel" and jnp.ndim(leaf) in (2, 4):
      found["/".join(names[:-1])] = leaf
  return found


class Targets(NamedTuple):
  """What rules say of a network's kernels.

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
    graph: of the network, or None; see :func:`~jaxcompress.prune.kinds.readings_of`.

  Raises:
    ValueError: if a rule matches no kernel, nothing is left to prune, it depends on what shapes do
      not tell whether a layer is pruned, or the graph is of another network.

  Examples:
    >>> kernels = {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 8)), "classifier": jnp.ones((8, 2))}
    >>> find_targets(kernels, (Rule(match="^a", sparsity=0.25),))
    Targets(own={'a': 0.25}, shared=('b',))
  """
  readings = readings_of({name: tuple(kernel.shape) for name, kernel in kernels.items()}, graph)
  decided = {name: _decide(rules, name, readings[name]) for name in kernels}
  for rule in rules:
    if not any(_matches(rule, name, kinds) for name in kernels for kinds in readings[name]):
      raise ValueError(
        f"rules: {rule.match!r} matches no kernel; the layers are {', '.join(kernels)}."
      )
  own = {name: rule.sparsity for name, rule in decided.items() if rule.sparsity is not None}
  shared = tuple(n for n, rule in decided.items() if rule.sparsity is None and not rule.keep)
  if not own and not shared:
    raise ValueError(
      f"rules: they leave nothing to prune of {', '.join(kernels) or 'a tree without kernels'}; name"
      " a layer in a prune.Rule."
    )
  return Targets(own, shared)


def _decide(rules: Sequence[Rule], name: str, readings: Readings) -> Rule:
  """The rule that counts for a layer, whatever its reading."""
  first, *others = (_first_match(rules, name, kinds) for kinds in readings)
  if any((other.keep, other.sparsity) != (first.keep, first.sparsity) for other in others):
    words = " or ".join(repr(", ".join(sorted(kinds)) or "none") for kinds in readings)
    raise ValueError(
      f"graph: the parameters alone do not tell which kind of layer {name!r} is ({words}), and its"
      " pruning depends on it; give graph=models.summarize(model, image_size).graph, or name the"
      " layer in a prune.Rule."
    )
  return first


def _first_match(rules: Sequence[Rule], name: str, kinds: frozenset[str]) -> Rule:
  kept = Rule(match="", keep=bool(kinds & set(KEPT)))
  return next((rule for rule in rules if _matches(rule, name, kinds)), kept)


def _matches(rule: Rule, name: str, kinds: frozenset[str]) -> bool:
  searched = re.search(rule.match, name) is not None
  return searched or any(re.fullmatch(rule.match, kind) for kind in kinds)
