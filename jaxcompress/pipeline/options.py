"""What a compress run was asked to do."""

import dataclasses
from typing import Any

from jaxcompress import distill
from jaxcompress.pipeline.budgets import Budget
from jaxcompress.pipeline.presets import PRESETS
from jaxcompress.pipeline.pruning import check_clusters, check_pruning
from jaxcompress.pipeline.quantize_options import parse_count, parse_size
from jaxcompress.pipeline.small_files import mistyped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """The options of ``jaxcompress compress``.

  Attributes:
    preset: name in :data:`~jaxcompress.pipeline.PRESETS`, which gives the options that are not
      given, and how networks are trained.
    data: ``glyphs``, ``digits``, ``tfds:NAME`` or ``folder:PATH``.
    student: name of the small model.
    width: its width multiplier, for models that have one.
    teacher: name of the large model.
    teacher_width: its width multiplier.
    teacher_checkpoint: folder of a trained teacher (``OUT/teacher`` of another run), or None. Images
      get the size that it was trained on, and with the default preset its normalization.
    distill: losses with their weights, such as ``kd:0.9,crd:0.8``; see
      :func:`jaxcompress.distill.parse`.
    bits: of the deployed weights, 2 to 8; activations have 8.
    sparsity: share of zeros in all layers but the first, the last and depthwise ones, above 0 and
      below 1; None: nothing is pruned.
    sparsity_distribution: how the zeros are shared out among layers: ``erk``, small ones are denser;
      ``uniform``, all alike; ``global``, by one threshold for all. None: ``erk``.
    sparsity_pattern: ``unstructured``, or ``n:m`` such as ``2:4``, which has a share of its own;
      None: unstructured if there is a sparsity.
    cluster: values that the weights of a layer share, zero included, 2 to 128; None: any.
    epochs: passes over the training images for teacher and student each; None: 1000 steps, or 25
      epochs of a small set if that is less, but at least 400 steps.
    batch_size: images per step.
    image_size: side to which a folder's images are brought; None: a trained teacher's, else their
      own.
    flip: whether mirrored images are trained on too; None: only where it is known that a mirrored
      image keeps its class.
    seed: of everything that is random.
    quick: a tenth of everything, to see that it works.
    max_size: what the packed file may take, such as ``300KB``, or None. With this or one of the next
      two, several students are tried; see :func:`jaxcompress.pipeline.search.search`.
    max_macs: how many multiply-adds an image may take, such as ``10M``, or None.
    max_latency_ms: what an image may take in LiteRT on one thread here, or None.

  Raises:
    ValueError: if an option is of another type or out of range, or ``distill`` cannot be parsed.

  Examples:
    >>> Options(bits=4).bits
    4
    >>> Options(distill="kd:0.9,crd:0.8").distill
    'kd:0.9,crd:0.8'
    >>> Options(sparsity_pattern="2:4", cluster=32).cluster
    32
  """

  preset: str = "default"
  data: str = "glyphs"
  student: str = "mobilenet_v2"
  width: float | None = None
  teacher: str | None = None
  teacher_width: float | None = None
  teacher_checkpoint: str | None = None
  distill: str = "kd"
  bits: int = 8
  sparsity: float | None = None
  sparsity_distribution: str | None = None
  sparsity_pattern: str | None = None
  cluster: int | None = None
  epochs: float | None = None
  batch_size: int = 64
  image_size: int | None = None
  flip: bool | None = None
  seed: int = 0
  quick: bool = False
  max_size: str | None = None
  max_macs: str | None = None
  max_latency_ms: float | None = None

  def __post_init__(self):
    if wrong := mistyped(Options, dataclasses.asdict(self)):
      raise ValueError(f"{wrong}.")
    if self.preset not in PRESETS:
      raise ValueError(
        f"preset: {self.preset!r} is unknown; it must be one of {', '.join(PRESETS)}."
      )
    asked = distill.parse(self.distill, num_examples=2)
    if "labels" not in asked.weights and not any(
      "logits" in distill.DISTILLERS[name].reads for name in asked.weights
    ):
      raise ValueError(
        f"distill: {self.distill!r} trains no classifier of the student's own; add labels:1."
      )
    if not 2 <= self.bits <= 8:
      raise ValueError(f"bits: {self.bits} is out of range; it must be 2 to 8.")
    check_pruning(self)
    check_clusters(self)
    for name in ("sparsity", "sparsity_distribution", "sparsity_pattern", "cluster"):
      if self.searches and getattr(self, name) is not None:
        raise ValueError(
          f"{name}: {getattr(self, name)} does not go with a budget, whose search removes channels and"
          " picks bits; leave one of them out."
        )
    for name in (
      "width",
      "teacher_width",
      "epochs",
      "batch_size",
      "image_size",
      "max_latency_ms",
    ):
      value = getattr(self, name)
      if value is not None and not value > 0:
        raise ValueError(f"{name}: {value} must be positive.")
    if self.batch_size < 2:
      raise ValueError("batch_size: 1 is too small for batch statistics; it must be at least 2.")
    if self.seed < 0:
      raise ValueError(f"seed: {self.seed} must not be negative.")

  @property
  def budget(self) -> Budget:
    """What the student may cost.

    Examples:
      >>> Options(max_macs="2.5M").budget
      Budget(size=None, macs=2500000, latency_ms=None)
    """
    size = None if self.max_size is None else parse_size(self.max_size, "max_size")
    macs = None if self.max_macs is None else parse_count(self.max_macs, "max_macs")
    return Budget(size, macs, self.max_latency_ms)

  @property
  def searches(self) -> bool:
    """Whether a student is searched for within a budget."""
    return self.budget != Budget()


def make_options(given: dict[str, Any]) -> Options:
  """Options from those that were given, then the preset's; None means not given.

  Examples:
    >>> options = make_options({"preset": "crd-cifar100", "student": "vgg8", "data": None})
    >>> options.student, options.data, options.epochs
    ('vgg8', 'tfds:cifar100', 240)
  """
  given = {name: value for name, value in given.items() if value is not None}
  preset = PRESETS.get(given.get("preset", "default"))
  ours = {} if preset is None else dict(preset.options)
  if given.get("quick"):
    ours.pop("epochs", None)
  return Options(**{**ours, **given})
