"""Predictions for pictures, as a table, JSON and CSV."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxcompress.report import text
from jaxcompress.report.layout import Column, Table, Words

DIGITS = 6  # of a score in files
FIELDS = ("image", "rank", "class", "score", "error")


class Prediction(NamedTuple):
  """The classes that a network predicts for a picture.

  Attributes:
    image: name of the picture's file, or its number among those that were given.
    classes: the most probable ones, best first; empty if the picture cannot be read.
    scores: of these classes, 0 to 1.
    error: why the picture cannot be read.

  Examples:
    >>> Prediction("a.jpg", ("cat", "dog"), (0.9, 0.1)).label
    'cat'
  """

  image: str | int
  classes: tuple[str, ...] = ()
  scores: tuple[float, ...] = ()
  error: str | None = None

  @property
  def label(self) -> str:
    """The most probable class.

    Raises:
      ValueError: if the picture could not be read.
    """
    if self.error is not None:
      raise ValueError(f"image: {self.image} cannot be read ({self.error}); look at error first.")
    return self.classes[0]

  @property
  def score(self) -> float:
    """Score of the most probable class; raises as :attr:`label`."""
    return self.scores[self.classes.index(self.label)]


class _Line(NamedTuple):
  """A class of a picture, or why there is none."""

  image: str
  rank: int | None = None
  name: str | None = None
  score: float | None = None
  error: str | None = None


def prediction_table(predictions: Sequence[Prediction]) -> Table:
  """A line for every class of every picture.

  Examples:
    >>> len(prediction_table([Prediction("a.jpg", ("cat", "dog"), (0.9, 0.1))]).rows)
    2
  """
  lines = _lines(predictions)
  columns = [
    Words("image", lambda line: line.image if line.rank in (1, None) else " "),
    Words("class", lambda line: line.name or f"cannot be read: {line.error}"),
    Column("score", lambda line: None if line.score is None else text.percent(line.score, 1)),
  ]
  return Table(columns, lines)


def predictions_as_json(predictions: Sequence[Prediction], **facts: Any) -> str:
  """One object: facts, and ``images``, a list with ``image`` and its ``predictions`` or ``error``.

  Examples:
    >>> print(predictions_as_json([Prediction("a.jpg", ("cat",), (0.9,))], model="m"), end="")
    {
      "model": "m",
      "images": [
        {"image": "a.jpg", "predictions": [{"class": "cat", "score": 0.9}]}
      ]
    }
  """
  return in_lines(facts, "images", list(map(_plain, predictions)))


def predictions_as_csv(predictions: Sequence[Prediction]) -> str:
  """A line for every class of every picture, below a line of names.

  Examples:
    >>> print(predictions_as_csv([Prediction("a.jpg", ("cat",), (0.9,))]), end="")
    image,rank,class,score,error
    a.jpg,1,cat,0.9,
  """
  return as_csv(FIELDS, _lines(predictions))


def as_csv(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """Rows of values below a line of names; None is empty, and scores have six digits."""
  file = io.StringIO()
  writer = csv.writer(file, lineterminator="\n")
  writer.writerow(names)
  writer.writerows([rounded(value) for value in row] for row in rows)
  return file.getvalue()


def in_lines(facts: Mapping[str, Any], name: str, rows: Sequence[Any]) -> str:
  """JSON of some facts, and of rows with a line each: read by programs, and by persons too."""
  lines = [
    f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}," for key, value in facts.items()
  ]
  listed = ",\n".join(f"    {json.dumps(row, allow_nan=False)}" for row in rows)
  return "\n".join(
    ["{", *lines, f"  {json.dumps(name)}: [", *([listed] if rows else []), "  ]", "}\n"]
  )


def rounded(value: Any) -> Any:
  """A number for a file."""
  return round(value, DIGITS) if isinstance(value, float) else value


def _plain(prediction: Prediction) -> dict[str, Any]:
  if prediction.error is not None:
    return {"image": prediction.image, "error": prediction.error}
  pairs = zip(prediction.classes, prediction.scores, strict=True)
  return {
    "image": prediction.image,
    "predictions": [{"class": name, "score": rounded(score)} for name, score in pairs],
  }


def _lines(predictions: Sequence[Prediction]) -> list[_Line]:
  found = []
  for one in predictions:
    if one.error is not None:
      found.append(_Line(str(one.image), error=one.error))
    pairs = zip(one.classes, one.scores, strict=True)
    found += [_Line(str(one.image), i, name, score) for i, (name, score) in enumerate(pairs, 1)]
  return found


PREDICTION_FORMATS: Mapping[str, Callable[..., Any]] = {
  "table": lambda predictions, **facts: prediction_table(predictions),
  "json": predictions_as_json,
  "csv": lambda predictions, **facts: predictions_as_csv(predictions),
}
