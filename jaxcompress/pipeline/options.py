"""Options of runs that train, checked when they are made."""

import dataclasses
import math
import typing
from typing import Any

from jaxcompress import distill
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
  parse_count,
  parse_size,
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
