"""New last layers: all else stays bit for bit, and what has no such layer is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import models
from jaxcompress.models.heads import find_heads, permute_classes
from jaxcompress.nn import ConvNorm, Dense, Endpoints, GlobalAvgPool, init_variables

IMAGES = jax.random.normal(jax.random.key(5), (2, 32, 32, 3))


def listed(*layers, ends, side=8):
  return models.replayed(layers=layers, ends=ends, image_size=side)


POOLED = ("pool", "GlobalAvgPool", {"keepdims": False}, ["input"])
SQUEEZED = (
  ("stem", "ConvNorm", {"features": 6, "kernel": 3, "act": "relu"}, ["input"]),
  ("last", "ConvNorm", {"features": 4, "norm": None}, ["stem"]),
  ("relu", "Activation", {"act": "relu"}, ["last"]),
  ("pool", "GlobalAvgPool", {"keepdims": True}, ["relu"]),
  ("flat", "Reshape", {"shape": (4,)}, ["pool"]),
)


class Own(nn.Module):
  """A network whose code says its classes itself."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(5, kernel=3, name="stem")(x, train=train)
    return Endpoints(Dense(4, name="scores")(GlobalAvgPool(keepdims=False, name="pool")(x)))


DENSE = ("scores", "Dense", {"features": 4}, ["pool"])
AVERAGED = (
  *(POOLED, DENSE, ("other", "Dense", {"features": 4}, ["pool"])),
  ("sum", "Add", {}, ["scores", "other"]),
  ("mean", "Affine", {"scale": 0.5}, ["sum"]),
)
NETWORKS = {
  "of the registry": models.resnet8(10),
  "a list of layers": listed(POOLED, ("a/b", "Dense", {"features": 4}, ["pool"]), ends=["a/b"]),
  "as SqueezeNet ends": listed(*SQUEEZED, ends=["flat"]),
  "of someone's code": Own(),
  "the mean of two": listed(*AVERAGED, ends=["mean"]),
}


def apply(module, variables, images=IMAGES):
  return module.apply(variables, images, train=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_last_layer_is_new(name):
  old = NETWORKS[name]
  variables = init_variables(old, jax.random.key(1), (32, 32, 3))
  for classes in (3, models.summarize(old).graph.shape(models.summarize(old).graph.output)[-1]):
    new, renewed = models.with_classes(old, variables, classes, jax.random.key(2))
    heads = [head.name for head in find_heads(models.summarize(old).graph)]
    before, after = (flatten_dict(v, sep="/") for v in (variables, renewed))
    assert set(before) == set(after)
    for path, array in before.items():
      same = array.shape == after[path].shape and np.array_equal(array, after[path])
      _, *place, leaf = path.split("/")
      of_head = "/".join(place) in heads
      assert same != (of_head and leaf == "kernel") or (of_head and leaf == "bias"), path
    ends = apply(new, renewed)
    assert ends.logits.shape == (2, classes)
    expected = models.summarize(new).variables  # they are those of the new network
    jax.tree.map(
      lambda want, have: np.testing.assert_equal(have.shape, want.shape), expected, renewed
    )


def test_new_logits_are_the_new_layer_on_the_old_features():
  old = NETWORKS["of the registry"]
  variables = init_variables(old, jax.random.key(1), (32, 32, 3))
  new, renewed = models.with_classes(old, variables, 3)
  kernel, bias = map(np.asarray, (renewed["params"]["classifier"][n] for n in ("kernel", "bias")))
  expected = np.asarray(apply(old, variables).pooled) @ kernel + bias
  np.testing.assert_allclose(apply(new, renewed).logits, expected, atol=1e-5)


def test_a_key_decides_the_new_layer():
  old = models.resnet8(4)
  variables = init_variables(old, jax.random.key(1), (32, 32, 3))
  kernels = [
    models.with_classes(old, variables, 4, jax.random.key(seed))[1]["params"]["classifier"][
      "kernel"
    ]
    for seed in (0, 0, 1)
  ]
  assert np.array_equal(kernels[0], kernels[1]) and not np.array_equal(kernels[0], kernels[2])


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
  name=st.sampled_from(["as SqueezeNet ends", "the mean of two"]), order=st.permutations(range(4))
)
def test_classes_in_another_order_have_their_scores_in_that_order(name, order):
  module = NETWORKS[name]
  variables = init_variables(module, jax.random.key(1), (8, 8, 3))
  turned = permute_classes(module, variables, order)
  images = IMAGES[:, :8, :8]
  old, new = (apply(module, v, images).logits for v in (variables, turned))
  np.testing.assert_allclose(new, old[:, jnp.array(order)], atol=1e-6)


REFUSED = {
  "'softmax', a Softmax": listed(
    POOLED, DENSE, ("softmax", "Softmax", {}, ["scores"]), ends=["softmax"]
  ),
  "'gate', a Activation": listed(
    POOLED, DENSE, ("gate", "Activation", {"act": "sigmoid"}, ["scores"]), ends=["gate"]
  ),
  "'product', a Multiply": listed(
    *AVERAGED[:3], ("product", "Multiply", {}, ["scores", "other"]), ends=["product"]
  ),
  "the image itself": listed(
    *(POOLED, ("image", "GlobalAvgPool", {"keepdims": False}, ["input"])),
    *(("last", "Dense", {"features": 3}, ["pool"]), ("sum", "Add", {}, ["last", "image"])),
    ends=["sum"],
  ),
  "'scaled', a Affine": listed(
    *(POOLED, DENSE, ("scaled", "Affine", {"scale": "trained"}, ["scores"])), ends=["scaled"]
  ),
  "it gives (4,), (4,) for an image": listed(
    *(POOLED, DENSE, ("other", "Dense", {"features": 4}, ["pool"])),
    ends=["scores", None, [], [], {"scores": "scores", "other": "other"}],
  ),
  "convolves in groups": listed(
    ("stem", "ConvNorm", {"features": 4}, ["input"]),
    ("grouped", "ConvNorm", {"features": 4, "groups": 2}, ["stem"]),
    ("pool", "GlobalAvgPool", {"keepdims": False}, ["grouped"]),
    ends=["pool"],
  ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_network_without_such_a_layer_is_refused(reason):
  module = REFUSED[reason]
  variables = init_variables(module, jax.random.key(0), (8, 8, 3))
  with pytest.raises(ValueError) as error:
    models.with_classes(module, variables, 3)
  assert str(error.value).startswith("module: ") and reason in str(error.value)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 1, 2, 2), (1, 2, 3, 4)])
def test_an_order_has_every_class_once(order):
  model = models.resnet8(4)
  variables = init_variables(model, jax.random.key(0), (8, 8, 3))
  with pytest.raises(ValueError, match="order: "):
    permute_classes(model, variables, order)
