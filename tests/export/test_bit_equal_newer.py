"""Every runtime and exact evaluation give the same integers, in the networks that came later."""

from functools import partial

import numpy as np
import pytest

from jaxcompress import export, models
from jaxcompress.nn import Norm
from tests.models.test_branched import SHAPE, Reparameterized

pytestmark = pytest.mark.usefixtures("optimized")
SIDE = 48
AT_ONCE = Norm(momentum=0.0)  # statistics become the images' in one step, which deep networks need
MODELS = {
  "efficientnet_lite0": partial(models.efficientnet_lite0, layout="imagenet"),
  "efficientnet_b0": partial(models.efficientnet_b0, layout="imagenet"),
  "repvgg_a0": partial(models.repvgg_a0, layout="imagenet"),
  "mobileone_s0": partial(models.mobileone_s0, layout="imagenet"),
  "repvit_m0_9": partial(models.repvit_m0_9, layout="imagenet", norm=AT_ONCE),
  "mnasnet": partial(models.mnasnet, width=0.5, layout="imagenet"),
  "squeezenet1_1": partial(models.squeezenet1_1, layout="imagenet"),
  "ghostnet_v2": partial(models.ghostnet_v2, width=0.5, layout="cifar"),
  "starnet_s050": partial(models.starnet_s050, layout="imagenet"),
  "fasternet_t0": models.fasternet_t0,
  "mcunet_in0": models.mcunet_in0,
  "edgenext_xx_small": models.edgenext_xx_small,
  "mobilenet_v4_hybrid_medium": partial(models.mobilenet_v4_hybrid_medium, width=0.5),
  "mobilevit_xxs": partial(models.mobilevit_xxs, layout="imagenet", norm=AT_ONCE),
}


def check(model, shape, networks, folder, counts):
  """Checks that as many images give the same integers in each runtime, of a network without branches.

  Returns how its logits correlate with those in float.
  """
  variables = networks.trained_like(model, shape)
  images = np.random.default_rng(1).normal(size=(max(counts.values()), *shape)).astype(np.float32)
  if getattr(model, "norm", None) == AT_ONCE:
    variables |= model.apply(variables, images, train=True, mutable=["batch_stats"])[1]
  model, variables = models.fold_branches(model, variables, image_shape=shape)
  logits, *_, quantized = networks.calibrated(model, variables, images)
  for kernels, count in counts.items():
    path = networks.write(quantized, folder, kernels)
    result = export.verify(path, quantized.with_kernels(kernels), images[:count])
    assert (result.bit_equal, result.max_steps, result.images) == (1.0, 0, count)
  return np.corrcoef(quantized(images).ravel(), logits.ravel())[0, 1]


@pytest.mark.slow
def test_folded_branches_are_bit_equal(networks, tmp_path):
  counts = {"xnnpack": 50, "tflm": 10}
  assert check(Reparameterized(), SHAPE, networks, tmp_path, counts) > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_bit_equal(name, networks, tmp_path):
  counts = {"xnnpack": 32, "tflm": 4, "onnxruntime": 32}
  check(MODELS[name](10), (SIDE, SIDE, 3), networks, tmp_path, counts)
