"""Training of a network with pretrained weights: a head on stored features, and fine-tuning with or
without a teacher; each step keeps what is best on validation images."""

import dataclasses
import difflib
import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxcompress import data as datasets
from jaxcompress import distill, training
from jaxcompress.arguments import counted
from jaxcompress.nn.select import select
from jaxcompress.pipeline.context import EVAL_BATCH, Context, PhaseSteps
from jaxcompress.pipeline.fitting import looked_at, rank, train_best
from jaxcompress.pipeline.networks import Network, TrainedNetwork
from jaxcompress.pipeline.outside import OutsideTeacher
from jaxcompress.pipeline.phases import distillation_recipe, pruned, recipe_of, speed_of
from jaxcompress.report.results import Entry
from jaxcompress.terminal import say, waiting
from jaxcompress.training import processes
from jaxcompress.training.features import best_head, features, head_of, with_head
from jaxcompress.training.recipe import EVERYTHING
from jaxcompress.training.variables import load_variables, save_variables

BACKBONE = "backbone"  # of option ``freeze``: all but the last layer
MOST_FEATURES = 1 << 26  # numbers that are kept of training images: 256 MB
VIEWS = 3  # changed copies of each image whose features are taken too
VIEWED = 2_000  # of all images together, at most
TUNED = 0.7  # share of the fine-tuned weights where they are averaged with those before
Teacher = TrainedNetwork | OutsideTeacher


def begin(run: Context, role: str) -> Any:
  """Returns the variables that training starts from: pretrained weights, with a head for the run's classes.

  A new head is fitted to features that the frozen network computes once; see
  :mod:`jaxcompress.training.features`. It is kept beside the checkpoints of the run.

  Args:
    run: the run.
    role: ``student`` or ``teacher``.

  Returns:
    Variables.
  """
  start = run.starts[role]
  if not start.new_head:
    return start.variables
  folder = run.folder / "checkpoints" / f"{role}-head"
  if not processes.shared(folder.exists()):
    variables = _fitted(run, role)
    processes.once(lambda: _save(folder, variables))
  return jax.tree.map(jax.numpy.asarray, load_variables(folder, start.network.summary.variables))


def _save(folder: pathlib.Path, variables: Any) -> None:
  """Writes variables to a folder that is there as a whole or not at all."""
  temporary = folder.with_name(folder.name + ".partial")
  shutil.rmtree(temporary, ignore_errors=True)
  temporary.parent.mkdir(parents=True, exist_ok=True)
  save_variables(temporary, variables)
  temporary.rename(folder)


def _fitted(run: Context, role: str) -> Any:
  """The variables of a start with the best head."""
  start, began = run.starts[role], time.perf_counter()
  try:
    head = head_of(start.network.summary.graph)
  except ValueError as error:
    say(run.console, f"{role}: its head is trained with the rest ({error})")
    return start.variables
  data = run.data
  width = start.network.summary.variables["params"]
  for name in head.split("/"):
    width = width[name]
  train = some(data.train, max(1, MOST_FEATURES // width["kernel"].shape[0]), run.options.seed)
  weights = None
  if run.options.balance is not None:
    weights = datasets.class_weights(train.labels, len(data.classes))[train.labels]

  def read(split: datasets.Split, view: int = 0) -> np.ndarray:
    """Features of images as they are, or of a view that training may see."""
    return features(
      start.network.module,
      start.variables,
      datasets.eval_batches(split, min(EVAL_BATCH, len(split))),
      head,
      preprocess=run.preprocess_of(start.network),
      augment=run.preset.augmented(data, run.options.augment) if view else None,
      rng=jax.random.fold_in(jax.random.key(run.options.seed), view),
    )

  more = 0 if run.options.augment == "none" else min(VIEWS, VIEWED // len(train))
  views = []
  with waiting(run.console, f"{role}: features of {counted(len(train), 'image')}") as status:
    for view in range(1 + more):
      views.append(read(train, view))
      status.update(f"{role}: features of {counted((1 + view) * len(train), 'image')}")
    held_out = read(data.validation)
  with waiting(run.console, f"{role}: the best head on them"):
    best, _ = best_head(np.stack(views), train.labels, len(data.classes), weights=weights)
  right = float(np.mean(best(held_out).argmax(-1) == data.validation.labels))
  seconds = time.perf_counter() - began
  say(
    run.console,
    f"{role}: a new head on features of {counted(len(train), 'image')}, {right:.2%} on validation"
    f" images, in {seconds:.0f} s",
  )
  return with_head(start.variables, head, best)


def some(split: datasets.Split, count: int, seed: int) -> datasets.Split:
  """Chooses at most so many images of a split at random."""
  if len(split) <= count:
    return split
  chosen = np.sort(np.random.default_rng(seed).permutation(len(split))[:count])
  return datasets.Split(split.images[chosen], split.labels[chosen])


def tune(
  run: Context,
  key: str,
  network: Network,
  start: Any,
  *,
  steps: int,
  done: int = 0,
  teacher: Teacher | None = None,
) -> Any:
  """Fine-tunes a network, on labels or after a teacher, and keeps the best of what it was.

  Args:
    run: the run.
    key: ``teacher``, ``alone`` or ``distilled``, under which checkpoints and metrics are kept.
    network: the network.
    start: its variables, which are kept where nothing is better on validation images; None: fresh ones.
    steps: those that were done before included.
    done: steps that earlier rounds did.
    teacher: or None.

  Returns:
    Its variables.
  """
  if run.options.freeze == BACKBONE and key == "alone":
    say(run.console, f"{key}: the backbone is frozen; the head on its features is kept")
    return start
  role, counts = "teacher" if key == "teacher" else "student", PhaseSteps(steps - done, 0)
  protocol, speed, trained = run.protocol_of(role, network), 1.0, start is not None
  if trained and role not in run.starts:  # before, from fresh variables
    speed = speed_of(done, prunes=key != "teacher" and run.options.prunes)
    protocol = dataclasses.replace(protocol, learning_rate=speed * protocol.learning_rate)
  cache: datasets.TeacherCache | None = None
  variables: dict[str, Any] = {}
  if teacher is None:
    optimizer = protocol.optimizer(counts.float_steps)
    if key != "teacher":
      optimizer = pruned(optimizer, run.options, counts.float_steps, trained=trained)
    loss = distill.cross_entropy(protocol.label_smoothing)
    recipe = recipe_of(run, network, optimizer=optimizer, loss=loss, ema=protocol.ema)
  else:
    model, cache, owned = taught(teacher)
    recipe = distillation_recipe(run, network, model, counts, speed=speed, trained=trained)
    variables["teacher_variables"] = owned
  fitted = train_best(
    run,
    key,
    recipe if key == "teacher" else moving(recipe, run.options.freeze, network),
    counts.float_steps,
    lambda state: rank(run, network, state),
    cache,
    name=key,
    done=done,
    from_step=max(pruned_at(run, key, counts.float_steps), 1 if start is None else 0),
    student_variables=start,
    **variables,
  )
  if fitted.position == 0:
    say(
      run.console,
      f"{key}: {fitted.last} steps of fine-tuning did not improve it on validation images; its initial"
      " weights are kept",
    )
  elif fitted.position < fitted.last:
    say(run.console, f"{key}: step {fitted.position} of {fitted.last} is kept, the best one")
  tuned = run.here(fitted.state.averaged.variables)
  if role not in run.starts or done or fitted.position == 0 or run.options.prunes:
    return tuned
  return drawn_back(run, key, network, start, tuned)


def drawn_back(run: Context, key: str, network: Network, start: Any, tuned: Any) -> Any:
  """Fine-tuned variables, or their average with those they began with.

  On images unlike those of training, weights between the pretrained and the fine-tuned ones do
  better than either; a small validation set, which is like the training images, does not tell. So
  the average is taken wherever it gets no fewer validation images right.

  Args:
    run: the run.
    key: of the network, which begins what is said.
    network: the network.
    start: its variables before.
    tuned: and after.

  References:
    Wortsman et al., `Robust fine-tuning of zero-shot models <https://arxiv.org/abs/2109.01903>`_,
    2022.
  """
  between = jax.tree.map(lambda a, b: (a + TUNED * (b - a)).astype(b.dtype), start, tuned)
  images = looked_at(run.data.validation)
  score, plain, before = (
    run.evaluate(network, one, images) for one in (between, tuned, run.here(start))
  )
  if score.top1 < plain.top1 or (score.top1, -score.loss) < (before.top1, -before.loss):
    return tuned
  say(
    run.console,
    f"{key}: the average, {TUNED:.0%} of the way from the initial to the fine-tuned weights, is kept; it gets"
    f" {score.top1:.2%} of the validation images right, against {plain.top1:.2%}",
  )
  return between


def taught(
  teacher: Teacher,
) -> tuple[Network | OutsideTeacher, datasets.TeacherCache | None, tuple[Any, ...]]:
  """A teacher as a recipe names it, its stored outputs if it has some, and its variables."""
  if isinstance(teacher, OutsideTeacher):
    return teacher, teacher.cache, (None,)
  return teacher.network, None, (teacher.variables,)


def pruned_at(run: Context, key: str, steps: int) -> int:
  """The first step at which what is trained has its zeros: nothing before it is a candidate."""
  return steps if key != "teacher" and run.options.prunes else 0


def moving(recipe: training.Recipe, freeze: str | None, network: Network) -> training.Recipe:
  """A recipe in which some of the network does not move.

  Args:
    recipe: in which everything does.
    freeze: a selector of layers, ``backbone``, or None: nothing.
    network: whose layers they are.

  Raises:
    ValueError: if the selector names no layer, or all.
  """
  if freeze is None:
    return recipe
  if freeze == BACKBONE:
    return dataclasses.replace(recipe, trainable=("last", "quantizer", "loss"))
  still = frozen_layers(freeze, network)
  return dataclasses.replace(
    recipe, trainable=(*EVERYTHING, *(f"!student/{name}" for name in still))
  )


def frozen_layers(freeze: str, network: Network) -> tuple[str, ...]:
  """The layers with parameters that a selector names.

  Raises:
    ValueError: if it names none, or all.
  """
  if difflib.get_close_matches(freeze, [BACKBONE], cutoff=0.8):
    raise ValueError(f"freeze: {freeze!r} is no layer; did you mean {BACKBONE}?")
  owners = {
    "/".join(str(getattr(key, "key", key)) for key in path[:-1])
    for path, _ in jax.tree_util.tree_leaves_with_path(network.summary.variables["params"])
  }
  named = select(freeze, network.summary.graph, "freeze")
  found = tuple(name for name in named if name in owners)
  if not found:
    raise ValueError(f"freeze: {freeze!r} names no layer with parameters; name others.")
  if len(found) == len(owners):
    raise ValueError(f"freeze: {freeze!r} names every layer, and nothing would learn; name fewer.")
  return found


def check_freeze(freeze: str | None, network: Network) -> None:
  """Finds out before any training whether a student has the layers that are not to move.

  Raises:
    ValueError: if not.
  """
  if freeze not in (None, BACKBONE):
    frozen_layers(freeze, network)


def notes_of(facts: Mapping[str, Entry]) -> tuple[str, ...]:
  """Returns the report's notes on float networks that training did not improve.

  Args:
    facts: entries of a run, ``head`` among them if there was a new one.

  Examples:
    >>> one, other = (
    ...   Entry("m", 0.9, 1, 1, 1, validation_top1=1.0, validation_loss=loss) for loss in (0.2, 0.1)
    ... )
    >>> notes_of({"head": one, "alone": one, "distilled": other})
    ('alone: fine-tuning did not improve the new head on validation images, so the head is kept',)
  """
  if "head" not in facts:
    return ()
  score = lambda key: (facts[key].validation_top1, facts[key].validation_loss)  # noqa: E731
  return tuple(
    f"{key}: fine-tuning did not improve the new head on validation images, so the head is kept"
    for key in ("alone", "distilled")
    if key in facts and score(key) == score("head")
  )
