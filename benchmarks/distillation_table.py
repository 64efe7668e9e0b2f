"""What every distillation loss gains.

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
import statistics

import jax
import numpy as np
import optax
import rows
from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress import distill, models, ops, training
from jaxcompress.pipeline import PRESETS, phases

DEPTHS, WIDTHS, RATE, BATCH, EVAL_BATCH = (20, 8), (8, 8, 16, 32), 0.1, 64, 250
TEACHER_STEPS, LOOKS = 1000, 5
FIRST_RATES = {"factor": 0.003}  # at RepDistiller's 0.01 it diverges on this teacher's large maps
console = Console()


@dataclasses.dataclass(frozen=True)
class Remembered(training.CachedTeacher):
  """A teacher whose outputs come with the batch, maps included."""

  def from_batch(self, batch):
    return batch["teacher"]


class Pair:
  """A teacher who knows many images, and students that get few, without augmentation.

  The teacher therefore says the same to an image whenever it comes, and says it once.
  """

  def __init__(self, args):
    self.args, self.preprocess = args, datasets.Preprocess()
    self.protocol = dataclasses.replace(PRESETS["default"].protocol, learning_rate=RATE)
    many, few = datasets.load("glyphs"), datasets.load("glyphs", limit=args.limit)
    self.train, self.test = few.train, few.test
    self.teacher, self.student = (
      models.resnet_cifar(depth, len(many.classes), widths=WIDTHS) for depth in DEPTHS
    )
    self.given = self.taught(many)
    run = jax.jit(functools.partial(self.teacher.apply, train=False))
    said = [
      jax.device_get(run(self.given, self.preprocess(images)))
      for images in np.array_split(self.train.images, max(1, len(self.train) // EVAL_BATCH))
    ]
    self.said = jax.tree.map(lambda *parts: np.concatenate(parts), *said)
    self.teacher_top1 = self.top1(self.teacher, self.given)

  def taught(self, data):
    """The teacher's variables, from a file where there is one."""
    path = self.args.json and self.args.json.with_suffix(".teacher.safetensors")
    if path and path.exists():
      return models.load(path)[1]
    recipe = training.Recipe(
      student=self.teacher,
      optimizer=self.protocol.optimizer(TEACHER_STEPS),
      augment=datasets.Augment(crop=2),
      preprocess=self.preprocess,
    )
    batch_at = functools.partial(datasets.batch_at, data.train, BATCH, seed=1)
    state = training.init_state(recipe, jax.random.key(1), batch_at(position=0))
    state = training.fit(
      state, lambda i: batch_at(position=i), steps=TEACHER_STEPS, name="teacher", console=console
    )
    if path:
      models.save(path, self.teacher, state.variables)
    return state.variables

  def recipe(self, name):
    """How the student is trained: on labels alone, or by a loss; made once for all seeds."""
    steps, parts = self.args.steps, {}
    if name != "alone":
      text = "simkd,labels:1" if name == "simkd" else name  # which goes without unless told
      asked = distill.parse(text, num_examples=self.args.limit)
      parts = {"teachers": (Remembered(),), "loss": asked.loss, "trainable": asked.trainable}
      if asked.first is not None:
        first = max(1, round(phases.FIRST_STAGE * steps))
        rate = optax.constant_schedule(FIRST_RATES.get(name, asked.first_stage_rate(RATE)))
        own = self.protocol.optimizer_at(rate)
        parts["stages"] = (training.Stage(asked.first, asked.moves, first, own),)
        steps -= first
    return training.Recipe(
      student=self.student,
      optimizer=self.protocol.optimizer(steps),
      preprocess=self.preprocess,
      **parts,
    )

  def top1(self, network, variables):
    """A share of the test images."""
    batches = datasets.eval_batches(self.test, EVAL_BATCH)
    return training.evaluate(network, variables, batches, preprocess=self.preprocess)["top1"]

  def run(self, recipe, seed, name):
    """Top-1 at each look."""

    def batch_at(position):
      batch = datasets.batch_at(self.train, BATCH, seed=seed, position=position)
      if recipe.teachers:
        batch["teacher"] = jax.tree.map(lambda values: values[batch["index"]], self.said)
      return batch

    given = (self.given,) if recipe.teachers else ()
    state = training.init_state(recipe, jax.random.key(seed), batch_at(0), teacher_variables=given)
    seen = []

    def look(state):
      seen.append(self.top1(self.student, state.variables))

    steps = self.args.steps
    hooks = {steps * i // LOOKS: look for i in range(1, LOOKS)}
    state = training.fit(state, batch_at, steps=steps, name=name, hooks=hooks, console=console)
    look(state)
    return seen


def gains(args):
  """Rows of the student alone and of every loss: top-1 at each look, for each seed."""
  setting = {"steps": args.steps, "images": args.limit}  # what runs must share to be compared
  known = {(row["method"], row["seed"]): row["top1"] for row in rows.read(args.json, **setting)}
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
      rows.append(args.json, {"method": name, "seed": seed, **setting, "top1": known[name, seed]})
  console.print(f"teacher {pair.teacher_top1:.2%}")
  print("| | best, % | last, % | last beyond alone, points |\n|---|---|---|---|")
  seeds = range(args.seeds)
  for name in ("alone", *args.methods):
    if name in failed:
      continue
    runs = [known[name, seed] for seed in seeds]
    beyond = [run[-1] - known["alone", seed][-1] for run, seed in zip(runs, seeds, strict=True)]
    cells = (spread([max(run) for run in runs]), spread([run[-1] for run in runs]), spread(beyond))
    print("|", " | ".join((name, *cells) if name != "alone" else (name, *cells[:2], "")), "|")
  for name, error in failed.items():
    console.print(f"{name}: {error}")


def spread(values):
  """Mean and sample standard deviation, in per cent."""
  deviation = statistics.stdev(values) if len(values) > 1 else 0.0
  return f"{100 * statistics.mean(values):.2f} +- {100 * deviation:.2f}"


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--methods", type=lambda text: text.split(","), default=list(distill.DISTILLERS)
  )
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=1200)
  parser.add_argument("--limit", type=int, default=4000, help="images, for training and for tests")
  parser.add_argument("--json", type=pathlib.Path)
  args = parser.parse_args()
  ops.keep_freed_memory()
  if unknown := [name for name in args.methods if name not in distill.DISTILLERS]:
    parser.error(f"methods: {unknown[0]} is unknown; there are {', '.join(distill.DISTILLERS)}")
  gains(args)


if __name__ == "__main__":
  main()
