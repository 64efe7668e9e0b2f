"""Every notebook runs from top to bottom in quick mode, and is stored without outputs.

Its cells run in this process: a kernel for each would start Python and JAX anew. One that sets the
number of devices, which a process does only once, runs in a process of its own.
"""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
BADGE = "https://colab.research.google.com/github/jaxcompress/jaxcompress/blob/main/colabs/"


def quick_cells(path):
  """Sources of the code cells, in quick mode."""
  cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
  sources = ["".join(cell["source"]) for cell in cells]
  assert sum(source.count("quick = False") for source in sources) == 1
  return [source.replace("quick = False", "quick = True") for source in sources]


def run_here(path):
  """Runs the cells one after the other, as a kernel does, and returns what they print."""
  printed, names = io.StringIO(), {"__name__": "__main__"}
  with contextlib.redirect_stdout(printed), matplotlib.rc_context({"backend": "agg"}):
    for i, source in enumerate(quick_cells(path)):
      exec(compile(source, f"{path.name}, code cell {i}", "exec"), names)
    plt.close("all")
  return printed.getvalue()


def run_apart(path, folder):
  """Runs the cells as a program."""
  program = folder / f"{path.stem}.py"
  program.write_text("\n".join(quick_cells(path)))
  environment = os.environ | {"PYTHONPATH": str(ROOT)}
  done = subprocess.run(
    [sys.executable, program.name], cwd=folder, env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_in_quick_mode(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  apart = "XLA_FLAGS" in path.read_text()
  printed = run_apart(path, tmp_path) if apart else run_here(path)
  assert "100.00% of the logits" in printed
  assert (tmp_path / "student.tflite").stat().st_size > 5_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs_and_opens_in_colab(path):
  cells = json.loads(path.read_text())["cells"]
  code = [cell for cell in cells if cell["cell_type"] == "code"]
  assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
  assert f"{BADGE}{path.name})" in "".join(cells[0]["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_installs_from_a_git_address(path, monkeypatch):
  first, ran = quick_cells(path)[0], []
  monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
  exec(first, {})
  assert not ran
  exec(first.replace('source = ""', 'source = "https://example.org/fork"'), {})
  wanted = "jaxcompress[edge] @ git+https://example.org/fork"
  assert ran == [[sys.executable, "-m", "pip", "install", "-q", wanted]]
