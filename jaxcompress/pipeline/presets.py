"""Runs as data: what is trained on what, for how long, and how, behind one name."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

from jaxcompress import data as datasets
from jaxcompress.data.augment.strengths import Strength
from jaxcompress.data.storage import EncodedImages
from jaxcompress.nn import Norm
from jaxcompress.training.optimizers import kernels_only
from jaxcompress.training.protocols import PROTOCOLS, Protocol

# networks that want a smaller learning rate
LIGHT = (
  "mobilenet",
  "mlperf_mobilenet",
  "shufflenet",
  "ghostnet",
  "efficientnet",
  "mobileone",
  "repvgg",
  "repvit",
  "mnasnet",
  "squeezenet",
  "starnet",
  "fasternet",
  "mcunet",
  "edgenext",
)
Transform = Callable[..., dict[str, Any]]


TRANSFER = Protocol(
  epochs=20,
  batch_size=64,
  learning_rate=1e-4,
  warmup_epochs=2,
  optimizer_name="adamw",
  weight_decay=0.01,
  mask=kernels_only,
  ema=0.9,
  last=3.0,
  fine_tuning=0.3,
)
"""How networks that start from weights are trained on small data: small steps, the same for all kinds."""


SHORT = Protocol(
  epochs=25,
  batch_size=64,
  learning_rate=0.1,
  warmup_epochs=2.5,
  nesterov=True,
  mask=kernels_only,
)
"""How small networks are trained from nothing in some minutes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
  """Choices that the options of a run leave open, and defaults for the options.

  Attributes:
    options: values of :class:`~jaxcompress.pipeline.CompressOptions` that are not given.
    teacher: name of the large model.
    widths: multipliers of student and teacher, and of the teacher of a quick run; None: their own.
    network: options of both networks, for those that have them.
    protocol: how networks are trained.
    light: how MobileNets, ShuffleNets and GhostNets are; None: alike.
    transfer: how networks are trained that start from weights, whatever their kind.
    augment: makes the augmentation for a data set, where no strength is given.
    crop: what training reads of pictures that are not in memory, before ``augment`` and where no strength
      is given; the same boxes are cut from images that are. None: all of them.
    preprocess: maps images to what the networks read.
    whole: whether validation images are trained on too, as in experiments without any.
  """

  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  teacher: str
  widths: tuple[float | None, float | None, float | None] = (None, None, None)
  network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  protocol: Protocol
  light: Protocol | None = None
  transfer: Protocol = TRANSFER
  augment: Callable[[datasets.Dataset], Transform]
  crop: datasets.CropOnRead | None = None
  preprocess: datasets.Preprocess = datasets.Preprocess()  # noqa: RUF009
  whole: bool = False

  def protocol_of(self, network: str) -> Protocol:
    """Returns the training protocol of a network of that name.

    Examples:
      >>> preset = PRESETS["crd-cifar100"]
      >>> [preset.protocol_of(name).learning_rate for name in ("vgg8", "shufflenet_v1_crd")]
      [0.05, 0.01]
    """
    return self.light if self.light is not None and network.startswith(LIGHT) else self.protocol

  def with_rate(self, rate: float | None) -> "Preset":
    """The same with another learning rate for all networks; None: its own.

    Examples:
      >>> preset = PRESETS["crd-cifar100"].with_rate(0.02)
      >>> [preset.protocol_of(name).learning_rate for name in ("vgg8", "shufflenet_v1_crd")]
      [0.02, 0.02]
    """
    if rate is None:
      return self
    changed = {
      name: dataclasses.replace(protocol, learning_rate=rate)
      for name in ("protocol", "light", "transfer")
      if (protocol := getattr(self, name)) is not None
    }
    return dataclasses.replace(self, **changed)

  def for_weights(self) -> "Preset":
    """The same with the augmentation of students that start from weights."""
    return dataclasses.replace(
      self,
      augment=lambda data: datasets.augmentation("medium", data.image_shape, flip=bool(data.flip)),
      crop=None,
    )

  def crop_of(self, split: datasets.Split, strength: str | None) -> datasets.CropOnRead | None:
    """Returns the crop that training reads of each picture of a split; None: whole pictures."""
    return self.crop if strength is None and isinstance(split.images, EncodedImages) else None

  def augmented(
    self,
    data: datasets.Dataset,
    strength: str | None,
    *,
    cropped: bool = False,
    views: int = 1,
  ) -> Transform:
    """Returns the augmentation that the training step applies to images of a data set.

    Args:
      data: of the run.
      strength: see :func:`jaxcompress.data.augmentation`; None: the preset's own.
      cropped: whether images come as :meth:`crop_of` has them read.
      views: of each image; the second is the first's augmentation, and FixMatch's after it.
    """
    if views > 1:
      weak = self.augmented(data, strength, cropped=cropped)
      return datasets.Views((weak, datasets.compose(weak, datasets.FixMatchAugment())))
    if strength is None:
      augment = self.augment(data)
      if self.crop is None or cropped:
        return augment
      boxes = datasets.RandomResizedCrop(scale=self.crop.scale, ratio=self.crop.ratio)
      return datasets.compose(boxes, augment)
    return datasets.augmentation(cast(Strength, strength), data.image_shape, flip=bool(data.flip))


def _cifar100(distill: str, schedule: str = "cifar-steps") -> Preset:
  """RepDistiller's protocol with one of its losses, or a longer schedule with another.

  ResNet-32x4 to ResNet-8x4 by default, as in its script; any pair of its tables by name. Batches
  follow one another without the short one that ends an epoch there.
  """
  protocol = PROTOCOLS[schedule]
  return Preset(
    options={
      "data": "tfds:cifar100",
      "flip": True,
      "student": "resnet8x4",
      "distill": distill,
      "epochs": protocol.epochs,
      "batch_size": protocol.batch_size,
    },
    teacher="resnet32x4",
    protocol=protocol,
    light=PROTOCOLS[f"{schedule}-light"],
    augment=lambda data: datasets.Augment(crop=4, flip=bool(data.flip), pad="zero"),
    preprocess=datasets.Preprocess(
      center=(0.5071 * 255, 0.4867 * 255, 0.4408 * 255),
      scale=(0.2675 * 255, 0.2565 * 255, 0.2761 * 255),
      per_image=False,
    ),
    whole=True,
  )


CIFAR100_LOSSES = {  # scripts/run_cifar_distill.sh: weights of labels, softened logits, and method
  "kd": "labels:0.1,kd:0.9",
  "fitnet": "labels:1,fitnet:100",
  "attention": "labels:1,attention:1000",
  "similarity": "labels:1,similarity:3000",
  "correlation": "labels:1,correlation:0.02",
  "vid": "labels:1,vid:1",
  "rkd": "labels:1,rkd:1",
  "pkt": "labels:1,pkt:30000",
  "nst": "labels:1,nst:50",
  "crd": "labels:1,crd:0.8",
  "crd-kd": "labels:1,kd:1,crd:0.8",
}

PRESETS = {
  "default": Preset(
    teacher="mobilenet_v2",
    widths=(0.25, 0.75, 0.5),
    network={"norm": Norm(epsilon=1e-3), "padding": "SAME", "zero_residual": True},
    protocol=SHORT,
    augment=lambda data: datasets.Augment(crop=2, flip=bool(data.flip)),
  ),
  **{f"{name}-cifar100": _cifar100(text) for name, text in CIFAR100_LOSSES.items()},
  "dot-cifar100": _cifar100("labels:0.1,kd:0.9", "cifar-dot"),  # Zhao et al., 2023
  # Sun et al., 2024: ResNet-32x4 to ResNet-8x4 78.28 %. Here both views go through the student at once and
  # share the batch's statistics; there each has its own. VGG-13 to MobileNetV2 (70.94 %) and ResNet-32x4 to
  # ShuffleNetV2 (78.76 %, 960 epochs) have a weight of 6, ResNet-50 to MobileNetV2 (71.19 %) has 9.
  "mlkd-lskd-cifar100": _cifar100("labels:0.2,mlkd_lskd:9", "cifar-long"),
  "kd-imagenet": Preset(
    options={
      "data": "tfds:imagenet2012",
      "student": "mobilenet_v2",
      "distill": "labels:0.5,kd:0.5",
      "epochs": PROTOCOLS["imagenet-cosine"].epochs,
      "batch_size": PROTOCOLS["imagenet-cosine"].batch_size,
    },
    teacher="resnet50",
    widths=(1.0, None, None),
    network={"norm": Norm(epsilon=1e-3), "padding": "SAME", "zero_residual": True},
    protocol=PROTOCOLS["imagenet-cosine"],
    crop=datasets.CropOnRead(),
    augment=lambda data: datasets.compose(
      datasets.Augment(crop=0, flip=bool(data.flip)),
      datasets.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
    ),
    preprocess=datasets.Preprocess(
      center=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375), per_image=False
    ),
  ),
  # the network of 32 kB of benchmarks/ladder.py, with a smaller teacher and fewer epochs
  "fashion-mnist-32kb": Preset(
    options={
      "data": "fashion-mnist",
      "flip": False,
      "channels": 1,
      "student": "resnet_cifar",
      "distill": "labels:1,kd:0.9",
      "epochs": 4,
      "batch_size": 64,
    },
    teacher="wrn_16_1",
    network={"depth": 8, "widths": (12, 12, 16, 32)},
    protocol=SHORT,
    augment=lambda data: datasets.Augment(crop=0, flip=bool(data.flip)),
    preprocess=datasets.Preprocess(center=72.9, scale=90.0, per_image=False),
  ),
  "mlperf-resnet8": Preset(
    options={
      "data": "tfds:cifar10",
      "flip": True,
      "student": "mlperf_resnet8",
      "epochs": PROTOCOLS["mlperf-resnet8"].epochs,
      "batch_size": PROTOCOLS["mlperf-resnet8"].batch_size,
    },
    teacher="resnet56",
    protocol=PROTOCOLS["mlperf-resnet8"],
    augment=lambda data: datasets.Augment(crop=3, flip=bool(data.flip)),
    preprocess=datasets.Preprocess(center=0, scale=1, per_image=False),
  ),
  "mlperf-vww": Preset(
    options={
      "data": "tfds:visual_wake_words",
      "flip": True,
      "image_size": 96,
      "student": "mlperf_mobilenet_v1",
      "epochs": PROTOCOLS["mlperf-vww"].epochs,
      "batch_size": PROTOCOLS["mlperf-vww"].batch_size,
    },
    teacher="mobilenet_v1",
    widths=(None, 1.0, 0.25),
    protocol=PROTOCOLS["mlperf-vww"],
    augment=lambda data: datasets.Augment(crop=5, flip=bool(data.flip)),
    preprocess=datasets.Preprocess(center=0, scale=255, per_image=False),
  ),
}
"""Whole runs by the name that ``compress --preset`` knows."""
