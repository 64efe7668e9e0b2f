"""One phase of training: its data, checkpoints and metrics, and looks at held-out images."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcompress import data as datasets
from jaxcompress import training
from jaxcompress.data.storage import EncodedImages
from jaxcompress.pipeline.best import Best, Judge
from jaxcompress.pipeline.context import SEEN_FIRST, Context
from jaxcompress.pipeline.networks import Network
from jaxcompress.terminal import say

INT8 = "int8"  # the quantized phase
LOOKS = 10  # of a phase at held-out images
ROWS, LOGGED = 20, 25  # of metrics in a phase, at least; steps between two of them, at most
SAVES = 5  # of a phase by steps; of a long one, more by time
LOOKED_AT = 500  # of them, so that looking costs next to nothing


class Part(NamedTuple):
  """Some of a phase's steps.

  Attributes:
    name: under which metrics are kept.
    steps: of this part.
    done: of the same name, before this phase; metrics go on from there.
    after: called with the state at the end; where it returns False the phase ends.
  """

  name: str
  steps: int
  done: int = 0
  after: Callable[[training.CompressState], bool | None] = lambda state: None


class Fitted(NamedTuple):
  """The result of a phase of training.

  Attributes:
    state: the last one, or the best one if that was asked for.
    position: its step.
    last: the step at which the phase ended.
  """

  state: training.CompressState
  position: int
  last: int


def train(
  run: Context,
  phase: str,
  network: Network,
  recipe: training.Recipe,
  parts: Sequence[Part],
  cache: datasets.TeacherCache | None = None,
  *,
  done: int = 0,
  **variables: Any,
) -> training.CompressState:
  """Trains one phase to its end, from its newest checkpoint or from the start.

  Args:
    run: the run.
    phase: under which checkpoints are kept.
    network: what is trained.
    recipe: how.
    parts: of the phase, in order.
    cache: the teacher's outputs, if it is no network of this package.
    done: steps that earlier rounds did.
    **variables: of :func:`~jaxcompress.training.init_state`.

  Returns:
    The last state.
  """
  judge = lambda state: rank(run, network, state)  # noqa: E731
  with _Phase(run, phase, recipe, parts, cache, done, variables) as fitting:
    begin, state = 0, fitting.state
    for part in parts:
      position, end, shift = int(state.position), begin + part.steps, part.done - begin
      if position <= end:
        looks = [begin + part.steps * i // LOOKS for i in range(1, LOOKS)]

        def look(at: int, state: Any, part: Part = part, shift: int = shift) -> None:
          run.metrics.write(part.name, at + shift, top1=judge(state)[0])

        hooks = {at: partial(look, at) for at in looks if at > position}
        state = fitting.until(end, state, part.name, shift, hooks)
        if part.after(state) is False:
          break
      begin = end
  return state


def train_best(
  run: Context,
  phase: str,
  recipe: training.Recipe,
  steps: int,
  judge: Judge,
  cache: datasets.TeacherCache | None = None,
  *,
  name: str,
  done: int = 0,
  from_step: int = 0,
  **variables: Any,
) -> Fitted:
  """Trains one phase and keeps the best of the states that it looks at.

  It ends early where the run's patience is at an end.

  Args:
    run: the run.
    phase: under which checkpoints are kept.
    recipe: how.
    steps: of the phase.
    judge: how good a state is on validation images; of equals the first is kept.
    cache: the teacher's outputs, if it is no network of this package.
    name: under which metrics are kept.
    done: steps that earlier rounds did.
    from_step: states before it are no candidates; 0: what it begins with is one.
    **variables: of :func:`~jaxcompress.training.init_state`.
  """
  epoch = max(1, round(len(run.data.train) / run.options.batch_size))
  patience = run.options.patience
  looks = {steps * i // LOOKS for i in range(1, LOOKS)} if patience is None else set()
  if patience is not None:
    looks = set(range(epoch, steps, epoch))
  folder = run.folder / "checkpoints" / f"{_named(phase, done)}-best"
  with (
    Best(
      folder,
      judge,
      patience=None if patience is None else patience * epoch,
      warn=partial(say, run.console),
    ) as best,
    _Phase(run, phase, recipe, [Part(name, steps, done)], cache, done, variables) as fitting,
  ):
    state = fitting.state
    position = int(state.position)

    def look(at: int, state: training.CompressState) -> bool:
      found, over = best.look(at, state)
      run.metrics.write(name, at + done, top1=found[0])
      return over

    due = (at for at in looks | {0} if at >= max(position, from_step))
    hooks = {at: partial(look, at) for at in due}
    state = fitting.until(steps, state, name, done, hooks)
    last = int(state.position)
    if last == steps:
      look(steps, state)
    found = best.position
    assert found is not None
    run.metrics.write(name, last + done, kept=found + done)
    return Fitted(best.state(state), found, last)


def rank(run: Context, network: Network, state: training.CompressState) -> tuple[float, float]:
  """How good a state is in float on validation images: its share of right ones, and minus its loss."""
  score = run.evaluate(network, state.averaged.variables, looked_at(run.data.validation))
  return score.top1, -score.loss


class _Phase:
  """A phase that is being trained."""

  def __init__(
    self,
    run: Context,
    phase: str,
    recipe: training.Recipe,
    parts: Sequence[Part],
    cache: datasets.TeacherCache | None,
    done: int,
    variables: dict[str, Any],
  ):
    self._run, options, split = run, run.options, run.data.train
    self._stack = contextlib.ExitStack()
    total = sum(part.steps for part in parts)
    self._log_every = max(1, min(LOGGED, total // ROWS))
    rows = run.rows(options.batch_size)
    seed = _phase_seed(options.seed, phase, done)
    crop = run.crop if cache is None else None  # a cached teacher has seen other boxes
    read = {"seed": seed, "crop": crop, **_balanced(run)}

    def batch_at(position: int) -> dict[str, Any]:
      return datasets.batch_at(split, options.batch_size, position=position, rows=rows, **read)

    self._batch_at: Callable[[int], dict[str, Any]] = batch_at
    if isinstance(split.images, EncodedImages):
      self._batch_at = self._stack.enter_context(
        datasets.Stream(
          split, options.batch_size, stop=total, rows=rows, workers=run.workers, **read
        )
      )
    self._cache, self._rows = cache, rows
    few = min(
      SEEN_FIRST, options.batch_size
    )  # the same everywhere, and no whole batch on one device
    first = datasets.batch_at(split, few, position=0, **read)
    if cache is not None:
      first = cache.with_outputs(first, few, position=0)
    state = training.init_state(recipe, jax.random.key(seed), first, **variables)
    if run.mesh is not None:
      state = training.shard(state, run.mesh)
    self._checkpoints = training.Checkpoints(
      run.folder / "checkpoints" / _named(phase, done),
      every=max(1, total // SAVES),
      warn=partial(say, run.console),
    )
    self.state = state

  def until(
    self,
    end: int,
    state: training.CompressState,
    name: str,
    shift: int,
    hooks: Mapping[int, Callable[[Any], Any]],
  ) -> training.CompressState:
    """Trains up to a step, or until a hook ends it."""
    metrics = self._run.metrics
    metrics.rewind(name, int(state.position) + shift)
    return training.fit(
      state,
      self._taught_at,
      steps=end,
      name=name,
      log_every=self._log_every,
      on_log=lambda row: metrics.write(name, int(row.pop("step")) + shift, **row),
      hooks=hooks,
      checkpoints=self._checkpoints,
      console=self._run.console,
    )

  def _taught_at(self, position: int) -> dict[str, Any]:
    batch = self._batch_at(position)
    if self._cache is None:
      return batch
    size = self._run.options.batch_size
    return self._cache.with_outputs(batch, size, position=position, rows=self._rows)

  def __enter__(self) -> "_Phase":
    self._stack.__enter__()
    self._stack.enter_context(self._checkpoints)
    if self._checkpoints.latest() is not None:
      self.state = self._checkpoints.restore(self.state)
    return self

  def __exit__(self, *error: Any) -> None:
    self._stack.__exit__(*error)


def _balanced(run: Context) -> dict[str, Any]:
  """How batches are read where classes of unequal size are to count alike."""
  if run.options.balance == "sampling":
    return {"sampling": "balanced"}
  if run.options.balance == "weights":
    return {"weights": datasets.class_weights(run.data.train.labels, len(run.data.classes))}
  return {}


def looked_at(split: datasets.Split) -> datasets.Split:
  """Some held-out images, the same ones whenever a phase looks at them."""
  if len(split) <= LOOKED_AT:
    return split
  chosen = np.linspace(0, len(split) - 1, LOOKED_AT).astype(int)
  return split.pick(chosen)


def _named(phase: str, done: int) -> str:
  """The name of a phase's folder, in each round another."""
  return f"{phase}-{done}" if done else phase


def _phase_seed(seed: int, phase: str, done: int) -> int:
  """The student alone and the distilled one start alike and see the same data; a teacher does not."""
  return 2 * (seed + done) + (phase == "teacher")
