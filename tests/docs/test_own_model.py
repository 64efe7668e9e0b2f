"""The programs of the page on models of one's own run as they stand, on less data, for fewer steps."""

import pathlib
import re

import jax
import numpy as np
import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "own-model.md"
PROGRAM = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))

pytestmark = pytest.mark.usefixtures("programs_forgotten")


@pytest.mark.slow
def test_modules_become_files_with_equal_logits_and_get_back_what_was_trained(
  tmp_path, monkeypatch, capsys
):
  program = PROGRAM
  for old, new in {'load("glyphs")': 'load("glyphs", limit=200)', "range(300)": "range(2)"}.items():
    assert program.count(old) == 1
    program = program.replace(old, new)
  monkeypatch.chdir(tmp_path)
  names = {}
  exec(compile(program, "own-model", "exec"), names)
  printed = capsys.readouterr().out.split("\n")
  assert printed[0] == "['Conv_0', 'Block_0/Conv_0', 'Block_0/Conv_1']"
  assert printed[1:3] == ["1.0", "1.0"]
  before, after = names["variables"], names["trained"]
  assert jax.tree.structure(before) == jax.tree.structure(after)
  pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
  assert all(a.dtype == b.dtype and not np.array_equal(a, b) for a, b in pairs)
