"""metrics.jsonl through kills and resumes."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.report.metrics import MetricsWriter, curves, read_metrics


def steps(path):
  return [(row["phase"], row["step"]) for row in read_metrics(path)]


def test_rows_are_in_the_file_before_the_writer_is_closed(tmp_path):
  path = tmp_path / "metrics.jsonl"
  writer = MetricsWriter(path)
  writer.write("teacher", 1, loss=jnp.float32(0.5), count=np.int64(3))
  assert read_metrics(path) == [{"phase": "teacher", "step": 1, "loss": 0.5, "count": 3}]
  writer.close()


@pytest.mark.parametrize(
  "torn", ['{"phase": "teacher", "st', '{"phase": "teacher", "step": 9}', "\xff"]
)
def test_a_torn_last_line_is_not_read_and_gives_way_to_the_next(tmp_path, torn):
  path = tmp_path / "metrics.jsonl"
  with MetricsWriter(path) as writer:
    writer.write("teacher", 1, loss=1.0)
  with path.open("ab") as file:
    file.write(torn.encode("latin-1"))
  assert steps(path) == [("teacher", 1)]
  with MetricsWriter(path) as writer:
    writer.write("teacher", 2, loss=0.5)
  assert steps(path) == [("teacher", 1), ("teacher", 2)]
  assert path.read_text().count("\n") == 2


def test_rewinding_drops_the_later_rows_of_one_phase_only(tmp_path):
  path = tmp_path / "metrics.jsonl"
  with MetricsWriter(path) as writer:
    for phase in ("teacher", "alone"):
      for step in (10, 20, 30):
        writer.write(phase, step)
    writer.rewind("alone", 10)
    writer.write("alone", 20)
  assert steps(path) == [
    ("teacher", 10), ("teacher", 20), ("teacher", 30), ("alone", 10), ("alone", 20),
  ]  # fmt: skip
  assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_rewinding_to_zero_starts_a_phase_anew(tmp_path):
  path = tmp_path / "metrics.jsonl"
  with MetricsWriter(path) as writer:
    writer.write("teacher", 10)
    writer.rewind("teacher", 0)
  assert read_metrics(path) == []


def test_values_that_are_not_finite_are_null_and_text_stays_text(tmp_path):
  path = tmp_path / "metrics.jsonl"
  with MetricsWriter(path) as writer:
    writer.write("größe\n", 1, loss=float("inf"))
  (line,) = path.read_text("utf-8").splitlines()
  assert json.loads(line) == {"phase": "größe\n", "step": 1, "loss": None}


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"phase": "a", "step": 1}\nnot json\n{"phase": "a", "step": 2}\n')
  with pytest.raises(ValueError, match="line 2 of"):
    read_metrics(path)


def test_curves_group_rows_by_phase_in_order():
  rows = [{"phase": "b", "step": 1}, {"phase": "a", "step": 1}, {"phase": "b", "step": 2}]
  assert list(curves(rows)) == ["b", "a"]
  assert curves(rows)["b"] == [{"step": 1}, {"step": 2}]


def test_nothing_is_written_before_the_first_row(tmp_path):
  with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
    writer.rewind("teacher", 0)
    assert writer.rows() == [] and not writer.path.exists()
    writer.write("teacher", 1, loss=1.0)
    assert writer.rows() == [{"phase": "teacher", "step": 1, "loss": 1.0}]
