"""How the pixels are prepared that a PyTorch model was trained on."""

from typing import NamedTuple

from jaxcompress.models.checkpoints.sources import find_source


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


def normalization_of(source: str) -> Normalization:
  """What a source's original does to its images before the network reads them.

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
