"""Parameters and multiply-adds against the published ones."""

import jax
import pytest

from jaxcompress import init_variables, models

TORCHVISION = {"scaling": "torchvision"}
BIASED = {"classifier_bias": True}
PUBLISHED = [  # architecture, options, parameters, multiply-adds in millions; 1000 classes, 224 px
  ("mobilenet_v1", {"width": 0.25}, 470_072, 41.0),
  ("mobilenet_v1", {"width": 0.5}, 1_331_592, 149.5),
  ("mobilenet_v1", {"width": 0.75}, 2_585_560, 325.4),
  ("mobilenet_v1", {}, 4_231_976, 568.7),
  ("mobilenet_v2", {"width": 0.35}, 1_677_128, 59.3),
  ("mobilenet_v2", {"width": 0.5}, 1_968_680, 97.1),
  ("mobilenet_v2", {"width": 0.75}, 2_636_424, 209.1),
  ("mobilenet_v2", {}, 3_504_872, 300.8),
  ("mobilenet_v2", {"width": 1.4}, 6_108_776, 582.2),
  ("mobilenet_v3_large", {}, 5_483_032, 216.6),
  ("mobilenet_v3_large", {"width": 0.75}, 3_993_528, 154.6),
  ("mobilenet_v3_large", {"width": 0.75, **TORCHVISION}, 3_377_576, 140.0),
  ("mobilenet_v3_large", {"width": 0.5, **TORCHVISION}, 1_734_576, 65.0),
  ("mobilenet_v3_large", {"minimal": True}, 3_924_288, 209.1),
  ("mobilenet_v3_small", {}, 2_542_856, 56.5),
  ("mobilenet_v3_small", {"width": 0.75}, 2_041_872, 43.4),
  ("mobilenet_v3_small", {"width": 0.75, **TORCHVISION}, 1_653_920, 39.1),
  ("mobilenet_v3_small", {"width": 0.5, **TORCHVISION}, 917_264, 19.0),
  ("mobilenet_v3_small", {"minimal": True}, 2_044_736, 52.3),
  ("mobilenet_v4_conv_small", {"width": 0.35}, 1_905_384, 47.7),
  ("mobilenet_v4_conv_small", {"width": 0.5}, 2_238_952, 64.7),
  ("mobilenet_v4_conv_small", {}, 3_774_024, 186.0),
  ("mobilenet_v4_conv_medium", {}, 9_715_512, 827.6),
  ("mobilenet_v4_conv_large", {}, 32_590_864, 2171),
  ("mobilenet_v4_hybrid_medium", {}, 11_074_648, 966.3),
  ("mobilenet_v4_hybrid_large", {}, 37_764_624, 2549.6),
  ("shufflenet_v1", {"width": 0.5}, 717_324, 37.6),
  ("shufflenet_v1", {}, 1_864_728, 137.5),
  ("shufflenet_v1", {"width": 1.5}, 3_441_168, 292.4),
  ("shufflenet_v1", {"width": 2.0}, 5_449_776, 524.0),
  ("shufflenet_v1", {"groups": 8, "width": 0.5}, 1_010_448, 40.5),
  ("shufflenet_v1", {"groups": 8}, 2_433_768, 138.4),
  ("shufflenet_v1", {"groups": 8, "width": 1.5}, 4_268_952, 290.2),
  ("shufflenet_v1", {"groups": 8, "width": 2.0}, 6_521_232, 521.9),
  ("shufflenet_v1", {"groups": 1, **BIASED}, 1_531_936, 143.1),
  ("shufflenet_v1", {"groups": 2, **BIASED}, 1_733_848, 140.8),
  ("shufflenet_v1", {"groups": 4, **BIASED}, 1_968_344, 134.3),
  ("shufflenet_v2", {"width": 0.5}, 1_366_792, 40.5),
  ("shufflenet_v2", {}, 2_278_604, 144.9),
  ("shufflenet_v2", {"width": 1.5}, 3_503_624, 295.8),
  ("shufflenet_v2", {"width": 2.0}, 7_393_996, 583.3),
  ("ghostnet", {"width": 0.5}, 2_587_292, 42.3),
  ("ghostnet", {}, 5_182_508, 141.2),
  ("ghostnet", {"width": 1.3}, 7_358_820, 227.0),
  ("efficientnet_lite4", {}, 13_006_568, 1347.7),
  ("efficientnet_b0", {}, 5_288_548, 385.8),
  ("mnasnet", {"width": 0.5}, 2_218_512, 104.5),
  ("mnasnet", {"width": 1.3}, 6_282_256, 526.4),
  ("squeezenet1_1", {}, 1_235_496, 349.2),
  ("ghostnet_v2", {"width": 1.6}, 12_392_698, 398.6),
  ("starnet_s050", {}, 542_728, 91.3),
  ("starnet_s4", {}, 7_482_728, 1049.6),
  ("fasternet_s", {}, 31_181_032, 4549.7),
  ("edgenext_xx_small", {}, 1_327_216, 195.1),  # without the projection of constants
  ("edgenext_small", {}, 5_586_832, 954.8),
  ("mobileone_s4", {}, 14_951_248, 2986.8),
  ("repvit_m0_9", {}, 5_489_328, 817.3),
  ("repvit_m1", {"distilled": False}, 5_099_480, 816.9),
  ("repvit_m2_3", {}, 23_688_792, 4521.5),
  ("mobilevit_xxs", {}, 1_272_024, 301.5),
  ("resnet18", {}, 11_689_512, 1814),
  ("resnet34", {}, 21_797_672, 3664),
  ("resnet50", {}, 25_557_032, 4089),
]
CRD = [  # 100 classes, 32 px; None where no multiply-adds were published
  ("resnet20", 278_324, None),
  ("resnet32", 472_756, None),
  ("resnet56", 861_620, 125.8),
  ("resnet110", 1_736_564, 253.2),
  ("resnet8x4", 1_233_540, 177.1),
  ("resnet32x4", 7_433_860, 1083),
  ("resnet50_crd", 23_705_252, 1298),
  ("wrn_16_2", 703_284, None),
  ("wrn_40_1", 569_780, None),
  ("wrn_40_2", 2_255_156, 327.6),
  ("vgg8", 3_965_028, 96.2),
  ("vgg13", 9_462_180, 284.9),
  ("mobilenet_v2_crd", 812_836, 6.5),
  ("shufflenet_v1_crd", 949_258, 38.7),
  ("shufflenet_v2_crd", 1_355_528, 44.5),
]
LAYOUTS = {
  type(models.create(name)): name for name in models.MODELS if "layout" in models.options_of(name)
}.values()


def in_millions(macs, published):
  """Within 0.1 %, or what rounding to one decimal leaves."""
  return macs / 1e6 == pytest.approx(published, rel=1e-3, abs=0.05)


@pytest.mark.parametrize(("name", "options", "parameters", "macs"), PUBLISHED)
def test_imagenet_sizes_are_the_published_ones(name, options, parameters, macs):
  summary = models.summarize(models.create(name, 1000, **options), 224)
  assert summary.parameters == parameters
  assert in_millions(summary.macs, macs)


@pytest.mark.parametrize(("name", "parameters", "macs"), CRD)
def test_teacher_sizes_are_those_of_the_crd_repository(name, parameters, macs):
  summary = models.summarize(models.create(name, 100), 32)
  assert summary.parameters == parameters
  assert macs is None or in_millions(summary.macs, macs)


def convolution(side, inputs, outputs, norm=True):
  """Trained numbers of a convolution with a bias, and statistics behind it."""
  return side * side * inputs * outputs + outputs + 2 * outputs * norm, 2 * outputs * norm


def of_resnet8():
  """Of MLPerf Tiny's description: stem, three stacks of two, shortcuts without a normalization."""
  yield convolution(3, 3, 16)
  inputs = 16
  for outputs in (16, 32, 64):
    yield convolution(3, inputs, outputs)
    yield convolution(3, outputs, outputs)
    if outputs > inputs:
      yield convolution(1, inputs, outputs, norm=False)
    inputs = outputs
  yield 64 * 10 + 10, 0


def of_mobilenet():
  """Likewise: 13 pairs of a depthwise and a pointwise convolution."""
  yield convolution(3, 3, 8)
  inputs = 8
  for outputs in (16, 32, 32, 64, 64, *[128] * 6, 256, 256):
    yield convolution(3, 1, inputs)
    yield convolution(1, inputs, outputs)
    inputs = outputs
  yield 256 * 2 + 2, 0


@pytest.mark.parametrize(
  ("make", "layers", "published", "macs"),
  [  # as Keras counts the published files, statistics included
    (models.mlperf_resnet8, of_resnet8, 78_666, 12.5),
    (models.mlperf_mobilenet_v1, of_mobilenet, 221_794, 7.5),
  ],
)
def test_mlperf_tinys_networks_have_the_numbers_of_the_published_files(
  make, layers, published, macs
):
  summary = models.summarize(make())
  trained, statistics = map(sum, zip(*layers(), strict=True))
  assert summary.parameters == trained
  counted = sum(leaf.size for leaf in jax.tree.leaves(summary.variables["batch_stats"]))
  assert (counted, trained + counted) == (statistics, published)
  assert in_millions(summary.macs, macs)


@pytest.mark.parametrize(
  ("name", "size", "parameters", "macs"),
  [
    ("mcunet_in0", 48, 749_840, 6.4),
    ("mcunet_in1", 96, 636_232, 12.8),
    ("mcunet_in2", 160, 729_392, 67.3),
    ("mcunet_in3", 176, 737_408, 81.8),
    ("mcunet_in4", 160, 1_732_640, 125.9),
    ("mobilevit_xxs", 256, 1_272_024, 407.4),
    ("mobilevit_xs", 256, 2_317_848, 1025.9),
    ("mobilevit_s", 256, 5_578_632, 2000.8),
  ],
)
def test_networks_for_images_of_other_sizes_have_the_published_numbers(
  name, size, parameters, macs
):
  summary = models.summarize(models.create(name))
  assert summary.graph.input_shape == (1, size, size, 3)
  assert summary.parameters == parameters
  assert in_millions(summary.macs, macs)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layout_changes_resolutions_but_not_parameters(name):
  small, large = (
    models.summarize(models.create(name, 10, layout=layout), 64) for layout in ("cifar", "imagenet")
  )
  assert small.parameters == large.parameters
  assert small.macs > 7 * large.macs
  automatic = models.summarize(models.create(name, 10, layout="auto"), 64)
  assert automatic.graph == small.graph


def test_the_resolution_multiplier_sets_the_native_image_size():
  summary = models.summarize(models.mobilenet_v1(resolution=160 / 224))
  assert summary.graph.input_shape == (1, 160, 160, 3)
  assert summary.macs / 1e6 == pytest.approx(290, rel=0.01)  # Howard et al., table 7


def test_the_short_layout_has_the_blocks_of_the_default_run():
  summary = models.summarize(models.mobilenet_v2(47, 0.25, layout="short"))
  assert sum(node.attrs.get("groups") == "depthwise" for node in summary.graph.nodes) == 11
  assert 85_000 < summary.parameters < 91_000


@pytest.mark.parametrize("width", [0.1, 0.6, 2.5])
@pytest.mark.parametrize(
  "name", [name for name in models.MODELS if "width" in models.options_of(name)]
)
def test_every_width_between_the_published_ones_builds(name, width):
  summary = models.summarize(models.create(name, 10, width=width), 32)
  assert summary.macs > 0
  assert summary.parameters > 0


def init(model, image_shape):
  return init_variables(model, jax.random.key(0), image_shape)


def test_a_network_without_normalization_is_built_with_zero_residuals_too():
  summary = models.summarize(models.mobilenet_v2(10, width=0.25, norm=None, zero_residual=True), 32)
  assert "batch_stats" not in summary.variables


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: models.create("mobilenet_v9", 10), "model: 'mobilenet_v9' is unknown"),
    (lambda: models.create("resnet20", 10, width=2.0), "width: resnet20 has no such option"),
    (lambda: models.create("wide_resnet", 10, depth=28), "widen: wide_resnet needs one"),
    (lambda: models.mobilenet_v2(layout="huge"), "layout: 'huge'"),
    (lambda: models.ghostnet(layout="short"), "layout: 'short'"),
    (lambda: models.mobilenet_v2(width=0.0), "width: 0.0 must be positive"),
    (lambda: models.mobilenet_v2(width=float("inf")), "width: inf must be positive"),
    (lambda: models.ghostnet(width="wide"), "width: 'wide' must be positive"),
    (lambda: models.mobilenet_v1(resolution=None), "resolution: None must be positive"),
    (lambda: models.resnet8(0), "num_classes: 0 must be positive and whole"),
    (lambda: models.vgg8(-1), "num_classes: -1 must be positive and whole"),
    (lambda: models.shufflenet_v2(2.5), "num_classes: 2.5 must be positive and whole"),
    (lambda: models.wide_resnet(16, 1.5), "widen: 1.5 must be positive and whole"),
    (lambda: models.summarize(models.resnet8(), 0), "image_size: 0 must be a whole number"),
    (lambda: models.summarize(models.resnet8(), (32, 32)), "image_size: .* must be a whole number"),
    (lambda: models.summarize(models.resnet8(), 32, -1), "channels: -1 must be a whole number"),
    (
      lambda: models.summarize(models.vgg8(), 5),
      "layer 'stage3_pool' .MaxPool.: the image is too small",
    ),
    (lambda: init(models.resnet8(), (0, 32, 3)), "image_shape: .0, 32, 3. must be .height, width"),
    (lambda: init(models.resnet8(), (32, 32)), "image_shape: .32, 32. must be .height, width"),
    (lambda: models.mobilenet_v3_small(scaling="keras"), "scaling: 'keras' is unknown"),
    (lambda: models.shufflenet_v1(groups=5), "groups: 5 must be one of 1, 2, 3, 4, 8"),
    (lambda: models.resnet_cifar(9), "depth: 9"),
    (lambda: models.resnet(101), "depth: 101 must be one of 18, 34, 50"),
    (lambda: models.efficientnet_lite(5), "size: 5 must be one of 0, 1, 2, 3, 4"),
    (lambda: models.squeezenet("2"), "version: '2' is unknown; it must be one of 1.0, 1.1"),
    (lambda: models.starnet("s9"), "size: 's9' is unknown; it must be one of s050"),
    (lambda: models.fasternet("x"), "size: 'x' is unknown; it must be one of t0"),
    (lambda: models.edgenext("base"), "size: 'base' is unknown; it must be one of xx_small"),
    (lambda: models.mcunet("vww0"), "search: 'vww0' is unknown; it must be one of in0"),
    (lambda: models.mobilevit("m"), "size: 'm' is unknown; it must be one of xxs, xs, s"),
    (lambda: models.repvit("m4"), "size: 'm4' is unknown; it must be one of m0_9, m1_0"),
    (lambda: models.repvgg("c0"), "size: 'c0' is unknown; it must be one of a0, a1"),
    (lambda: models.mobileone("s5"), "size: 's5' is unknown; it must be one of s0, s1"),
    (lambda: models.vgg(12), "depth: 12 must be one of 8, 11"),
    (lambda: models.wide_resnet(15, 2), "depth: 15 must be 6 n"),
  ],
)
def test_mistakes_name_the_argument_and_the_value(make, message):
  with pytest.raises(ValueError, match=message):
    make()
