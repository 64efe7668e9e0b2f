"""report.html and the files beside it."""

import ast
import base64
import dataclasses
import json
import re
import sys
from html.parser import HTMLParser
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jaxcompress.data.preprocess import Preprocess
from jaxcompress.report.html import render
from jaxcompress.report.results import Entry
from jaxcompress.report.snippet import device_program, preprocess_source
from jaxcompress.report.write import from_json, to_json, write_report

VOID = {"meta", "link", "img", "br", "hr", "input", "source"}
NASTY = '<script>alert("1")</script>&\'$title ${x}'


class Page(HTMLParser):
  """Collects elements, checks that they nest, and keeps the text."""

  def __init__(self, page):
    super().__init__()
    self.stack, self.elements, self.words = [], [], []
    self.feed(page)
    assert not self.stack

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in VOID:
      self.stack.append(tag)

  def handle_endtag(self, tag):
    assert self.stack.pop() == tag

  def handle_data(self, data):
    self.words.append(data)

  @property
  def text(self):
    return " ".join(self.words).replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture(scope="module")
def written(full, tmp_path_factory):
  folder = tmp_path_factory.mktemp("report") / "made" / "here"
  return folder, write_report(full, folder)


def test_the_folder_holds_the_report_and_nothing_else(written, full):
  folder, paths = written
  assert {p.name for p in folder.iterdir()} == {p.name for p in paths.values()}
  assert {"report.json", "report.html", "confusion.png"} <= {p.name for p in folder.iterdir()}
  assert to_json(from_json(json.loads(paths["json"].read_text("utf-8")))) == to_json(full)


def test_what_small_devices_make_of_the_file_is_in_the_comparison(written):
  words = Page(written[1]["html"].read_text("utf-8")).text
  assert "TFLite-Micro, arena" in words and "64 of 64 operators on the NPU" in words


def test_writing_again_replaces_the_report(written, full):
  folder, paths = written
  before = {path.name: path.read_bytes() for path in paths.values()}
  (folder / "students.txt").write_text("mine")
  write_report(full, folder)
  assert {path.name: path.read_bytes() for path in paths.values()} == before
  assert (folder / "students.txt").read_text() == "mine"


def test_the_page_asks_no_server_for_anything(written):
  page = written[1]["html"].read_text("utf-8")
  assert not re.search(r"(https?:)?//\w", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
  for tag, attrs in Page(page).elements:
    assert tag not in ("script", "link", "iframe", "object", "embed")
    for name in ("src", "srcset", "href", "action"):
      assert attrs.get(name, "data:").startswith(("data:", "#"))
  assert "default-src 'none'" in page


def test_images_are_inside_as_they_were_written(written):
  folder, paths = written
  page = paths["html"].read_text("utf-8")
  for path in folder.glob("*.png"):
    assert base64.b64encode(path.read_bytes()).decode() in page


def test_the_page_says_what_was_measured(written):
  words = Page(written[1]["html"].read_text("utf-8")).text
  for part in (
    "188,000 of 188,000 logits are bit-equal",
    "93.67 %",
    "0.41 ms",
    "0.33 ms",
    "100 %",
    "stage0_block0/expand",
    "jaxcompress compress --seed 0",
    "SGD 0.1",
    "2 min 0 s",
  ):
    assert part in words, part


def test_the_gain_by_distillation_says_where_it_may_be_chance(full):
  assert "within the noise" not in Page(render(full, {})).text
  alone = full.entries["alone"]
  close = dataclasses.replace(full.entries["distilled"], top1=alone.top1 + 0.004)
  entries = {**full.entries, "distilled": close}
  words = Page(render(dataclasses.replace(full, entries=entries), {})).text
  assert re.search(r"\+0\.4 points\s*by distillation, within the noise \(0\.7\)", words)


def test_strings_from_outside_are_escaped(full):
  run = dataclasses.replace(
    full.run, data=NASTY, command=NASTY, device=NASTY, classes=(NASTY,) * 47,
    settings={NASTY: {NASTY: NASTY}}, packages={NASTY: NASTY}, runtime=NASTY,
  )  # fmt: skip
  layers = tuple(dataclasses.replace(layer, name=NASTY, op=NASTY) for layer in full.layers)
  entries = {
    key: dataclasses.replace(e, model=NASTY, file=NASTY) for key, e in full.entries.items()
  }
  entries[NASTY] = entries["alone"]
  results = dataclasses.replace(full, run=run, layers=layers, entries=entries, curves={NASTY: []})
  page = Page(render(results, {}))
  assert not any(tag == "script" for tag, _ in page.elements)
  assert NASTY in page.text


def test_notes_of_the_data_are_told_where_the_run_is(full):
  assert "notes" not in Page(render(full, {})).text
  run = dataclasses.replace(full.run, notes=("left out: 2 hidden files", NASTY))
  page = Page(render(dataclasses.replace(full, run=run), {}))
  assert "left out: 2 hidden files" in page.text and NASTY in page.text


def test_a_page_of_bare_results_has_no_empty_sections(full):
  entries = {
    key: Entry(e.model, e.top1, e.parameters, e.macs, e.bytes) for key, e in full.entries.items()
  }
  bare = dataclasses.replace(
    full, entries=entries, curves={}, confusion=None, layers=(), ranges=(), samples=()
  )
  page = Page(render(bare, {}))
  ids = {attrs["id"] for tag, attrs in page.elements if tag == "section"}
  assert {"deploy", "reproduce"} <= ids
  assert not {"mistakes", "layers"} & ids
  assert "latency" not in page.text
  assert "bit-equal" not in page.text


def test_a_teacher_from_a_checkpoint_is_said_not_to_be_trained_here(full):
  teacher = dataclasses.replace(full.entries["teacher"], steps=0, seconds=0.0)
  curves = {key: rows for key, rows in full.curves.items() if key != "teacher"}
  results = dataclasses.replace(full, entries={**full.entries, "teacher": teacher}, curves=curves)
  assert "Not trained in this run: teacher." in Page(render(results, {})).text


@pytest.mark.parametrize(
  ("preprocess", "expected"),
  [
    ({}, lambda x: x),
    ({"center": 127.5, "scale": 64.0}, lambda x: (x - 127.5) / 64),
    ({"center": (1.0, 2.0, 3.0), "scale": [4.0, 5.0, 6.0]}, lambda x: (x - [1, 2, 3]) / [4, 5, 6]),
    (
      {"center": 127.5, "scale": 64.0, "per_image": True, "epsilon": 0.1},
      lambda x: (x - x.mean((0, 1))) / 64 / (np.sqrt(np.var(x, (0, 1)).mean()) / 64 + 0.1),
    ),
    ({"python": "def preprocess(image):\n  return image / np.float32(2)"}, lambda x: x / 2),
  ],
)  # fmt: skip
def test_the_deployment_program_runs(full, preprocess, expected, tmp_path, monkeypatch, capsys):
  pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
  Image.fromarray(pixels).save(tmp_path / "image.png")
  runtime = fake_runtime(classes=47, scale=0.5, zero_point=3)
  monkeypatch.setitem(sys.modules, "ai_edge_litert", ModuleType("ai_edge_litert"))
  monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", runtime)
  monkeypatch.chdir(tmp_path)
  exec(device_program(dataclasses.replace(full, preprocess=preprocess)), {})
  x = expected(pixels.astype(np.float64))
  integers = np.clip(np.rint(x / 0.5) + 3, -128, 127)
  assert runtime.fed.dtype == np.int8 and runtime.fed.shape == (1, 32, 32, 3)
  assert np.abs(runtime.fed[0] - integers).max() <= 1  # float32 against float64 at a half
  assert capsys.readouterr().out == "7\n"
  assert runtime.path == "student.tflite"


def test_names_with_quotes_and_newlines_make_a_valid_program(full):
  names = ('"', "\\", "a\nb", NASTY, *full.run.classes[4:])
  source = device_program(
    dataclasses.replace(full, run=dataclasses.replace(full.run, classes=names))
  )
  assigned = {ast.unparse(n.targets[0]): n.value for n in ast.walk(ast.parse(source))
              if isinstance(n, ast.Assign)}  # fmt: skip
  assert tuple(ast.literal_eval(assigned["CLASSES"])) == names


def test_the_program_preprocesses_as_the_networks_were_trained(full):
  images = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
  for preprocess in (Preprocess(), Preprocess(per_image=False), Preprocess(center=0.0, scale=1.0)):
    names = {"np": np}
    exec(preprocess_source(preprocess.to_metadata()), names)
    ours = np.stack([names["preprocess"](image) for image in images])
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, preprocess(images), rtol=1e-5, atol=1e-6)


def fake_runtime(classes, scale, zero_point):
  """A module like ai_edge_litert.interpreter whose every model picks class 7."""
  module = SimpleNamespace(fed=None, path=None)

  class Interpreter:
    def __init__(self, path, num_threads):
      module.path = path

    def allocate_tensors(self):
      pass

    def get_input_details(self):
      return [{"index": 0, "quantization": (scale, zero_point)}]

    get_output_details = get_input_details

    def set_tensor(self, index, value):
      module.fed = value

    def invoke(self):
      pass

    def get_tensor(self, index):
      return np.eye(classes)[7:8]

  module.Interpreter = Interpreter
  return module
