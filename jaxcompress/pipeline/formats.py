"""The kinds of files that a quantized network is written to, all of them or none."""

import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from jaxcompress import export
from jaxcompress.arguments import unknown
from jaxcompress.export.c99.folder import replace_folder
from jaxcompress.export.c99.manifest import is_c
from jaxcompress.export.metadata import LABELS, class_names, labels_text
from jaxcompress.export.targets import find_target
from jaxcompress.export.trial import KERNELS_BY_SUFFIX, OWN_KERNELS, choose_kernels
from jaxcompress.files.extras import require
from jaxcompress.files.writing import sweep, temporary_beside
from jaxcompress.nn import Folded, Graph
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.runtimes import KERNELS, find_kernels


class FloatNetwork(NamedTuple):
  """A network before it was quantized.

  Attributes:
    graph: traced.
    folded: its layers with BatchNorm folded, by name.
  """

  graph: Graph
  folded: Mapping[str, Folded]


class Format(NamedTuple):
  """A kind of file.

  Attributes:
    suffix: of its files.
    write: of ``(network, path, metadata=)``, and ``target=`` where it takes one; a
      :class:`FloatNetwork` is given as two arguments.
    needs: kind of the files for :func:`~jaxcompress.files.extras.require`; None: no extra.
    is_float: whether it holds a :class:`FloatNetwork`; otherwise a quantized model.
    has_targets: whether devices ask something of such files.
    is_folder: whether it is a folder, whose name has the suffix.
  """

  suffix: str
  write: Callable[..., pathlib.Path]
  needs: str | None
  is_float: bool = False
  has_targets: bool = False
  is_folder: bool = False


def _stablehlo(model: QuantizedModel, path: pathlib.Path, metadata: Any) -> pathlib.Path:
  """Writes a program, which has no room for metadata."""
  return export.stablehlo(model, path)


def _c(
  model: QuantizedModel,
  path: pathlib.Path,
  metadata: Any,
  weights: str = "int8",
  ram: int | None = None,
) -> pathlib.Path:
  """Writes a folder of C, whose names begin as its own does."""
  name = without_suffix(path, folders=True).name
  return export.c(model, path, name=c_name(name), weights=weights, ram=ram, metadata=metadata)


def c_name(text: str) -> str:
  """A name in C, like that of a file.

  Examples:
    >>> c_name("net_0.5"), c_name("1st"), c_name("int")
    ('net_0_5', 'net_1st', 'int')
  """
  name = "".join(c if c.isalnum() and c.isascii() else "_" for c in text)
  return name if name[:1].isalpha() else f"net_{name}"


FORMATS: Mapping[str, Format] = {
  "tflite": Format(".tflite", export.tflite, "tflite", has_targets=True),
  "onnx": Format(".onnx", export.onnx, "onnx", has_targets=True),
  "stablehlo": Format(".stablehlo", _stablehlo, "stablehlo"),
  "packed": Format(".jcz", export.packed, None),
  "c": Format("_c", _c, None, is_folder=True),
  "c-int4": Format("_int4_c", partial(_c, weights="int4"), None, is_folder=True),
  "tflite-uint8": Format(
    ".uint8.tflite",
    partial(export.tflite, input="uint8", output="uint8"),
    "tflite",
    has_targets=True,
  ),
  "tflite-int4": Format(
    ".int4.tflite", partial(export.tflite, weights="int4"), "tflite", has_targets=True
  ),
  **{
    f"tflite-{weights}": Format(
      f".{weights}.tflite", partial(export.tflite_float, weights=weights), "tflite", is_float=True
    )
    for weights in ("float32", "float16")
  },
  "onnx-float32": Format(".float32.onnx", export.onnx_float, "onnx", is_float=True),
}


def parse_formats(formats: str) -> tuple[str, ...]:
  """Names of formats between commas, each once.

  Raises:
    ValueError: if one is unknown.

  Examples:
    >>> parse_formats("tflite, packed,tflite")
    ('tflite', 'packed')
  """
  names = tuple(dict.fromkeys(name.strip() for name in formats.split(",")))
  for name in names:
    if name not in FORMATS:
      raise unknown("format", name, FORMATS)
  return names


def check_target(target: str | None, formats: Iterable[str]) -> None:
  """Checks that a device takes the files of all formats.

  Raises:
    ValueError: if it is unknown or takes others.

  Examples:
    >>> check_target("tflm", ["tflite", "tflite-int4"])
  """
  if target is None:
    return
  suffix = find_target(target).suffix
  for name in formats:
    if not (FORMATS[name].has_targets and FORMATS[name].suffix.endswith(suffix)):
      raise ValueError(f"target: {target!r} takes {suffix} files, got format {name!r}.")


def check_ram(ram: int | None, formats: Iterable[str]) -> None:
  """Checks that memory is bounded only where a format takes some.

  Raises:
    ValueError: if no format does.

  Examples:
    >>> check_ram(65536, ["tflite", "c"])
  """
  folders = [name for name, one in FORMATS.items() if one.is_folder]
  if ram is not None and not {*formats} & {*folders}:
    raise ValueError(
      f"ram: {ram:,} bytes bounds the memory of C, and no format is {' or '.join(folders)}; leave it out."
    )


def format_of(path: str | os.PathLike) -> str:
  """The format that a file's suffix names.

  Raises:
    ValueError: if it names none.

  Examples:
    >>> format_of("model.jcz"), format_of("model.int4.tflite")
    ('packed', 'tflite-int4')
  """
  name = pathlib.Path(path).name.lower()
  found = [kind for kind, one in FORMATS.items() if name.endswith(one.suffix)]
  if found:
    return max(found, key=lambda name: len(FORMATS[name].suffix))
  suffixes = ", ".join(one.suffix for one in FORMATS.values())
  raise ValueError(f"out: {path} has no known ending; it must end in one of {suffixes}.")


def without_suffix(path: pathlib.Path, *, folders: bool = False) -> pathlib.Path:
  """A path without the suffix that names its format, if it has one.

  Args:
    path: of a file.
    folders: whether it may also be a folder of C.

  Examples:
    >>> without_suffix(pathlib.Path("net_0.5.int4.tflite")).name
    'net_0.5'
    >>> without_suffix(pathlib.Path("net_c/"), folders=True).name
    'net'
  """
  known = [one.suffix for one in FORMATS.values() if folders or not one.is_folder]
  suffixes = [suffix for suffix in known if path.name.lower().endswith(suffix)]
  return path.with_name(path.name[: -max(map(len, suffixes))]) if suffixes else path


def labels_path(path: pathlib.Path) -> pathlib.Path:
  """Where the labels of a model file are written.

  Examples:
    >>> labels_path(pathlib.Path("net.int4.tflite")).name
    'net.labels.txt'
  """
  base = without_suffix(path, folders=True)
  return base.with_name(f"{base.name}.{LABELS}")


def check_trained(path: str) -> None:
  """Checks that a file may hold a trained model: its suffix is not that of a file for devices.

  Raises:
    ValueError: if it is; the message names the trained model and the packed file beside it.

  Examples:
    >>> check_trained("student.safetensors")
    >>> check_trained("student.jcz")
    Traceback (most recent call last):
    ValueError: model: student.jcz is an integer file already; give the trained model, such as OUT/student, or a packed file (.jcz) for export.
  """
  file = pathlib.Path(path)
  base = without_suffix(file, folders=is_c(file))
  if base == file and not is_c(file):
    return
  is_float = not is_c(file) and FORMATS[format_of(file)].is_float
  kind = "a float file for devices" if is_float else "an integer file already"
  trained = f"{base}" if base.is_dir() and base != file else "such as OUT/student"
  packed = base.with_name(base.name + FORMATS["packed"].suffix)
  way = f"{packed}" if packed.is_file() else f"a packed file ({packed.suffix})"
  raise ValueError(
    f"model: {path} is {kind}; give the trained model, {trained}, or {way} for export."
  )


def kernels_for(path: str | os.PathLike, format: str, kernels: str | None) -> str:
  """The kernels that were asked for, or else the usual ones of a file of a format.

  Raises:
    ValueError: if they are unknown, or do not run the file.

  Examples:
    >>> kernels_for("model.onnx", "onnx", None), kernels_for("model.jcz", "packed", "tflm")
    ('onnxruntime', 'tflm')
  """
  if FORMATS[format].is_folder:
    own = OWN_KERNELS["c"]
    if kernels not in (None, own):
      raise ValueError(f"kernels: {kernels!r} is not the arithmetic of C; it must be {own!r}.")
    return own
  if pathlib.Path(path).suffix.lower() in KERNELS_BY_SUFFIX:
    return choose_kernels(path, kernels)
  kernels = kernels or next(iter(KERNELS))
  find_kernels(kernels)
  return kernels


def runnable(model: QuantizedModel, format: str) -> QuantizedModel:
  """The model in the arithmetic of a runtime of a format: its own, or else the usual one's."""
  if FORMATS[format].is_folder:
    return model.with_kernels(OWN_KERNELS["c"])
  suffix = pathlib.Path(f"model{FORMATS[format].suffix}").suffix
  runs = KERNELS_BY_SUFFIX.get(suffix, (model.kernels,))
  return model if model.kernels in runs else model.with_kernels(runs[0])


def require_formats(formats: Iterable[str]) -> None:
  """Checks that files of some formats can be written here, before the work that leads to them.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed and one needs it.
  """
  for name in formats:
    needs = FORMATS[name].needs
    if needs is not None:
      require(needs)


def write_all(
  model: QuantizedModel,
  paths: Sequence[pathlib.Path],
  formats: Sequence[str],
  metadata: Mapping[str, Any],
  in_float: Callable[[], tuple[Any, ...]] = tuple,
  target: str | None = None,
  ram: int | None = None,
) -> None:
  """Writes a model to files, or folders, in one folder; if one fails, none is there.

  Where the metadata names classes they are written beside the first file, as ``MODEL.labels.txt``.

  Args:
    model: the integers.
    paths: the files.
    formats: of each.
    metadata: kept in them.
    in_float: gives the :class:`FloatNetwork`, for formats that hold that.
    target: a device that takes all of the files, or None.
    ram: bytes of memory that C may take, or None.

  Raises:
    ValueError: if a format cannot hold the model, or the folder cannot be written.
  """
  folder = temporary_beside(paths[0])
  written = [folder / path.name for path in paths]
  try:
    sweep(folder.parent, own=False)
    folder.mkdir()
    for path, name in zip(written, formats, strict=True):
      kind = FORMATS[name]
      asked: dict[str, Any] = {} if target is None else {"target": target}
      if kind.is_folder and ram is not None:
        asked["ram"] = ram
      network = in_float() if kind.is_float else (runnable(model, name),)
      kind.write(*network, path, metadata=metadata, **asked)
    if classes := class_names(metadata):
      paths = [labels_path(paths[0]), *paths]
      (folder / paths[0].name).write_text(labels_text(classes), encoding="utf-8")
    for path in paths:
      if (folder / path.name).is_dir():
        replace_folder(folder / path.name, path)
      else:
        os.replace(folder / path.name, path)
  except OSError as error:
    raise ValueError(f"out: {folder.parent} cannot be written ({error.strerror}).") from error
  finally:
    shutil.rmtree(folder, ignore_errors=True)
