"""The loop around the jitted step: data, progress, metrics and checkpoints on the host."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import TimeRemainingColumn

from jaxcompress.arguments import (
  check_batch,
  check_callable,
  check_type,
  check_whole,
)
from jaxcompress.prune.masked import progress_of
from jaxcompress.terminal import progress, say
from jaxcompress.training.ahead import Ahead
from jaxcompress.training.checkpoint import Checkpoints
from jaxcompress.training.processes import PreemptedError, Preemption
from jaxcompress.training.recipe import Recipe
from jaxcompress.training.sharding import shard_batch, shares_threads
from jaxcompress.training.start import init_state
from jaxcompress.training.state import CompressState, at_stage
from jaxcompress.training.step import distill_step, train_step
from jaxcompress.training.watch import Watch, cause

PATIENCE = 100  # steps in a row that may be skipped


class DivergedError(ValueError):
  """Training has come to a loss or a gradient that is not finite, step after step."""


def fit(
  state: CompressState,
  batch_at: Callable[[int], Mapping[str, Any]],
  *,
  steps: int,
  name: str = "train",
  log_every: int = 25,
  on_log: Callable[[dict[str, float]], None] | None = None,
  hooks: Mapping[int, Callable[[CompressState], bool | None]] | None = None,
  checkpoints: Checkpoints | None = None,
  console: Console | None = None,
  ahead: int = 2,
) -> CompressState:
  """Trains until ``steps`` batches were consumed, counted from the start of the run.

  The recipe's stages run in their order, and count. If training accuracy, or the losses where there
  are no labels, fall far behind what they were and stay there, the console says so once, with the
  freeze and the rate that are the likely cause.

  Args:
    state: where to start; a restored state goes on from its own position. One that lies on a mesh
      gets its batches there (see :func:`~jaxcompress.training.shard`).
    batch_at: the batch at a position; a pure function, so that a restart sees the same data. With
      several processes, this one's examples of it. Another thread calls it.
    steps: batches in the whole run.
    name: shown by the progress bar.
    log_every: batches between log rows; metrics stay on the device in between.
    on_log: gets each row, while the next step computes: ``step``, ``loss``, ``accuracy``, the parts of
      the loss, ``skipped``, ``images_per_second``, and ``seconds`` since the row before.
    hooks: called with the state at the given positions, before that batch; where one returns True,
      training ends there.
    checkpoints: where to save, or None. With several processes the first one's clock counts.
    console: rich console of the progress bar.
    ahead: how many batches are read, and sent to the devices, before they are needed (see
      :class:`~jaxcompress.training.Ahead`); their memory is taken there. 0: each where it is needed.

  Returns:
    The state after the last batch.

  Raises:
    ValueError: if an argument is of another kind or out of range, or a batch has values that the loss
      cannot take (see ``check`` of :class:`~jaxcompress.distill.LossTransform`).
    DivergedError: if a hundred steps in a row, or all of them, were skipped because the loss, its
      gradient, or the update was not finite.
    PreemptedError: after SIGTERM to any process, on all of them and with the state saved; without
      ``checkpoints`` the signal is not taken.

  Examples:
    >>> import flax.linen as nn
    >>> import optax
    >>> from jax import numpy as jnp
    >>> from jaxcompress.nn import Dense
    >>> from jaxcompress.training import Recipe, init_state
    >>> class Linear(nn.Module):
    ...   @nn.compact
    ...   def __call__(self, x, *, train):
    ...     return Dense(2, name="classifier")(x)
    >>> recipe = Recipe(student=Linear(), optimizer=optax.sgd(0.1))
    >>> batch = {"image": jnp.ones((2, 1, 1, 3)), "label": jnp.array([0, 1])}
    >>> state = init_state(recipe, jax.random.key(0), batch)
    >>> state = fit(state, lambda position: batch, steps=3, console=Console(quiet=True))
    >>> int(state.step)
    3
  """
  check_type("state", state, CompressState, "a CompressState, as init_state makes it")
  check_callable("batch_at", batch_at, "position -> batch")
  check_whole("steps", steps, 0)
  check_whole("log_every", log_every, 1)
  check_whole("ahead", ahead, 0)
  check_callable("on_log", on_log, "row -> None, or None")
  check_type("checkpoints", checkpoints, Checkpoints | None, "training.Checkpoints, or None")
  for at, hook in (hooks or {}).items():
    check_whole("hooks: position", at, 0)
    check_callable(f"hooks[{at}]", hook, "state -> None, or True to end")
  recipe = state.recipe
  step = (distill_step if recipe.teachers else train_step).program  # it counts by itself
  mesh = None if state.placement is None else state.placement.mesh
  position = int(state.position)
  asks: Any = contextlib.nullcontext()
  if checkpoints is not None:
    asks = Preemption(mesh, checkpoints.late)
  device: Any = jax.config.jax_default_device  # type: ignore[attr-defined]  # of this thread

  def make(position: int) -> Mapping[str, Any]:
    with jax.default_device(device):
      return _placed(recipe, batch_at, position, mesh)

  with (
    asks as preemption,
    progress(console, TimeRemainingColumn) as bar,
    Ahead(make, stop=steps, depth=ahead) as placed,
  ):
    note = "compiling" if position < steps else "finished"
    task = bar.add_task(name, total=steps, completed=position, figures=(note,))
    started, logged, skipped, idle = time.perf_counter(), position, int(state.skipped), 0
    first = position
    watch = Watch(recipe)
    row_of: tuple[int, Mapping[str, Any]] | None = None  # a step whose row is yet to be told

    def tell() -> None:
      """Tells a row: of the step before the one that computes, so that the devices have work."""
      nonlocal row_of, started, logged, skipped, idle
      if row_of is None:
        return
      (at, metrics), row_of = row_of, None
      row = {key: float(value) for key, value in jax.device_get(metrics).items()}
      seconds = time.perf_counter() - started
      rate = (at - logged) * len(batch["image"]) / seconds
      row = {"step": at, **row, "images_per_second": rate, "seconds": seconds}
      right = [f"accuracy {row['accuracy']:.1%}"] if "accuracy" in row else []
      figures = (f"loss {row['loss']:.3f}", *right, f"{rate:,.0f} images/s")
      bar.update(task, completed=at, figures=figures)
      if on_log is not None:
        on_log(row)
      idle = idle + at - logged if row["skipped"] - skipped == at - logged else 0
      if idle >= PATIENCE or idle == steps - first > 1:
        raise DivergedError(
          f"optimizer: {name} diverged: the last {idle} steps were skipped, since their loss,"
          f" gradient or update was not finite (loss {row['loss']:.3g}); lower the learning rate, or"
          " the loss's weight, and see that schedules are finite and labels from 0 to the number of"
          " classes - 1."
        )
      fall = watch.look(at, batch_size=len(batch["image"]), ends=at == steps)
      if fall is not None:
        say(bar.console, f"{name}: {fall} by step {at}, and stays there: {cause(state)}.")
      started, logged, skipped = time.perf_counter(), at, int(row["skipped"])

    while position < steps:
      state = at_stage(state, position)
      if hooks and position in hooks:
        tell()
        if hooks[position](state):
          break
      try:
        batch = placed(position)
      except Exception:
        tell()  # the steps before were taken
        raise
      state, metrics = step(state, batch)
      if shares_threads(mesh):
        jax.block_until_ready(metrics["loss"])
      tell()
      watch.add(position, metrics)
      position += 1
      if position % log_every == 0 or position == steps:
        row_of = position, metrics
      if preemption is not None and checkpoints is not None:
        stop, save = preemption.asked(position)
        if stop or save or position == steps or checkpoints.due(position):
          tell()
          checkpoints.save(position, state, force=True)
        if stop and position < steps:
          checkpoints.wait()
          raise PreemptedError(position)
    tell()
    reached = progress_of(state.opt_state)
    if reached is not None and reached < 1:
      say(
        bar.console,
        f"pruning: after {position} steps it has come {float(reached):.0%} of the way to its sparsity;"
        " the rest of its schedule lies beyond them.",
      )
  return state


def _placed(
  recipe: Recipe, batch_at: Callable[[int], Mapping[str, Any]], position: int, mesh: Mesh | None
) -> Mapping[str, Any]:
  """The batch at a position, checked by the loss that will see it, on its way to the devices."""
  batch = batch_at(position)
  check_batch(batch)
  loss, _ = recipe.stage(recipe.stage_at(position))
  loss.check(batch)
  if mesh is not None:
    return shard_batch(batch, mesh)
  on_host = jax.default_backend() == "cpu"  # where arrays need no copy
  return batch if on_host else jax.device_put(dict(batch))


def fit_chain(
  recipes: Sequence[Recipe],
  rng: jax.Array,
  batch_at: Callable[[int], Mapping[str, Any]],
  *,
  steps: int,
  teacher_variables: Any,
  **options: Any,
) -> CompressState:
  """Trains the students of several recipes in order; each is the next one's only teacher.

  Args:
    recipes: from the largest student to the smallest; each has one teacher, which is the student
      of the recipe before.
    rng: a key; each student gets a fold of it.
    batch_at: see :func:`~jaxcompress.training.fit`.
    steps: batches for each student.
    teacher_variables: of the first recipe's teacher.
    **options: of :func:`~jaxcompress.training.fit`.

  Returns:
    The last student's state.

  Raises:
    ValueError: if there are no recipes, or a teacher is another module than the student before.

  Examples:
    >>> fit_chain([], jax.random.key(0), dict, steps=1, teacher_variables={})
    Traceback (most recent call last):
    ValueError: recipes must not be empty; give one for each student.

  References:
    Mirzadeh et al., `Improved Knowledge Distillation via Teacher Assistant
    <https://arxiv.org/abs/1902.03393>`_, 2020, section 3.
  """
  if not recipes:
    raise ValueError("recipes must not be empty; give one for each student.")
  for i, recipe in enumerate(recipes):
    expected = recipe.teachers if i == 0 else (recipes[i - 1].student,)
    if len(recipe.teachers) != 1 or recipe.teachers != expected:
      raise ValueError(
        f"recipes: recipe {i} must have one teacher, the student of the recipe before."
      )
  for i, recipe in enumerate(recipes):
    key = jax.random.fold_in(rng, i)
    state = init_state(recipe, key, batch_at(0), teacher_variables=(teacher_variables,))
    state = fit(state, batch_at, steps=steps, **options)
    teacher_variables = state.averaged.variables
  return state
