"""The PyTorch models that can be read: which network each is, its layers' names, its images."""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import flax.linen as nn

from jaxcompress.models.checkpoints import names
from jaxcompress.models.ghostnet import ghostnet
from jaxcompress.models.mobilenet_v1 import mobilenet_v1
from jaxcompress.models.mobilenet_v2 import mobilenet_v2, mobilenet_v2_crd
from jaxcompress.models.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from jaxcompress.models.mobilenet_v4 import (
  mobilenet_v4_conv_large,
  mobilenet_v4_conv_medium,
  mobilenet_v4_conv_small,
)
from jaxcompress.models.resnet import (
  CIFAR_WIDTHS_X4,
  resnet,
  resnet50_crd,
  resnet_cifar,
  wide_resnet,
)
from jaxcompress.models.shufflenet_v1 import shufflenet_v1, shufflenet_v1_crd
from jaxcompress.models.shufflenet_v2 import shufflenet_v2, shufflenet_v2_crd
from jaxcompress.models.vgg import vgg
from jaxcompress.nn import Norm

TORCH_NORM = Norm(epsilon=1e-5, momentum=0.9)
TENSORFLOW_NORM = Norm(epsilon=1e-3, momentum=0.9)  # in timm's models with TensorFlow's weights
TORCHVISION_V3_NORM = Norm(epsilon=1e-3, momentum=0.99)


class Source(NamedTuple):
  """One model of a PyTorch library or repository.

  Attributes:
    make: builds the same network; takes the number of classes.
    names: of its layers.
    num_classes: of the original.
  """

  make: Callable[..., nn.Module]
  names: names.Names
  num_classes: int = 1000


class Normalization(NamedTuple):
  """``(x / 255 - mean) / std`` of RGB pixels, and the size of the images.

  Attributes:
    mean: of each channel.
    std: of each channel.
    size: side in pixels.
    crop: share of the shorter side that the square in the middle takes.
  """

  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  size: int
  crop: float


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224, 0.875)
HALVES = IMAGENET._replace(mean=(0.5,) * 3, std=(0.5,) * 3)  # TensorFlow's -1 to 1
CIFAR100 = Normalization((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 32, 1.0)
TIMM = {  # what begins a name, the first that fits; of the weights that timm loads by default
  "tf_": HALVES,
  "mobilenetv1_100": HALVES,
  "mobilenetv1_125": HALVES._replace(crop=0.9),
  "mobilenetv4_conv_small_": HALVES,
  "mobilenetv4_conv_medium": IMAGENET._replace(size=256, crop=0.95),
  "mobilenetv4_conv_large": IMAGENET._replace(size=384, crop=0.95),
  "resnet": IMAGENET._replace(crop=0.95),
  "": IMAGENET,
}


def _torchvision() -> dict[str, Source]:
  found = {
    "mobilenet_v2": Source(mobilenet_v2, names.TORCHVISION_MOBILENET_V2),
    "mobilenet_v3_large": Source(
      partial(mobilenet_v3_large, norm=TORCHVISION_V3_NORM),
      names.torchvision_mobilenet_v3(blocks=15),
    ),
    "mobilenet_v3_small": Source(
      partial(mobilenet_v3_small, norm=TORCHVISION_V3_NORM),
      names.torchvision_mobilenet_v3(blocks=11),
    ),
  }
  for width in (0.5, 1.0, 1.5, 2.0):
    make = partial(shufflenet_v2, width=width)
    name = f"shufflenet_v2_x{width}".replace(".", "_")
    found[name] = Source(make, names.TORCHVISION_SHUFFLENET_V2)
  return found | _resnets()


def _resnets() -> dict[str, Source]:
  return {f"resnet{d}": Source(partial(resnet, d), names.RESNET) for d in (18, 34, 50)}


def _timm() -> dict[str, Source]:
  found: dict[str, Source] = {}
  make: Callable[..., nn.Module]
  for percent in (100, 125):
    found[f"mobilenetv1_{percent}"] = Source(
      partial(mobilenet_v1, width=percent / 100, padding="SYMMETRIC", norm=TORCH_NORM),
      names.TIMM_MOBILENET_V1,
    )
  for percent in (35, 50, 75, 100, 140):
    make = partial(mobilenet_v2, width=percent / 100)
    found[f"mobilenetv2_{percent:03}"] = Source(make, names.TIMM_MOBILENET_V2)
  for size, make, stages, percents in (
    ("large", mobilenet_v3_large, 6, (75, 100)),
    ("small", mobilenet_v3_small, 5, (50, 75, 100)),
  ):
    keys = names.timm_mobilenet_v3(stages)
    for percent in percents:
      scaled = partial(make, width=percent / 100)
      found[f"mobilenetv3_{size}_{percent:03}"] = Source(partial(scaled, norm=TORCH_NORM), keys)
      if percent > 50:
        tensorflow = partial(scaled, padding="SAME", norm=TENSORFLOW_NORM)
        found[f"tf_mobilenetv3_{size}_{percent:03}"] = Source(tensorflow, keys)
    minimal = partial(make, minimal=True, padding="SAME", norm=TENSORFLOW_NORM)
    found[f"tf_mobilenetv3_{size}_minimal_100"] = Source(minimal, keys)
  for size, make in (
    ("small", mobilenet_v4_conv_small),
    ("medium", mobilenet_v4_conv_medium),
    ("large", mobilenet_v4_conv_large),
  ):
    found[f"mobilenetv4_conv_{size}"] = Source(make, names.TIMM_MOBILENET_V4)
  for percent in (35, 50):
    make = partial(mobilenet_v4_conv_small, width=percent / 100)
    found[f"mobilenetv4_conv_small_{percent:03}"] = Source(make, names.TIMM_MOBILENET_V4)
  for percent in (50, 100, 130):
    make = partial(ghostnet, width=percent / 100)
    found[f"ghostnet_{percent:03}"] = Source(make, names.TIMM_GHOSTNET)
  return found | _resnets()


def _megvii() -> dict[str, Source]:
  return {
    f"shufflenet_v1_{width}x_g{groups}": Source(
      partial(shufflenet_v1, width=width, groups=groups), names.MEGVII_SHUFFLENET_V1
    )
    for width in (0.5, 1.0, 1.5, 2.0)
    for groups in (3, 8)
  }


def _crd() -> dict[str, Source]:
  found: dict[str, tuple[Callable[..., nn.Module], names.Names]] = {}
  make: Callable[..., nn.Module]
  for depth in (8, 14, 20, 32, 44, 56, 110):
    found[f"resnet{depth}"] = (partial(resnet_cifar, depth), names.RESNET)
  for depth in (8, 32):
    make = partial(resnet_cifar, depth, widths=CIFAR_WIDTHS_X4)
    found[f"resnet{depth}x4"] = (make, names.RESNET)
  for depth, widen in ((16, 1), (16, 2), (40, 1), (40, 2)):
    make = partial(wide_resnet, depth, widen)
    found[f"wrn_{depth}_{widen}"] = (make, names.CRD_WIDE_RESNET)
  for depth in (8, 11, 13, 16, 19):
    found[f"vgg{depth}"] = (partial(vgg, depth), names.CRD_VGG)
  found |= {
    "ResNet50": (resnet50_crd, names.CRD_RESNET50),
    "MobileNetV2": (mobilenet_v2_crd, names.CRD_MOBILENET_V2),
    "ShuffleV1": (shufflenet_v1_crd, names.CRD_SHUFFLENET_V1),
    "ShuffleV2": (shufflenet_v2_crd, names.CRD_SHUFFLENET_V2),
  }
  return {name: Source(*pair, num_classes=100) for name, pair in found.items()}


def _for_imagenet(models: dict[str, Source]) -> dict[str, Source]:
  """With the originals' strides for images of every size."""
  return {
    name: source._replace(make=partial(source.make, layout="imagenet"))
    for name, source in models.items()
  }


LIBRARIES = {
  "torchvision": _for_imagenet(_torchvision()),
  "timm": _for_imagenet(_timm()),
  "megvii": _for_imagenet(_megvii()),
  "crd": _crd(),
}
SOURCES: Mapping[str, Source] = {
  f"{library}/{name}": source
  for library, models in LIBRARIES.items()
  for name, source in models.items()
}
"""Every network whose checkpoints load, by library and name."""


def find_source(source: str) -> Source:
  """The source of that name.

  Raises:
    ValueError: if there is none; it suggests the closest.

  Examples:
    >>> find_source("crd/vgg8").num_classes
    100
  """
  if source in SOURCES:
    return SOURCES[source]
  library = str(source).split("/")[0]
  close = difflib.get_close_matches(str(source), SOURCES, n=1)
  hint = f" Did you mean {close[0]}?" if close else ""
  known = [name for name in SOURCES if name.startswith(f"{library}/")]
  choices = ", ".join(known) if known else f"LIBRARY/NAME, with {', '.join(LIBRARIES)}"
  raise ValueError(f"source: {source!r} is unknown; it must be one of {choices}.{hint}")


def normalization_of(source: str) -> Normalization:
  """Tells how a source's original prepares its images, before the network reads them.

  Args:
    source: as in :func:`~jaxcompress.models.from_torch`.

  Raises:
    ValueError: if the source is unknown, or what it does is.

  Examples:
    >>> normalization_of("timm/mobilenetv4_conv_medium").size, normalization_of("crd/vgg8").size
    (256, 32)
  """
  find_source(source)
  library, name = source.split("/")
  if library == "timm":
    return next(found for start, found in TIMM.items() if name.startswith(start))
  if library not in ("torchvision", "crd"):
    raise ValueError(
      f"source: how {source} prepares its images is not known here; use models.from_torch and"
      " quantize.post_training with a preprocess of your own."
    )
  return CIFAR100 if library == "crd" else IMAGENET
