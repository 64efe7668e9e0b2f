"""Files that are whole or absent."""

import os
import pathlib


def write_atomically(path: str | os.PathLike, data: bytes | str) -> pathlib.Path:
  """Writes beside a file and renames, so that a reader or a kill never leaves half of it.

  Args:
    path: the file; what was there is replaced.
    data: its content; text is written as UTF-8.

  Returns:
    The path.

  Examples:
    >>> import tempfile
    >>> write_atomically(tempfile.mkdtemp() + "/a.txt", "whole").read_text()
    'whole'
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
  return path
