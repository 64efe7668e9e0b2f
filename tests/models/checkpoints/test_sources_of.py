"""Which source a checkpoint is of, told by its arrays alone."""

import jax
import pytest

from jaxcompress import models
from jaxcompress.models.checkpoints.sources import find_source
from jaxcompress.nn import init_variables

FEW = (
  *("crd/resnet8", "crd/resnet14", "crd/resnet8x4", "crd/vgg8", "crd/vgg11"),
  *("torchvision/mobilenet_v2", "timm/mobilenetv2_050", "timm/mobilenetv2_100"),
  *("torchvision/resnet18", "timm/resnet18", "torchvision/resnet34"),
  *("timm/mobilenetv3_small_050", "timm/mobilenetv3_small_100", "timm/tf_mobilenetv3_small_100"),
)


def state_dict(source, classes=5):
  model = find_source(source).make(classes)
  side = 32 if source.startswith("crd/") else 64
  return models.to_torch(source, init_variables(model, jax.random.key(0), (side, side, 3)))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("source", "architecture", "found"),
  [
    ("crd/resnet8", None, ("crd/resnet8",)),
    ("crd/vgg8", "vgg8", ("crd/vgg8",)),
    ("timm/mobilenetv2_050", "mobilenet_v2", ("timm/mobilenetv2_050",)),
    ("torchvision/mobilenet_v2", None, ("torchvision/mobilenet_v2",)),
    ("torchvision/mobilenet_v2", "mobilenet_v1", ()),
    ("torchvision/resnet18", "resnet18", ("torchvision/resnet18", "timm/resnet18")),
    (
      "timm/tf_mobilenetv3_small_100",
      "mobilenet_v3_small",
      ("timm/mobilenetv3_small_100", "timm/tf_mobilenetv3_small_100"),
    ),
  ],
)
def test_names_and_shapes_tell_the_source(source, architecture, found):
  weights = state_dict(source)
  assert models.sources_of(weights, architecture, sources=FEW) == found


def test_one_array_too_few_or_too_many_is_of_no_source():
  weights = state_dict("crd/resnet8")
  fewer = {name: array for name, array in weights.items() if name != "layer1.0.conv1.weight"}
  for changed in (fewer, {**weights, "extra.weight": weights["fc.bias"]}):
    assert models.sources_of(changed, sources=FEW) == ()
