"""The site builds without a warning, shows every public name, and its programs name what exists."""

import ast
import importlib
import inspect
import logging
import os
import pathlib
import re
import types

os.environ.setdefault("NO_MKDOCS_2_WARNING", "1")

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

import jaxcompress

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
PACKAGES = sorted(path.stem for path in (ROOT / "docs" / "reference").glob("*.md"))
PROGRAM = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """Every page as HTML, and what was logged."""
  folder = tmp_path_factory.mktemp("site")
  seen: list[str] = []

  class Keep(logging.Handler):
    def emit(self, record):
      seen.append(record.getMessage())

  handler = Keep(logging.WARNING)
  logging.getLogger("mkdocs").addHandler(handler)
  try:
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
  finally:
    logging.getLogger("mkdocs").removeHandler(handler)
  pages = {path.relative_to(folder).parent.as_posix(): path for path in folder.rglob("index.html")}
  return {name: path.read_text() for name, path in pages.items()}, seen


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_site_builds_without_a_warning(built):
  pages, seen = built
  assert not seen
  assert len(pages) == len(PAGES)


@pytest.mark.parametrize(
  "package", sorted(set(PACKAGES) - {"cli", "glossary", "index", "losses", "quantizers"})
)
def test_every_public_name_is_in_the_reference(built, package):
  page = built[0][f"reference/{package}"]
  names = importlib.import_module(f"jaxcompress.{package}").__all__
  missing = [name for name in names if f'id="jaxcompress.{package}.{name}"' not in page]
  assert not missing


def test_roles_and_links_of_docstrings_are_markdown(built):
  for name, page in built[0].items():
    assert not re.search(r":(class|func|meth|data):|`_[ ,.;)]", page), name


def test_every_loss_and_quantizer_has_its_formula(built):
  losses = (ROOT / "docs" / "reference" / "losses.md").read_text()
  assert [name for name in jaxcompress.distill.DISTILLERS if f"[`{name}`]" not in losses] == []
  for name in re.findall(r"\[`(\w+)`\]\[jaxcompress.distill", losses):
    method = jaxcompress.distill.DISTILLERS.get(name)
    stated = re.search(rf"\[`{name}`\]\[[^]]*\], weight ([\d.]+)[,.] ", losses)
    if method and stated:
      assert float(stated[1].rstrip(".")) == method.weight


def test_the_page_of_the_command_line_has_every_option(built):
  page = built[0]["reference/cli"]
  for option in ("--teacher-weights", "--budget", "--target", "--format", "--resume"):
    assert option in page


@pytest.mark.parametrize(
  "path", [path for path in PAGES if PROGRAM.search(path.read_text())], ids=lambda path: path.stem
)
def test_programs_on_a_page_name_what_exists(path):
  """Names below ``jc`` are there, and calls fit their signatures; either raises if not."""
  for program in PROGRAM.findall(path.read_text()):
    shorthand = {"jc": jaxcompress, "q": jaxcompress.quantize}
    for node in ast.walk(ast.parse(program)):
      if isinstance(node, ast.Attribute):
        _resolve(node, shorthand)
      if isinstance(node, ast.Call):
        _fits(node, shorthand)


def _resolve(node, shorthand):
  """The object of a dotted name that begins with a shorthand, else None."""
  if isinstance(node, ast.Name):
    return shorthand.get(node.id)
  if not isinstance(node, ast.Attribute):
    return None
  owner = _resolve(node.value, shorthand)
  return getattr(owner, node.attr) if isinstance(owner, types.ModuleType) else None


def _fits(call, shorthand):
  found = _resolve(call.func, shorthand)
  if found is None or any(isinstance(argument, ast.Starred) for argument in call.args):
    return
  named = {word.arg: None for word in call.keywords if word.arg is not None}
  inspect.signature(found).bind_partial(*[None] * len(call.args), **named)
