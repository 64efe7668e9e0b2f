"""Programs in the README and on pages, found by the marker before them, and run as they stand on less data."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
MARKED = re.compile(r"<!-- program: (\w+) -->\n```python\n(.*?)```", re.DOTALL)


def programs_of(page):
  """The marked programs of a page by their names; ``page`` is a path in the repository."""
  found = MARKED.findall((ROOT / page).read_text())
  assert len(dict(found)) == len(found)
  return dict(found)


def run(program, changes=None, **names):
  """Runs a program with some of its text replaced; returns its names."""
  for old, new in (changes or {}).items():
    assert program.count(old) == 1
    program = program.replace(old, new)
  exec(compile(program, "page", "exec"), names)
  return names
