"""Loads a .tflite file into TensorFlow Lite for Microcontrollers, which prints what it allocates.

Run as a script, ``allocate.py FILE BYTES``, in a process of its own: the runtime writes to standard
error past Python, and a file that it cannot hold ends the process.
"""

import pathlib
import sys


def print_allocations(path: str, arena_bytes: int) -> None:
  """Has the runtime print its allocations in an arena of so many bytes."""
  from tflite_micro import runtime

  content = pathlib.Path(path).read_bytes()
  runtime.Interpreter.from_bytes(content, arena_size=arena_bytes).print_allocations()


if __name__ == "__main__":
  print_allocations(sys.argv[1], int(sys.argv[2]))
