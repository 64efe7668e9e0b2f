"""A table of image files and labels: ``csv:FILE``."""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.data import walk
from jaxcompress.data.dataset import Dataset
from jaxcompress.data.gather import Files, gathered
from jaxcompress.data.groups import grouped
from jaxcompress.data.labels import numbered
from jaxcompress.data.parts import PARTS
from jaxcompress.data.reader import ImageReader

COLUMNS = {  # names of columns, in lower case
  "path": (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "filenames", "image"),
    *("image_path", "img", "img_path", "image_file", "imagepath", "image_name", "name"),
  ),
  "label": (
    *("label", "labels", "class", "class_name", "classname", "category", "target", "species"),
    *("label_name", "y"),
  ),
  "split": ("split", "part", "set", "subset", "fold", "partition", "dataset", "data_set"),
}
SPLITS = {
  "train": ("train", "training"),
  "validation": ("val", "valid", "validation", "eval", "evaluation", "dev"),
  "test": ("test", "testing"),
}
DELIMITERS = ",;\t|"
ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # by how a file begins


class Row(NamedTuple):
  """A line of the table: where it is, and what it says."""

  line: int
  path: str
  label: str
  part: str


def table(
  path: str,
  *,
  seed: int = 0,
  reader: ImageReader = ImageReader(),  # noqa: B008  # frozen
  limit: int | None = None,
  in_memory: bool | None = None,
  group_by: str | None = None,
  strict: bool = False,
) -> Dataset:
  r"""Images that a table lists: one line for each with its file and its class.

  The first line may name the columns: ``path`` (or ``file``, ``filename``, ``image``, ...), ``label``
  (or ``class``, ``category``, ``target``, ...) and, if there is one, ``split`` with ``train``, ``val``
  or ``test`` in it. Columns of other names are not read. Without such a line the first column is the
  file and the second the class; a third one is the split if it says nothing else. Cells are parted by
  commas, semicolons, tabs or bars, and may be quoted; the text is UTF-8, with or without a mark at its
  beginning, or UTF-16 with one.

  Files lie relative to the table's folder. Classes are sorted: as numbers if all are whole ones, else
  as text. Files that are missing count as damaged ones; what is left out and split off is as with
  :func:`~jaxcompress.data.folder.folder`.

  Args:
    path: the table.
    seed: of the splits.
    reader: how pictures become images; without a size it is chosen as for folders.
    limit: at most this many images in each part, with the classes' shares kept.
    in_memory: whether images are decoded now, or each time when they are needed; None: now, if they take
      at most half of the memory.
    group_by: a regular expression on the files as they are listed; see
      :func:`~jaxcompress.data.folder.folder`.
    strict: whether it is an error where images would be left out.

  Returns:
    A :class:`Dataset` of RGB images.

  Raises:
    ValueError: if the file cannot be read or is no such table, a cell is empty or says no known split,
      there are fewer than two classes or a class has too few images, or ``strict`` and images would be
      left out.

  Examples:
    >>> import tempfile
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> lines = ["path,label"]
    >>> for i in range(6):
    ...   Image.new("RGB", (32, 32), (40 * i, 0, 0)).save(folder / f"{i}.png")
    ...   lines.append(f"{i}.png,{'cat' if i % 2 else 'dog'}")
    >>> _ = (folder / "photos.csv").write_text("\n".join(lines))
    >>> table(str(folder / "photos.csv")).classes
    ('cat', 'dog')
  """
  file = pathlib.Path(path).expanduser()
  rows = _rows(_text(file, path), path)
  root = file.parent
  classes, labels = numbered([row.label for row in rows], f"the table {path!r}")
  places = {part: [i for i, row in enumerate(rows) if row.part == part] for part in PARTS}
  places = {part: found for part, found in places.items() if found}
  if "train" not in places:
    raise ValueError(
      f"data: the table {path!r} has no images to train on; its splits need a train."
    )
  grouping = grouped(
    {p: [rows[i].path for i in found] for p, found in places.items()}, group_by, seed
  )
  files = {
    part: Files(
      [root / rows[i].path for i in found],
      labels[found],
      grouping.order[part],
      grouping.groups[part],
      np.arange(len(found)),
    )
    for part, found in places.items()
  }
  name = f"csv:{walk.printable(path)}"
  common: Any = {"reader": reader, "limit": limit, "in_memory": in_memory, "strict": strict}
  return Dataset(**gathered(name, classes, files, root, notes=grouping.notes, **common))


def _text(file: pathlib.Path, path: str) -> str:
  """The file's text."""
  try:
    content = file.read_bytes()
  except OSError as error:
    raise ValueError(
      f"data: the table {path!r} cannot be read ({error.strerror}); give a file with a line for each"
      " image."
    ) from error
  try:
    return content.decode(ENCODINGS.get(content[:2], "utf-8-sig"))
  except UnicodeDecodeError as error:
    raise ValueError(
      f"data: the table {path!r} is no UTF-8 text ({error.reason} at byte {error.start:,}); save it as"
      " UTF-8."
    ) from error


def _rows(text: str, path: str) -> list[Row]:
  """Its lines, without the one that names columns and empty ones."""
  lines = text.splitlines()
  first = next((line for line in lines if line.strip()), "")
  counts = {
    delimiter: len(next(csv.reader([first], delimiter=delimiter))) for delimiter in DELIMITERS
  }
  delimiter = max(DELIMITERS, key=lambda one: counts[one])
  if counts[delimiter] < 2:
    what = "is empty" if not first else f"has one column, as in {walk.printable(first[:60])!r}"
    raise ValueError(
      f"data: the table {path!r} {what}; it must have lines such as 'cat/1.jpg,cat', with a comma, a"
      " semicolon or a tab."
    )
  cells = csv.reader(
    io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
  )
  found: list[tuple[int, list[str]]] = []
  try:
    for row in cells:
      if any(cell.strip() for cell in row):
        found.append((cells.line_num, [cell.strip() for cell in row]))
  except csv.Error as error:
    raise ValueError(
      f"data: the table {path!r} has no cells in line {cells.line_num} ({error})."
    ) from error
  columns = _columns([row for _, row in found], path)
  if columns.pop("named"):
    found = found[1:]
  return [_row(line, row, columns, path) for line, row in found]


def _columns(rows: Sequence[Sequence[str]], path: str) -> dict[str, int]:
  """Positions of the columns, and whether the first line names them."""
  head = [cell.lower() for cell in rows[0]]
  named: dict[str, int] = {}
  for column, names in COLUMNS.items():
    known = [head.index(name) for name in names if name in head]
    if known:
      named[column] = known[0]
  if "path" in named and "label" in named:
    return {**named, "named": 1}
  if named and not any(walk.is_picture(cell) for cell in rows[0]):
    missing = "label" if "path" in named else "path"
    raise ValueError(
      f"data: the table {path!r} has the columns {walk.printable(', '.join(rows[0]))}, and none of them is"
      f" called {missing}; name one so (or {', '.join(COLUMNS[missing][1:4])})."
    )
  width = len(rows[0])
  parts = {cell.lower() for row in rows for cell in row[2:3]}
  if not any(walk.is_picture(cell) for cell in rows[0]):
    raise ValueError(
      f"data: the table {path!r} begins with {walk.printable(', '.join(rows[0]))}, which neither names the"
      " columns path and label nor an image file; name the columns."
    )
  first, second = (0, 1) if walk.is_picture(rows[0][0]) else (1, 0)
  columns = {"path": first, "label": second, "named": 0}
  if width > 2 and all(_part(part) for part in parts):
    columns["split"] = 2
  return columns


def _part(text: str) -> str | None:
  return next((part for part, names in SPLITS.items() if text.lower() in names), None)


def _row(line: int, row: Sequence[str], columns: dict[str, int], path: str) -> Row:
  """A line's cells by their columns."""
  cells = {name: row[place] if place < len(row) else "" for name, place in columns.items()}
  for name, cell in cells.items():
    if not cell:
      raise ValueError(
        f"data: the table {path!r} has no {name} in line {line} ({walk.printable(', '.join(row))!r:.80});"
        " write one or delete the line."
      )
  part = _part(cells.get("split", "train"))
  if part is None:
    raise ValueError(
      f"data: the table {path!r} has the split {walk.printable(cells['split'])!r} in line {line}; it must be"
      " train, val or test."
    )
  return Row(line, cells["path"].replace("\\", "/"), cells["label"], part)
