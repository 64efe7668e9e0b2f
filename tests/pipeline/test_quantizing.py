"""The quantize command on a network that knows bars from crosses and disks."""

import json
import re

import jax
import numpy as np
import pytest
from flax.core import FrozenDict

from jaxcompress import cli, export, models
from jaxcompress import data as datasets
from jaxcompress.export.runtime import Runtime
from jaxcompress.nn import init_variables
from jaxcompress.pipeline import networks, quantizing
from jaxcompress.quantize.storage import bits_of

CLASSES = ("bar", "cross", "disk")


@pytest.fixture(scope="module")
def images(shapes):
  return datasets.load(f"folder:{shapes}")


@pytest.fixture(scope="module")
def trained(images):
  """Random features with a classifier that is solved for: no training step is needed."""
  model = models.resnet8(3)
  shape = images.image_shape
  variables = jax.device_get(init_variables(model, jax.random.key(0), shape))
  x = datasets.Preprocess()(images.train.images)
  pooled = np.asarray(jax.jit(lambda x: model.apply(variables, x, train=False).pooled)(x))
  pooled = np.float64(pooled)
  features = np.concatenate([pooled, np.ones((len(pooled), 1))], axis=1)
  wanted = 8.0 * np.eye(3)[images.train.labels]
  solved = np.linalg.solve(features.T @ features + 1e-2 * np.eye(65), features.T @ wanted)
  classifier = {"kernel": solved[:-1].astype(np.float32), "bias": solved[-1].astype(np.float32)}
  return model, {**variables, "params": {**variables["params"], "classifier": classifier}}


@pytest.fixture(scope="module")
def file(trained, images, tmp_path_factory):
  metadata = {
    "classes": list(CLASSES),
    "image_shape": list(images.image_shape),
    "preprocess": datasets.Preprocess().to_metadata(),
  }
  path = tmp_path_factory.mktemp("models") / "shapes.safetensors"
  return models.save(path, *trained, metadata=metadata)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
  """Runs the command in an empty folder; returns exit code, output, errors."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("COLUMNS", "160")

  def call(*arguments, command="quantize"):
    monkeypatch.setattr("sys.argv", ["jaxcompress", command, *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
      cli.main()
    printed = capsys.readouterr()
    return end.value.code, printed.out, printed.err

  return call


@pytest.mark.slow
def test_a_file_becomes_a_verified_integer_file(run, file, shapes, images, trained, tmp_path):
  code, out, err = run(file, "--data", f"folder:{shapes}", "--method", "minmax", "--images", 48)
  assert (code, err) == (0, "")
  test = images.test
  logits = trained[0].apply(trained[1], datasets.Preprocess()(test.images), train=False).logits
  top1 = np.mean(np.asarray(logits).argmax(-1) == test.labels)
  assert top1 > 0.6
  assert f"top-1 on {len(test)} test images: float {100 * top1:.2f} %, integers" in out
  assert f"100 % of the logits of {len(test)} images are bit for bit the device's" in out
  assert "minmax" in out and "48 training images for calibration and choice" in out
  assert sorted(path.name for path in tmp_path.iterdir()) == ["model.labels.txt", "model.tflite"]
  assert (tmp_path / "model.labels.txt").read_text().split() == list(CLASSES)
  metadata = export.read_metadata(tmp_path / "model.tflite")
  assert metadata["model"] == "resnet8" and metadata["version"]
  assert tuple(metadata["classes"]) == CLASSES and metadata["preprocess"]["per_image"]


AUTO = ("--bits", 4, "--images", 48, "--out", "net.tflite")


@pytest.mark.slow
def test_the_first_file_is_there_before_the_next_method_and_better_ones_replace_it(
  run, file, shapes, tmp_path, monkeypatch
):
  seen = []  # at the end of each trial, the file that was there
  plain = quantizing.Trained.quantized

  def watched(self, options, method, *, on_trial, **asked):
    def told(trial):
      path = tmp_path / "net.tflite"
      seen.append(path.read_bytes() if path.exists() else None)
      on_trial(trial)

    return plain(self, options, method, on_trial=told, **asked)

  monkeypatch.setattr(quantizing.Trained, "quantized", watched)
  code, out, err = run(file, "--data", f"folder:{shapes}", *AUTO)
  assert (code, err) == (0, "")
  assert seen[0] is None and all(seen[1:]) and len(seen) > 1
  assert re.search(r"first file after [\d.]+ s: minmax, top-1 [\d.]+ % \(", out)
  assert re.search(
    r"next: mse, bias_correction, .*they may .* in about .* s.*keeps what is written", out
  )
  replaced = len(re.findall("replaced after", out))
  versions = {content for content in (*seen[1:], (tmp_path / "net.tflite").read_bytes())}
  assert len(versions) == replaced + 1 and replaced
  assert out.count("net.tflite: ") == out.count("100 % of the logits") == replaced + 1
  assert sorted(path.name for path in tmp_path.iterdir()) == ["net.labels.txt", "net.tflite"]


@pytest.mark.slow
def test_an_interruption_keeps_the_file_that_is_there_and_says_so(
  run, file, shapes, tmp_path, monkeypatch
):
  plain = quantizing.Trained.quantized

  def stopped(self, options, method, *, on_trial, **asked):
    def told(trial):
      if trial.name == "mse":
        raise KeyboardInterrupt
      on_trial(trial)

    return plain(self, options, method, on_trial=told, **asked)

  monkeypatch.setattr(quantizing.Trained, "quantized", stopped)
  code, out, err = run(file, "--data", f"folder:{shapes}", *AUTO)
  assert (code, err) == (130, "jaxcompress: stopped\n")
  assert "stopped: minmax is kept, whole, in net.tflite" in out
  kept = (tmp_path / "net.tflite").read_bytes()
  monkeypatch.undo()
  monkeypatch.chdir(tmp_path)
  code, _, _ = run(file, "--data", f"folder:{shapes}", *AUTO, "--method", "minmax", "--force")
  assert code == 0 and (tmp_path / "net.tflite").read_bytes() == kept
  assert sorted(path.name for path in tmp_path.iterdir()) == ["net.labels.txt", "net.tflite"]


def test_a_drop_that_no_method_meets_writes_nothing(run, file, shapes, tmp_path):
  code, out, err = run(
    file, "--data", f"folder:{shapes}", *AUTO, "--bits", 2, "--method", "minmax", "--max-drop", 0
  )
  assert code == 2 and "max_drop: 0 cannot be met" in err and "first file" not in out
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_export_quantizes_a_float_network_and_writes_formats_beside_each_other(
  run, file, shapes, tmp_path
):
  options = ("--data", f"folder:{shapes}", "--method", "minmax", "--images", 48, "--bits", 3)
  code, out, err = run(file, "--format", "onnx,packed", "--out", "both", *options, command="export")
  assert (code, err) == (0, "")
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "both.jcz", "both.labels.txt", "both.onnx",
  ]  # fmt: skip
  assert "both.onnx: " in out and "are bit for bit the device's" in out
  model = export.load_packed("both.jcz")
  assert model.kernels == "onnxruntime"
  assert {bits_of(layer.weights) for layer in model.layers.values()} <= {2, 3}
  assert export.verify("both.onnx", model, np.ones((2, 32, 32, 3), np.float32)).bit_equal == 1
  assert tuple(export.read_metadata("both.jcz")["classes"]) == CLASSES


def test_export_for_tensorrt_has_no_zero_points(run, file, shapes, tmp_path):
  options = ("--data", f"folder:{shapes}", "--method", "minmax", "--images", 48)
  code, out, err = run(
    file, "--format", "onnx", "--target", "tensorrt", "--out", "t", *options, command="export"
  )
  assert (code, err) == (0, "") and "of the logits" in out
  assert not [one for one in export.lint("t.onnx", "tensorrt") if one.severity == "error"]


@pytest.mark.slow
def test_export_writes_narrow_and_float_files_too(run, file, shapes, trained, images, tmp_path):
  options = ("--data", f"folder:{shapes}", "--method", "minmax", "--images", 48, "--bits", 4)
  formats = "tflite-int4,tflite-float32,tflite-float16,onnx-float32"
  code, out, err = run(file, "--format", formats, "--out", "n", *options, command="export")
  assert (code, err) == (0, "") and out.count("the float network") == 3
  assert "100 % of the logits" in out
  sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
  assert 1.8 < sizes["n.float32.tflite"] / sizes["n.float16.tflite"] < 2
  assert sizes["n.int4.tflite"] < sizes["n.float16.tflite"] / 2.5
  image = datasets.Preprocess()(images.test.images[:1])
  logits = trained[0].apply(trained[1], image, train=False).logits
  for name in ("n.float32.tflite", "n.float32.onnx"):
    np.testing.assert_allclose(Runtime(name)(image), logits, atol=1e-3)


@pytest.mark.slow
def test_budget_and_analysis_write_their_files_beside_it(run, file, shapes, tmp_path):
  code, out, err = run(
    file, "--data", f"folder:{shapes}", "--method", "minmax", "--images", 48,
    "--budget", "45KB", "--analyze", "--out", "small.tflite",
  )  # fmt: skip
  assert (code, err) == (0, "")
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {
    "small.tflite", "small.labels.txt", "small.analysis.json", "small.analysis.png", "small.candidates.png"
  }  # fmt: skip
  assert "Rule(match='^(?:" in out and "absmax(" in out
  assert "mixed: " in out and "8 bits: " in out and "4 bits: " in out
  read = json.loads((tmp_path / "small.analysis.json").read_text())
  assert [layer["name"] for layer in read["layers"]][:2] == ["input", "stem"]
  assert read["layers"][1]["bits"] <= 8 and "isolated error" in out
  assert {layer["bits"] for layer in read["layers"]} - {None} != {8}
  assert f"the 10 worst of {len(read['layers'])} layers; all are in small.analysis.json" in out
  size, unit = re.fullmatch(
    r"packed weights: ([\d.]+) (\w+) of a budget of 45.0 kB", last(out)
  ).groups()
  assert unit == "kB" and 30 < float(size) <= 45
  assert len(out.splitlines()) < 100


def last(out):
  return out.splitlines()[-1]


def test_a_folder_of_a_run_is_read_with_all_that_it_says(trained, images, tmp_path):
  network = networks.build("resnet8", 3, images.image_shape, None, None, {})
  variables = init_variables(network.module, jax.random.key(1), images.image_shape)
  reader = datasets.ImageReader(images.image_shape[:2], preprocess=datasets.Preprocess(scale=32.0))
  networks.save_network(
    tmp_path / "student", networks.TrainedNetwork(network, variables), CLASSES, reader
  )
  saved = networks.read_network(tmp_path / "student")
  assert saved.module == network.module and saved.title == "resnet8"
  assert (saved.classes, saved.image_shape) == (CLASSES, images.image_shape)
  assert saved.reader == reader
  jax.tree.map(np.testing.assert_array_equal, saved.variables, jax.device_get(variables))


def test_a_file_that_says_nothing_is_taken_with_a_word_about_it(
  run, trained, shapes, tmp_path, monkeypatch
):
  path = models.save(tmp_path / "bare.safetensors", *trained)
  assert networks.read_network(path)[3:] == (None, None, None)
  stop = ValueError("far enough")
  monkeypatch.setattr(
    quantizing.quantize, "post_training", lambda *a, **k: (_ for _ in ()).throw(stop)
  )
  code, out, err = run(path, "--data", f"folder:{shapes}")
  assert (code, err) == (2, "jaxcompress: far enough\n")
  assert "names no preprocessing; that of compress is taken" in out


@pytest.mark.slow
@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--method", "magic"), "method: 'magic' is unknown; it must be one of auto, minmax"),
    (("--bits", 1), "bits: 1 is out of range"),
    (("--bits", 4, "--budget", "1MB"), "the budget decides the bits"),
    (("--budget", "tiny"), "budget: 'tiny' is no size; write it as 300KB"),
    (("--max-drop", 5), "max_drop must be a fraction between 0 and 1, such as 0.01, got 5.0"),
    (("--images", 0), "images: 0 must be at least 1"),
    (("--image-size", 0), "image_size: 0 must be at least 1"),
    (("--kernels", "cuda"), "kernels: 'cuda' is unknown; it must be one of"),
    (("--data", "glyfs"), "'glyfs' is unknown"),
    (("--data", "digits"), "the model knows 3 (bar, cross, disk, ...); name the data that it was"),
    (("--out", "no/model.tflite"), "the folder no does not exist"),
    (("--budget", "1KB"), "jaxcompress: budget: 1000 cannot be met; with 2-bit weights everywhere"),
  ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
  run, file, shapes, tmp_path, arguments, message
):
  data = () if "--data" in arguments else ("--data", f"folder:{shapes}")
  code, _, err = run(file, *data, *arguments)
  assert code == 2
  assert message in err and err.startswith("jaxcompress: ") and err.count("\n") == 1
  assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_none_is_refused(run, tmp_path):
  for name, content in (("none.safetensors", None), ("junk.safetensors", b"junk"), ("empty", "")):
    if content == "":
      (tmp_path / name).mkdir()
    elif content is not None:
      (tmp_path / name).write_bytes(content)
    code, _, err = run(tmp_path / name)
    assert code == 2 and err.startswith("jaxcompress: ") and name in err and err.count("\n") == 1


def test_a_file_that_exists_is_left_alone_unless_forced(run, file, shapes, tmp_path):
  (tmp_path / "model.tflite").write_text("mine")
  arguments = (file, "--data", f"folder:{shapes}", "--method", "minmax", "--images", 48)
  code, _, err = run(*arguments)
  assert code == 2 and "out: model.tflite exists; name another file, or add --force" in err
  assert (tmp_path / "model.tflite").read_text() == "mine"
  (tmp_path / "other.analysis.png").write_text("mine")
  code, _, err = run(*arguments, "--out", "other.tflite", "--analyze")
  assert code == 2 and "other.analysis.png exists" in err
  assert run(*arguments, "--force")[0] == 0
  assert (tmp_path / "model.tflite").stat().st_size > 10_000


@pytest.mark.parametrize(
  ("outputs", "listed"),
  [
    (FrozenDict(scores="classifier", embedding="pool"), "scores (3,), embedding (8,)"),
    (FrozenDict(map="stem"), "map (8, 8, 8)"),
  ],
)
def test_networks_that_are_no_classifiers_are_refused_with_what_they_give(
  run, shapes, tmp_path, outputs, listed
):
  layers = (
    ("stem", "ConvNorm", {"features": 8, "kernel": 3}, ("input",)),
    ("pool", "GlobalAvgPool", {}, ("stem",)),
    ("classifier", "Dense", {"features": 3}, ("pool",)),
  )
  end = next(iter(outputs.values()))
  model = models.replayed(
    layers=layers if end == "classifier" else layers[:1],
    ends=(end, None, (), (), outputs),
    image_size=8,
  )
  path = models.save(
    tmp_path / "net.safetensors", model, init_variables(model, jax.random.key(0), (8, 8, 3))
  )
  code, _, err = run(path, "--data", f"folder:{shapes}")
  assert code == 2 and f"gives {listed}; this command takes networks of one output" in err
