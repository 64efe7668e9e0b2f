"""Pickles of dicts, lists, numbers, text and arrays, read without calling anything that they name."""

import io
import pickle
from typing import Any

import numpy as np

from jaxcompress.files.values import one_line

ARRAYS = {  # what arrays of bytes are made of, by the names of old and new NumPy
  ("numpy.core.multiarray", "_reconstruct"): "array",
  ("numpy._core.multiarray", "_reconstruct"): "array",
  ("numpy", "ndarray"): "array",
  ("numpy", "dtype"): "dtype",
  ("_codecs", "encode"): "bytes",
}
UNSIGNED = ("u1", "uint8")


class _Made:
  """An object of a pickle, not made: the name of its kind, what it was called with, and its state."""

  __slots__ = ("given", "kind", "state")

  def __init__(self, kind: str, given: tuple[Any, ...]):
    self.kind, self.given, self.state = kind, given, ()

  def __setstate__(self, state: Any) -> None:
    self.state = state


class _Kind:
  """Stands for one of ``ARRAYS``, and computes nothing."""

  __slots__ = ("_name",)

  def __init__(self, name: str):
    self._name = name

  def __call__(self, *given: Any) -> Any:
    if self._name == "bytes":
      text, encoding = given
      if isinstance(text, str) and encoding == "latin1":
        return text.encode("latin-1")
      raise pickle.UnpicklingError("it encodes something else than bytes")
    return _Made(self._name, given)

  def __setstate__(self, state: Any) -> None:
    raise pickle.UnpicklingError("it changes what arrays are made of")


class _Unpickler(pickle.Unpickler):
  def find_class(self, module: str, name: str) -> Any:
    kind = ARRAYS.get((module, name))
    if kind is None:
      raise pickle.UnpicklingError(f"it names {module}.{name}, which is not called")
    return _Kind(kind)

  def persistent_load(self, pid: Any) -> Any:
    raise pickle.UnpicklingError("it refers to something outside")


def read_plain(content: bytes) -> Any:
  """Reads a pickle of Python 2 or 3, if all in it is plain.

  Args:
    content: of the file. Names of dicts and text of Python 2 become bytes.

  Returns:
    Dicts, lists, tuples, numbers and text; arrays for :func:`bytes_of`.

  Raises:
    ValueError: if it is damaged, or names anything but what arrays are made of.

  Examples:
    >>> read_plain(pickle.dumps({"labels": [1, 2]}))
    {'labels': [1, 2]}
    >>> read_plain(pickle.dumps(print))
    Traceback (most recent call last):
    ValueError: it names builtins.print, which is not called
  """
  try:
    return _Unpickler(io.BytesIO(content), encoding="bytes").load()
  except Exception as error:  # of damaged pickles may come anything
    raise ValueError(one_line(error)) from error


def bytes_of(value: Any) -> np.ndarray:
  """An array of unsigned bytes that a pickle holds.

  Raises:
    ValueError: if it is not such an array.

  Examples:
    >>> bytes_of(read_plain(pickle.dumps(np.arange(6, dtype=np.uint8).reshape(2, 3), 2))).tolist()
    [[0, 1, 2], [3, 4, 5]]
  """
  try:
    _, shape, kind, by_columns, content = value.state
    is_bytes = value.kind == "array" and kind.kind == "dtype" and _text(kind.given[0]) in UNSIGNED
    if is_bytes and not by_columns and isinstance(content, bytes):
      sides = tuple(map(int, shape))
      if min(sides, default=1) >= 0 and int(np.prod(sides, dtype=object)) == len(content):
        return np.frombuffer(content, np.uint8).reshape(sides)
  except (AttributeError, IndexError, TypeError, ValueError):
    pass
  raise ValueError("it has no array of unsigned bytes")


def _text(value: Any) -> Any:
  return value.decode("latin-1") if isinstance(value, bytes) else value
