"""Checksums of a checkpoint's files: a flipped bit in an array is nothing that orbax would notice."""

import json
import pathlib
import zlib

NAME = "checksums.json"
BLOCK = 1 << 20


def write_checksums(folder: pathlib.Path) -> None:
  """Notes length and CRC-32 of all files below a folder's folders, in a file in it."""
  found = {str(path.relative_to(folder)): _checksum(path) for path in sorted(folder.glob("*/**/*"))}
  found = {name: value for name, value in found.items() if value is not None}
  (folder / NAME).write_text(json.dumps(found, indent=1) + "\n")


def find_damage(folder: pathlib.Path) -> str | None:
  """The first file that is not as :func:`write_checksums` saw it, and how; None if all are.

  Examples:
    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "a").mkdir()
    >>> _ = (folder / "a" / "b").write_bytes(b"12")
    >>> write_checksums(folder)
    >>> find_damage(folder) is None
    True
    >>> _ = (folder / "a" / "b").write_bytes(b"13")
    >>> find_damage(folder)
    'a/b has another checksum'
  """
  try:
    noted = json.loads((folder / NAME).read_text())
    for name, value in noted.items():
      if _checksum(folder / name) != value:
        return f"{name} has another checksum" if (folder / name).exists() else f"{name} is missing"
  except (OSError, ValueError, AttributeError) as error:
    return f"{NAME} cannot be read: {error}"
  return None


def _checksum(path: pathlib.Path) -> list[int] | None:
  """Length and CRC-32 of a file; None of anything else."""
  if not path.is_file():
    return None
  length = total = 0
  with path.open("rb") as file:
    while block := file.read(BLOCK):
      length, total = length + len(block), zlib.crc32(block, total)
  return [length, total]
