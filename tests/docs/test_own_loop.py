"""The loops of the page on loops of one's own run as they stand, on less data and for fewer steps."""

import pathlib
import re

import numpy as np
import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "own-loop.md"
QUANTIZED, TUNED, DISTILLED = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)

pytestmark = pytest.mark.usefixtures("programs_forgotten")


def run(program, steps):
  for old, new in {
    'load("glyphs")': 'load("glyphs", limit=200)',
    "range(300)": f"range({steps})",
  }.items():
    assert program.count(old) == 1
    program = program.replace(old, new)
  names = {}
  exec(compile(program, "own-loop", "exec"), names)
  return names


@pytest.mark.slow
def test_quantization_aware_training_ends_in_a_file_with_equal_logits(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  names = run(QUANTIZED, 3)
  assert np.isfinite(names["loss"])
  assert capsys.readouterr().out.strip() == "1.0"


@pytest.mark.slow
def test_fine_tuning_moves_the_head_and_little_else():
  names = run(TUNED, 3)
  start = names["variables"]["params"]
  moved = {
    name: np.abs(names["params"][name]["kernel"] - start[name]["kernel"]).max()
    for name in ("stem", "classifier")
  }
  assert 0 < moved["stem"] < moved["classifier"] and np.isfinite(names["value"])
  assert names["batch"]["weight"].shape == (16,)


@pytest.mark.slow
def test_losses_train_the_student_and_what_is_theirs():
  names = run(DISTILLED, 3)
  trained, _, _, _ = names["run"]
  assert {"cross_entropy", "kd", "fitnet"} <= names["metrics"].keys()
  assert all(np.isfinite(value) for value in names["metrics"].values())
  start = names["trained"]["loss"]
  moved = [
    not np.array_equal(a, b)
    for a, b in zip(*map(names["jax"].tree.leaves, (trained["loss"], start)), strict=True)
  ]
  assert moved and all(moved)
