"""Certifies a model: runs its files in every runtime and on every processor, and hashes what they give."""

import contextlib
import dataclasses
import datetime
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcompress.arguments import unknown
from jaxcompress.export.c99.compiling import CORES
from jaxcompress.export.certificate import (
  DIFFERS,
  EQUAL,
  NOT_RUN,
  Certificate,
  Images,
  Integers,
  Output,
  Row,
  exact_of,
  hash_files,
  hash_of_each,
  hash_of_integers,
  verdict_of,
)
from jaxcompress.export.emulation import ARM64
from jaxcompress.export.metadata import own_version
from jaxcompress.export.verification import Both, run_both
from jaxcompress.export.versions import machine, versions_of
from jaxcompress.files.extras import MissingExtraError
from jaxcompress.nn import INPUT
from jaxcompress.nn.foreign import check_made
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import TYPES
from jaxcompress.quantize.model import QUANTIZED

EMULATED = (
  "cortex-a53",
  "cortex-a76",
  "neoverse-v1",
  "cortex-m0",
  "cortex-m4",
  "cortex-m7",
  "cortex-m55",
)
"""Processors that are tried where none are named; each runs those files that it can."""
RULES_ELSEWHERE = {
  name: f"{name}-arm64" for name in ("xnnpack", "xnnpack-int4", "onnxruntime")
}  # of the same runtime on other processors
ON_THIS: Mapping[str, tuple[str, ...]] = {  # kernels that run a kind of file, here
  ".tflite": ("xnnpack", "reference", "tflm"),
  ".onnx": ("onnxruntime",),
  ".stablehlo": ("stablehlo",),
  "": ("c",),
}
ON_ARM64: Mapping[str, tuple[str, ...]] = {".tflite": ("xnnpack",), ".onnx": ("onnxruntime",)}


class Trial(NamedTuple):
  """A file in a runtime on a processor; None is this machine's."""

  path: pathlib.Path
  kernels: str
  processor: str | None = None


def trials_of(path: pathlib.Path, processors: Sequence[str] = ()) -> list[Trial]:
  """All runtimes and processors that may run a file.

  Args:
    path: a .tflite, .onnx or .stablehlo file, or a folder of C.
    processors: that are emulated.

  Examples:
    >>> [trial[1:] for trial in trials_of(pathlib.Path("a.onnx"), ("cortex-a53", "cortex-m4"))]
    [('onnxruntime', None), ('onnxruntime', 'cortex-a53')]
  """
  suffix = path.suffix.lower()
  if path.is_dir():
    suffix = ""
  elif suffix not in ON_THIS or not suffix:
    return []
  found = [Trial(path, kernels) for kernels in ON_THIS[suffix]]
  for processor in processors:
    if processor in ARM64:
      found += [Trial(path, kernels, processor) for kernels in ON_ARM64.get(suffix, ())]
    elif not suffix:
      found.append(Trial(path, "c", processor))
  return found


class Evaluations:
  """Exact evaluation of the same images by the rules of several runtimes, each once.

  Attributes:
    quantized: the model.
    codes: its images.
    found: integers, by the name of the rules, then by output.
  """

  def __init__(self, quantized: QuantizedModel, codes: np.ndarray):
    self.quantized, self.codes = quantized, codes
    self.found: dict[str, dict[str, np.ndarray]] = {}

  def __call__(self, quantized: QuantizedModel, codes: np.ndarray) -> dict[str, np.ndarray]:
    if not np.array_equal(codes, self.codes):
      raise ValueError("images: the runtime's own rounding makes other integers of them.")
    if quantized.kernels not in self.found:
      self.found[quantized.kernels] = quantized.outputs(codes)
    return self.found[quantized.kernels]

  def by_rules(self, kernels: str) -> dict[str, np.ndarray]:
    """Evaluates by the rules of a name."""
    return self(self.quantized.with_kernels(kernels), self.codes)


class Ran(NamedTuple):
  """The result of running a file in a runtime.

  Attributes:
    row: of the certificate.
    theirs: the integers, by output; empty if it was not run.
    refusal: why it cannot be run; None if it was, or if only something is not installed.
  """

  row: Row
  theirs: Integers = MappingProxyType({})
  refusal: ValueError | None = None


def certify(
  paths: Sequence[str | os.PathLike] | str | os.PathLike,
  quantized: QuantizedModel,
  images: np.ndarray,
  *,
  processors: Sequence[str] | None = None,
  source: str = "",
  pictures: Mapping[str, str] | None = None,
) -> Certificate:
  """Runs files of one model in every runtime and on every processor that is there, and hashes what they give.

  Every runtime is fed the same integers, and compared with exact evaluation by its own rules. What is
  not installed is listed with the reason. :func:`~jaxcompress.export.check` repeats it elsewhere.

  Args:
    paths: .tflite, .onnx and .stablehlo files and folders of C, of one model; .jcz files are hashed.
    quantized: the model that they were written from.
    images: (N, height, width, channels), what ``quantized`` takes, or the integers that it makes of
      them; at least one.
    processors: names of those that are emulated, such as ``"cortex-a53"``; None: seven usual ones.
    source: where the images came from, in words.
    pictures: SHA-256 of the files that they were read from, by name, in order.

  Returns:
    A :class:`Certificate`; :func:`~jaxcompress.export.write_certificate` writes it.

  Raises:
    ValueError: if there are no files or images, no runtime takes a file, it is of another network, or a
      processor is unknown.

  Examples:
    >>> import tempfile
    >>> from jaxcompress.export import tflite
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grids = dict.fromkeys(("input", "pool"), Grid(np.float32(0.1), 0))
    >>> quantized = QuantizedModel(Graph((pool,), (1, 2, 2, 3), "pool"), grids, {})
    >>> path = tflite(quantized, tempfile.mkdtemp() + "/pool.tflite")
    >>> images = np.linspace(-9, 9, 60, dtype=np.float32).reshape(5, 2, 2, 3)
    >>> certificate = certify(path, quantized, images, processors=())
    >>> certificate.verdict, [row.kernels for row in certificate.rows]
    ('equal', ['xnnpack', 'reference', 'tflm'])
  """
  check_made("quantized", quantized, QuantizedModel, QUANTIZED)
  files = as_paths(paths)
  for name in processors or ():
    if name not in (*ARM64, *CORES):
      raise unknown("processors", name, (*ARM64, *CORES))
  codes = to_integers(quantized, images)
  evaluations = Evaluations(quantized, codes)
  evaluations.by_rules(quantized.kernels)
  rows: list[Row] = []
  for path in files:
    found = [
      run_trial(one, evaluations)
      for one in trials_of(path, EMULATED if processors is None else processors)
    ]
    refusals = [one.refusal for one in found if one.refusal is not None]
    if refusals and not any(one.theirs for one in found):
      raise refusals[0]
    rows += [one.row for one in found]
  if not rows:
    raise ValueError(
      f"paths: no runtime runs {', '.join(map(str, files))}; give a .tflite, .onnx or .stablehlo"
      " file, or a folder of C."
    )
  elsewhere = [RULES_ELSEWHERE[row.rule] for row in rows if row.rule in RULES_ELSEWHERE]
  for kernels in dict.fromkeys(elsewhere):
    with contextlib.suppress(ValueError):  # refused there
      evaluations.by_rules(kernels)
  return Certificate(
    verdict_of(rows),
    hash_files(files),
    images_of(quantized, codes, source, pictures or {}),
    outputs_of(quantized),
    {name: exact_of(integers) for name, integers in evaluations.found.items()},
    tuple(rows),
    own_version(),
    datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    machine(),
  )


def run_trial(trial: Trial, evaluations: Evaluations) -> Ran:
  """Runs a file, and says how what it gives compares with exact evaluation."""
  path, kernels, processor = trial
  row = Row(
    path.name, kernels, processor or platform.machine().lower(), processor is not None, NOT_RUN
  )
  try:
    both = _both(trial, evaluations)
  except MissingExtraError as error:
    return Ran(dataclasses.replace(row, reason=str(error)))
  except ValueError as error:
    return Ran(dataclasses.replace(row, reason=str(error)), refusal=error)
  theirs, is_code = integers_of(both)
  equal = {name: (both.ours[name] == theirs[name]) & is_code[name] for name in theirs}
  wrong = [~same.reshape(len(same), -1).all(1) for same in equal.values()]
  bad_images = np.flatnonzero(np.any(wrong, axis=0))
  row = dataclasses.replace(
    row,
    verdict=DIFFERS if len(bad_images) else EQUAL,
    rule=both.quantized.kernels,
    equal=int(sum(same.sum() for same in equal.values())),
    total=int(sum(same.size for same in equal.values())),
    max_steps=max(most_steps(both.ours[name], theirs[name]) for name in theirs),
    first=int(bad_images[0]) if len(bad_images) else None,
    sha256={name: hash_of_integers(array) for name, array in theirs.items()},
    versions=versions_of(kernels, processor),
    left_out=both.left_out,
  )
  stray = int(sum((~some).sum() for some in is_code.values()))
  return Ran(dataclasses.replace(row, reason=difference_of(row, stray)), theirs)


def _both(trial: Trial, evaluations: Evaluations) -> Both:
  path, kernels, processor = trial
  quantized = evaluations.quantized
  if kernels == "stablehlo":
    return _of_stablehlo(path, evaluations)
  if kernels in ("xnnpack", "reference", "tflm"):
    quantized = quantized.with_kernels(kernels)
  return run_both(
    path, quantized, codes=evaluations.codes, processor=processor, evaluate=evaluations
  )


def _of_stablehlo(path: pathlib.Path, evaluations: Evaluations) -> Both:
  """A program, which holds the rules of the runtime that the model was written with."""
  from jaxcompress.export.stablehlo import load_stablehlo

  program, ours = load_stablehlo(path), evaluations.by_rules(evaluations.quantized.kernels)
  try:
    found = program(jnp.asarray(evaluations.codes))
  except ValueError as error:
    raise ValueError(f"path: {path} does not take the model's images ({error}).") from error
  theirs = found if isinstance(found, dict) else {next(iter(ours)): found}
  theirs = {name: np.asarray(array) for name, array in theirs.items()}
  shapes = [{n: (a.dtype, a.shape) for n, a in some.items()} for some in (theirs, ours)]
  if shapes[0] != shapes[1]:
    raise ValueError(f"path: {path} gives other outputs than the model; it is of another network.")
  return Both(evaluations.quantized, evaluations.codes, ours, theirs, ())


def integers_of(both: Both) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Converts a runtime's outputs to codes; says which were codes, as float32 may lie between them."""
  integers, is_code = {}, {}
  for name, tensor in both.quantized.graph.outputs:
    array, grid = both.theirs[name], both.quantized.grids[tensor]
    if array.dtype.kind != "f":
      integers[name], is_code[name] = array, np.ones(array.shape, bool)
      continue
    limits = np.iinfo(grid.dtype)
    steps = np.rint(np.nan_to_num(array.astype(np.float64)) / np.float64(grid.scale))
    codes = (steps + grid.zero_point).clip(limits.min, limits.max).astype(grid.dtype)
    integers[name], is_code[name] = codes, both.quantized.real(name, codes) == array
  return integers, is_code


def most_steps(ours: np.ndarray, theirs: np.ndarray) -> int:
  """The largest difference of integers."""
  return int(np.abs(ours.astype(np.int64) - theirs).max(initial=0))


def difference_of(row: Row, stray: int = 0, named: str | None = None) -> str:
  """How a row differs, in words; empty if it is equal.

  Args:
    row: with its counts.
    stray: how many float32 stand for no integer.
    named: the first image with a difference; None: by its position.
  """
  if row.verdict == EQUAL:
    return ""
  words = (
    f"{row.total - row.equal:,} of {row.total:,} integers differ, by up to {row.max_steps} steps; the"
    f" first in image {row.first if named is None else named}"
  )
  return words + (f"; {stray:,} stand for no integer" if stray else "")


def as_paths(paths: Sequence[str | os.PathLike] | str | os.PathLike) -> list[pathlib.Path]:
  """One path or several, as a list.

  Raises:
    ValueError: if one does not exist.
  """
  found = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
  files = [pathlib.Path(os.path.normpath(path)) for path in found]
  for path in files:
    if not path.exists():
      raise ValueError(f"paths: {path} does not exist.")
  return files


def to_integers(quantized: QuantizedModel, images: np.ndarray) -> np.ndarray:
  """Images as the integers that a network reads; integers stay as they are.

  Raises:
    ValueError: if there are none, or they do not fit.
  """
  images = np.asarray(images)
  if images.ndim == 0 or len(images) == 0:
    raise ValueError("images must not be empty; give at least one.")
  grid = quantized.grids[INPUT]
  if images.dtype != grid.dtype:
    return quantized.quantize_input(images)
  wanted = tuple(quantized.graph.input_shape[1:])
  if images.shape[1:] != wanted:
    raise ValueError(f"images: shape {images.shape} must be {('N', *wanted)}.")
  return images


def images_of(
  quantized: QuantizedModel, codes: np.ndarray, source: str, pictures: Mapping[str, str]
) -> Images:
  """The entry of images."""
  grid = quantized.grids[INPUT]
  return Images(
    len(codes),
    tuple(map(int, codes.shape[1:])),
    codes.dtype.name,
    float(grid.scale),
    int(grid.zero_point),
    hash_of_integers(codes),
    hash_of_each({INPUT: codes}),
    source,
    dict(pictures),
  )


def outputs_of(quantized: QuantizedModel) -> dict[str, Output]:
  """The entries of outputs."""
  found = {}
  for name, tensor in quantized.graph.outputs:
    grid, shape = quantized.grids[tensor], quantized.graph.shape(tensor)[1:]
    found[name] = Output(
      np.dtype(TYPES[grid.bits]).name,
      tuple(map(int, shape)),
      float(grid.scale),
      int(grid.zero_point),
    )
  return found
