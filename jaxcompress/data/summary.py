"""A data set in a table: images of each class and part, sizes, and what was left out."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from rich.cells import cell_len, set_cell_size

from jaxcompress.arguments import check_type
from jaxcompress.data.copies import Skipped
from jaxcompress.data.dataset import Dataset
from jaxcompress.data.parts import PARTS
from jaxcompress.data.reader import Size
from jaxcompress.data.walk import printable

WIDTH = 76  # characters of a line of the table
MOST, SHOWN = 12, 4  # classes in the table; and of more, at either end
GAP = "  "


@dataclasses.dataclass(frozen=True)
class Summary:
  """Contents of a data set; ``print`` shows them as a table.

  Attributes:
    classes: names of the classes.
    counts: by part, how many images of each class it has.
    image_shape: (height, width, channels) of every image.
    sizes: (height, width) of the smallest, the median and the largest picture before; None where that is
      not known.
    skipped: image files that were left out.
    notes: lines on what was noticed when the set was read.

  Examples:
    >>> print(Summary(("cat", "dog"), {"train": (7, 8), "test": (2, 2)}, (32, 32, 3)))
    class      train  test  all
    cat            7     2    9
    dog            8     2   10
    2 classes     15     4   19
    images of 32 x 32 px
  """

  classes: tuple[str, ...]
  counts: Mapping[str, tuple[int, ...]]
  image_shape: tuple[int, int, int]
  sizes: tuple[Size, ...] | None = None
  skipped: tuple[Skipped, ...] = ()
  notes: tuple[str, ...] = ()

  def table(self) -> tuple[str, ...]:
    """Lines of at most 76 characters; of very many classes the first and last ones."""
    parts = tuple(self.counts.values())
    rows = [
      _row(printable(name), [part[label] for part in parts])
      for label, name in enumerate(self.classes)
    ]
    if len(rows) > MOST:
      hidden = [sum(part[label] for part in parts) for label in range(SHOWN, len(rows) - SHOWN)]
      least, most = min(hidden), max(hidden)
      each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
      rows = [*rows[:SHOWN], (f"... {len(hidden):,} more of {each} each",), *rows[-SHOWN:]]
    total = _row(f"{len(self.classes):,} classes", [sum(part) for part in parts])
    return _aligned([("class", *self.counts, "all"), *rows, total])

  def __str__(self) -> str:
    return "\n".join((*self.table(), _pictures(self.image_shape, self.sizes), *self.notes))


def summary(dataset: Dataset) -> Summary:
  """Counts a data set's images by class and part.

  Args:
    dataset: any.

  Raises:
    ValueError: if it is no data set.

  Examples:
    >>> from jaxcompress.data.parts import Split
    >>> part = Split(np.zeros((3, 8, 8, 3), np.uint8), np.array([0, 1, 1], np.int32))
    >>> data = Dataset(name="x", classes=("cat", "dog"), train=part, validation=part, test=part)
    >>> summary(data).counts["test"]
    (1, 2)
  """
  check_type("dataset", dataset, Dataset, "a data.Dataset")
  counts = {
    part: tuple(np.bincount(getattr(dataset, part).labels, minlength=len(dataset.classes)).tolist())
    for part in PARTS
  }
  shape = dataset.image_shape
  return Summary(dataset.classes, counts, shape, dataset.sizes, dataset.skipped, dataset.notes)


def _row(name: str, counts: Sequence[int]) -> tuple[str, ...]:
  """A name, its counts and their sum."""
  return (name, *(f"{count:,}" for count in (*counts, sum(counts))))


def _aligned(rows: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
  """Rows under one another: names to the left, counts to the right; a row of one text is a remark."""
  whole = [row for row in rows if len(row) > 1]
  widths = [max(map(len, column)) for column in itertools.islice(zip(*whole, strict=True), 1, None)]
  room = WIDTH - sum(widths) - len(GAP) * len(widths)
  first = min(max(cell_len(row[0]) for row in whole), room)

  def line(row: tuple[str, ...]) -> str:
    if len(row) == 1:
      return row[0]
    fits = cell_len(row[0]) <= first
    name = set_cell_size(row[0], first) if fits else set_cell_size(row[0], first - 1) + "~"
    return GAP.join((name, *(text.rjust(w) for text, w in zip(row[1:], widths, strict=True))))

  return tuple(map(line, rows))


def _pictures(shape: tuple[int, ...], sizes: tuple[Size, ...] | None) -> str:
  """The size of the images, and those of the pictures before."""
  made = f"images of {shape[0]} x {shape[1]} px"
  if sizes is None or set(sizes) == {tuple(shape[:2])}:
    return made
  names = ("smallest", "median", "largest")
  if len(set(sizes)) == 1:
    return f"{made}, from pictures of {sizes[0][0]:,} x {sizes[0][1]:,}"
  found = (f"{name} {s[0]:,} x {s[1]:,}" for name, s in zip(names, sizes, strict=True))
  return f"{made}, from pictures (high x wide): {', '.join(found)}"
