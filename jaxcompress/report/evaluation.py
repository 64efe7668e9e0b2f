"""An evaluation on labelled images: its figures, and how they are shown."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcompress.report import text
from jaxcompress.report.classes import (
  ClassFigures,
  Pair,
  balanced_accuracy,
  class_figures,
  confused_pairs,
  confusion_of,
  macro_f1,
  ranked,
  top_share,
)
from jaxcompress.report.layout import Column, Table, Words
from jaxcompress.report.predictions import as_csv, in_lines, rounded

TOP = 5
PAIRS = 10
FIELDS = ("class", "images", "predicted", "right", "precision", "recall", "f1")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
  """Accuracy of a network on labelled images.

  Attributes:
    classes: of the network, by name.
    confusion: (classes, classes) counts of images; rows are the true classes.
    top5: share of the images whose class is among the five best; None where there are no more classes
      than that.

  Examples:
    >>> logits = np.float32([[2, 1], [0, 3], [1, 0], [0, 1]])
    >>> found = Evaluation.of(("cat", "dog"), logits, np.array([0, 1, 1, 1]))
    >>> found.images, found.top1, round(found.balanced_accuracy, 3)
    (4, 0.75, 0.833)
    >>> found
    Evaluation(4 images, 75.0 % top-1, 83.3 % balanced)
  """

  classes: tuple[str, ...]
  confusion: np.ndarray
  top5: float | None = None

  @classmethod
  def of(cls, classes: Sequence[str], logits: np.ndarray, labels: np.ndarray) -> "Evaluation":
    """The evaluation of some outputs.

    Args:
      classes: names, one for each output.
      logits: (images, classes), or any scores.
      labels: (images,) positions of classes; at least one.
    """
    predictions = ranked(logits, 1)[:, 0]
    top5 = top_share(logits, labels, TOP) if len(classes) > TOP else None
    return cls(tuple(classes), confusion_of(labels, predictions, len(classes)), top5)

  def __repr__(self) -> str:
    shares = f"{text.percent(self.top1)} top-1, {text.percent(self.balanced_accuracy)} balanced"
    return f"Evaluation({self.images:,} images, {shares})"

  @property
  def images(self) -> int:
    """How many there are."""
    return int(self.confusion.sum())

  @property
  def top1(self) -> float:
    """Share of the images that are classified right: accuracy."""
    return float(np.trace(self.confusion)) / self.images

  @property
  def figures(self) -> tuple[ClassFigures, ...]:
    """Support, precision, recall and F1 of each class, in the order of ``classes``."""
    return class_figures(self.confusion)

  @property
  def balanced_accuracy(self) -> float:
    """The mean recall of the classes that have images."""
    return balanced_accuracy(self.figures) or 0.0

  @property
  def macro_f1(self) -> float:
    """The mean F1 of the classes that have images, or that images were taken for."""
    return macro_f1(self.figures) or 0.0

  @property
  def confused(self) -> tuple[Pair, ...]:
    """The most frequent mistakes, largest first."""
    return confused_pairs(self.confusion, PAIRS)

  def summary(self) -> dict[str, Any]:
    """The figures of all images together, as plain values."""
    return {
      "images": self.images,
      "top1": rounded(self.top1),
      "top5": rounded(self.top5),
      "balanced_accuracy": rounded(self.balanced_accuracy),
      "macro_f1": rounded(self.macro_f1),
    }


def summary_line(found: Evaluation) -> str:
  """The figures of all images in a sentence.

  Examples:
    >>> summary_line(Evaluation(("cat", "dog"), np.array([[8, 2], [0, 10]])))
    '18 of 20 images are right: 90.0 % top-1, 90.0 % balanced accuracy, 89.9 % macro F1'
  """
  shares = [(found.top1, "top-1")] + ([] if found.top5 is None else [(found.top5, "top-5")])
  shares += [(found.balanced_accuracy, "balanced accuracy"), (found.macro_f1, "macro F1")]
  listed = ", ".join(f"{text.percent(share)} {name}" for share, name in shares)
  return f"{int(np.trace(found.confusion)):,} of {found.images:,} images are right: {listed}"


def class_table(found: Evaluation) -> Table:
  """Figures of every class that has images, or that images were taken for.

  Examples:
    >>> len(class_table(Evaluation(("cat", "dog"), np.array([[8, 2], [0, 10]]))).rows)
    2
  """

  def share(title: str, name: str) -> Column:
    return Column(title, lambda row: _percent(getattr(row[1], name)))

  columns = (
    Words("class", lambda row: row[0]),
    Column("images", lambda row: f"{row[1].support:,}"),
    *(share(name, name) for name in ("precision", "recall")),
    share("F1", "f1"),
  )
  return Table(columns, _rows(found))


def confused_table(found: Evaluation) -> Table:
  """The most frequent mistakes.

  Examples:
    >>> len(confused_table(Evaluation(("cat", "dog"), np.array([[8, 2], [0, 10]]))).rows)
    1
  """
  columns = (
    Words("class", lambda pair: found.classes[pair.true]),
    Words("taken for", lambda pair: found.classes[pair.predicted]),
    Column("images", lambda pair: f"{pair.count:,}"),
    Column("of", lambda pair: f"{pair.total:,}"),
  )
  return Table(columns, found.confused)


def evaluation_as_json(found: Evaluation, **facts: Any) -> str:
  """One object: facts and figures, the confusion matrix, and ``classes``, a list of those of each.

  Examples:
    >>> import json
    >>> found = Evaluation(("cat", "dog"), np.array([[8, 2], [0, 10]]))
    >>> read = json.loads(evaluation_as_json(found, model="m"))
    >>> read["top1"], read["classes"][0]["recall"], read["confusion"]
    (0.9, 0.8, [[8, 2], [0, 10]])
  """
  rows = [dict(zip(FIELDS, map(rounded, row), strict=True)) for row in _values(found)]
  return in_lines(
    {**facts, **found.summary(), "confusion": found.confusion.tolist()}, "classes", rows
  )


def evaluation_as_csv(found: Evaluation) -> str:
  """A line for every class of the network, below a line of names.

  Examples:
    >>> found = Evaluation(("cat", "dog"), np.array([[8, 2], [0, 10]]))
    >>> print(evaluation_as_csv(found).splitlines()[1])
    cat,10,8,8,1.0,0.8,0.888889
  """
  return as_csv(FIELDS, _values(found))


def _percent(share: float | None) -> str | None:
  return None if share is None else text.percent(share)


def _rows(found: Evaluation) -> list[tuple[str, ClassFigures]]:
  rows = zip(found.classes, found.figures, strict=True)
  return [row for row in rows if row[1].support or row[1].predicted]


def _values(found: Evaluation) -> list[tuple[Any, ...]]:
  rows = zip(found.classes, found.figures, strict=True)
  return [(name, *one, one.precision, one.recall, one.f1) for name, one in rows]


EVALUATION_FORMATS: Mapping[str, Callable[..., Any]] = {
  "table": lambda found, **facts: (class_table(found), confused_table(found), summary_line(found)),
  "json": evaluation_as_json,
  "csv": lambda found, **facts: evaluation_as_csv(found),
}
