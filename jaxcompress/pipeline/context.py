"""State that the phases of a run share: options, data, steps, and the facts that are noted."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress import training
from jaxcompress.files.records import read_record, write_record
from jaxcompress.pipeline.networks import Network, TrainedNetwork, save_network
from jaxcompress.pipeline.options import CompressOptions
from jaxcompress.pipeline.presets import Preset
from jaxcompress.pipeline.pretrained import Start
from jaxcompress.report.metrics import MetricsWriter
from jaxcompress.report.results import Entry
from jaxcompress.training.processes import shared
from jaxcompress.training.protocols import Protocol
from jaxcompress.training.sharding import on_one_device, process_rows

STEPS = 1000  # where no number of epochs is given, and the set is not small
SMALL_STEPS, SMALL_EPOCHS = 400, 25  # a small set gets so many epochs, but no fewer steps
TUNING_STEPS, TUNING_EPOCHS = 60, 20  # likewise of networks that start from weights
EVAL_BATCH = 250
SEEN_FIRST = 64  # images at most with which the parts of a recipe are made
PROGRESS_FILE = "progress.json"
DELETE = "delete it, and what it held is found again"  # a remedy for a damaged file


class PhaseSteps(NamedTuple):
  """Steps of each phase.

  Attributes:
    float_steps: of the teacher, of the student alone, and of distillation in float.
    int_steps: of quantized fine-tuning after distillation.
  """

  float_steps: int
  int_steps: int

  @classmethod
  def of(cls, options: CompressOptions, images: int, *, pretrained: bool = False) -> "PhaseSteps":
    """Steps for a number of training images, and whether a network starts from weights.

    Examples:
      >>> PhaseSteps.of(CompressOptions(epochs=2, batch_size=50), 1000)
      PhaseSteps(float_steps=40, int_steps=8)
      >>> [PhaseSteps.of(CompressOptions(), images).float_steps for images in (100, 1258, 24_000)]
      [400, 491, 1000]
      >>> PhaseSteps.of(CompressOptions(), 250, pretrained=True)
      PhaseSteps(float_steps=78, int_steps=26)
    """
    if options.epochs is not None:
      steps = max(1, round(options.epochs * images / options.batch_size))
    elif pretrained:
      epochs = round(TUNING_EPOCHS * images / options.batch_size)
      steps = min(STEPS, max(TUNING_STEPS, epochs)) // (5 if options.quick else 1)
    elif options.quick:
      steps = STEPS // 5
    else:
      epochs = round(SMALL_EPOCHS * images / options.batch_size)
      steps = min(STEPS, max(SMALL_STEPS, epochs))
    return cls(steps, max(1, steps // (3 if pretrained else 5)))


class Score(NamedTuple):
  """Accuracy and loss of a network on some images.

  Attributes:
    top1: share that is right.
    loss: mean cross-entropy.
  """

  top1: float
  loss: float


@dataclasses.dataclass(frozen=True)
class Context:
  """A run, as every phase needs it.

  Attributes:
    folder: of the run's output.
    options: of the run.
    data: images in memory.
    preset: how networks are trained.
    steps: of each phase, all rounds together.
    rounds: steps in float at the end of each round: one, and one more for each time that the run
      goes on with more epochs.
    metrics: rows go here; of the first process.
    console: progress goes here.
    mesh: all devices of all processes, or None for one alone.
    workers: processes that decode images, for sets larger than memory; None: by the CPU's cores.
    starts: what ``student`` and ``teacher`` start from, if it is weights that are to be trained on.
  """

  folder: pathlib.Path
  options: CompressOptions
  data: datasets.Dataset
  preset: Preset
  steps: PhaseSteps
  metrics: MetricsWriter
  console: Console
  mesh: Mesh | None = None
  workers: int | None = None
  rounds: tuple[int, ...] = ()
  starts: Mapping[str, Start] = dataclasses.field(default_factory=dict)

  def protocol_of(self, role: str, network: Network) -> Protocol:
    """How a network is trained: ``student`` or ``teacher``, from weights or from scratch."""
    if role in self.starts:
      return self.preset.transfer
    return self.preset.protocol_of(network.name)

  @property
  def crop(self) -> datasets.CropOnRead | None:
    """The crop that training reads of each picture; None: whole pictures."""
    return self.preset.crop_of(self.data.train, self.options.augment)

  @property
  def done(self) -> int:
    """Steps in float of the rounds before the last."""
    return self.rounds[-2] if len(self.rounds) > 1 else 0

  @property
  def preprocess(self) -> datasets.Preprocess:
    """Maps images to what networks read, but for teachers with a way of their own."""
    return self.data.reader.preprocess

  def preprocess_of(self, network: Network) -> datasets.Preprocess:
    """Maps images to what a network reads."""
    return network.preprocess or self.preprocess

  def metadata(self, title: str) -> dict[str, Any]:
    """Metadata of the integer files of a network."""
    return file_metadata(title, self.data)

  def recall(self) -> dict[str, Entry]:
    """Facts that earlier phases noted; see :func:`read_progress`."""
    return read_progress(self.folder)

  def note(self, **facts: Entry) -> None:
    """Keeps facts for the report, also over a kill; for the first process."""
    write_record(self.folder / PROGRESS_FILE, {**self.recall(), **facts})

  def noted(self, fact: str) -> bool:
    """Whether an earlier phase of the last round noted a fact; for all processes."""
    found = self.recall().get(fact)
    return shared(found is not None and found.rounds >= len(self.rounds))

  def save(self, folder: pathlib.Path, trained: TrainedNetwork) -> None:
    """Writes a network of the run's images; for one process."""
    preprocess = self.preprocess_of(trained.network)
    reader = dataclasses.replace(self.data.reader, preprocess=preprocess)
    save_network(folder, trained, self.data.classes, reader)

  def evaluate(self, network: Network, variables: Any, split: datasets.Split) -> Score:
    """How good a float network is on a split; all processes compute it together."""
    size = min(EVAL_BATCH, len(split))
    size += -size % (1 if self.mesh is None else self.mesh.size)
    batches = datasets.eval_batches(split, size, self.rows(size))
    found = training.evaluate(
      network.module,
      variables,
      batches,
      preprocess=self.preprocess_of(network),
      mesh=self.mesh,
    )
    return Score(found["top1"], found["loss"])

  def rows(self, batch_size: int) -> np.ndarray | None:
    """Which examples of a batch are this process's; None: all."""
    return None if self.mesh is None else process_rows(self.mesh, batch_size)

  def here(self, variables: Any) -> Any:
    """Variables from the mesh, on one device of this process."""
    return variables if self.mesh is None else on_one_device(variables)

  def seconds(self, *phases: str) -> float:
    """Training time that the metrics of some phases add up to, compilation included."""
    rows = [row for row in self.metrics.rows() if row.get("phase") in phases]
    return sum(row.get("seconds") or 0.0 for row in rows)


def file_metadata(title: str, data: datasets.Dataset) -> dict[str, Any]:
  """Metadata of the integer files of a network: its name, and how images become classes."""
  return {"model": title, **data.to_metadata(), "data": data.name}


def read_progress(folder: pathlib.Path) -> dict[str, Entry]:
  """The facts that a run's phases noted: those of its float networks, by name.

  Raises:
    ValueError: naming the file, if it is damaged.

  Examples:
    >>> import tempfile
    >>> read_progress(pathlib.Path(tempfile.mkdtemp()))
    {}
  """
  path = folder / PROGRESS_FILE
  return read_record(path, dict[str, Entry], DELETE) if path.exists() else {}
