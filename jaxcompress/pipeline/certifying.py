"""Certificates of model files by name, as behind ``jaxcompress certify``."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from jaxcompress.data import images as pictures
from jaxcompress.data import walk
from jaxcompress.data.load import load
from jaxcompress.data.reader import PREPROCESS, ImageReader
from jaxcompress.export.c99.compiling import CORES
from jaxcompress.export.c99.manifest import is_c
from jaxcompress.export.certificate import (
  CERTIFICATE_FILE,
  INPUTS_FILE,
  SCRIPT_FILE,
  Certificate,
  hash_file,
  read_certificate,
  read_inputs,
  write_certificate,
)
from jaxcompress.export.certifying import certify, to_integers
from jaxcompress.export.check_program import program_of
from jaxcompress.export.checking import Check, check, check_unread
from jaxcompress.export.contents import find_metadata
from jaxcompress.export.emulation import ARM64
from jaxcompress.export.foreign.reading import from_tflite
from jaxcompress.export.metadata import preprocess_of
from jaxcompress.export.packed import SUFFIX, read_packed
from jaxcompress.pipeline.checks import OptionError
from jaxcompress.pipeline.evaluating import FOLDER, run_of
from jaxcompress.pipeline.folders import OPTIONS_FILE, is_finished, read_results
from jaxcompress.pipeline.formats import FORMATS, format_of, without_suffix
from jaxcompress.quantize import QuantizedModel
from jaxcompress.report.write import CERTIFICATE_PAGE, write_certificate_page, write_report
from jaxcompress.terminal import say, waiting

COUNT = 16  # images where no number is named
SUFFIXES = (".tflite", ".onnx", ".stablehlo")
NPY = ".npy"
NO_PROCESSORS = "none"


class Model(NamedTuple):
  """A quantized model, and all files of it that are certified together.

  Attributes:
    paths: the files and folders of C.
    quantized: what they were written from.
    metadata: that was kept in them.
    folder: in which they lie.
  """

  paths: tuple[pathlib.Path, ...]
  quantized: QuantizedModel
  metadata: Mapping[str, Any]
  folder: pathlib.Path


class Pictures(NamedTuple):
  """Images for a model.

  Attributes:
    images: what the model takes, or its integers.
    source: where they came from, in words.
    files: SHA-256 of the files that they were read from, by name, in order; of others none.
  """

  images: np.ndarray
  source: str
  files: dict[str, str] = {}  # noqa: RUF012 - never changed


class Certified(NamedTuple):
  """A certificate, where it is, and the program that checks it elsewhere, if its files allow one."""

  certificate: Certificate
  path: pathlib.Path
  program: str | None


def certify_model(
  model: str,
  images: str | None = None,
  *,
  out: str | None = None,
  processors: str | None = None,
  count: int | None = None,
  seed: int | None = None,
  force: bool = False,
  console: Console | None = None,
) -> Certified:
  """Writes a certificate of a model's files, ``inputs.npy``, ``check.py`` and ``certificate.html``.

  Beside the report of a finished run it is shown in the report, too.

  Args:
    model: a .tflite, .onnx, .stablehlo or .jcz file, a folder of C, or a folder with one model's files,
      such as that of a run.
    images: a folder of pictures, a data set as for :func:`jaxcompress.data.load`, or an .npy file; None:
      those of the model's run.
    out: the certificate; None: ``certificate.json`` beside the model.
    processors: names between commas of those that are emulated, or ``"none"``; None: seven usual ones.
    count: at most so many images, the first ones; None: 16.
    seed: of a data set's splits; None: the run's, or 0.
    force: whether files that exist are replaced.
    console: what was noticed goes here.

  Returns:
    What was written.

  Raises:
    ValueError: if the model or the images cannot be read, or a file exists; nothing is written then.
  """
  console = console or Console(quiet=True)
  named = parse_processors(processors)
  found = find_model(model, console)
  place = pathlib.Path(out) if out is not None else found.folder / CERTIFICATE_FILE
  _check_free(place, force=force)
  read = read_pictures(found, images, COUNT if count is None else count, seed, console)
  with waiting(console, f"running {len(found.paths)} files on {len(read.images):,} images"):
    certificate = certify(
      found.paths,
      found.quantized,
      read.images,
      processors=named,
      source=read.source,
      pictures=read.files,
    )
    codes = to_integers(found.quantized, read.images)
    program = program_of(certificate, found.paths, found.quantized)
  write_certificate(certificate, codes, place, program)
  if program is None:
    place.with_name(SCRIPT_FILE).unlink(missing_ok=True)  # of an earlier certificate
  write_certificate_page(certificate, place.with_name(CERTIFICATE_PAGE), program)
  if (place.parent / OPTIONS_FILE).is_file() and is_finished(place.parent):
    write_report(read_results(place.parent), place.parent)
  return Certified(certificate, place, program)


def check_model(
  certificate: str,
  model: str,
  images: str | None = None,
  *,
  processors: str | None = None,
  console: Console | None = None,
) -> Check:
  """Repeats a certificate on this machine, and writes nothing.

  Args:
    certificate: the file.
    model: as for :func:`certify_model`.
    images: the folder of pictures that were certified, to read them again; None: ``inputs.npy``.
    processors: names between commas of the emulated ones that are repeated, or ``"none"``; None: all.
    console: what was noticed goes here.

  Raises:
    ValueError: if something cannot be read, unless it is a file that differs from the certified one.
  """
  console = console or Console(quiet=True)
  named = parse_processors(processors)
  known, _ = read_certificate(certificate)
  try:
    found = find_model(model, console)
  except ValueError as error:
    if (unread := check_unread(certificate, model, f"the model cannot be read: {error}")) is None:
      raise
    return unread
  read = None if images is None else read_pictures(found, images, known.images.count, None, console)
  with waiting(console, f"running {len(found.paths)} files on {known.images.count:,} images"):
    return check(
      certificate,
      found.paths,
      found.quantized,
      images=None if read is None else read.images,
      pictures=None if read is None or not read.files else read.files,
      processors=named,
    )


def find_model(model: str, console: Console) -> Model:
  """The files that belong to a model, and the quantized model that they were written from.

  Raises:
    ValueError: if there is no such model, or no packed file of it where one is needed.
  """
  path = pathlib.Path(model)
  if not path.exists():
    raise ValueError(
      f"model: {path} does not exist; give a model file, or a folder with its files."
    )
  if path.is_dir() and not is_c(path):
    return _of_folder(path, console)
  if path.is_file() and path.suffix.lower() not in (*SUFFIXES, SUFFIX):
    ends = ", ".join((*SUFFIXES, SUFFIX))
    raise ValueError(f"model: {path} must end in {ends}, be a folder of C, or one with such files.")
  if path.suffix.lower() in SUFFIXES and FORMATS[format_of(path)].is_float:
    raise ValueError(
      f"model: {path} is the float network; only integers can be certified bit for bit."
    )
  packed = _packed_of(path)
  if packed is None:
    return _unpacked(path, console)
  files = _family(packed, console) if path == packed else [path]
  quantized, metadata = _read(packed)
  return Model((*files, packed), quantized, metadata, path.absolute().parent)


def _of_folder(folder: pathlib.Path, console: Console) -> Model:
  """All files of the model in a folder."""
  packed = sorted(folder.glob(f"*{SUFFIX}"))
  if len(packed) != 1:
    what = f"{len(packed)} packed files" if packed else f"no packed file ({SUFFIX})"
    raise ValueError(
      f"model: {folder} has {what}; give the file that is meant, or a folder with one."
    )
  quantized, metadata = _read(packed[0])
  return Model((*_family(packed[0], console), packed[0]), quantized, metadata, folder)


def _family(packed: pathlib.Path, console: Console) -> list[pathlib.Path]:
  """The files of the same name, and folders of C, beside a packed file."""
  base = without_suffix(packed).name
  found: list[pathlib.Path] = []
  left_out: list[pathlib.Path] = []
  for path in sorted(packed.parent.iterdir()):
    if path.is_dir():
      if is_c(path) and path.name.startswith(base):
        found.append(path)
    elif path.suffix.lower() in SUFFIXES and without_suffix(path).name == base:
      (left_out if FORMATS[format_of(path)].is_float else found).append(path)
  if left_out:
    names = ", ".join(path.name for path in left_out)
    say(console, f"left out: {names}, which hold the float network")
  if not found:
    raise ValueError(
      f"model: beside {packed} there is no .tflite, .onnx or .stablehlo file of the same name, nor a"
      " folder of C; export one."
    )
  return found


def _packed_of(path: pathlib.Path) -> pathlib.Path | None:
  """The packed file beside a file, of its name, or else the only one there."""
  if path.suffix.lower() == SUFFIX:
    return path
  beside = path.absolute().parent
  named = beside / f"{without_suffix(path).name}{SUFFIX}"
  if named.is_file():
    return named
  found = sorted(beside.glob(f"*{SUFFIX}"))
  if path.is_dir():
    found = [one for one in found if path.name.startswith(one.stem)]
    return found[0] if len(found) == 1 else None
  return None


def _unpacked(path: pathlib.Path, console: Console) -> Model:
  """A file without a packed one: of a .tflite file the integers themselves are read.

  Raises:
    ValueError: if it is of another kind, or holds what is not evaluated exactly.
  """
  if path.suffix.lower() != ".tflite":
    raise ValueError(
      f"model: beside {path} there is no {without_suffix(path).name}{SUFFIX}, from which its integers are"
      " evaluated; put it there."
    )
  quantized, metadata = from_tflite(path), find_metadata(path)
  say(console, f"no packed file lies beside {path}: its integers are read from itself")
  return Model((path,), quantized, metadata, path.absolute().parent)


def _read(packed: pathlib.Path) -> tuple[QuantizedModel, dict[str, Any]]:
  quantized, metadata = read_packed(packed)
  return dataclasses.replace(quantized, preprocess=preprocess_of(metadata)), metadata


def read_pictures(
  found: Model, images: str | None, count: int, seed: int | None, console: Console
) -> Pictures:
  """Images by name, as a model reads them.

  Raises:
    ValueError: if there are none, or they cannot be read.
  """
  if count < 1:
    raise ValueError(f"count: {count} must be at least 1.")
  more: dict[str, Any] = {}
  if images is None:
    run = run_of(found.paths[0])
    if run is None:
      raise OptionError(
        f"images: they are missing, and the run of {found.paths[0]} is unknown; add ",
        ", a data set or an .npy file.",
        images="FOLDER",
      )
    images, seed = run.data, run.seed if seed is None else seed
    more = {"group_by": run.group_by}
  place = pathlib.Path(images)
  if place.suffix.lower() == NPY:
    array = read_inputs(place)
    return Pictures(array[:count], place.name)
  reader = _reader(found)
  if place.exists() and ":" not in images:
    return _of_files(place, reader, count, console)
  with waiting(console, f"reading {images}"):
    data = load(images, seed=seed or 0, reader=reader, limit=count, **more)
  for note in data.notes:
    say(console, note)
  test = data.test
  source = (
    images if not images.startswith(FOLDER) else FOLDER + pathlib.Path(images[len(FOLDER) :]).name
  )
  return Pictures(np.asarray(test.images[:count]), f"{source}, test split, seed {seed or 0}")


def _of_files(place: pathlib.Path, reader: ImageReader, count: int, console: Console) -> Pictures:
  left_out = walk.LeftOut()
  files = walk.images_below(place, left_out) if place.is_dir() else [place]
  if left_out.names:
    say(console, f"left out: {left_out.text()}")
  if not files:
    raise ValueError(f"images: {place} has no images; give a folder of some.")
  if len(files) > count:
    say(console, f"the first {count:,} of {len(files):,} images are taken")
  files = files[:count]
  base = place if place.is_dir() else place.parent
  hashes = {walk.printable(file.relative_to(base).as_posix()): hash_file(file) for file in files}
  return Pictures(pictures.decode(files, reader), walk.printable(place.name), hashes)


def _reader(found: Model) -> ImageReader:
  """How pictures become what a model reads."""
  height, width, channels = found.quantized.graph.input_shape[1:]
  if found.metadata.get(PREPROCESS) is None:
    raise ValueError(
      f"images: {found.paths[0]} does not state how pictures are read; give an .npy file of"
      " its integers, or of what its network reads."
    )
  reader = ImageReader.from_metadata(found.metadata, (height, width))
  return dataclasses.replace(reader.at((height, width)), channels=channels)


def parse_processors(names: str | None) -> tuple[str, ...] | None:
  """Names of processors between commas, each once; None: the usual ones.

  Raises:
    ValueError: if one is unknown.

  Examples:
    >>> parse_processors("cortex-a53, cortex-m4"), parse_processors("none"), parse_processors(None)
    (('cortex-a53', 'cortex-m4'), (), None)
  """
  if names is None:
    return None
  found = tuple(dict.fromkeys(name.strip() for name in names.split(",")))
  if found == (NO_PROCESSORS,):
    return ()
  known = (*ARM64, *CORES)
  for name in found:
    if name not in known:
      raise ValueError(
        f"processors: {name!r} is unknown; it must be {NO_PROCESSORS}, or some of {', '.join(known)}."
      )
  return found


def _check_free(place: pathlib.Path, *, force: bool) -> None:
  """Checks that a certificate and what lies beside it can be written."""
  if place.suffix.lower() != ".json":
    raise ValueError(f"out: {place} must end in .json.")
  if not place.parent.is_dir():
    raise ValueError(f"out: the folder {place.parent} does not exist; make it, or name another.")
  for name in (place.name, INPUTS_FILE, SCRIPT_FILE, CERTIFICATE_PAGE):
    path = place.with_name(name)
    if path.is_dir() or (path.exists() and not force):
      raise OptionError(
        f"out: {path} exists; name a file in another folder, or add ",
        " to replace it.",
        force=True,
      )
