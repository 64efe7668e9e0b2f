"""Labels as they are found, as numbers of classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcompress.data.sources import as_array
from jaxcompress.data.walk import fault, look_alike, normal, printable

FEW = 5  # names in a message


def numbered(texts: Sequence[str], source: str) -> tuple[tuple[str, ...], np.ndarray]:
  """The classes of labels that are text, and the labels' numbers.

  Classes are sorted, as numbers if all of them are whole ones.

  Args:
    texts: names.
    source: what has them, as a message says it.

  Returns:
    ``(classes, labels)``; labels are (count,) int32.

  Raises:
    ValueError: if there are fewer than two classes, a name cannot be written everywhere, or two look
      alike.

  Examples:
    >>> classes, labels = numbered(["10", "9", "10"], "the table")
    >>> classes, labels.tolist()
    (('9', '10'), [1, 0, 1])
  """
  plain = [normal(text) for text in texts]
  names = set(plain)
  whole = all(name.isascii() and name.isdigit() for name in names)
  classes = tuple(sorted(names, key=lambda name: (int(name), name) if whole else (0, name)))
  check_names(classes, source)
  places = {name: i for i, name in enumerate(classes)}
  return classes, np.array([places[name] for name in plain], np.int32)


def check_names(classes: Sequence[str], source: str) -> None:
  """Raises a ``ValueError`` if there are fewer than two names, or one cannot be a class's."""
  for name in classes:
    if wrong := fault(name):
      raise ValueError(
        f"data: the class {printable(str(name))!r} of {source} has a name that {wrong}; rename it."
      )
  if pair := look_alike(classes):
    raise ValueError(
      f"data: {source} has the classes {pair[0]!a} and {pair[1]!a}, which look alike; write both alike, or"
      " rename one."
    )
  if len(classes) < 2:
    has = f"has one class, {classes[0]!r}" if classes else "has no images"
    raise ValueError(f"data: {source} {has}; there must be images of two or more classes.")


def as_labels(
  parts: Mapping[str, Any], classes: Sequence[str] | None, source: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray], tuple[str, ...]]:
  """The classes of labels of any kind, and the labels' numbers.

  Args:
    parts: labels of each part: (count,) or (count, 1) whole numbers, truth values or names; or rows of
      one 1 among zeros.
    classes: names of the classes; then numbers are positions in them. None: names and numbers that
      occur are the classes, sorted.
    source: what has the labels, as a message says it.

  Returns:
    ``(classes, labels, notes)``; labels are (count,) int32 by part, and notes say where numbers did not
    stay what they were.

  Raises:
    ValueError: if labels are something else or out of range, or ``classes`` are no names.

  Examples:
    >>> classes, labels, notes = as_labels({"train": np.array([[5], [3]])}, None, "it")
    >>> classes, labels["train"].tolist(), notes
    (('3', '5'), [1, 0], ('labels 3, 5 are numbered 0 to 1 in this order',))
  """
  if classes is not None:
    classes = tuple(map(_name, classes))
    check_names(classes, source)
  found = {part: _flat(labels, part) for part, labels in parts.items()}
  kinds = {labels.dtype.kind for labels in found.values() if len(labels)}
  if len({kind == "U" for kind in kinds}) > 1:
    raise ValueError(
      f"labels: {source} has names in one part and numbers in another; give one kind."
    )
  every = np.concatenate(list(found.values()))
  if kinds == {"U"}:
    if classes is None:
      classes, _ = numbered(every.tolist(), source)
    places = {normal(name): i for i, name in enumerate(classes)}
    missing = next((name for name in every.tolist() if normal(name) not in places), None)
    if missing is not None:
      raise ValueError(
        f"labels: {printable(missing)!r} is not one of the classes {_few(classes)}; add it to them."
      )
    return (
      classes,
      {
        part: np.array([places[normal(name)] for name in labels.tolist()], np.int32)
        for part, labels in found.items()
      },
      (),
    )
  if classes is not None:
    if len(every) and not 0 <= every.min() <= every.max() < len(classes):
      raise ValueError(
        f"labels: {every.min()} to {every.max()} do not fit the {len(classes)} classes; they must be 0 to"
        f" {len(classes) - 1}."
      )
    return classes, {part: labels.astype(np.int32) for part, labels in found.items()}, ()
  values = np.unique(every)
  classes = tuple(str(value) for value in values.tolist())
  check_names(classes, source)
  notes: tuple[str, ...] = ()
  if kinds != {"b"} and values.tolist() != list(range(len(values))):
    notes = (f"labels {_few(classes)} are numbered 0 to {len(values) - 1} in this order",)
  return (
    classes,
    {part: np.searchsorted(values, labels).astype(np.int32) for part, labels in found.items()},
    notes,
  )


def _name(name: Any) -> Any:
  """A name of text, also if it is NumPy's or bytes."""
  if isinstance(name, bytes):
    return name.decode("utf-8", "surrogateescape")
  return str(name) if isinstance(name, str | np.integer | int) else name


def _few(names: Sequence[str]) -> str:
  return printable(", ".join(names[:FEW])) + ", ..." * (len(names) > FEW)


def _flat(labels: Any, part: str) -> np.ndarray:
  """Labels in one dimension: whole numbers, truth values or text."""
  said = "labels" if part == "train" else f"labels of {part}"
  if isinstance(labels, list | tuple) and len({isinstance(label, str) for label in labels}) > 1:
    raise ValueError(f"{said}: they must be whole numbers or names, all of one kind.")
  try:
    values = as_array(labels)
  except Exception as error:  # of rows of unequal length, and whatever others' arrays raise
    raise ValueError(
      f"{said}: they are no array ({error}); give one whole number or name each."
    ) from error
  if values.dtype.kind == "T":
    values = values.astype(str)
  if values.dtype.kind == "O":
    kinds = {isinstance(value, str) for value in values.ravel().tolist()}
    if kinds != {True}:
      raise ValueError(f"{said}: they must be whole numbers or names, all of one kind.")
    values = values.astype(str)
  if values.dtype.kind == "S":
    values = np.char.decode(values, "utf-8")
  if values.ndim == 2 and values.shape[1] == 1:
    values = values[:, 0]
  if values.ndim == 2 and values.dtype.kind in "biuf":
    one = (np.sort(values, axis=1) == np.eye(1, values.shape[1], values.shape[1] - 1)).all()
    if not one:
      raise ValueError(
        f"{said}: rows of {values.shape[1]} numbers must have one 1 among zeros; give each image one"
        " class."
      )
    values = np.argmax(values, axis=1)
  if values.ndim != 1:
    raise ValueError(f"{said}: of shape {values.shape} they must be (count,), one for each image.")
  if values.dtype.kind == "f" and len(values):
    if not np.isfinite(values).all() or (values != np.rint(values)).any():
      raise ValueError(
        f"{said}: {values.dtype} with fractions or NaN must be whole numbers or names."
      )
    values = values.astype(np.int64)
  if not len(values):
    values = values.astype(np.int64)
  if values.dtype.kind not in "biuU":
    raise ValueError(f"{said}: {values.dtype} must be whole numbers or names.")
  return values
