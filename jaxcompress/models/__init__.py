"""Architectures as data and a short module each; their files, and checkpoints of PyTorch."""

from jaxcompress.models.branched import fold_branches
from jaxcompress.models.checkpoints.sources import SOURCES, Normalization, normalization_of
from jaxcompress.models.checkpoints.transfer import from_torch, sources_of, to_torch
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
from jaxcompress.models.files import load, read_header, save
from jaxcompress.models.ghostnet import ghostnet, ghostnet_v2
from jaxcompress.models.heads import with_classes
from jaxcompress.models.imported.entry import Imported, from_jax, from_linen, from_nnx
from jaxcompress.models.imported.problems import NotImportable
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
from jaxcompress.models.registry import MODELS, Summary, create, options_of, summarize
from jaxcompress.models.replayed import replayed
from jaxcompress.models.repvgg import repvgg, repvgg_a0, repvgg_a1, repvgg_a2, repvgg_b0
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

__all__ = [
  "MODELS",
  "SOURCES",
  "Imported",
  "Normalization",
  "NotImportable",
  "Summary",
  "create",
  "edgenext",
  "edgenext_small",
  "edgenext_x_small",
  "edgenext_xx_small",
  "efficientnet_b0",
  "efficientnet_lite",
  "efficientnet_lite0",
  "efficientnet_lite1",
  "efficientnet_lite2",
  "efficientnet_lite3",
  "efficientnet_lite4",
  "fasternet",
  "fasternet_s",
  "fasternet_t0",
  "fasternet_t1",
  "fasternet_t2",
  "fold_branches",
  "from_jax",
  "from_linen",
  "from_nnx",
  "from_torch",
  "ghostnet",
  "ghostnet_v2",
  "load",
  "mcunet",
  "mcunet_in0",
  "mcunet_in1",
  "mcunet_in2",
  "mcunet_in3",
  "mcunet_in4",
  "mlperf_mobilenet_v1",
  "mlperf_resnet8",
  "mnasnet",
  "mobilenet_v1",
  "mobilenet_v2",
  "mobilenet_v2_crd",
  "mobilenet_v3_large",
  "mobilenet_v3_small",
  "mobilenet_v4_conv_large",
  "mobilenet_v4_conv_medium",
  "mobilenet_v4_conv_small",
  "mobilenet_v4_hybrid_large",
  "mobilenet_v4_hybrid_medium",
  "mobileone",
  "mobileone_s0",
  "mobileone_s1",
  "mobileone_s2",
  "mobileone_s3",
  "mobileone_s4",
  "normalization_of",
  "options_of",
  "read_header",
  "replayed",
  "repvgg",
  "repvgg_a0",
  "repvgg_a1",
  "repvgg_a2",
  "repvgg_b0",
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
  "sources_of",
  "squeezenet",
  "squeezenet1_0",
  "squeezenet1_1",
  "starnet",
  "starnet_s050",
  "starnet_s1",
  "starnet_s2",
  "starnet_s3",
  "starnet_s4",
  "starnet_s100",
  "starnet_s150",
  "summarize",
  "to_torch",
  "vgg",
  "vgg8",
  "vgg11",
  "vgg13",
  "vgg16",
  "vgg19",
  "wide_resnet",
  "with_classes",
  "wrn_16_1",
  "wrn_16_2",
  "wrn_40_1",
  "wrn_40_2",
]
