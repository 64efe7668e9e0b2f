"""What the page on operations shows of the library stands in it so."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "add-an-operation.md").read_text()


def test_the_page_shows_what_the_library_has():
  shown = re.findall(r"```py\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
  assert len({file for file, _ in shown} - {"jaxcompress/nn/structure.py"}) == 4
  for file, lines in shown:
    assert lines in (ROOT / file).read_text(), lines
