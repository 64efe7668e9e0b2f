"""The README's programs run as they stand, on less data."""

import pathlib
import re

import jax
import numpy as np
import optax
import pytest
from PIL import Image
from safetensors.numpy import save_file

import jaxcompress as jc
from jaxcompress import models
from tests.golden.parity import weights as parity

README = pathlib.Path(__file__).parents[1] / "README.md"
FIRST, PHOTOS, OWN, SECOND, THIRD, FOURTH = re.findall(
  r"```python\n(.*?)```", README.read_text(), re.DOTALL
)

pytestmark = pytest.mark.usefixtures("programs_forgotten")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def run(program, changes, **names):
  for old, new in changes.items():
    assert program.count(old) == 1
    program = program.replace(old, new)
  exec(compile(program, "README", "exec"), names)
  return names


def test_the_first_program_runs_and_prints_that_all_logits_are_equal(capsys):
  run(FIRST, {'load("glyphs")': 'load("glyphs", limit=200)'})
  assert capsys.readouterr().out.strip() == "1.0"


def test_photos_and_a_checkpoint_become_a_file_that_predicts(folder, capsys):
  variables = models.from_torch("crd/resnet8", parity.state_dict("crd/resnet8"))[1]
  save_file(models.to_torch("crd/resnet8", variables), folder / "checkpoint.safetensors")
  rng = np.random.default_rng(0)
  for level, name in ((60, "dark"), (180, "light")):
    (folder / "photos" / name).mkdir(parents=True)
    for i in range(12):
      pixels = rng.integers(level - 50, level + 50, (40, 50, 3)).astype(np.uint8)
      Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.jpg")
  Image.fromarray(pixels).save(folder / "photo.jpg")
  changes = {
    "torchvision/mobilenet_v2": "crd/resnet8",
    "mobilenet_v2-7ebf99e0.pth": "checkpoint.safetensors",
    "image_size=96": "image_size=16, batch_size=8, epochs=2, quiet=True",
  }
  names = run(PHOTOS, changes)
  assert capsys.readouterr().out.splitlines()[0] == str(names["found"].results.entries["int8"].top1)
  assert names["found"].classifier.predict(["photo.jpg"])[0].label in ("dark", "light")
  assert (folder / "out" / "student.tflite").is_file()


def test_a_flax_model_becomes_a_file_with_equal_logits(capsys):
  names = run(OWN, {"images)\njc.export": 'images, method="minmax")\njc.export'})
  assert capsys.readouterr().out.strip() == "1.0"
  assert set(names["variables"]["params"]) == {"layers_0", "layers_2", "layers_5"}


def test_the_second_program_goes_from_a_checkpoint_to_files(folder):
  source = "timm/mobilenetv3_small_100"
  save_file(dict(parity.state_dict(source)), folder / "checkpoint.safetensors")
  images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
  names = run(SECOND, {"images)": 'images, method="minmax")'}, images=images)
  assert names["weights"].keys() == parity.state_dict(source).keys()
  assert models.load(folder / "mobilenet_v3_small.safetensors")[0] == names["model"]
  assert (folder / "mobilenet_v3_small.tflite").stat().st_size < 3_000_000


def test_the_third_program_prunes_clusters_and_packs(folder, capsys):
  changes = {
    'load("glyphs")': 'load("glyphs", limit=200)',
    "agp_within(800)": "agp_within(4)",
    "start_step=800": "start_step=2",
    "range(1000)": "range(4)",
  }
  names = run(THIRD, changes)
  share, size = map(float, capsys.readouterr().out.split())
  assert 0.7 < share < 0.8
  weights = sum(layer.weights.size for layer in names["quantized"].layers.values())
  assert size < weights / 2
  assert (folder / "student.jcz").stat().st_size < size + 4000  # names and shapes
  assert (folder / "student.tflite").stat().st_size > 2 * size


def test_the_fourth_program_trains_on_a_mesh():
  student, teacher = models.resnet8(3), models.resnet8(3)
  batch = {"image": np.ones((8, 8, 8, 3), np.float32), "label": np.arange(8, dtype=np.int32) % 3}
  recipe = jc.Recipe(
    student=student, teachers=(teacher,), loss=jc.distill.kd(), optimizer=optax.sgd(0.1)
  )
  variables = jc.init_variables(teacher, jax.random.key(1), (8, 8, 3))
  state = jc.init_state(recipe, jax.random.key(0), batch, teacher_variables=(variables,))
  names = run(
    FOURTH,
    {},
    jc=jc,
    distill_step=jc.distill_step,
    state=state,
    batch_at=lambda position: batch,
    steps=2,
  )
  assert int(names["state"].step) == 2
  assert names["state"].placement.mesh == names["mesh"]
