"""Post-training quantization in one call."""

import io

import jax
import numpy as np
import pytest

from jaxcompress.nn import fold
from jaxcompress.nn.execute import execute, folded_layers
from jaxcompress.quantize import ALGORITHMS, Rule, absmax, ema_range
from jaxcompress.quantize.ptq.post_training import (
  Trial,
  _worthwhile,
  decibels,
  post_training,
  split,
)


def float_logits(case, images):
  return np.asarray(
    execute(case.sites.graph, folded_layers(fold(case.sites.graph, case.variables)), images)
  )


def quantized(case, images=None, **options):
  return post_training(
    case.model, case.variables, case.images if images is None else images, **options
  )


def tried(case, **options):
  """The integer model, and what was tried for it."""
  trials = []
  return quantized(case, on_trial=trials.append, **options), trials


@pytest.mark.slow
@pytest.mark.parametrize("method", ALGORITHMS)
def test_every_method_makes_an_integer_model_close_to_the_float_one(case, method):
  model = quantized(case, method=method)
  wanted = float_logits(case, case.images)
  assert decibels(wanted, model(case.images)) > 18


@pytest.mark.slow
def test_the_best_of_all_methods_is_kept(case):
  model, trials = tried(case, bits=4)
  wanted = [name for name, algorithm in ALGORITHMS.items() if algorithm.searched]
  assert [trial.name for trial in trials] == wanted[: len(trials)]
  best = max(trials, key=lambda trial: (trial.score, trial.sqnr))
  alone = quantized(case, method=best.name, bits=4)
  np.testing.assert_array_equal(model(case.images), alone(case.images))


@pytest.mark.slow
def test_each_better_model_is_handed_out_before_the_next_trial_and_the_last_is_returned(case):
  events, better = [], []

  def on_better(model, trial, ahead):
    events.append(("better", trial.name))
    better.append((model, trial, ahead))

  model = quantized(
    case, bits=4, on_trial=lambda trial: events.append(("trial", trial.name)), on_better=on_better
  )
  assert events[:2] == [("trial", "minmax"), ("better", "minmax")] and len(events) > 3
  for (kind, name), (_, before) in zip(events[1:], events[:-1], strict=True):
    assert kind == "trial" or name == before
  worth = [(trial.score, trial.sqnr) for _, trial, _ in better]
  assert worth == sorted(worth) and len(set(worth)) == len(worth)
  assert better[-1][0] is model
  first, trial, ahead = better[0]
  alone = quantized(case, method="minmax", bits=4)  # calibrated on all images, as this one is
  np.testing.assert_array_equal(first(case.images), alone(case.images))
  searched = [name for name, algorithm in ALGORITHMS.items() if algorithm.searched]
  wanted = [name for name in searched if name == "qdrop" or not ALGORITHMS[name].learns]
  assert ahead.names == tuple(wanted)[1:] or trial.drop <= 0
  assert ahead.seconds > 0
  plain = quantized(case, bits=4)
  np.testing.assert_array_equal(model(case.images), plain(case.images))


def test_nothing_more_is_tried_once_8_bits_lose_nothing(case, monkeypatch):
  handed = []
  monkeypatch.setattr("jaxcompress.quantize.ptq.post_training.CLEAN", 10.0)
  labels = float_logits(case, case.images).argmax(-1)
  _, trials = tried(case, labels=labels, on_better=lambda *given: handed.append(given))
  lossless = [trial.drop <= 1e-9 for trial in trials]
  assert lossless == [False] * (len(trials) - 1) + [True]
  assert handed[-1][2] == ((), 0.0)


@pytest.mark.parametrize(
  ("drop", "sqnr", "max_drop", "narrow", "names"),
  [
    (0.0, 35.0, None, False, []),
    (0.0, 15.0, None, False, ["mse"]),  # few images may agree by chance
    (0.1, 35.0, None, False, ["mse"]),
    (0.0, 35.0, None, True, ["mse"]),
    (0.1, 35.0, None, True, ["mse", "adaround"]),
    (0.1, 35.0, 0.1, False, []),
    (0.1, 35.0, 0.05, False, ["mse", "adaround"]),
  ],
)
def test_the_search_goes_on_only_where_it_can_pay(drop, sqnr, max_drop, narrow, names):
  trials = [Trial("minmax", 1 - drop, drop, sqnr, 1.0)]
  found = _worthwhile(["mse", "adaround"], trials, ALGORITHMS, max_drop=max_drop, narrow=narrow)
  assert found == names


@pytest.mark.slow
def test_with_a_largest_drop_only_what_meets_it_is_handed_out(case):
  handed, trials = [], []
  options = {"bits": 4, "on_better": lambda *given: handed.append(given)}
  _, every = tried(case, bits=4)
  drops = [trial.drop for trial in every]
  wanted = min(drops)
  _, trials = tried(case, max_drop=wanted, **options)
  assert [trial.name for _, trial, _ in handed] == [trials[-1].name]
  assert trials[-1].drop <= wanted + 1e-9 and handed[0][2].names == ()
  handed.clear()
  with pytest.raises(ValueError, match="max_drop: 0 cannot be met"):
    quantized(case, method="minmax", max_drop=0.0, **{**options, "bits": 2})
  assert handed == []


@pytest.mark.slow
def test_a_trial_is_scored_on_images_that_did_not_calibrate(case):
  model, (trial,) = tried(case, bits=4, method="minmax", max_drop=1.0)
  held_out = case.images[split(len(case.images), 0)[1]]
  wanted = float_logits(case, held_out)
  agreement = np.mean(model(held_out).argmax(-1) == wanted.argmax(-1))
  assert agreement == trial.score == pytest.approx(1 - trial.drop)
  common = wanted.mean(axis=0)  # of all images: no signal
  found = decibels(wanted - common, model(held_out) - common)
  assert found == pytest.approx(trial.sqnr, abs=0.01)


def test_what_is_alike_for_all_images_is_no_signal(case):
  """Logits with a large constant keep many decibels, and lose all that tells images apart."""
  variables = jax.tree.map(np.array, case.variables)
  _, (plain,) = tried(case, method="minmax", max_drop=1.0)
  variables["params"]["dense"]["bias"] += 100.0  # a step is 0.4
  _, (trial,) = tried(case._replace(variables=variables), method="minmax", max_drop=1.0)
  assert trial.sqnr < plain.sqnr - 3


def test_with_labels_the_score_is_the_share_that_is_right(case):
  labels = float_logits(case, case.images).argmax(-1)
  labels[::3] = (labels[::3] + 1) % 5  # the float model is wrong on these
  options = {"labels": labels, "method": "minmax", "max_drop": 1.0}
  _, (trial,) = tried(case, **options)
  held_out = split(len(case.images), 0)[1]
  right = float_logits(case, case.images[held_out]).argmax(-1) == labels[held_out]
  assert trial.score + trial.drop == pytest.approx(right.mean())


def test_the_search_ends_at_the_first_method_that_is_good_enough(case):
  _, trials = tried(case, max_drop=1.0)
  assert [trial.name for trial in trials] == ["minmax"]


def test_a_drop_that_cannot_be_met_is_said_with_the_way_out(case):
  labels = float_logits(case, case.images).argmax(-1)
  message = (
    r"max_drop: 0 cannot be met; the best of 1 methods, 'minmax', loses 0\.\d+ of 1\.0000 on"
  )
  with pytest.raises(ValueError, match=message + r".*2-bit.*fine-tune"):
    quantized(case, method="minmax", bits=2, labels=labels, max_drop=0.0)
  rules = (Rule(match="stem", weights=absmax(3)),)
  with pytest.raises(ValueError, match=r"2-bit weights but for the rules.*int8\(bits=2, rules="):
    quantized(case, method="minmax", bits=2, rules=rules, labels=labels, max_drop=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_a_handful_of_images_is_enough(case, count):
  model = quantized(case, case.images[:count], method="bias_correction")
  assert np.isfinite(model(case.images)).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minmax", "mse", "equalize", "data_free", "adaround"])
def test_channels_of_zeros_and_images_of_zeros_give_finite_numbers(case, method):
  params = dict(case.variables["params"])
  for name, part in (("stem", "kernel"), ("depthwise", "scale"), ("branch", "kernel")):
    array = np.array(params[name][part])
    array[..., 1] = 0
    params[name] = {**params[name], part: array}
  variables = {**case.variables, "params": params}
  images = np.concatenate([np.zeros_like(case.images[:1]), case.images[:3]])
  for some in (images, images[:1]):
    model = post_training(case.model, variables, some, method=method, bits=4)
    for layer in model.layers.values():
      assert np.isfinite(layer.scales).all() and (layer.scales > 0).all()
    assert np.isfinite(model(case.images)).all()


@pytest.mark.slow
def test_given_ranges_replace_those_of_the_methods_and_equal_methods_are_tried_once(case):
  _, trials = tried(case, ranges="minmax", bits=4)
  names = [trial.name for trial in trials]
  assert "minmax" in names and not {"ema", "percentile", "kl"} & set(names)


def test_the_result_keeps_the_preprocessing_and_jax_arrays_are_images_too(case):
  model = quantized(
    case, jax.numpy.asarray(case.images), method="minmax", preprocess=lambda x: x * 2.0
  )
  plain = quantized(case, 2 * case.images, method="minmax")
  np.testing.assert_array_equal(model(case.images), plain(2 * case.images))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minmax", "bias_correction", "data_free", "adaround"])
def test_rules_give_layers_other_integers_whatever_the_method(case, method):
  rules = (
    Rule(match="depthwise", weights=absmax(8)),
    Rule(match="Dense", weights=absmax(3), activations=ema_range(8)),
  )
  model = quantized(case, method=method, bits=4, rules=rules)
  largest = {name: np.abs(layer.weights.astype(int)).max() for name, layer in model.layers.items()}
  assert largest.pop("depthwise") > 63
  assert largest == {"stem": 7, "branch": 7, "dense": 3}


@pytest.mark.parametrize(
  ("rule", "message"),
  [
    (Rule(match="stm", weights=absmax(8)), "rules: 'stm' matches no layer"),
    (Rule(match="stem", weights=None), "the weights of 'stem' stay in float, which integer files"),
    (Rule(match="add", activations=None), "the activations of 'add' stay in float, which integer"),
    (Rule(match="add", activations=ema_range(9)), "gives them 2 to 8 bits, or 16"),
    (Rule(match="stem", weights=absmax(9)), "must be symmetric and have at most 8 bits"),
  ],
)
def test_rules_that_integer_files_cannot_hold_are_refused(case, rule, message):
  with pytest.raises(ValueError, match=message):
    quantized(case, method="minmax", rules=(rule,))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_integers(case):
  a, b = (quantized(case, method="adaround", bits=4, seed=3) for _ in range(2))
  for name, layer in a.layers.items():
    np.testing.assert_array_equal(layer.weights, b.layers[name].weights)


def test_images_are_split_once_and_without_overlap():
  calibration, held_out = split(2000, 0)
  assert len(calibration) == 512 and len(held_out) == 1488
  assert not set(calibration) & set(held_out)
  np.testing.assert_array_equal(calibration, split(2000, 0)[0])


@pytest.mark.parametrize("count", [17, 600])
def test_a_method_on_its_own_calibrates_on_all_images_and_512_at_most(count):
  calibration, scored = split(count, 3, deciding=False)
  assert len(calibration) == min(count, 512) and len(scored) == count
  assert len(set(calibration)) == len(calibration)


def test_an_image_that_stands_out_counts_wherever_it_is_unless_something_is_decided(case):
  for place in range(0, 24, 5):
    images = np.tile(case.images[:1], (24, 1, 1, 1))
    images[place] *= 50
    range_of = lambda model: float(model.grids["input"].scale) * 255  # noqa: E731
    assert range_of(quantized(case, images, method="minmax")) > 40 * np.ptp(images[place - 1])
    seen = place in split(24, 0)[0]
    model = quantized(case, images, method="minmax", max_drop=1.0)
    assert (range_of(model) > 40 * np.ptp(images[place - 1])) == seen


def test_values_beyond_what_grids_reach_are_refused_with_the_bound(case):
  with pytest.raises(
    ValueError, match=r"'input' has scale 3\.\d+e\+2\d; it must be .* at most 1\.153e\+18"
  ):
    quantized(case, np.full_like(case.images, 1e30), method="minmax")


def test_nothing_is_printed_where_nobody_watches(case, capsys):
  quantized(case, method="minmax", progress=True)
  assert capsys.readouterr() == ("", "")


def test_a_bar_shows_the_methods_on_a_terminal(case, monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  stream = Terminal()
  monkeypatch.setattr("sys.stderr", stream)
  monkeypatch.setenv("TERM", "xterm")
  quantized(case, method="minmax", progress=True)
  assert "minmax" in stream.getvalue()
  before = stream.getvalue()
  quantized(case, method="minmax", progress=False)
  assert stream.getvalue() == before


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"method": "magic"}, "method: 'magic' is unknown; it must be one of auto, minmax"),
    ({"bits": 1}, "bits: 1 is out of range"),
    ({"bits": 9}, "bits: 9 is out of range"),
    ({"max_drop": 5}, "max_drop must be a fraction between 0 and 1, .* got 5"),
    ({"max_drop": "0.1"}, "max_drop must be a fraction between 0 and 1, .* got '0.1'"),
    ({"labels": np.zeros(3, int)}, r"labels: int64 of shape \(3,\) must be integers \(24,\)"),
    ({"labels": np.zeros(24)}, "labels: float64"),
    ({"labels": np.full(24, 5)}, "labels: 5 to 5 must be 0 to 4"),
    ({"batch_size": 0}, "batch_size: 0"),
    ({"method": "minmax", "input_range": (2.0, -2.0)}, r"input_range: \(2.0, -2.0\) must be two"),
    ({"method": "minmax", "input_range": (0.0, 1.0, 2.0)}, r"input_range: .* must be two finite"),
    ({"method": "minmax", "input_range": "ab"}, r"input_range: 'ab' must be two finite"),
    ({"method": "minmax", "input_range": (0.0, np.nan)}, r"input_range: .* must be two finite"),
    ({"ranges": "median"}, "ranges: 'median' is unknown"),
  ],
)
def test_arguments_that_do_not_fit_are_refused(case, options, message):
  with pytest.raises(ValueError, match=message):
    quantized(case, **options)
