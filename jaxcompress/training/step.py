"""One training step: forward passes, loss, gradients, quantization and update in one program."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcompress import prune
from jaxcompress.arguments import check_batch, check_type
from jaxcompress.distill import keep_where
from jaxcompress.nn import Endpoints
from jaxcompress.nn.select import on_network
from jaxcompress.ops.parts import in_parts
from jaxcompress.prune.masked import is_final, sparsity_of
from jaxcompress.quantize.sites import QuantVariables
from jaxcompress.training.averages import move_average
from jaxcompress.training.forward import BLOCK, forward
from jaxcompress.training.frozen import clipped, slowed, slowed_layers
from jaxcompress.training.gradients import (
  find_gradients,
  is_sound,
  join,
  run_on,
  split,
  stays_finite,
)
from jaxcompress.training.networks import (
  hits,
  run_teachers,
  split_labels,
  to_network_input,
  with_pixels,
)
from jaxcompress.training.recipe import Recipe
from jaxcompress.training.sharding import constrained, gathered_teachers, parts_of, split_batch
from jaxcompress.training.stages import hold, moved, moving
from jaxcompress.training.state import CompressState, in_stage
from jaxcompress.training.targeted import Targeted

ROUNDING = 1  # folded into the step's key
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


class Step:
  """A step of a run, ``(state, batch) -> (state, metrics)``; made of a function by decoration.

  Called, it first begins the recipe's stage that is due, as :func:`~jaxcompress.training.at_stage`
  does. In the stages before the main one it reads the state's position for that, and so waits for
  the step before; ``fit``, which counts by itself, does not. Then the stage's loss checks what of the
  batch is NumPy's (see ``check`` of :class:`~jaxcompress.distill.LossTransform`), such as places
  outside of memory banks; it does not wait for arrays on devices.

  Attributes:
    program: the jitted function alone, with the state donated: for states that are in their stage,
      and for use inside other transformations.

  Examples:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jaxcompress import distill, models
    >>> from jaxcompress.training import Recipe, Stage, init_state, train_step
    >>> loss = distill.named_chain(labels=distill.cross_entropy())
    >>> first = Stage(loss, ("student/classifier",), steps=1)
    >>> options = {"optimizer": optax.sgd(0.1), "loss": loss, "stages": (first,)}
    >>> batch = {"image": jnp.zeros((2, 8, 8, 3)), "label": jnp.zeros(2, int)}
    >>> recipe = Recipe(student=models.resnet8(10), **options)
    >>> state = init_state(recipe, jax.random.key(0), batch)
    >>> for _ in range(2):
    ...   state, metrics = train_step(state, batch)
    ...   print(state.stage)
    0
    1
  """

  __name__: str
  __wrapped__: Callable[..., tuple[CompressState, Metrics]]

  def __init__(self, function: Callable[..., tuple[CompressState, Metrics]]):
    functools.update_wrapper(self, function)
    self.program = Targeted(function, donate_argnums=0)

  def __call__(
    self, state: CompressState, batch: Mapping[str, jax.Array]
  ) -> tuple[CompressState, Metrics]:
    check_type("state", state, CompressState, "a CompressState, as init_state makes it")
    check_batch(batch)
    _check_there(state)
    state = in_stage(state)
    loss, _ = state.recipe.stage(state.stage)
    loss.check({name: x for name, x in batch.items() if isinstance(x, np.ndarray)})
    return self.program(state, batch)

  def __getattr__(self, name: str) -> Any:
    """All else is the program's, such as ``lower``."""
    if name == "program":  # of an object that is only being made
      raise AttributeError(name)
    return getattr(self.program, name)


def _check_there(state: CompressState) -> None:
  """Raises if a step has taken the state's memory, which XLA would say in words of its own."""
  count = state.step
  if isinstance(count, jax.Array) and not isinstance(count, jax.core.Tracer) and count.is_deleted():
    raise ValueError(
      "state: a step has taken this state's memory; use the state that it returned, as in state,"
      " metrics = train_step(state, batch)."
    )


@Step
def distill_step(state: CompressState, batch: Batch) -> tuple[CompressState, Metrics]:
  """One step of distillation, quantization included: ``state, metrics = distill_step(state, batch)``.

  Jitted, and the old state is donated. The recipe's stages begin where they are due (see
  :class:`~jaxcompress.training.step.Step`). It runs on CPU, GPU, TPU, or on arrays sharded over a mesh.
  A batch whose loss or gradients are not finite leaves everything as it was and adds one to
  ``state.skipped``. So does an update that leaves anything not finite, in the parameters, statistics,
  or the state of quantizers, losses or the optimizer; only the optimizer's counts go on then, so that
  a schedule comes past the count at which its rate is not finite.

  Args:
    state: a :class:`CompressState` whose recipe has teachers.
    batch: ``{"image": (batch, height, width, channels) uint8 or float, "label": (batch,) int32 or
      (batch, classes) float, "index": (batch,) int32}``, of any size; ``index`` is only read by losses
      with memory banks. A ``weight`` (batch,) float says how much each example counts in losses that
      take them one by one; others refuse it (:func:`~jaxcompress.distill.unweighted`), and ``accuracy``
      does not read it. Soft labels may also come as ``target``. A ``mask``, which :func:`eval_step`
      reads, is not: training batches are whole.

  Returns:
    ``(state, metrics)``; metrics are device scalars: ``loss``, ``skipped``, one for each part of the
    loss, ``accuracy`` where there are labels, and ``sparsity``, the share of zeros in the layers that
    are pruned.

  Raises:
    ValueError: if the recipe has no teachers, or labels have another shape or dtype.
  """
  if not state.recipe.teachers:
    raise ValueError("teachers: the recipe has no teachers; use train_step, or give it some.")
  with in_parts(parts_of(state)):
    return _update(state, batch)


@Step
def train_step(state: CompressState, batch: Batch) -> tuple[CompressState, Metrics]:
  """One step without a teacher; otherwise like :func:`distill_step`."""
  if state.recipe.teachers:
    raise ValueError("teachers: the recipe has teachers; use distill_step.")
  with in_parts(parts_of(state)):
    return _update(state, batch)


def _update(state: CompressState, batch: Batch) -> tuple[CompressState, Metrics]:
  """One step of a recipe; see :func:`distill_step`."""
  recipe = state.recipe
  mesh = None if state.placement is None else state.placement.mesh
  step_key = jax.random.fold_in(state.rng, state.position)
  augment_key, loss_key = jax.random.split(step_key)
  batch = split_labels(split_batch(state, batch))
  if recipe.augment is not None:
    batch = split_labels(recipe.augment(augment_key, batch))
  pixels = batch["image"]
  images = to_network_input(recipe.preprocess, pixels)
  batch["image"] = images if recipe.compute_dtype is None else images.astype(recipe.compute_dtype)
  teacher_variables = gathered_teachers(state)
  teachers = _teach(recipe, teacher_variables, with_pixels(recipe.teachers, batch, pixels))

  loss_of_stage, _ = recipe.stage(state.stage)
  moves = moving(state.trainable[state.stage], state.trained)
  of_student = jax.tree.leaves((moves["student"], moves["quantizer"]))
  train = any(of_student) or not of_student
  groups: tuple[dict[str, tuple[str, ...]], ...] = ({},)
  if recipe.apart:
    task = tuple(name for name in state.loss_params if name not in recipe.apart)
    groups = ({"only": task}, {"only": recipe.apart})

  def network(trained, carry, images, i):
    batch_stats, quantizer_state = carry
    before = state.replace(
      batch_stats=batch_stats, quantizer=state.quantizer._replace(state=quantizer_state)
    )
    key = jax.random.fold_in(step_key, ROUNDING)
    if recipe.accumulate > 1:
      key = jax.random.fold_in(key, i)
    endpoints, *carry = forward(
      before, hold(moves, trained), images, train=train, rng=key, dtype=recipe.compute_dtype
    )
    return endpoints, tuple(carry)

  def criterion(trained, student):
    trained = hold(moves, trained)
    losses, loss_state, metrics = [], {}, {}
    for only in groups:
      value, new, found = loss_of_stage.update(
        trained["loss"],
        state.loss_state,
        student,
        jax.lax.stop_gradient(teachers),
        batch,
        step=state.step,
        rng=loss_key,
        mesh=mesh,
        student_params=trained["student"],
        teacher_params=tuple(_params(variables) for variables in teacher_variables),
        **only,
      )
      losses.append(value)
      loss_state = {**loss_state, **new} if only else new
      metrics = {**metrics, **found}
    metrics = {**metrics, "loss": sum(losses)}
    if "label" in batch:
      metrics["accuracy"] = jnp.mean(hits(student.logits, batch["label"]))
    return losses, (loss_state, metrics)

  if recipe.remat:  # what the student's own layers and blocks return is kept, all else recomputed
    kept_names = jax.checkpoint_policies.save_only_these_names(BLOCK)
    network = jax.checkpoint(network, policy=kept_names)
  trained = state.trained
  carry = state.batch_stats, state.quantizer.state
  found = find_gradients(
    network,
    criterion,
    trained,
    carry,
    images,
    losses=len(groups),
    microbatches=recipe.accumulate,
  )
  slow = slowed_layers(state) if recipe.frozen_rate != 1 else {}
  gradients, *apart = clipped(state, slow, found.gradients, *found.parts)
  parts: dict[str, Any] = {}
  if recipe.apart:
    parts["parts"] = dict(zip(("task", "distill"), apart, strict=True))
  batch_stats, quantizer_state = found.carry
  loss_state, metrics = found.aux
  if recipe.stages:  # the terms of other stages stay the very objects, which keep_where spares
    loss_state = {**state.loss_state, **loss_state}
  optimizer = optax.with_extra_args_support(recipe.optimizer_of(state.stage))
  if not is_final(state.opt_state):
    parts["applied"] = False
  with on_network(state.graph):
    updates, opt_state = optimizer.update(gradients, state.opt_state, trained, **parts)
  updates = slowed(state, slow, updates)
  updated = prune.apply_masks(opt_state, optax.apply_updates(trained, updates))
  trained = moved(moves, updated, trained)
  sound = is_sound(metrics["loss"], found.gradients)
  ema = state.ema
  if recipe.ema is not None:
    latest = {"params": trained["student"], "batch_stats": batch_stats}
    ema = move_average(ema, latest, recipe.ema, state.step)
    masked = prune.apply_masks(opt_state, ema["params"])
    ema["params"] = moved(moves["student"], masked, state.ema["params"])
  proposed = state.replace(
    params=trained["student"],
    batch_stats=batch_stats,
    ema=ema,
    quantizer=QuantVariables(trained["quantizer"], quantizer_state),
    loss_params=trained["loss"],
    loss_state=loss_state,
    opt_state=opt_state,
    step=state.step + 1,
  )
  if recipe.mean_teacher is not None:
    proposed = proposed.replace(teachers=_followed(recipe.mean_teacher, proposed))
  finite = sound & stays_finite(_learned(state), _learned(proposed))
  kept = keep_where(finite, proposed, state, mesh)  # memory banks guard themselves, uncopied
  skipped = state.skipped + (~finite).astype(jnp.int32)
  clocks = run_on(kept.opt_state, opt_state, sound)
  kept = constrained(kept.replace(opt_state=clocks, skipped=skipped))
  if prune.masks_of(kept.opt_state):
    metrics["sparsity"] = sparsity_of(kept.opt_state, kept.params)
  return kept, {**metrics, "skipped": skipped}


def _followed(decay: float, state: CompressState) -> tuple[Any, ...]:
  """The teachers, of which the last has come nearer to the student."""
  *others, mean = state.teachers
  own = {name: tree for name, tree in state.variables.items() if name in mean}
  mean = jax.tree.map(lambda t, s: decay * t + (1 - decay) * s, dict(mean), own)
  return (*others, mean)


def _teach(
  recipe: Recipe, variables: tuple[Any, ...], batch: Mapping[str, jax.Array]
) -> tuple[Endpoints, ...]:
  """Runs the teachers on a batch, one microbatch after the other."""
  count, size = recipe.accumulate, len(batch["image"])
  if size % count:
    raise ValueError(f"accumulate: {count} microbatches do not divide a batch of {size}.")
  teach = lambda part: run_teachers(recipe.teachers, variables, part, recipe.augment)  # noqa: E731
  if count == 1 or not recipe.teachers:
    return teach(batch)
  of_each = lambda x: all(part.ndim and len(part) == size for part in jax.tree.leaves(x))  # noqa: E731
  examples = {name: x for name, x in batch.items() if of_each(x)}
  parts = jax.tree.map(lambda x: split(x, count), examples)
  return jax.tree.map(join, jax.lax.map(teach, parts))


def _params(variables: Any) -> Any:
  """A network's parameters, for losses that read a classifier."""
  return variables.get("params") if isinstance(variables, Mapping) else None


def _learned(state: CompressState) -> tuple[Any, ...]:
  """Gathers what a step trains on; averages of it are finite if it is."""
  return state.trained, state.batch_stats, state.quantizer.state, state.loss_state, state.opt_state
