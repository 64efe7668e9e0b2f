"""The findings of an analysis: plain rows, their order by blame, and rules that would help."""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

from jaxcompress.nn import INPUT
from jaxcompress.nn.select import Layer, Selector, exactly, select
from jaxcompress.quantize.quantizers.lsq import lsq, lsq_plus_activations
from jaxcompress.quantize.quantizers.uniform import absmax, minmax_range
from jaxcompress.quantize.rules import Rule

SATURATED = 1e-3  # share of clipped values above which the range is too small
HALF = 0.5  # share of a layer's divergence from which its weights are the cause
LEAST_KL = 1e-4  # nats; a layer below it is not worth a rule


class LayerAnalysis(NamedTuple):
  """One layer of a quantized network, beside the float network.

  Signal-to-noise ratios are in decibels, ``10 log10(sum s**2 / sum (s - q)**2)``, infinite where
  nothing differs, and of several outputs that of their mean noise; divergences are
  ``KL(float || this)`` of the class probabilities in nats, a mean over images and the pixels of maps,
  plus half the noise as a share of the signal of outputs that hold no scores of classes.

  Attributes:
    name: of the layer in the model, or ``"input"``.
    op: the leaf op's class name; ``"depthwise"`` and ``"pointwise"`` for such convolutions.
    bits: that hold the layer's weights; None without weights.
    sqnr: of the layer's output, exact integers against the float network.
    isolated_sqnr: of the logits, if this layer alone has its integer weights and rounds its output.
    isolated_kl: of the same.
    weights_kl: of the logits, if this layer alone has its integer weights; None without weights.
    cumulative_sqnr: of the logits, if all layers up to this one are on integers.
    cumulative_kl: of the same.
    codes_used: share of the codes of the output's grid between the least and the largest seen.
    weight_codes_used: the same of the 255 codes of the weights; None without weights.
    saturation: share of the output's values beyond an end of its grid, where they are clipped;
      values that the activation function itself stops at an end are not.
    channels: of the output.
    dead: output channels whose weights are all zero, or that were the same on all images and in
      all places; for layers with weights.
    kinds: by which a selector knows it.
  """

  name: str
  op: str
  bits: int | None
  sqnr: float
  isolated_sqnr: float
  isolated_kl: float
  weights_kl: float | None
  cumulative_sqnr: float
  cumulative_kl: float
  codes_used: float
  weight_codes_used: float | None
  saturation: float
  channels: int
  dead: tuple[int, ...]
  kinds: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Analysis:
  """Differences of a quantized network from its float one, by layer.

  Attributes:
    layers: rows in the order in which the layers run, the input first.
    sqnr: of the logits of exact evaluation, in decibels.
    kl: their divergence ``KL(float || integers)`` in nats.
    agreement: share of the images, or of the pixels of maps, on which both networks decide alike;
      without classes 1 less the noise in the outputs, as a share of the signal.
    images: number of images.
  """

  layers: tuple[LayerAnalysis, ...]
  sqnr: float
  kl: float
  agreement: float
  images: int

  def __getitem__(self, name: str) -> LayerAnalysis:
    """The row of a layer.

    Raises:
      KeyError: if there is none of that name.
    """
    return {layer.name: layer for layer in self.layers}[name]

  @property
  def ranked(self) -> tuple[LayerAnalysis, ...]:
    """The rows by isolated error, the worst first."""
    return tuple(sorted(self.layers, key=lambda layer: (-layer.isolated_kl, layer.isolated_sqnr)))

  def blamed(self, share: float = 0.8) -> tuple[LayerAnalysis, ...]:
    """The fewest layers whose isolated divergences make up a share of the sum of all.

    Args:
      share: above 0, at most 1.

    Raises:
      ValueError: if the share is out of range.
    """
    if not 0 < share <= 1:
      raise ValueError(f"share: {share} is out of range; it must be above 0 and at most 1.")
    total, found, so_far = sum(layer.isolated_kl for layer in self.layers), [], 0.0
    for layer in self.ranked:
      if layer.isolated_kl <= 0 or so_far >= share * total:
        break
      found.append(layer)
      so_far += layer.isolated_kl
    return tuple(found)


def rows_of(layers: Selector | None, rows: Iterable[Any]) -> tuple[str, ...]:
  """The names of the rows that a selector means.

  Examples:
    >>> from jaxcompress.quantize.analysis.sensitivity import LayerSensitivity
    >>> rows_of("last", [LayerSensitivity("head", 8, 2, (0.0,), (16,), ("dense", "last"))])
    ('head',)
  """
  return select(layers, {row.name: Layer((row.name,), frozenset(row.kinds)) for row in rows})


class Suggestion(NamedTuple):
  """A rule and why.

  Attributes:
    rule: for ``quantize.int8(rules=...)`` and its kind.
    reason: in words.
  """

  rule: Rule
  reason: str


def suggest(
  analysis: Analysis,
  *,
  layers: Selector | None = None,
  share: float = 0.8,
  least: float = LEAST_KL,
) -> tuple[Suggestion, ...]:
  """Suggests rules for the layers that make up most of the isolated error, the worst first.

  Where the weights are the cause (half of the layer's divergence is left when only they are
  integers), they get 8 bits, or, if they have them, a learned step (LSQ). Where the output is, it
  gets the whole range that was seen if more than one value in a thousand is clipped, else a learned
  range (LSQ+).

  Args:
    analysis: of a quantized network.
    layers: to which it keeps, a selector (:mod:`jaxcompress.nn.select`); None: all of the analysis.
    share: of their summed isolated divergence that the suggestions are about.
    least: divergence in nats below which a layer is left alone.

  Returns:
    A :class:`Suggestion` for each layer; none where nothing is worth it.

  Raises:
    ValueError: if the share is out of range, or ``layers`` selects nothing.

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
  rows = tuple(analysis[name] for name in rows_of(layers, analysis.layers))
  analysis = dataclasses.replace(analysis, layers=rows)
  total = sum(layer.isolated_kl for layer in analysis.layers)
  return tuple(
    _suggestion(layer, layer.isolated_kl / total)
    for layer in analysis.blamed(share)
    if layer.isolated_kl >= least
  )


def _suggestion(layer: LayerAnalysis, share: float) -> Suggestion:
  what = "the images" if layer.name == INPUT else "its output"
  if layer.weights_kl is not None and layer.weights_kl >= HALF * layer.isolated_kl:
    quantizers: dict[str, Any] = {"weights": lsq(8)}
    cause = "from its 8-bit weights, whose largest leave the others few steps; learn the step"
    if layer.bits is not None and layer.bits < 8:
      quantizers = {"weights": absmax(8)}
      cause = f"from its {layer.bits}-bit weights; give them 8 bits"
  elif layer.saturation > SATURATED:
    quantizers = {"activations": minmax_range(8)}
    cause = (
      f"from {what}, {100 * layer.saturation:.2g} % of which are clipped; take the whole range"
    )
  else:
    quantizers = {"activations": lsq_plus_activations(8)}
    cause = f"from rounding {what}; learn the range"
  why = f"{layer.name}: {share:.0%} of the isolated error".replace("%", " %")
  return Suggestion(Rule(match=exactly([layer.name]), **quantizers), f"{why}, mostly {cause}")
