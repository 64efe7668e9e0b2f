"""The integers of every layer's weights and activations, from numbers of bits and rules."""

from collections.abc import Sequence

from jaxcompress.nn import kernel_shape
from jaxcompress.quantize.config import Quantization
from jaxcompress.quantize.fake_quant import Levels, activation_levels, levels
from jaxcompress.quantize.integer.grid import HIGHEST, TYPES
from jaxcompress.quantize.quantizers.base import Quantizer
from jaxcompress.quantize.quantizers.uniform import absmax, minmax_range
from jaxcompress.quantize.rules import Rule
from jaxcompress.quantize.sites import Assigned, Sites, assign, tensor_bits

WIDTHS = {activation_levels(bits): bits for bits in TYPES}  # of an integer file
WITHOUT_KERNEL = levels(8, symmetric=True, narrow=True)  # a normalization on its own: exact ones


def layer_levels(
  sites: Sites, bits: int, activation_bits: int = 8, rules: Sequence[Rule] = ()
) -> tuple[dict[str, Levels], dict[str, int]]:
  """The integers of the weights by layer, and the bits of activations by tensor.

  Args:
    sites: of a traced graph.
    bits: of weights for which no rule decides.
    activation_bits: of activations likewise, 8 or 16.
    rules: exceptions; of their quantizers only the integers count.

  Returns:
    ``(levels, bits)``: :class:`~jaxcompress.quantize.fake_quant.Levels` of every node that has a kernel, by
    name; 8 or 16 by tensor.

  Raises:
    ValueError: if a rule matches no layer, or asks for what integer files do not hold: a layer in
      float, asymmetric weights, more than 8 bits, activations of other widths than 8 and 16.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.quantize.sites import find_sites
    >>> sites = find_sites(models.summarize(models.resnet8(), 32).graph)
    >>> to, _ = layer_levels(sites, 8, rules=(Rule(match="stage2", weights=absmax(4)),))
    >>> to["stem"].high, to["stage2_block0/conv1"].high
    (127, 7)
  """
  plan = Quantization(
    weights=absmax(bits), activations=minmax_range(activation_bits), rules=tuple(rules)
  )
  assigned = assign(plan, sites)
  _check_activations(sites, assigned)
  weights = {
    node.name: _integers_of(node.name, assigned.weights.get(node.name))
    if node.name in sites.kernels
    else WITHOUT_KERNEL
    for node in sites.graph.nodes
    if kernel_shape(node) is not None
  }
  return weights, tensor_bits(sites, assigned)


def _check_activations(sites: Sites, assigned: Assigned) -> None:
  for tensor, key in sites.keys:
    if tensor in assigned.gates or tensor not in sites.rounded:
      continue
    if key not in assigned.activations:
      raise ValueError(
        f"rules: the activations of {tensor!r} stay in float, which integer files do not hold; leave"
        " activations= out of the rule."
      )
    if assigned.activations[key].levels not in WIDTHS:
      raise ValueError(
        f"rules: the activations of {tensor!r} have {assigned.activations[key].levels};"
        " post-training quantization gives them 8 bits, or 16 by activations=ema_range(16)."
      )


def _integers_of(name: str, quantizer: Quantizer | None) -> Levels:
  if quantizer is None:
    raise ValueError(
      f"rules: the weights of {name!r} stay in float, which integer files do not hold; give them a"
      " quantizer."
    )
  to = quantizer.levels
  if to.low != -to.high or to.high > HIGHEST:
    raise ValueError(
      f"rules: the weights of {name!r} have {to}; they must be symmetric and have at most 8 bits,"
      " as those of quantize.absmax(bits)."
    )
  return to
