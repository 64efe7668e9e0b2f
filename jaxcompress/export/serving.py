"""Runs model files for another process, which asks by its pipe.

A message is a line of JSON and the bytes of arrays. The process that serves may be one of another
processor, so this module imports nothing of jaxcompress but the interpreters.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from jaxcompress.export.interpreters import Interpreter, OnnxRuntime, open_file

Reply = tuple[dict[str, Any], Sequence[np.ndarray]]


def write_message(
  stream: IO[bytes], fields: dict[str, Any], arrays: Sequence[np.ndarray] = ()
) -> None:
  """Sends one message: what is JSON, and arrays."""
  ends = [(array.dtype.str, array.shape) for array in arrays]
  stream.write(json.dumps({**fields, "arrays": ends}).encode() + b"\n")
  for array in arrays:
    stream.write(np.ascontiguousarray(array).tobytes())
  stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], list[np.ndarray]]:
  """The next message.

  Raises:
    EOFError: if there is none any more.

  Examples:
    >>> import io
    >>> pipe = io.BytesIO()
    >>> write_message(pipe, {"task": "run"}, [np.int8([[1, 2]])])
    >>> _ = pipe.seek(0)
    >>> read_message(pipe)
    ({'task': 'run'}, [array([[1, 2]], dtype=int8)])
  """
  line = stream.readline()
  if not line.endswith(b"\n"):
    raise EOFError("the other process has ended")
  fields, arrays = json.loads(line), []
  for kind, shape in fields.pop("arrays"):
    size = np.dtype(kind).itemsize * int(np.prod(shape, dtype=np.int64))
    content = stream.read(size)
    if len(content) < size:
      raise EOFError("the other process has ended")
    arrays.append(np.frombuffer(content, kind).reshape(shape))
  return fields, arrays


class Server:
  """Files that are open, by number."""

  def __init__(self) -> None:
    self._open: dict[int, Interpreter] = {}
    self._opened = 0

  def reply(self, fields: dict[str, Any], arrays: Sequence[np.ndarray]) -> Reply:
    """Replies to a message."""
    for number in fields.pop("closed", ()):
      self._open.pop(number, None)
    task, number = fields.pop("task"), fields.pop("file", None)
    if task == "open":
      return self._open_file(arrays[0].tobytes(), **fields), ()
    interpreter = self._open[number]
    if task == "run":
      interpreter.feed(*arrays)
      interpreter.invoke()
      return {}, interpreter.read()
    if isinstance(interpreter, OnnxRuntime):  # the list needs a package that is not here
      return {}, (np.frombuffer(interpreter.optimized(), np.uint8),)
    return {"left_out": interpreter.left_out()}, ()

  def _open_file(self, content: bytes, kernels: str, threads: int) -> dict[str, Any]:
    interpreter = open_file(kernels, content, threads)
    interpreter.allocate()
    self._opened += 1
    self._open[self._opened] = interpreter
    return {
      "file": self._opened,
      "inputs": interpreter.inputs,
      "outputs": interpreter.outputs,
      "places": dict(interpreter.places),
      "metadata": dict(interpreter.metadata),
    }


def serve() -> None:
  """Answers messages from standard input until it is closed."""
  replies = os.fdopen(os.dup(1), "wb")
  os.dup2(2, 1)  # what runtimes print must not stand between replies
  server = Server()
  while True:
    try:
      fields, arrays = read_message(sys.stdin.buffer)
    except EOFError:
      return
    try:
      found, results = server.reply(fields, arrays)
    except Exception as error:  # the runtimes' have no common base
      found, results = {"error": str(error) or type(error).__name__}, ()
    write_message(replies, found, results)
