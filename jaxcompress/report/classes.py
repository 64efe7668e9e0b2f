"""Figures of each class from scores and labels, and the confusion of classes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class ClassFigures(NamedTuple):
  """One class's part of an evaluation; a share of nothing is None.

  Attributes:
    support: examples of the class.
    predicted: examples that were taken for it.
    right: examples of the class that were taken for it.
  """

  support: int
  predicted: int
  right: int

  @property
  def precision(self) -> float | None:
    """Share of what was taken for the class that is of it."""
    return self.right / self.predicted if self.predicted else None

  @property
  def recall(self) -> float | None:
    """Share of the class that was taken for it."""
    return self.right / self.support if self.support else None

  @property
  def f1(self) -> float | None:
    """Harmonic mean of precision and recall."""
    both = self.support + self.predicted
    return 2 * self.right / both if both else None


class Pair(NamedTuple):
  """Two classes that are mixed up: images of ``true`` that were called ``predicted``."""

  true: int
  predicted: int
  count: int  # type: ignore[assignment]  # tuple.count is not needed
  total: int


def ranked(scores: np.ndarray, most: int | None = None) -> np.ndarray:
  """Classes from the highest score to the lowest; of equal ones the first comes first.

  Args:
    scores: (count, classes).
    most: how many of each example; None: all.

  Returns:
    (count, most) positions of classes.

  Examples:
    >>> ranked(np.array([[1, 5, 5, 0]]), 3).tolist()
    [[1, 2, 0]]
  """
  backwards = np.argsort(scores[:, ::-1], axis=-1, kind="stable")[:, ::-1]  # integers, too
  return scores.shape[1] - 1 - backwards[:, :most]


def top_share(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
  """Top-k accuracy: the share of examples whose class has one of the k highest scores.

  Args:
    scores: (count, classes).
    labels: (count,) positions of classes.
    k: at least 1.

  Examples:
    >>> top_share(np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]]), np.array([2, 0]), 1)
    0.5
    >>> top_share(np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]]), np.array([2, 0]), 2)
    1.0
  """
  return float((ranked(scores, k) == labels[:, None]).any(axis=1).mean())


def confusion_of(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
  """Counts (classes, classes) of true and predicted classes; rows are the true ones.

  Examples:
    >>> confusion_of(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
  """
  pairs = labels.astype(np.int64) * classes + predictions
  return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_figures(confusion: np.ndarray) -> tuple[ClassFigures, ...]:
  """Figures of every class.

  Args:
    confusion: (classes, classes) counts, rows true.

  Examples:
    >>> first, second = class_figures(np.array([[8, 2], [0, 10]]))
    >>> first.precision, first.recall, round(first.f1, 3)
    (1.0, 0.8, 0.889)
    >>> second.support, second.predicted
    (10, 12)
  """
  columns = confusion.sum(axis=1), confusion.sum(axis=0), np.diagonal(confusion)
  rows = zip(*(column.tolist() for column in columns), strict=True)
  return tuple(ClassFigures(*row) for row in rows)


def balanced_accuracy(figures: Sequence[ClassFigures]) -> float | None:
  """The mean recall of the classes that have examples, each counted alike; None if there are none.

  Examples:
    >>> balanced_accuracy(class_figures(np.array([[90, 10], [5, 5]])))
    0.7
  """
  return _mean([one.recall for one in figures if one.support])


def macro_f1(figures: Sequence[ClassFigures]) -> float | None:
  """The mean F1 of the classes that have examples, or that examples were taken for.

  Examples:
    >>> round(macro_f1(class_figures(np.array([[8, 2], [0, 10]]))), 3)
    0.899
  """
  return _mean([one.f1 for one in figures if one.f1 is not None])


def confused_pairs(confusion: np.ndarray, most: int = 10) -> tuple[Pair, ...]:
  """The most frequent mistakes, largest first.

  Args:
    confusion: (classes, classes) counts, rows true.
    most: how many at most.

  Examples:
    >>> confused_pairs(np.array([[8, 2], [0, 9]]))
    (Pair(true=0, predicted=1, count=2, total=10),)
  """
  counts = np.array(confusion)
  totals = counts.sum(axis=1)
  np.fill_diagonal(counts, 0)
  order = np.argsort(-counts, axis=None, kind="stable")[:most]
  pairs = (divmod(int(i), counts.shape[1]) for i in order)
  return tuple(Pair(i, j, int(counts[i, j]), int(totals[i])) for i, j in pairs if counts[i, j] > 0)


def _mean(shares: Sequence[float | None]) -> float | None:
  return float(np.mean(np.array(shares, np.float64))) if shares else None
