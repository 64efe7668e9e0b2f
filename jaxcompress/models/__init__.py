"""Architectures as data and a short module each."""

from jaxcompress.models.mobilenet_v1 import MobileNetV1, mobilenet_v1
from jaxcompress.models.mobilenet_v2 import MobileNetV2, mobilenet_v2
from jaxcompress.models.registry import MODELS, Summary, create, options_of, summarize
from jaxcompress.models.resnet_cifar import (
  ResNetCifar,
  resnet8,
  resnet8x4,
  resnet14,
  resnet20,
  resnet32,
  resnet32x4,
  resnet44,
  resnet56,
  resnet110,
  resnet_cifar,
)

__all__ = [
  "MODELS",
  "MobileNetV1",
  "MobileNetV2",
  "ResNetCifar",
  "Summary",
  "create",
  "mobilenet_v1",
  "mobilenet_v2",
  "options_of",
  "resnet8",
  "resnet8x4",
  "resnet14",
  "resnet20",
  "resnet32",
  "resnet32x4",
  "resnet44",
  "resnet56",
  "resnet110",
  "resnet_cifar",
  "summarize",
]
