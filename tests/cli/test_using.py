"""The output of ``predict`` and ``evaluate``, and how they end."""

import csv
import io
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from jaxcompress import data, export, models, pipeline
from jaxcompress.nn import fold, init_variables

CLASSES = ("cat", "dog", "éclair")
READER = data.ImageReader(16)
ODD = ("a,b\n.png", "[bold]x.png", "café.png", 'say "hi" :smile:.png', "caf\udce9.png")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  network = models.resnet8(len(CLASSES))
  variables = init_variables(network, jax.random.key(0), (16, 16, 3))
  metadata = {"classes": list(CLASSES), **READER.to_metadata()}
  path = tmp_path_factory.mktemp("model") / "net.safetensors"
  return models.save(path, network, variables, metadata=metadata)


@pytest.fixture
def run(run_in_bytes):
  """Its output in bytes, since names of files may be no text."""
  return run_in_bytes


def picture(path, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  shape = (20 + seed, 30, 3)
  pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
  Image.fromarray(pixels).save(path, "PNG")
  return path


@pytest.fixture
def pictures(tmp_path):
  """A folder with odd names, folders, what is no picture, and a damaged one."""
  folder = tmp_path / "pictures"
  for i, name in enumerate(ODD):
    picture(folder / "deep" / name, i)
  (folder / "notes.txt").write_text("no picture")
  (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
  return folder


def test_json_names_every_picture_and_what_is_damaged(run, model, pictures):
  code, out, errors = run("predict", model, "pictures", "--format", "json", "--top", 2)
  found = json.loads(out)
  assert code == 1
  assert "1 of 6 pictures cannot be read" in errors
  assert "notes.txt" in errors or ".txt" in errors
  names = {one["image"] for one in found["images"]}
  assert names == {"pictures/broken.jpg", *(f"pictures/deep/{name}" for name in ODD)}
  (broken,) = (one for one in found["images"] if "error" in one)
  assert broken["image"] == "pictures/broken.jpg"
  wanted = pipeline.Classifier.open(model).predict(sorted(pictures.rglob("*.png")), top=2)
  by_name = {one["image"]: one["predictions"] for one in found["images"] if "error" not in one}
  for one in wanted:
    pairs = zip(one.classes, one.scores, strict=True)
    mine = by_name["pictures/" + os.path.relpath(one.image, pictures)]
    assert mine == [{"class": name, "score": round(score, 6)} for name, score in pairs]
  assert found["score"] == "softmax of the logits"


def test_csv_keeps_the_very_bytes_of_names(run, model, pictures):
  code, out, _ = run("predict", model, "pictures/deep", "--format", "csv")
  rows = list(csv.DictReader(io.StringIO(out.decode("utf-8", "surrogateescape"), newline="")))
  assert code == 0
  assert {row["image"] for row in rows} == {f"pictures/deep/{name}" for name in ODD}
  assert all(row["class"] in CLASSES and 0 < float(row["score"]) < 1 for row in rows)
  assert os.fsencode("pictures/deep/caf\udce9.png") in out


def test_the_table_shows_names_as_text(run, model, pictures):
  code, out, errors = run("predict", model, "pictures/deep", "pictures/broken.jpg")
  assert code == 1
  assert "[bold]x.png" in out.decode()
  assert ":smile:" in out.decode()
  assert "cannot be read: it is no image" in out.decode()
  assert out.decode().count("%") == len(ODD)
  assert "1 of 6 pictures cannot be read" in errors


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("nowhere.png",), "images: nowhere.png does not exist"),
    (("empty",), "images: found none in empty"),
    (("pictures", "--format", "xml"), "format: 'xml' is unknown"),
    (("pictures", "--top", "0"), "top: 0 must be"),
    (("pictures", "--pixels", "imagenet"), "has its own; leave it out"),
    (("pictures", "--labels", "nowhere.txt"), "labels: nowhere.txt cannot be read"),
    (("pictures", "--labels", "two.txt"), "classes: there are 2 names"),
  ],
)
def test_mistakes_are_one_line(arguments, message, run, model, pictures, tmp_path):
  (tmp_path / "empty").mkdir()
  (tmp_path / "two.txt").write_text("a\nb\n")
  code, out, errors = run("predict", model, *arguments)
  assert (code, out) == (2, b"")
  assert message in errors
  assert errors.splitlines()[-1].startswith("jaxcompress: ")


def test_a_file_that_says_nothing_names_the_option_that_helps(run, tmp_path):
  network = models.resnet8(2)
  models.save(
    tmp_path / "net.safetensors", network, init_variables(network, jax.random.key(0), (16, 16, 3))
  )
  picture(tmp_path / "a.png")
  code, _, errors = run("predict", "net.safetensors", "a.png")
  assert code == 2
  assert "add --pixels imagenet, or one of 0..1, -1..1, 0..255" in errors
  code, _, errors = run("predict", "net.safetensors", "a.png", "--pixels", "0..1")
  assert "reads images of any size; add --image-size 224" in errors
  given = ("--pixels", "0..1", "--image-size", 24, "--format", "csv")
  code, out, errors = run("predict", "net.safetensors", "a.png", *given)
  assert code == 0, errors
  assert out.splitlines()[1].split(b",")[2] in (b"0", b"1")
  (tmp_path / "labels.txt").write_text("\ufeffcafé\n\nzoo\n", "utf-8")
  code, out, _ = run("predict", "net.safetensors", "a.png", *given, "--labels", "labels.txt")
  assert out.decode().splitlines()[1].split(",")[2] in ("café", "zoo")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_a_prediction_with_a_file_for_devices_waits_for_no_framework(suffix, tmp_path):
  network = models.resnet8(len(CLASSES))
  graph = models.summarize(network, 16).graph
  folded = fold(graph, init_variables(network, jax.random.key(0), (16, 16, 3)))
  write = {"tflite": export.tflite_float, "onnx": export.onnx_float}[suffix]
  metadata = {"classes": list(CLASSES), **READER.to_metadata()}
  path = write(graph, folded, tmp_path / f"net.{suffix}", metadata=metadata)
  program = (
    "import sys; from jaxcompress.cli import main; sys.argv[0] = 'jaxcompress'\n"
    "try:\n  main()\nfinally:\n"
    "  print({'jax', 'flax', 'tensorflow', 'matplotlib'} & set(sys.modules), file=sys.stderr)\n"
  )
  arguments = ("predict", path, picture(tmp_path / "a.png"), "--format", "csv")
  done = subprocess.run(
    [sys.executable, "-c", program, *map(str, arguments)],
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stderr.splitlines()[-1] == "set()"
  assert done.stdout.splitlines()[1].split(",")[2] in CLASSES


@pytest.fixture
def labelled(tmp_path):
  """Five pictures of each of two classes, one of them damaged, and one of a class of its own."""
  for i in range(5):
    picture(tmp_path / "labelled" / "dog" / f"{i}.png", i)
    picture(tmp_path / "labelled" / "cat" / f"{i}.png", 10 + i)
  (tmp_path / "labelled" / "cat" / "z.png").write_bytes(b"damaged")
  return tmp_path / "labelled"


def test_a_whole_folder_is_evaluated_as_json_csv_and_table(run, model, labelled):
  given = ("--data", "folder:labelled", "--split", "all")
  code, out, errors = run("evaluate", model, *given, "--format", "json")
  found = json.loads(out)
  assert (code, found["images"]) == (0, 10)
  assert "z.png cannot be read" in errors
  paths = [path for path in sorted(labelled.rglob("?.png")) if path.name != "z.png"]
  labels = [path.parent.name for path in paths]
  predicted = [one.label for one in pipeline.Classifier.open(model).predict(paths)]
  assert found["top1"] == np.mean([a == b for a, b in zip(labels, predicted, strict=True)])
  assert [one["images"] for one in found["classes"]] == [5, 5, 0]
  assert [one["predicted"] for one in found["classes"]] == [predicted.count(c) for c in CLASSES]
  code, out, errors = run("evaluate", model, *given, "--format", "csv")
  rows = list(csv.DictReader(io.StringIO(out.decode())))
  assert [row["class"] for row in rows] == list(CLASSES)
  assert rows[2]["recall"] == ""
  assert "of 10 images are right" in errors
  code, out, _ = run("evaluate", model, *given)
  assert code == 0
  assert "of 10 images are right" in out.decode()
  assert "precision" in out.decode()


def test_a_whole_folder_is_evaluated_without_the_copies_that_a_run_leaves_out(run, model, tmp_path):
  for part, name, seed in (
    ("train", "dog/0.png", 0),
    ("train", "dog/1.png", 1),  # in the test part too
    ("train", "dog/2.png", 2),  # a cat as well
    ("train", "cat/3.png", 3),
    ("train", "cat/4.png", 2),
    ("test", "dog/5.png", 1),
    ("test", "cat/6.png", 6),
    ("test", "cat/7.png", 6),  # a copy that changes nothing
  ):
    picture(tmp_path / "copied" / part / name, seed)
  given = ("--data", "folder:copied", "--split", "all", "--format", "json")
  code, out, errors = run("evaluate", model, *given)
  assert (code, json.loads(out)["images"]) == (0, 5)
  assert (
    "2 images are left out: in several classes (train/cat/4.png: it is train/dog/2.png" in errors
  )
  assert "1 image is left out: in several splits (train/dog/1.png: it is test/dog/5.png" in errors


def test_one_class_with_one_picture_is_enough_and_an_unknown_class_is_refused(run, model, tmp_path):
  picture(tmp_path / "one" / "éclair" / "1.png")
  code, out, _ = run(
    "evaluate", model, "--data", "folder:one", "--split", "all", "--format", "json"
  )
  assert (code, json.loads(out)["images"]) == (0, 1)
  picture(tmp_path / "one" / "zebra" / "1.png")
  code, out, errors = run("evaluate", model, "--data", "folder:one", "--split", "all")
  assert (code, out) == (2, b"")
  assert "1 of 2 classes (zebra) are not among the 3" in errors


def test_the_test_split_is_the_default_and_other_splits_are_named(run, model, labelled):
  code, out, errors = run("evaluate", model, "--data", "folder:labelled", "--format", "json")
  assert (code, json.loads(out)["images"]) == (0, 2)
  assert "2 of 10 images are the test split; split all takes all" in errors
  code, _, errors = run("evaluate", model)
  assert code == 2
  assert "add --data folder:PATH" in errors
