"""Every PyTorch source against its original: logits, features and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import models
from tests.golden.parity import weights as parity

pytestmark = pytest.mark.usefixtures("programs_forgotten")
TOLERANCE = {"float32": 1.5e-4, "float64": 2e-6}  # relative to max(1, largest / 10)


def images(source):
  nchw = parity.image(32 if source.startswith("crd/") else 96)
  return jnp.asarray(np.ascontiguousarray(nchw.transpose(0, 2, 3, 1)))


def close(ours, original):
  """Within the tolerance of the dtype, for logits that reach 40; the originals are of float64."""
  atol = TOLERANCE[str(ours.dtype)] * max(1.0, np.abs(ours).max() / 10)
  np.testing.assert_allclose(np.asarray(ours), original, rtol=0, atol=atol)


def moments(array):
  return np.stack([array.mean(1), array.std(1)], axis=1)


def test_the_sources_are_those_of_the_reference():
  assert set(models.SOURCES) == set(parity.specs())


ONE_OF_EACH = [  # other widths, depths and groups of these have the same code and the same rules
  *("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "shufflenet_v2_x0_5", "resnet18"),
  "resnet50",
  *("mobilenetv1_100", "mobilenetv2_035", "mobilenetv3_small_050", "tf_mobilenetv3_large_075"),
  *("tf_mobilenetv3_small_minimal_100", "mobilenetv4_conv_small", "mobilenetv4_conv_medium"),
  "ghostnet_100",
  *("shufflenet_v1_1.0x_g3", "shufflenet_v1_0.5x_g8"),
  *("resnet8", "resnet8x4", "wrn_16_1", "wrn_40_2", "vgg8", "vgg13"),
  *("ResNet50", "MobileNetV2", "ShuffleV1", "ShuffleV2"),
  *("efficientnet_lite0", "repvgg_a0", "squeezenet1_1", "starnet_s050", "mcunet-in1"),
  *("repvit_m0_9", "mobilevit_xxs"),
]
LARGER = [
  *("mnasnet0_5", "squeezenet1_0", "ghostnetv2_100", "starnet_s1", "fasternet_t0", "fasternet_t2"),
  *("mobilenetv4_hybrid_medium", "mobilenetv4_hybrid_large", "edgenext_xx_small", "edgenext_small"),
  "mcunet-in0",
  "tf_efficientnet_lite1",
  "efficientnet_b0",
  *("mobileone_s0", "mobileone_s4", "repvit_m1", "repvit_m2_3", "mobilevit_s"),
]


def marked(names):
  """Sources; the newer ones that have much the same code as others now and then."""
  older = models.SOURCES.keys() - parity.specs("newer_", "attention_").keys()
  often = [name for name in parity.specs() if name in older or name.split("/")[1] in ONE_OF_EACH]
  return [name if name in often else pytest.param(name, marks=pytest.mark.slow) for name in names]


COMPUTED = [name for name in parity.specs() if name.split("/")[1] in {*ONE_OF_EACH, *LARGER}]


@pytest.mark.slow
@pytest.mark.parametrize("source", marked(COMPUTED))
def test_a_network_computes_what_the_original_computes(source):
  expected = parity.outputs()
  model, variables = models.from_torch(source, parity.state_dict(source))
  with jax.enable_x64(True):  # float32 adds up in an order that each processor chooses
    apply = jax.jit(lambda v, x: model.apply(v, x, train=False))
    exact = jax.tree.map(lambda a: np.asarray(a, np.float64), (variables, images(source)))
    result = jax.device_get(apply(*exact))
  close(result.logits[:, :32], expected[f"{source}/logits"])
  close(moments(result.logits), expected[f"{source}/logits_moments"])
  if source.startswith("crd/"):
    pooled = len(result.maps)  # the repository's last feature
    close(result.pooled, expected[f"{source}/maps/{pooled}"])
    for kind in ("maps", "preact"):
      features = getattr(result, kind)
      shapes = [(len(f), f.shape[-1], *f.shape[1:3]) for f in features]
      assert shapes == [tuple(row) for row in expected[f"{source}/{kind}_shapes"][:-1]]
      for i, feature in enumerate(features):
        close(feature.mean((1, 2)), expected[f"{source}/{kind}/{i}"])
  elif f"{source}/pooled" in expected:
    close(result.pooled[:, :32], expected[f"{source}/pooled"])
    close(moments(result.pooled), expected[f"{source}/pooled_moments"])


@pytest.mark.slow
@pytest.mark.parametrize("source", marked(parity.specs()))
def test_the_state_dict_is_that_of_the_original_both_ways(source):
  weights = parity.state_dict(source)
  _, variables = models.from_torch(source, weights)
  back = models.to_torch(source, variables)
  assert back.keys() == weights.keys()
  for key, array in back.items():
    assert array.shape == weights[key].shape and array.flags.writeable  # torch wants that
    if not key.endswith("num_batches_tracked"):
      np.testing.assert_array_equal(array, weights[key])


@pytest.mark.slow
@pytest.mark.parametrize("source", ["torchvision/shufflenet_v2_x0_5", "crd/wrn_16_1"])
def test_a_batch_of_one_image_gives_the_same(source):
  model, variables = models.from_torch(source, parity.state_dict(source))
  one = model.apply(variables, images(source)[1:], train=False).logits
  close(one[:, :32], parity.outputs()[f"{source}/logits"][1:])


def test_the_way_there_and_back_keeps_every_bit():
  source = "timm/mobilenetv3_small_050"
  model, variables = models.from_torch(source, parity.state_dict(source))
  same_model, same = models.from_torch(source, models.to_torch(source, variables))
  assert same_model == model
  jax.tree.map(np.testing.assert_array_equal, same, variables)


@pytest.mark.slow
def test_images_of_every_size_go_through_the_original_strides():
  model, variables = models.from_torch(
    "timm/mobilenetv2_035", parity.state_dict("timm/mobilenetv2_035")
  )
  features = jax.eval_shape(
    lambda x: model.apply(variables, x, train=False), jnp.zeros((1, 64, 64, 3))
  )
  assert features.maps[-1].shape[1:3] == (2, 2)
  small = model.clone(layout="cifar")
  features = jax.eval_shape(
    lambda x: small.apply(variables, x, train=False), jnp.zeros((1, 32, 32, 3))
  )
  assert features.maps[-1].shape[1:3] == (4, 4)
