"""A whole run from Python."""

import dataclasses
import functools
import importlib.util
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress import export, models, quantize
from jaxcompress.arguments import check_type, unknown
from jaxcompress.data.reader import ImageReader
from jaxcompress.models.registry import describe
from jaxcompress.nn.foreign import check_model
from jaxcompress.pipeline.classifier import Classifier
from jaxcompress.pipeline.folders import claim_folder, read_results, release_folder
from jaxcompress.pipeline.given import Given, GivenNetwork
from jaxcompress.pipeline.networks import SavedNetwork, read_network
from jaxcompress.pipeline.options import CompressOptions
from jaxcompress.pipeline.run import carry_out
from jaxcompress.report.results import Results
from jaxcompress.terminal import say

FILES = {
  "model": "student.tflite",
  "packed": "student.jcz",
  "float": "student",
  "report": "report.html",
  "figures": "report.json",
}
OF_PICTURES = (
  "image_size",
  "resize",
  "channels",
  "group_by",
)  # options of reading them, as a Dataset has


@dataclasses.dataclass(frozen=True)
class Compressed:
  """The results of a finished run, read from its folder when they are asked for.

  Attributes:
    folder: of the run.
  """

  folder: pathlib.Path

  @functools.cached_property
  def results(self) -> Results:
    """The results in the report: entries ``teacher``, ``alone``, ``distilled``, ``int8`` and so on."""
    return read_results(self.folder)

  @property
  def student(self) -> nn.Module:
    """The student in float that was shipped, a linen module."""
    return self._saved.module

  @property
  def variables(self) -> Any:
    """Its trained variables, ``{"params", "batch_stats"}``."""
    return self._saved.variables

  @property
  def classes(self) -> tuple[str, ...]:
    """Names of the classes, in the order of the scores."""
    return self.results.run.classes

  @property
  def reader(self) -> ImageReader:
    """How a picture becomes what the student reads."""
    reader = self._saved.reader
    assert reader is not None  # it was written
    return reader

  @functools.cached_property
  def quantized(self) -> quantize.QuantizedModel:
    """The integer network, exactly as devices compute it."""
    return export.load_packed(self.files["packed"])

  @functools.cached_property
  def classifier(self) -> Classifier:
    """Predicts with the .tflite: ``found.classifier.predict(["a.jpg"])``."""
    return Classifier.open(self.files["model"])

  @property
  def files(self) -> dict[str, pathlib.Path]:
    """Paths by what they are: ``model`` (.tflite), ``packed``, ``float``, ``report``, ``figures``."""
    return {what: self.folder / name for what, name in FILES.items()}

  @functools.cached_property
  def _saved(self) -> SavedNetwork:
    return read_network(self.files["float"])

  def __repr__(self) -> str:
    entry = self.results.entries["int8"]
    return f"Compressed({str(self.folder)!r}, {entry.model}, {entry.top1:.2%} top-1 quantized)"


def compress(
  data: str | datasets.Dataset | None = None,
  *,
  student: str | nn.Module | models.Imported | None = None,
  teacher: str | nn.Module | models.Imported | None = None,
  student_variables: Mapping[str, Any] | None = None,
  teacher_variables: Mapping[str, Any] | None = None,
  new_head: bool = False,
  out: str | os.PathLike | None = None,
  resume: bool = False,
  workers: int | None = None,
  quiet: bool = False,
  console: Console | None = None,
  **options: Any,
) -> Compressed:
  """Trains, distils, quantizes, exports, verifies and reports, as ``jaxcompress compress`` does.

  The student is trained alone and with the teacher; the one that gets more of the validation images
  right is made of integers and shipped.

  Args:
    data: as ``--data``: ``glyphs``, ``digits``, ``folder:PATH`` and so on; or a data set.
    student: the small model: a name, the source of a checkpoint, or a network: a linen module, or
      what ``models.from_linen`` and its like made of one, which brings its variables.
    teacher: the large one, likewise.
    student_variables: where a student that is a module starts; None: fresh ones.
    teacher_variables: of a teacher that is a module and knows the data's classes: it teaches as it
      is; None: it is trained.
    new_head: whether the classifier in ``student_variables`` is fresh, as ``models.from_torch`` gives
      it with ``num_classes``: it is then trained before all else moves.
    out: output folder; None: a temporary one, which is kept and told.
    resume: go on with the run in ``out``, which was given the same; with more ``epochs``, a finished
      one is trained on.
    workers: processes that decode images, for data larger than memory.
    quiet: whether nothing is shown.
    console: where progress is shown; None: on the standard error, or in the notebook.
    **options: further ones of :class:`CompressOptions`.

  Returns:
    A :class:`Compressed`.

  Raises:
    ValueError: naming the argument, if it cannot be used, does not fit the data, or differs from what
      the resumed run was given.
    PreemptedError: after SIGTERM; the run can be resumed.

  Examples:
    >>> def stripes(count):  # some lie and some stand
    ...   labels = np.arange(count, dtype=np.int32) % 2
    ...   images = np.random.default_rng(0).integers(0, 99, (count, 12, 12, 3)).astype(np.uint8)
    ...   images[labels == 0, ::3] += 150
    ...   images[labels == 1, :, ::3] += 150
    ...   return datasets.Split(images, labels)
    >>> parts = {"train": stripes(64), "validation": stripes(16), "test": stripes(16)}
    >>> stripes = datasets.Dataset(name="stripes", classes=("lying", "standing"), **parts)
    >>> found = compress(
    ...   stripes, student="resnet8", teacher="resnet8", epochs=4, batch_size=16, quiet=True
    ... )
    >>> found.results.entries["int8"].bit_equal, found.quantized(parts["test"].images).shape
    (1.0, (16, 2))
  """
  given = _given(data, student, student_variables, teacher, teacher_variables, new_head)
  said = {
    "data": data if isinstance(data, str) else None,
    "student": student if isinstance(student, str) else None,
    "teacher": teacher if isinstance(teacher, str) else None,
  }
  known = {field.name for field in dataclasses.fields(CompressOptions)}
  for name, value in options.items():
    if name not in known:
      raise unknown("option", name, sorted(known))
    if value is not None and given.data is not None and name in OF_PICTURES:
      raise ValueError(
        f"{name}: {value} decides how pictures are read, which a Dataset has done; leave it out."
      )
    if value is not None and name in given.options():
      raise ValueError(f"{name}: {value} is given beside a module; leave one of them out.")
  if resume and out is None:
    raise ValueError("resume: no folder is named; give out too.")
  console = console or _console(quiet)
  out = tempfile.mkdtemp(prefix="jaxcompress-") if out is None else out
  folder, claimed = claim_folder(
    os.fspath(out), {**options, **said, **given.options()}, resume=resume
  )
  try:
    carry_out(claimed, folder, given=given, workers=workers, console=console)
  except ValueError:
    if not resume:
      release_folder(folder)
    raise
  found = Compressed(folder)
  say(console, f"report: {found.files['report']}   model: {found.files['model']}")
  return found


def _given(
  data: Any,
  student: Any,
  student_variables: Any,
  teacher: Any,
  teacher_variables: Any,
  new_head: bool,
) -> Given:
  """Collects the arguments that are Python objects: a data set and networks."""
  check_type("data", data, str | datasets.Dataset | None, "a text, a data.Dataset, or None")
  networks = {}
  for name, model, variables in (
    ("student", student, student_variables),
    ("teacher", teacher, teacher_variables),
  ):
    if isinstance(model, models.Imported):
      model, variables = model.model, model.variables if variables is None else variables
    if model is None or isinstance(model, str):
      if variables is not None:
        raise ValueError(
          f"{name}_variables: there is no module to which they belong; give {name}, or name a file as"
          f" {name}_weights."
        )
      continue
    shape = data.image_shape if isinstance(data, datasets.Dataset) else None
    networks[name] = _network(name, model, variables, shape)
  if new_head:
    if "student" not in networks or networks["student"].variables is None:
      raise ValueError("new_head: it needs student_variables; give them, or leave it out.")
    networks["student"] = networks["student"]._replace(new_head=True)
  return Given(data if isinstance(data, datasets.Dataset) else None, **networks)


def _network(name: str, model: Any, variables: Any, shape: tuple[int, ...] | None) -> GivenNetwork:
  """Converts a module to one that can be saved and loaded; a module of another library is imported."""
  check_model(name, model)
  if variables is not None:
    check_type(f"{name}_variables", variables, Mapping, "a dict with 'params'")
  try:
    describe(model)
  except ValueError as error:
    if shape is None or variables is None:
      reason = str(error).removeprefix("model: ").removesuffix(".")
      raise ValueError(
        f"{name}: {reason}, or give a data.Dataset and {name}_variables, with which it is imported here."
      ) from error
    imported = models.from_linen(model, variables, np.zeros((1, *shape), np.float32))
    return GivenNetwork(imported.model, imported.variables)
  return GivenNetwork(model, None if variables is None else dict(variables))


def _console(quiet: bool) -> Console:
  """The standard error, or the notebook if it can show what changes."""
  shows = importlib.util.find_spec("ipywidgets") is not None
  return Console(stderr=True, quiet=quiet, force_jupyter=None if shows else False)
