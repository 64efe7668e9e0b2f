"""Fine-tuning of integer models on images without labels."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxcompress.nn import (
  Activation,
  Add,
  AvgPool,
  ConvNorm,
  Dense,
  GlobalAvgPool,
  Multiply,
  init_variables,
  trace,
)
from jaxcompress.nn.operations import fuse_activations
from jaxcompress.quantize import fine_tune, first_last_8bit, post_training
from jaxcompress.quantize.integer.grid import HIGHEST
from jaxcompress.quantize.ptq.as_real import start_of
from jaxcompress.quantize.ptq.fine_tune import finished, first_params, run_student


class Gated(nn.Module):
  """A linear bottleneck with a sum, a gate, a pool and functions that become several operations."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(6, kernel=3, act="relu6", name="stem")(x, train=train)
    x = ConvNorm(4, name="first")(x, train=train)
    y = Activation("hard_swish", name="swish")(ConvNorm(8, name="expand")(x, train=train))
    y = ConvNorm(8, kernel=3, groups="depthwise", act="relu6", name="depthwise")(y, train=train)
    gate = ConvNorm(8, name="gate")(AvgPool(8, 8, name="mean")(y), train=train)
    gate = Activation("hard_sigmoid", name="sigmoid")(gate)
    y = Multiply(name="gated")(y, gate)
    x = Add(name="add")(x, ConvNorm(4, name="project")(y, train=train))
    x = Activation("silu", name="act")(ConvNorm(8, name="head")(x, train=train))
    return Dense(5, name="dense")(GlobalAvgPool(name="pool")(x))


class Bottlenecks(nn.Module):
  """Two linear bottlenecks with a sum, between a stem and a head."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(6, kernel=3, act="relu6", name="stem")(x, train=train)
    x = ConvNorm(4, name="first")(x, train=train)
    y = ConvNorm(8, act="relu6", name="expand")(x, train=train)
    y = ConvNorm(8, kernel=3, groups="depthwise", act="relu6", name="depthwise")(y, train=train)
    x = Add(name="add")(x, ConvNorm(4, name="project")(y, train=train))
    x = ConvNorm(8, act="relu", name="head")(x, train=train)
    return Dense(5, name="dense")(GlobalAvgPool(name="pool")(x))


class Stemless(nn.Module):
  """The last layers of a network."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, act="relu", name="head")(x, train=train)
    return Dense(5, name="dense")(GlobalAvgPool(name="pool")(x))


def network(model):
  """``(variables, images)``, with means and biases as of a trained network."""
  rng = np.random.default_rng(0)
  images = rng.normal(size=(24, 8, 8, 3)).astype(np.float32)
  variables = jax.device_get(init_variables(model, jax.random.key(0), images.shape[1:]))

  def change(path, array):
    drawn = path[-1].key in ("mean", "bias")
    return rng.normal(0, 0.3, array.shape).astype(np.float32) if drawn else array

  return jax.tree_util.tree_map_with_path(change, variables), images


def quantized_of(model, method="mse", **options):
  variables, images = network(model)
  return post_training(model, variables, images, method=method, progress=False, **options)


def start(quantized, model):
  variables, images = network(model)
  return start_of(quantized, fuse_activations(trace(model, variables, images[:1])))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("model", "options"),
  [
    (Gated(), {"bits": 4}),
    (Gated(), {"method": "equalize"}),
    (Bottlenecks(), {"bits": 3, "activation_bits": 4}),
    (Bottlenecks(), {"activation_bits": 16}),
  ],
)
def test_what_was_not_trained_is_the_integer_model_again(model, options):
  quantized = quantized_of(model, **options)
  form, given = start(quantized, model)
  back = finished(quantized, form, given, jax.device_get(first_params(form, given)))
  for name, layer in quantized.layers.items():
    for one, other in zip(layer, back.layers[name], strict=True):
      np.testing.assert_array_equal(one, other)
  assert (back.graph, back.grids) == (quantized.graph, quantized.grids)


@pytest.mark.parametrize("model", [Gated(), Bottlenecks()])
def test_training_sees_what_the_integers_compute(model):
  quantized, (_, images) = quantized_of(model), network(model)
  form, given = start(quantized, model)
  run = jax.jit(lambda given, params, x: run_student(form, given, params, x))
  logits = run(given, first_params(form, given), images)["logits"]
  step = quantized.grids[dict(quantized.graph.outputs)["logits"]].scale
  assert np.abs(logits - quantized(images)).max() < 3.1 * step
  assert np.abs(logits - quantized(images)).mean() < 0.5 * step


@pytest.fixture(scope="module")
def tuned():
  """``(before, after, losses)`` of a network with 2-bit weights and 4-bit activations."""
  model = Bottlenecks()
  variables, images = network(model)
  before = quantized_of(model, bits=2, activation_bits=4, rules=first_last_8bit())
  losses = []
  after = fine_tune(
    before,
    model,
    variables,
    images,
    steps=200,
    batch_size=24,
    rate=0.05,
    progress=False,
    on_step=lambda step, loss: losses.append(loss),
  )
  return before, after, losses


def test_it_learns_what_the_float_network_gives(tuned):
  before, after, losses = tuned
  variables, images = network(Bottlenecks())
  real = np.asarray(Bottlenecks().apply(variables, images, train=False))
  noise = [np.square(model(images) - real).mean() for model in (before, after)]
  assert noise[1] < 0.5 * noise[0]
  assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_weights_and_activations_keep_their_bits(tuned):
  before, after, _ = tuned
  for name, layer in before.layers.items():
    most = 1 if name not in ("stem", "dense") else HIGHEST
    assert np.abs(layer.weights).max() <= most >= np.abs(after.layers[name].weights).max()
  zeros = [{name: grid.zero_point for name, grid in model.grids.items()} for model in tuned[:2]]
  assert zeros[0] == zeros[1]
  assert zeros[0]["expand"] == 112
  assert any(
    (before.layers[name].weights != layer.weights).any() for name, layer in after.layers.items()
  )


@pytest.mark.slow
def test_images_are_varied_and_read_as_the_model_reads_them():
  model = Bottlenecks()
  variables, images = network(model)
  quantized = dataclasses.replace(quantized_of(model), preprocess=lambda x: x / 2)
  seen = []

  def augment(key, batch):
    seen.append(batch["image"].shape)
    return {**batch, "image": batch["image"][:, ::-1] + jax.random.uniform(key)}

  options = {"steps": 2, "batch_size": 4, "progress": False}
  after = fine_tune(quantized, model, variables, 2 * images, augment=augment, **options)
  plain = fine_tune(quantized, model, variables, 2 * images, **options)
  assert seen == [(4, 8, 8, 3)]  # traced once
  assert after.preprocess is quantized.preprocess
  assert any((after.layers[n].bias != plain.layers[n].bias).any() for n in plain.layers)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"steps": 0}, "^steps"),
    ({"rate": 0.0}, "^rate: 0.0 is out of range"),
    ({"augment": 3}, "^augment must be"),
    (
      {"images": np.zeros((4, 6, 6, 3), np.float32)},
      r"^model: it has the outputs .* \(1, 6, 6, 3\)",
    ),
    ({"quantized": None}, "^quantized must be a QuantizedModel"),
    ({"rate": "slow"}, "^rate: 'slow' is out of range"),
    ({"seed": -1}, "^seed: -1 must be a whole number"),
  ],
)
def test_what_cannot_be_tuned_is_refused(change, message):
  variables, images = network(Bottlenecks())
  given = {"quantized": quantized_of(Bottlenecks()), "model": Bottlenecks(), "variables": variables}
  with pytest.raises(ValueError, match=message):
    fine_tune(**{**given, "images": images, **change})


@pytest.mark.parametrize(
  ("augment", "found"),
  [
    (lambda key, batch: {"image": batch["image"][:, :6, :6]}, r"\(4, 6, 6, 3\)"),
    (lambda key, batch: batch["image"], r"\(4, 8, 8, 3\); it must give a batch"),
    (lambda key, batch: {"pixels": batch["image"]}, "None"),
  ],
  ids=["smaller", "no batch", "no images"],
)
def test_an_augmentation_gives_images_of_the_same_shape(augment, found):
  variables, images = network(Bottlenecks())
  with pytest.raises(ValueError, match=rf"^augment: it gives {found}.*images \(4, 8, 8, 3\)"):
    fine_tune(
      quantized_of(Bottlenecks()), Bottlenecks(), variables, images,
      augment=augment, steps=1, batch_size=4, progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("steps", [3, 9])
def test_training_that_leaves_finite_numbers_ends_in_no_model(steps):
  """Of weights that are no numbers all integers would be zero."""
  variables, images = network(Bottlenecks())
  options = {"steps": steps, "batch_size": 4, "progress": False}
  far = np.where(images > 0, np.float32(3e38), np.float32(-3e38))
  with pytest.raises(ValueError, match=r"^rate: 0\.003: training is no longer in finite numbers"):
    fine_tune(quantized_of(Bottlenecks()), Bottlenecks(), variables, far, **options)


@pytest.mark.parametrize("method", ["minmax", "equalize"])
@pytest.mark.parametrize("other", [Gated(), Stemless()], ids=["more layers", "fewer layers"])
def test_a_network_of_other_layers_is_refused_though_its_outputs_fit(other, method):
  variables, images = network(other)
  with pytest.raises(ValueError, match=r"^model: its layer '\w+' has weights .* give the network"):
    fine_tune(
      quantized_of(Bottlenecks(), method), other, variables, images, steps=1, progress=False
    )
