"""Which kernels are pruned, and how far."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.nn import Graph, kernel_shape

STUDENT = "student"  # the branch of a training state's tree that is pruned
BRANCHES = {STUDENT, "quantizer", "loss"}
KEPT = ("first", "last", "depthwise")  # kinds that keep all weights unless a rule names them
IMAGE_CHANNELS = 4  # a convolution that reads no more is the network's first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
  """What is done to some kernels; of several rules the first that matches counts.

  Kernels that no rule matches are pruned like the others, except those of the kinds ``"first"``,
  ``"last"`` and ``"depthwise"``, which keep all their weights. Biases, BatchNorm and learned scales
  are never pruned.

  Attributes:
    match: regular expression, searched for in a layer's path (``"stage0_block0/expand"``), or one
      that is the whole of a kind: ``"depthwise"``, ``"pointwise"``, ``"dense"``, ``"first"`` (it
      reads at most four channels) or ``"last"`` (its name is ``classifier``). For networks with
      other names see :func:`first_and_last`.
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


def first_and_last(graph: Graph) -> tuple[Rule, ...]:
  """Rules that keep the first and the last layer with a kernel, whatever their names.

  Args:
    graph: of the network, as ``models.summarize(model, shape).graph``.

  Examples:
    >>> from jaxcompress import models
    >>> [rule.match for rule in first_and_last(models.summarize(models.vgg8(), 32).graph)]
    ['^stage0_conv0$', '^classifier$']
  """
  names = [node.name for node in graph.nodes if kernel_shape(node) is not None]
  ends = dict.fromkeys((*names[:1], *names[-1:]))
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


def kinds_of(name: str, shape: tuple[int, ...]) -> frozenset[str]:
  """Words that a rule may match as a whole.

  Examples:
    >>> sorted(kinds_of("stem", (3, 3, 3, 8))), sorted(kinds_of("classifier", (8, 10)))
    (['first'], ['dense', 'last'])
  """
  words = {"last"} if name.split("/")[-1] == "classifier" else set()
  if len(shape) == 2:
    return frozenset({*words, "dense"})
  if shape[2] == 1:
    words.add("depthwise")
  if 1 < shape[2] <= IMAGE_CHANNELS:
    words.add("first")
  if shape[:2] == (1, 1):
    words.add("pointwise")
  return frozenset(words)


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


def choose_targets(kernels: Mapping[str, Any], rules: Sequence[Rule]) -> Targets:
  """Applies rules to a network's kernels.

  Args:
    kernels: arrays or shapes, by layer.
    rules: in order of precedence.

  Examples:
    >>> kernels = {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 8)), "classifier": jnp.ones((8, 2))}
    >>> choose_targets(kernels, (Rule(match="^a", sparsity=0.25),))
    Targets(own={'a': 0.25}, shared=('b',))
  """
  own, shared = {}, []
  for name, kernel in kernels.items():
    kinds = kinds_of(name, tuple(kernel.shape))
    rule = next((rule for rule in rules if _matches(rule, name, kinds)), None)
    if rule is None:
      rule = Rule(match="", keep=bool(kinds & set(KEPT)))
    if rule.sparsity is not None:
      own[name] = rule.sparsity
    elif not rule.keep:
      shared.append(name)
  return Targets(own, tuple(shared))


def check_rules(kernels: Mapping[str, Any], rules: Sequence[Rule]) -> Targets:
  """The targets of a whole network.

  Raises:
    ValueError: if a rule matches no kernel, or nothing is left to prune.
  """
  for rule in rules:
    if not any(_matches(rule, n, kinds_of(n, tuple(k.shape))) for n, k in kernels.items()):
      raise ValueError(
        f"rules: {rule.match!r} matches no kernel; the layers are {', '.join(kernels)}."
      )
  targets = choose_targets(kernels, rules)
  if not targets.layers:
    raise ValueError(
      f"rules: they leave nothing to prune of {', '.join(kernels) or 'a tree without kernels'}; name"
      " a layer in a prune.Rule."
    )
  return targets


def _matches(rule: Rule, name: str, kinds: frozenset[str]) -> bool:
  searched = re.search(rule.match, name) is not None
  return searched or any(re.fullmatch(rule.match, kind) for kind in kinds)
