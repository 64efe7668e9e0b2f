"""The README's programs run as they stand, on less data."""

import pathlib
import re

import jax
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

import jaxcompress as jc
from jaxcompress import models
from tests.golden.parity import weights as parity

README = pathlib.Path(__file__).parents[1] / "README.md"
FIRST, SECOND, THIRD, FOURTH = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)

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
    "begin=100, end=600": "begin=0, end=2",
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
