"""Whole networks in C compute the integers of exact evaluation."""

import jax
import numpy as np
import pytest
from flax.core import FrozenDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxcompress import export, models
from jaxcompress.export.c99.texts import write_texts
from jaxcompress.nn import BatchNorm, ConvNorm, Endpoints
from jaxcompress.nn.replay import replay
from jaxcompress.nn.tracing import trace_init
from tests.export.test_bit_equal_geometry import One, layers
from tests.export.test_bit_equal_models import SmallSwish
from tests.export.test_bit_equal_networks import BLOCKS, RandomNet, SmallMobileNet, SmallResNet

pytestmark = pytest.mark.usefixtures("programs_forgotten")

SIDE = 32
FAMILIES = {
  "mobilenet_v1": lambda: models.mobilenet_v1(7, width=0.25),
  "mobilenet_v2": lambda: models.mobilenet_v2(7, width=0.35),
  "mobilenet_v3": lambda: models.mobilenet_v3_small(7, 0.35),
  "mobilenet_v4": lambda: models.mobilenet_v4_conv_small(7, 0.35),
  "shufflenet_v1": lambda: models.shufflenet_v1(7, 0.25),
  "shufflenet_v2": lambda: models.shufflenet_v2(7, 0.5),
  "ghostnet": lambda: models.ghostnet(7, 0.35),
  "resnet": lambda: models.resnet8(7),
}
NEWER = {
  "efficientnet_b0": lambda: models.efficientnet_b0(7, layout="imagenet"),
  "squeezenet": lambda: models.squeezenet1_1(7),
  "ghostnet_v2": lambda: models.ghostnet_v2(7, 0.35),
  "starnet": lambda: models.starnet_s050(7),
  "fasternet": lambda: models.fasternet_t0(7),
  "mcunet": lambda: models.mcunet_in0(7),
  "edgenext": lambda: models.edgenext_xx_small(7),
  "mobilenet_v4_hybrid": lambda: models.mobilenet_v4_hybrid_medium(7, 0.25),
  "repvit": lambda: models.repvit_m0_9(7),
  "mobilevit": lambda: models.mobilevit_xxs(7),
}
BLOCKED = {
  "small mobilenet": SmallMobileNet,
  "small resnet": SmallResNet,
  "swish": SmallSwish,
  "all blocks": lambda: RandomNet(tuple(sorted(BLOCKS))),
}


def compare(folder, in_c, networks, cases, weights="int8", images=3):
  """Checks that C and exact evaluation of networks give the same integers."""
  models = [quantized.with_kernels("tflm") for quantized in cases]
  codes = [q.quantize_input(networks.images_for(q, images, i)) for i, q in enumerate(models)]
  made = in_c(folder, models, codes, weights)
  for found, model, each in zip(made, models, codes, strict=True):
    expected = model.outputs(each)
    assert set(found) == set(expected)
    for name, integers in expected.items():
      np.testing.assert_array_equal(found[name], integers)
  return models


def narrowed(quantized):
  """The network with weights of 4 bits."""
  layers = {
    name: layer._replace(
      weights=np.clip(np.rint(layer.weights / 16), -8, 7).astype(np.int8),
      scales=layer.scales * np.float32(16),
      bias=layer.bias // 16,
    )
    for name, layer in quantized.layers.items()
  }
  return type(quantized)(quantized.graph, quantized.grids, layers)


@pytest.mark.slow
def test_every_family_is_bit_equal(networks, in_c, tmp_path):
  cases = [
    networks.random_quantized(make(), (SIDE, SIDE, 3), seed)
    for seed, make in enumerate(FAMILIES.values())
  ]
  compare(tmp_path, in_c, networks, cases)


@pytest.mark.slow
@pytest.mark.parametrize("name", NEWER)
def test_a_newer_family_is_bit_equal(name, networks, in_c, tmp_path):
  quantized = networks.random_quantized(NEWER[name](), (SIDE, SIDE, 3))
  compare(tmp_path, in_c, networks, [quantized])


@pytest.mark.slow
def test_blocks_are_bit_equal_in_8_and_16_bits(networks, in_c, tmp_path):
  narrow = [
    networks.random_quantized(make(), (20, 17, 6), seed)
    for seed, make in enumerate(BLOCKED.values())
  ]
  wide = [networks.with_widths(quantized, lambda name: 16) for quantized in narrow]
  compare(tmp_path, in_c, networks, narrow + wide)


@pytest.mark.slow
def test_weights_of_4_bits_are_bit_equal(networks, in_c, tmp_path):
  cases = [
    narrowed(networks.random_quantized(make(), (20, 17, 6), seed))
    for seed, make in enumerate(BLOCKED.values())
  ]
  compare(tmp_path, in_c, networks, cases, "int4")


@pytest.mark.slow
def test_weights_of_4_bits_of_an_odd_number_of_channels_are_bit_equal(networks, in_c, tmp_path):
  layers = [
    (ConvNorm(c, kernel=k, stride=s, groups="depthwise"), (7, 5, c))
    for c, k, s in ((3, 3, 1), (5, 1, 1), (7, (2, 3), 2))
  ]
  layers += [(BatchNorm(), (4, 3, 5)), (ConvNorm(3, kernel=3), (5, 6, 5))]
  layers.append((ConvNorm(6, kernel=3, groups=2), (5, 6, 6)))
  cases = [
    narrowed(networks.random_quantized(One(layer), shape, seed))
    for seed, (layer, shape) in enumerate(layers)
  ]
  compare(tmp_path, in_c, networks, cases, "int4")


def test_weights_of_4_bits_take_half_of_the_flash(networks):
  quantized = narrowed(networks.random_quantized(SmallMobileNet(), (24, 24, 3)))
  count = sum(layer.weights.size for layer in quantized.layers.values())
  whole, half = (
    write_texts(quantized, weights=weights).sizes.weights for weights in ("int8", "int4")
  )
  assert count / 2 - count / 50 <= whole - half <= count / 2


def test_weights_that_need_more_bits_are_refused(networks, tmp_path):
  quantized = networks.random_quantized(SmallResNet(), (24, 24, 3))
  with pytest.raises(ValueError, match="weights: 'int4' needs a layer"):
    export.c(quantized, tmp_path / "net", weights="int4")
  with pytest.raises(ValueError, match="weights: 'int2' is unknown"):
    export.c(quantized, tmp_path / "net", weights="int2")


@pytest.mark.slow
def test_several_outputs_are_bit_equal(networks, in_c, tmp_path):
  whole, shape = RandomNet(("residual", "shuffled", "depthwise")), (9, 8, 6)
  graph, _ = trace_init(whole, jax.ShapeDtypeStruct((1, *shape), np.float32))
  tensors = [tensor for node in graph.nodes for tensor in node.outputs]
  cases = []
  for seed in range(3):
    picked = np.random.default_rng(seed).choice(tensors, 3)
    outputs = {"logits": "classifier", **{f"part/{i}": str(t) for i, t in enumerate(picked)}}
    model = replay(graph, Endpoints("classifier", outputs=FrozenDict(outputs)))
    cases.append(networks.random_quantized(model, shape, seed))
  compare(tmp_path, in_c, networks, cases)


@pytest.mark.slow
@settings(
  max_examples=2,
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=list(HealthCheck),
)
@given(
  cases=st.lists(st.tuples(layers(), st.integers(0, 1000)), min_size=12, max_size=12),
)
def test_layers_of_random_geometry_are_bit_equal(cases, networks, in_c, tmp_path_factory):
  narrow = [
    networks.random_quantized(One(layer), (*size, 4), seed) for (layer, size), seed in cases
  ]
  wide = [networks.with_widths(quantized, lambda name: 16) for quantized in narrow]
  compare(tmp_path_factory.mktemp("geometry"), in_c, networks, narrow + wide)
  fewer = [narrowed(quantized) for quantized in narrow if quantized.layers]
  compare(tmp_path_factory.mktemp("int4"), in_c, networks, fewer, "int4")
