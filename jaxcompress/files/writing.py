"""Files that are whole or absent."""

import contextlib
import os
import pathlib
import re
import shutil
import time
import uuid

from jaxcompress.files.places import check_local

TEMPORARY = re.compile(r"\.jaxcompress-[0-9a-f]{32}")  # what is being written
OWN_TEMPORARY = re.compile(r"\.(jaxcompress-)?[0-9a-f]{32}")  # in folders of earlier versions too
LONGEST_WRITE = 3600.0  # seconds; what was not written to for so long is a killed program's


def write_atomically(path: str | os.PathLike, data: bytes | str) -> pathlib.Path:
  """Writes beside a file and renames, so that a reader or a kill never leaves half of it.

  Args:
    path: the file; what was there is replaced.
    data: its content; text is written as UTF-8, bytes of a name that are not UTF-8 as their numbers.

  Returns:
    The path.

  Raises:
    ValueError: if the folder does not exist or cannot be written, or is in a bucket.

  Examples:
    >>> import tempfile
    >>> write_atomically(tempfile.mkdtemp() + "/a.bin", b"whole").read_bytes()
    b'whole'
    >>> write_atomically(tempfile.mkdtemp() + "/a.txt", "caf\\udce9").read_bytes()
    b'caf\\\\udce9'
  """
  check_local("path", path, "a file is renamed when it is whole")
  path = pathlib.Path(path)
  if not path.name:
    raise ValueError(f"path: {str(path)!r} is no name of a file; give one.")
  temporary = temporary_beside(path)
  try:
    temporary.write_bytes(_encoded(data) if isinstance(data, str) else data)
    os.replace(temporary, path)
  except OSError as error:
    raise ValueError(f"path: {path} cannot be written ({error.strerror}).") from error
  finally:
    with contextlib.suppress(OSError):  # it was renamed, or never made
      temporary.unlink()
  return path


def _encoded(text: str) -> bytes:
  return text.encode("utf-8", "backslashreplace")


def temporary_beside(path: pathlib.Path) -> pathlib.Path:
  """A free name in a file's folder for what is being written; :func:`sweep` knows it.

  Examples:
    >>> temporary_beside(pathlib.Path("a/b.bin")).parent.name
    'a'
  """
  return path.with_name(f".jaxcompress-{uuid.uuid4().hex}")


def sweep(folder: str | os.PathLike, *, own: bool) -> None:
  """Removes from a folder what killed writes left there under names of :func:`temporary_beside`.

  Args:
    folder: whose own entries are looked at.
    own: whether nobody else writes there. Otherwise what was written to within the hour stays.

  Examples:
    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> half, whole = temporary_beside(folder / "a"), folder / "a"
    >>> half.touch(), whole.touch()
    (None, None)
    >>> sweep(folder, own=False)
    >>> len(list(folder.iterdir()))
    2
    >>> sweep(folder, own=True)
    >>> [path.name for path in folder.iterdir()]
    ['a']
  """
  for path in pathlib.Path(folder).iterdir():
    if not (OWN_TEMPORARY if own else TEMPORARY).fullmatch(path.name):
      continue
    with contextlib.suppress(OSError):  # another process was faster, or it may not be removed
      if not own and time.time() - path.lstat().st_mtime < LONGEST_WRITE:
        continue
      if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
      else:
        path.unlink()
