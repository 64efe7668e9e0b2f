"""Accuracy gained by every distillation loss.

    python benchmarks/distillation_table.py [--methods kd,crd] [--seeds 3] [--steps 1200] [--json FILE]

A ResNet-20 that was trained on all 24,000 glyphs, and a ResNet-8 that gets 4,000 of them, both of half
the usual width; for each loss, with its usual weight beside cross-entropy, and each seed the student
has the same start, data order and schedule as the student alone. Top-1 on the test set is looked at
five times: the best of these and the last, mean and sample standard deviation over seeds. The best is
chosen on the test set, as the literature has it; compare the last. Losses with a first stage spend an
eighth of the same number of steps in it. SimKD is judged by the student's own classifier. With
``--json`` each run is a line of that file, and a later call goes on from there.
"""

import argparse
import dataclasses
import functools
import pathlib

import jax
import numpy as np
import optax
from rich.console import Console
from shared import append_row, print_row, print_table, read_rows, spread
from trainer import EVAL_BATCH, Trainer, add_losses, parse_loss

from jaxcompress import models, ops, training
from jaxcompress.pipeline import PRESETS, phases

DEPTHS, WIDTHS, RATE = (20, 8), (8, 8, 16, 32), 0.1
TEACHER_STEPS, LOOKS = 1000, 5
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
    self.few = Trainer(console, args.limit)
    self.teacher, self.student = (
      models.resnet_cifar(depth, len(self.few.data.classes), widths=WIDTHS) for depth in DEPTHS
    )
    self.given = self.taught(Trainer(console))
    images = self.few.data.train.images
    run = jax.jit(functools.partial(self.teacher.apply, train=False))
    said = [
      jax.device_get(run(self.given, self.few.preprocess(part)))
      for part in np.array_split(images, max(1, len(images) // EVAL_BATCH))
    ]
    self.said = jax.tree.map(lambda *parts: np.concatenate(parts), *said)
    self.teacher_top1 = self.few.top1(self.teacher, self.given)

  def taught(self, many):
    """The teacher's variables, from a file where there is one."""
    path = self.args.json and self.args.json.with_suffix(".teacher.safetensors")
    if path and path.exists():
      return models.load(path)[1]
    recipe = many.recipe(self.teacher, self.protocol.optimizer(TEACHER_STEPS))
    state = many.train(recipe, TEACHER_STEPS, seed=1, name="teacher")
    if path:
      models.save(path, self.teacher, state.variables)
    return state.variables

  def recipe(self, name):
    """How the student is trained: on labels alone, or by a loss; made once for all seeds."""
    steps, parts = self.args.steps, {}
    if name != "alone":
      asked = parse_loss(name, num_examples=self.args.limit)
      parts = {"teachers": (Remembered(),), "loss": asked.loss, "trainable": asked.trainable}
      if asked.first is not None:
        first = max(1, round(phases.FIRST_STAGE * steps))
        rate = optax.constant_schedule(FIRST_RATES.get(name, asked.first_stage_rate(RATE)))
        own = self.protocol.optimizer_at(rate)
        parts["stages"] = (training.Stage(asked.first, asked.moves, first, own),)
        steps -= first
    optimizer = self.protocol.optimizer(steps)
    return self.few.recipe(self.student, optimizer, augment=None, **parts)

  def run(self, recipe, seed, name):
    """Top-1 at each look."""

    def batch_at(position):
      batch = self.few.batch_at(position, seed)
      if recipe.teachers:
        batch["teacher"] = jax.tree.map(lambda values: values[batch["index"]], self.said)
      return batch

    given = (self.given,) if recipe.teachers else ()
    seen = []

    def look(state):
      seen.append(self.few.top1(self.student, state.variables))

    steps = self.args.steps
    hooks = {steps * i // LOOKS: look for i in range(1, LOOKS)}
    options = {"batch_at": batch_at, "name": name, "hooks": hooks}
    look(self.few.train(recipe, steps, seed=seed, given=given, **options))
    return seen


def gains(args):
  """Rows of the student alone and of every loss: top-1 at each look, for each seed."""
  setting = {"steps": args.steps, "images": args.limit}  # what runs must share to be compared
  known = {(row["method"], row["seed"]): row["top1"] for row in read_rows(args.json, **setting)}
  failed = {}
  pair = Pair(args)
  for name in ("alone", *args.methods):
    recipe = None
    for seed in range(args.seeds):
      if (name, seed) in known:
        continue
      try:
        recipe = recipe or pair.recipe(name)
        known[name, seed] = pair.run(recipe, seed, f"{name} {seed}")
      except ValueError as error:
        failed[name] = str(error)
        break
      append_row(args.json, {"method": name, "seed": seed, **setting, "top1": known[name, seed]})
  console.print(f"teacher {pair.teacher_top1:.2%}")
  print_table(("", "best, %", "last, %", "last beyond alone, points"))
  seeds = range(args.seeds)
  for name in ("alone", *args.methods):
    if name in failed:
      continue
    runs = [known[name, seed] for seed in seeds]
    beyond = [run[-1] - known["alone", seed][-1] for run, seed in zip(runs, seeds, strict=True)]
    cells = (spread([max(run) for run in runs]), spread([run[-1] for run in runs]), spread(beyond))
    print_row(*((name, *cells) if name != "alone" else (name, *cells[:2], "")))
  for name, error in failed.items():
    console.print(f"{name}: {error}")


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add_losses(parser)
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=1200)
  parser.add_argument("--limit", type=int, default=4000, help="images, for training and for tests")
  parser.add_argument("--json", type=pathlib.Path)
  args = parser.parse_args()
  ops.keep_freed_memory()
  gains(args)


if __name__ == "__main__":
  main()
