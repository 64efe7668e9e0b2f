"""The static half of a run: networks, loss, optimizer, and how they are used."""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import optax

from jaxcompress.arguments import (
  check_callable,
  check_optimizer,
  check_range,
  check_share,
  check_type,
  check_whole,
  shown,
)
from jaxcompress.distill import LossTransform, cross_entropy
from jaxcompress.distill.adapters import as_teacher
from jaxcompress.nn.foreign import check_model
from jaxcompress.nn.select import Selector, parse
from jaxcompress.quantize import Quantization
from jaxcompress.quantize.config import PLAN
from jaxcompress.training.networks import CachedTeacher

EVERYTHING = ("student", "quantizer", "loss")


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
  """A phase of a run before the main one, with a loss of its own.

  Attributes:
    loss: what is minimised, a :func:`~jaxcompress.distill.named_chain`. A term of the same name in
      another stage's or the recipe's loss shares its parameters and state.
    trainable: what moves; see :class:`Recipe`.
    steps: batches.
    optimizer: what trains in this stage, with a state of the same form as the recipe's, such as the
      same one at a constant rate; None: the recipe's, started anew.

  Raises:
    ValueError: if an argument is of another type, paths name nothing or only leave out, or there is no step.

  Examples:
    >>> from jaxcompress import distill
    >>> first = Stage(distill.named_chain(factor=distill.paraphrase()), ("loss/factor",), 100)
    >>> first.steps
    100
  """

  loss: LossTransform
  trainable: tuple[str, ...]
  steps: int
  optimizer: optax.GradientTransformation | None = None

  def __post_init__(self):
    _check_loss(self.loss)
    _check_trainable(self.trainable)
    check_whole("steps", self.steps, 1)
    if self.optimizer is not None:
      check_optimizer(self.optimizer)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Recipe:
  """Everything that does not change during a run. Frozen, and hashed by identity.

  Build it once: a rebuilt recipe is another one, and the step compiles again for it.

  Attributes:
    student: a linen module made of leaf ops.
    teachers: networks whose :class:`~jaxcompress.nn.Endpoints` the loss reads; they are not trained
      and need not be made of leaf ops: linen or NNX modules, functions ``apply(variables, images)``,
      or what :func:`~jaxcompress.distill.adapter` makes of these, which names their feature maps. A
      :class:`~jaxcompress.training.CachedTeacher` stands for one whose outputs come with the batch.
    loss: what is minimised.
    quantize: how the student is quantized during training, or None.
    optimizer: any optax transformation; it trains the student's parameters and what quantizers
      and losses have to train, as one tree with the branches ``student``, ``quantizer``, ``loss``.
      Wrapped in one of ``jaxcompress.prune`` it prunes the student's kernels, which stay zero
      through averages, quantization and export; the metrics then hold ``sparsity``.
    augment: ``(rng, batch) -> batch``, on the device inside the step, in training only.
    preprocess: maps images to what the networks read, after ``augment``; also in evaluation.
    ema: decay of a moving average of the student's parameters and running statistics, such as
      0.999, or None. The average is what ``eval_step``, ``predict`` and ``state.quantized()`` read.
    trainable: what moves: paths in the trained tree, such as ``student`` or ``loss/factor``, each
      with all below it, in which ``*`` stands for any one name; or kinds of the student's layers,
      such as ``last`` or ``depthwise|dense`` (:mod:`jaxcompress.nn.select`), which mean their
      parameters. After ``!`` comes what is left out again, wherever it stands. What does not move
      keeps every bit. A normalization whose scale and bias do not move
      runs on its running statistics, which keep every bit too: a frozen backbone computes in
      training what it computes in evaluation, and a head on it learns as on stored features.
    freeze_norm_step: first step from which normalizations run on their running statistics, which stay
      as they are then; 0: from the start, as when a trained network is fine-tuned on small batches.
      A dict of steps by selector (:mod:`jaxcompress.nn.select`) freezes some; of several that name a
      layer the first counts. None: as ``trainable`` and ``quantize`` say alone; whatever freezes a
      layer first counts. Scale and bias go on moving; leave them out of ``trainable`` to hold them too.
    frozen_rate: factor of the learning rate of all layers up to a normalization that is frozen, however
      it came to be, from that step on; their gradient is clipped to a norm of 1 there, too. 1.0: none
      of both. Live statistics undo what an update does to the size of a layer's outputs, frozen ones do
      not: at rates that suit the ones, the others let a network fall to chance within ten steps. What
      comes after the last frozen normalization, such as a head on a frozen backbone, keeps its rate.
    stages: :class:`Stage` s before the main one. Each starts its optimizer and schedules anew, when
      its steps have come: in ``fit`` and in any other loop around the step.
    apart: names of terms of the loss, a named chain, whose gradient the optimizer gets apart from
      the others', as ``parts={"task": ..., "distill": ...}``; see
      :func:`~jaxcompress.training.dot`. It costs a second backward pass.
    mean_teacher: decay ``d`` of a mean teacher (Tarvainen & Valpola, 2017), or None: the last of
      ``teachers`` is the student's own module and follows it, ``t = d t + (1 - d) s`` after each
      step, running statistics included.
    accumulate: into how many microbatches a batch is cut to save memory, at the cost of a second
      forward pass. Losses see the whole batch, and are what they are without, memory banks and
      losses that compare examples included. BatchNorm normalises each microbatch by its own
      statistics, and running statistics and ranges move on with each; where statistics are frozen,
      the gradient is that of the whole batch.
    compute_dtype: of activations and products in training, such as ``jnp.bfloat16``, or None: as
      ``preprocess`` leaves the images. Where ``quantize`` is given, of products alone, and those of
      tensors on grids are of their codes, which bfloat16 holds. Parameters, statistics, ranges, losses, the optimizer, and
      evaluation are float32 all the same.
    remat: whether the backward pass computes again what is inside the student's blocks, and only
      what its blocks and outermost layers return is kept in memory: about a third more work. XLA on
      CPU finds that it computes the same twice, and keeps it after all.
    batch_norm: what a batch is normalised by where it is split over devices: ``"global"``, by the
      statistics of the whole, for which devices wait for each other at every normalization, in both
      directions; or ``"local"``, each device's part by its own, as is common on many devices
      (Goyal et al., 2017, section 2.3). Running statistics are then averaged over devices after each
      pass, in one exchange; the variance of the parts' means is not in them. It concerns the
      normalizations of leaf ops. On one device both are the same.

  Raises:
    ValueError: if an argument is of another type, such as a model that was not called, teachers,
      stages or paths are not given as tuples, paths name nothing or only leave out, a stage has no
      steps, the mean teacher does not fit, ``ema`` or ``accumulate`` is out of range, or ``compute_dtype`` is no
      float or meets ``exact_step``.

  Examples:
    >>> from jaxcompress import models
    >>> recipe = Recipe(student=models.resnet8(10), optimizer=optax.sgd(0.1))
    >>> recipe.teachers
    ()
  """

  student: nn.Module
  optimizer: optax.GradientTransformation
  teachers: tuple[Any, ...] = ()
  loss: LossTransform = dataclasses.field(default_factory=cross_entropy)
  quantize: Quantization | None = None
  augment: Callable[..., Any] | None = None
  preprocess: Callable[[Any], Any] | None = None
  ema: float | None = None
  trainable: tuple[str, ...] = EVERYTHING
  freeze_norm_step: int | Mapping[Selector, int] | None = None
  frozen_rate: float = 0.1
  stages: tuple[Stage, ...] = ()
  apart: tuple[str, ...] = ()
  mean_teacher: float | None = None
  accumulate: int = 1
  compute_dtype: Any = None
  remat: bool = False
  batch_norm: Literal["global", "local"] = "global"

  def __post_init__(self):
    self._check_networks()
    _check_loss(self.loss)
    check_optimizer(self.optimizer)
    check_type("quantize", self.quantize, Quantization | None, PLAN)
    check_callable("augment", self.augment, "(rng, batch) -> batch, or None")
    check_callable("preprocess", self.preprocess, "images -> images, or None")
    check_share("ema", self.ema)
    _check_trainable(self.trainable)
    _check_freezing(self.freeze_norm_step)
    check_range("frozen_rate", self.frozen_rate, 0, 1)
    _check_names("apart", self.apart)
    check_whole("accumulate", self.accumulate, 1)
    check_type("remat", self.remat, bool, "True or False")
    if self.batch_norm not in ("global", "local"):
      raise ValueError(f"batch_norm: {shown(self.batch_norm)} must be 'global' or 'local'.")
    if self.compute_dtype is not None:
      self._check_compute_dtype()
    check_type("stages", self.stages, tuple, "a tuple of training.Stage; write (stage,)")
    for i, stage in enumerate(self.stages):
      check_type(f"stages[{i}]", stage, Stage, "a training.Stage(loss, trainable, steps)")

  def _check_networks(self):
    check_model("student", self.student, trains=True)
    check_type("teachers", self.teachers, tuple, "a tuple of networks; write (teacher,)")
    teachers = tuple(
      teacher if isinstance(teacher, CachedTeacher) else as_teacher(f"teachers[{i}]", teacher)
      for i, teacher in enumerate(self.teachers)
    )
    object.__setattr__(self, "teachers", teachers)
    check_share("mean_teacher", self.mean_teacher)
    if self.mean_teacher is not None and self.teachers[-1:] != (self.student,):
      raise ValueError(
        "mean_teacher: the last teacher must be the student's module; write teachers=(..., student)."
      )

  def _check_compute_dtype(self):
    try:
      is_float = jnp.issubdtype(jnp.dtype(self.compute_dtype), jnp.floating)
    except TypeError:
      is_float = False
    if not is_float:
      raise ValueError(f"compute_dtype: {shown(self.compute_dtype)} must be a float, or None.")
    exact = self.quantize is not None and self.quantize.exact_step is not None
    if exact and jnp.dtype(self.compute_dtype).itemsize < 4:
      raise ValueError(
        f"compute_dtype: {jnp.dtype(self.compute_dtype).name} cannot hold the integers of the device's"
        " arithmetic; leave it out, or the plan's exact_step."
      )

  def stage_at(self, position: int) -> int:
    """The stage of a batch: a place in ``stages``, or their number for the main stage.

    Examples:
      >>> from jaxcompress import distill, models
      >>> first = Stage(distill.named_chain(ab=distill.ab()), ("student", "loss"), 10)
      >>> recipe = Recipe(student=models.resnet8(10), optimizer=optax.sgd(0.1), stages=(first,))
      >>> recipe.stage_at(9), recipe.stage_at(10)
      (0, 1)
    """
    ends = list(itertools.accumulate(stage.steps for stage in self.stages))
    return bisect.bisect_right(ends, position)

  def starts_stage(self, position: int) -> bool:
    """Whether a batch is the first of its stage."""
    return position == 0 or self.stage_at(position) != self.stage_at(position - 1)

  def stage(self, index: int) -> tuple[LossTransform, tuple[str, ...]]:
    """Loss and trainable paths of a stage."""
    if index < len(self.stages):
      return self.stages[index].loss, self.stages[index].trainable
    return self.loss, self.trainable

  def optimizer_of(self, index: int) -> optax.GradientTransformation:
    """Optimizer of a stage."""
    own = self.stages[index].optimizer if index < len(self.stages) else None
    return self.optimizer if own is None else own


def _check_loss(loss: Any) -> None:
  wanted = "a loss of jaxcompress.distill, such as distill.kd(), or distill.stateless of a formula"
  check_type("loss", loss, LossTransform, wanted)


def _check_names(argument: str, names: Any) -> None:
  if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
    raise ValueError(
      f"{argument}: {shown(names)} must be a tuple of names; write ('student',), with the comma."
    )


def _check_trainable(names: Any) -> None:
  """Names, of which some say what moves if others say what does not."""
  _check_names("trainable", names)
  if all(name.startswith("!") for name in names):
    raise ValueError(
      f"trainable: {shown(names)} {'only leaves out' if names else 'is empty'}, so that nothing would"
      " move; say what moves first, such as ('student', '!student/stem')."
    )


def _check_freezing(steps: Any) -> None:
  """A step, steps by selector, or None."""
  if isinstance(steps, Mapping):
    for selector, at in steps.items():
      parse(selector, "freeze_norm_step")
      check_whole(f"freeze_norm_step[{selector!r}]", at, 0)
  elif steps is not None:
    check_whole("freeze_norm_step", steps, 0)
