"""Writes checkpoint files as torch.save does, and as no honest program would, without torch."""

import io
import struct
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
  np.dtype(np.float32): "FloatStorage",
  np.dtype(np.float64): "DoubleStorage",
  np.dtype(np.float16): "HalfStorage",
  np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
  np.dtype(np.int64): "LongStorage",
  np.dtype(np.int32): "IntStorage",
  np.dtype(np.int16): "ShortStorage",
  np.dtype(np.int8): "CharStorage",
  np.dtype(np.uint8): "ByteStorage",
  np.dtype(np.bool_): "BoolStorage",
}


class Global(NamedTuple):
  module: str
  name: str


class DottedGlobal(NamedTuple):
  """A global named by two texts on the stack, as protocol 4 does."""

  module: str
  name: str


class Call(NamedTuple):
  function: Any
  arguments: tuple = ()


class Made(NamedTuple):
  """An object of a class, with a state."""

  kind: Any
  state: Any = None


class Built(NamedTuple):
  """A value that is given a state."""

  value: Any
  state: Any


class Persistent(NamedTuple):
  identity: Any


class Raw(NamedTuple):
  opcodes: bytes


class Strided(NamedTuple):
  """A tensor as a pickle names it; ``count`` and ``key`` may lie."""

  values: np.ndarray
  sizes: tuple
  strides: tuple
  offset: int = 0
  count: int | None = None
  key: str | None = None


class Writer:
  """Opcodes of protocol 2 for a value; collects the storages that it names."""

  def __init__(self, *, legacy: bool = False):
    self.view = (None,) if legacy else ()
    self.storages: dict[str, np.ndarray] = {}

  def dump(self, value: Any) -> bytes:
    return b"\x80\x02" + self.opcodes(value) + b"."

  def opcodes(self, value: Any) -> bytes:
    match value:
      case Raw(opcodes):
        return opcodes
      case Global(module, name):
        return f"c{module}\n{name}\n".encode()
      case DottedGlobal(module, name):
        return self.opcodes(module) + self.opcodes(name) + b"\x93"
      case Call(function, arguments):
        return self.opcodes(function) + self.opcodes(tuple(arguments)) + b"R"
      case Made(kind, state):
        return (
          self.opcodes(kind) + b")\x81" + (b"" if state is None else self.opcodes(state) + b"b")
        )
      case Built(inner, state):
        return self.opcodes(inner) + self.opcodes(state) + b"b"
      case Persistent(identity):
        return self.opcodes(identity) + b"Q"
      case Strided():
        return self.tensor(value)
      case np.ndarray():
        steps = np.empty(value.shape, np.int8).strides
        return self.tensor(Strided(value.reshape(-1), value.shape, steps))
      case OrderedDict():
        empty = self.opcodes(Call(Global("collections", "OrderedDict")))
        return empty + self.items(value)
      case dict():
        return b"}" + self.items(value)
      case None:
        return b"N"
      case bool():
        return b"\x88" if value else b"\x89"
      case int():
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw
      case float():
        return b"G" + struct.pack(">d", value)
      case str():
        raw = value.encode()
        return b"X" + struct.pack("<I", len(raw)) + raw
      case bytes():
        return self.opcodes(Call(Global("_codecs", "encode"), (value.decode("latin-1"), "latin1")))
      case tuple():
        return b"(" + b"".join(map(self.opcodes, value)) + b"t"
      case list():
        return b"](" + b"".join(map(self.opcodes, value)) + b"e"
    raise TypeError(type(value))

  def items(self, mapping: dict) -> bytes:
    return b"(" + b"".join(self.opcodes(item) for pair in mapping.items() for item in pair) + b"u"

  def tensor(self, tensor: Strided) -> bytes:
    key = str(len(self.storages)) if tensor.key is None else tensor.key
    self.storages[key] = tensor.values
    kind = Global("torch", STORAGES[tensor.values.dtype])
    count = len(tensor.values) if tensor.count is None else tensor.count
    storage = Persistent(("storage", kind, key, "cpu", count, *self.view))
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    hooks = Call(Global("collections", "OrderedDict"))
    return self.opcodes(
      Call(rebuild, (storage, tensor.offset, tensor.sizes, tensor.strides, False, hooks))
    )


def zip_bytes(
  value: Any,
  *,
  folder: str = "archive/",
  compression: int = zipfile.ZIP_STORED,
  big_endian: bool = False,
  extra: dict[str, bytes] | None = None,
) -> bytes:
  """A file in the zip format; ``value`` may be the bytes of its data.pkl."""
  writer = Writer()
  pickled = value.opcodes if isinstance(value, Raw) else writer.dump(value)
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", compression) as archive:
    archive.writestr(f"{folder}data.pkl", pickled)
    archive.writestr(f"{folder}byteorder", "big" if big_endian else "little")
    for key, values in writer.storages.items():
      raw = values.view(f"u{values.itemsize}").byteswap() if big_endian else values
      archive.writestr(f"{folder}data/{key}", raw.tobytes())
    archive.writestr(f"{folder}version", "3\n")
    for name, content in (extra or {}).items():
      archive.writestr(name, content)
  return file.getvalue()


def legacy_bytes(value: Any) -> bytes:
  """A file in the format before torch 1.6; ``value`` may be the bytes of its main pickle."""
  writer = Writer(legacy=True)
  pickled = value.opcodes if isinstance(value, Raw) else writer.dump(value)
  system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
  parts = [writer.dump(MAGIC), writer.dump(1001), writer.dump(system), pickled]
  parts.append(writer.dump(list(writer.storages)))
  for values in writer.storages.values():
    parts.append(struct.pack("<q", len(values)) + values.tobytes())
  return b"".join(parts)


FORMS = {"zip": zip_bytes, "legacy": legacy_bytes}


def write(path: Path, raw: bytes) -> Path:
  path.write_bytes(raw)
  return path


@contextmanager
def at_most(size: int) -> Iterator[None]:
  """Bounds the memory that a block holds at any time."""
  tracemalloc.start()
  try:
    yield
  finally:
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= size, f"{peak} bytes were held"


def outcome(read, path: Path, raw: bytes):
  """Reads these bytes; returns the value, or None after a ValueError.

  Warnings are recorded rather than raised, since a raised one would come back as a ValueError.
  """
  path.write_bytes(raw)
  with warnings.catch_warnings(record=True) as caught, at_most(20 * len(raw) + 2**22):
    warnings.simplefilter("always")
    try:
      result = read(path)
    except ValueError as error:
      assert str(path) in str(error) and "\n" not in str(error)
      result = None
  assert not caught
  return result
