"""What docs/benchmarks.md says to run is what benchmarks/all.sh runs, and exists."""

import importlib
import re
import subprocess

import pytest

from jaxcompress import distill
from tests.programs import ROOT

PLACES = re.compile(r"FILE|WEIGHTS|PICTURES|benchmarks/results/.*|--(out|json|results)")
COMMAND = re.compile(r"`((?:python benchmarks/|jaxcompress compress)[^`]*)`")


def words_of(command):
  """What tells commands apart: no files, which are elsewhere in the two, and no choice of rows."""
  command = re.sub(r"\$\(.*?\)", "", command)  # --resume, where there is a run
  command = re.sub(r"--(schemes|methods) (\".*?\"|\S+)", "", command)
  return {word for word in command.split() if not PLACES.fullmatch(word) and "$" not in word}


def ran():
  """Commands of the script, a line each."""
  text = (ROOT / "benchmarks/all.sh").read_text().replace("\\\n", " ")
  return [
    line.split(maxsplit=2)[2]
    for line in text.splitlines()
    if "measure " in line and "()" not in line
  ]


def test_every_table_has_a_command_that_the_script_runs():
  asked = COMMAND.findall((ROOT / "docs/benchmarks.md").read_text())
  assert len(asked) > 20
  runs = [words_of(line) for line in ran()]
  assert [command for command in asked if words_of(command) not in runs] == []


def test_what_the_script_runs_exists_and_it_is_no_more_than_that():
  files = {word for line in ran() for word in line.split() if word.startswith("benchmarks/")}
  assert len(files) > 15 and all((ROOT / name).is_file() for name in files)
  subprocess.run(["bash", "-n", ROOT / "benchmarks/all.sh"], check=True)


def test_what_has_ended_is_not_run_again_and_what_fails_is_told(tmp_path):
  script = (ROOT / "benchmarks/all.sh").read_text().split("measure compress", 1)[0]
  script = script.replace('cd "$(dirname "$0")/.."', "true")
  tail = """
measure good echo done
measure bad false
printf '%s\\n' "${failed[@]}"
"""
  found = [
    subprocess.run(
      ["bash", "-c", script + tail, "all.sh", str(tmp_path)],
      capture_output=True,
      text=True,
      check=True,
    ).stdout.splitlines()
    for _ in range(2)
  ]
  told = f"bad: see {tmp_path}/bad.log.partial"
  assert found == [["echo done", "false", told], ["false", told]]


@pytest.mark.parametrize("name", distill.DISTILLERS)
def test_the_table_of_losses_tries_shares_of_every_usual_weight(name, monkeypatch):
  monkeypatch.syspath_prepend(ROOT / "benchmarks")
  table = importlib.import_module("distillation_table")
  usual, half = (table.weighted(name, factor, num_examples=4).weights for factor in (1, 0.5))
  assert half == {**usual, name: usual[name] / 2}
