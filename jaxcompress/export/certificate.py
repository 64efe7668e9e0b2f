"""Certificates: which logits a model gives, as hashes that anybody can compute again.

A certificate is a JSON file. It holds the SHA-256 of the model's files, of the images as integers, and of
the integers of the logits, of exact evaluation by the rules of each runtime and of every runtime on
every processor that ran. Beside it lie ``inputs.npy``, the images as integers, and ``check.py``, which
computes the same hash with LiteRT and NumPy alone.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcompress.files.checksums import check_seal
from jaxcompress.files.records import from_plain, plain
from jaxcompress.files.values import SEAL, check_format, one_line, parse_json, sealed_json
from jaxcompress.files.writing import write_atomically

FORMAT = 1
CERTIFICATE_FILE, INPUTS_FILE, SCRIPT_FILE = "certificate.json", "inputs.npy", "check.py"
EQUAL, DIFFERS, NOT_RUN = "equal", "differs", "not run"
HOW = (
  "A model file's hash is the SHA-256 of its bytes.",
  "The hash of images and of logits is the SHA-256 of their integers: image after image, each in C"
  " order, int8, or int16 with the low byte first.",
  "Images are the integers that the network reads; real = (integer - zero_point) * scale.",
  "Logits that a file gives as uint8 are hashed as int8, minus 128. onnxruntime gives float32, which is"
  " hashed as the integers that it stands for; a number off the grid counts as a difference.",
  "'each' has the first 8 digits of the SHA-256 of every image, or of all its outputs in order.",
)
DIGITS = 8  # of an image's hash
Integers = Mapping[str, np.ndarray]  # by output


@dataclasses.dataclass(frozen=True)
class Images:
  """The images of a certificate, as the integers that the network reads.

  Attributes:
    count: how many.
    shape: of one: (height, width, channels).
    dtype: ``"int8"`` or ``"int16"``.
    scale: of the integers.
    zero_point: likewise.
    sha256: of all integers.
    each: the first digits of the hash of each image, between spaces.
    source: where they came from, in words.
    files: SHA-256 of the picture files that they were read from, by name, in order.
  """

  count: int
  shape: tuple[int, ...]
  dtype: str
  scale: float
  zero_point: int
  sha256: str
  each: str
  source: str = ""
  files: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Output:
  """An output of the network: type of its integers, shape for one image, and what they stand for."""

  dtype: str
  shape: tuple[int, ...]
  scale: float
  zero_point: int


@dataclasses.dataclass(frozen=True)
class Exact:
  """Hashes of exact evaluation by the rules of one runtime.

  Attributes:
    sha256: of the integers, by output.
    each: the first digits of the hash of each image's, between spaces.
  """

  sha256: Mapping[str, str]
  each: str


@dataclasses.dataclass(frozen=True)
class Row:
  """The result of one file in one runtime on one processor.

  Attributes:
    file: name of the file or folder.
    kernels: of the runtime, such as ``"xnnpack"``.
    processor: of this machine, such as ``"x86_64"``, or the one that is emulated.
    emulated: whether it is.
    verdict: ``"equal"`` to exact evaluation, ``"differs"`` from it, or ``"not run"``.
    rule: whose rules exact evaluation followed.
    reason: what differs, or why it was not run.
    equal: how many integers of all outputs are equal.
    total: of how many.
    max_steps: the largest difference, in quantization steps.
    first: position of the first image with a difference.
    sha256: of the integers that it gave, by output.
    versions: of what computed.
    left_out: operators that other kernels computed; see :class:`~jaxcompress.export.Verification`.
  """

  file: str
  kernels: str
  processor: str
  emulated: bool
  verdict: str
  rule: str = ""
  reason: str = ""
  equal: int = 0
  total: int = 0
  max_steps: int = 0
  first: int | None = None
  sha256: Mapping[str, str] = dataclasses.field(default_factory=dict)
  versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
  left_out: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Certificate:
  """Hashes of a model, of images, and of the logits that runtimes and processors gave.

  Attributes:
    verdict: ``"equal"``: all that ran gave the integers of exact evaluation; or ``"differs"``.
    model: SHA-256 of its files, by name; those of a folder as ``folder/file``.
    images: what it ran on.
    outputs: of the network, by name, the logits first.
    exact: by the name of a runtime's rules.
    rows: every file in every runtime on every processor.
    version: of jaxcompress that wrote it.
    date: in UTC.
    machine: that it was written on.
    how: how hashes are made, in sentences.
    format: number of the format.
  """

  verdict: str
  model: Mapping[str, str]
  images: Images
  outputs: Mapping[str, Output]
  exact: Mapping[str, Exact]
  rows: tuple[Row, ...]
  version: str
  date: str
  machine: Mapping[str, str]
  how: tuple[str, ...] = HOW
  format: int = FORMAT

  @property
  def sentence(self) -> str:
    """The verdict in words.

    Examples:
      >>> rows = (Row("a.tflite", "xnnpack", "x86_64", False, EQUAL),)
      >>> images = Images(2, (1, 1, 1), "int8", 1.0, 0, "", "")
      >>> Certificate(EQUAL, {}, images, {}, {}, rows, "1", "today", {}).sentence
      'equal: 1 of 1 runtimes and processors gave the integers of exact evaluation for all 2 images'
    """
    ran = [row for row in self.rows if row.verdict != NOT_RUN]
    equal, missing = sum(row.verdict == EQUAL for row in ran), len(self.rows) - len(ran)
    more = f"; {missing} not run here" if missing else ""
    return (
      f"{self.verdict}: {equal} of {len(ran)} runtimes and processors gave the integers of exact"
      f" evaluation for all {self.images.count:,} images{more}"
    )


def write_certificate(
  certificate: Certificate, codes: np.ndarray, path: str | os.PathLike, program: str | None = None
) -> tuple[pathlib.Path, ...]:
  """Writes a certificate and, beside it, ``inputs.npy`` and ``check.py``.

  Args:
    certificate: of :func:`~jaxcompress.export.certify`.
    codes: the integers of its images.
    path: of the certificate.
    program: a program that checks it; None: none is written.

  Returns:
    The files.

  Raises:
    ValueError: if one cannot be written.
  """
  path = pathlib.Path(path)
  inputs = path.with_name(INPUTS_FILE)
  if path.name in (INPUTS_FILE, SCRIPT_FILE):
    raise ValueError(f"path: {path} must have another name: {path.name} is written beside it.")
  written = [write_atomically(inputs, npy_bytes(codes))]
  if program is not None:
    written.append(write_atomically(path.with_name(SCRIPT_FILE), program))
  return write_atomically(path, sealed_json(plain(dataclasses.asdict(certificate)))), *written


def read_certificate(path: str | os.PathLike) -> tuple[Certificate, str | None]:
  """Reads a certificate.

  Returns:
    ``(certificate, damage)``: damage is None, or what shows that the file was changed after it was
    written.

  Raises:
    ValueError: if it cannot be read, or is not a certificate.
  """
  try:
    content = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise ValueError(f"certificate: {path} cannot be read ({error.strerror}).") from error
  damage = None
  try:
    if not check_seal(content, "it"):
      damage = "its checksum is missing"
  except ValueError:
    damage = "its checksum is not that of its contents"
  try:
    values = parse_json(content)
    if not isinstance(values, dict) or "rows" not in values:
      raise ValueError("it has no rows")
    check_format(values.get("format", FORMAT), FORMAT, "it")
    values = {name: part for name, part in values.items() if name != SEAL}
    found = from_plain(Certificate, values, newer=True)
  except ValueError as error:
    raise ValueError(
      f"certificate: {path} is not a readable certificate ({one_line(error)})."
    ) from error
  return found, damage or contradiction(found)


def contradiction(certificate: Certificate) -> str | None:
  """Describes the first contradiction in a certificate; None if there is none.

  Examples:
    >>> images = Images(2, (1, 1, 1), "int8", 1.0, 0, "", "")
    >>> contradiction(Certificate(EQUAL, {}, images, {}, {}, (), "1", "today", {}))
    'its verdict is equal, and that of its rows not run'
  """
  verdict = verdict_of(certificate.rows)
  if certificate.verdict != verdict:
    return f"its verdict is {certificate.verdict}, and that of its rows {verdict}"
  for row in certificate.rows:
    exact = certificate.exact.get(row.rule)
    if row.verdict == EQUAL and (exact is None or row.sha256 != exact.sha256):
      return f"{row.file} on {row.processor} is equal by the rules of {row.rule}, whose hash is another one"
    if row.verdict == EQUAL and (row.equal, row.first) != (row.total, None):
      return f"{row.file} on {row.processor} is equal, and counts a difference"
  return None


def verdict_of(rows: Sequence[Row]) -> str:
  """Returns the verdict of all rows together: those that were run must be equal."""
  ran = [row.verdict for row in rows if row.verdict != NOT_RUN]
  if not ran:
    return NOT_RUN
  return EQUAL if set(ran) == {EQUAL} else DIFFERS


def read_inputs(path: str | os.PathLike) -> np.ndarray:
  """The integers of ``inputs.npy``.

  Raises:
    ValueError: if it cannot be read.
  """
  try:
    found = np.load(path, allow_pickle=False)
    if not isinstance(found, np.ndarray) or found.ndim == 0:
      raise ValueError("it must be one array of images")
    return found
  except (OSError, ValueError, EOFError) as error:
    raise ValueError(f"images: {path} cannot be read ({one_line(error)}).") from error


def npy_bytes(array: np.ndarray) -> bytes:
  """An array as the bytes of an .npy file."""
  import io

  file = io.BytesIO()
  np.save(file, array, allow_pickle=False)
  return file.getvalue()


def hash_of_integers(integers: np.ndarray) -> str:
  """SHA-256 of integers in C order, the low byte first.

  Examples:
    >>> hash_of_integers(np.int8([[1, -1]])) == hashlib.sha256(b"\\x01\\xff").hexdigest()
    True
  """
  return hashlib.sha256(_bytes(integers)).hexdigest()


def hash_of_each(integers: Integers) -> str:
  """The first digits of the hash of each image's integers, between spaces.

  Examples:
    >>> hash_of_each({"logits": np.int8([[1], [2]])})
    '4bf5122f dbc1b4c9'
  """
  count = len(next(iter(integers.values())))
  return " ".join(
    hashlib.sha256(b"".join(_bytes(array[i]) for array in integers.values())).hexdigest()[:DIGITS]
    for i in range(count)
  )


def exact_of(integers: Integers) -> Exact:
  """The entry of what exact evaluation gives."""
  hashes = {name: hash_of_integers(array) for name, array in integers.items()}
  return Exact(hashes, hash_of_each(integers))


def hash_files(paths: Sequence[pathlib.Path]) -> dict[str, str]:
  """SHA-256 of files by name, and of what folders of C list in their manifests as ``folder/file``.

  Raises:
    ValueError: if one cannot be read, two have one name, or a folder was changed.
  """
  found: dict[str, str] = {}
  for path in paths:
    for file in _inside(path) if path.is_dir() else [path]:
      name = file.relative_to(path.parent).as_posix()
      if name in found:
        raise ValueError(f"paths: two files are called {name}; give them names that differ.")
      found[name] = hash_file(file)
  return found


def _inside(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files that a folder of C was written with."""
  from jaxcompress.export.c99.manifest import MANIFEST, read_manifest

  listed = read_manifest(folder).entry["c"]["files"]
  return [folder / MANIFEST, *(folder / name for name in listed)]


def hash_file(path: pathlib.Path) -> str:
  """SHA-256 of a file.

  Raises:
    ValueError: if it cannot be read.
  """
  try:
    with path.open("rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest()
  except OSError as error:
    raise ValueError(f"path: {path} cannot be read ({error.strerror}).") from error


def first_difference(ours: str, theirs: str) -> int | None:
  """Position of the first image whose hash differs; None: all are equal.

  Examples:
    >>> first_difference("aa bb cc", "aa bc cc"), first_difference("aa", "aa")
    (1, None)
  """
  pairs = list(zip(ours.split(), theirs.split(), strict=False))
  if len(ours.split()) != len(theirs.split()):
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
  return next((i for i, (a, b) in enumerate(pairs) if a != b), None)


def _bytes(integers: Any) -> bytes:
  array = np.asarray(integers)
  return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
