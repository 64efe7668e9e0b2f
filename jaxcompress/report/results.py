"""Results of a run, as plain values; everything else in this package reads them."""

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

NEEDED = ("alone", "distilled", "int8")  # every run has these
COMPARED = ("teacher", *NEEDED)  # and a teacher, if it is a network of this package
LABELS = {
  "teacher": "teacher",
  "head": "new head alone",
  "alone": "student alone",
  "alone_equal_time": "student alone, equal time",
  "distilled": "student distilled",
  "int8": "distilled, int8",
}


def label(key: str, entry: "Entry | None" = None) -> str:
  """How a stage is called in tables and plots.

  Examples:
    >>> label("alone"), label("alone_long")
    ('student alone', 'alone long')
    >>> label("int8", Entry("m", 0.9, 1, 1, 1, weight_bits=4))
    'distilled, 4-bit weights'
    >>> label("int8", Entry("m", 0.9, 1, 1, 1, made_from="alone"))
    'alone, int8'
  """
  if key == "int8" and entry is not None:
    bits = "int8" if entry.weight_bits in (8, 32) else f"{entry.weight_bits}-bit weights"
    return f"{entry.made_from or 'distilled'}, {bits}"
  return LABELS.get(key, key.replace("_", " "))


@dataclasses.dataclass(frozen=True)
class Entry:
  """One network of the comparison.

  Attributes:
    model: name and width, as a person writes it.
    top1: share of the test images that are classified right, 0 to 1.
    parameters: trainable numbers.
    macs: multiply-adds for one image.
    bytes: size of the model file.
    steps: training steps of this run; 0 for a network that came from a checkpoint.
    seconds: training time of this run.
    weight_bits: bits of a stored weight.
    packed_bytes: size of the packed file (.jcz), or None.
    sparsity: share of the weights that are zero, or None where nothing was pruned.
    latency_ms: median latency of the .tflite for one image on one thread, or None.
    latency_ms_2_threads: the same on two threads.
    bit_equal: share of the logits that are bit-equal between the device and exact evaluation.
    max_steps: largest difference of these logits in quantization steps.
    top1_agreement: share of images on which both pick the same class.
    logits: number of logits that were compared.
    file: name of the model's file in the output folder, or None.
    arena_bytes: working memory that TensorFlow Lite for Microcontrollers needs, or None.
    npu: in words, how many operators an Ethos-U computes, and why not the others, or None.
    validation_top1: share of the validation images that are classified right, or None.
    validation_loss: mean cross-entropy on them, or None.
    made_from: of integers, key of the float network that they were made from: that which is shipped.
    kept_step: of its training, after which it validated best and was kept; None: the last.
    rounds: how often the network was trained: once, and again whenever the run went on with more epochs.

  Raises:
    ValueError: for a ``top1`` or a share outside 0 to 1.

  Examples:
    >>> Entry("mobilenet_v2 x0.25", 0.9032, 88_431, 5_900_000, 134_000).top1
    0.9032
  """

  model: str
  top1: float
  parameters: int
  macs: int
  bytes: int
  steps: int = 0
  seconds: float = 0.0
  weight_bits: int = 32
  packed_bytes: int | None = None
  sparsity: float | None = None
  latency_ms: float | None = None
  latency_ms_2_threads: float | None = None
  bit_equal: float | None = None
  max_steps: int | None = None
  top1_agreement: float | None = None
  logits: int | None = None
  file: str | None = None
  arena_bytes: int | None = None
  npu: str | None = None
  validation_top1: float | None = None
  validation_loss: float | None = None
  made_from: str | None = None
  rounds: int = 1
  kept_step: int | None = None

  def __post_init__(self):
    for name in ("top1", "validation_top1", "bit_equal", "top1_agreement", "sparsity"):
      share = getattr(self, name)
      if share is not None and not 0 <= share <= 1:
        raise ValueError(f"{name}: {share} must be a share from 0 to 1; divide percentages by 100.")


@dataclasses.dataclass(frozen=True)
class Run:
  """The facts that reproduce a run.

  Attributes:
    data: name of the data set.
    classes: names of the classes, in the order of the labels.
    image_shape: (height, width, channels).
    train_images: number of training images.
    validation_images: number of held-out images, on which the student that is shipped was chosen.
    class_counts: images of each class, by split, in the order of the classes.
    reading: how a picture becomes what the network reads, in words.
    epochs: that were asked for, or None.
    test_images: number of test images; top-1 and the confusion matrix are of these.
    seed: the seed of the run.
    command: the command line.
    version: jaxcompress's version.
    jax_version: jax's version.
    device: what trained, such as ``"cpu, 2 cores"``.
    date: ISO 8601.
    runtime: the runtime and kernels that latency and bit equality were measured with.
    seconds: wall-clock time of the whole run, 0 where it was not measured.
    packages: versions of other packages that matter.
    settings: hyper-parameters, by name.
    notes: sentences about the data, such as which files were left out.
  """

  data: str
  classes: tuple[str, ...]
  image_shape: tuple[int, int, int]
  train_images: int
  test_images: int
  validation_images: int = 0
  class_counts: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
  reading: str = ""
  epochs: float | None = None
  seed: int = 0
  command: str = ""
  version: str = ""
  jax_version: str = ""
  device: str = ""
  date: str = ""
  runtime: str = "LiteRT/XNNPACK"
  seconds: float = 0.0
  packages: Mapping[str, str] = dataclasses.field(default_factory=dict)
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class TensorRange:
  """An activation tensor's range and grid: ``real = (q - zero_point) * scale``."""

  tensor: str
  low: float
  high: float
  scale: float
  zero_point: int


@dataclasses.dataclass(frozen=True)
class Spread:
  """Largest magnitude of each output channel's weights: over the channels, least, median, most."""

  low: float
  median: float
  high: float

  @property
  def ratio(self) -> float:
    """How far apart the channels are; infinite where one is all zero."""
    return self.high / self.low if self.low > 0 else math.inf


@dataclasses.dataclass(frozen=True)
class Layer:
  """A row of the per-layer table.

  Attributes:
    name: the node's name.
    op: the leaf op.
    output_shape: without the batch.
    parameters: trainable numbers.
    macs: multiply-adds for one image.
    weight_bytes: weights and biases as stored.
    tensor: name of the output tensor, under which its :class:`TensorRange` is found.
    weights: spread of the weights over output channels, or None for a layer without weights.
  """

  name: str
  op: str
  output_shape: tuple[int, ...]
  parameters: int
  macs: int
  weight_bytes: int
  tensor: str = ""
  weights: Spread | None = None


@dataclasses.dataclass(frozen=True)
class Sample:
  """A test image, with its class and the one that the int8 model picked.

  Attributes:
    png: the image.
    label: its class.
    prediction: the class that was picked.
    name: of its file, or None.
    score: softmax of the picked class, 0 to 1, or None.
  """

  png: bytes
  label: int
  prediction: int
  name: str | None = None
  score: float | None = None

  @classmethod
  def of(
    cls,
    image: np.ndarray,
    label: int,
    prediction: int,
    *,
    name: str | None = None,
    score: float | None = None,
  ) -> "Sample":
    """A sample of a uint8 image of shape (height, width, 1 or 3).

    Examples:
      >>> Sample.of(np.zeros((8, 8, 3), np.uint8), 0, 1).png[1:4]
      b'PNG'
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
      raise ValueError(
        f"image: {image.dtype} of shape {image.shape} must be uint8 (height, width, 1 or 3)."
      )
    buffer = io.BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(pixels).save(buffer, format="PNG")
    return cls(buffer.getvalue(), int(label), int(prediction), name, score)


@dataclasses.dataclass(frozen=True)
class Point:
  """A quantized network among others.

  Attributes:
    name: as a person writes it, such as ``"4 bits"`` or ``"mixed"``.
    bytes: of its packed weights, scales and biases.
    score: share of images that are right, or on which it decides as the float network.
    mixed: whether its layers differ in bits.
    chosen: whether it is the one that was kept.

  Examples:
    >>> Point("mixed", bytes=600, score=0.89, mixed=True).chosen
    False
  """

  name: str
  bytes: int
  score: float
  mixed: bool = False
  chosen: bool = False


@dataclasses.dataclass(frozen=True)
class Search:
  """The candidates of a search to a budget.

  Attributes:
    candidates: scores are those of validation images.
    reference: the teacher's score on them.
    images: their number.
  """

  candidates: tuple[Point, ...]
  reference: float
  images: int


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
  """Everything that a report shows; parts that a run has not are left at their defaults.

  Attributes:
    run: facts of the run.
    entries: by key, at least those of :data:`NEEDED`; further ones are shown beside them.
    curves: by phase, rows as in ``metrics.jsonl``: ``step`` and any of ``loss``, ``accuracy``
      (of training batches, a share), ``top1`` (of held-out images), ``images_per_second``.
    confusion: (classes, classes) counts of the int8 model on the test set; rows are the true
      classes, columns the predicted ones.
    layers: the deployed graph, in order.
    ranges: its activation tensors, in order.
    samples: test images: the worst mistakes, the surest first, then right ones of many classes.
    reader: how a picture becomes an image, and
    preprocess: what maps images to the model's input: the entries of
      :meth:`jaxcompress.data.ImageReader.to_metadata`.
    search: how the student was found; None where it was given.

  Raises:
    ValueError: if an entry is missing or the confusion matrix does not fit the classes.
  """

  run: Run
  entries: Mapping[str, Entry]
  curves: Mapping[str, Sequence[Mapping[str, Any]]] = dataclasses.field(default_factory=dict)
  confusion: np.ndarray | None = None
  layers: tuple[Layer, ...] = ()
  ranges: tuple[TensorRange, ...] = ()
  samples: tuple[Sample, ...] = ()
  reader: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  preprocess: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  search: Search | None = None

  def __post_init__(self):
    missing = [key for key in NEEDED if key not in self.entries]
    if missing:
      raise ValueError(
        f"entries: {', '.join(missing)} missing; a report needs {', '.join(NEEDED)}."
      )
    classes = len(self.run.classes)
    if self.confusion is not None and np.shape(self.confusion) != (classes, classes):
      raise ValueError(
        f"confusion: shape {np.shape(self.confusion)} does not fit the {classes} class names; "
        f"it must be ({classes}, {classes})."
      )


def ordered(results: Results) -> tuple[tuple[str, Entry], ...]:
  """Entries in the order in which they are shown; the integers, which are deployed, come last."""
  known = [key for key in LABELS if key in results.entries and key != "int8"]
  others = [key for key in results.entries if key not in LABELS]
  return tuple((key, results.entries[key]) for key in (*known, *others, "int8"))
