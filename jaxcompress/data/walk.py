"""Finds the image files below a folder, counts other files, and checks names."""

import collections
import os
import pathlib
import stat
import unicodedata
from collections.abc import Iterable

from PIL import features

from jaxcompress.arguments import counted

SUFFIXES = (  # in lower case; what a file is, its content says
  *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif"),
  *(".tiff", ".ppm", ".pgm", ".pbm", ".pnm", *(".avif",) * bool(features.check("avif"))),
)
COMMON = ".jpg, .png, .webp, .bmp, .gif, .tif"  # those that messages name
UNREAD = {  # pictures all the same
  *(".avif", ".heic", ".heif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".cr3", ".nef"),
  *(".arw", ".orf", ".rw2", ".raf"),
}
UNREAD_KIND = "pictures of kinds that are not read: save them as JPEG or PNG"
ALONE = {  # what one of a kind is called
  UNREAD_KIND: "picture of a kind that is not read: save it as JPEG or PNG",
  "files of other kinds": "file of another kind",
  "folders beside train": "folder beside train",
  "hidden files": "hidden file",
  "hidden or system folders": "hidden or system folder",
  "images in those": "image in those",
  "images outside of class folders": "image outside of class folders",
  "links to folders read before": "link to a folder read before",
  "links to nothing": "link to nothing",
  "pipes, sockets and devices": "pipe, socket or device",
}
SYSTEM = {  # folders that systems and programs make beside one's own, in lower case
  *("__macosx", "__pycache__", "@eadir", "#recycle", "@recycle", "#snapshot", "lost+found"),
  *("@recently-snapshot", "@tmp", "$recycle.bin", "recycler", "system volume information"),
}
SHOWN = 3  # names of each kind


class LeftOut:
  """Counts what was not read, by kind, with some names.

  Examples:
    >>> found = LeftOut()
    >>> found.add("hidden files", ".DS_Store")
    >>> found.text()
    '1 hidden file (.DS_Store)'
    >>> found.add("hidden files", "._1.png")
    >>> found.text()
    '2 hidden files (.DS_Store, ._1.png)'
  """

  def __init__(self) -> None:
    self.names: dict[str, collections.Counter[str]] = {}

  def add(self, kind: str, name: str) -> None:
    """Counts one, whose kind is a key of ``ALONE``."""
    self.names.setdefault(kind, collections.Counter())[name] += 1

  def text(self) -> str:
    """All of it in a line; empty where nothing was left out."""
    parts = []
    for kind, names in sorted(self.names.items()):
      shown = [printable(name) for name in sorted(names)[:SHOWN]]
      more = ", ..." if len(names) > SHOWN else ""
      what = counted(names.total(), ALONE[kind], kind)
      parts.append(f"{what} ({', '.join(shown)}{more})")
    return ", ".join(parts)


def is_foreign(name: str) -> bool:
  """Whether a name is hidden, or one of a system's own folders.

  Examples:
    >>> [is_foreign(name) for name in (".ipynb_checkpoints", "._1.png", "@eaDir", "cat")]
    [True, True, True, False]
  """
  return name.startswith(".") or name.lower() in SYSTEM


def subfolders(path: pathlib.Path, left_out: LeftOut) -> list[pathlib.Path]:
  """The folders in a folder, sorted by name.

  Args:
    path: the folder.
    left_out: what else is there is counted here.

  Raises:
    ValueError: if it cannot be read.
  """
  found = []
  for entry in _entries(path, left_out):
    if _is_folder(entry):
      found.append(path / entry.name)
    elif _is_image(entry, left_out):
      left_out.add("images outside of class folders", entry.name)
  return found


def images_below(path: pathlib.Path, left_out: LeftOut) -> list[pathlib.Path]:
  """The image files in a folder and the folders in it, sorted by name.

  Links are followed, but a folder is read once only, so that links in a circle come to an end.

  Args:
    path: the folder.
    left_out: what is not read is counted here: hidden names, folders of systems, files of other
      kinds, pipes, sockets, devices, links to nothing, folders that were read before.

  Raises:
    ValueError: if a folder cannot be read.
  """
  above = path.absolute().parents  # a link to one of them leads into other classes
  found, known, waiting = [], {_identity(place) for place in (path, *above)}, [path]
  links: list[pathlib.Path] = []
  while waiting or links:  # links last: a folder's own place is the one that counts
    place = waiting.pop() if waiting else links.pop()
    if place.is_symlink() and place != path:
      if _identity(place) in known:
        left_out.add("links to folders read before", place.name)
        continue
      known.add(_identity(place))
    for entry in _entries(place, left_out):
      child = place / entry.name
      if not _is_folder(entry):
        if _is_image(entry, left_out):
          found.append(child)
      elif entry.is_symlink():
        links.append(child)
      elif _identity(child) not in known:  # else a link led here first
        known.add(_identity(child))
        waiting.append(child)
  return sorted(found)


def _entries(path: pathlib.Path, left_out: LeftOut) -> list[os.DirEntry]:
  """Lists what is in a folder, sorted, without what is hidden or a system's."""
  try:
    with os.scandir(path) as found:
      entries = sorted(found, key=lambda entry: entry.name)
  except OSError as error:
    raise ValueError(
      f"data: the folder {str(path)!r} cannot be read ({error.strerror})."
    ) from error
  for entry in entries:
    if not is_foreign(entry.name):
      continue
    if not _is_folder(entry):
      left_out.add("hidden files", entry.name)
      continue
    left_out.add("hidden or system folders", entry.name)
    for _, _, names in os.walk(entry.path):
      for name in names:
        if name.lower().endswith(SUFFIXES):
          left_out.add("images in those", name)
  return [entry for entry in entries if not is_foreign(entry.name)]


def _identity(place: pathlib.Path) -> tuple[int, int]:
  facts = os.stat(place)
  return facts.st_dev, facts.st_ino


def _is_folder(entry: os.DirEntry) -> bool:
  try:
    return entry.is_dir()
  except OSError:  # links in a circle
    return False


def _is_image(entry: os.DirEntry, left_out: LeftOut) -> bool:
  """Whether an entry that is no folder is an image file; others are counted."""
  try:
    mode = os.stat(entry).st_mode
  except PermissionError as error:
    raise ValueError(f"data: {entry.path!r} cannot be read ({error.strerror}).") from error
  except OSError:
    left_out.add("links to nothing", entry.name)
    return False
  if not stat.S_ISREG(mode):
    left_out.add("pipes, sockets and devices", entry.name)
    return False
  suffix = pathlib.PurePath(entry.name).suffix.lower()
  if suffix not in SUFFIXES:
    kind = UNREAD_KIND if suffix in UNREAD else "files of other kinds"
    left_out.add(kind, suffix or entry.name)
  return suffix in SUFFIXES


def is_picture(name: str) -> bool:
  """Whether a name ends as those of image files do, also of kinds that are not read.

  Examples:
    >>> is_picture("cat/1.JPG"), is_picture("file"), is_picture("1.heic")
    (True, False, True)
  """
  suffix = pathlib.PurePath(name).suffix.lower()
  return suffix in SUFFIXES or suffix in UNREAD


def printable(text: str) -> str:
  r"""Text in which bytes that are no UTF-8, and what cannot be seen, are written as escapes.

  Examples:
    >>> print(printable("caf\udce9\n"))
    caf\xe9\n
  """
  text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
  return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def normal(name: str) -> str:
  r"""A name with composed accents: systems write the same one in two ways.

  Examples:
    >>> normal("cafe\u0301") == "caf\u00e9"
    True
  """
  return unicodedata.normalize("NFC", name)


def fault(name: object) -> str | None:
  r"""Why a class cannot have this name in files, terminals and reports; None: it can.

  Examples:
    >>> fault("stop sign"), fault("stop\nsign"), fault("caf\udce9")
    (None, 'has control characters', 'is not UTF-8')
    >>> fault(" "), fault(3)
    ('is blank', 'is no text')
  """
  if not isinstance(name, str):
    return "is no text"
  if not name.strip():
    return "is blank"
  try:
    name.encode()
  except UnicodeEncodeError:
    return "is not UTF-8"
  if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
    return "has control characters"
  return None


def look_alike(names: Iterable[str]) -> tuple[str, str] | None:
  r"""Two names that differ only in how accents are written or in spaces at the ends.

  Examples:
    >>> look_alike(["cat", "dog", "cat "])
    ('cat', 'cat ')
    >>> look_alike(["cat", "Cat", "c at"])
  """
  known: dict[str, str] = {}
  for name in names:
    plain = normal(name).strip()
    if plain in known:
      return known[plain], name
    known[plain] = name
  return None
