"""All models by name, and their sizes."""

import difflib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress.models import resnet_cifar
from jaxcompress.models.mobilenet_v1 import mobilenet_v1
from jaxcompress.models.mobilenet_v2 import mobilenet_v2
from jaxcompress.nn import Graph, count_macs, count_parameters, trace

MODELS: dict[str, Callable[..., nn.Module]] = {
  "mobilenet_v1": mobilenet_v1,
  "mobilenet_v2": mobilenet_v2,
  "resnet8": resnet_cifar.resnet8,
  "resnet14": resnet_cifar.resnet14,
  "resnet20": resnet_cifar.resnet20,
  "resnet32": resnet_cifar.resnet32,
  "resnet44": resnet_cifar.resnet44,
  "resnet56": resnet_cifar.resnet56,
  "resnet110": resnet_cifar.resnet110,
  "resnet8x4": resnet_cifar.resnet8x4,
  "resnet32x4": resnet_cifar.resnet32x4,
}


class Summary(NamedTuple):
  """A model's graph and what it costs.

  Attributes:
    graph: the leaf ops for one image.
    parameters: trainable numbers; running statistics do not count.
    macs: multiply-adds of convolutions and linear layers for one image.
    variables: shapes and dtypes of the variables.
  """

  graph: Graph
  parameters: int
  macs: int
  variables: Any


def create(name: str, num_classes: int, **options: Any) -> nn.Module:
  """Builds a model by name, with the options that its function takes.

  Args:
    name: a key of :data:`MODELS`.
    num_classes: size of the logits.
    **options: such as ``width``; an option that the model has not is an error.

  Raises:
    ValueError: if the name or an option is unknown.

  Examples:
    >>> create("mobilenet_v2", 10, width=0.5).width
    0.5
  """
  if name not in MODELS:
    close = difflib.get_close_matches(name, MODELS, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ValueError(f"model: {name!r} is unknown; it must be one of {', '.join(MODELS)}.{hint}")
  known = options_of(name)
  for option in options:
    if option not in known:
      raise ValueError(f"{option}: {name} has no such option; it has {', '.join(known)}.")
  return MODELS[name](num_classes, **options)


def options_of(name: str) -> tuple[str, ...]:
  """Options of a model beside ``num_classes``.

  Examples:
    >>> options_of("resnet20")
    ('norm',)
  """
  return tuple(p for p in inspect.signature(MODELS[name]).parameters if p != "num_classes")


def summarize(model: nn.Module, image_size: int | None = None, channels: int = 3) -> Summary:
  """Traces a model and counts its parameters and multiply-adds, without computing anything.

  Args:
    model: a linen module made of leaf ops.
    image_size: side of the images in pixels; by default the model's own ``image_size``.
    channels: channels of the images.

  Examples:
    >>> summary = summarize(resnet_cifar.resnet56())
    >>> summary.parameters, round(summary.macs / 1e6, 1)
    (861620, 125.8)
  """
  size = image_size or getattr(model, "image_size", 224)
  x = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
  init = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), x)
  graph = trace(model, init, x)
  return Summary(graph, count_parameters(init["params"]), count_macs(graph), init)
