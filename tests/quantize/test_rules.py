"""Rules: which layer gets which quantizer, in training and in the file."""

import inspect

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import distill, export, models, quantize
from jaxcompress.nn import Activation, Add, ConvNorm, Dense, GlobalAvgPool
from jaxcompress.nn.select import layers_of
from jaxcompress.quantize import Rule, first_last_8bit
from jaxcompress.quantize.rules import Choice, choose
from jaxcompress.quantize.sites import assign, find_sites
from jaxcompress.training import Recipe, init_state, train_step

EIGHT, FOUR = quantize.absmax(8), quantize.absmax(4)
ACTIVATIONS = quantize.ema_range(8)


@pytest.fixture(scope="module")
def sites():
  return find_sites(models.summarize(models.resnet8(3), 8).graph)


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.normal(size=(16, 8, 8, 3)), jnp.float32)
  return {"image": image, "label": jnp.asarray(rng.integers(0, 3, 16))}


def plan_of(*rules, weights=FOUR):
  return quantize.Quantization(weights=weights, activations=ACTIVATIONS, rules=rules)


class Small(linen.Module):
  """Three layers with kernels, which compile in a moment."""

  @linen.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, act="relu", name="stem")(x, train=train)
    y = ConvNorm(8, kernel=3, name="conv")(x, train=train)
    x = Activation("relu", name="relu")(Add(name="add")(x, y))
    return Dense(3, name="classifier")(GlobalAvgPool(name="pool")(x))


def train(plan, batch, steps=4):
  recipe = Recipe(
    student=Small(),
    loss=distill.cross_entropy(),
    quantize=plan,
    optimizer=optax.sgd(0.02),
  )
  state = init_state(recipe, jax.random.key(0), batch)
  for _ in range(steps):
    state, metrics = train_step(state, batch)
  return state, metrics


def test_the_first_rule_that_matches_counts(sites):
  plan = plan_of(
    Rule(match="stage0", weights=EIGHT), Rule(match="conv1$", weights=None), *first_last_8bit()
  )
  weights = assign(plan, sites).weights
  assert weights["stage0_block0/conv1"] is EIGHT
  assert "stage1_block0/conv1" not in weights
  assert weights["stage1_block0/conv2"] is FOUR
  assert {weights[name].levels.high for name in ("stem", "classifier")} == {127}


def test_layers_go_by_kinds_too():
  layers = layers_of(models.summarize(models.mobilenet_v2(3, 0.25, layout="short")).graph)
  default = Choice(FOUR, ACTIVATIONS)
  chosen = choose((Rule(match="depthwise|Dense", weights=EIGHT),), default, layers)
  assert chosen["stage1_block0/depthwise"].weights is EIGHT
  assert chosen["classifier"].weights is EIGHT
  assert chosen["stage1_block0/expand"].weights is FOUR
  assert "pointwise" in layers["head"].kinds and "first" in layers["stem"].kinds


def test_the_input_and_single_activations_can_stay_in_float(sites):
  plan = plan_of(
    Rule(match="^input$", activations=None), Rule(match="GlobalAvgPool", activations=None)
  )
  activations = assign(plan, sites).activations
  assert "input" not in activations and "pool" not in activations
  assert "stem" in activations


def test_a_rule_that_matches_nothing_lists_the_paths(sites):
  with pytest.raises(ValueError, match=r"rules: 'stage9' matches no layer; .*stage0_block0/conv1"):
    assign(plan_of(Rule(match="stage9", weights=EIGHT)), sites)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: Rule(match="(", weights=EIGHT), r"match: '\(' is no regular expression"),
    (lambda: Rule(match="stem"), "match: the rule 'stem' decides nothing"),
    (lambda: plan_of("stem"), "rules: .* must be a tuple of quantize.Rule"),
    (lambda: quantize.int8(9), "bits: 9 is out of range"),
  ],
)
def test_mistakes_name_the_argument(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_a_plan_with_rules_can_be_part_of_a_recipe():
  assert quantize.w4a8() != quantize.w4a8(first_last=False)
  assert isinstance(hash(plan_of(Rule(match="stem", weights=EIGHT))), int)


PLANS = {
  "w4a8": quantize.w4a8(),
  "ternary": quantize.ternary(),
  "binary": quantize.binary(),
  "lsq": quantize.Quantization(weights=quantize.lsq(4), activations=quantize.lsq_activations(8)),
  "ttq": quantize.Quantization(weights=quantize.ttq(), activations=ACTIVATIONS),
  "dorefa": quantize.Quantization(weights=quantize.dorefa(4), activations=ACTIVATIONS),
  "ewgs": quantize.Quantization(weights=quantize.ewgs(3), activations=ACTIVATIONS),
  "pact": quantize.Quantization(weights=EIGHT, activations=quantize.pact(8)),
  "stochastic": quantize.Quantization(weights=quantize.stochastic(FOUR), activations=ACTIVATIONS),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_what_was_trained_is_what_the_file_holds(name, batch, tmp_path):
  state, metrics = train(PLANS[name], batch)
  assert np.isfinite(metrics["loss"])
  quantized = state.quantized()
  export.tflite(quantized, tmp_path / "model.tflite")
  assert export.verify(tmp_path / "model.tflite", quantized, batch["image"]).bit_equal == 1.0
  values = {
    "w4a8": 15, "ternary": 3, "binary": 2, "lsq": 16, "ttq": 3, "dorefa": 16, "ewgs": 8,
    "pact": 255, "stochastic": 15,
  }  # fmt: skip
  layer = quantized.layers["conv"].weights
  assert len(np.unique(np.abs(layer))) <= values[name]
  assert max(len(np.unique(layer[..., c])) for c in range(layer.shape[-1])) <= values[name]


@pytest.mark.slow
def test_float_and_training_only_layers_are_not_exported(batch):
  state, _ = train(plan_of(Rule(match="stem", weights=None)), batch, steps=1)
  with pytest.raises(ValueError, match="rules: the weights of 'stem' stay in float"):
    state.quantized()
  plan = quantize.Quantization(
    weights=FOUR,
    activations=ACTIVATIONS,
    rules=(Rule(match="relu", activations=quantize.rsign_activations()),),
  )
  state, _ = train(plan, batch, steps=1)
  with pytest.raises(ValueError, match="have no integers"):
    state.quantized()
  plan = quantize.Quantization(weights=quantize.absmax(16), activations=ACTIVATIONS)
  state, _ = train(plan, batch, steps=1)
  with pytest.raises(ValueError, match="'stem' have levels up to 32767; files hold int8"):
    state.quantized()


class Own(linen.Module):
  """Ends that neither names nor numbers of channels tell."""

  @linen.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, act="relu", name="entry")(x, train=train)
    x = ConvNorm(8, kernel=3, act="relu", name="classifier")(x, train=train)
    return Dense(3, name="head")(GlobalAvgPool(name="pool")(x))


@pytest.mark.parametrize("preset", ["int4", "w4a8", "ternary", "binary"])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_own_rules_leave_the_first_and_the_last_layer_their_eight_bits(preset, channels):
  own = find_sites(models.summarize(Own(), 8, channels).graph)
  wide = Rule(match="^entry$|input", activations=quantize.ema_range(16))
  plan = getattr(quantize, preset)(rules=(wide,))
  found = assign(plan, own)
  bits = {name: quantizer.levels.high for name, quantizer in found.weights.items()}
  assert bits["entry"] == bits["head"] == 127 and bits["classifier"] < 127
  assert found.activations["entry"].levels.high == found.activations["input"].levels.high == 32767
  bare = assign(getattr(quantize, preset)(first_last=False), own)
  assert len({quantizer.levels for quantizer in bare.weights.values()}) == 1


def test_a_rule_takes_several_strings_of_which_some_leave_out(sites):
  rule = Rule(match=("stage0", "stage1", "!conv2|Add"), weights=EIGHT)
  weights = assign(plan_of(rule), sites).weights
  eight = {name for name, quantizer in weights.items() if quantizer is EIGHT}
  assert eight == {"stage0_block0/conv1", "stage1_block0/conv1", "stage1_block0/shortcut"}


def test_presets_show_their_options_and_refuse_others():
  for preset in (quantize.int8, quantize.w4a8, quantize.clustered):
    shown = inspect.signature(preset).parameters
    assert {"rules", "first_last", "start_step", "freeze_norm_step"} <= set(shown)
  assert inspect.signature(quantize.w4a8).parameters["first_last"].default is True
  with pytest.raises(
    TypeError, match=r"start: int8 takes bits, rules, .*; did you mean start_step\?"
  ):
    quantize.int8(start=5)
