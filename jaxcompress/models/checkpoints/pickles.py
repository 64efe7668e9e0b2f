"""PyTorch's checkpoint files without torch: the zip format and the older run of pickles."""

import io
import os
import pathlib
import zipfile
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from jaxcompress.models.checkpoints.allow_list import Budget
from jaxcompress.models.checkpoints.unpickle import no_storage, unpickle

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
LONGEST_LINE = 1024  # of a global's module or name


def read_pickle(path: str | os.PathLike, *, argument: str = "path") -> Any:
  """Reads a .pth or .pt file of ``torch.save`` and runs none of the code that it names.

  Only names on a list of plain containers and tensors are understood, each by a function of this
  package that checks what it is given. Storages are read once; tensors are views of them.

  Args:
    path: a file in the zip format or in the one before torch 1.6.
    argument: the name that errors give to ``path``.

  Returns:
    The saved object: dicts, lists, tuples, numbers and strings as they are, tensors and
    parameters as read-only arrays (bfloat16 as float32), an ``argparse.Namespace`` as a dict.

  Raises:
    ValueError: if there is no such file, it is damaged, unfolds to far more than its size, is a
      TorchScript program, or asks for anything else than data.

  Examples:
    >>> read_pickle("no_such_file.pth")
    Traceback (most recent call last):
    ValueError: path: there is no file 'no_such_file.pth'.
  """
  path = existing_file(path, argument)
  try:
    with path.open("rb") as file:
      return _read(file, os.fstat(file.fileno()).st_size)
  except Exception as error:  # damaged files raise errors of every kind
    raise unreadable(path, argument, error) from error


def existing_file(path: Any, argument: str) -> pathlib.Path:
  """The path, if it is that of a file.

  Raises:
    ValueError: if it is not.
  """
  if not isinstance(path, str | os.PathLike):
    raise ValueError(f"{argument}: a {type(path).__name__} is no path of a file.")
  path = pathlib.Path(os.fsdecode(path))
  if path.is_dir():
    raise ValueError(f"{argument}: {str(path)!r} is a folder; give the file in it.")
  if not path.is_file():
    raise ValueError(f"{argument}: there is no file {str(path)!r}.")
  return path


def unreadable(path: pathlib.Path, argument: str, error: Exception) -> ValueError:
  """The error that says, on one line, why a file cannot be read and what to do."""
  reason = " ".join(str(error).split())[:300].rstrip(".")
  if type(error) is not ValueError or not reason:
    reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
  return ValueError(
    f"{argument}: {str(path)!r} cannot be read ({reason}); copy it anew if it is damaged, or save"
    " the weights alone where it came from: torch.save(model.state_dict(), path)."
  )


def _read(file: BinaryIO, size: int) -> Any:
  start = file.read(len(ZIP_MAGIC))
  file.seek(0)
  if start == ZIP_MAGIC:
    with zipfile.ZipFile(file) as archive:
      return _read_zip(archive, Budget(size))
  if start.startswith(PICKLE_MAGIC):
    return _read_legacy(_Bounded(file, size), Budget(size))
  raise ValueError("it is empty" if not start else "it does not start as a file of torch.save does")


def _read_zip(archive: zipfile.ZipFile, budget: Budget) -> Any:
  entries = {entry.filename: entry for entry in archive.infolist()}
  heads = [name for name in entries if name.split("/", 1)[-1] == "data.pkl"]
  if any(name.split("/", 1)[-1].startswith(("constants.pkl", "code/")) for name in entries):
    raise ValueError(
      "it is a TorchScript program, of which torch.jit.load(path).state_dict() are the weights"
    )
  if len(heads) != 1:
    raise ValueError(f"its archive has {len(heads)} entries data.pkl; it must have one")
  folder = heads[0].removesuffix("data.pkl")
  order = "<"
  if f"{folder}byteorder" in entries:
    name = _entry(archive, entries[f"{folder}byteorder"], budget)
    if name not in (b"little", b"big"):
      raise ValueError(f"its byte order is {name[:20]!r}; it must be little or big")
    order = "<" if name == b"little" else ">"
  found: dict[str, tuple[np.dtype, np.ndarray]] = {}

  def storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
    if key not in found:
      name = f"{folder}data/{key}"
      if name not in entries:
        raise ValueError(f"storage {key[:80]!r} is missing")
      _check_size(key, entries[name].file_size, dtype, count)
      found[key] = dtype, _values(_entry(archive, entries[name], budget), dtype, order)
    return _same(key, *found[key], dtype, count)

  return unpickle(io.BytesIO(_entry(archive, entries[heads[0]], budget)), storage, budget)


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, budget: Budget) -> bytes:
  if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise ValueError(f"an entry is compressed by method {entry.compress_type}, not by deflate")
  if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
    raise ValueError("an entry has two sizes")
  budget.spend(entry.file_size)
  with archive.open(entry) as file:
    raw = file.read(entry.file_size) + file.read(1)  # the sized read bounds what is unpacked
  if len(raw) != entry.file_size:
    raise ValueError("an entry ends too early")
  return raw


def _check_size(key: str, size: int, dtype: np.dtype, count: int) -> None:
  if size != count * dtype.itemsize:
    raise ValueError(
      f"storage {key[:80]!r} has {size} bytes, but {count} elements of {dtype} are asked for"
    )


def _same(key: str, known: np.dtype, values: np.ndarray, dtype: np.dtype, count: int) -> np.ndarray:
  if known != dtype or len(values) != count:
    raise ValueError(f"storage {key[:80]!r} is asked for as two types or sizes")
  return values


def _values(raw: bytes, dtype: np.dtype, order: str) -> np.ndarray:
  """The elements of a storage in this machine's byte order; bfloat16 as float32."""
  if dtype == np.bool_:
    return np.frombuffer(raw, np.uint8) != 0
  word = np.dtype(f"u{dtype.itemsize // (2 if dtype.kind == 'c' else 1)}")
  values = (
    np.frombuffer(raw, word.newbyteorder("<" if order == "<" else ">"))
    .astype(word, copy=False)
    .view(dtype)
  )
  if dtype != ml_dtypes.bfloat16:
    return values
  with np.errstate(all="ignore"):
    return values.astype(np.float32)


class _Bounded:
  """A file that reserves no more memory for a read than it has bytes left."""

  def __init__(self, file: BinaryIO, size: int):
    self._file = file
    self._size = size

  def left(self) -> int:
    return max(self._size - self._file.tell(), 0)

  def read(self, size: int) -> bytes:
    return self._file.read(size if size <= 8 else min(size, self.left()))

  def readline(self) -> bytes:
    return self._file.readline(LONGEST_LINE)


def _read_legacy(file: _Bounded, budget: Budget) -> Any:
  pending: dict[str, tuple[np.dtype, np.ndarray]] = {}
  claimed = 0

  def storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
    nonlocal claimed
    if key not in pending:
      claimed += count * dtype.itemsize
      if claimed > file.left():
        raise ValueError(f"storage {key[:80]!r} is larger than what is left of the file")
      shown = np.dtype(np.float32) if dtype == ml_dtypes.bfloat16 else dtype
      budget.spend(count * shown.itemsize)
      pending[key] = dtype, np.zeros(count, shown)  # filled below: the values come last
    return _same(key, *pending[key], dtype, count)

  magic, protocol, _ = (unpickle(file, no_storage, budget) for _ in range(3))
  if type(magic) is not int or magic != LEGACY_MAGIC:
    raise ValueError("it is a pickle, but not of torch.save")
  if type(protocol) is not int or protocol != LEGACY_PROTOCOL:
    raise ValueError(f"its protocol is not {LEGACY_PROTOCOL}")
  result = unpickle(file, storage, budget)
  keys = unpickle(file, no_storage, budget)
  if type(keys) is not list or not all(type(key) is str for key in keys):
    raise ValueError("its list of storages is damaged")
  if sorted(keys) != sorted(pending):
    raise ValueError("its list of storages does not name those of its tensors")
  for key in keys:
    _fill(file, key, *pending[key])
  return result


def _fill(file: _Bounded, key: str, dtype: np.dtype, values: np.ndarray) -> None:
  count = int.from_bytes(file.read(8), "little")
  _check_size(key, count * dtype.itemsize, dtype, len(values))
  raw = file.read(len(values) * dtype.itemsize)
  if len(raw) != len(values) * dtype.itemsize:
    raise ValueError(f"storage {key[:80]!r} ends too early")
  values[...] = _values(raw, dtype, "<")
