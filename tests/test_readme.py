"""The README's program runs as it stands, on fewer images."""

import pathlib
import re

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_the_first_program_runs_and_prints_that_all_logits_are_equal(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
  assert program.count('load("glyphs")') == 1
  exec(
    compile(program.replace('load("glyphs")', 'load("glyphs", limit=200)'), "README", "exec"), {}
  )
  assert capsys.readouterr().out.strip() == "1.0"
