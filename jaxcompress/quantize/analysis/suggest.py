"""Rules that would help the layers to which an analysis points."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from jaxcompress.nn import INPUT
from jaxcompress.quantize.analysis.rows import Analysis, LayerAnalysis
from jaxcompress.quantize.quantizers.lsq import lsq, lsq_plus_activations
from jaxcompress.quantize.quantizers.uniform import absmax, minmax_range
from jaxcompress.quantize.rules import Rule

SATURATED = 1e-3  # share of clipped values above which the range is too small
HALF = 0.5  # share of a layer's divergence from which its weights are the cause
LEAST_KL = 1e-4  # nats; a layer below it is not worth a rule


class Suggestion(NamedTuple):
  """A rule and why.

  Attributes:
    rule: for ``quantize.int8(rules=...)`` and its kind.
    reason: in words.
  """

  rule: Rule
  reason: str


def rule_for(names: Iterable[str], **quantizers: Any) -> Rule:
  """A rule that matches layers by their whole path.

  Examples:
    >>> rule_for(["stem", "head"], weights=absmax(8)).match
    '^(?:stem|head)$'
  """
  return Rule(match=f"^(?:{'|'.join(map(re.escape, names))})$", **quantizers)


def suggest(
  analysis: Analysis, *, share: float = 0.8, least: float = LEAST_KL
) -> tuple[Suggestion, ...]:
  """Rules for the layers that make up most of the isolated error, the worst first.

  Where the weights are the cause (half of the layer's divergence is left when only they are
  integers), they get 8 bits, or, if they have them, a learned step (LSQ). Where the output is, it
  gets the whole range that was seen if more than one value in a thousand is clipped, else a learned
  range (LSQ+).

  Args:
    analysis: of a quantized network.
    share: of the summed isolated divergence that the layers make up.
    least: divergence in nats below which a layer is left alone.

  Returns:
    A :class:`Suggestion` for each layer; none where nothing is worth it.

  Raises:
    ValueError: if the share is out of range.

  Examples:
    >>> layer = LayerAnalysis(
    ...   "stem", "ConvNorm", 4, 20.0, 12.0, 0.5, 0.4, 12.0, 0.5, 0.9, 0.06, 0.0, 16, ()
    ... )
    >>> (suggestion,) = suggest(Analysis((layer,), 12.0, 0.5, 0.9, 64))
    >>> suggestion.rule.match, suggestion.rule.weights.levels.high
    ('^(?:stem)$', 127)
    >>> suggestion.reason
    'stem: 100 % of the isolated error, mostly from its 4-bit weights; give them 8 bits'
  """
  total = sum(layer.isolated_kl for layer in analysis.layers)
  return tuple(
    _suggestion(layer, layer.isolated_kl / total)
    for layer in analysis.blamed(share)
    if layer.isolated_kl >= least
  )


def suggested_rules(
  analysis: Analysis, *, share: float = 0.8, least: float = LEAST_KL
) -> tuple[Rule, ...]:
  """The rules of :func:`suggest` alone, as ``quantize.int8(rules=...)`` takes them.

  Examples:
    >>> layer = LayerAnalysis(
    ...   "stem", "ConvNorm", 4, 20.0, 12.0, 0.5, 0.4, 12.0, 0.5, 0.9, 0.06, 0.0, 16, ()
    ... )
    >>> [rule.match for rule in suggested_rules(Analysis((layer,), 12.0, 0.5, 0.9, 64))]
    ['^(?:stem)$']
  """
  return tuple(suggestion.rule for suggestion in suggest(analysis, share=share, least=least))


def _suggestion(layer: LayerAnalysis, share: float) -> Suggestion:
  why = f"{layer.name}: {share:.0%} of the isolated error".replace("%", " %")
  if layer.weights_kl is not None and layer.weights_kl >= HALF * layer.isolated_kl:
    if layer.bits is not None and layer.bits < 8:
      why += f", mostly from its {layer.bits}-bit weights; give them 8 bits"
      return Suggestion(rule_for([layer.name], weights=absmax(8)), why)
    why += (
      ", mostly from its 8-bit weights, whose largest leave the others few steps; learn the step"
    )
    return Suggestion(rule_for([layer.name], weights=lsq(8)), why)
  what = "the images" if layer.name == INPUT else "its output"
  if layer.saturation > SATURATED:
    why += f", mostly from {what}, {100 * layer.saturation:.2g} % of which are clipped"
    why += "; take the whole range"
    return Suggestion(rule_for([layer.name], activations=minmax_range(8)), why)
  why += f", mostly from rounding {what}; learn the range"
  return Suggestion(rule_for([layer.name], activations=lsq_plus_activations(8)), why)
