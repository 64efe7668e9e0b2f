"""Bits under a budget: exact, within it, and never worse for more of it."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import models
from jaxcompress.quantize import allocate_bits, int8
from jaxcompress.quantize.analysis.budget import choose_bits
from jaxcompress.quantize.analysis.sensitivity import LayerSensitivity, Sensitivity
from jaxcompress.quantize.ptq.weights import layer_levels
from jaxcompress.quantize.sites import assign, find_sites
from jaxcompress.quantize.storage import packed_bytes

BITS = (8, 4, 3, 2)


@st.composite
def found(draw, most_layers=6):
  """Draws a measurement: costs of any sign and size, also equal ones."""
  layers = draw(st.integers(1, most_layers))
  bits = BITS[: draw(st.integers(1, len(BITS)))]
  cost = st.one_of(
    st.integers(-3, 9).map(float), st.floats(-1, 100, allow_nan=False, allow_subnormal=False)
  )
  rows = []
  for i in range(layers):
    weights, channels = draw(st.integers(1, 300)), draw(st.integers(1, 3))
    costs = tuple(draw(cost) for _ in bits)
    sizes = tuple(packed_bytes(weights, channels, n) for n in bits)
    rows.append(LayerSensitivity(f"layer{i}", weights, channels, costs, sizes))
  return Sensitivity("loss", bits, tuple(rows), draw(st.integers(0, 20)), 8)


def ends(sensitivity):
  """Least and largest size that can be reached."""
  sizes = [layer.bytes for layer in sensitivity.layers]
  return tuple(sensitivity.fixed_bytes + sum(map(end, sizes)) for end in (min, max))


def measured(sensitivity, bits):
  """Bytes and cost of a choice, added up anew."""
  rows = [(layer, sensitivity.bits.index(bits[layer.name])) for layer in sensitivity.layers]
  size = sensitivity.fixed_bytes + sum(layer.bytes[i] for layer, i in rows)
  return size, sum(layer.costs[i] for layer, i in rows)


@given(found(), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_choice_fits_and_none_that_fits_costs_less(sensitivity, share):
  low, high = ends(sensitivity)
  budget = int(low + share * (high - low))
  chosen = choose_bits(sensitivity, budget)
  size, cost = measured(sensitivity, chosen.bits)
  assert (size, cost) == (chosen.bytes, pytest.approx(chosen.cost))
  assert size <= budget
  columns = range(len(sensitivity.bits))
  least = min(
    sum(layer.costs[i] for layer, i in zip(sensitivity.layers, choice, strict=True))
    for choice in itertools.product(columns, repeat=len(sensitivity.layers))
    if sensitivity.fixed_bytes
    + sum(layer.bytes[i] for layer, i in zip(sensitivity.layers, choice, strict=True))
    <= budget
  )
  assert cost == pytest.approx(least, rel=1e-9, abs=1e-9)


@given(found(most_layers=40), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_more_budget_never_costs_more(sensitivity, one, other):
  low, high = ends(sensitivity)
  budgets = sorted(int(low + share * (high - low)) for share in (one, other))
  less, more = (choose_bits(sensitivity, budget) for budget in budgets)
  assert more.cost <= less.cost + 1e-9
  assert less.bytes <= budgets[0] and more.bytes <= budgets[1]


@pytest.mark.parametrize("budget", [np.inf, np.nan])
@given(sensitivity=found())
@settings(max_examples=2, deadline=None)
def test_a_budget_that_is_no_number_is_refused(budget, sensitivity):
  with pytest.raises(ValueError, match=r"budget_bytes: .* must be a finite number"):
    choose_bits(sensitivity, budget)


@given(found())
@settings(max_examples=15, deadline=None)
def test_below_the_least_size_that_size_is_named(sensitivity):
  low, high = ends(sensitivity)
  assert choose_bits(sensitivity, low).bytes == low
  with pytest.raises(ValueError, match=f"budget_bytes: {low - 1} cannot be met.* {low} bytes"):
    allocate_bits(sensitivity, low - 1)
  best = sum(min(layer.costs) for layer in sensitivity.layers)
  assert choose_bits(sensitivity, high).cost == pytest.approx(best)


@pytest.mark.parametrize("cost", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_costs_that_cannot_be_compared_are_named(cost, place):
  costs = [0.0, 0.5]
  costs[place] = cost
  rows = (LayerSensitivity("stem", 100, 1, tuple(costs), (108, 58)),)
  with pytest.raises(ValueError, match=f"sensitivity: {(8, 4)[place]}-bit .* 'stem' cost {cost}"):
    allocate_bits(Sensitivity("kl", (8, 4), rows, 0, 8), 200)


def test_a_network_without_layers_has_no_bits_to_choose():
  with pytest.raises(ValueError, match="sensitivity: it has no layers"):
    allocate_bits(Sensitivity("kl", (8, 4), (), 0, 8), 200)


def test_a_large_network_is_decided_at_once():
  rng = np.random.default_rng(0)
  rows = []
  for i, weights in enumerate((10 ** rng.uniform(2, 6, 80)).astype(int)):
    costs = rng.exponential() * 4.0 ** -np.array(BITS) * rng.uniform(0.5, 1.5, 4)
    sizes = tuple(packed_bytes(int(weights), 64, n) for n in BITS)
    rows.append(LayerSensitivity(f"layer{i}", int(weights), 64, tuple(costs), sizes))
  sensitivity = Sensitivity("kl", BITS, tuple(rows), 0, 8)
  low, high = ends(sensitivity)
  chosen = choose_bits(sensitivity, (low + high) // 2)
  assert 0 <= (low + high) // 2 - chosen.bytes < 0.001 * high  # nothing is left over
  assert set(chosen.bits.values()) <= set(BITS)


def test_rules_give_every_layer_its_bits_in_training_and_after_it():
  graph = models.summarize(models.resnet8(3), 8).graph
  sites = find_sites(graph)
  rows = tuple(
    LayerSensitivity(name, 80, 1, (0.0, 1.0 + i % 3, 2.0 + i % 5, 9.0), (88, 48, 38, 28))
    for i, name in enumerate(sites.kernels)
  )
  chosen = choose_bits(Sensitivity("kl", BITS, rows, 0, 8), 45 * len(rows))
  assert len(set(chosen.bits.values())) > 1
  weights = assign(int8(rules=chosen.rules), sites).weights
  assert {name: q.levels.high for name, q in weights.items()} == {
    name: 2 ** (bits - 1) - 1 for name, bits in chosen.bits.items()
  }
  levels, _ = layer_levels(find_sites(graph), int8(rules=chosen.rules))
  assert {name: to.high for name, to in levels.items()} == {
    name: 2 ** (bits - 1) - 1 for name, bits in chosen.bits.items()
  }
