"""What is trained, from what, and how: the static half of a run."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import optax

from jaxcompress.distill import LossTransform, cross_entropy
from jaxcompress.quantize import Quantization


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Recipe:
  """Everything that does not change during a run. Frozen, and hashed by identity.

  Build it once: a rebuilt recipe is another one, and the step compiles again for it.

  Attributes:
    student: a linen module made of leaf ops.
    teachers: modules whose :class:`~jaxcompress.nn.Endpoints` the loss reads; they are not
      trained.
    loss: what is minimised.
    quantize: how the student is quantized during training, or None.
    optimizer: any optax transformation; it trains the student's parameters and what quantizers
      and losses have to train, as one tree with the branches ``student``, ``quantizer``, ``loss``.
    augment: ``(rng, batch) -> batch``, on the device inside the step, in training only.
    preprocess: maps images to what the networks read, after ``augment``; also in evaluation.
    ema: decay of a moving average of the student's parameters and running statistics, such as
      0.999, or None. The average is what ``eval_step``, ``predict`` and ``state.quantized()`` read.

  Raises:
    ValueError: if ``teachers`` is no tuple or ``ema`` is out of range.

  Examples:
    >>> from jaxcompress import models
    >>> recipe = Recipe(student=models.resnet8(10), optimizer=optax.sgd(0.1))
    >>> recipe.teachers
    ()
  """

  student: nn.Module
  optimizer: optax.GradientTransformation
  teachers: tuple[nn.Module, ...] = ()
  loss: LossTransform = dataclasses.field(default_factory=cross_entropy)
  quantize: Quantization | None = None
  augment: Callable[..., Any] | None = None
  preprocess: Callable[[Any], Any] | None = None
  ema: float | None = None

  def __post_init__(self):
    if not isinstance(self.teachers, tuple):
      raise ValueError(
        f"teachers: {type(self.teachers).__name__} must be a tuple of modules; write (teacher,)."
      )
    if self.ema is not None and not 0 <= self.ema < 1:
      raise ValueError(f"ema: {self.ema!r} must be in [0, 1), or None for no average.")
