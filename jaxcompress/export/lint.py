"""Checks a model file against what a target asks of it, without the target."""

import os
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from jaxcompress.export.contents import Operator, read_operators
from jaxcompress.export.requirements import CHECKS, ERROR, Target
from jaxcompress.export.targets import find_target
from jaxcompress.files.values import one_line


class Finding(NamedTuple):
  """A requirement of a target that an operator does not meet.

  Attributes:
    requirement: its name, such as ``"stride"``.
    op: name of the operator, such as ``"DEPTHWISE_CONV_2D"``.
    name: of what the operator writes; in files of jaxcompress that is the layer.
    reason: why the target asks for it, and what is there instead.
    severity: ``"error"`` or ``"warning"``; see
      :class:`~jaxcompress.export.requirements.Requirement`.
  """

  requirement: str
  op: str
  name: str
  reason: str
  severity: str


def lint(path: str | os.PathLike, target: str) -> tuple[Finding, ...]:
  """Checks a file against what a target asks of it.

  Args:
    path: a .tflite file, or an .onnx file for TensorRT.
    target: a key of :data:`~jaxcompress.export.targets.TARGETS`: ``"xnnpack"``, ``"tflm"``,
      ``"ethos-u"``, ``"edgetpu"`` or ``"tensorrt"``.

  Returns:
    What is not as the target asks, in the order of the operators.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if the target is unknown or takes other files, or the file is missing or damaged.

  Examples:
    >>> import tempfile
    >>> import numpy as np
    >>> from jaxcompress.export.flatbuffer import ModelFile
    >>> file = ModelFile()
    >>> grid = file.quantization(0.5, 0)
    >>> x, y = (file.tensor(name, (1, 4), np.int8, grid) for name in "xy")
    >>> file.operator("HARD_SWISH", 1, [x], [y])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "swish.tflite"
    >>> _ = path.write_bytes(file.to_bytes({"x": x}, {"y": y}))
    >>> [(finding.op, finding.severity) for finding in lint(path, "edgetpu")]
    [('HARD_SWISH', 'error')]
    >>> lint(path, "ethos-u")
    ()
  """
  asked = find_target(target)
  suffix = pathlib.Path(path).suffix.lower()
  if suffix != asked.suffix:
    raise ValueError(f"target: {target!r} takes {asked.suffix} files, got {path}.")
  operators = read_operators(path)
  try:
    with np.errstate(all="ignore"):  # a scale of a file may be anything
      return check(operators, asked)
  except Exception as error:  # a runtime reads no shapes yet
    raise ValueError(
      f"path: {path} has operators without what they need ({one_line(error)})."
    ) from error


def check(operators: Iterable[Operator], target: Target) -> tuple[Finding, ...]:
  """Finds what is not as a target asks among operators, in their order."""
  return tuple(
    Finding(asked.name, operator.name, _name(operator), f"{asked.reason} ({wrong})", asked.severity)
    for operator in operators
    for asked in target.requirements
    if not asked.operators or operator.name in asked.operators
    if (wrong := CHECKS[asked.name](operator, asked.limit)) is not None
  )


def refuse_errors(operators: Iterable[Operator], target: str) -> None:
  """Checks what is about to be written.

  Raises:
    ValueError: for the first error; it names the operator and the layer.
  """
  errors = [f for f in check(operators, find_target(target)) if f.severity == ERROR]
  if errors:
    first, more = errors[0], f"; {len(errors) - 1} more" if len(errors) > 1 else ""
    raise ValueError(
      f"target: {target!r} does not take {first.op} of layer {first.name!r}: {first.reason}{more};"
      " change the layer, or export without a target."
    )


def _name(operator: Operator) -> str:
  return operator.outputs[0].name if operator.outputs else ""
