"""The walks of docs/explanation/design.md pass the files that they name."""

import pathlib
import re
import sys

import jax
import numpy as np
import optax
import pytest

import jaxcompress as jc

ROOT = pathlib.Path(jc.__file__).parent
PAGE = ROOT.parent / "docs" / "explanation" / "design.md"
WALKS = dict(
  re.findall(r"^### (.+?)\n(.*?)(?=^###|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
)


def files_of(walk):
  """Files in the first column of a walk's table."""
  (text,) = (text for title, text in WALKS.items() if title.startswith(f"`{walk}`"))
  cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
  return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def ran(function):
  """Files of the library of which a function was called."""
  found = set()

  def look(frame, event, argument):
    if event == "call":
      found.add(frame.f_code.co_filename)

  jax.clear_caches()  # what was traced before would not run
  sys.setprofile(look)
  try:
    function()
  finally:
    sys.setprofile(None)
  paths = map(pathlib.Path, found)
  return {path.relative_to(ROOT).as_posix() for path in paths if path.is_relative_to(ROOT)}


def distill():
  student, teacher = jc.models.resnet8(3), jc.models.resnet14(3)
  batch = {"image": np.ones((4, 8, 8, 3), np.float32), "label": np.zeros(4, np.int32)}
  recipe = jc.Recipe(
    student=student,
    teachers=(teacher,),
    loss=jc.distill.chain(jc.distill.cross_entropy(), jc.distill.kd(4.0)),
    quantize=jc.quantize.int8(),
    optimizer=optax.sgd(0.1),
  )
  trained = jc.init_variables(teacher, jax.random.key(1), (8, 8, 3))
  state = jc.init_state(recipe, jax.random.key(0), batch, teacher_variables=(trained,))
  jc.distill_step(state, batch)


def post_training(file):
  model = jc.models.resnet8(3)
  variables = jc.init_variables(model, jax.random.key(1), (8, 8, 3))
  images = np.random.default_rng(0).random((8, 8, 8, 3), np.float32)
  quantized = jc.quantize.post_training(model, variables, images)
  jc.export.tflite(quantized, file)
  assert jc.export.verify(file, quantized, images).bit_equal == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
  ("walk", "function"), [("distill_step", distill), ("post_training", post_training)]
)
def test_a_walk_passes_the_files_that_it_names(walk, function, tmp_path):
  given = (tmp_path / "student.tflite",) if walk == "post_training" else ()
  assert files_of(walk) - ran(lambda: function(*given)) == set()


def test_the_files_of_the_command_are_there():
  named = files_of("jaxcompress compress")
  assert len(named) > 20
  assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
