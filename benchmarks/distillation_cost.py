"""Time that every distillation loss adds to a training step.

    python benchmarks/distillation_cost.py [--methods kd,crd] [--batch 64] [--repeats 5] [--json FILE]

One training step from VGG-13 to MobileNetV2 at 32 px for each loss, with its usual weight, and CRD's
banks of 50,000 rows and 16,384 negatives. The parts are timed apart, in programs of their own: the
student's step on labels alone, the teacher's pass, and the loss with its gradient on finished
features. "Loss" is what the joint step takes beyond student and teacher, as a share of it ("-" where
it takes less than they do, since what no loss reads of the teacher is not computed); "joint / parts"
is the joint step over the sum of the three. Rounds alternate, so that a slow moment of the
machine hits all; medians are printed. With ``--json`` each row is a line of that file, and a later
call goes on from there.
"""

import argparse
import functools
import pathlib
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from shared import append_row, in_turns, print_row, print_table, read_rows, stateful
from trainer import add_losses, parse_loss

from jaxcompress import models, ops, training
from jaxcompress.nn import init_variables

EXAMPLES, CLASSES, SIDE = 50_000, 100, 32
console = Console()


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
    self.given = init_variables(self.teacher, jax.random.key(1), (SIDE, SIDE, 3))
    self.optimizer = optax.sgd(0.01, momentum=0.9)

  def joint(self, loss=None):
    """A training step that keeps its state; with a loss, the teacher takes part."""
    parts = {} if loss is None else {"teachers": (self.teacher,), "loss": loss}
    recipe = training.Recipe(student=self.student, optimizer=self.optimizer, **parts)
    given = () if loss is None else (self.given,)
    step = training.train_step if loss is None else training.distill_step
    state = training.init_state(recipe, jax.random.key(0), self.batch, teacher_variables=given)
    return stateful(step, state, self.batch)

  def teaching(self):
    """The teacher's pass."""
    run = jax.jit(functools.partial(self.teacher.apply, train=False))
    return lambda: run(self.given, self.batch["image"])

  @functools.cached_property
  def endpoints(self):
    """The outputs of both networks, and their variables."""
    variables = init_variables(self.student, jax.random.key(0), (SIDE, SIDE, 3))
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

      (found, new), slopes = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(
        params, student
      )
      return new, (found, slopes)

    return stateful(step, state, params, student, teacher, self.batch, extras)


def cost(args):
  """Rows of every loss: milliseconds of each part."""
  setting = {"batch": args.batch}
  found = {row["method"]: row["ms"] for row in read_rows(args.json, **setting)}
  failed = {}
  steps, common = Steps(args.batch), None
  for name in args.methods:
    if name in found:
      continue
    try:
      loss = parse_loss(name, num_examples=EXAMPLES, **_large(name)).loss
      common = common or {"student": steps.joint(), "teacher": steps.teaching()}
      calls = {**common, "joint": steps.joint(loss), "loss": steps.alone(loss)}
      found[name] = medians(calls, args.repeats)
    except ValueError as error:
      failed[name] = str(error)
      continue
    console.print(name, {key: round(value, 1) for key, value in found[name].items()})
    append_row(args.json, {"method": name, **setting, "ms": found[name]})
    calls = None  # frees the banks before the next
  print(f"VGG-13 to MobileNetV2, {SIDE} px, batch {args.batch}: ms of a step\n")
  cells = ("joint", "student", "teacher", "loss alone", "loss, % of step", "joint / parts")
  print_table(("", *cells))
  for name in (name for name in args.methods if name in found):
    ms = found[name]
    share = (ms["joint"] - ms["student"] - ms["teacher"]) / ms["joint"]
    over = ms["joint"] / (ms["student"] + ms["teacher"] + ms["loss"])
    cells = [f"{ms[key]:.1f}" for key in ("joint", "student", "teacher", "loss")]
    beyond = f"{100 * share:.1f}" if share > 0 else "-"
    print_row(name, *cells, beyond, f"{over:.2f}")
  for name, error in failed.items():
    console.print(f"{name}: {error}")


def medians(calls, repeats):
  """Milliseconds of each call, in rounds after a first one that compiles."""
  for call in calls.values():
    jax.block_until_ready(call())
  times = in_turns(calls, repeats)
  return {key: 1e3 * statistics.median(seconds) for key, seconds in times.items()}


def _large(name):
  """CRD with the negatives of its paper."""
  return {"crd": {"negatives": 16_384}} if name == "crd" else {}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add_losses(parser)
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--json", type=pathlib.Path)
  args = parser.parse_args()
  ops.keep_freed_memory()
  cost(args)


if __name__ == "__main__":
  main()
