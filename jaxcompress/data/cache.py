"""Arrays kept on disk between runs, which may vanish, break or be unwritable at any time."""

import io
import os
import pathlib
import zipfile

import numpy as np

from jaxcompress.files.checksums import UNSEALED, check_seal, seal
from jaxcompress.files.writing import sweep, write_atomically

Arrays = dict[str, np.ndarray]


def cache_folder() -> pathlib.Path | None:
  """``$XDG_CACHE_HOME/jaxcompress``, by default ``~/.cache/jaxcompress``; None without a home."""
  root = os.environ.get("XDG_CACHE_HOME", "")
  if os.path.isabs(root):  # the specification has relative ones ignored
    return pathlib.Path(root) / "jaxcompress"
  try:
    return pathlib.Path.home() / ".cache" / "jaxcompress"
  except RuntimeError:
    return None


def read(name: str) -> Arrays | None:
  """The arrays stored under a name, or None where there is no whole file of that name.

  A damaged file is none: its checksum is looked at first.
  """
  folder = cache_folder()
  if folder is None:
    return None
  try:
    content = (folder / name).read_bytes()
    check_seal(content, name)
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
      return dict(arrays)
  except Exception:  # of an earlier version's archive, which has no checksum, may come anything
    return None


def write(name: str, arrays: Arrays) -> bool:
  """Stores arrays under a name, at once or not at all.

  Returns:
    Whether they were stored; a folder that cannot be written is no error.
  """
  folder = cache_folder()
  if folder is None:
    return False
  try:
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder, own=False)
    write_atomically(folder / name, _to_bytes(arrays))
  except (OSError, ValueError):  # both of folders that cannot be written
    return False
  return True


def _to_bytes(arrays: Arrays) -> bytes:
  """An archive whose comment is its checksum."""
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)  # type: ignore[arg-type]  # names of arrays, no option
  with zipfile.ZipFile(buffer, "a") as archive:
    archive.comment = UNSEALED.encode()
  return seal(buffer.getvalue())
