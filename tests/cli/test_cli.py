"""The command line: accepted arguments, output and refusals."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import jaxcompress
from jaxcompress import distill, export, models
from jaxcompress.cli import entry
from jaxcompress.nn import Graph, Node, init_variables
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid


def test_help_lists_the_options_with_their_defaults(run):
  code, out, _ = run("compress", "--help")
  assert code == 0
  for option in (
    "--preset", "--data", "--student", "--width", "--teacher", "--teacher-weights", "--distill", "--bits", "--epochs",
    "--sparsity", "--sparsity-distribution", "--sparsity-pattern", "--cluster",
    "--batch-size", "--seed", "--out", "--resume", "--quick",
  ):  # fmt: skip
    assert option in out


def test_info_shows_a_model_layer_by_layer(run):
  code, out, _ = run("info", "mobilenet_v2")
  assert code == 0
  assert "3,504,872" in out
  assert "stage0_block0/depthwise" in out


@pytest.mark.slow
def test_info_without_a_model_shows_the_sizes_of_all(run, monkeypatch):
  monkeypatch.setenv("COLUMNS", "80")
  code, out, _ = run("info")
  assert code == 0
  rows = {line.split()[0]: line.split()[1:3] for line in out.splitlines() if len(line.split()) > 6}
  assert rows["ghostnet"] == ["224", "5,182,508"]
  assert rows["vgg13"] == ["32", "9,462,180"]
  assert rows.keys() >= set(models.MODELS)
  assert "…" not in out


def test_bench_shows_files_side_by_side(run, tmp_path):
  shapes = ((1, 2, 2, 3),), ((1, 3),)
  pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
  graph = Graph((pool,), (1, 2, 2, 3), "pool")
  export.tflite_float(graph, {}, tmp_path / "pool.tflite")
  export.onnx_float(graph, {}, tmp_path / "pool.onnx")
  code, out, _ = run("bench", "pool.tflite", "pool.onnx", "--threads", 2, "--repeats", 5)
  assert code == 0
  rows = [line.split() for line in out.splitlines() if line.strip().startswith("pool")]
  assert [row[0] for row in rows] == ["pool.tflite", "pool.onnx"]
  assert "2 threads" in out and all("±" in row and "ms" in row for row in rows)
  code, _, err = run("bench", "nothing.onnx")
  assert (code, "nothing.onnx cannot be read" in err, len(err.splitlines())) == (2, True, 1)


def test_lint_says_what_breaks_which_rule_and_ends_with_one_for_errors(run, tmp_path):
  shapes = ((1, 2, 2, 3),), ((1, 3),)
  pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
  graph = Graph((pool,), (1, 2, 2, 3), "pool")
  export.tflite_float(graph, {}, tmp_path / "float.tflite")
  grid = Grid(np.float32(0.1), 0)
  export.tflite(QuantizedModel(graph, {"input": grid, "pool": grid}, {}), tmp_path / "int8.tflite")
  code, out, _ = run("lint", "int8.tflite", "--target", "ethos-u")
  assert (code, out.strip()) == (0, "int8.tflite for ethos-u: errors 0, warnings 0")
  code, out, _ = run("lint", "float.tflite", "--target", "tflm")
  assert code == 1 and "float.tflite for tflm: errors 1, warnings 0" in out
  assert all(word in out for word in ("MEAN", "pool", "integer", "computes in float"))
  for arguments, message in (
    (("int8.tflite", "--target", "phone"), "target: 'phone' is unknown"),
    (("nothing.tflite", "--target", "tflm"), "nothing.tflite cannot be read"),
    (("int8.tflite", "--target", "tensorrt"), "takes .onnx files"),
  ):
    code, _, err = run("lint", *arguments)
    assert (code, message in err, len(err.splitlines())) == (2, True, 1)


def test_info_takes_widths_classes_and_sizes(run):
  code, out, _ = run(
    "info", "shufflenet_v2", "--width", "0.5", "--classes", "10", "--image-size", "32"
  )
  assert code == 0
  assert "stage2_block3/conv2" in out and "4x4x192" in out
  code, _, err = run("info", "resnet20", "--width", "0.5")
  assert code == 2 and "width: resnet20 has no such option" in err


def test_info_takes_what_was_trained_and_sends_exported_files_to_explain(run, tmp_path):
  model, file = models.resnet8(7), tmp_path / "net.safetensors"
  variables = init_variables(model, jax.random.key(0), (28, 28, 1))
  for side, metadata in ((28, {"image_shape": [28, 28, 1]}), (32, {})):
    models.save(file, model, variables, metadata=metadata)
    code, out, err = run("info", str(file))
    assert code == 0, err
    assert f"{side}x{side}x16" in out and f"{models.summarize(model, 28, 1).parameters:,}" in out
  code, out, err = run("info", str(file), "--width", "0.5")
  assert (code, out) == (2, "") and "width: 0.5 is an option of models by name" in err
  (tmp_path / "net.tflite").write_bytes(b"")
  code, out, err = run("info", str(tmp_path / "net.tflite"))
  assert (code, out) == (2, "") and "jaxcompress explain" in err


def test_info_distill_lists_all_losses_with_their_weights(run, monkeypatch):
  monkeypatch.setenv("COLUMNS", "80")
  code, out, _ = run("info", "distill")
  assert code == 0
  rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if len(line.split()) > 2}
  assert rows.keys() >= set(distill.DISTILLERS)
  assert rows["pkt"][:2] == ["pooled", "30000"]
  assert "…" not in out
  code, out, err = run("info", "distill", "--width", "0.5")
  assert (code, out) == (2, "") and "width: 0.5 is an option of models, not of losses" in err


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--distill", "kd,zzz"), "distill: 'zzz' is unknown; it must be one of kd, "),
    (("--distill", "kdd"), "distill: 'kdd' is unknown; did you mean kd? It must be one of kd, "),
    (("--distill", "simkd"), "'simkd' trains no classifier of the student's own; add labels:1"),
    (("--data", "digits", "--distill", "kd,fsp"), "fsp compares maps of equal channels"),
    (("--data", "digits", "--distill", "cat_kd"), "head: 'classifier' of the student reads 320"),
    (("--data", "glyfs"), "'glyfs' is unknown; it must be glyphs, digits"),
    (("--data", "folder:/no/such/folder"), "/no/such/folder"),
    (
      ("--data", "digits", "--student", "mobilenet_v9"),
      "'mobilenet_v9' is unknown; did you mean mobilenet_v",
    ),
    (("--data", "digits", "--teacher", "resnet21"), "'resnet21' is unknown; did you mean resnet"),
    (
      ("--preset", "kd-mnist"),
      "preset: 'kd-mnist' is unknown; it must be one of default, kd-cifar",
    ),
    (("--bits", "9"), "bits: 9 is out of range; it must be 2 to 8"),
    (("--bits", "nine"), "must be a whole number, got nine"),
    (("--epochs", "many"), "must be a number, got many"),
    (("--bits", "1"), "bits: 1 is out of range; it must be 2 to 8"),
    (("--sparsity", "1"), "sparsity: 1.0 is out of range; it must be above 0 and below 1"),
    (("--sparsity-pattern", "2-4"), "sparsity_pattern: '2-4' is unknown; it must be unstructured"),
    (("--sparsity-pattern", "unstructured"), "needs a share of zeros; give sparsity too"),
    (
      ("--sparsity", "0.8", "--sparsity-pattern", "2:4"),
      "sparsity: 0.8 does not fit the pattern 2:4, which has 0.5",
    ),
    (
      ("--sparsity", "0.8", "--sparsity-distribution", "even"),
      "sparsity_distribution: 'even' is unknown; it must be one of erk, uniform, global",
    ),
    (
      ("--sparsity-pattern", "2:4", "--sparsity-distribution", "erk"),
      "sparsity_distribution: erk needs a sparsity to distribute",
    ),
    (("--cluster", "1"), "cluster: 1 is out of range; it must be 2 to 128"),
    (("--cluster", "32", "--max-macs", "2M"), "cluster: 32 does not work with a budget"),
    (("--cluster", "32", "--bits", "4"), "bits: 4 does not fit cluster 32"),
    (("--epochs", "0"), "epochs: 0.0 must be positive"),
    (("--input-workers", "-1"), "workers: -1 must be a whole number, at least 0"),
    (("--heartbeat", "0"), "heartbeat: 0 must be a whole number, at least 1"),
    (("--batch-size", "1"), "batch_size: 1 is too small"),
    (("--seed", "-1"), "seed: -1 must not be negative"),
    (("--out", "/proc/nowhere"), "out: /proc/nowhere cannot be written"),
    (("--resume",), "resume: jaxcompress-out holds no run"),
    (("--data", "digits", "--teacher-weights", "nowhere"), "teacher_weights: there is no file"),
    (("--data", "digits", "--student", "resnet8", "--width", "2"), "width: resnet8 has no such"),
    (("--num-processes", "2"), "coordinator: it is missing; name HOST:PORT of process 0"),
    (("--coordinator", "host:1234", "--num-processes", "2"), "process_id: it is missing"),
    (
      ("--coordinator", "host", "--num-processes", "2", "--process-id", "0"),
      "coordinator: 'host' must be HOST:PORT",
    ),
    (
      ("--coordinator", "host:1", "--num-processes", "2", "--process-id", "2"),
      "process_id: 2 must be 0 to 1",
    ),
  ],
)
def test_mistakes_are_one_line_that_names_the_value(run, tmp_path, arguments, message):
  code, _, err = run("compress", *arguments)
  assert code == 2
  assert message in err
  assert err.startswith("jaxcompress: ")
  assert err.count("\n") == 1
  assert os.listdir(tmp_path) == []  # the same command, mended, finds the folder free


@pytest.mark.parametrize("arguments", [("--bits", "x"), ("--no-such-option",)])
def test_what_cannot_be_parsed_is_one_line(run, arguments):
  code, _, err = run("compress", *arguments)
  assert code == 2
  assert arguments[0] in err and "See jaxcompress compress --help." in err
  assert err.startswith("jaxcompress: ") and err.count("\n") == 1


def test_the_package_lists_its_public_names_alone():
  assert {name for name in dir(jaxcompress) if not name.startswith("__")} == set(
    jaxcompress.__all__
  )


def test_the_version_is_said(run):
  assert run("--version") == (0, f"jaxcompress {jaxcompress.__version__}\n", "")


def test_an_unknown_model_is_told_with_the_choices(run):
  code, _, err = run("info", "mobilenet_v3_huge")
  assert code == 2
  assert "'mobilenet_v3_huge' is unknown; did you mean mobilenet_v3_large? All are listed by" in err
  assert err.count("\n") == 1
  assert "must be one of mobilenet_v1, " in run("info", "zzz")[2]
  assert "model: out/nothing does not exist; give a file" in run("info", "out/nothing")[2]


def test_a_folder_that_holds_something_is_left_alone(run, tmp_path):
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "notes.txt").write_text("mine")
  code, _, err = run("compress", "--out", "mine")
  assert code == 2
  assert "mine holds files that are of no run; name another folder" in err
  assert [(p.name, p.read_text()) for p in (tmp_path / "mine").iterdir()] == [("notes.txt", "mine")]


def test_a_data_folder_with_one_class_is_refused(run, tmp_path):
  (tmp_path / "images" / "only").mkdir(parents=True)
  Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images" / "only" / "a.png")
  code, _, err = run("compress", "--data", "folder:images", "--out", "out")
  assert code == 2
  assert "only" in err
  assert err.count("\n") == 1
  assert not (tmp_path / "out").exists()


def test_a_resumed_run_keeps_its_options(run, tmp_path):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "run.json").write_text('{"data": "digits", "seed": 3}')
  code, _, err = run("compress", "--out", "out", "--resume", "--seed", "4")
  assert code == 2
  assert "seed: 4 differs from 3" in err


@pytest.mark.parametrize("content", ["{", '{"no_such": 1}', "[]"])
def test_a_damaged_run_file_is_one_clear_error(run, tmp_path, content):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "run.json").write_text(content)
  code, _, err = run("compress", "--out", "out", "--resume")
  assert code == 2
  assert "damaged" in err


def test_help_imports_neither_jax_nor_the_library(tmp_path):
  """Which takes it from seconds to a fraction of one."""
  program = (
    "import sys; from jaxcompress.cli import app; print({'jax', 'numpy'} & set(sys.modules))"
  )
  found = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  assert found.stdout.strip() == "set()"


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
@pytest.mark.parametrize(
  ("command", "given", "again"),
  [("compress", None, True), ("compress", "", False), ("info", None, False)],
)
def test_what_computes_for_long_starts_again_with_memory_that_is_kept(
  monkeypatch, command, given, again
):
  monkeypatch.setattr(os, "environ", dict(os.environ))
  os.environ.pop("GLIBC_TUNABLES", None)
  if given is not None:
    os.environ["GLIBC_TUNABLES"] = given
  started = []
  monkeypatch.setattr(os, "execv", lambda *given: started.append(given))
  monkeypatch.setattr(entry, "main", lambda: None)
  monkeypatch.setattr(entry.gc, "set_threshold", lambda *given: None)
  monkeypatch.setattr(entry.logging.getLogger("absl"), "setLevel", lambda level: None)
  monkeypatch.setattr("sys.argv", ["jaxcompress", command])
  entry.start()
  assert bool(started) == again
  assert (os.environ.get("GLIBC_TUNABLES") == entry.KEPT_MEMORY) == again


def test_the_page_says_how_a_program_keeps_memory_as_commands_do():
  page = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "from-python.md"
  assert f"export GLIBC_TUNABLES={entry.KEPT_MEMORY}\n" in page.read_text()
