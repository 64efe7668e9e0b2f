"""Batch normalizations, activation functions and pools, as libraries and people spell them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import models

SHAPE = (8, 8, 3)
IMAGES = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)


def conv(x, kernel, stride=1):
  numbers = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, "SAME", dimension_numbers=numbers)


def flax(x, v):
  return (x - v["mean"]) * (jax.lax.rsqrt(v["var"] + 1e-4) * v["scale"]) + v["beta"]


def haiku(x, v):
  return (x - v["mean"]) * (v["scale"] * jax.lax.rsqrt(v["var"] + 1e-4)) + v["beta"]


def equinox(x, v):
  return (x - v["mean"]) / jnp.sqrt(v["var"] + 1e-4) * v["scale"] + v["beta"]


def keras(x, v):
  inverse = jax.lax.rsqrt(v["var"] + 1e-4) * v["scale"]
  return x * inverse + (v["beta"] - v["mean"] * inverse)


def power(x, v):
  return v["scale"] * ((x - v["mean"]) * (v["var"] + 1e-4) ** -0.5) + v["beta"]


def turned(x, v):
  """In NCHW, with statistics of (1, channels, 1, 1)."""
  x = jnp.transpose(x, (0, 3, 1, 2))
  v = {name: v[name].reshape(1, -1, 1, 1) for name in ("mean", "var", "scale", "beta")}
  return jnp.transpose(equinox(x, v), (0, 2, 3, 1))


def one_by_one(x, v):
  """Of each example in CHW, under vmap."""
  chw = jax.vmap(lambda y: jnp.moveaxis(y, -1, 0))(x)
  v = {name: v[name][:, None, None] for name in ("mean", "var", "scale", "beta")}
  return jax.vmap(lambda y: jnp.moveaxis(equinox(y, v), 0, -1))(chw)


def drawn(channels=4):
  draw = np.random.default_rng(0)
  vectors = {name: draw.uniform(0.5, 1.5, channels) for name in ("var", "scale")}
  vectors |= {name: draw.uniform(-0.5, 0.5, channels) for name in ("mean", "beta", "conv_bias")}
  kernels = {
    "kernel": draw.normal(0, 0.3, (3, 3, 3, channels)),
    "w": draw.normal(size=(channels, 5)),
  }
  return {name: jnp.asarray(value, jnp.float32) for name, value in (vectors | kernels).items()}


def goes_back(apply, variables, imported, most=1e-5):
  """Trained variables give the original the imported network's outputs."""
  trained = jax.tree.map(lambda x: x * 1.1 + 0.01, imported.variables)
  x = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
  found = apply(imported.restore(trained), x)
  wanted = imported.model.apply(trained, x, train=False).logits
  assert float(np.max(np.abs(found - wanted))) <= most * float(np.max(np.abs(wanted)))


@pytest.mark.parametrize("norm", [flax, haiku, equinox, keras, power, turned, one_by_one])
@pytest.mark.parametrize("biased", [False, True])
def test_a_batch_normalization_is_recovered(norm, biased):
  variables = drawn()

  def apply(v, x):
    y = conv(x, v["kernel"])
    y = y + v["conv_bias"] if biased else y
    return jax.nn.relu(norm(y, v)).mean((1, 2)) @ v["w"]

  imported = models.from_jax(apply, variables, IMAGES, momentum=0.7)
  layer = imported.model.layers[0]
  assert (layer.op, layer.fields["act"], layer.fields["use_bias"]) == ("ConvNorm", "relu", biased)
  assert layer.fields["norm"] == (1e-4, 0.7, False)
  own, stats = (imported.variables[part]["kernel"] for part in ("params", "batch_stats"))
  found = {"scale": own["scale"], "beta": own["bias"], **stats}
  found |= {"conv_bias": own["conv_bias"]} if biased else {}
  for name, array in found.items():
    np.testing.assert_array_equal(array, variables[name])
  goes_back(apply, variables, imported)


@pytest.mark.parametrize("lacking", [("scale",), ("beta",), ("scale", "beta")])
def test_a_scale_or_bias_that_is_missing_is_taken_up_by_the_statistics(lacking):
  variables = {name: value for name, value in drawn().items() if name not in lacking}

  def apply(v, x):
    y = (conv(x, v["kernel"]) - v["mean"]) * jax.lax.rsqrt(v["var"] + 1e-4)
    y = y * v["scale"] if "scale" in v else y
    y = y + v["beta"] if "beta" in v else y
    return jax.nn.relu(y).mean((1, 2)) @ v["w"]

  goes_back(apply, variables, models.from_jax(apply, variables, IMAGES))


def test_a_scale_below_zero_that_the_original_lacks_is_told():
  variables = drawn()

  def apply(v, x):
    y = (conv(x, v["kernel"]) - v["mean"]) * jax.lax.rsqrt(v["var"] + 1e-4)
    return (y + v["beta"]).mean((1, 2)) @ v["w"]

  imported = models.from_jax(apply, variables, IMAGES)
  trained = jax.tree.map(lambda x: -x, imported.variables["params"])
  with pytest.raises(ValueError, match="scale of 'kernel' has values of 0 or below"):
    imported.restore({**imported.variables, "params": trained})


FUNCTIONS = {
  "relu": [
    jax.nn.relu,
    lambda x: jnp.maximum(x, 0),
    lambda x: jnp.where(x > 0, x, 0),
    lambda x: x * (x > 0),
  ],
  "relu6": [jax.nn.relu6, lambda x: jnp.clip(x, 0, 6), lambda x: jnp.minimum(jax.nn.relu(x), 6)],
  "sigmoid": [
    jax.nn.sigmoid,
    lambda x: 1 / (1 + jnp.exp(-x)),
    lambda x: 0.5 * (jnp.tanh(x / 2) + 1),
  ],
  "hard_sigmoid": [jax.nn.hard_sigmoid, lambda x: jnp.clip(x / 6 + 0.5, 0, 1)],
  "hard_swish": [jax.nn.hard_swish, lambda x: x * jax.nn.relu6(x + 3) * (1 / 6)],
  "silu": [jax.nn.silu, lambda x: x / (1 + jnp.exp(-x))],
  "tanh": [jnp.tanh, lambda x: 2 * jax.nn.sigmoid(2 * x) - 1],
  "gelu": [lambda x: jax.nn.gelu(x, approximate=False), lambda x: x * jax.scipy.stats.norm.cdf(x)],
  "gelu_tanh": [jax.nn.gelu],
  "elu": [jax.nn.elu, lambda x: jnp.where(x > 0, x, jnp.exp(x) - 1)],
}


@pytest.mark.parametrize(
  "act, run", [(act, run) for act, spellings in FUNCTIONS.items() for run in spellings]
)
def test_an_activation_function_is_known_by_what_it_computes(act, run):
  variables = drawn()
  apply = lambda v, x: run(conv(x, v["kernel"]) + v["beta"]).mean((1, 2)) @ v["w"]  # noqa: E731
  imported = models.from_jax(apply, variables, IMAGES)
  acts = [layer.fields["act"] for layer in imported.model.layers if layer.fields.get("act")]
  assert acts == [act]


@pytest.mark.parametrize("run", [jax.nn.leaky_relu, lambda x: jnp.maximum(x, 0.01 * x)])
def test_a_slope_is_read_off(run):
  apply = lambda v, x: run(conv(x, v["kernel"])).mean((1, 2)) @ v["w"]  # noqa: E731
  imported = models.from_jax(apply, drawn(), IMAGES)
  assert imported.model.layers[1].fields == {"slope": 0.01}


def test_a_trained_slope_goes_back():
  def apply(v, x):
    y = conv(x, v["kernel"])
    return jnp.where(y > 0, y, v["scale"] * y).mean((1, 2)) @ v["w"]

  goes_back(apply, drawn(), models.from_jax(apply, drawn(), IMAGES))


@pytest.mark.parametrize(
  "scaled",
  [
    lambda x: x / 127.5 - 1,
    lambda x: (x - jnp.array([0.1, 0.2, 0.3])) / jnp.array([0.4, 0.5, 0.6]),
  ],
)
def test_scaling_of_images_is_right_at_padded_borders(scaled):
  apply = lambda v, x: conv(scaled(x), v["kernel"]).mean((1, 2)) @ v["w"]  # noqa: E731
  imported = models.from_jax(apply, drawn(), IMAGES)
  assert imported.model.layers[0].op == "Affine" and imported.difference < 1e-5


def test_a_loop_over_stacked_weights_goes_back_to_the_stack():
  variables = drawn() | {
    "stack": jnp.asarray(np.random.default_rng(2).normal(0, 0.3, (2, 3, 3, 4, 4)), jnp.float32)
  }

  def apply(v, x):
    step = lambda y, kernel: (jax.nn.relu(conv(y, kernel)), None)  # noqa: E731
    return jax.lax.scan(step, conv(x, v["kernel"]), v["stack"])[0].mean((1, 2)) @ v["w"]

  goes_back(apply, variables, models.from_jax(apply, variables, IMAGES))


def test_a_layer_called_twice_is_copied_with_a_warning_and_goes_back_if_both_agree():
  variables = drawn()
  variables["kernel"] = variables["kernel"][..., :3]
  variables["w"] = variables["w"][:3]

  def apply(v, x):
    return jax.nn.relu(conv(jax.nn.relu(conv(x, v["kernel"])), v["kernel"])).mean((1, 2)) @ v["w"]

  with pytest.warns(UserWarning, match="kernel for kernel/kernel and kernel_2/kernel"):
    imported = models.from_jax(apply, variables, IMAGES)
  np.testing.assert_array_equal(imported.restore(imported.variables)["kernel"], variables["kernel"])
  goes_back(apply, variables, imported)
  params = imported.variables["params"]
  apart = {**params, "kernel": {"kernel": params["kernel"]["kernel"] + 1}}
  with pytest.raises(ValueError, match=r"leaf 'kernel' stands for .* trained apart"):
    imported.restore({**imported.variables, "params": apart})


def test_a_normalization_of_means_is_one():
  v, x = drawn(), np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)

  def apply(v, x):
    dims = ("NHWC", "HWIO", "NHWC")
    maps = jax.lax.conv_general_dilated(x, v["kernel"], (1, 1), "SAME", dimension_numbers=dims)
    return equinox(jax.nn.relu(maps).mean((1, 2)), v) @ v["w"]

  imported = models.from_jax(apply, v, x)
  assert [layer.op for layer in imported.model.layers[-2:]] == ["BatchNorm", "Dense"]
