"""The test networks: how each is called by its own library, and how it is brought here."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcompress import models
from tests.models.imported import jax_networks, linen_networks, nnx_networks

SHAPE = (32, 32, 3)
BLANK = np.zeros((2, *SHAPE), np.float32)


@dataclasses.dataclass(frozen=True)
class Original:
  """A network in its own library; functions of its variables, a pytree of the library's own.

  Attributes:
    variables: with statistics, scales and biases away from 0 and 1.
    infer: (variables, images) -> outputs.
    train: (variables, images) -> outputs and new variables, with statistics of the batch.
    bring: () -> what the library makes of it.
    renew: what ``Imported.restore`` returns -> variables.
    pixels: whether it reads values of 0 to 255.
  """

  variables: Any
  infer: Callable
  train: Callable
  bring: Callable
  renew: Callable = lambda restored: restored
  pixels: bool = False

  def images(self, count, seed=1):
    """(count, 32, 32, 3), float32."""
    images = np.random.default_rng(seed).normal(size=(count, *SHAPE))
    return (np.clip(127 + 60 * images, 0, 255) if self.pixels else images).astype(np.float32)


def randomised(tree, seed=0):
  """Statistics, scales and biases away from 0 and 1, so that an error in folding shows."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = jax.tree_util.keystr(path).lower()
    kinds = {
      "var": lambda: rng.uniform(0.5, 1.5, leaf.shape),
      "mean": lambda: rng.normal(0, 0.1, leaf.shape),
      "scale": lambda: rng.uniform(0.5, 1.2, leaf.shape),
      "gamma": lambda: rng.uniform(0.5, 1.2, leaf.shape),
      "bias": lambda: rng.normal(0, 0.1, leaf.shape),
      "cls": lambda: rng.normal(0, 0.5, leaf.shape),
    }
    made = next((make() for kind, make in kinds.items() if kind in name), leaf)
    return leaf if made is leaf else jnp.asarray(made, leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, tree)


def linen(model, pixels=False, **options):
  """``options`` are those of training."""
  init = {"train": False} if options else {}
  variables = randomised(jax.jit(lambda k: model.init(k, BLANK, **init))(jax.random.key(0)))

  def train(variables, images):
    outputs, new = model.apply(variables, images, **options, mutable=["batch_stats"])
    return outputs, {**variables, **new}

  return Original(
    variables,
    lambda variables, images: model.apply(variables, images, **init),
    train,
    lambda: models.from_linen(model, variables, BLANK),
    pixels=pixels,
  )


def of_nnx(build):
  module = build(rngs=nnx.Rngs(0))
  nnx.update(module, randomised(nnx.state(module)))
  module.train()
  module.set_attributes(deterministic=True, raise_if_not_found=False)  # both are to be compared
  training = nnx.graphdef(module)
  module.eval()
  evaluating, variables = nnx.split(module)

  def train(variables, images):
    model = nnx.merge(training, variables)
    outputs = model(images)
    return outputs, nnx.state(model)

  def renew(restored):
    model = nnx.clone(nnx.merge(evaluating, variables))
    nnx.update(model, restored)
    return nnx.state(model)

  return Original(
    variables,
    lambda variables, images: nnx.merge(evaluating, variables)(images),
    train,
    lambda: models.from_nnx(module, BLANK),
    renew,
  )


def plain():
  variables = jax_networks.init()
  infer = lambda variables, images: jax_networks.forward(*variables, images)[0]  # noqa: E731

  def train(variables, images):
    outputs, stats = jax_networks.forward(*variables, images, train=True)
    return outputs, (variables[0], stats)

  return Original(
    variables,
    infer,
    train,
    lambda: models.from_jax(infer, variables, BLANK, momentum=jax_networks.MOMENTUM),
  )


ZOO = {  # name -> () -> Original
  "linen ResNet": lambda: linen(linen_networks.ResNet(), train=True),
  "linen MobileNetV3": lambda: linen(linen_networks.MobileNetV3(), train=True),
  "nnx MobileNetV2": lambda: of_nnx(nnx_networks.MobileNetV2),
  "nnx EfficientNet": lambda: of_nnx(nnx_networks.EfficientNet),
  "nnx ConvNeXt": lambda: of_nnx(nnx_networks.ConvNeXt),
  "linen DenseNet": lambda: linen(linen_networks.DenseNet(), train=True),
  "linen Inception": lambda: linen(linen_networks.Inception(), pixels=True, train=True),
  "linen UNet": lambda: linen(linen_networks.UNet(), train=True),
  "linen Detector": lambda: linen(linen_networks.Detector(), train=True),
  "lax, channels first": plain,
  "nnx ShuffleNet": lambda: of_nnx(nnx_networks.ShuffleNet),
  "linen WideResNet": lambda: linen(linen_networks.WideResNet(), train=True),
  "linen DeepLab": lambda: linen(linen_networks.DeepLab(), train=True),
  "linen ViT": lambda: linen(linen_networks.ViT()),
}
