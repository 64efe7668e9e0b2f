"""Architectures as data and a short module each; their files, and checkpoints of PyTorch."""

from jaxcompress.models.checkpoints import (
  SOURCES,
  Normalization,
  from_torch,
  normalization_of,
  to_torch,
)
from jaxcompress.models.files import (
  from_config,
  load,
  read_header,
  save,
  to_config,
)
from jaxcompress.models.ghostnet import (
  GhostNet,
  ghostnet,
)
from jaxcompress.models.mobilenet_v1 import (
  MobileNetV1,
  mobilenet_v1,
)
from jaxcompress.models.mobilenet_v2 import (
  MobileNetV2,
  mobilenet_v2,
  mobilenet_v2_crd,
)
from jaxcompress.models.mobilenet_v3 import (
  MobileNetV3,
  mobilenet_v3_large,
  mobilenet_v3_small,
)
from jaxcompress.models.mobilenet_v4 import (
  MobileNetV4,
  mobilenet_v4_conv_large,
  mobilenet_v4_conv_medium,
  mobilenet_v4_conv_small,
)
from jaxcompress.models.registry import (
  FAMILIES,
  MODELS,
  Description,
  Summary,
  create,
  describe,
  options_of,
  summarize,
)
from jaxcompress.models.replayed import replayed
from jaxcompress.models.resnet import (
  ResNet,
  resnet,
  resnet18,
  resnet34,
  resnet50,
  resnet50_crd,
)
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
from jaxcompress.models.shufflenet_v1 import (
  ShuffleNetV1,
  shufflenet_v1,
  shufflenet_v1_crd,
)
from jaxcompress.models.shufflenet_v2 import (
  ShuffleNetV2,
  shufflenet_v2,
  shufflenet_v2_crd,
)
from jaxcompress.models.vgg import (
  VGG,
  vgg,
  vgg8,
  vgg11,
  vgg13,
  vgg16,
  vgg19,
)
from jaxcompress.models.wide_resnet import (
  WideResNet,
  wide_resnet,
  wrn_16_1,
  wrn_16_2,
  wrn_40_1,
  wrn_40_2,
)

__all__ = [
  "FAMILIES",
  "MODELS",
  "SOURCES",
  "VGG",
  "Description",
  "GhostNet",
  "MobileNetV1",
  "MobileNetV2",
  "MobileNetV3",
  "MobileNetV4",
  "Normalization",
  "ResNet",
  "ResNetCifar",
  "ShuffleNetV1",
  "ShuffleNetV2",
  "Summary",
  "WideResNet",
  "create",
  "describe",
  "from_config",
  "from_torch",
  "ghostnet",
  "load",
  "mobilenet_v1",
  "mobilenet_v2",
  "mobilenet_v2_crd",
  "mobilenet_v3_large",
  "mobilenet_v3_small",
  "mobilenet_v4_conv_large",
  "mobilenet_v4_conv_medium",
  "mobilenet_v4_conv_small",
  "normalization_of",
  "options_of",
  "read_header",
  "replayed",
  "resnet",
  "resnet8",
  "resnet8x4",
  "resnet14",
  "resnet18",
  "resnet20",
  "resnet32",
  "resnet32x4",
  "resnet34",
  "resnet44",
  "resnet50",
  "resnet50_crd",
  "resnet56",
  "resnet110",
  "resnet_cifar",
  "save",
  "shufflenet_v1",
  "shufflenet_v1_crd",
  "shufflenet_v2",
  "shufflenet_v2_crd",
  "summarize",
  "to_config",
  "to_torch",
  "vgg",
  "vgg8",
  "vgg11",
  "vgg13",
  "vgg16",
  "vgg19",
  "wide_resnet",
  "wrn_16_1",
  "wrn_16_2",
  "wrn_40_1",
  "wrn_40_2",
]
