"""A certificate, and its check, as tables for the terminal and for a page."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxcompress.export.certificate import EQUAL, NOT_RUN, Certificate, Row
from jaxcompress.export.trial import RUNTIMES
from jaxcompress.report.layout import Table, Words

SHOWN, FEW = 16, 8  # digits of a hash, on a page and in the terminal


def certificate_table(certificate: Certificate) -> Table:
  """A row for each file in each runtime on each processor.

  Examples:
    >>> from jaxcompress.export.certificate import Images
    >>> rows = (Row("a.tflite", "xnnpack", "x86_64", False, EQUAL),)
    >>> images = Images(2, (1, 1, 1), "int8", 1.0, 0, "", "")
    >>> len(certificate_table(Certificate(EQUAL, {}, images, {}, {}, rows, "1", "", {})).rows)
    1
  """
  columns = (
    Words("file", lambda row: row.file, whole=True),
    Words("runtime", runtime),
    Words("processor", processor),
    Words(
      "logits",
      lambda row: f"all {row.total:,}: {row.rule}" if row.verdict == EQUAL else outcome(row),
    ),
    Words("SHA-256", lambda row: short(row)[:FEW] or None, whole=True),
  )
  caption = "logits: all are equal to exact evaluation by the rules that are named, or what differs"
  names = [f"{row.file} on {row.processor}" for row in certificate.rows]
  said = once([row.reason for row in certificate.rows], names)
  rows = [
    dataclasses.replace(row, reason=reason)
    for row, reason in zip(certificate.rows, said, strict=True)
  ]
  return Table(columns, rows, caption=caption, tight=True)


def once(words: Sequence[str], names: Sequence[str]) -> list[str]:
  """Words of rows; long ones that were there before are those of an earlier row, by its name.

  Examples:
    >>> once(["there is no emulator here", "", "there is no emulator here"], ["a", "b", "c"])
    ['there is no emulator here', '', 'as a']
  """
  found, first = [], dict[str, str]()
  for text, name in zip(words, names, strict=True):
    again = f"as {first.setdefault(text, name)}"
    found.append(again if first[text] != name and len(again) < len(text) else text)
  return found


def check_table(check: Any) -> Table:
  """A row for all that a check looked at.

  Args:
    check: an :class:`~jaxcompress.export.Check`.
  """
  columns = (
    Words("what", lambda line: line.what),
    Words("verdict", lambda line: line.verdict, whole=True),
    Words("", lambda line: line.words or None),
  )
  said = once([line.words for line in check.lines], [line.what for line in check.lines])
  lines = [line._replace(words=words) for line, words in zip(check.lines, said, strict=True)]
  return Table(columns, lines, strong=lambda line: line.verdict == "differs")


def runtime(row: Row) -> str:
  """The runtime of a row.

  Examples:
    >>> runtime(Row("a.stablehlo", "stablehlo", "x86_64", False, EQUAL))
    'StableHLO in JAX'
  """
  names = {"xnnpack": "LiteRT, XNNPACK", "reference": "LiteRT, reference kernels"}
  names |= {"tflm": "TFLite-Micro", "stablehlo": "StableHLO in JAX"}
  return names.get(row.kernels) or RUNTIMES.get(row.kernels, row.kernels)


def processor(row: Row) -> str:
  """The processor of a row, and whether it is emulated."""
  return f"{row.processor}, emulated" if row.emulated else row.processor


def outcome(row: Row) -> str:
  """The verdict of a row in words.

  Examples:
    >>> outcome(Row("a", "c", "x86_64", False, EQUAL, "tflm", equal=160, total=160))
    'equal, all 160, by the rules of tflm'
    >>> outcome(Row("a", "c", "x86_64", False, NOT_RUN, reason="there is no compiler."))
    'not run: there is no compiler'
  """
  if row.verdict == EQUAL:
    return f"equal, all {row.total:,}, by the rules of {row.rule}"
  if row.verdict == NOT_RUN:
    return f"not run: {row.reason.rstrip('.')}"
  return f"differs from the rules of {row.rule}: {row.reason}"


def short(row: Row) -> str:
  """The first digits of the hash of the first output."""
  return next(iter(row.sha256.values()), "")[:SHOWN]


def facts(certificate: Certificate) -> dict[str, Any]:
  """Returns the facts of a certificate in words, by name, with whole hashes."""
  images, machine = certificate.images, certificate.machine
  size = " x ".join(map(str, images.shape))
  where = f", {images.source}" if images.source else ""
  exact = {
    f"exact, {rule}": list(found.sha256.values()) for rule, found in certificate.exact.items()
  }
  inside = [name for name in certificate.model if "/" in name]
  files = {name: sha256 for name, sha256 in certificate.model.items() if name not in inside}
  if inside:
    files["in folders"] = f"{len(inside)} files, whose hashes are in certificate.json"
  return {
    **files,
    "images": f"{images.count:,} of {size} {images.dtype}{where}",
    "SHA-256 of images": images.sha256,
    "scale, zero point": f"{images.scale:.9g}, {images.zero_point}",
    **exact,
    "versions": versions(certificate.rows),
    "machine": f"{machine.get('processor')}, {machine.get('system')}",
    "jaxcompress": certificate.version,
    "date": certificate.date,
  }


def versions(rows: Sequence[Row]) -> list[str]:
  """Versions of all that computed, each once."""
  found = (f"{name} {version}" for row in rows for name, version in row.versions.items())
  return list(dict.fromkeys(found))
