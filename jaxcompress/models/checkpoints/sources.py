"""The PyTorch models that can be read: which network each is, its layers' names, its images."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn

from jaxcompress.models.checkpoints import names
from jaxcompress.models.edgenext import SIZES as EDGENEXTS
from jaxcompress.models.edgenext import edgenext
from jaxcompress.models.efficientnet import efficientnet_b0, efficientnet_lite
from jaxcompress.models.fasternet import SIZES as FASTERNETS
from jaxcompress.models.fasternet import fasternet
from jaxcompress.models.ghostnet import ghostnet, ghostnet_v2
from jaxcompress.models.mcunet import NETWORKS as MCUNETS
from jaxcompress.models.mcunet import mcunet
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
from jaxcompress.models.mobileone import SIZES as MOBILEONES
from jaxcompress.models.mobileone import mobileone
from jaxcompress.models.mobilevit import SIZES as MOBILEVITS
from jaxcompress.models.mobilevit import mobilevit
from jaxcompress.models.repvgg import SIZES as REPVGGS
from jaxcompress.models.repvgg import repvgg
from jaxcompress.models.repvit import SIZES as REPVITS
from jaxcompress.models.repvit import repvit
from jaxcompress.models.resnet import (
  CIFAR_WIDTHS_X4,
  resnet,
  resnet50_crd,
  resnet_cifar,
  wide_resnet,
)
from jaxcompress.models.shufflenet_v1 import shufflenet_v1, shufflenet_v1_crd
from jaxcompress.models.shufflenet_v2 import shufflenet_v2, shufflenet_v2_crd
from jaxcompress.models.squeezenet import squeezenet
from jaxcompress.models.starnet import SIZES as STARNETS
from jaxcompress.models.starnet import starnet
from jaxcompress.models.vgg import vgg
from jaxcompress.nn import Norm

Maker = Callable[..., nn.Module]
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

  make: Maker
  names: names.Names
  num_classes: int = 1000


class Normalization(NamedTuple):
  """``(x / 255 - mean) / std`` of RGB pixels, and the size of the images.

  Attributes:
    mean: of each channel.
    std: of each channel.
    size: side in pixels.
    crop: share of the shorter side that the square in the middle takes.
    filter: by which pixels are interpolated.
  """

  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  size: int
  crop: float
  filter: str


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224, 0.875, "bilinear")
TIMM_IMAGENET = IMAGENET._replace(filter="bicubic")
HALVES = TIMM_IMAGENET._replace(mean=(0.5,) * 3, std=(0.5,) * 3)  # TensorFlow's -1 to 1
CIFAR100 = Normalization((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 32, 1.0, "bilinear")
LITE_IMAGES = {  # size: side, crop, filter
  0: (224, 0.875, "bicubic"),
  1: (240, 0.882, "bicubic"),
  2: (260, 0.89, "bicubic"),
  3: (300, 0.904, "bilinear"),
  4: (380, 0.92, "bilinear"),
}
TIMM_IMAGES = {  # what begins a name, the first that fits; of the weights that timm loads by default
  **{
    f"tf_efficientnet_lite{size}": HALVES._replace(size=side, crop=crop, filter=filter_)
    for size, (side, crop, filter_) in LITE_IMAGES.items()
  },
  "tf_efficientnet_b0": TIMM_IMAGENET,
  "edgenext_small": TIMM_IMAGENET._replace(size=256, crop=0.95),
  "edgenext": TIMM_IMAGENET._replace(size=256, crop=0.9),
  "fasternet": TIMM_IMAGENET._replace(crop=1.0),
  "repvgg": IMAGENET,
  "repvit": TIMM_IMAGENET._replace(crop=0.95),
  "mobileone_s0": IMAGENET,
  "mobileone": IMAGENET._replace(crop=0.9),
  "mobilevit": Normalization((0.0,) * 3, (1.0,) * 3, 256, 0.9, "bicubic"),
  "tf_": HALVES._replace(filter="bilinear"),
  "mobilenetv1_100": HALVES,
  "mobilenetv1_125": HALVES._replace(crop=0.9),
  "mobilenetv4_conv_small_": HALVES,
  **{
    f"mobilenetv4_{kind}_{size}": TIMM_IMAGENET._replace(size=side, crop=0.95)
    for kind in ("conv", "hybrid")
    for size, side in (("medium", 256), ("large", 384))
  },
  "resnet": TIMM_IMAGENET._replace(crop=0.95),
  "": TIMM_IMAGENET,
}


def _widths(
  name: str, percents: Sequence[int], make: Maker, layers: names.Names, **options: Any
) -> dict[str, Source]:
  """A network at several widths; ``{}`` in the name stands for the percents."""
  return {
    name.format(percent): Source(partial(make, width=percent / 100, **options), layers)
    for percent in percents
  }


def _timm_v3(size: str, make: Maker, stages: int, *narrow: int) -> dict[str, Source]:
  layers, name = names.timm_mobilenet_v3(stages), f"mobilenetv3_{size}"
  tensorflow: dict[str, Any] = {"padding": "SAME", "norm": TENSORFLOW_NORM}
  return {
    **_widths(f"{name}_{{:03}}", (*narrow, 75, 100), make, layers, norm=TORCH_NORM),
    **_widths(f"tf_{name}_{{:03}}", (75, 100), make, layers, **tensorflow),
    f"tf_{name}_minimal_100": Source(partial(make, minimal=True, **tensorflow), layers),
  }


def _efficientnets(start: str, *larger: int, **options: Any) -> dict[str, Source]:
  """EfficientNet-B0, and EfficientNet-Lite of size 0 and larger ones."""
  makers: dict[str, Maker] = {
    f"{start}_lite{size}": partial(efficientnet_lite, size) for size in (0, *larger)
  }
  makers[f"{start}_b0"] = efficientnet_b0
  return {
    name: Source(partial(make, **options), names.TIMM_MOBILENET_V2) for name, make in makers.items()
  }


def _for_imagenet(models: dict[str, Source]) -> dict[str, Source]:
  """Gives sources the originals' strides for images of every size."""
  return {
    name: source._replace(make=partial(source.make, layout="imagenet"))
    for name, source in models.items()
  }


RESNETS = {f"resnet{d}": Source(partial(resnet, d), names.RESNET) for d in (18, 34, 50)}
TORCHVISION = {
  "mobilenet_v2": Source(mobilenet_v2, names.TORCHVISION_MOBILENET_V2),
  "mobilenet_v3_large": Source(
    partial(mobilenet_v3_large, norm=TORCHVISION_V3_NORM), names.torchvision_mobilenet_v3(blocks=15)
  ),
  "mobilenet_v3_small": Source(
    partial(mobilenet_v3_small, norm=TORCHVISION_V3_NORM), names.torchvision_mobilenet_v3(blocks=11)
  ),
  **{
    f"shufflenet_v2_x{width}".replace(".", "_"): Source(
      partial(shufflenet_v2, width=width), names.TORCHVISION_SHUFFLENET_V2
    )
    for width in (0.5, 1.0, 1.5, 2.0)
  },
  **{
    f"mnasnet{width}".replace(".", "_"): Source(
      partial(mnasnet, width=width), names.TORCHVISION_MNASNET
    )
    for width in (0.5, 0.75, 1.0, 1.3)
  },
  **{
    f"squeezenet{version}".replace(".", "_"): Source(
      partial(squeezenet, version), names.torchvision_squeezenet(*places)
    )
    for version, places in (
      ("1.0", (3, 4, 5, 7, 8, 9, 10, 12)),
      ("1.1", (3, 4, 6, 7, 9, 10, 11, 12)),
    )
  },
  **RESNETS,
}
TIMM = {
  **_widths(
    "mobilenetv1_{}", (100, 125), mobilenet_v1, names.TIMM_MOBILENET_V1,
    padding="SYMMETRIC", norm=TORCH_NORM,
  ),
  **_widths("mobilenetv2_{:03}", (35, 50, 75, 100, 140), mobilenet_v2, names.TIMM_MOBILENET_V2),
  **_timm_v3("large", mobilenet_v3_large, 6),
  **_timm_v3("small", mobilenet_v3_small, 5, 50),
  "mobilenetv4_conv_small": Source(mobilenet_v4_conv_small, names.TIMM_MOBILENET_V4),
  "mobilenetv4_conv_medium": Source(mobilenet_v4_conv_medium, names.TIMM_MOBILENET_V4),
  "mobilenetv4_conv_large": Source(mobilenet_v4_conv_large, names.TIMM_MOBILENET_V4),
  "mobilenetv4_hybrid_medium": Source(mobilenet_v4_hybrid_medium, names.TIMM_MOBILENET_V4),
  "mobilenetv4_hybrid_large": Source(mobilenet_v4_hybrid_large, names.TIMM_MOBILENET_V4),
  **_widths(
    "mobilenetv4_conv_small_{:03}", (35, 50), mobilenet_v4_conv_small, names.TIMM_MOBILENET_V4
  ),
  **_widths("ghostnet_{:03}", (50, 100, 130), ghostnet, names.TIMM_GHOSTNET),
  **_widths("ghostnetv2_{:03}", (100, 130, 160), ghostnet_v2, names.TIMM_GHOSTNET_V2),
  **{f"starnet_{size}": Source(partial(starnet, size), names.TIMM_STARNET) for size in STARNETS},
  **_efficientnets("efficientnet", norm=TORCH_NORM),
  **_efficientnets("tf_efficientnet", 1, 2, 3, 4, padding="SAME", norm=TENSORFLOW_NORM),
  **{f"repvgg_{size}": Source(partial(repvgg, size), names.TIMM_REPVGG) for size in REPVGGS},
  **{
    f"mobileone_{size}": Source(partial(mobileone, size), names.TIMM_MOBILEONE)
    for size in MOBILEONES
  },
  **{
    f"repvit_{name}": Source(partial(repvit, name), names.timm_repvit(size.early))
    for name, size in REPVITS.items()
  },
  **{
    f"mobilevit_{size}": Source(partial(mobilevit, size), names.TIMM_MOBILEVIT)
    for size in MOBILEVITS
  },
  **RESNETS,
}  # fmt: skip
TIMM_FASTERNETS = {
  f"fasternet_{size}": Source(partial(fasternet, size), names.TIMM_FASTERNET) for size in FASTERNETS
}
TIMM_EDGENEXTS = {
  f"edgenext_{size}": Source(partial(edgenext, size), names.TIMM_EDGENEXT) for size in EDGENEXTS
}
MEGVII = {
  f"shufflenet_v1_{width}x_g{groups}": Source(
    partial(shufflenet_v1, width=width, groups=groups), names.MEGVII_SHUFFLENET_V1
  )
  for width in (0.5, 1.0, 1.5, 2.0)
  for groups in (3, 8)
}
CRD = {
  name: Source(make, layers, num_classes=100)
  for layers, makers in (
    (
      names.RESNET,
      {f"resnet{d}": partial(resnet_cifar, d) for d in (8, 14, 20, 32, 44, 56, 110)}
      | {f"resnet{d}x4": partial(resnet_cifar, d, widths=CIFAR_WIDTHS_X4) for d in (8, 32)},
    ),
    (
      names.CRD_WIDE_RESNET,
      {f"wrn_{d}_{k}": partial(wide_resnet, d, k) for d in (16, 40) for k in (1, 2)},
    ),
    (names.CRD_VGG, {f"vgg{d}": partial(vgg, d) for d in (8, 11, 13, 16, 19)}),
    (names.CRD_RESNET50, {"ResNet50": resnet50_crd}),
    (names.CRD_MOBILENET_V2, {"MobileNetV2": mobilenet_v2_crd}),
    (names.CRD_SHUFFLENET_V1, {"ShuffleV1": shufflenet_v1_crd}),
    (names.CRD_SHUFFLENET_V2, {"ShuffleV2": shufflenet_v2_crd}),
  )
  for name, make in makers.items()
}
MCUNET = {f"mcunet-{search}": Source(partial(mcunet, search), names.MCUNET) for search in MCUNETS}
LIBRARIES = {
  "torchvision": _for_imagenet(TORCHVISION),
  "timm": _for_imagenet(TIMM) | TIMM_FASTERNETS | TIMM_EDGENEXTS,
  "megvii": _for_imagenet(MEGVII),
  "mcunet": _for_imagenet(MCUNET),
  "crd": CRD,
}
SOURCES: Mapping[str, Source] = {
  f"{library}/{name}": source
  for library, models in LIBRARIES.items()
  for name, source in models.items()
}
"""Every network whose checkpoints load, by library and name."""


def find_source(source: str, argument: str = "source") -> Source:
  """The source of that name.

  Args:
    source: its name.
    argument: that it was given as.

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
  start = f"did you mean {close[0]}? It" if close else "it"
  known = [name for name in SOURCES if name.startswith(f"{library}/")]
  choices = ", ".join(known) if known else f"LIBRARY/NAME, with {', '.join(LIBRARIES)}"
  raise ValueError(f"{argument}: {source!r} is unknown; {start} must be one of {choices}.")


def is_source(name: str) -> bool:
  """Whether a name is written as a source's, known or not.

  Examples:
    >>> is_source("timm/resnet18"), is_source("resnet18"), is_source("photos/teacher")
    (True, False, False)
  """
  return name.partition("/")[0] in LIBRARIES and "/" in name


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
    return next(found for start, found in TIMM_IMAGES.items() if name.startswith(start))
  if library == "mcunet":
    side = MCUNETS[name.removeprefix("mcunet-")].image_size
    return HALVES._replace(size=side, filter="bilinear")
  if library not in ("torchvision", "crd"):
    raise ValueError(
      f"source: how {source} prepares its images is not known here; use models.from_torch and"
      " quantize.post_training with a preprocess of your own."
    )
  return CIFAR100 if library == "crd" else IMAGENET
