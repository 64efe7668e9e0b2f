"""The command line as a terminal of 100 columns has it."""

import io
import os
import sys

import pytest

from jaxcompress import cli


@pytest.fixture
def run_in_bytes(monkeypatch, capfdbinary, tmp_path):
  """Runs the command line in an empty folder; returns exit code, output in bytes, errors."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("COLUMNS", "100")

  def call(*arguments):
    monkeypatch.setattr("sys.argv", ["jaxcompress", *map(str, arguments)])
    stream = io.TextIOWrapper(os.fdopen(os.dup(1), "wb"), "utf-8", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit) as end:
      cli.main()
    stream.close()
    printed = capfdbinary.readouterr()
    return end.value.code, printed.out, printed.err.decode()

  return call
