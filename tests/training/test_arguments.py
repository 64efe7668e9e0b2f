"""Mistakes in arguments are named when the recipe, the state or the loop gets them."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from rich.console import Console

from jaxcompress import distill, models, nn, prune, quantize
from jaxcompress.nn import init_variables
from jaxcompress.training import (
  CachedTeacher,
  Recipe,
  Stage,
  evaluate,
  fit,
  init_state,
  reestimate_norm,
  train_step,
)

QUIET = Console(quiet=True)
SGD, RULE = optax.sgd(0.1), quantize.Rule(match="stem", weights=None)
NAMED = distill.named_chain(labels=distill.cross_entropy())


class OfNnx(nnx.Module):
  """A network of the other interface."""

  def __call__(self, x, *, train):
    return x


def stage(**parts):
  return Stage(**{"loss": NAMED, "trainable": ("student",), "steps": 1, **parts})


@pytest.mark.parametrize(
  ("parts", "message"),
  [
    ({"student": models.resnet8}, "student must be a linen module.*the function resnet8"),
    ({"student": linen.Dense}, "student must be a linen module.*the class Dense"),
    ({"student": OfNnx()}, "student must be a linen module"),
    ({"student": "resnet8"}, "student must be a linen module.*got 'resnet8'"),
    ({"student": CachedTeacher()}, "student must be a linen module"),
    ({"teachers": models.resnet8(10)}, "teachers must be a tuple of networks"),
    ({"teachers": [models.resnet8(10)]}, "teachers must be a tuple of networks"),
    ({"teachers": (models.resnet8,)}, r"teachers\[0\] must be a linen or NNX module"),
    (
      {"teachers": (models.resnet8(10), {})},
      r"teachers\[1\] must be a linen or NNX module.*got \{\}",
    ),
    ({"loss": optax.softmax_cross_entropy}, "loss must be a loss.*softmax_cross_entropy"),
    ({"loss": distill.kd}, r"loss must be a loss.*the function kd \(not called\)"),
    ({"loss": optax.sgd(0.1)}, "loss must be a loss"),
    ({"loss": None}, "loss must be a loss.*got None"),
    ({"optimizer": "adam"}, r"optimizer must be an optax transformation, such as .*got 'adam'"),
    ({"optimizer": optax.adam}, "optimizer must be an optax transformation.*the function adam"),
    ({"optimizer": distill.kd()}, "optimizer must be an optax transformation"),
    ({"quantize": quantize.lsq(4)}, r"quantize must be a plan, such as quantize.int8\(\)"),
    ({"quantize": quantize.int8}, "quantize must be a plan.*the function int8"),
    ({"quantize": 8}, "quantize must be a plan.*got 8"),
    ({"augment": "flip"}, "augment must be a function"),
    ({"preprocess": 255.0}, "preprocess must be a function"),
    ({"preprocess": dict}, "preprocess must be a function.*the class dict"),
    ({"ema": "0.9"}, "ema: '0.9' must be in"),
    ({"ema": 1.0}, "ema: 1.0 must be in"),
    ({"ema": False}, "ema: False must be in"),
    ({"trainable": ()}, r"trainable: \(\) is empty, so that nothing would move"),
    ({"ema": float("nan")}, "ema: nan must be in"),
    ({"trainable": "student"}, "trainable: 'student' must be a tuple of names"),
    ({"trainable": ("student", 3)}, "trainable: .* must be a tuple of names"),
    (
      {"trainable": ("!student/stem",)},
      "trainable: .* only leaves out, so that nothing would move",
    ),
    ({"apart": "kd"}, "apart: 'kd' must be a tuple of names"),
    ({"accumulate": 2.0}, "accumulate: 2.0 must be a whole number, at least 1"),
    ({"accumulate": True}, "accumulate: True must be a whole number"),
    ({"remat": "blocks"}, "remat must be True or False"),
    ({"compute_dtype": "bfloat17"}, "compute_dtype: 'bfloat17' must be a float"),
    ({"compute_dtype": jnp.int8}, "compute_dtype: .* must be a float"),
    ({"stages": (3,)}, r"stages\[0\] must be a training.Stage"),
    ({"stages": stage()}, r"stages must be a tuple of training.Stage; write \(stage,\)"),
  ],
)
def test_a_recipe_refuses_what_it_cannot_train(parts, message):
  whole = {"student": models.resnet8(10), "optimizer": optax.sgd(0.1), **parts}
  with pytest.raises(ValueError, match=f"^{message}"):
    Recipe(**whole)


@pytest.mark.parametrize(
  ("parts", "message"),
  [
    ({"steps": 2.5}, "steps: 2.5 must be a whole number, at least 1"),
    ({"steps": True}, "steps: True must be a whole number"),
    ({"steps": 0}, "steps: 0 must be a whole number, at least 1"),
    ({"trainable": "student"}, "trainable: 'student' must be"),
    ({"trainable": ()}, r"trainable: \(\) is empty"),
    ({"trainable": ("!loss", "!student")}, "trainable: .* only leaves out"),
    ({"loss": distill.kd}, "loss must be a loss"),
    ({"optimizer": "sgd"}, "optimizer must be an optax"),
  ],
)
def test_a_stage_refuses_what_it_cannot_train(parts, message):
  with pytest.raises(ValueError, match=f"^{message}"):
    stage(**parts)


@pytest.mark.parametrize(
  ("parts", "message"),
  [
    ({"start_step": True}, "start_step: True must be a whole number, at least 0"),
    ({"start_step": None}, "start_step: None must be a whole number"),
    ({"freeze_norm_step": -1}, "freeze_norm_step: -1 must be a whole number, at least 0"),
    ({"exact_step": 5}, "exact_step: 5 needs frozen BatchNorm"),
    ({"gradients": True}, "gradients: True is out of range; it must be 1 to 16"),
    ({"rules": quantize.Rule(match="stem", weights=None)}, "rules: .* must be a tuple"),
    ({"kernels": ["tflm"]}, "kernels must be the name of a runtime"),
    ({"apart": 5}, "apart must be pairs of the names of a node and a tensor"),
    ({"apart": ("add", "stem")}, "apart must be pairs of the names"),
    ({"apart": ("ab", "cd")}, "apart must be pairs of the names"),
    ({"apart": (1, 2)}, "apart must be pairs of the names"),
    ({"weights": None, "activations": None}, "weights, activations: nothing is quantized"),
    ({"weights": quantize.ema_range(8)}, "weights must be a quantizer for weights"),
    ({"weights": quantize.lsq}, r"weights must be .*the function lsq \(not called\)"),
  ],
)
def test_a_plan_refuses_what_it_cannot_be(parts, message):
  whole = {"weights": quantize.lsq(4), "activations": quantize.ema_range(8), **parts}
  with pytest.raises(ValueError, match=f"^{message}"):
    quantize.Quantization(**whole)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: quantize.w4a8(decay="a"), "decay: 'a' is out of range; it must be at least 0"),
    (lambda: quantize.w4a8(decay=None), "decay: None is out of range"),
    (lambda: quantize.int4(decay=0.5, first_last=False), "decay: LSQ's steps are trained"),
    (lambda: quantize.Rule(match="", weights=None), "match: '' has an empty alternative"),
    (lambda: prune.Rule(match="stem", keep="yes"), "keep must be True or False, got 'yes'"),
    (lambda: prune.Rule(match="stem", sparsity="0.5"), "sparsity: '0.5' is out of range"),
    (lambda: prune.magnitude("sgd", sparsity=0.5), "optimizer must be an optax transf.*got 'sgd'"),
    (lambda: prune.magnitude(SGD, sparsity=0.5, rules=prune.Rule(match="a")), "rules: .*write"),
    (lambda: prune.n_m(SGD, "2:4", rules=(RULE,)), "rules: .* must be a tuple of prune.Rule"),
    (lambda: prune.rigl(SGD, sparsity=0.5, stop=9, graph=NAMED), "graph must be one such as"),
  ],
)
def test_presets_and_pruning_refuse_what_they_cannot_be(make, message):
  with pytest.raises(ValueError, match=f"^{message}"):
    make()


def test_a_plan_prints_as_the_call_that_makes_it():
  plan = quantize.w4a8(rules=(quantize.Rule(match="stage0", weights=None),), start_step=90)
  text = repr(plan)
  assert text == (
    "Quantization(weights=absmax(4), activations=ema_range(8), rules=(Rule(match='stage0',"
    " weights=None), Rule(match='first|last', weights=absmax(8), activations=ema_range(8))),"
    " start_step=90)"
  )
  assert repr(eval(text, vars(quantize))) == text


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"recipe": None}, "recipe must be a training.Recipe, got None"),
    ({"rng": 0}, "rng must be a key"),
    ({"rng": jnp.zeros(3)}, "rng must be a key"),
    ({"batch": [1]}, "batch must be a mapping"),
    ({"batch": {}}, "batch: it has nothing, but no 'image'"),
    ({"batch": {"image": np.zeros((0, 8, 8, 3), np.float32)}}, r"'image' has shape \(0, 8, 8, 3\)"),
    ({"batch": {"image": np.zeros((8, 8, 3), np.float32)}}, r"'image' has shape \(8, 8, 3\)"),
    ({"image_label": 3}, r"'label' has shape \(3,\), and there are 16 images"),
    ({"student_variables": 3}, "student_variables must be a dict"),
    ({"student_variables": {}}, "student_variables: they are of another network"),
    ({"teacher_variables": {}}, "teacher_variables must be a tuple"),
    ({"teacher_variables": ({},)}, "teacher_variables: 1 given for 0 teachers"),
  ],
)
def test_a_state_refuses_what_it_cannot_start_from(recipe_of, batches, given, message):
  whole = {"recipe": recipe_of(), "rng": jax.random.key(0), "batch": batches(0), **given}
  if "image_label" in whole:
    count = whole.pop("image_label")
    whole["batch"] = {**batches(0), "label": np.zeros(count, np.int32)}
  with pytest.raises(ValueError, match=message):
    init_state(**whole)


def test_variables_of_another_network_are_named(recipe_of, tiny, teacher, batches):
  model, variables = teacher
  narrow = init_variables(tiny(features=4), jax.random.key(0), (8, 8, 3))
  with pytest.raises(ValueError, match="student_variables: they are of another network"):
    init_state(recipe_of(), jax.random.key(0), batches(0), student_variables=narrow)
  with pytest.raises(ValueError, match=r"teacher_variables\[1\]: they are of another network"):
    recipe = recipe_of(teachers=(model, model))
    init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(variables, narrow))


def test_an_older_key_gives_the_same_run(recipe_of, batches):
  states = [
    init_state(recipe_of(), key, batches(0)) for key in (jax.random.key(3), jax.random.PRNGKey(3))
  ]
  old, new = (jax.tree.leaves((state.params, jax.random.key_data(state.rng))) for state in states)
  assert all(np.array_equal(a, b) for a, b in zip(old, new, strict=True))


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"state": {}}, "state must be a CompressState"),
    ({"batch_at": []}, "batch_at must be a function"),
    ({"batch_at": lambda position: [position]}, "batch must be a mapping"),
    ({"steps": -1}, "steps: -1 must be a whole number, at least 0"),
    ({"steps": 2.5}, "steps: 2.5 must be"),
    ({"log_every": 0}, "log_every: 0 must be a whole number, at least 1"),
    ({"log_every": -1}, "log_every: -1 must be"),
    ({"on_log": "print"}, "on_log must be a function"),
    ({"checkpoints": "/tmp"}, "checkpoints must be training.Checkpoints"),
    ({"hooks": {-1: print}}, "hooks: position: -1 must be a whole number"),
    ({"hooks": {1: "print"}}, r"hooks\[1\] must be a function"),
  ],
)
def test_the_loop_refuses_what_it_cannot_do(recipe_of, batches, given, message):
  state = init_state(recipe_of(), jax.random.key(0), batches(0))
  whole = {"state": state, "batch_at": batches, "steps": 1, "console": QUIET, **given}
  with pytest.raises(ValueError, match=message):
    fit(**whole)


def test_a_loop_of_no_steps_gives_the_state_back(recipe_of, batches):
  state = init_state(recipe_of(), jax.random.key(0), batches(0))
  assert fit(state, batches, steps=0, console=QUIET) is state


def test_an_evaluation_of_nothing_is_refused(teacher, batches):
  model, variables = teacher
  batch = batches(0)
  hidden = {**batch, "mask": np.zeros(16, bool)}
  for given, message in (
    ([], "batches must not be empty"),
    ([hidden], "masks leave out every example"),
    (batch, "batches must be an iterable of batches, got one batch"),
    (3, "batches must be an iterable"),
    ([{"label": batch["label"]}], "no 'image'"),
  ):
    with pytest.raises(ValueError, match=message):
      evaluate(model, variables, given)
  with pytest.raises(ValueError, match="model must be a linen module"):
    evaluate(models.resnet8, variables, [batch])
  with pytest.raises(ValueError, match="variables must be a dict"):
    evaluate(model, None, [batch])
  assert evaluate(model, variables, [batch, hidden])["count"] == 16


def test_a_single_batch_is_not_several(recipe_of, batches):
  state = init_state(recipe_of(), jax.random.key(0), batches(0))
  with pytest.raises(ValueError, match="got one batch; write"):
    reestimate_norm(state, batches(0))


class Pool(linen.Module):
  """A network without parameters: the mean of each of five channels is a logit."""

  @linen.compact
  def __call__(self, x, *, train):
    return nn.Endpoints(nn.GlobalAvgPool(name="pool")(x))


@pytest.mark.slow
@pytest.mark.parametrize("plan", [None, quantize.int8()], ids=["float", "int8"])
def test_a_network_without_parameters_passes_through_everything(plan):
  images = np.random.default_rng(0).normal(size=(4, 6, 6, 5)).astype(np.float32)
  batch = {"image": images, "label": np.arange(4, dtype=np.int32)}
  assert init_variables(Pool(), jax.random.key(0), (6, 6, 5)) == {}
  assert models.summarize(Pool(), 6, 5).parameters == 0
  recipe = Recipe(student=Pool(), optimizer=optax.adam(0.1), quantize=plan, ema=0.9)
  state = init_state(recipe, jax.random.key(0), batch)
  state, metrics = train_step(state, batch)
  logits = images.mean((1, 2))
  expected = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
  np.testing.assert_allclose(metrics["loss"], expected, rtol=0.02)
  model = quantize.post_training(Pool(), {}, images) if plan is None else state.quantized()
  np.testing.assert_allclose(model(images), logits, atol=0.05)
