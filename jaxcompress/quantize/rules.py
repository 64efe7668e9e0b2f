"""Which quantizer each layer gets."""

import dataclasses
import enum
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxcompress.nn import Graph, Node, kernel_shape
from jaxcompress.quantize.quantizers import Kind, Quantizer, absmax, check_quantizer, ema_range


class Default(enum.Enum):
  """What a rule does not decide stays as the plan has it."""

  DEFAULT = "default"


DEFAULT = Default.DEFAULT
KINDS: tuple[Kind, ...] = ("weights", "activations")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
  """An exception from a plan for some layers; of several rules the first that matches counts.

  Attributes:
    match: regular expression, searched for in a layer's path (``"stage0_block0/expand"``), or one
      that is the whole of a kind: the op (``"Dense"``, ``"Add"``), ``"depthwise"``,
      ``"pointwise"``, or ``"first"`` and ``"last"`` for the first and last layer with a kernel. The
      path of the network's input is ``"input"``.
    weights: quantizer of the kernel; None leaves it in float.
    activations: quantizer of the output; None leaves it in float. With more than 8 bits the layer
      reads and writes int16, whatever its neighbours do.

  Raises:
    ValueError: if the expression is none, nothing is decided, or a quantizer is none or for the other
      kind of tensor.

  Examples:
    >>> Rule(match="first|last", weights=absmax(8)).match
    'first|last'
  """

  match: str
  weights: Quantizer | Default | None = DEFAULT
  activations: Quantizer | Default | None = DEFAULT

  def __post_init__(self):
    try:
      re.compile(self.match)
    except (re.error, TypeError) as error:
      raise ValueError(f"match: {self.match!r} is no regular expression ({error}).") from error
    if self.weights is DEFAULT and self.activations is DEFAULT:
      raise ValueError(
        f"match: the rule {self.match!r} decides nothing; give weights= or activations=."
      )
    for kind in KINDS:
      quantizer = getattr(self, kind)
      if quantizer is not None and quantizer is not DEFAULT:
        check_quantizer(kind, quantizer, kind)


def first_last_8bit() -> tuple[Rule, ...]:
  """The usual exception below 8 bits: the first and the last layer keep 8.

  Examples:
    >>> [rule.match for rule in first_last_8bit()]
    ['first|last']

  References:
    Zhou et al., `DoReFa-Net <https://arxiv.org/abs/1606.06160>`_, 2016, section 2.7.
  """
  return (Rule(match="first|last", weights=absmax(8), activations=ema_range(8)),)


def squeeze_excite_16bit() -> tuple[Rule, ...]:
  """16-bit activations in the attention of MobileNetV3 and GhostNet: means, both layers, the gate.

  They are single numbers per channel, on which a whole map depends; the maps keep their 8 bits.
  A rule of your own does the same for other layers: ``Rule(match=..., activations=ema_range(16))``.

  Examples:
    >>> from jaxcompress.quantize import int8
    >>> [rule.activations.levels.high for rule in int8(rules=squeeze_excite_16bit()).rules]
    [32767]
  """
  return (Rule(match="(^|/)se/(pool|reduce|expand)$", activations=ema_range(16)),)


class Choice(NamedTuple):
  """Quantizers of one layer; None where it stays in float."""

  weights: Quantizer | None
  activations: Quantizer | None


class Names(NamedTuple):
  """What a rule may call a layer.

  Attributes:
    paths: its own, and those of activations that are fused into it.
    kinds: words that must be matched as a whole.
  """

  paths: tuple[str, ...]
  kinds: frozenset[str]


def names_of(graph: Graph) -> dict[str, Names]:
  """What a rule may call each layer, by path.

  Examples:
    >>> from jaxcompress import models
    >>> sorted(names_of(models.summarize(models.resnet8(), 32).graph)["stem"].kinds)
    ['ConvNorm', 'first']
  """
  weighted = [node.name for node in graph.nodes if kernel_shape(node) is not None]
  found = {}
  for node in graph.nodes:
    ends = {"first": weighted[:1], "last": weighted[-1:]}
    words = [word for word, names in ends.items() if node.name in names]
    kinds = frozenset([node.op, *words, *_convolution_kinds(node)])
    found[node.name] = Names(tuple(dict.fromkeys([node.name, node.output])), kinds)
  return found


def _convolution_kinds(node: Node) -> Sequence[str]:
  if node.op != "ConvNorm":
    return ()
  if node.attrs["groups"] == "depthwise":
    return ("depthwise",)
  return ("pointwise",) if node.attrs["kernel"] == 1 else ()


def choose(
  rules: Sequence[Rule], default: Choice, layers: Mapping[str, Names]
) -> dict[str, Choice]:
  """The quantizers of every layer.

  Args:
    rules: in order of precedence.
    default: of layers that no rule matches, and of what a rule does not decide.
    layers: by path, what they may be called; see :func:`names_of`.

  Returns:
    A :class:`Choice` by path.

  Raises:
    ValueError: if a rule matches no layer; it lists the paths.

  Examples:
    >>> rules = (Rule(match="stem", weights=None),)
    >>> layers = {name: Names((name,), frozenset()) for name in ("stem", "a")}
    >>> chosen = choose(rules, Choice(absmax(8), ema_range(8)), layers)
    >>> chosen["stem"].weights is None, chosen["a"].weights is None
    (True, False)
  """
  chosen = {}
  for name, words in layers.items():
    rule = next((rule for rule in rules if _matches(rule, words)), None)
    chosen[name] = default if rule is None else _apply(rule, default)
  for rule in rules:
    if not any(_matches(rule, words) for words in layers.values()):
      kinds = sorted(frozenset().union(*(words.kinds for words in layers.values())))
      raise ValueError(
        f"rules: {rule.match!r} matches no layer; the paths are {', '.join(layers)}; the kinds"
        f" {', '.join(kinds)}."
      )
  return chosen


def _matches(rule: Rule, layer: Names) -> bool:
  searched = any(re.search(rule.match, path) for path in layer.paths)
  return searched or any(re.fullmatch(rule.match, kind) for kind in layer.kinds)


def _apply(rule: Rule, default: Choice) -> Choice:
  return Choice(
    default.weights if rule.weights is DEFAULT else rule.weights,
    default.activations if rule.activations is DEFAULT else rule.activations,
  )
