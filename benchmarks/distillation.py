"""What every distillation loss costs, and what it gains.

    python benchmarks/distillation.py cost  [--methods kd,crd] [--batch 64] [--repeats 5] [--json FILE]
    python benchmarks/distillation.py table [--methods kd,crd] [--seeds 3] [--steps 1000] [--json FILE]

``cost``: one training step from VGG-13 to MobileNetV2 at 32 px for each loss, with its usual weight,
and CRD's banks of 50,000 rows and 16,384 negatives. The parts are timed apart, in programs of their
own: the student's step on labels alone, the teacher's pass, and the loss with its gradient on
finished features. "Loss" is what the joint step takes beyond student and teacher, as a share of it;
"joint / parts" is the joint step over the sum of the three. Rounds alternate, so that a slow moment
of the machine hits all; medians are printed.

``table``: on the built-in glyphs, one trained teacher and one pair of networks; for each loss and
seed the student is distilled with the same start, data order and schedule as the student alone.
Top-1 on the test set is looked at ten times: the best of these and the last, mean and sample
standard deviation over seeds. The best is chosen on the test set, as the literature has it; compare
the last.
"""

import argparse
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
from rich.table import Table

from jaxcompress import data as datasets
from jaxcompress import distill, models, ops, training
from jaxcompress.pipeline import PRESETS, networks, phases

EXAMPLES, CLASSES, SIDE, LOOKS = 50_000, 100, 32, 10
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
  steps, rows, failed = Steps(args.batch), {}, {}
  common = {"student": steps.joint(), "teacher": steps.teaching()}
  for name in args.methods:
    method = distill.METHODS[name]
    try:
      text = name if method.stays else f"{name},labels:1"
      asked = distill.parse(text, num_examples=EXAMPLES, **_large(name))
      loss = asked.loss if method.stays else distill.named_chain(
        labels=distill.cross_entropy(), **{name: distill.scale(method.weight, method.make())}
      )  # fmt: skip
      calls = {**common, "joint": steps.joint(loss), "loss": steps.alone(loss)}
      for call in calls.values():
        jax.block_until_ready(call())
      times = {key: [] for key in calls}
      for _ in range(args.repeats):
        for key, call in calls.items():
          times[key].append(1e3 * timed(call))
    except ValueError as error:
      failed[name] = str(error)
      continue
    rows[name] = {key: statistics.median(values) for key, values in times.items()}
    console.print(name, {key: round(value, 1) for key, value in rows[name].items()})
    calls = None  # frees the banks before the next
  table = Table(title=f"VGG-13 to MobileNetV2, {SIDE} px, batch {args.batch}: ms of a step")
  for column in (
    "",
    "joint",
    "student",
    "teacher",
    "loss alone",
    "loss, % of step",
    "joint / parts",
  ):
    table.add_column(column, justify="left" if not column else "right")
  for name, row in rows.items():
    row["share"] = (row["joint"] - row["student"] - row["teacher"]) / row["joint"]
    row["joint_over_parts"] = row["joint"] / (row["student"] + row["teacher"] + row["loss"])
    cells = [f"{row[key]:.1f}" for key in ("joint", "student", "teacher", "loss")]
    table.add_row(name, *cells, f"{100 * row['share']:.1f}", f"{row['joint_over_parts']:.2f}")
  console.print(table)
  for name, error in failed.items():
    console.print(f"{name}: {error}")
  return {"rows": rows, "failed": failed}


def _large(name):
  """CRD with the negatives of its paper."""
  return {"crd": {"negatives": 16_384}} if name == "crd" else {}


class Pair:
  """Trains networks of the default run on glyphs."""

  def __init__(self, args):
    self.args, self.preset = args, PRESETS["default"]
    self.data = datasets.load("glyphs", limit=args.limit)
    self.batch_size = self.preset.protocol.batch_size

    def build(width):
      count, shape = len(self.data.classes), self.data.image_shape
      return networks.build("mobilenet_v2", count, shape, width, None, self.preset.network).module

    self.student, self.teacher = (build(width) for width in self.preset.widths[:2])
    self.given = self.train(self.teacher, 1, "teacher")[0].variables

  def train(self, network, seed, name, asked=None):
    """The last state, and top-1 at each look."""
    steps, parts = self.args.steps, {}
    main = steps
    if asked is not None:
      parts = {"teachers": (self.teacher,), "loss": asked.loss, "trainable": asked.trainable}
      if asked.first is not None:
        first = max(1, round(phases.FIRST_STAGE * steps))
        parts["stages"] = (training.Stage(asked.first, asked.moves, first),)
        main = steps - first
    recipe = training.Recipe(
      student=network,
      optimizer=self.preset.protocol.optimizer(main),
      augment=self.preset.augment(self.data),
      preprocess=self.preset.preprocess,
      **parts,
    )

    def batch_at(position):
      return datasets.batch_at(self.data.train, self.batch_size, seed=seed, position=position)

    given = () if asked is None else (self.given,)
    state = training.init_state(recipe, jax.random.key(seed), batch_at(0), teacher_variables=given)
    seen = []

    def look(state):
      batches = datasets.eval_batches(self.data.test, 250)
      found = training.evaluate(
        network, state.variables, batches, preprocess=self.preset.preprocess
      )
      seen.append(found["top1"])

    hooks = {steps * i // LOOKS: look for i in range(1, LOOKS)}
    state = training.fit(state, batch_at, steps=steps, name=name, hooks=hooks, console=console)
    look(state)
    return state, seen


def gains(args):
  """Rows of the student alone and of every loss: top-1 at each look, for each seed."""
  pair, rows, failed = Pair(args), {}, {}
  for name in ("alone", *args.methods):
    try:
      asked = None
      if name != "alone":
        asked = distill.parse(name, num_examples=len(pair.data.train))
        if "labels" not in asked.weights and "logits" not in distill.METHODS[name].reads:
          asked = distill.parse(f"{name},labels:1", num_examples=len(pair.data.train))
      rows[name] = [
        pair.train(pair.student, 2 * seed, f"{name} {seed}", asked)[1] for seed in range(args.seeds)
      ]
    except ValueError as error:
      failed[name] = str(error)
  table = Table(
    title=f"MobileNetV2 x0.75 to x0.25 on glyphs, {args.steps} steps, {args.seeds} seeds"
  )
  for column in ("", "best, %", "last, %", "last beyond alone, points"):
    table.add_column(column, justify="left" if not column else "right")
  for name, seeds in rows.items():
    beyond = [one[-1] - base[-1] for one, base in zip(seeds, rows["alone"], strict=True)]
    table.add_row(
      name,
      spread([max(one) for one in seeds]),
      spread([one[-1] for one in seeds]),
      "" if name == "alone" else spread(beyond),
    )
  console.print(table)
  for name, error in failed.items():
    console.print(f"{name}: {error}")
  return {"rows": rows, "failed": failed}


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
  parser.add_argument("--steps", type=int, default=phases.STEPS)
  parser.add_argument("--limit", type=int, help="at most so many images in each part")
  parser.add_argument("--json", type=pathlib.Path)
  args = parser.parse_args()
  ops.keep_freed_memory()
  if unknown := [name for name in args.methods if name not in distill.METHODS]:
    parser.error(f"methods: {unknown[0]} is unknown; there are {', '.join(distill.METHODS)}")
  results = {"cost": cost, "table": gains}[args.part](args)
  if args.json:
    settings = {key: value for key, value in vars(args).items() if key != "json"}
    text = json.dumps({**settings, "device": str(jax.devices()[0]), **results}, indent=2)
    args.json.write_text(text + "\n")


if __name__ == "__main__":
  main()
