"""Certificates in reports and on pages of their own."""

import dataclasses
import io
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from jaxcompress.export.certificate import (
  Certificate,
  Exact,
  Images,
  Output,
  Row,
  hash_file,
  write_certificate,
)
from jaxcompress.export.checking import Line
from jaxcompress.export.versions import _says
from jaxcompress.report import certified, write
from jaxcompress.report.html import certificate_page, render
from tests.report.test_html import NASTY, Page

HASH = "0123456789abcdef" * 4
ROWS = (
  Row("net.tflite", "xnnpack", "x86_64", False, "equal", "xnnpack", equal=160, total=160,
      sha256={"logits": HASH}, versions={"ai-edge-litert": "2.3.0"}),
  Row("net.tflite", "xnnpack", "cortex-a53", True, "differs", "xnnpack",
      "3 of 160 integers differ, by up to 2 steps; the first in image 7", 157, 160, 2, 7,
      {"logits": HASH[::-1]}),
  Row("net_c", "c", "cortex-m4", True, "not run", reason="there is no compiler."),
)  # fmt: skip


@pytest.fixture
def certificate():
  images = Images(16, (32, 32, 3), "int8", 0.5, -3, HASH, "00000000", "glyphs, test split, seed 0")
  outputs = {"logits": Output("int8", (10,), 0.25, 4)}
  exact = {"xnnpack": Exact({"logits": HASH}, "00000000")}
  machine = {"processor": "a processor", "system": "a system"}
  return Certificate(
    "differs", {"net.tflite": HASH}, images, outputs, exact, ROWS, "0.1", "today", machine
  )


def test_the_page_says_of_every_row_what_came_of_it(certificate):
  page = Page(certificate_page(certificate, "print('hello')"))
  for words in (
    "Differs: 1 of 2 runtimes and processors gave the integers of exact evaluation for all 16 images; "
    "1 not run here",
    "equal, all 160, by the rules of xnnpack",
    "differs from the rules of xnnpack: 3 of 160 integers differ, by up to 2 steps; the first in image 7",
    "not run: there is no compiler",
    "cortex-a53, emulated",
    HASH,
    "ai-edge-litert 2.3.0",
    "print('hello')",
  ):
    assert words in page.text, words
  assert "Repeat it" not in certificate_page(certificate)


def test_strings_from_outside_are_escaped(certificate):
  row = Row(NASTY, "xnnpack", NASTY, False, "not run", reason=NASTY)
  images = dataclasses.replace(certificate.images, source=NASTY)
  nasty = dataclasses.replace(
    certificate, rows=(row,), images=images, model={NASTY: NASTY}, machine={"processor": NASTY}
  )
  page = Page(certificate_page(nasty, NASTY))
  assert "script" not in {tag for tag, _ in page.elements}
  assert NASTY in page.text


def test_a_report_shows_the_certificate_beside_it_and_whether_it_is_of_these_files(
  full, certificate, tmp_path, monkeypatch
):
  def page():
    return Page(render(full, {}, {}, write.find_certificate(tmp_path)))

  assert ("section", {"id": "certificate"}) not in page().elements
  (tmp_path / "net.tflite").write_bytes(b"the network")
  model = {"net.tflite": hash_file(tmp_path / "net.tflite")}
  certificate = dataclasses.replace(certificate, model=model)
  write_certificate(certificate, np.zeros(1, np.int8), tmp_path / "certificate.json")
  assert ("section", {"id": "certificate"}) in page().elements
  assert "Certificate: differs: 1 of 2 runtimes and processors" in page().text
  assert "another one now" not in page().text

  (tmp_path / "net.tflite").write_bytes(b"another network")
  assert write.find_certificate(tmp_path)[1] == (
    "net.tflite is another one now than when it was certified."
  )
  text = (tmp_path / "certificate.json").read_text()
  (tmp_path / "certificate.json").write_text(text.replace("differs", "equal", 1))
  assert "certificate.json was changed after it was written" in page().text
  (tmp_path / "certificate.json").write_text("nothing")
  assert "is not a readable certificate" in page().text
  monkeypatch.setattr(write.plots, "render_plots", lambda *_: {})
  written = write.write_report(full, tmp_path)["html"].read_text()
  assert "is not a readable certificate" in Page(written).text


def test_tables_fit_a_terminal(certificate):
  console = Console(width=80, record=True, file=io.StringIO())
  console.print(certified.certificate_table(certificate))
  text = console.export_text()
  assert max(map(len, text.splitlines())) <= 80
  assert "cortex-a53" in text and "01234567" in text and "all 160: xnnpack" in text


@pytest.mark.parametrize("digest", ["52a83795" * 8, "f05e9dfd" * 8])
def test_a_check_is_one_table_whatever_a_hash_begins_with(digest):
  words = f"its SHA-256 is {digest}, and {HASH} was certified"
  found = SimpleNamespace(lines=[Line("net.tflite", "differs", words), Line("images", "equal")])
  console = Console(width=80, record=True, file=io.StringIO())
  console.print(certified.check_table(found))
  lines = console.export_text().splitlines()
  assert any(line.split()[:2] == ["net.tflite", "differs"] for line in lines)
  assert digest in "".join(line[22:].strip() for line in lines)


def test_the_page_names_a_folder_once(certificate):
  model = dict.fromkeys(("net_c/manifest.json", "net_c/main.c", "net.jcz"), HASH)
  page = Page(certificate_page(dataclasses.replace(certificate, model=model)))
  assert "net_c, net.jcz" in page.text and "main.c" not in page.text


def test_versions_do_not_repeat_the_name_of_a_program(tmp_path):
  program = tmp_path / "cc"
  program.write_text("#!/bin/sh\necho 'cc (Debian 12) 12.2.0'\n")
  program.chmod(0o755)
  assert _says(str(program)) == "(Debian 12) 12.2.0"
  assert _says(str(tmp_path / "none")) == "unknown"


def test_a_long_reason_that_repeats_is_printed_once():
  reason = "cortex-a53 needs an emulator, which is not installed: get it by .ci/arm"
  lines = [Line(f"{name}.tflite", "not run here", reason) for name in "abc"]
  console = Console(width=200, file=io.StringIO())
  console.print(certified.check_table(SimpleNamespace(lines=lines)))
  printed = console.file.getvalue()
  assert printed.count("emulator") == 1 and printed.count("as a.tflite") == 2
