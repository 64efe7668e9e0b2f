"""The shape of the library: which parts import which, and the words of its docstrings."""

import ast
import collections
import graphlib
import pathlib
import re

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
OPENING = (
  r"(What|Of|By|Those|That of|Whose|Likewise)\b"  # of docstrings that lack a subject or a verb
)
PHRASES = (  # in messages and documents; what to write instead
  (r"\b(is|are) none of (the|its|ours|them|these|those|jaxcompress)\b", "is not one of"),
  (r": (there )?(is|are) none\b", "must not be empty"),
  (r": none (is|are) given\b", "it is missing"),
  (r"\b(is|are) no shares?\b", "must be a fraction between 0 and 1"),
  (r"\b[Gg]radients? by (the|its|it)\b", "with respect to"),
  (r"(?<!--)weights random\b", "random weights"),
  (r"\b(pixels?|codes?|int8), less 128\b|\b(pixels?|codes?) less 128\b", "minus 128"),
  (r"\bgone on with\b", "resumed"),
  (r"\balike often\b", "equally often"),
)
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
    f"{path.relative_to(ROOT)}:{line}"
    for path in ROOT.rglob("*.py")
    for line, text in docstrings(path)
    if re.match(OPENING, text.strip())
  ]
  assert wrong == []


@pytest.mark.parametrize(("phrase", "better"), PHRASES, ids=[better for _, better in PHRASES])
def test_messages_and_documents_are_in_plain_words(phrase, better):
  pages = (ROOT.parent / "README.md", *(ROOT.parent / "docs").rglob("*.md"))
  wrong = [
    f"{path.relative_to(ROOT.parent)}: {text[max(found.start() - 40, 0) : found.end() + 20]}"
    for path in (*ROOT.rglob("*.py"), *pages)
    for text in [re.sub(r'\s*"?\n\s*f?"?', " ", path.read_text())]  # lines of one string are joined
    for found in re.finditer(phrase, text)
  ]
  assert wrong == [], f"write {better!r}"
