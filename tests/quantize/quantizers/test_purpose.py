"""A quantizer knows whether it is for weights or for activations, and is refused elsewhere."""

import dataclasses
import inspect

import pytest

from jaxcompress import quantize
from jaxcompress.quantize import Quantization, Quantizer, Rule

MADE = {
  "weights": {
    "absmax": quantize.absmax(5),
    "bwn": quantize.bwn(),
    "cluster": quantize.cluster(7),
    "dorefa": quantize.dorefa(3),
    "ewgs": quantize.ewgs(3),
    "freeze_oscillating": quantize.freeze_oscillating(quantize.lsq(3)),
    "lsq": quantize.lsq(6),
    "lsq_plus": quantize.lsq_plus(4),
    "progressive": quantize.progressive(quantize.absmax(8), quantize.lsq(2), at=(3,)),
    "stochastic": quantize.stochastic(quantize.absmax(4)),
    "ttq": quantize.ttq(),
    "twn": quantize.twn(),
    "wrpn": quantize.wrpn(4),
    "xnor": quantize.xnor(),
  },
  "activations": {
    "binary_activations": quantize.binary_activations(),
    "dorefa_activations": quantize.dorefa_activations(4),
    "ema_range": quantize.ema_range(16),
    "ewgs_activations": quantize.ewgs_activations(4),
    "fixed_range": quantize.fixed_range(-1.0, 2.0),
    "lsq_activations": quantize.lsq_activations(3),
    "lsq_plus_activations": quantize.lsq_plus_activations(3),
    "mean_range": quantize.mean_range(8),
    "minmax_range": quantize.minmax_range(8),
    "pact": quantize.pact(4),
    "rsign_activations": quantize.rsign_activations(),
    "xnor_activations": quantize.xnor_activations(),
    "progressive": quantize.progressive(quantize.ema_range(8), quantize.pact(4), at=(3,)),
    "stochastic": quantize.stochastic(quantize.ema_range(8)),
  },
}
OTHER = {"weights": "activations", "activations": "weights"}
CASES = [(kind, name) for kind, table in MADE.items() for name in table]


def test_every_function_that_makes_a_quantizer_is_here():
  makers = {
    name
    for name in quantize.__all__
    if inspect.isfunction(function := getattr(quantize, name))
    and inspect.signature(function).return_annotation is Quantizer
  }
  assert makers == set(MADE["weights"]) | set(MADE["activations"])


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_it_is_taken_for_its_kind_and_refused_for_the_other(kind, name):
  quantizer, other = MADE[kind][name], OTHER[kind]
  whole = quantize.int8()
  assert getattr(dataclasses.replace(whole, **{kind: quantizer}), kind) is quantizer
  assert getattr(Rule(match="stem", **{kind: quantizer}), kind) is quantizer
  message = f"^{other} must be a quantizer for {other}, such as .*, got one for {kind}.$"
  for act in (
    lambda: dataclasses.replace(whole, **{other: quantizer}),
    lambda: Quantization(weights=quantizer, activations=quantizer),
    lambda: Rule(match="stem", **{other: quantizer}),
  ):
    with pytest.raises(ValueError, match=message):
      act()


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_it_prints_as_the_call_that_makes_it(kind, name):
  text = repr(MADE[kind][name])
  assert text.startswith(f"{name}(")
  assert repr(eval(text, vars(quantize).copy())) == text


def test_defaults_are_not_printed():
  assert repr(quantize.int8().activations) == "ema_range(8)"
  assert repr(quantize.lsq(bits=4, narrow=False)) == "lsq(4, narrow=False)"
  assert repr(Quantizer(*quantize.twn()[:4])).startswith("Quantizer(levels=")


@pytest.mark.parametrize("wrong", [8, "int8", quantize.lsq, quantize.int8(), quantize.levels])
def test_what_is_no_quantizer_is_refused(wrong):
  for act in (
    lambda: Quantization(weights=wrong, activations=quantize.ema_range()),
    lambda: Quantization(weights=quantize.absmax(), activations=wrong),
    lambda: Rule(match="stem", weights=wrong),
    lambda: Rule(match="stem", activations=wrong),
    lambda: quantize.progressive(wrong, quantize.absmax(4), at=(1,)),
    lambda: quantize.stochastic(wrong),
    lambda: quantize.freeze_oscillating(wrong),
  ):
    with pytest.raises(ValueError, match="must be a quantizer"):
      act()


def test_combinations_are_for_one_kind():
  weights, activations = quantize.absmax(4), quantize.ema_range(4)
  with pytest.raises(ValueError, match="quantizers must be all for weights or all for activations"):
    quantize.progressive(weights, activations, at=(5,))
  with pytest.raises(ValueError, match="quantizer must be a quantizer for weights"):
    quantize.freeze_oscillating(activations)


def test_a_quantizer_of_ones_own_that_does_not_say_serves_both():
  own = Quantizer(*quantize.absmax(4)[:4])
  assert own.fits == "both"
  Quantization(weights=own, activations=own)
  assert quantize.progressive(own, quantize.ema_range(4), at=(1,)).fits == "activations"
  assert quantize.progressive(own, own, at=(1,)).fits == "both"


@pytest.mark.parametrize(
  ("parts", "message"),
  [
    ({"rules": Rule(match="stem", weights=None)}, "rules: .* must be a tuple of quantize.Rule"),
    ({"rules": (quantize.absmax(8),)}, "rules: .* must be a tuple"),
    ({"start_step": 1.5}, "start_step: 1.5 must be a whole number"),
    ({"start_step": None}, "start_step: None must be a whole number"),
    ({"freeze_norm_step": "end"}, "freeze_norm_step: 'end' must be a whole number"),
  ],
)
def test_a_plan_of_other_mistakes_is_refused(parts, message):
  with pytest.raises(ValueError, match=message):
    quantize.int8(**parts)
