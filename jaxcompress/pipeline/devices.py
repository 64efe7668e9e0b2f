"""What the tools of small devices say of a file, where they are installed."""

import contextlib
import pathlib
from collections.abc import Iterable
from typing import Any

from jaxcompress import export

MOST_NAMED = 3  # operators that are left to the CPU


def device_facts(path: pathlib.Path) -> dict[str, Any]:
  """The arena of TensorFlow Lite for Microcontrollers and the operators on an Ethos-U.

  Args:
    path: a .tflite file.

  Returns:
    ``arena_bytes`` and ``npu`` of a :class:`~jaxcompress.report.Entry`; what is not installed, or
    does not take the file, is left out, but for the compiler's reason.
  """
  facts: dict[str, Any] = {}
  with contextlib.suppress(ValueError):  # not installed, or the file is not for it
    facts["arena_bytes"] = export.arena(path)
  try:
    with contextlib.suppress(export.MissingExtraError):
      facts["npu"] = npu_sentence(export.vela(path), export.lint(path, "ethos-u"))
  except ValueError as error:
    facts["npu"] = str(error)
  return facts


def npu_sentence(found: export.VelaReport, findings: Iterable[export.Finding] = ()) -> str:
  """How many operators the NPU computes, and why not the others.

  Args:
    found: by the compiler.
    findings: of the linter, whose reasons stand where the compiler gives none.

  Examples:
    >>> from jaxcompress.export import CpuOperator, VelaReport
    >>> left = (CpuOperator("ABS", "a", "no kernel"),)
    >>> npu_sentence(VelaReport(9, 8, left, 1.0, 1.0, 0.1))
    '8 of 9 operators on the NPU; on the CPU: ABS of a (no kernel)'
  """
  sentence = f"{found.on_npu} of {found.operators} operators on the NPU"
  if not found.cpu_ops:
    return sentence
  reasons = {finding.name: finding.reason for finding in findings}
  named = [
    f"{one.op} of {one.name} ({one.reason or reasons.get(one.name, 'no reason given')})"
    for one in found.cpu_ops[:MOST_NAMED]
  ]
  more = len(found.cpu_ops) - len(named)
  rest = f", and {more} more" if more else ""
  return f"{sentence}; on the CPU: {', '.join(named)}{rest}"
