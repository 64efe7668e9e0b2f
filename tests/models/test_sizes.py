"""Parameters and multiply-adds against the published ones."""

import pytest

from jaxcompress import models

PUBLISHED = [  # architecture, options, image side, parameters, multiply-adds in millions
  ("mobilenet_v1", {"width": 0.25}, 224, 470_072, 41.0),
  ("mobilenet_v1", {"width": 0.5}, 224, 1_331_592, 149.5),
  ("mobilenet_v1", {"width": 0.75}, 224, 2_585_560, 325.4),
  ("mobilenet_v1", {"width": 1.0}, 224, 4_231_976, 568.7),
  ("mobilenet_v2", {"width": 0.35}, 224, 1_677_128, 59.3),
  ("mobilenet_v2", {"width": 0.5}, 224, 1_968_680, 97.1),
  ("mobilenet_v2", {"width": 0.75}, 224, 2_636_424, 209.1),
  ("mobilenet_v2", {"width": 1.0}, 224, 3_504_872, 300.8),
  ("mobilenet_v2", {"width": 1.4}, 224, 6_108_776, 582.2),
]
CRD = [  # 100 classes, 32 px; None where no multiply-adds were published
  ("resnet20", 278_324, None),
  ("resnet32", 472_756, None),
  ("resnet56", 861_620, 125.8),
  ("resnet110", 1_736_564, 253.2),
  ("resnet8x4", 1_233_540, 177.1),
  ("resnet32x4", 7_433_860, 1083),
]


@pytest.mark.parametrize(("name", "options", "size", "parameters", "macs"), PUBLISHED)
def test_imagenet_sizes_are_the_published_ones(name, options, size, parameters, macs):
  summary = models.summarize(models.create(name, 1000, **options), size)
  assert summary.parameters == parameters
  assert round(summary.macs / 1e6, 1) == macs


@pytest.mark.parametrize(("name", "parameters", "macs"), CRD)
def test_teacher_sizes_are_those_of_the_crd_repository(name, parameters, macs):
  summary = models.summarize(models.create(name, 100), 32)
  assert summary.parameters == parameters
  if macs is not None:
    assert summary.macs / 1e6 == pytest.approx(macs, rel=1e-3)


def test_the_layout_changes_resolutions_but_not_parameters():
  for name in ("mobilenet_v1", "mobilenet_v2"):
    small, large = (
      models.summarize(models.create(name, 10, layout=layout), 32)
      for layout in ("cifar", "imagenet")
    )
    assert small.parameters == large.parameters
    assert small.macs > 8 * large.macs


def test_the_resolution_multiplier_sets_the_native_image_size():
  summary = models.summarize(models.mobilenet_v1(resolution=160 / 224))
  assert summary.graph.input_shape == (1, 160, 160, 3)
  assert summary.macs / 1e6 == pytest.approx(290, rel=0.01)  # Howard et al., table 7


def test_the_short_layout_has_the_blocks_of_the_default_run():
  summary = models.summarize(models.mobilenet_v2(47, 0.25, layout="short"))
  assert sum(node.attrs.get("groups") == "depthwise" for node in summary.graph.nodes) == 11
  assert 85_000 < summary.parameters < 91_000


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: models.create("mobilenet_v9", 10), "model: 'mobilenet_v9' is unknown"),
    (lambda: models.create("resnet20", 10, width=2.0), "width: resnet20 has no such option"),
    (lambda: models.mobilenet_v2(layout="huge"), "layout: 'huge'"),
    (lambda: models.mobilenet_v2(width=0.0), "width: 0.0 must be positive"),
    (lambda: models.resnet_cifar(9), "depth: 9"),
  ],
)
def test_mistakes_name_the_argument_and_the_value(make, message):
  with pytest.raises(ValueError, match=message):
    make()
