"""Options of runs, checked when they are made."""

import dataclasses
import math
import pathlib
import re
import typing
from typing import Any

from jaxcompress import distill, quantize
from jaxcompress.data.augment.strengths import STRENGTHS
from jaxcompress.data.reader import ResizeWay
from jaxcompress.pipeline.budgets import Budget
from jaxcompress.pipeline.checks import (
  check_between,
  check_choice,
  check_names,
  check_outside,
  check_pruning,
  check_starts,
  check_types,
  is_outside,
)
from jaxcompress.pipeline.formats import (
  FORMATS,
  check_target,
  check_trained,
  format_of,
  kernels_for,
)
from jaxcompress.pipeline.presets import PRESETS

SIGN = "python:"  # before what an option cannot hold: a data set, or a network's variables
CHOICES = {
  "balance": ("weights", "sampling"),
  "resize": typing.get_args(ResizeWay),
  "augment": STRENGTHS,
}
POSITIVE = (
  *("width", "teacher_width", "epochs", "batch_size", "learning_rate", "patience", "image_size"),
  "max_latency_ms",
)
UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2}


class OptionError(ValueError):
  """A mistake that another option mends, which every surface spells in its own way.

  Args:
    before: the message up to that option.
    after: the rest of it.
    option: its name and value, one.

  Examples:
    >>> error = OptionError("out: a.tflite exists; add ", " to replace it.", force=True)
    >>> str(error), error.spelled("--force")
    ('out: a.tflite exists; add force=True to replace it.', 'out: a.tflite exists; add --force to replace it.')
  """

  def __init__(self, before: str, after: str, **option: Any):
    self._parts = before, after
    ((self.name, self.value),) = option.items()
    super().__init__(self.spelled(f"{self.name}={self.value!r}"))

  def spelled(self, option: str) -> str:
    """The message with the option as it is written where it was given."""
    return option.join(self._parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompressOptions:
  """The options of :func:`~jaxcompress.pipeline.compress`.

  Attributes:
    preset: name in :data:`~jaxcompress.pipeline.PRESETS`, which gives the options that are not
      given, and how networks are trained.
    data: ``glyphs``, ``digits``, ``folder:PATH`` and so on, as :func:`jaxcompress.data.load` takes it.
    student: name of the small model: of a model of this package, or the source of a published
      checkpoint as in :func:`jaxcompress.models.from_torch`, such as ``timm/mobilenetv3_small_100``;
      None: what the weights are of, else ``mobilenet_v2``.
    student_weights: what it starts from, or None: a checkpoint of PyTorch's (.pth, .safetensors), a
      file of ``models.save``, or a folder that an earlier run wrote.
    width: its width multiplier, for models that have one.
    teacher: name of the large model; or a trained one that is no model of this package: FILE.onnx, or
      a folder of .npz files with its outputs (see :class:`~jaxcompress.data.StoredTeacher`).
    teacher_width: its width multiplier.
    teacher_weights: likewise what the teacher starts from. One that knows the data's classes
      teaches as it is.
    teacher_pixels: how FILE.onnx reads pixels: ``imagenet``, ``0..1``, ``-1..1`` or ``0..255``; None: as
      it says itself.
    teacher_outputs: names of its logits and, after a comma, of its pooled features; None: the only
      output that can be its logits.
    distill: losses with their weights, such as ``kd:0.9,crd:0.8``; see
      :func:`jaxcompress.distill.parse`.
    bits: of the integer weights, 2 to 8, with trained steps (LSQ) from 4 down; activations have 8.
    sparsity: share of zeros in all layers but the first, the last and depthwise ones, above 0 and
      below 1; None: nothing is pruned.
    sparsity_distribution: how the zeros are shared out among layers: ``erk``, small ones are denser;
      ``uniform``, all alike; ``global``, by one threshold for all; ``lamp``, by what a layer loses.
      None: ``erk``.
    sparsity_pattern: ``unstructured``, or ``n:m`` such as ``2:4``, which has a share of its own;
      None: unstructured if there is a sparsity.
    cluster: values that the weights of a layer share, zero included, 2 to 128; None: any.
    epochs: passes over the training images for teacher and student each; None: 1000 steps, or 25
      epochs of a small set if that is less, but at least 400 steps.
    batch_size: images per step.
    learning_rate: its peak; None: the preset's.
    freeze: what of a student that starts from weights does not move: a selector of layers (see
      :mod:`jaxcompress.nn.select`), or ``backbone``: all but the head. None: nothing.
    patience: epochs without a better validation after which a phase ends; None: it runs to its end.
    balance: what is done about classes of unequal size: ``weights``, each counts alike in the loss;
      ``sampling``, each is seen equally often. None: nothing.
    image_size: side to which a folder's images are brought; None: what the weights were trained
      on, else the images' own.
    resize: how they are brought to it: ``cover``, ``squash``, ``letterbox`` or ``pad`` (see
      :class:`jaxcompress.data.ImageReader`); None: as for the weights, else ``cover``.
    channels: of the images: 3, RGB; 1, grey; None: as for the weights, else 3.
    augment: how much images are changed in training: ``none``, ``light``, ``medium`` or
      ``strong``; None: the preset's.
    group_by: a pattern (regular expression) on file names; images in whose names it finds the same
      text, such as a patient or a burst, stay in one split.
    strict: whether damaged images are an error; else they are left out and counted.
    flip: whether mirrored images are trained on too; None: only where it is known that a mirrored
      image keeps its class.
    seed: of everything that is random.
    quick: a tenth of everything, to see that it works.
    max_size: what the packed file may take, such as ``300KB``, or None. With this or one of the next
      two, several students are tried; see :func:`jaxcompress.pipeline.search.find_student`.
    max_macs: how many multiply-adds an image may take, such as ``10M``, or None.
    max_latency_ms: what an image may take in LiteRT on one thread here, or None.

  Raises:
    ValueError: if an option is of another type or out of range, or ``distill`` cannot be parsed.

  Examples:
    >>> CompressOptions(distill="kd:0.9,crd:0.8", bits=4).bits
    4
    >>> CompressOptions(sparsity_pattern="2:4", cluster=32).cluster
    32
  """

  preset: str = "default"
  data: str = "glyphs"
  student: str | None = None
  student_weights: str | None = None
  width: float | None = None
  teacher: str | None = None
  teacher_width: float | None = None
  teacher_weights: str | None = None
  teacher_pixels: str | None = None
  teacher_outputs: str | None = None
  distill: str = "kd"
  bits: int = 8
  sparsity: float | None = None
  sparsity_distribution: str | None = None
  sparsity_pattern: str | None = None
  cluster: int | None = None
  epochs: float | None = None
  batch_size: int = 64
  learning_rate: float | None = None
  freeze: str | None = None
  patience: int | None = None
  balance: str | None = None
  image_size: int | None = None
  resize: str | None = None
  channels: int | None = None
  augment: str | None = None
  group_by: str | None = None
  strict: bool = False
  flip: bool | None = None
  seed: int = 0
  quick: bool = False
  max_size: str | None = None
  max_macs: str | None = None
  max_latency_ms: float | None = None

  def __post_init__(self):
    check_types(self)
    check_choice("preset", self.preset, PRESETS)
    asked = distill.parse(self.distill, num_examples=2)
    if "labels" not in asked.weights and not any(
      "logits" in distill.DISTILLERS[name].reads for name in asked.weights
    ):
      raise ValueError(
        f"distill: {self.distill!r} trains no classifier of the student's own; add labels:1."
      )
    check_between("bits", self.bits, 2, 8)
    check_pruning(self)
    check_outside(self)
    check_names(self)
    check_starts(self)
    check_between("cluster", self.cluster, 2, 128)
    if self.cluster is not None and self.bits != 8:
      raise ValueError(
        f"bits: {self.bits} does not fit cluster {self.cluster}, whose values have 8; leave one out."
      )
    for name in ("sparsity", "sparsity_distribution", "sparsity_pattern", "cluster"):
      if self.searches and getattr(self, name) is not None:
        raise ValueError(
          f"{name}: {getattr(self, name)} does not work with a budget, whose search removes channels and"
          " picks bits; leave one of them out."
        )
    for name, choices in CHOICES.items():
      if getattr(self, name) is not None:
        check_choice(name, getattr(self, name), choices)
    for name in POSITIVE:
      value = getattr(self, name)
      if value is not None and not 0 < value < math.inf:
        raise ValueError(f"{name}: {value} must be positive and finite.")
    if self.channels not in (None, 1, 3):
      raise ValueError(f"channels: {self.channels} must be 3 (RGB) or 1 (grey).")
    if self.freeze is not None and self.student_weights is None:
      raise ValueError(
        f"freeze: {self.freeze} would keep random weights; give student_weights, or leave it out."
      )
    if self.freeze is not None and self.prunes:
      raise ValueError(
        f"freeze: {self.freeze} does not work with pruning, which makes zeros in all layers; leave one of"
        " them out."
      )
    if self.batch_size < 2:
      raise ValueError("batch_size: 1 is too small for batch statistics; it must be at least 2.")
    if self.seed < 0:
      raise ValueError(f"seed: {self.seed} must not be negative.")

  @classmethod
  def of(cls, given: dict[str, Any]) -> "CompressOptions":
    """Makes options from those that were given, then the preset's; None means not given.

    Examples:
      >>> options = CompressOptions.of({"preset": "crd-cifar100", "student": "vgg8", "data": None})
      >>> options.student, options.data, options.epochs
      ('vgg8', 'tfds:cifar100', 240)
    """
    given = {name: value for name, value in given.items() if value is not None}
    preset = PRESETS.get(given.get("preset", "default"))
    ours = {} if preset is None else dict(preset.options)
    if given.get("quick"):
      ours.pop("epochs", None)
    return cls(**{**ours, **given})

  @property
  def budget(self) -> Budget:
    """Limits of the student.

    Examples:
      >>> CompressOptions(max_macs="2.5M").budget
      Budget(size=None, macs=2500000, latency_ms=None)
    """
    size = None if self.max_size is None else parse_size(self.max_size, "max_size")
    macs = None if self.max_macs is None else parse_count(self.max_macs, "max_macs")
    return Budget(size, macs, self.max_latency_ms)

  @property
  def searches(self) -> bool:
    """Whether a student is searched for within a budget."""
    return self.budget != Budget()

  @property
  def taught_outside(self) -> bool:
    """Whether the teacher is a file or a folder, and no model of this package.

    Examples:
      >>> CompressOptions(teacher="resnet20").taught_outside
      False
    """
    return is_outside(self.teacher)

  @property
  def prunes(self) -> bool:
    """Whether weights become zero."""
    return self.sparsity is not None or self.sparsity_pattern is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
  """The options of :func:`~jaxcompress.pipeline.quantize_model`.

  Attributes:
    model: a file of ``models.save`` or a folder that ``compress`` wrote; with ``torch`` the
      checkpoint.
    torch: source of a PyTorch checkpoint as in :func:`jaxcompress.models.from_torch`, such as
      ``"timm/mobilenetv3_small_100"``, or None.
    calibration: with ``torch``, a folder of images, which need no labels.
    data: likewise, as :func:`jaxcompress.data.load` takes it; without ``torch``.
    method: ``auto`` or a method of post-training quantization.
    bits: of the weights, 2 to 8; None: 8.
    max_drop: the largest loss of top-1 that is accepted, as a share, or None.
    budget: size such as ``"300KB"`` that packed weights, scales and biases may take, or None.
    images: of the training images for calibration and for the choice of the method.
    kernels: the runtime whose arithmetic it is; None: the usual one of the file.
    image_size: side in pixels; None: what the model's file says, else the data's own.
    analyze: whether the layers are analysed.
    out: the file; its suffix says of which kind: .tflite, .int4.tflite, .onnx, .stablehlo or .jcz
      (packed).
    also: further files of the same network.
    formats: of all these files, by name; none: those that their suffixes name.
    ram: size such as ``"64KB"`` of the memory that folders of C may take, or None.
    target: a device whose rules the files obey, or None; for ``"tensorrt"`` the zero points of
      activations are 0.
    force: whether files that exist are replaced.
    seed: of the data and the choice of images.

  Raises:
    ValueError: if an option is out of range, or two do not fit together.

  Examples:
    >>> QuantizeOptions(model="student.safetensors", budget="300KB").budget_bytes
    300000
  """

  model: str
  torch: str | None = None
  calibration: str | None = None
  data: str = "glyphs"
  method: str = "auto"
  bits: int | None = None
  max_drop: float | None = None
  budget: str | None = None
  images: int = 1024
  kernels: str | None = None
  image_size: int | None = None
  analyze: bool = False
  out: str = "model.tflite"
  also: tuple[str, ...] = ()
  formats: tuple[str, ...] = ()
  target: str | None = None
  ram: str | None = None
  force: bool = False
  seed: int = 0

  def __post_init__(self):
    check_types(self)
    check_choice("method", self.method, ("auto", *quantize.ALGORITHMS))
    check_between("bits", self.bits, 2, 8)
    if self.bits is not None and self.budget is not None:
      raise ValueError(f"bits: {self.bits} and a budget are given; the budget decides the bits.")
    if self.max_drop is not None and not 0 <= self.max_drop <= 1:
      raise ValueError(
        f"max_drop must be a fraction between 0 and 1, such as 0.01, got {self.max_drop}."
      )
    for name, value in (("images", self.images), ("image_size", self.image_size)):
      if value is not None and value < 1:
        raise ValueError(f"{name}: {value} must be at least 1.")
    if self.torch is not None and self.calibration is None:
      raise ValueError("calibration: it is missing; a checkpoint of PyTorch needs images.")
    for name, asked in (("budget", self.budget), ("analyze", self.analyze or None)):
      if asked is not None and self.torch is not None:
        raise ValueError(
          f"{name}: {asked} needs labelled images; save the model and quantize that."
        )
    if self.torch is None:
      check_trained(self.model)
    formats = self.kinds
    check_target(self.target, formats)
    if "tflite-int4" in formats and self.budget is None and (self.bits or 8) > 4:
      raise OptionError(
        f"format: 'tflite-int4' needs weights of 4 bits at most, and they get {self.bits or 8}; add ",
        ".",
        bits=4,
      )
    if all(FORMATS[name].is_float for name in formats):
      raise ValueError(
        f"out: {self.out} holds float numbers, so nothing would be quantized; name an integer file."
      )
    _ = self.runtime, self.budget_bytes, self.ram_bytes

  @property
  def budget_bytes(self) -> int | None:
    """The budget in bytes."""
    return None if self.budget is None else parse_size(self.budget)

  @property
  def ram_bytes(self) -> int | None:
    """The memory for C in bytes."""
    return None if self.ram is None else parse_size(self.ram, "ram")

  @property
  def runtime(self) -> str:
    """The kernels whose arithmetic it is."""
    return kernels_for(self.out, self.kinds[0], self.kernels)

  @property
  def models(self) -> list[pathlib.Path]:
    """The files that hold the network."""
    return [pathlib.Path(path) for path in (self.out, *self.also)]

  @property
  def kinds(self) -> tuple[str, ...]:
    """The formats of these files."""
    return self.formats or tuple(map(format_of, self.models))

  @property
  def files(self) -> dict[str, pathlib.Path]:
    """Files that are written, by what they are."""
    model = pathlib.Path(self.out)
    files = {"model": model}
    if self.analyze:
      files["analysis"] = model.with_suffix(".analysis.json")
      files["analysis_plot"] = model.with_suffix(".analysis.png")
    if self.budget is not None:
      files["candidates_plot"] = model.with_suffix(".candidates.png")
    return files


def parse_size(size: str, name: str = "budget") -> int:
  """Bytes of a size as people write it: kB and MB are decimal, KiB and MiB binary.

  Raises:
    ValueError: if it is not a size.

  Examples:
    >>> parse_size("300KB"), parse_size("1.5 MB"), parse_size("64KiB"), parse_size("5000")
    (300000, 1500000, 65536, 5000)
  """
  wrong = f"{name}: {size!r} is no size; write it as 300KB, 1.5MB or a number of bytes."
  return _parse(size, "(|k|m|ki|mi)b?", wrong)


def parse_count(count: str, name: str) -> int:
  """A number as people write it: 10M, 2.5k, 1G, or in full.

  Raises:
    ValueError: if it is not a number.

  Examples:
    >>> parse_count("10M", "max_macs"), parse_count("1500", "max_macs")
    (10000000, 1500)
  """
  wrong = f"{name}: {count!r} is no number; write it as 10M, 500k or in full."
  return _parse(count, "(|k|m|g)", wrong)


def _parse(text: str, units: str, wrong: str) -> int:
  match = re.fullmatch(rf"\s*(\d+(?:\.\d+)?)\s*{units}\s*", text.lower())
  if match is None or float(match[1]) == 0:
    raise ValueError(wrong)
  return int(float(match[1]) * UNITS[match[2]])
