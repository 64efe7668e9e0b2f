"""Accuracy gained by every distillation loss.

    python benchmarks/distillation_table.py [--methods kd,crd] [--seeds 3] [--steps 1200] [--out FILE]
    python benchmarks/distillation_table.py --data fashion-mnist --tries 0.1,0.5,2 --best 8 --seeds 3
        --steps 300 --teacher-steps 2500 --out FILE

A ResNet-20 that was trained on all images, and a ResNet-8 that gets 4,000 of them, both of half the
usual width; for each loss, with its usual weight beside cross-entropy, and each seed the student
has the same start, data order and schedule as the student alone; the test images are looked at once, at
the end. Nothing is augmented: losses of two views have one. Losses with a first stage spend an
eighth of the same number of steps in it. SimKD is judged by the student's own classifier.

With ``--tries`` a student is first trained for each of these factors of every loss's usual weight, and the loss has
the factor that is best on the validation images. With ``--best`` so many losses are tested, those that are best there. The
last row is the student alone for as long as the slowest of them takes: its steps are as many more as a step of
that loss takes longer, by the medians of this run.

Each run is a line of ``--out``, and a later call goes on from there; several processes may work on one file,
each on losses of its own.
"""

import argparse
import dataclasses
import functools
import pathlib
import statistics
import time
from typing import NamedTuple

import jax
import numpy as np
import optax
from rich.console import Console
from shared import append_row, print_row, print_table, read_rows, spread, words
from trainer import EVAL_BATCH, Trainer, add_losses, parse_loss

from jaxcompress import data as datasets
from jaxcompress import distill, models, ops, training
from jaxcompress.pipeline import PRESETS, phases

DEPTHS, WIDTHS, RATE = (20, 8), (8, 8, 16, 32), 0.1
TUNING_SEED = 100  # of the runs that choose weights
FIRST_RATES = {"factor": 0.003}  # at RepDistiller's 0.01 it diverges on this teacher's large maps
console = Console()


@dataclasses.dataclass(frozen=True)
class Remembered(training.CachedTeacher):
  """A teacher whose outputs come with the batch, maps included."""

  def from_batch(self, batch, augment=None):
    return batch["teacher"]


class Pair:
  """A teacher who knows many images, and students that get few, without augmentation.

  The teacher therefore says the same to an image whenever it comes, and says it once.
  """

  def __init__(self, args):
    self.args = args
    self.protocol = dataclasses.replace(PRESETS["default"].protocol, learning_rate=RATE)
    many, self.few = Trainer(console, name=args.data), Trainer(console, name=args.data)
    part = many.data.train
    few = datasets.Split(part.images[: args.limit], part.labels[: args.limit])
    self.few.data = dataclasses.replace(many.data, train=few)
    self.teacher, self.student = (
      models.resnet_cifar(depth, len(many.data.classes), widths=WIDTHS) for depth in DEPTHS
    )
    self.given = self.taught(many)
    self.teacher_top1 = self.few.top1(self.teacher, self.given)

  @functools.cached_property
  def said(self):
    """What the teacher says to the few images."""
    images = self.few.data.train.images
    run = jax.jit(functools.partial(self.teacher.apply, train=False))
    said = [
      jax.device_get(run(self.given, self.few.preprocess(part)))
      for part in np.array_split(images, max(1, len(images) // EVAL_BATCH))
    ]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *said)

  def taught(self, many):
    """The teacher's variables, from a file where there is one."""
    path = self.args.out and self.args.out.with_suffix(".teacher.safetensors")
    if path and path.exists():
      return models.load(path)[1]
    steps = self.args.teacher_steps
    recipe = many.recipe(self.teacher, self.protocol.optimizer(steps))
    state = many.train(recipe, steps, seed=1, name="teacher")
    if path:
      models.save(path, self.teacher, state.variables)
    return state.variables

  def recipe(self, name, factor, steps):
    """How the student is trained: on labels alone, or by a loss; made once for all seeds."""
    parts = {"augment": None}
    if name != "alone":
      asked = weighted(name, factor, num_examples=len(self.few.data.train))
      parts |= {"loss": asked.loss, "trainable": asked.trainable, "teachers": (Remembered(),)}
      if asked.first is not None:
        first = max(1, round(phases.FIRST_STAGE * steps))
        rate = optax.constant_schedule(FIRST_RATES.get(name, asked.first_stage_rate(RATE)))
        own = self.protocol.optimizer_at(rate)
        parts["stages"] = (training.Stage(asked.first, asked.moves, first, own),)
        steps -= first
    return self.few.recipe(self.student, self.protocol.optimizer(steps), **parts)

  def run(self, trial, part):
    """The row of a trial: top-1 on a part of the data and milliseconds of a step."""
    name, factor, steps, seed = trial
    recipe = self.recipe(name, factor, steps)

    def batch_at(position):
      batch = self.few.batch_at(position, seed)
      if recipe.teachers:
        batch["teacher"] = jax.tree.map(lambda values: values[batch["index"]], self.said)
      return batch

    given = (self.given,) * len(recipe.teachers)
    clock, half = [], steps // 2  # what is compiled is compiled in the first half
    hooks = {half: lambda state: clock.append(time.perf_counter())}
    options = {"batch_at": batch_at, "name": f"{name} {factor} {seed}", "hooks": hooks}
    state = self.few.train(recipe, steps, seed=seed, given=given, **options)
    jax.block_until_ready(state)
    step = (time.perf_counter() - clock[0]) / (steps - half)
    top1 = self.top1_on(part, state.variables)
    return {**trial._asdict(), "part": part, "top1": top1, "ms": 1000 * step}

  def top1_on(self, part, variables):
    """The share of a part's images that the student classifies rightly."""
    batches = datasets.eval_batches(getattr(self.few.data, part), EVAL_BATCH)
    return training.evaluate(self.student, variables, batches, preprocess=self.few.preprocess)[
      "top1"
    ]


class Trial(NamedTuple):
  """A training run: a loss with a factor of its usual weight, or the student alone."""

  method: str
  factor: float
  steps: int
  seed: int


def weighted(name, factor, **options):
  """A loss with a factor of its usual weight, beside the usual cross-entropy."""
  usual = parse_loss(name, **options).weights
  labels = usual.get("labels", 0)
  weight = factor * distill.DISTILLERS[name].weight
  return parse_loss(name, f":{weight},labels:{labels}", **options)


class Rows:
  """Rows of a file, by trial; what is not there is run and added."""

  def __init__(self, args, pair):
    self.args, self.pair, self.failed = args, pair, {}
    self.setting = {"data": args.data, "images": args.limit}  # what runs must share to be compared
    rows = read_rows(args.out, **self.setting)
    self.known = {tuple(row[key] for key in (*Trial._fields, "part")): row for row in rows}

  def of(self, trials, part):
    """The rows of some trials; None where a loss does not fit these networks."""
    found = []
    for trial in trials:
      row = self.known.get((*trial, part))
      if row is None and trial.method not in self.failed:
        try:
          row = self.pair.run(trial, part)
        except ValueError as error:
          self.failed[trial.method] = str(error)
          return None
        self.known[*trial, part] = row
        append_row(self.args.out, row | self.setting)
        jax.clear_caches()
      found.append(row)
    return found if all(found) else None


def factors(args, rows):
  """Each loss's factor and top-1 on the validation images, best first; without tries, 1 and None."""
  if not args.tries:
    return {name: (1.0, None) for name in args.methods}
  chosen = {}
  for name in args.methods:
    trials = [Trial(name, factor, args.steps, TUNING_SEED) for factor in args.tries]
    if tried := rows.of(trials, "validation"):
      best = max(tried, key=lambda row: row["top1"])
      chosen[name] = best["factor"], best["top1"]
  return dict(sorted(chosen.items(), key=lambda item: -item[1][1]))


def measure(args):
  pair = Pair(args)
  rows = Rows(args, pair)
  chosen = factors(args, rows)
  seeds = range(args.seeds)

  def tested(name, factor, steps=args.steps):
    return rows.of([Trial(name, factor, steps, seed) for seed in seeds], "test")

  going = list(chosen)[: args.best]
  alone = tested("alone", 1.0) if going else []
  runs = {name: own for name in going if (own := tested(name, chosen[name][0]))}
  console.print(f"teacher {pair.teacher_top1:.2%}")
  print_table(("", "weight", "validation, %", "top-1, %", "beyond alone, points", "step, ms"))

  def show(name, own=(), factor="", seen=None):
    figures = [""] * 3
    if own:
      beyond = [row["top1"] - other["top1"] for row, other in zip(own, alone, strict=True)]
      figures[0] = spread([row["top1"] for row in own])
      figures[1:] = "" if own is alone else spread(beyond), f"{median(own):.1f}"
    print_row(name, factor, "" if seen is None else f"{100 * seen:.2f}", *figures)

  without = [Trial("alone", 1.0, args.steps, TUNING_SEED)] if args.tries else []
  seen = [row["top1"] for row in rows.of(without, "validation")]
  show("alone", alone, seen=seen[0] if seen else None)
  for name, (factor, seen) in chosen.items():
    show(f"`{name}`", runs.get(name, ()), f"{factor:g}x", seen)
  if runs:
    longer = round(args.steps * max(median(own) for own in runs.values()) / median(alone))
    show(f"alone, {longer} steps", tested("alone", 1.0, longer))
  for name, error in rows.failed.items():
    console.print(f"{name}: {error}")


def median(rows):
  """The median of the milliseconds of a step."""
  return statistics.median(row["ms"] for row in rows)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add_losses(parser)
  parser.add_argument("--data", choices=("glyphs", "fashion-mnist"), default="glyphs")
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=1200)
  parser.add_argument("--teacher-steps", type=int, default=1000)
  parser.add_argument("--limit", type=int, default=4000, help="training images of the student")
  parser.add_argument("--tries", type=shares, default=(), help="factors of the usual weights")
  parser.add_argument("--best", type=int, help="losses that are tested, 0 for none; default: all")
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  ops.keep_freed_memory()
  measure(args)


def shares(text):
  return [float(word) for word in words(text)]


if __name__ == "__main__":
  main()
