"""What every distillation loss costs, and what it gains.

    python benchmarks/distillation.py cost  [--methods kd,crd] [--batch 64] [--repeats 5] [--json FILE]
    python benchmarks/distillation.py table [--methods kd,crd] [--seeds 3] [--steps 1200] [--json FILE]

``cost``: one training step from VGG-13 to MobileNetV2 at 32 px for each loss, with its usual weight,
and CRD's banks of 50,000 rows and 16,384 negatives. The parts are timed apart, in programs of their
own: the student's step on labels alone, the teacher's pass, and the loss with its gradient on
finished features. "Loss" is what the joint step takes beyond student and teacher, as a share of it;
"joint / parts" is the joint step over the sum of the three. Rounds alternate, so that a slow moment
of the machine hits all; medians are printed. With ``--json`` each row is a line of that file, and a
later call goes on from there.

``table``: a ResNet-20 that was trained on all 24,000 glyphs, and a ResNet-8 that gets 4,000 of them,
both of half the usual width; for each loss, with its usual weight beside cross-entropy, and each
seed the student has the same start, data order and schedule as the student alone. Top-1 on the test
set is looked at five times: the best of these and the last, mean and sample standard deviation over
seeds. The best is chosen on the test set, as the literature has it; compare the last. Losses with a
first stage spend an eighth of the same number of steps in it. With ``--json`` each run is a line.
SimKD is judged by the student's own classifier.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress import distill, models, ops, training
from jaxcompress.pipeline import PRESETS, phases

EXAMPLES, CLASSES, SIDE = 50_000, 100, 32  # of the costs
DEPTHS, WIDTHS, RATE, BATCH, EVAL_BATCH = (20, 8), (8, 8, 16, 32), 0.1, 64, 250  # of the table
TEACHER_STEPS, LOOKS = 1000, 5
FIRST_RATES = {"factor": 0.003}  # at RepDistiller's 0.01 it diverges on this teacher's large maps
console = Console()


def timed(function):
  """Seconds until the result is there."""
  start = time.perf_counter()
  jax.block_until_ready(function())
  return time.perf_counter() - start


class Steps:
  """Programs of one pair of networks that can be called again and again."""

  def __init__(self, batch_size):
    rng = np.random.default_rng(0)
    self.batch = jax.device_put({
      "image": rng.normal(size=(batch_size, SIDE, SIDE, 3)).astype(np.float32),
      "label": rng.integers(0, CLASSES, batch_size).astype(np.int32),
      "index": rng.choice(EXAMPLES, batch_size, replace=False).astype(np.int32),
    })  # fmt: skip
    self.teacher, self.student = models.vgg13(CLASSES), models.mobilenet_v2_crd(CLASSES)
    self.given = training.init_variables(self.teacher, jax.random.key(1), (SIDE, SIDE, 3))
    self.optimizer = optax.sgd(0.01, momentum=0.9)

  def joint(self, loss=None):
    """A training step that keeps its state; with a loss, the teacher takes part."""
    parts = {} if loss is None else {"teachers": (self.teacher,), "loss": loss}
    recipe = training.Recipe(student=self.student, optimizer=self.optimizer, **parts)
    given = () if loss is None else (self.given,)
    step = training.train_step if loss is None else training.distill_step
    state = training.init_state(recipe, jax.random.key(0), self.batch, teacher_variables=given)

    def call():
      nonlocal state
      state, metrics = step(state, self.batch)
      return metrics

    return call

  def teaching(self):
    """The teacher's pass."""
    run = jax.jit(functools.partial(self.teacher.apply, train=False))
    return lambda: run(self.given, self.batch["image"])

  @functools.cached_property
  def endpoints(self):
    """What both networks return, and their variables."""
    variables = training.init_variables(self.student, jax.random.key(0), (SIDE, SIDE, 3))
    run = jax.jit(lambda model, v, x: model.apply(v, x, train=False), static_argnums=0)
    pairs = ((self.student, variables), (self.teacher, self.given))
    return [(run(model, v, self.batch["image"]), v) for model, v in pairs]

  def alone(self, loss):
    """The loss and its gradient on finished features, its state carried along."""
    (student, own), (teacher, given) = self.endpoints
    made = loss.init(jax.random.key(0), student, (teacher,), self.batch)
    params, state = jax.tree.map(jnp.array, made)  # copies: the state is donated
    extras = {"student_params": own["params"], "teacher_params": (given["params"],)}

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, params, student, teacher, batch, extras):
      def value(params, student):
        extra = {"step": jnp.zeros((), jnp.int32), "rng": jax.random.key(0), **extras}
        found, new, _ = loss.update(params, state, student, (teacher,), batch, **extra)
        return found, new

      return jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(params, student)

    def call():
      nonlocal state
      (found, state), gradients = step(state, params, student, teacher, self.batch, extras)
      return found, gradients

    return call


def cost(args):
  """Rows of every loss: milliseconds of each part."""
  setting = {"batch": args.batch}
  rows, failed = {line["method"]: line["ms"] for line in remembered(args.json, setting)}, {}
  steps, common = Steps(args.batch), None
  for name in args.methods:
    if name in rows:
      continue
    try:
      loss = _beside_labels(name, num_examples=EXAMPLES, **_large(name)).loss
      common = common or {"student": steps.joint(), "teacher": steps.teaching()}
      calls = {**common, "joint": steps.joint(loss), "loss": steps.alone(loss)}
      rows[name] = medians(calls, args.repeats)
    except ValueError as error:
      failed[name] = str(error)
      continue
    console.print(name, {key: round(value, 1) for key, value in rows[name].items()})
    remember(args.json, {"method": name, **setting, "ms": rows[name]})
    calls = None  # frees the banks before the next
  print(f"VGG-13 to MobileNetV2, {SIDE} px, batch {args.batch}: ms of a step\n")
  print("| | joint | student | teacher | loss alone | loss, % of step | joint / parts |")
  print("|---|---|---|---|---|---|---|")
  for name in (name for name in args.methods if name in rows):
    ms = rows[name]
    share = (ms["joint"] - ms["student"] - ms["teacher"]) / ms["joint"]
    over = ms["joint"] / (ms["student"] + ms["teacher"] + ms["loss"])
    cells = [f"{ms[key]:.1f}" for key in ("joint", "student", "teacher", "loss")]
    print("|", " | ".join((name, *cells, f"{100 * share:.1f}", f"{over:.2f}")), "|")
  for name, error in failed.items():
    console.print(f"{name}: {error}")


def medians(calls, repeats):
  """Milliseconds of each call, in rounds after a first one that compiles."""
  for call in calls.values():
    jax.block_until_ready(call())
  times = {key: [] for key in calls}
  for _ in range(repeats):
    for key, call in calls.items():
      times[key].append(1e3 * timed(call))
  return {key: statistics.median(values) for key, values in times.items()}


def _large(name):
  """CRD with the negatives of its paper."""
  return {"crd": {"negatives": 16_384}} if name == "crd" else {}


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
      asked = _beside_labels(name, num_examples=self.args.limit)
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
  known = {(row["method"], row["seed"]): row["top1"] for row in remembered(args.json, setting)}
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
      remember(args.json, {"method": name, "seed": seed, **setting, "top1": known[name, seed]})
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


def _beside_labels(name, **options):
  """A loss with its usual weight and cross-entropy, which SimKD goes without unless told."""
  asked = distill.parse(name, **options)
  return asked if "labels" in asked.weights else distill.parse(f"{name},labels:1", **options)


def remembered(path, setting):
  """Lines of a file that were measured with this setting."""
  lines = path.read_text().splitlines() if path and path.exists() else []
  return [row for row in map(json.loads, lines) if setting.items() <= row.items()]


def remember(path, line):
  """Appends a line, so that a later call goes on from there."""
  if path:
    with path.open("a") as file:
      file.write(json.dumps(line) + "\n")


def spread(values):
  """Mean and sample standard deviation, in per cent."""
  deviation = statistics.stdev(values) if len(values) > 1 else 0.0
  return f"{100 * statistics.mean(values):.2f} +- {100 * deviation:.2f}"


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("part", choices=("cost", "table"))
  parser.add_argument("--methods", type=lambda text: text.split(","), default=list(distill.METHODS))
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=1200)
  parser.add_argument("--limit", type=int, default=4000, help="images, for training and for tests")
  parser.add_argument("--json", type=pathlib.Path)
  args = parser.parse_args()
  ops.keep_freed_memory()
  if unknown := [name for name in args.methods if name not in distill.METHODS]:
    parser.error(f"methods: {unknown[0]} is unknown; there are {', '.join(distill.METHODS)}")
  {"cost": cost, "table": gains}[args.part](args)


if __name__ == "__main__":
  main()
