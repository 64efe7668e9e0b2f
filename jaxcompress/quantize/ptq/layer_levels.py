"""The integers of every layer's weights, from a number of bits and rules."""

from collections.abc import Sequence

from jaxcompress.nn import INPUT, Graph, fuse_activations, kernel_shape
from jaxcompress.quantize.grid import Levels, levels
from jaxcompress.quantize.integer import HIGHEST
from jaxcompress.quantize.quantizers import Quantizer, absmax, minmax_range
from jaxcompress.quantize.rules import Choice, Names, Rule, choose, names_of

ACTIVATIONS = levels(8, symmetric=False)  # of an integer file


def weight_levels(graph: Graph, bits: int, rules: Sequence[Rule] = ()) -> dict[str, Levels]:
  """The integers of the weights of every node that has a kernel.

  Args:
    graph: a traced graph.
    bits: of layers for which no rule decides.
    rules: exceptions; of their quantizers only the integers count.

  Returns:
    :class:`~jaxcompress.quantize.Levels` by name.

  Raises:
    ValueError: if a rule matches no layer, or asks for what integer files do not hold: a layer in
      float, asymmetric weights, more than 8 bits, activations without 8 bits.

  Examples:
    >>> from jaxcompress import models
    >>> graph = models.summarize(models.resnet8(), 32).graph
    >>> to = weight_levels(graph, 8, (Rule(match="stage2", weights=absmax(4)),))
    >>> to["stem"].high, to["stage2_block0/conv1"].high
    (127, 7)
  """
  graph = fuse_activations(graph)
  default = Choice(absmax(bits), minmax_range(8))
  chosen = choose(rules, default, {INPUT: Names((INPUT,), frozenset()), **names_of(graph)})
  for name, choice in chosen.items():
    _check_activations(name, choice.activations)
  return {
    node.name: _integers_of(node.name, chosen[node.name].weights)
    for node in graph.nodes
    if kernel_shape(node) is not None
  }


def _check_activations(name: str, quantizer: Quantizer | None) -> None:
  if quantizer is None:
    raise ValueError(
      f"rules: the activations of {name!r} stay in float, which integer files do not hold; leave"
      " activations= out of the rule."
    )
  if quantizer.levels != ACTIVATIONS:
    raise ValueError(
      f"rules: the activations of {name!r} have {quantizer.levels}; post-training quantization gives"
      " them 8 bits: leave activations= out of the rule."
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
