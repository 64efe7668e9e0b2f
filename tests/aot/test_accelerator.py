"""The benchmark of accelerators, at small size on whatever is there."""

import json
import pathlib
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_every_part_runs_and_exact_evaluation_is_that_of_the_host(tmp_path):
  rows = tmp_path / "rows.jsonl"
  program = [sys.executable, BENCHMARKS / "accelerator.py", "--small", "--out", rows]
  ran = subprocess.run(program, cwd=BENCHMARKS, capture_output=True, text=True, check=False)
  assert ran.returncode == 0, ran.stderr
  found = [json.loads(line) for line in rows.read_text().splitlines()]
  assert {row["part"] for row in found} == {"exact evaluation", "step", "depthwise"}
  assert [row["bit_equal"] for row in found if row["part"] == "exact evaluation"] == [1.0]
  assert "left out" not in ran.stdout
