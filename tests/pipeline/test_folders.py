"""One run at a time works in a folder; what a killed one left is cleared; damaged files are named."""

import dataclasses
import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import tempfile

import hypothesis
import hypothesis.strategies as st
import pytest
from rich.console import Console

from jaxcompress.files.records import read_record, write_record
from jaxcompress.pipeline import folders, run
from jaxcompress.pipeline.context import read_progress
from jaxcompress.pipeline.options import CompressOptions
from jaxcompress.pipeline.search import Measured, read_trials
from jaxcompress.report import Entry

ROOT = pathlib.Path(__file__).parents[2]
QUIET = Console(quiet=True)
ENTRY = {"model": "resnet8", "top1": 0.5, "parameters": 1, "macs": 2, "bytes": 3}
HOLDER = """
import pathlib, sys, time
from jaxcompress.pipeline import folders
folder = pathlib.Path(sys.argv[1])
with folders.working_in(folder, folders.read_options(folder)):
  print("holds", flush=True)
  time.sleep(600)
"""


@pytest.fixture
def claimed(tmp_path):
  return folders.claim_folder(str(tmp_path / "out"), {"seed": 3}, resume=False)


@pytest.fixture
def holder(claimed):
  """Another process that works in the folder."""
  command = [sys.executable, "-c", HOLDER, str(claimed[0])]
  environment = {**os.environ, "PYTHONPATH": str(ROOT)}
  child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
  assert child.stdout.readline() == "holds\n"
  yield child
  child.kill()
  child.communicate()


def test_a_second_run_in_a_folder_is_refused_until_the_first_is_killed(claimed, holder):
  folder, options = claimed
  for _ in range(2):
    with pytest.raises(ValueError, match=r"out: .*out is in use: another run works in it"):
      run.carry_out(options, folder, console=QUIET)
  with pytest.raises(ValueError, match="is in use"):
    folders.claim_folder(str(folder), {}, resume=False)
  folders.release_folder(folder)  # as after every mistake: it is the other's
  assert (folder / "run.json").is_file()
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  with folders.working_in(folder, options):
    pass


def test_only_a_folder_with_a_run_is_said_to_be_resumable(claimed, tmp_path):
  with pytest.raises(ValueError, match=r"out exists and is not empty; .* add resume=True"):
    folders.claim_folder(str(claimed[0]), {}, resume=False)
  (tmp_path / "notes").mkdir()
  (tmp_path / "notes" / "thesis.txt").touch()
  with pytest.raises(ValueError, match="notes holds files that are of no run; name another"):
    folders.claim_folder(str(tmp_path / "notes"), {}, resume=False)
  with pytest.raises(ValueError, match=r"thesis.txt is no folder; name another"):
    folders.claim_folder(str(tmp_path / "notes" / "thesis.txt"), {}, resume=False)
  assert (tmp_path / "notes" / "thesis.txt").is_file()


def test_a_finished_run_that_was_killed_at_its_very_end_is_tidied(claimed, monkeypatch):
  folder, options = claimed
  monkeypatch.setattr(run, "is_finished", lambda *given: True)
  monkeypatch.setattr(run, "read_results", lambda given: "results")
  (folder / "checkpoints" / "int8").mkdir(parents=True)
  with folders.working_in(folder, options):  # another run trains more epochs there
    assert run.carry_out(options, folder, console=QUIET) == "results"
    assert (folder / "checkpoints" / "int8").is_dir()
  assert run.carry_out(options, folder, console=QUIET) == "results"
  assert os.listdir(folder) == ["run.json"]


def test_a_lock_ends_with_its_context_and_leaves_nothing(claimed):
  folder, options = claimed
  for _ in range(2):
    with folders.working_in(folder, options):
      assert os.listdir(folder) == ["run.json"]
  assert os.listdir(folder) == ["run.json"]


def test_other_processes_of_the_same_run_need_no_lock(claimed, holder, monkeypatch):
  folder, options = claimed
  monkeypatch.setattr(folders, "is_first", lambda: False)
  monkeypatch.setattr(folders, "shared", lambda value: value)
  with folders.working_in(folder, options):
    pass


def test_all_processes_hear_that_the_first_was_refused(claimed, monkeypatch):
  folder, options = claimed
  monkeypatch.setattr(folders, "is_first", lambda: False)
  monkeypatch.setattr(folders, "shared", lambda value: "out: it is in use.")
  with pytest.raises(ValueError, match="it is in use"), folders.working_in(folder, options):
    pass


def test_file_systems_without_locks_are_worked_on(claimed, monkeypatch):
  def none(*_):
    raise OSError(95, "Operation not supported")

  monkeypatch.setattr(folders.fcntl, "flock", none)
  with folders.working_in(*claimed):
    pass


def test_a_folder_that_appears_meanwhile_is_not_taken(tmp_path):
  """Two first runs find it free; one of them is first."""
  out = tmp_path / "out"
  folders.claim_folder(str(out), {"seed": 1}, resume=False)
  assert not folders._write_options(out, CompressOptions(seed=2))
  assert folders.read_options(out).seed == 1
  assert [path.name for path in out.iterdir()] == ["run.json"]


def test_a_default_folder_that_appears_meanwhile_is_passed_over(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  folders.claim_folder(None, {}, resume=False)
  taken = [pathlib.Path("jaxcompress-out"), pathlib.Path("jaxcompress-out-2")]
  monkeypatch.setattr(folders, "_free_default", lambda: taken.pop(0))
  assert folders.claim_folder(None, {}, resume=False)[0].name == "jaxcompress-out-2"


def test_other_options_than_the_folders_are_refused(claimed):
  folder, _ = claimed
  with pytest.raises(ValueError, match=r"not those with which the run in .* was started"):
    run.carry_out(CompressOptions(seed=4), folder, console=QUIET)


def test_what_killed_writes_left_is_cleared_and_nothing_else(claimed):
  folder, options = claimed
  half = f".jaxcompress-{'0a' * 16}"
  for place in (folder, folder / "float", folder / "candidates" / "x0.5"):
    place.mkdir(parents=True, exist_ok=True)
    (place / half).write_text("half")
    (place / f".{'0a' * 16}").write_text("of an earlier version")
    (place / "whole.json").write_text("{}")
    (place / ".mine").write_text("mine")
  (folder / "teacher.partial" / "variables").mkdir(parents=True)
  checkpoint = folder / "checkpoints" / "teacher" / "5.orbax-checkpoint-tmp"
  checkpoint.mkdir(parents=True)
  with folders.working_in(folder, options):
    left = sorted(path.name for path in folder.rglob("*") if path.is_file())
  assert left == sorted([".mine", "whole.json"] * 3 + ["run.json"])
  assert not (folder / "teacher.partial").exists() and checkpoint.exists()


def test_the_options_are_there_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(pathlib.Path, "write_text", full)
  with pytest.raises(ValueError, match=r"cannot be written \(No space left"):
    folders.claim_folder(str(tmp_path / "out"), {}, resume=False)
  assert os.listdir(tmp_path / "out") == []


def test_files_have_the_modes_that_the_user_asks_for(tmp_path):
  before = os.umask(0o027)
  try:
    folder, _ = folders.claim_folder(str(tmp_path / "out"), {}, resume=False)
  finally:
    os.umask(before)
  assert stat.S_IMODE((folder / "run.json").stat().st_mode) == 0o640


def test_a_read_only_folder_is_called_so(claimed, monkeypatch):
  folder, options = claimed
  monkeypatch.setattr(folders.os, "access", lambda *_: False)
  with pytest.raises(ValueError, match="out is read-only; allow writing there"):
    run.carry_out(options, folder, console=QUIET)


JUNK = [b"", b"null", b"3", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000, b'{"seed": 1} {}']


@pytest.mark.parametrize("content", [*JUNK, b"[]"])
@pytest.mark.parametrize("name", ["run.json", "progress.json"])
def test_a_damaged_file_is_named_in_one_line(claimed, name, content):
  folder, _ = claimed
  (folder / name).write_bytes(content)
  with pytest.raises(ValueError, match=rf"{name} is damaged") as caught:
    read_progress(folder)
    folders.read_options(folder)
  assert len(str(caught.value).splitlines()) == 1


@hypothesis.given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
@hypothesis.settings(deadline=None, max_examples=200)
def test_a_flipped_bit_of_a_small_file_is_refused_or_changes_nothing(place, bit):
  for value, kind in (({"teacher": 0.75, "note": "\u00e4"}, dict), ([[1, 2.5], ["x", None]], list)):
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder, "small.json")
      write_record(path, value)
      content = bytearray(path.read_bytes())
      content[place % len(content)] ^= 1 << bit
      path.write_bytes(content)
      try:
        assert read_record(path, kind, "delete it") == value
      except ValueError as error:
        assert "small.json is damaged" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("seed", "x"), ("seed", 1.5), ("seed", True), ("bits", None), ("data", 5), ("quick", "yes"),
    ("width", [1]), ("max_size", 300), ("no_such", 1), ("bits", 99),
    ("epochs", 10**400),
  ],
)  # fmt: skip
def test_a_wrong_field_of_run_json_is_named(claimed, field, value):
  folder, _ = claimed
  (folder / "run.json").write_text(json.dumps({"data": "digits", field: value}))
  with pytest.raises(ValueError, match=rf"run\.json is damaged \({field}: .*; start anew"):
    folders.read_options(folder)


@pytest.mark.parametrize(
  "facts",
  [
    {"teacher": None}, {"teacher": []}, {"teacher": {}}, {"alone": {**ENTRY, "top1": "x"}},
    {"alone": {**ENTRY, "top1": 2.0}}, {"alone": {**ENTRY, "extra": 1}},
    {"teacher": ENTRY, "distilled": {**ENTRY, "bytes": None}},
    {"teacher": {name: value for name, value in ENTRY.items() if name != "macs"}},
  ],
)  # fmt: skip
def test_wrong_fields_of_progress_json_are_told_before_anything_is_done(claimed, facts):
  folder, options = claimed
  (folder / "progress.json").write_text(json.dumps(facts))
  with pytest.raises(ValueError, match=r"progress\.json is damaged \(.*; delete it"):
    run.carry_out(options, folder, console=QUIET)


def test_right_fields_are_read(claimed):
  folder, _ = claimed
  facts = {"teacher": {**ENTRY, "seconds": 3, "latency_ms": None}}
  (folder / "progress.json").write_text(json.dumps(facts))
  assert read_progress(folder) == {"teacher": Entry(**facts["teacher"])}
  assert read_progress(folder)["teacher"].seconds == 3


@pytest.mark.parametrize(
  "line",
  [
    b"null", b"[]", b"{}", b"{", b'{"step": "x"}', b'{"step": 1.5}', b'{"step": true}',
    b'{"phase": 3, "step": 1}', b'{"phase": "teacher", "step": 1, "seconds": "x"}',
    b'{"step": 1, "loss": Infinity}', b'{"step": 1, "loss": [1]}', b"\xff", b"[" * 100_000,
    b'{"step": 1' + b"0" * 400 + b"}",
  ],
)  # fmt: skip
def test_a_damaged_line_of_metrics_is_named_before_anything_is_done(claimed, line):
  folder, options = claimed
  (folder / "metrics.jsonl").write_bytes(b'{"phase": "teacher", "step": 1}\n' + line + b"\n")
  with pytest.raises(ValueError, match=r"line 2 of .*metrics\.jsonl is no row of metrics"):
    run.carry_out(options, folder, console=QUIET)


@pytest.mark.parametrize("content", [b"null", b"{}", b"{", b'"x"'])
def test_a_damaged_report_of_a_finished_run_is_named(claimed, content):
  folder, options = claimed
  (folder / "report.json").write_bytes(content)
  with pytest.raises(ValueError, match=r"report\.json is no readable report"):
    run.carry_out(options, folder, console=QUIET)


@pytest.mark.parametrize("line", ["null", "[]", "{}", '{"name": 3}', '{"no_such": 3}'])
def test_a_damaged_line_of_candidates_is_named(tmp_path, line):
  (tmp_path / "candidates.jsonl").write_text(line + "\n")
  with pytest.raises(ValueError, match=r"candidates\.jsonl is damaged"):
    read_trials(tmp_path)


def test_a_line_of_candidates_that_a_kill_cut_off_is_none(tmp_path):
  whole = Measured("x0.5", 0.9, 9, 9, 0.1, 9, {}, True, 1, 1.0)
  text = json.dumps(dataclasses.asdict(whole))
  (tmp_path / "candidates.jsonl").write_text(f"{text}\n{text[:20]}")
  assert read_trials(tmp_path) == (whole,)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "3", [3]])
def test_options_are_checked_when_they_are_made(value):
  with pytest.raises(ValueError, match=r"epochs: .* must be"):
    CompressOptions(epochs=value)


def test_a_folder_in_which_checkpoints_would_be_lost_is_refused_before_the_run(tmp_path):
  with pytest.raises(ValueError, match=r"out: .* has brackets, with which checkpoints are lost"):
    folders.claim_folder(str(tmp_path / "run [2]"), {}, resume=False)
  assert not list(tmp_path.iterdir())
