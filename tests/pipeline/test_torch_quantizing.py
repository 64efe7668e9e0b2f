"""A PyTorch checkpoint becomes an integer file in one command."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from jaxcompress import cli, export, models
from jaxcompress import data as datasets
from jaxcompress.nn import init_variables


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A checkpoint with random weights, and a folder of images of several sizes."""
  folder, rng = tmp_path_factory.mktemp("torch"), np.random.default_rng(0)
  variables = init_variables(models.resnet8(5), jax.random.key(0), (32, 32, 3))
  arrays = models.to_torch("crd/resnet8", jax.device_get(variables))
  save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / "net.safetensors")
  (folder / "photos" / "more").mkdir(parents=True)
  for i in range(20):
    image = rng.integers(0, 256, (40 + i, 50, 3)).astype(np.uint8)
    Image.fromarray(image).save(folder / "photos" / ("more" if i % 2 else "") / f"{i}.png")
  (folder / "empty").mkdir()
  return folder


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, folder):
  """Runs the command in an empty folder; returns exit code, output, errors."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("COLUMNS", "160")

  def call(*arguments):
    given = [str(folder / a) if (folder / a).exists() else a for a in arguments]
    monkeypatch.setattr("sys.argv", ["jaxcompress", "quantize", *given])
    with pytest.raises(SystemExit) as end:
      cli.main()
    printed = capsys.readouterr()
    return end.value.code, printed.out, printed.err

  return call


GIVEN = ("--torch", "crd/resnet8", "--weights", "net.safetensors", "--calibration", "photos")


def test_a_checkpoint_becomes_a_verified_integer_file(run, tmp_path):
  code, out, err = run(*GIVEN, "--method", "minmax", "--out", "net.tflite")
  assert (code, err) == (0, "")
  assert "crd/resnet8: 20 images for calibration and choice" in out
  assert "100 % of the logits of 20 images are bit for bit the device's" in out
  assert [path.name for path in tmp_path.iterdir()] == ["net.tflite"]
  found = datasets.Preprocess.from_metadata(export.read_metadata("net.tflite")["preprocess"])
  assert found.center == pytest.approx((255 * 0.5071, 255 * 0.4867, 255 * 0.4408))
  assert not found.per_image


def test_damaged_photos_are_left_out_and_named(run, folder, tmp_path):
  shutil.copytree(folder / "photos", tmp_path / "found")
  (tmp_path / "found" / "empty.jpg").write_bytes(b"")
  code, out, err = run(*GIVEN[:5], "found", "--method", "minmax", "--out", "net.tflite")
  assert (code, err) == (0, "")
  assert "calibration: 1 damaged image is left out: empty.jpg (it is empty)" in out
  assert "crd/resnet8: 20 images for calibration and choice" in out


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (GIVEN[:4], "calibration: it is missing; --torch needs --weights and --calibration"),
    (GIVEN[2:], "weights: "),
    ((), "model: it is missing; name a file"),
    (("net.safetensors", *GIVEN), "is given beside --torch; leave it out"),
    ((*GIVEN, "--data", "glyphs"), "data: glyphs is given beside --torch"),
    ((*GIVEN, "--budget", "30KB"), "budget: 30KB needs labelled images"),
    ((*GIVEN, "--analyze"), "analyze: True needs labelled images"),
    (("--torch", "crd/resnet9", *GIVEN[2:]), "'crd/resnet9' is unknown"),
    (("--torch", "megvii/shufflenet_v1_0.5x_g3", *GIVEN[2:]), "prepares its images is not known"),
    ((*GIVEN, "--image-size", "0"), "image_size: 0 must be at least 1"),
    ((*GIVEN[:5], "empty"), "has no images; put some (.jpg, .png, "),
    ((*GIVEN[:5], "gone"), "calibration: 'gone' is no folder"),
    ((*GIVEN[:3], "gone.pth", *GIVEN[4:]), "gone.pth"),
  ],
)
def test_mistakes_are_one_line_and_nothing_is_written(run, tmp_path, arguments, message):
  code, _, err = run(*arguments)
  assert code == 2
  assert message in err and err.startswith("jaxcompress: ") and err.count("\n") == 1
  assert list(tmp_path.iterdir()) == []


def test_calibration_images_are_the_middle_of_the_resized_ones(tmp_path):
  ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(256, 0).repeat(3, 2)
  Image.fromarray(ramp).save(tmp_path / "a.png")
  (images,) = datasets.calibration_images(str(tmp_path), datasets.ImageReader(224, crop=0.875))
  np.testing.assert_array_equal(images, ramp[16:240, 16:240])
  for i in range(5):
    Image.fromarray(ramp + np.uint8(i)).save(tmp_path / f"b{i}.png")
  few = datasets.calibration_images(str(tmp_path), datasets.ImageReader(8), limit=3, seed=1)
  again = datasets.calibration_images(str(tmp_path), datasets.ImageReader(8), limit=3, seed=1)
  assert few.shape == (3, 8, 8, 3)
  np.testing.assert_array_equal(few, again)


def test_every_source_has_a_normalization_or_says_that_it_is_unknown():
  for source in models.SOURCES:
    if source.startswith("megvii/"):
      with pytest.raises(ValueError, match="is not known here"):
        models.normalization_of(source)
    else:
      found = models.normalization_of(source)
      if source.startswith("timm/mobilevit"):  # pixels as they are, from 0 to 1
        assert (found.mean, found.std, found.size) == ((0.0,) * 3, (1.0,) * 3, 256)
      else:
        assert all(0.2 < value < 0.6 for value in (*found.mean, *found.std))
  of = lambda name: models.normalization_of(f"timm/{name}")  # noqa: E731
  assert of("tf_mobilenetv3_small_100").mean == (0.5, 0.5, 0.5)
  assert of("mobilenetv3_small_100").mean == (0.485, 0.456, 0.406)
  assert (of("mobilenetv4_conv_small").std, of("mobilenetv4_conv_large").size) == (
    (0.229, 0.224, 0.225),
    384,
  )
  assert of("mobilenetv4_conv_small_050").std == (0.5, 0.5, 0.5)
