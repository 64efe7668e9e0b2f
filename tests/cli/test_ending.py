"""How the program ends: what it says in one line, on which streams, and with which code."""

import contextlib
import errno
import io
import os
import pathlib
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from jaxcompress import data, export, training
from jaxcompress.cli import compress, ending, entry
from jaxcompress.cli.ending import EndError
from jaxcompress.nn import Graph, Node
from jaxcompress.pipeline import folders
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = "import sys; from jaxcompress.cli import start; sys.argv[0] = 'jaxcompress'; start()"


def child(*arguments, flags=(), variables=None, **options):
  """Starts the program in a process of its own."""
  streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
  environment = {**os.environ, "PYTHONPATH": str(ROOT), **(variables or {})}
  command = [sys.executable, *flags, "-c", PROGRAM, *map(str, arguments)]
  return subprocess.Popen(command, env=environment, **streams)


def call(*arguments, **options):
  """Exit code, output and errors."""
  started = child(*arguments, **options)
  out, err = started.communicate(timeout=200)
  return started.returncode, out, err


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """A small integer file in a folder whose name is markup."""
  folder = tmp_path_factory.mktemp("models") / "[bold]o[" / "x]$y_1$ é"
  folder.mkdir(parents=True)
  shapes = ((1, 2, 2, 3),), ((1, 3),)
  pool = Node("[b]pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("[b]pool",), *shapes)
  graph = Graph((pool,), (1, 2, 2, 3), "[b]pool")
  grid = Grid(np.float32(0.1), 0)
  quantized = QuantizedModel(graph, {"input": grid, "[b]pool": grid}, {})
  export.tflite(quantized, folder / "net.tflite")
  export.tflite_float(graph, {}, folder / "float.tflite")
  export.packed(quantized, folder / "net.jcz")
  return folder


ASCII = {"PYTHONIOENCODING": "ascii"}
C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{}, ASCII, C], ids=["utf-8", "ascii", "C"])
def test_names_that_are_markup_are_printed_in_every_encoding(model, variables):
  spelled = "x]$y_1$ é" if not variables else "x]$y_1$ \\"  # with what follows in the encoding
  wide = {**variables, "COLUMNS": "300"}
  commands = (
    ("lint", model / "float.tflite", "--target", "tflm"),
    ("bench", model / "net.tflite", "--repeats", 2),
    ("export", model / "net.jcz", "--format", "tflite", "--force"),
  )
  for arguments in commands[:1] if variables is C else commands:  # LiteRT opens no such path there
    code, out, err = call(*arguments, variables=wide)
    assert code == (1 if "float" in str(arguments[1]) else 0), err
    shown = out.decode("ascii" if variables else "utf-8")
    assert f"[bold]o[/{spelled}" in shown
    assert "[b]pool" in shown or "float" not in str(arguments[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["[bold]x", "a[/x]b.tflite", ":smile:.tflite", "two  é\x1b[31m"])
@pytest.mark.parametrize("variables", [{}, ASCII], ids=["utf-8", "ascii"])
def test_names_that_are_markup_are_named_in_errors(name, variables):
  code, _, err = call("lint", name, variables=variables)
  shown = err.decode("ascii" if variables else "utf-8")
  assert code == 2 and len(shown.splitlines()) == 1 and "\x1b" not in shown
  escaped = name.replace("\x1b", "\\x1b")
  assert (escaped.replace("é", "\\xe9") if variables else escaped) in shown


@pytest.mark.slow
@pytest.mark.parametrize(
  "arguments", [("--help",), ("info", "resnet8"), ("info", "distill"), ("lint", "--help")]
)
def test_what_is_printed_can_be_any_encodings(arguments):
  code, out, err = call(*arguments, variables={**ASCII, "COLUMNS": "40"})
  assert (code, err) == (0, b"")
  assert out.decode("ascii")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--help",), ("info", "resnet8"), ("bench", "net.tflite")])
def test_a_full_device_is_one_line(model, arguments):
  with open("/dev/full", "wb") as full:
    code, _, err = call(*arguments, stdout=full, cwd=model)
  assert code == 2
  assert err.decode().startswith("jaxcompress: ") and "No space left on device" in err.decode()
  assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_where_errors_cannot_be_printed_the_code_tells():
  with open("/dev/full", "wb") as full:
    assert call("lint", "nothing.tflite", stderr=full)[0] == 2


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error():
  started = child("info", "distill")
  with started.stdout as out, started.stderr as errors:
    out.readline()
    out.close()
    err = errors.read()
  started.wait(timeout=100)
  assert b"Traceback" not in err and b"Exception" not in err


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["-O", "-OO"])
def test_python_without_assertions_runs_it(model, flag):
  code, out, err = call("info", variables={"COLUMNS": "200"}, flags=(flag,))
  assert code == 0, err
  assert b"mobilenet_v4_conv_small" in out  # the last of many that are traced
  assert call("lint", model / "net.tflite", flags=(flag,))[0] == 0


@pytest.mark.slow
def test_ctrl_c_is_one_line(model):
  started = child("bench", model / "net.tflite", "--repeats", 10**8, start_new_session=True)
  time.sleep(8)
  started.send_signal(signal.SIGINT)
  try:
    out, err = started.communicate(timeout=100)
  finally:  # what it started measures for minutes otherwise
    with contextlib.suppress(ProcessLookupError):
      os.killpg(started.pid, signal.SIGKILL)
  assert (started.returncode, out, err) == (130, b"", b"jaxcompress: stopped\n")


def test_a_second_ctrl_c_ends_at_once(monkeypatch, capsys):
  codes, before = [], signal.getsignal(signal.SIGINT)
  monkeypatch.setattr(ending.os, "_exit", codes.append)
  try:
    with warnings.catch_warnings(), pytest.raises(SystemExit):
      ending.end(KeyboardInterrupt())
    signal.raise_signal(signal.SIGINT)
  finally:
    signal.signal(signal.SIGINT, before)
  assert codes == [130] and capsys.readouterr().err == "jaxcompress: stopped\n"


def test_typer_does_not_swallow_ctrl_c(monkeypatch, capsys):
  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(export, "lint", interrupted)
  monkeypatch.setattr("sys.argv", ["jaxcompress", "lint", "a.tflite"])
  monkeypatch.setattr(ending.signal, "signal", lambda *_: None)  # this process goes on
  with pytest.raises(SystemExit) as end:
    entry.main()
  assert (end.value.code, capsys.readouterr().err) == (130, "jaxcompress: stopped\n")


@pytest.mark.parametrize(
  ("error", "code", "message"),
  [
    (KeyboardInterrupt(), 130, "stopped; go on with --resume --out"),
    (training.PreemptedError(7), 143, "stopped by SIGTERM after 7 batches, which are saved; go on"),
    (data.InputError("input: one is gone"), 2, "input: one is gone; go on with --resume --out"),
    (OSError(errno.EIO, "Input/output error", "a/b"), 2, "a/b: Input/output error; go on with"),
    (OSError(errno.ENOSPC, "No space"), 2, "cannot be written (No space); go on with --resume"),
  ],
)
def test_a_run_that_ends_says_how_to_go_on(tmp_path, error, code, message):
  folder, _ = folders.claim_folder(str(tmp_path / "my out"), {}, resume=False)
  with pytest.raises(EndError) as caught, compress._resumable(folder, resumed=False):
    raise error
  assert caught.value.code == code and message in str(caught.value)
  assert f"--out '{folder}'" in str(caught.value)
  assert (folder / "run.json").exists()


@pytest.mark.parametrize("noted", [(), ("contents.json",), ("contents.json", "skipped.csv")])
def test_a_mistake_leaves_the_folder_free(tmp_path, noted):
  folder, _ = folders.claim_folder(str(tmp_path / "out"), {}, resume=False)
  for name in noted:
    (folder / name).touch()
  with pytest.raises(ValueError, match="bits"), compress._resumable(folder, resumed=False):
    raise ValueError("bits: 9")
  assert not folder.exists()


@pytest.mark.parametrize(("made", "resumed"), [("metrics.jsonl", False), ("contents.json", True)])
def test_a_mistake_takes_nothing_from_a_run_that_was_begun(tmp_path, made, resumed):
  folder, _ = folders.claim_folder(str(tmp_path / "out"), {}, resume=False)
  (folder / made).touch()
  with pytest.raises(ValueError, match="data"), compress._resumable(folder, resumed=resumed):
    raise ValueError("data: it has other images")
  assert {path.name for path in folder.iterdir()} == {"run.json", made}


@pytest.mark.parametrize(
  "error", [OSError(errno.EACCES, "Permission denied", "[x]"), OSError("odd"), OSError()]
)
def test_any_error_of_the_system_is_one_line(error, capsys, monkeypatch):
  monkeypatch.setattr(sys, "stdout", io.StringIO())
  with pytest.raises(SystemExit) as end:
    ending.end(error)
  err = capsys.readouterr().err
  assert end.value.code == 2 and len(err.splitlines()) == 1
