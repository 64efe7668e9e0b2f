"""How zeros are shared out among layers: by the papers' formulas, as many as asked, above the floor."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from jaxcompress import prune
from jaxcompress.prune.scores import lamp_scores
from jaxcompress.prune.shares import DISTRIBUTIONS, least_weights, shares_of
from tests.prune.test_floor import RULES, SGD, kernels, run

SHAPE = st.one_of(
  st.tuples(*[st.integers(1, 3)] * 2, st.integers(1, 20), st.integers(1, 20)),
  st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
SHAPES = st.lists(SHAPE, min_size=1, max_size=6).map(lambda found: dict(enumerate(found)))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SHAPES, st.floats(0, 0.99), st.integers(0, 3))
def test_erk_is_the_formula_between_the_floor_and_all_weights(shapes, sparsity, floor):
  sizes, least = (
    {name: f(shape) for name, shape in shapes.items()}
    for f in (math.prod, lambda shape: least_weights(shape, floor))
  )
  total = sum(sizes.values())
  if total - round(sparsity * total) < sum(least.values()):
    with pytest.raises(ValueError, match=r"sparsity: .* floor=.* most of them in layer "):
      shares_of("erk", shapes, sparsity, floor)
    return

  def left(scale, name):  # e (h + w + in + out) weights
    return min(max(scale * sum(shapes[name]), least[name]), sizes[name])

  wanted = max((1 - sparsity) * total, sum(least.values()))
  surplus = lambda scale: sum(left(scale, name) for name in shapes) - wanted  # noqa: E731
  scale = brentq(surplus, 0, 1e4, xtol=1e-12) if surplus(0) < 0 < surplus(1e4) else None
  found = prune.erdos_renyi(shapes, sparsity, floor=floor)
  if scale is not None:
    for name, share in found.items():
      assert (1 - share) * sizes[name] == pytest.approx(left(scale, name), abs=1e-6)
  whole = {n: share * sizes[n] for n, share in shares_of("erk", shapes, sparsity, floor).items()}
  assert sum(map(round, whole.values())) == round(sparsity * total)
  for name, zeros in whole.items():
    assert zeros == pytest.approx(round(zeros), abs=1e-6)
    assert abs(zeros - found[name] * sizes[name]) < 1
    assert round(zeros) <= sizes[name] - least[name]


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 999), st.sampled_from([1, 7, 40]), st.booleans(), st.floats(-30, 15))
def test_lamp_is_the_square_over_those_of_no_smaller_weights(seed, size, masked, exponent):
  rng = np.random.default_rng(seed)
  weights = np.float32(rng.normal(size=size) * 10**exponent)
  mask = rng.random(size) < 0.6 if masked else np.ones(size, bool)
  found = np.asarray(lamp_scores(jnp.asarray(weights), jnp.asarray(mask)))
  squares = np.where(mask, np.float64(weights) ** 2, 0)
  for i in range(size):
    rest = sum(squares[j] for j in range(size) if squares[j] >= squares[i])
    if mask[i]:
      np.testing.assert_allclose(found[i], squares[i] / rest, rtol=2e-5, atol=1e-30)
    else:
      assert found[i] == -1
  alive = np.flatnonzero(mask)
  order = alive[np.argsort(np.abs(weights[alive]), kind="stable")]
  assert np.all(np.diff(found[order]) >= 0)  # within a layer magnitudes decide
  assert mask.sum() == 0 or found.max() == 1


def test_lamp_takes_the_least_scores_of_all_layers():
  params = kernels(3, small=("wide",))
  lamp = prune.magnitude(SGD, sparsity=0.7, distribution="lamp", floor=0, rules=RULES)
  masks = run(lamp, params, 1, 3)[1]
  after = run(optax.sgd(0.01), params, 1, 3)[0]
  scores, kept = [], []
  for name, mask in masks.masks.items():
    squares = np.sort(np.square(np.float64(after[name]["kernel"])).ravel())
    scores.append(squares / np.cumsum(squares[::-1])[::-1])
    kept.append(int(mask.sum()))
  least = np.sort(np.concatenate(scores))[round(0.7 * sum(map(len, scores)))]
  by_formula = [int((own >= least).sum()) for own in scores]
  assert kept == by_formula


@pytest.mark.slow
def test_lamp_is_blind_to_a_layer_s_scale_and_one_threshold_is_not():
  def counts(distribution, small):
    optimizer = prune.magnitude(
      optax.sgd(0.0), sparsity=0.7, distribution=distribution, rules=RULES
    )
    state = run(optimizer, kernels(small=small), 1)[1]
    return {name: int(mask.sum()) for name, mask in state.masks.items()}

  assert counts("lamp", ("wide",)) == counts("lamp", ())
  assert counts("global", ("wide",))["wide"] < counts("global", ())["wide"]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_network_has_the_zeros_that_are_asked_for(distribution):
  optimizer = prune.magnitude(SGD, sparsity=0.5, distribution=distribution, rules=RULES)
  masks = run(optimizer, kernels())[1].masks
  total = sum(mask.size for mask in masks.values())
  zeros = sum(int((~mask).sum()) for mask in masks.values())
  rounded = len(masks) / 2 if distribution == "uniform" else 0
  assert abs(zeros - round(0.5 * total)) <= rounded
  own = prune.Rule(match="wide", sparsity=0.25)
  optimizer = prune.magnitude(SGD, sparsity=0.5, distribution=distribution, rules=(own, *RULES))
  assert np.asarray(run(optimizer, kernels())[1].masks["wide"]).mean() == 0.75


def test_small_layers_are_denser_unless_asked_otherwise():
  masks = run(prune.magnitude(SGD, sparsity=0.8, rules=RULES), kernels())[1].masks
  density = {name: float(mask.mean()) for name, mask in masks.items()}
  assert density["tiny"] == 1.0 > density["point"] > density["wide"]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      {"sparsity": 0.97},
      r"0\.97 leaves 40 of 1,326 weights, and floor=1 needs 77, .* 'point' .* 0\.94",
    ),
    (
      {"sparsity": 0.97, "distribution": "lamp"},
      "leaves 40 of 1,326 weights, and floor=1 needs 77",
    ),
    (
      {"sparsity": 0.9, "distribution": "uniform"},
      r"layer 'deep' 18 of its 180 weights, .* 1 for each of 20 outputs; ask of it at most 0\.8888 ",
    ),
    (
      {"sparsity": 0.1, "rules": (prune.Rule(match="deep", sparsity=0.9), *RULES)},
      r"layer 'deep' 18 of its 180 weights, and floor=1 needs 20",
    ),
    (
      {"sparsity": 0.5, "distribution": "even"},
      "distribution: 'even' is unknown; it must be one of",
    ),
  ],
)
def test_zeros_that_the_floor_does_not_leave_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    prune.magnitude(SGD, **{"rules": RULES, **options}).init(kernels())


def test_moving_masks_know_no_threshold():
  with pytest.raises(ValueError, match="distribution: 'lamp' is unknown"):
    prune.rigl(SGD, sparsity=0.5, stop=9, distribution="lamp")


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.sampled_from([0, 1, 3, 400, 999]), st.sampled_from([0.0, 0.25]), st.integers(1, 60))
def test_gradual_pruning_within_a_run_ends_at_its_half(steps, begin, choices):
  schedule = prune.agp_within(steps, begin=begin, choices=choices)
  assert schedule.end == max(int(begin * steps) + 1, steps // 2)
  due = np.asarray(jax.vmap(schedule.due)(jnp.arange(steps + 2)))
  assert due[schedule.end] and not due[schedule.end + 1 :].any()
  assert due.sum() <= 2 * choices + 2
  assert float(schedule.progress(jnp.int32(schedule.end))) == 1.0
