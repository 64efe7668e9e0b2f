"""Checks a certificate: repeats what the present machine can run, and says what is equal."""

import os
import pathlib
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxcompress.export.certificate import (
  DIFFERS,
  EQUAL,
  INPUTS_FILE,
  NOT_RUN,
  Certificate,
  Exact,
  Row,
  exact_of,
  first_difference,
  hash_file,
  hash_of_each,
  hash_of_integers,
  read_certificate,
  read_inputs,
)
from jaxcompress.export.certifying import (
  Evaluations,
  Ran,
  Trial,
  as_paths,
  difference_of,
  outputs_of,
  run_trial,
  to_integers,
)
from jaxcompress.export.trial import RUNTIMES
from jaxcompress.nn import INPUT
from jaxcompress.nn.foreign import check_made
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.model import QUANTIZED

NOT_HERE = "not run here"
MOST_NAMED = 3
OTHER_IMAGES = "the images are others than were certified"


class Line(NamedTuple):
  """One thing that a check looked at.

  Attributes:
    what: a file, the images, exact evaluation, or a file in a runtime on a processor.
    verdict: ``"equal"``, ``"differs"`` or ``"not run here"``.
    words: what differs, or why it was not run.
    is_row: whether it is of a file in a runtime.
  """

  what: str
  verdict: str
  words: str = ""
  is_row: bool = False


class Check(NamedTuple):
  """The result of checking a certificate.

  Attributes:
    lines: all that was looked at, in order.
    certificate: that was checked.
  """

  lines: tuple[Line, ...]
  certificate: Certificate

  @property
  def equal(self) -> bool:
    """Whether something was run here, and nothing differs."""
    return all(line.verdict != DIFFERS for line in self.lines) and any(
      line.verdict == EQUAL for line in self.lines if line.is_row
    )

  @property
  def sentence(self) -> str:
    """The outcome in words."""
    count = {verdict: sum(line.verdict == verdict for line in self.lines) for verdict in VERDICTS}
    whole = EQUAL if self.equal else DIFFERS if count[DIFFERS] else NOT_HERE
    return (
      f"{whole}: {', '.join(f'{number} {verdict}' for verdict, number in count.items() if number)}"
    )


VERDICTS = (EQUAL, DIFFERS, NOT_HERE)


def check(
  certificate: str | os.PathLike,
  paths: Sequence[str | os.PathLike] | str | os.PathLike,
  quantized: QuantizedModel,
  *,
  images: np.ndarray | None = None,
  pictures: Mapping[str, str] | None = None,
  processors: Sequence[str] | None = None,
) -> Check:
  """Repeats what a certificate says, as far as this machine can run it. It writes nothing.

  Args:
    certificate: the file that :func:`~jaxcompress.export.write_certificate` wrote.
    paths: the model's files, as for :func:`~jaxcompress.export.certify`; some of them are enough.
    quantized: the model that they were written from.
    images: what ``quantized`` takes, or integers; None: ``inputs.npy`` beside the certificate.
    pictures: SHA-256 of the files that they were read from, by name; None: they were not read again.
    processors: names of those that are emulated, which takes long; empty: only what runs on this
      machine alone; None: all of the certificate's. Others are left out, and counted in one line.

  Returns:
    A :class:`Check`; ``check(...).equal`` says whether all that was run here gave what the certificate says.

  Raises:
    ValueError: if the certificate, its images or a file cannot be read, or no row is of a processor.

  Examples:
    >>> import tempfile
    >>> from jaxcompress.export import certify, packed, stablehlo, write_certificate
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grids = dict.fromkeys(("input", "pool"), Grid(np.float32(0.1), 0))
    >>> quantized = QuantizedModel(Graph((pool,), (1, 2, 2, 3), "pool"), grids, {})
    >>> folder = tempfile.mkdtemp()
    >>> path = stablehlo(quantized, folder + "/pool.stablehlo")
    >>> codes = np.arange(60, dtype=np.int8).reshape(5, 2, 2, 3)
    >>> made = certify(path, quantized, codes)
    >>> written = write_certificate(made, codes, folder + "/certificate.json")
    >>> check(written[0], path, quantized).sentence
    'equal: 6 equal'
  """
  check_made("quantized", quantized, QuantizedModel, QUANTIZED)
  place, files = pathlib.Path(certificate), as_paths(paths)
  known, damage = read_certificate(place)
  rows, skipped = _chosen(known, processors)
  lines = [Line(place.name, DIFFERS if damage else EQUAL, damage or "")]
  found = _match(known, files)
  lines += _file_lines(known, files, found)
  if images is None:
    codes = read_inputs(place.with_name(INPUTS_FILE))
  else:
    codes = to_integers(quantized, images)
  same = _images_line(known, codes)
  lines += [same, *_meaning_lines(known, quantized), *_picture_lines(known, pictures)]
  if same.verdict == DIFFERS:
    lines += [Line(f"exact evaluation, {rule}", NOT_HERE, OTHER_IMAGES) for rule in known.exact]
    lines += [Line(name_of(row), NOT_HERE, OTHER_IMAGES, is_row=True) for row in rows]
    return Check((*lines, *skipped), known)
  evaluations = Evaluations(quantized, to_integers(quantized, codes))
  here: dict[str, Exact] = {}
  for rule, exact in known.exact.items():
    try:
      here[rule] = exact_of(evaluations.by_rules(rule))
    except ValueError as error:
      lines.append(Line(f"exact evaluation, {rule}", NOT_HERE, str(error)))
      continue
    lines.append(_exact_line(known, rule, exact, here[rule]))
  changed = {line.what for line in lines if line.verdict == DIFFERS}
  for row in rows:
    line = _row_line(known, row, found.get(row.file), evaluations, here, changed)
    lines.append(line._replace(is_row=True))
  return Check((*lines, *skipped), known)


def check_unread(
  certificate: str | os.PathLike,
  paths: Sequence[str | os.PathLike] | str | os.PathLike,
  reason: str,
) -> Check | None:
  """Checks the files of a model that cannot be read: a damaged file is not the certified one.

  Args:
    certificate: as for :func:`check`.
    paths: as for :func:`check`.
    reason: why the model cannot be read.

  Returns:
    A :class:`Check` that differs; None where no file differs, so that they are not what is wrong.

  Raises:
    ValueError: if the certificate cannot be read.
  """
  known, damage = read_certificate(certificate)
  files = [path for path in as_paths(paths) if path.exists()]
  of_files = _file_lines(known, files, _match(known, files))
  if not any(line.verdict == DIFFERS and line.what in known.model for line in of_files):
    return None
  lines = [
    Line(pathlib.Path(certificate).name, DIFFERS if damage else EQUAL, damage or ""),
    *of_files,
  ]
  lines += [Line(name_of(row), NOT_HERE, reason, is_row=True) for row in known.rows]
  return Check(tuple(lines), known)


def _chosen(
  known: Certificate, processors: Sequence[str] | None
) -> tuple[list[Row], tuple[Line, ...]]:
  """The rows that are repeated, and a line of those that are not."""
  if processors is None:
    return list(known.rows), ()
  counts = Counter(row.processor for row in known.rows if row.emulated)
  for name in processors:
    if name not in counts:
      raise ValueError(
        f"processors: {name!r} is not an emulated processor of the certificate; it has"
        f" {', '.join(counts) or 'none'}."
      )
  left_out = {name: count for name, count in counts.items() if name not in processors}
  rows = [row for row in known.rows if not (row.emulated and row.processor in left_out)]
  if not left_out:
    return rows, ()
  named = ", ".join(f"{count} on {name}" for name, count in left_out.items())
  count = sum(left_out.values())
  what = f"{count} emulated row{'s' if count > 1 else ''}"
  return rows, (Line(what, NOT_HERE, f"left out as asked: {named}"),)


def name_of(row: Row) -> str:
  """A row's file, runtime and processor in words.

  Examples:
    >>> name_of(Row("a.tflite", "xnnpack", "cortex-a53", True, EQUAL))
    'a.tflite in LiteRT on cortex-a53'
  """
  return f"{row.file} in {RUNTIMES.get(row.kernels, row.kernels)} on {row.processor}"


def _match(known: Certificate, files: Sequence[pathlib.Path]) -> dict[str, pathlib.Path]:
  """The files that are given, by the names that the certificate has for them."""
  names = {name.partition("/")[0] for name in known.model}
  found = {path.name: path for path in files if path.name in names}
  hashes = {sha256: name for name, sha256 in known.model.items()}
  for path in files:
    if path.name not in names and path.is_file():
      name = hashes.get(hash_file(path))
      if name is not None:
        found.setdefault(name, path)
  return found


def _file_lines(
  known: Certificate, files: Sequence[pathlib.Path], found: Mapping[str, pathlib.Path]
) -> list[Line]:
  lines = []
  for name, sha256 in known.model.items():
    first, _, inside = name.partition("/")
    path = found.get(first)
    if path is None:
      lines.append(Line(name, NOT_HERE, "it was not given"))
      continue
    path = path / inside if inside else path
    if not path.is_file():
      lines.append(Line(name, DIFFERS, "it is missing"))
      continue
    theirs = hash_file(path)
    words = "" if theirs == sha256 else f"its SHA-256 is {theirs}, and {sha256} was certified"
    lines.append(Line(name, EQUAL if theirs == sha256 else DIFFERS, words))
  for path in files:
    if path not in found.values():
      named = ", ".join(list(known.model)[:MOST_NAMED])
      lines.append(Line(path.name, DIFFERS, f"it is not one of the certificate's files ({named})"))
  return lines


def _images_line(known: Certificate, codes: np.ndarray) -> Line:
  images = known.images
  same = hash_of_integers(codes) == images.sha256 and codes.dtype.name == images.dtype
  if same and codes.shape == (images.count, *images.shape):
    return Line("images", EQUAL)
  if (len(codes), codes.shape[1:]) != (images.count, images.shape):
    words = f"{codes.shape} in place of {(images.count, *images.shape)}"
  elif codes.dtype.name != images.dtype:
    words = f"{codes.dtype} in place of {images.dtype}"
  else:
    theirs = hash_of_each({INPUT: codes})
    count = sum(a != b for a, b in zip(theirs.split(), images.each.split(), strict=False))
    first = first_difference(images.each, theirs)
    words = f"{count:,} of {images.count:,} are others; the first is image {_picture(known, first)}"
    if first is None:  # their own hashes are right, so that of all was changed
      words = "the certificate's hash of all images contradicts its hashes of each"
  return Line("images", DIFFERS, words)


def _meaning_lines(known: Certificate, quantized: QuantizedModel) -> list[Line]:
  """Compares the scale and zero point in a certificate with the model's."""
  grid, images, lines = quantized.grids[INPUT], known.images, []
  if (images.scale, images.zero_point) != (float(grid.scale), grid.zero_point):
    words = f"the model's scale and zero point are {grid.scale}, {grid.zero_point}"
    lines.append(Line("scale, zero point", DIFFERS, words))
  if known.outputs != (ours := outputs_of(quantized)):
    names = [n for n in {**ours, **known.outputs} if ours.get(n) != known.outputs.get(n)]
    lines.append(Line("outputs", DIFFERS, f"the model has others ({_some(names)})"))
  return lines


def _picture_lines(known: Certificate, pictures: Mapping[str, str] | None) -> list[Line]:
  if pictures is None or not known.images.files:
    return []
  files = known.images.files
  wrong = [name for name, sha256 in files.items() if pictures.get(name) != sha256]
  more = [name for name in pictures if name not in files]
  parts = [f"{len(wrong)} of {len(files)} are missing or others ({_some(wrong)})"] if wrong else []
  parts += [f"{len(more)} were added ({_some(more)})"] if more else []
  return [Line("picture files", DIFFERS if parts else EQUAL, "; ".join(parts))]


def _some(names: Sequence[str]) -> str:
  return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")


def _exact_line(known: Certificate, rule: str, certified: Exact, here: Exact) -> Line:
  what = f"exact evaluation, {rule}"
  if here == certified:
    return Line(what, EQUAL)
  first = first_difference(certified.each, here.each)
  if first is None:
    return Line(
      what, DIFFERS, "the certificate's hash of all images contradicts its hashes of each"
    )
  count = sum(a != b for a, b in zip(certified.each.split(), here.each.split(), strict=False))
  words = (
    f"outputs of {count:,} of {known.images.count:,} images; the first is {_picture(known, first)}"
  )
  return Line(what, DIFFERS, words)


def _row_line(
  known: Certificate,
  row: Row,
  path: pathlib.Path | None,
  evaluations: Evaluations,
  here: Mapping[str, Exact],
  changed: set[str],
) -> Line:
  what = name_of(row)
  if path is None:
    return Line(what, NOT_HERE, "it was not given")
  if row.kernels not in RUNTIMES:
    return Line(what, NOT_HERE, "this version knows no such runtime")
  ran = run_trial(Trial(path, row.kernels, row.processor if row.emulated else None), evaluations)
  if ran.row.verdict == NOT_RUN:
    is_changed = any(name.partition("/")[0] == row.file for name in changed)
    verdict = DIFFERS if is_changed and ran.refusal is not None else NOT_HERE
    return Line(what, verdict, ran.row.reason)
  certified = row.sha256 if row.verdict != NOT_RUN and same_processor(row) else None
  exact = known.exact.get(ran.row.rule)
  if certified is None and exact is not None:
    certified = exact.sha256
  if certified is None:
    reason = (
      f"the certificate has nothing by the rules of {ran.row.rule}, which this machine's follows"
    )
    return Line(what, NOT_HERE, reason)
  return _compared(known, row, ran, certified, here)


def _compared(
  known: Certificate, row: Row, ran: Ran, certified: Mapping[str, str], here: Mapping[str, Exact]
) -> Line:
  what, rule = name_of(row), ran.row.rule
  if not same_processor(row):
    what += f", here {ran.row.processor}"
  if ran.row.sha256 == certified:
    return Line(what, EQUAL, ran.row.reason and f"as certified: {ran.row.reason}")
  if ran.row.verdict == EQUAL:
    return Line(
      what, DIFFERS, "it gives what exact evaluation here gives, and not what is certified"
    )
  exact = known.exact.get(rule)
  if exact is not None and rule in here and here[rule] == exact and exact.sha256 == certified:
    name = _picture(known, ran.row.first)
    return Line(what, DIFFERS, difference_of(ran.row, named=name))
  return Line(what, DIFFERS, "it gives other integers than are certified")


def same_processor(row: Row) -> bool:
  """Whether a row is of a processor that this machine has, or emulates."""
  return row.emulated or row.processor == platform.machine().lower()


def _picture(known: Certificate, position: int | None) -> str:
  """An image by its position, and its file's name if it has one."""
  names = list(known.images.files)
  if position is None or position >= len(names):
    return str(position)
  return f"{position} ({names[position]})"
