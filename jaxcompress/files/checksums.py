"""Checksums: a flipped bit in a weight is nothing that the readers of files would notice.

A file holds a *seal*, a text that says its length and the SHA-256 of the file with zeros in its place.
It lies where the kind of file has room for a text and is found by its first letters, so it is checked
before anything of the file is parsed. A folder holds a file with length and CRC-32 of all others.
"""

import hashlib
import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterable

from etils import epath

MARK = "jaxcompress-sha256-"
ZEROS = "0" * 64
LENGTH = "0" * 12
UNSEALED = f"{MARK}{LENGTH}-{ZEROS}"
"""Stands for the seal while the checksum is computed."""
PATTERN = re.compile(MARK.encode() + b"(?:([0-9a-f]{12})-([0-9a-f]{64}))?")

FOLDER_FILE = "checksums.json"
BLOCK = 1 << 20


def digest(content: bytes, place: int) -> bytes:
  """SHA-256 of a file that has zeros where it says its own, in hexadecimal.

  Args:
    content: of the file.
    place: of the first of the 64 digits.

  Examples:
    >>> digest(b"sum:" + digest(b"sum:" + 64 * b"0", 4), 4) == digest(b"sum:" + 64 * b"0", 4)
    True
  """
  found = hashlib.sha256(memoryview(content)[:place])
  found.update(ZEROS.encode())
  found.update(memoryview(content)[place + len(ZEROS) :])
  return found.hexdigest().encode()


def seal(content: bytes) -> bytes:
  """A file with its checksum in the place of :data:`UNSEALED`.

  Raises:
    ValueError: if something else in the file begins as a seal does.

  Examples:
    >>> check_seal(seal(b"weights " + UNSEALED.encode()), "path: a.bin")
    True
  """
  found = list(PATTERN.finditer(content))
  if len(found) != 1 or found[0][0] != UNSEALED.encode():
    raise ValueError(f"metadata: a text in it has {MARK!r}, as checksums begin; change it.")
  length = f"{len(content):0{len(LENGTH)}x}".encode()
  content = length.join((content[: found[0].start(1)], content[found[0].end(1) :]))
  start, stop = found[0].span(2)
  return digest(content, start).join((content[:start], content[stop:]))


def check_seal(content: bytes, what: str, *, rewritable: bool = False) -> bool:
  """Checks that a file is as it was sealed.

  Args:
    content: of the file.
    what: begins the message, such as ``"path: model.onnx"``.
    rewritable: whether other tools rewrite files of its kind, with all metadata; one that has another
      length counts as theirs then, unless something was only added to its end.

  Returns:
    Whether it has a seal; files of others and of earlier versions have none.

  Raises:
    ValueError: if it is not as it was sealed.

  Examples:
    >>> check_seal(b"of another program", "path: a.bin")
    False
    >>> check_seal(seal(b"weights " + UNSEALED.encode()) + b"!", "path: a.bin")
    Traceback (most recent call last):
    ...
    ValueError: path: a.bin is damaged or was changed: its checksum is not that of its contents.
  """
  found = list(PATTERN.finditer(content))
  is_cut = bool(found) and len(content) - found[0].start() < len(UNSEALED)
  if not found or (rewritable and is_cut):  # the reader of a file whose end is missing says so
    return False
  length, written = found[0].groups()
  if len(found) == 1 and length is not None:
    size, place = int(length, 16), found[0].start(2)
    whole = digest(content[:size], place) == written
    if whole and size == len(content):
      return True
    if rewritable and not whole and size != len(content):
      return False
  raise ValueError(f"{what} is damaged or was changed: its checksum is not that of its contents.")


def read_sealed(
  path: str | os.PathLike, what: str, *, rewritable: bool = False
) -> tuple[bytes, bool]:
  """The bytes of a file, and whether it has a seal, which was checked; see :func:`check_seal`.

  Raises:
    ValueError: if it cannot be read, or is not as it was sealed.
  """
  try:
    content = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise ValueError(f"{what} cannot be read ({error.strerror}).") from error
  return content, check_seal(content, what, rewritable=rewritable)


def write_checksums(folder: os.PathLike, paths: Iterable[os.PathLike]) -> None:
  """Notes length and CRC-32 of files in a folder, in a file in it; in a bucket, too."""
  place = epath.Path(folder)
  files = sorted(epath.Path(path) for path in paths)
  found = {str(path.relative_to(place)): _checksum(path) for path in files}
  found = {name: value for name, value in found.items() if value is not None}
  (place / FOLDER_FILE).write_text(json.dumps(found, indent=1) + "\n")


def find_damage(folder: os.PathLike) -> str | None:
  """The first file that is not as :func:`write_checksums` saw it, and how; None if all are.

  A folder without checksums, as earlier versions wrote them, has no damage that can be seen.

  Examples:
    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "a").write_bytes(b"12")
    >>> write_checksums(folder, [folder / "a"])
    >>> find_damage(folder) is None
    True
    >>> _ = (folder / "a").write_bytes(b"13")
    >>> find_damage(folder)
    'a has another checksum'
  """
  place = epath.Path(folder)
  if not (place / FOLDER_FILE).exists():
    return None
  try:
    noted = json.loads((place / FOLDER_FILE).read_text())
    for name, value in noted.items():
      if _checksum(place / name) != value:
        return f"{name} has another checksum" if (place / name).exists() else f"{name} is missing"
  except (OSError, ValueError, AttributeError, RecursionError) as error:
    return f"{FOLDER_FILE} cannot be read: {error}"
  return None


def _checksum(path: epath.Path) -> list[int] | None:
  """Length and CRC-32 of a file; None of anything else."""
  if not path.is_file():
    return None
  length = total = 0
  with path.open("rb") as file:
    while block := file.read(BLOCK):
      length, total = length + len(block), zlib.crc32(block, total)
  return [length, total]
