"""Checks of the options of runs, alone and together."""

import pathlib
import re
import typing
from typing import Any

from jaxcompress import models
from jaxcompress.arguments import unknown
from jaxcompress.data.preprocess import PIXELS
from jaxcompress.files.records import from_plain
from jaxcompress.models.checkpoints.sources import find_source, is_source
from jaxcompress.models.registry import FAMILIES, LISTED, describe
from jaxcompress.prune.magnitude import parse_pattern
from jaxcompress.prune.shares import DISTRIBUTIONS

UNSTRUCTURED = "unstructured"
UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2}


class OptionError(ValueError):
  """A mistake that another option mends, which every surface spells in its own way.

  Args:
    before: the message up to that option.
    after: the rest of it.
    option: its name and value, one.

  Examples:
    >>> error = OptionError("out: a.tflite exists; add ", " to replace it.", force=True)
    >>> str(error), error.spelled("--force")
    ('out: a.tflite exists; add force=True to replace it.', 'out: a.tflite exists; add --force to replace it.')
  """

  def __init__(self, before: str, after: str, **option: Any):
    self._parts = before, after
    ((self.name, self.value),) = option.items()
    super().__init__(self.spelled(f"{self.name}={self.value!r}"))

  def spelled(self, option: str) -> str:
    """The message with the option as it is written where it was given."""
    return option.join(self._parts)


def check_types(options: Any) -> None:
  """Every option must be of its type.

  Raises:
    ValueError: naming the option that is not.
  """
  for name, kind in typing.get_type_hints(type(options)).items():
    value = getattr(options, name)
    try:
      from_plain(kind, value)
    except ValueError as error:
      raise ValueError(f"{name}: {value!r:.40} must be of another type ({error}).") from error


def check_choice(name: str, value: str, choices: Any) -> None:
  """An option must be one of some choices.

  Raises:
    ValueError: if it is not.
  """
  if value not in choices:
    raise unknown(name, value, choices)


def check_between(name: str, value: int | None, low: int, high: int) -> None:
  """An option must be none, or from one number to another.

  Raises:
    ValueError: if it is not.
  """
  if value is not None and not low <= value <= high:
    raise ValueError(f"{name}: {value} is out of range; it must be {low} to {high}.")


def is_outside(teacher: str | None) -> bool:
  """Whether a teacher is the path of a file or folder.

  Examples:
    >>> [is_outside(name) for name in ("resnet20", "a/teacher.onnx", "timm/resnet18", None)]
    [False, True, False, False]
  """
  if teacher is None or teacher in models.MODELS:
    return False
  if is_source(teacher) and not pathlib.Path(teacher).exists():
    return False
  return teacher.lower().endswith(".onnx") or pathlib.Path(teacher).is_dir() or "/" in teacher


def check_names(asked: Any) -> None:
  """The networks must be known, where no file of weights says what they are.

  Raises:
    ValueError: if one is not.
  """
  for role in ("student", "teacher"):
    name, file = getattr(asked, role), getattr(asked, f"{role}_weights")
    if name is None or file is not None or is_source(name):
      continue
    if name not in (models.MODELS | FAMILIES) and not (role == "teacher" and is_outside(name)):
      raise unknown(role, name, models.MODELS, LISTED)


def check_starts(asked: Any) -> None:
  """Sources of weights come with a file and have widths of their own.

  Raises:
    ValueError: if an option does not fit; it tells how the file is made.
  """
  for role, width in (("student", "width"), ("teacher", "teacher_width")):
    name, file = getattr(asked, role), getattr(asked, f"{role}_weights")
    if name is None or not is_source(name) or (role == "teacher" and asked.taught_outside):
      continue
    found = find_source(name, role)
    if getattr(asked, width) is not None:
      raise ValueError(
        f"{width}: {getattr(asked, width):g} is given beside {name}, which has its own; leave it out."
      )
    if file is None:
      kind = describe(found.make(found.num_classes)).name
      raise ValueError(
        f"{role}_weights: {name} is a source of weights, and no file is given; in Python, {recipe_of(name)}"
        f" writes one. To train from scratch, name {kind} as {role}."
      )
  if asked.searches and asked.student_weights is not None:
    raise ValueError(
      "student_weights: a search within a budget tries networks of several widths, which start from"
      " scratch; leave the weights out, or the budget."
    )


def recipe_of(source: str) -> str:
  """The line of Python that saves the weights of a source.

  Examples:
    >>> recipe_of("timm/resnet18")
    "torch.save(timm.create_model('resnet18', pretrained=True).state_dict(), 'resnet18.pth')"
  """
  library, _, name = source.partition("/")
  model = {
    "timm": f"timm.create_model({name!r}, pretrained=True)",
    "torchvision": f"torchvision.models.{name}(weights='DEFAULT')",
  }.get(library, "model")
  return f"torch.save({model}.state_dict(), '{name}.pth')"


def check_outside(asked: Any) -> None:
  """Options of teachers that are files: none without one, and none of networks beside one.

  Raises:
    ValueError: if they do not fit together.
  """
  of_files = ("teacher_pixels", "teacher_outputs")
  is_file = asked.taught_outside and (asked.teacher or "").lower().endswith(".onnx")
  for name in of_files:
    if getattr(asked, name) is not None and not is_file:
      raise ValueError(
        f"{name}: {getattr(asked, name)} is of a teacher in an .onnx file; name one as teacher, or"
        " leave it out."
      )
  if asked.teacher_pixels is not None:
    check_choice("teacher_pixels", asked.teacher_pixels, PIXELS)
  for name in ("teacher_width", "teacher_weights"):
    if asked.taught_outside and getattr(asked, name) is not None:
      raise ValueError(
        f"{name}: {getattr(asked, name)} is given beside the teacher {asked.teacher}; leave one out."
      )
  if asked.taught_outside and asked.searches:
    raise ValueError(
      f"teacher: {asked.teacher} cannot teach a search within a budget; leave the budget out,"
      " or name a model."
    )


def check_pruning(asked: Any) -> None:
  """Options of pruning must fit together.

  Raises:
    ValueError: if they do not.
  """
  sparsity, pattern = asked.sparsity, asked.sparsity_pattern
  if sparsity is not None and not 0 < sparsity < 1:
    raise ValueError(f"sparsity: {sparsity} is out of range; it must be above 0 and below 1.")
  if asked.sparsity_distribution is not None:
    check_choice("sparsity_distribution", asked.sparsity_distribution, DISTRIBUTIONS)
    if sparsity is None or pattern not in (None, UNSTRUCTURED):
      raise ValueError(
        f"sparsity_distribution: {asked.sparsity_distribution} needs a sparsity to distribute;"
        " give one without a pattern, or leave it out."
      )
  if pattern in (None, UNSTRUCTURED):
    if pattern is not None and sparsity is None:
      raise ValueError(f"sparsity_pattern: {pattern} needs a share of zeros; give sparsity too.")
    return
  try:
    n, m = parse_pattern(pattern)
  except ValueError as error:
    raise ValueError(
      f"sparsity_pattern: {pattern!r} is unknown; it must be {UNSTRUCTURED}, or n:m with 0 < n < m,"
      " such as 2:4."
    ) from error
  if sparsity not in (None, 1 - n / m):
    raise ValueError(
      f"sparsity: {sparsity} does not fit the pattern {pattern}, which has {1 - n / m:g}; leave it"
      " out."
    )


def parse_size(size: str, name: str = "budget") -> int:
  """Bytes of a size as people write it: kB and MB are decimal, KiB and MiB binary.

  Raises:
    ValueError: if it is not a size.

  Examples:
    >>> parse_size("300KB"), parse_size("1.5 MB"), parse_size("64KiB"), parse_size("5000")
    (300000, 1500000, 65536, 5000)
  """
  wrong = f"{name}: {size!r} is no size; write it as 300KB, 1.5MB or a number of bytes."
  return _parse(size, "(|k|m|ki|mi)b?", wrong)


def parse_count(count: str, name: str) -> int:
  """A number as people write it: 10M, 2.5k, 1G, or in full.

  Raises:
    ValueError: if it is not a number.

  Examples:
    >>> parse_count("10M", "max_macs"), parse_count("1500", "max_macs")
    (10000000, 1500)
  """
  wrong = f"{name}: {count!r} is no number; write it as 10M, 500k or in full."
  return _parse(count, "(|k|m|g)", wrong)


def _parse(text: str, units: str, wrong: str) -> int:
  match = re.fullmatch(rf"\s*(\d+(?:\.\d+)?)\s*{units}\s*", text.lower())
  if match is None or float(match[1]) == 0:
    raise ValueError(wrong)
  return int(float(match[1]) * UNITS[match[2]])
