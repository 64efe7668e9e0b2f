"""The page on microcontrollers: its program runs, and its C compiles beside the folder that it writes."""

import pathlib
import re
import subprocess

import pytest

from jaxcompress.export.c99.compiling import CORES, STANDARD, find_compiler

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "microcontroller.md"


def blocks(language):
  return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.slow
def test_the_page_writes_and_verifies_a_folder_whose_c_compiles(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  exec("\n".join(blocks("python")), {})
  (text,) = blocks("c")
  (tmp_path / "use.c").write_text(text)
  command = [find_compiler(), *STANDARD, "-Istudent_c/src", "-c", "use.c", "-o", "use.o"]
  assert subprocess.run(command, capture_output=True, text=True, check=False).stderr == ""
  named = re.findall(r"^\| `src/(student_?\w*)\.", PAGE.read_text(), re.MULTILINE)
  assert len(named) == 4
  for name in named:
    assert (tmp_path / "student_c" / "src" / f"{name}.h").is_file()


def test_the_page_names_the_processors():
  assert all(f"`{name}`" in PAGE.read_text() for name in CORES)
