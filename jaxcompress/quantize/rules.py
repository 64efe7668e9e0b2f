"""Rules that choose the quantizers of layers."""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxcompress.arguments import as_call
from jaxcompress.nn.select import Layer, Selector, parse, select
from jaxcompress.quantize.quantizers.base import Kind, Quantizer, check_quantizer
from jaxcompress.quantize.quantizers.uniform import absmax, ema_range


class Default(enum.Enum):
  """Leaves to the next rule, or to the plan, what this one does not decide."""

  DEFAULT = "default"


DEFAULT = Default.DEFAULT
KINDS: tuple[Kind, ...] = ("weights", "activations")


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Rule:
  """An exception from a plan for some layers.

  Of several rules that match a layer the first that decides on its weights, or its activations,
  counts for those.

  Attributes:
    match: a selector of layers: kinds, such as ``"first|last"``, ``"depthwise"``, ``"Dense"`` or
      ``"input"``, and regular expressions that are searched for in a layer's path
      (``"stage0_block0/expand"``); see :mod:`jaxcompress.nn.select`.
    weights: quantizer of the kernel; None leaves it in float.
    activations: quantizer of the output; None leaves it in float. With more than 8 bits the layer
      reads and writes int16, whatever its neighbours do.

  Raises:
    ValueError: if the selector or a quantizer is not valid, nothing is decided, or a quantizer is for the other
      kind of tensor.

  Examples:
    >>> Rule(match="first|last", weights=absmax(8))
    Rule(match='first|last', weights=absmax(8))
  """

  match: Selector
  weights: Quantizer | Default | None = DEFAULT
  activations: Quantizer | Default | None = DEFAULT

  __repr__ = as_call

  def __post_init__(self):
    parse(self.match, "match")
    if self.weights is DEFAULT and self.activations is DEFAULT:
      raise ValueError(
        f"match: the rule {self.match!r} decides nothing; give weights= or activations=."
      )
    for kind in KINDS:
      quantizer = getattr(self, kind)
      if quantizer is not None and quantizer is not DEFAULT:
        check_quantizer(kind, quantizer, kind)


def first_last_8bit() -> tuple[Rule, ...]:
  """Returns rules that keep the first and the last layer at 8 bits, as is usual below 8 bits.

  Examples:
    >>> [rule.match for rule in first_last_8bit()]
    ['first|last']

  References:
    Zhou et al., `DoReFa-Net <https://arxiv.org/abs/1606.06160>`_, 2016, section 2.7.
  """
  return (Rule(match="first|last", weights=absmax(8), activations=ema_range(8)),)


def squeeze_excite_16bit() -> tuple[Rule, ...]:
  """Returns rules for 16-bit activations in squeeze-and-excitation: its means, its layers, the gate.

  They are single numbers per channel, on which a whole map depends; the maps keep their 8 bits.
  A rule of your own does the same for other layers: ``Rule(match=..., activations=ema_range(16))``.

  Examples:
    >>> from jaxcompress.quantize import int8
    >>> [rule.activations.levels.high for rule in int8(rules=squeeze_excite_16bit()).rules]
    [32767]
  """
  return (Rule(match="squeeze_excite", activations=ema_range(16)),)


class Choice(NamedTuple):
  """Quantizers of one layer; None where it stays in float."""

  weights: Quantizer | None
  activations: Quantizer | None


def choose(
  rules: Sequence[Rule], default: Choice, layers: Mapping[str, Layer]
) -> dict[str, Choice]:
  """The quantizers of every layer.

  Args:
    rules: in order of precedence.
    default: where no rule that matches decides.
    layers: by path, what a rule may call them.

  Returns:
    A :class:`Choice` by path.

  Raises:
    ValueError: if a rule matches no layer; it lists what there is.

  Examples:
    >>> rules = (Rule(match="stem", weights=None),)
    >>> layers = {name: Layer((name,)) for name in ("stem", "a")}
    >>> chosen = choose(rules, Choice(absmax(8), ema_range(8)), layers)
    >>> chosen["stem"].weights is None, chosen["a"].weights is None
    (True, False)
  """
  named = [select(rule.match, layers, "rules") for rule in rules]

  def first(kind: Kind, layer: str) -> Quantizer | None:
    deciding = (
      getattr(rule, kind) for rule, names in zip(rules, named, strict=True) if layer in names
    )
    return next((q for q in deciding if q is not DEFAULT), getattr(default, kind))

  return {name: Choice(*(first(kind, name) for kind in KINDS)) for name in layers}
