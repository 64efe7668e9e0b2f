"""The allocator's settings, in a process of their own."""

import platform
import subprocess
import sys

import pytest

from jaxcompress import ops

PROGRAM = """
import resource
import numpy as np
from jaxcompress.ops import keep_freed_memory

def faults():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  np.ones(2**23)  # 64 MB, freed at once
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
assert keep_freed_memory()
faults()
print(before, faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_reused_without_page_faults():
  result = subprocess.run(
    [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
  )
  before, after = map(int, result.stdout.split())
  assert after < 0.01 * before


def test_other_c_libraries_are_left_alone(monkeypatch):
  monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
  assert ops.keep_freed_memory() is False
