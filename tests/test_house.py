"""The shape of the library: which parts import which, and the words of its docstrings."""

import ast
import collections
import graphlib
import pathlib

import pytest

import jaxcompress

ROOT = pathlib.Path(jaxcompress.__file__).parent
ORDER = (  # a part imports from those before its own row
  ("files",),
  ("ops",),
  ("nn",),
  ("models", "distill", "quantize", "prune"),
  ("training",),
  ("data",),
  ("export",),
  ("report",),
  ("pipeline",),
  ("cli",),
)
OPENINGS = ("What ",)  # of docstrings: they name the thing, or say what it does with a verb
RANKS = {part: rank for rank, row in enumerate(ORDER) for part in row}


def modules():
  """Paths of all modules, by name."""
  names = {}
  for path in ROOT.rglob("*.py"):
    parts = ("jaxcompress", *path.relative_to(ROOT).with_suffix("").parts)
    names[".".join(parts).removesuffix(".__init__")] = path
  return names


@pytest.fixture(scope="module")
def imports():
  """Imports of each module from the library, also inside functions and for types."""
  known, found = modules(), collections.defaultdict(set)
  for name, path in known.items():
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        found[name] |= {alias.name for alias in node.names if alias.name in known}
      if isinstance(node, ast.ImportFrom) and node.module in known:
        parts = (f"{node.module}.{alias.name}" for alias in node.names)
        found[name] |= {part if part in known else node.module for part in parts}
  return found


def test_no_modules_import_one_another(imports):
  try:
    tuple(graphlib.TopologicalSorter(imports).static_order())
  except graphlib.CycleError as error:
    pytest.fail(" <- ".join(error.args[1]))


def test_packages_import_one_way(imports):
  def part(module):
    return module.split(".")[1] if "." in module else ""

  wrong = [
    f"{module} imports {other}"
    for module, others in imports.items()
    for other in others
    if part(module) in RANKS and part(other) in RANKS and part(module) != part(other)
    if RANKS[part(module)] <= RANKS[part(other)]
  ]
  assert wrong == []


def test_every_package_has_its_place():
  folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
  assert folders == set(RANKS)


def docstrings(path):
  """Yields the docstrings of a module, also of its attributes: (line, text) each."""
  for node in ast.walk(ast.parse(path.read_text())):
    match node:
      case ast.Expr(value=ast.Constant(value=str(text))):
        yield node.lineno, text


def test_docstrings_begin_with_their_subject_or_verb():
  wrong = [
    f"{path.relative_to(ROOT)}:{line} begins with {opening!r}"
    for path in ROOT.rglob("*.py")
    for line, text in docstrings(path)
    for opening in OPENINGS
    if text.strip().startswith(opening)
  ]
  assert wrong == []
