"""The kinds of files that a quantized network is written to, all of them or none."""

import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from jaxcompress import export
from jaxcompress.arguments import unknown
from jaxcompress.export.extras import require
from jaxcompress.export.targets import find_target
from jaxcompress.export.trial import KERNELS_BY_SUFFIX, choose_kernels
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
    needs: kind of the files for :func:`~jaxcompress.export.extras.require`; None: no extra.
    is_float: whether it holds a :class:`FloatNetwork`; otherwise a quantized model.
    has_targets: whether devices ask something of such files.
  """

  suffix: str
  write: Callable[..., pathlib.Path]
  needs: str | None
  is_float: bool = False
  has_targets: bool = False


def _stablehlo(model: QuantizedModel, path: pathlib.Path, metadata: Any) -> pathlib.Path:
  """Writes a program, which has no room for metadata."""
  return export.stablehlo(model, path)


FORMATS: Mapping[str, Format] = {
  "tflite": Format(".tflite", export.tflite, "tflite", has_targets=True),
  "onnx": Format(".onnx", export.onnx, "onnx", has_targets=True),
  "stablehlo": Format(".stablehlo", _stablehlo, "stablehlo"),
  "packed": Format(".jcz", export.packed, None),
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
      raise ValueError(f"target: {target!r} takes {suffix} files, and format {name!r} is none.")


def format_of(path: str | os.PathLike) -> str:
  """The format that a file's suffix names.

  Raises:
    ValueError: if it names none.

  Examples:
    >>> format_of("model.jcz"), format_of("model.int4.tflite")
    ('packed', 'tflite-int4')
  """
  found = [name for name, one in FORMATS.items() if str(path).lower().endswith(one.suffix)]
  if found:
    return max(found, key=lambda name: len(FORMATS[name].suffix))
  suffixes = ", ".join(one.suffix for one in FORMATS.values())
  raise ValueError(f"out: {path} names no kind of file; it must end in one of {suffixes}.")


def without_suffix(path: pathlib.Path) -> pathlib.Path:
  """A path without the suffix that names its format, if it has one.

  Examples:
    >>> without_suffix(pathlib.Path("net_0.5.int4.tflite")).name
    'net_0.5'
  """
  suffixes = [one.suffix for one in FORMATS.values() if path.name.lower().endswith(one.suffix)]
  return path.with_name(path.name[: -max(map(len, suffixes))]) if suffixes else path


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
  base = without_suffix(file)
  if base == file:
    return
  kind = (
    "a float file for devices" if FORMATS[format_of(file)].is_float else "an integer file already"
  )
  trained = f"{base}" if base.is_dir() else "such as OUT/student"
  packed = base.with_name(base.name + FORMATS["packed"].suffix)
  way = f"{packed}" if packed.is_file() else f"a packed file ({packed.suffix})"
  raise ValueError(
    f"model: {path} is {kind}; give the trained model, {trained}, or {way} for export."
  )


def kernels_for(path: str | os.PathLike, kernels: str | None) -> str:
  """The kernels that were asked for, or else the usual ones of a file.

  Raises:
    ValueError: if they are unknown, or do not run the file.

  Examples:
    >>> kernels_for("model.onnx", None), kernels_for("model.jcz", "tflm")
    ('onnxruntime', 'tflm')
  """
  if pathlib.Path(path).suffix.lower() in KERNELS_BY_SUFFIX:
    return choose_kernels(path, kernels)
  kernels = kernels or next(iter(KERNELS))
  find_kernels(kernels)
  return kernels


def runnable(model: QuantizedModel, path: pathlib.Path) -> QuantizedModel:
  """The model in the arithmetic of a runtime of a file: its own, or else the usual one's."""
  runs = KERNELS_BY_SUFFIX.get(path.suffix.lower(), (model.kernels,))
  return model if model.kernels in runs else model.with_kernels(runs[0])


def require_formats(paths: Iterable[pathlib.Path]) -> None:
  """Checks that files can be written here, before the work that leads to them.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed and one needs it.
  """
  for name in map(format_of, paths):
    needs = FORMATS[name].needs
    if needs is not None:
      require(needs)


def write_all(
  model: QuantizedModel,
  paths: Sequence[pathlib.Path],
  metadata: Mapping[str, Any],
  in_float: Callable[[], tuple[Any, ...]] = tuple,
  target: str | None = None,
) -> None:
  """Writes a model to files in one folder, by their suffixes; if one fails, none is there.

  Args:
    model: the integers.
    paths: the files.
    metadata: kept in them.
    in_float: gives the :class:`FloatNetwork`, for formats that hold that.
    target: a device that takes all of the files, or None.

  Raises:
    ValueError: if a format cannot hold the model, or the folder cannot be written.
  """
  folder = temporary_beside(paths[0])
  written = [folder / path.name for path in paths]
  try:
    sweep(folder.parent, own=False)
    folder.mkdir()
    for path in written:
      kind = FORMATS[format_of(path)]
      asked = {} if target is None else {"target": target}
      network = in_float() if kind.is_float else (runnable(model, path),)
      kind.write(*network, path, metadata=metadata, **asked)
    for path, final in zip(written, paths, strict=True):
      os.replace(path, final)
  except OSError as error:
    raise ValueError(f"out: {folder.parent} cannot be written ({error.strerror}).") from error
  finally:
    shutil.rmtree(folder, ignore_errors=True)
