"""report.html and the files beside it."""

import ast
import base64
import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from jaxcompress.report import plots, style
from jaxcompress.report.html import render
from jaxcompress.report.results import Entry, Sample
from jaxcompress.report.snippet import device_program
from jaxcompress.report.write import from_json, to_json, write_report

pytestmark = pytest.mark.slow

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
    key: dataclasses.replace(e, model=NASTY, file=f"{NASTY}.tflite")
    for key, e in full.entries.items()
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


def test_a_run_without_a_teacher_that_was_measured_is_shown_without(full):
  entries = {key: entry for key, entry in full.entries.items() if key != "teacher"}
  page = Page(render(dataclasses.replace(full, entries=entries), {}))
  assert "teacher " not in page.text.split("Training")[0]
  assert "float" in page.text


def test_a_teacher_from_a_checkpoint_is_said_not_to_be_trained_here(full):
  teacher = dataclasses.replace(full.entries["teacher"], steps=0, seconds=0.0)
  curves = {key: rows for key, rows in full.curves.items() if key != "teacher"}
  results = dataclasses.replace(full, entries={**full.entries, "teacher": teacher}, curves=curves)
  assert "Not trained in this run: teacher." in Page(render(results, {})).text


def test_a_head_that_was_found_without_steps_was_trained_here(full):
  head = dataclasses.replace(full.entries["alone"], steps=0, seconds=48.0)
  text = Page(render(dataclasses.replace(full, entries={**full.entries, "head": head}), {})).text
  assert "new head alone" in text and "Not trained in this run" not in text


def test_names_with_quotes_and_newlines_make_a_valid_program(full):
  names = ('"', "\\", "a\nb", NASTY, *full.run.classes[4:])
  source = device_program(
    dataclasses.replace(full, run=dataclasses.replace(full.run, classes=names))
  )
  assigned = {ast.unparse(n.targets[0]): n.value for n in ast.walk(ast.parse(source))
              if isinstance(n, ast.Assign)}  # fmt: skip
  assert tuple(ast.literal_eval(assigned["CLASSES"])) == names


def test_steps_of_the_integers_are_told_from_those_before(full):
  entries = dict(full.entries)
  entries["distilled"] = dataclasses.replace(entries["distilled"], steps=1_200)
  entries["int8"] = dataclasses.replace(entries["int8"], steps=1_450, made_from="distilled")
  words = Page(render(dataclasses.replace(full, entries=entries), {})).text.replace("\xa0", " ")
  assert "Of the steps and the time of distilled, int8, 250 steps are quantized" in words
  entries["int8"] = dataclasses.replace(entries["int8"], made_from=None)
  assert (
    "are quantized; the rest"
    not in Page(render(dataclasses.replace(full, entries=entries), {})).text
  )


def test_every_class_has_its_figures(make_results):
  names = ("cat", "dog")
  counts = np.array([[90, 10], [5, 5]])
  results = dataclasses.replace(make_results(names=names, images=110), confusion=counts)
  words = Page(render(results, {})).text
  assert re.search(r"cat\s*100\s*90\.0 %\s*94\.7 %\s*92\.3 %", words)
  assert re.search(r"dog\s*10\s*50\.0 %\s*33\.3 %\s*40\.0 %", words)
  assert "70.0 % on average over the classes (balanced accuracy)" in words.replace("\xa0", " ")
  even = dataclasses.replace(results, confusion=np.array([[9, 1], [5, 5]]))
  assert "balanced accuracy" not in Page(render(even, {})).text


def test_mistakes_come_first_with_file_score_and_how_many_there_are(make_results):
  results = make_results(names=("cat", "dog"), images=20)
  image = np.zeros((8, 8, 3), np.uint8)
  shown = (
    Sample.of(image, 0, 1, name="cat/<1>.jpg", score=0.98),
    Sample.of(image, 1, 1, name="dog/2.jpg", score=0.61),
  )
  counts = np.array([[9, 1], [2, 8]])
  words = Page(render(dataclasses.replace(results, samples=shown, confusion=counts), {})).text
  words = words.replace("\xa0", " ")
  assert re.search(r"Wrong: 1 of 3, the surest first.*cat → dog 98 %.*cat/<1>\.jpg", words, re.S)
  assert re.search(r"Right: 1 of 17.*dog 61 %.*dog/2\.jpg", words, re.S)
  assert words.index("Wrong: ") < words.index("Right: ")


def test_phones_get_pictures_of_their_own(written):
  page = Page(written[1]["html"].read_text("utf-8"))
  wide = [attrs for tag, attrs in page.elements if tag == "img" and "width" in attrs]
  narrow = [attrs["srcset"] for tag, attrs in page.elements if tag == "source"]
  assert len(narrow) == len(wide) == len(plots.PLOTS)
  for picture in narrow:
    width = int.from_bytes(base64.b64decode(picture.split(",")[1])[16:20], "big")
    assert width == round(style.NARROW * style.DPI)


def test_the_page_says_how_a_picture_is_read(full):
  assert "How it reads a picture" not in Page(render(full, {})).text
  run = dataclasses.replace(full.run, reading="upright in RGB; (pixel - 1) / 2")
  words = Page(render(dataclasses.replace(full, run=run), {})).text
  assert "How it reads a picture: upright in RGB; (pixel - 1) / 2." in words
