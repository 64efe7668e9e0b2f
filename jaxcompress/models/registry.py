"""All models by name, and their sizes."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress.arguments import unknown
from jaxcompress.models.edgenext import (
  edgenext,
  edgenext_small,
  edgenext_x_small,
  edgenext_xx_small,
)
from jaxcompress.models.efficientnet import (
  efficientnet_b0,
  efficientnet_lite,
  efficientnet_lite0,
  efficientnet_lite1,
  efficientnet_lite2,
  efficientnet_lite3,
  efficientnet_lite4,
)
from jaxcompress.models.fasternet import (
  fasternet,
  fasternet_s,
  fasternet_t0,
  fasternet_t1,
  fasternet_t2,
)
from jaxcompress.models.ghostnet import ghostnet, ghostnet_v2
from jaxcompress.models.mcunet import (
  mcunet,
  mcunet_in0,
  mcunet_in1,
  mcunet_in2,
  mcunet_in3,
  mcunet_in4,
)
from jaxcompress.models.mlperf_tiny import mlperf_mobilenet_v1, mlperf_resnet8
from jaxcompress.models.mnasnet import mnasnet
from jaxcompress.models.mobilenet_v1 import mobilenet_v1
from jaxcompress.models.mobilenet_v2 import mobilenet_v2, mobilenet_v2_crd
from jaxcompress.models.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from jaxcompress.models.mobilenet_v4 import (
  mobilenet_v4_conv_large,
  mobilenet_v4_conv_medium,
  mobilenet_v4_conv_small,
)
from jaxcompress.models.mobilenet_v4_hybrid import (
  mobilenet_v4_hybrid_large,
  mobilenet_v4_hybrid_medium,
)
from jaxcompress.models.mobileone import (
  mobileone,
  mobileone_s0,
  mobileone_s1,
  mobileone_s2,
  mobileone_s3,
  mobileone_s4,
)
from jaxcompress.models.mobilevit import mobilevit, mobilevit_s, mobilevit_xs, mobilevit_xxs
from jaxcompress.models.replayed import replayed
from jaxcompress.models.repvgg import repvgg, repvgg_a0, repvgg_a1, repvgg_a2, repvgg_b0
from jaxcompress.models.repvit import (
  repvit,
  repvit_m0_9,
  repvit_m1,
  repvit_m1_0,
  repvit_m1_1,
  repvit_m1_5,
  repvit_m2,
  repvit_m2_3,
  repvit_m3,
)
from jaxcompress.models.resnet import (
  resnet,
  resnet8,
  resnet8x4,
  resnet14,
  resnet18,
  resnet20,
  resnet32,
  resnet32x4,
  resnet34,
  resnet44,
  resnet50,
  resnet50_crd,
  resnet56,
  resnet110,
  resnet_cifar,
  wide_resnet,
  wrn_16_1,
  wrn_16_2,
  wrn_40_1,
  wrn_40_2,
)
from jaxcompress.models.shufflenet_v1 import shufflenet_v1, shufflenet_v1_crd
from jaxcompress.models.shufflenet_v2 import shufflenet_v2, shufflenet_v2_crd
from jaxcompress.models.squeezenet import squeezenet, squeezenet1_0, squeezenet1_1
from jaxcompress.models.starnet import (
  starnet,
  starnet_s050,
  starnet_s1,
  starnet_s2,
  starnet_s3,
  starnet_s4,
  starnet_s100,
  starnet_s150,
)
from jaxcompress.models.vgg import vgg, vgg8, vgg11, vgg13, vgg16, vgg19
from jaxcompress.nn import Graph, count_macs, count_parameters
from jaxcompress.nn.checks import is_whole
from jaxcompress.nn.foreign import LINEN, check_model
from jaxcompress.nn.tracing import trace_init

_GROUPS: tuple[tuple[Callable[..., nn.Module], ...], ...] = (
  (mobilenet_v1, mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small),
  (mobilenet_v4_conv_small, mobilenet_v4_conv_medium, mobilenet_v4_conv_large),
  (mobilenet_v4_hybrid_medium, mobilenet_v4_hybrid_large),
  (edgenext_xx_small, edgenext_x_small, edgenext_small),
  (shufflenet_v1, shufflenet_v2, ghostnet, resnet18, resnet34, resnet50),
  (efficientnet_lite0, efficientnet_lite1, efficientnet_lite2, efficientnet_lite3),
  (efficientnet_lite4, efficientnet_b0),
  (mnasnet, squeezenet1_0, squeezenet1_1, ghostnet_v2),
  (starnet_s050, starnet_s100, starnet_s150, starnet_s1, starnet_s2, starnet_s3, starnet_s4),
  (fasternet_t0, fasternet_t1, fasternet_t2, fasternet_s),
  (mcunet_in0, mcunet_in1, mcunet_in2, mcunet_in3, mcunet_in4),
  (repvgg_a0, repvgg_a1, repvgg_a2, repvgg_b0),
  (repvit_m0_9, repvit_m1_0, repvit_m1_1, repvit_m1_5, repvit_m2_3),
  (repvit_m1, repvit_m2, repvit_m3),
  (mobilevit_xxs, mobilevit_xs, mobilevit_s),
  (mobileone_s0, mobileone_s1, mobileone_s2, mobileone_s3, mobileone_s4),
  (resnet8, resnet14, resnet20, resnet32, resnet44, resnet56, resnet110, resnet8x4, resnet32x4),
  (wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2, vgg8, vgg11, vgg13, vgg16, vgg19),
  (mobilenet_v2_crd, shufflenet_v1_crd, shufflenet_v2_crd, resnet50_crd),
  (mlperf_resnet8, mlperf_mobilenet_v1),
)
MODELS = {make.__name__: make for group in _GROUPS for make in group}
"""Functions that make a network, by name."""
_ANY: tuple[Callable[..., nn.Module], ...] = (
  *(resnet_cifar, resnet, vgg, wide_resnet, efficientnet_lite, repvgg, mobileone, squeezenet),
  *(starnet, fasternet, mcunet, repvit, mobilevit, edgenext, replayed),
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {make.__name__: make for make in _ANY}
"""Functions that make a network of any depth or size, or of all of its layers, by name."""
LISTED = "jaxcompress info"  # the command that lists all models


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

  def __repr__(self) -> str:
    shape = "x".join(map(str, self.graph.input_shape[1:]))
    layers = f"{len(self.graph.nodes)} layers"
    return f"Summary({layers}, {self.parameters:,} parameters, {self.macs:,} macs, {shape})"


def create(name: str, num_classes: int | None = None, **options: Any) -> nn.Module:
  """Builds a model by name, with the options that its function takes.

  Args:
    name: a key of :data:`MODELS`, or of :data:`FAMILIES`, which need a ``depth``, a ``size``, a ``version`` or ``layers``.
    num_classes: size of the logits; None: the model's default, 1000 for networks made for ImageNet
      and 100 for those made for 32 px; MLPerf Tiny's have 10 and 2.
    **options: such as ``width``; an option that the model has not is an error.

  Raises:
    ValueError: if the name or an option is unknown, or an option is missing.

  Examples:
    >>> create("mobilenet_v2", 10, width=0.5).width
    0.5
  """
  makers = MODELS | FAMILIES
  if name not in makers:
    raise unknown("model", name, MODELS, LISTED)
  known = options_of(name)
  for option in options:
    if option not in known:
      raise ValueError(f"{option}: {name} has no such option; it has {', '.join(known)}.")
  for option, parameter in inspect.signature(makers[name]).parameters.items():
    if parameter.default is parameter.empty and option not in options:
      raise ValueError(f"{option}: {name} needs one.")
  classes = {} if num_classes is None else {"num_classes": num_classes}
  return makers[name](**classes, **options)


class Description(NamedTuple):
  """The name and options by which :func:`create` builds a model.

  Attributes:
    name: of the model or family.
    num_classes: size of the logits.
    options: those that the model was built with.
  """

  name: str
  num_classes: int
  options: dict[str, Any]


def describe(model: nn.Module) -> Description:
  """Tells how to build a model of this package.

  Args:
    model: a linen module that a function of this package returned.

  Raises:
    ValueError: if it is no model of this package.

  Examples:
    >>> describe(mobilenet_v2(10, width=0.5)).options["width"]
    0.5
    >>> describe(wide_resnet(28, 10)).name
    'wide_resnet'
  """
  for name in MODELS | FAMILIES:
    options = {o: getattr(model, o) for o in options_of(name) if hasattr(model, o)}
    if hasattr(model, "num_classes") and len(options) == len(options_of(name)):
      try:
        candidate = create(name, model.num_classes, **options)
      except (TypeError, ValueError):
        continue
      if candidate == model:
        return Description(name, model.num_classes, options)
  raise ValueError(
    f"model: {type(model).__name__} is not a model of jaxcompress.models; only those can be built again from"
    f" their name and options; {LINEN.way}."
  )


def options_of(name: str) -> tuple[str, ...]:
  """Options of a model beside ``num_classes``.

  Examples:
    >>> options_of("resnet20")
    ('norm',)
  """
  makers = MODELS | FAMILIES
  return tuple(p for p in inspect.signature(makers[name]).parameters if p != "num_classes")


def summarize(model: nn.Module, image_size: int | None = None, channels: int = 3) -> Summary:
  """Traces a model and counts its parameters and multiply-adds, without computing anything.

  Args:
    model: a linen module made of leaf ops.
    image_size: side of the images in pixels; by default the model's own ``image_size``, which may be a
      shape.
    channels: channels of the images.

  Raises:
    ValueError: if a size is no whole number of 1 or more, the images are too small for the network,
      or it is not made of leaf ops, which names the layer and the importer that takes it (see
      :func:`~jaxcompress.nn.trace`).

  Examples:
    >>> summary = summarize(resnet56())
    >>> summary.parameters, round(summary.macs / 1e6, 1)
    (861620, 125.8)
  """
  check_model("model", model)
  size = getattr(model, "image_size", 224) if image_size is None else image_size
  shape = size if isinstance(size, tuple) and image_size is None else (size, size, channels)
  for name, value in zip(("image_size", "image_size", "channels"), shape, strict=True):
    if not is_whole(value, 1):
      raise ValueError(f"{name}: {value!r} must be a whole number of 1 or more.")
  x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  graph, variables = trace_init(model, x)
  return Summary(graph, count_parameters(variables.get("params", {})), count_macs(graph), variables)
