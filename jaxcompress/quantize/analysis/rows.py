"""What an analysis found: plain rows, and their order by blame."""

import dataclasses
from typing import NamedTuple


class LayerAnalysis(NamedTuple):
  """One layer of a quantized network, beside the float network.

  Signal-to-noise ratios are in decibels, ``10 log10(sum s**2 / sum (s - q)**2)``, infinite where
  nothing differs; divergences are ``KL(float || this)`` of the class probabilities in nats, a mean
  over images.

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


@dataclasses.dataclass(frozen=True)
class Analysis:
  """Where a quantized network differs from its float one, and which layers are to blame.

  Attributes:
    layers: rows in the order in which the layers run, the input first.
    sqnr: of the logits of exact evaluation, in decibels.
    kl: their divergence ``KL(float || integers)`` in nats.
    agreement: share of the images on which both networks decide alike.
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
    for layer in self.layers:
      if layer.name == name:
        return layer
    raise KeyError(name)

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
