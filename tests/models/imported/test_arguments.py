"""Errors for wrong arguments name the argument, the rule and the way out."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcompress import models, prune, quantize

IMAGES = np.ones((2, 8, 8, 3), np.float32)


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Conv(4, (3, 3), use_bias=False, name="conv")(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
    return nn.Dense(3, name="head")(x.mean((1, 2)))


class OfNnx(nnx.Module):
  def __init__(self, rngs):
    self.head = nnx.Linear(3, 3, rngs=rngs)

  def __call__(self, x):
    return self.head(x.mean((1, 2)))


@functools.cache
def variables():
  return Net().init(jax.random.key(0), IMAGES)


@functools.cache
def imported():
  return models.from_linen(Net(), variables(), IMAGES)


MISTAKES = {
  "one image": (
    lambda: models.from_linen(Net(), variables(), IMAGES[0]),
    r"images: shape \(8, 8, 3\) must be \(batch, .*; of one image pass image\[None\]",
  ),
  "a shape": (
    lambda: models.from_linen(Net(), variables(), (1, 8, 8, 3)),
    r"images must be an array or a jax.ShapeDtypeStruct .*, got \(1, 8, 8, 3\)",
  ),
  "arguments in another order": (
    lambda: models.from_linen(Net(), IMAGES, variables()),
    "images must be an array or a jax.ShapeDtypeStruct .*, got a dict",
  ),
  "channels first": (
    lambda: models.from_linen(Net(), variables(), IMAGES.transpose(0, 3, 1, 2)),
    r"images: shape \(2, 3, 8, 8\) does not fit the variables; .*\"kernel\" in \"/conv\"",
  ),
  "an NNX module as linen": (
    lambda: models.from_linen(OfNnx(nnx.Rngs(0)), {}, IMAGES),
    r"model must be a linen module, got an NNX module, OfNnx; import it with models.from_nnx\(",
  ),
  "a class": (
    lambda: models.from_linen(Net, variables(), IMAGES),
    r"model must be a linen module, got the class Net \(not called\)\.",
  ),
  "a linen module as NNX": (
    lambda: models.from_nnx(Net(), IMAGES),
    r"module must be an NNX module, got a linen module, Net; import it with models.from_linen\(",
  ),
  "a linen module as a function": (
    lambda: models.from_jax(Net(), variables(), IMAGES),
    r"apply must be a function .*, got a linen module, Net; import it with models.from_linen\(",
  ),
  "without statistics": (
    lambda: models.from_linen(Net(), {"params": variables()["params"]}, IMAGES),
    'variables: they are not those of the network; .*collection "batch_stats"',
  ),
  "parameters alone": (
    lambda: models.from_jax(Net().apply, variables()["params"], IMAGES),
    'variables: they are not those of the network; .*collection "params"',
  ),
  "a state for its variables": (
    lambda: imported().restore([imported().variables]),
    "variables must be a mapping with 'params' and 'batch_stats', such as state.variables, got a list",
  ),
  "variables of the original": (
    lambda: quantize.post_training(imported().model, variables(), IMAGES),
    r"variables: they are of another .* \(of an imported model, imported.variables\) \(Could not find",
  ),
  "the import for its model": (
    lambda: quantize.post_training(imported(), imported().variables, IMAGES),
    "model must be .*, got an imported network, Imported; go on with its .model and .variables",
  ),
  "the import for its model, in pruning": (
    lambda: prune.channel_importance(imported(), imported().variables, IMAGES),
    "model must be .*, got an imported network, Imported; go on with its .model and .variables",
  ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_what_to_pass(name):
  make, expected = MISTAKES[name]
  with pytest.raises(ValueError, match=expected) as error:
    make()
  assert "\n" not in str(error.value)
  assert "https:" not in str(error.value)


def test_a_wrapped_function_is_one():
  for apply in (Net().apply, jax.jit(Net().apply), functools.partial(Net().apply, train=False)):
    assert models.from_jax(apply, variables(), IMAGES).difference < 1e-5


def test_what_is_printed_is_short():
  made = imported()
  assert repr(made.model) == "Replay(Net, 3 layers, 8x8x3)"
  assert repr(made).startswith("Imported(Replay(Net, 3 layers, 8x8x3), 139 numbers, difference=")
  assert repr(made.restore) == "restore(variables) of 7 leaves"
  assert len(repr(models.from_nnx(OfNnx(nnx.Rngs(0)), jnp.asarray(IMAGES)))) < 120


REFUSALS = {
  "GroupNorm": (
    lambda x: nn.GroupNorm(2)(x),
    "'Refused/GroupNorm_0': a reshape .* use BatchNorm or LayerNorm in place of GroupNorm",
  ),
  "InstanceNorm": (
    lambda x: nn.InstanceNorm()(x),
    "'Refused/InstanceNorm_0': a root of activations, .* Use BatchNorm, LayerNorm",
  ),
  "anchors": (
    lambda x: {"boxes": x.reshape(len(x), -1, 2), "scores": x.mean((1, 2))},
    "a reshape that no leaf op has.* reshape and join the maps of a head behind the network",
  ),
}


class Refused(nn.Module):
  kind: str

  @nn.compact
  def __call__(self, x):
    x = REFUSALS[self.kind][0](nn.Conv(4, (3, 3))(x))
    return x if isinstance(x, dict) else x.mean((1, 2))


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_is_refused_has_a_way_out(kind):
  model = Refused(kind)
  with pytest.raises(ValueError, match=REFUSALS[kind][1]):
    models.from_linen(model, model.init(jax.random.key(0), IMAGES), IMAGES)
