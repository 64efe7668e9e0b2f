"""Models of others: every way in says the layer, what was passed, and the importer that takes it."""

import pathlib

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxcompress import distill, export, models, nn, prune, quantize
from jaxcompress.nn.foreign import kind_of
from jaxcompress.training import Recipe, evaluate, init_state, train_step

SHAPE = (8, 8, 3)
IMAGES = np.ones((2, *SHAPE), np.float32)


class Block(linen.Module):
  @linen.compact
  def __call__(self, x, train):
    x = linen.Conv(4, (3, 3), name="conv1")(x)
    return linen.relu(linen.BatchNorm(use_running_average=not train, name="norm1")(x))


class Net(linen.Module):
  """As people write them."""

  @linen.compact
  def __call__(self, x, *, train=False):
    x = Block(name="block0")(x, train)
    return linen.Dense(3, name="head")(x.mean((1, 2)))


class WithoutFlag(linen.Module):
  @linen.compact
  def __call__(self, x):
    return linen.Dense(3, name="head")(linen.Conv(4, (3, 3), name="conv1")(x).mean((1, 2)))


class OfNnx(nnx.Module):
  def __init__(self, rngs):
    self.head = nnx.Linear(3, 3, rngs=rngs)

  def __call__(self, x):
    return self.head(x.mean((1, 2)))


def made_by(library, name, *bases, **attributes):
  """An object of a class that says it is another library's, which need not be installed."""
  base = type(name, bases, {"__module__": library, **attributes})
  return type("Net", (base,), {"__module__": "users", "__call__": lambda self, x: x})()


def apply(variables, images):
  return images.mean((1, 2))


KINDS = {
  "nnx": (
    lambda: OfNnx(nnx.Rngs(0)),
    "an NNX module, OfNnx; import it with models.from_nnx(module",
  ),
  "haiku": (
    lambda: made_by("haiku._src.transform", "Transformed"),
    "a Haiku transformed pair, Net; import it with models.from_jax(apply, variables, images)",
  ),
  "haiku with state": (
    lambda: made_by("haiku._src.transform", "TransformedWithState"),
    "variables = (params, state) and apply = lambda variables, images: net.apply(*variables, None",
  ),
  "haiku module": (
    lambda: made_by("haiku._src.module", "Module"),
    "a Haiku module, Net; transform it first, with hk.transform_with_state",
  ),
  "equinox": (
    lambda: made_by("equinox._module", "Module"),
    "an Equinox module, Net; import it with models.from_jax(apply, variables, images)",
  ),
  "keras": (lambda: made_by("keras.src.models.model", "Model"), "a Keras model, Net; import it"),
  "torch": (
    lambda: made_by("torch.nn.modules.module", "Module"),
    "a torch module, Net; load its checkpoint with models.from_torch(source, path)",
  ),
  "pair": (lambda: (apply, apply), "a pair of functions, tuple; import it with models.from_jax("),
  "function": (lambda: apply, "the function apply (not called); of a function apply(variables, im"),
}
VARIABLES = {"params": {"head": {"kernel": jnp.ones((3, 3))}}}
ENTRIES = {
  "Recipe": lambda model: Recipe(student=model, optimizer=optax.sgd(0.1)),
  "init_variables": lambda model: nn.init_variables(model, jax.random.key(0), SHAPE),
  "trace": lambda model: nn.trace(model, VARIABLES, IMAGES),
  "summarize": lambda model: models.summarize(model, 8),
  "save": lambda model: models.save("no-such-folder/a.safetensors", model, VARIABLES),
  "post_training": lambda model: quantize.post_training(model, VARIABLES, IMAGES),
  "transform": lambda model: quantize.transform(model, quantize.int8()),
  "sensitivity": lambda model: quantize.sensitivity(model, VARIABLES, IMAGES),
  "grids_apart": lambda model: quantize.grids_apart(model, VARIABLES, IMAGES),
  "channel_importance": lambda model: prune.channel_importance(model, VARIABLES, IMAGES),
  "remove_channels": lambda model: prune.remove_channels(model, VARIABLES, prune.Keep({}, SHAPE)),
  "evaluate": lambda model: evaluate(model, VARIABLES, [{"image": IMAGES}]),
  "read_pixels": lambda model: export.read_pixels(model, VARIABLES, None),
  "stablehlo_float": lambda model: export.stablehlo_float(model, VARIABLES, "a.stablehlo", SHAPE),
  "tflite": lambda model: export.tflite(model, "a.tflite"),
  "tflite_float": lambda model: export.tflite_float(model, VARIABLES, "a.tflite"),
  "onnx": lambda model: export.onnx(model, "a.onnx"),
  "onnx_float": lambda model: export.onnx_float(model, VARIABLES, "a.onnx"),
  "stablehlo": lambda model: export.stablehlo(model, "a.stablehlo"),
  "packed": lambda model: export.packed(model, "a.jcz"),
  "verify": lambda model: export.verify("a.tflite", model, IMAGES),
  "analyze": lambda model: quantize.analyze(model, models.resnet8(3), VARIABLES, IMAGES),
}


def message_of(entry, model):
  with pytest.raises(ValueError) as error:
    ENTRIES[entry](model)
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_model_of_another_kind_is_told_its_importer(entry, kind, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  make, expected = KINDS[kind]
  message = message_of(entry, make())
  assert message.split(" must be ")[0] in ("student", "model", "quantized", "graph")
  assert expected in message
  assert list(pathlib.Path().iterdir()) == []


OF_LAYERS = (
  *("trace", "summarize", "post_training", "sensitivity", "grids_apart"),
  *("channel_importance", "remove_channels"),
)


@pytest.mark.parametrize("entry", OF_LAYERS)
@pytest.mark.parametrize(
  ("model", "layer"),
  [
    (Net(), "nn.Conv 'block0/conv1', nn.BatchNorm 'block0/norm1', nn.Dense 'head' are"),
    (WithoutFlag(), "nn.Conv 'conv1', nn.Dense 'head' are"),
  ],
)
def test_layers_of_linen_are_named_with_the_importer(entry, model, layer, monkeypatch):
  variables = nn.init_variables(model, jax.random.key(0), SHAPE)
  monkeypatch.setitem(VARIABLES, "params", variables["params"])
  monkeypatch.setitem(VARIABLES, "batch_stats", variables.get("batch_stats", {}))
  message = message_of(entry, model)
  start = "model: the logits are an array that no leaf op of jaxcompress.nn made: "
  assert f"{start}{layer} " in message and "leaf operation" in message
  assert "import it with models.from_linen(model, variables, images)" in message


def test_a_plan_for_layers_of_linen_names_them_when_it_is_used():
  variables = nn.init_variables(Net(), jax.random.key(0), SHAPE)
  quantized = quantize.transform(Net(), quantize.int8())
  with pytest.raises(
    ValueError, match=r"nn\.Conv 'block0/conv1', nn.BatchNorm .* are not leaf operations; import it"
  ):
    quantized.init(jax.random.key(0), variables, IMAGES)


@pytest.mark.parametrize(
  "parts",
  [
    {"quantize": quantize.int8()},
    {
      "optimizer": prune.magnitude(
        optax.sgd(0.1), sparsity=0.5, rules=(prune.Rule(match="last", keep=True),)
      )
    },
    {"trainable": ("last",)},
  ],
  ids=["quantize", "prune", "trainable"],
)
def test_a_run_that_needs_the_graph_names_layers_of_linen(parts):
  recipe = Recipe(**{"student": Net(), "optimizer": optax.sgd(0.1), **parts})
  batch = {"image": IMAGES, "label": np.zeros(2, np.int32)}
  with pytest.raises(
    ValueError, match=r"nn\.Conv 'block0/conv1', nn\.BatchNorm .* models\.from_linen"
  ):
    init_state(recipe, jax.random.key(0), batch)


def test_a_run_in_float_takes_any_linen_module_with_the_flag():
  batch = {"image": IMAGES, "label": np.zeros(2, np.int32)}
  recipe = Recipe(student=Net(), optimizer=optax.sgd(0.1))
  state, metrics = train_step(init_state(recipe, jax.random.key(0), batch), batch)
  assert np.isfinite(metrics["loss"])
  with pytest.raises(ValueError, match=r"nn\.Conv 'block0/conv1', .* models\.from_linen"):
    state.graph()


@pytest.mark.parametrize("entry", ["Recipe", "transform", "read_pixels"])
def test_what_is_trained_must_take_the_flag(entry):
  message = message_of(entry, WithoutFlag())
  assert "the call of WithoutFlag takes no train; write __call__(self, x, *, train), or" in message
  assert "models.from_linen(model, variables, images)" in message


def test_a_network_of_leaf_ops_must_take_the_flag():
  class Flagless(linen.Module):
    @linen.compact
    def __call__(self, x):
      return nn.Dense(3, name="head")(nn.GlobalAvgPool(name="pool")(x))

  with pytest.raises(
    ValueError, match="model: the call of Flagless takes no train; write __call__"
  ):
    models.summarize(Flagless(), 8)


class Between(linen.Module):
  """Computes between leaf ops, or before them all."""

  before: bool = False

  @linen.compact
  def __call__(self, x, *, train):
    x = x / 127.5 if self.before else x
    x = nn.ConvNorm(4, name="stem")(x, train=train)
    y = nn.Activation("relu", name="act")(x if self.before else jax.nn.relu(x))
    return nn.Dense(3, name="head")(nn.GlobalAvgPool(name="pool")(y))


@pytest.mark.parametrize(
  ("before", "message"),
  [
    (
      False,
      r"'act' \(Activation\) reads an array .* computed after 'stem' \(ConvNorm\) by jax\.num",
    ),
    (True, r"'stem' \(ConvNorm\) reads an array .* computed from the images by jax\.numpy, lax or"),
  ],
)
def test_computing_between_leaf_ops_names_the_reader_and_the_way_out(before, message):
  with pytest.raises(ValueError, match=message + r".* put a leaf op .*models\.from_linen\("):
    models.summarize(Between(before), 8)


def test_of_many_layers_the_first_are_named():
  class Deep(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      layers = [linen.Dense(3) for _ in range(5)]
      return linen.Sequential(layers)(nn.GlobalAvgPool(name="pool")(x))

  with pytest.raises(ValueError, match="'Dense_2' and 2 more are not leaf operations; import it"):
    models.summarize(Deep(), 8)


def test_one_layer_of_linen_among_leaf_ops_is_the_one_that_is_named():
  class Mixed(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      x = nn.ConvNorm(4, name="stem")(x, train=train)
      x = linen.Dropout(0.5, deterministic=not train)(x)  # in evaluation it makes no array
      x = linen.GroupNorm(2, name="norm")(x)
      return nn.Dense(3, name="head")(nn.GlobalAvgPool(name="pool")(x))

  with pytest.raises(
    ValueError, match=r"'pool' .* made: nn\.GroupNorm 'norm' is not a leaf operation; import it"
  ):
    models.summarize(Mixed(), 8)


def test_a_networks_own_layer_is_named_without_a_library():
  class Swish(linen.Module):
    def __call__(self, x):
      return x * jax.nn.sigmoid(x)

  class Own(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      x = Swish(name="swish")(nn.ConvNorm(4, name="stem")(x, train=train))
      return nn.Dense(3, name="head")(nn.GlobalAvgPool(name="pool")(x))

  with pytest.raises(
    ValueError, match=r"'pool' .* made: Swish 'swish' is not a leaf operation; import it with"
  ):
    models.summarize(Own(), 8)


def test_first_variables_of_any_linen_module_are_its_own():
  own = Net().init(jax.random.key(3), IMAGES)
  for made in (
    nn.init_variables(Net(), jax.random.key(3), SHAPE),
    nn.init_variables(distill.adapter(Net()), jax.random.key(3), SHAPE),
  ):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), made, own)


def test_a_model_of_ones_own_is_saved_as_an_import():
  with pytest.raises(
    ValueError, match=r"Between is not a model of jaxcompress.models.*models\.from_linen\("
  ):
    models.save("a.safetensors", Between(), {})


def test_what_is_no_model_has_no_kind():
  assert kind_of(OfNnx) is kind_of(models.resnet8) is None
  assert kind_of("resnet8") is None and kind_of({}) is None
  assert kind_of(models.resnet8(10)).what == "a linen module"


class Twice(linen.Module):
  @linen.compact
  def __call__(self, x, *, train):
    layer = nn.ConvNorm(3, name="shared")
    return nn.GlobalAvgPool(name="pool")(layer(layer(x, train=train), train=train))


WAYS_OUT = {
  "linen": lambda: of_linen(Net()),
  "between leaf ops": lambda: of_linen(Between()),
  "a leaf op twice": lambda: of_linen(Twice()),
  "nnx": lambda: models.from_nnx(OfNnx(nnx.Rngs(0)), IMAGES),
  "function": lambda: models.from_jax(apply, {}, IMAGES),
}


def of_linen(model):
  return models.from_linen(model, nn.init_variables(model, jax.random.key(0), SHAPE), IMAGES)


@pytest.mark.filterwarnings("ignore:the network calls a layer more than once")
@pytest.mark.parametrize("kind", WAYS_OUT)
def test_the_way_out_that_a_message_names_leads_there(kind):
  imported = WAYS_OUT[kind]()
  assert models.summarize(imported.model, 8).graph.nodes
  quantize.post_training(imported.model, imported.variables, IMAGES, method="minmax")
