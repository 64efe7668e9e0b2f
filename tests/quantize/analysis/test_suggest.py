"""Which rule is suggested for which cause."""

import pytest

from jaxcompress import models, quantize
from jaxcompress.quantize import suggest
from jaxcompress.quantize.analysis.findings import Analysis, LayerAnalysis
from jaxcompress.quantize.sites import assign, find_sites


def row(name, kl, weights_kl=None, bits=None, saturation=0.0):
  return LayerAnalysis(
    name, "ConvNorm", bits, 20.0, 10.0, kl, weights_kl, 10.0, kl, 1.0, 1.0, saturation, 8, ()
  )


def of(*rows):
  return Analysis(rows, 10.0, 0.1, 0.9, 64)


def test_the_fewest_layers_that_make_up_the_share_are_blamed():
  found = of(row("a", 0.1), row("b", 0.6), row("c", 0.0), row("d", 0.3))
  assert [layer.name for layer in found.ranked] == ["b", "d", "a", "c"]
  assert [layer.name for layer in found.blamed(0.5)] == ["b"]
  assert [layer.name for layer in found.blamed(0.8)] == ["b", "d"]
  assert [layer.name for layer in found.blamed(1.0)] == ["b", "d", "a"]
  with pytest.raises(ValueError, match="share: 0 is out of range"):
    found.blamed(0)


@pytest.mark.parametrize(
  ("layer", "quantizer", "high", "words"),
  [
    (row("stem", 0.5, 0.4, 4), "weights", 127, "its 4-bit weights; give them 8 bits"),
    (row("stem", 0.5, 0.4, 8), "weights", 127, "learn the step"),
    (row("stem", 0.5, 0.1, 4, 0.02), "activations", 127, "2 % of which are clipped"),
    (row("stem", 0.5, 0.1, 4), "activations", 127, "rounding its output; learn the range"),
    (row("input", 0.5), "activations", 127, "rounding the images"),
  ],
)
def test_the_cause_decides_what_the_rule_changes_and_the_reason_says_so(
  layer, quantizer, high, words
):
  ((rule, reason),) = suggest(of(layer))
  assert words in reason and reason.startswith(f"{layer.name}: 100 % of the isolated error")
  assert getattr(rule, quantizer).levels.high == high
  other = "weights" if quantizer == "activations" else "activations"
  assert getattr(rule, other) is quantize.rules.DEFAULT


def test_nothing_is_suggested_where_nothing_hurts():
  assert suggest(of(row("a", 0.0, 0.0, 8), row("b", 5e-5, 0.0, 8))) == ()
  assert suggest(of(row("a", 5e-5, 0.0, 8)), least=1e-5)


def test_rules_are_for_plans_and_match_one_layer_each():
  sites = find_sites(models.summarize(models.resnet8(3), 8).graph)
  name = "stage0_block0/conv1"
  found = suggest(of(row(name, 0.5, 0.4, 4), row("stem", 0.4, 0.0, 4)), share=1.0)
  rules = tuple(suggestion.rule for suggestion in found)
  assigned = assign(quantize.int8(bits=4, rules=rules), sites)
  assert [n for n, q in assigned.weights.items() if q.levels.high == 127] == [name]
  plain = assign(quantize.int8(bits=4), sites)
  changed = [n for n, q in assigned.activations.items() if q.init is not plain.activations[n].init]
  assert "stem" in changed
