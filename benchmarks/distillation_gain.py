"""What distillation gains on the built-in glyphs: at equal steps, and at equal training time.

    python benchmarks/distillation_gain.py [--seeds 3] [--steps 1000] [--json FILE]

One teacher is trained (MobileNetV2 x0.75). For each seed the same student (MobileNetV2 x0.25,
same start, same data order, same schedule) is trained on labels alone, distilled for as many
steps, and trained on labels alone for as long as distillation took: the number of steps is
measured in the same run, compilation left out. Accuracy is on the test set, which nothing was
chosen on.
"""

import argparse
import json
import pathlib
import statistics
import time

import jax
from rich.console import Console
from rich.table import Table

from jaxcompress import data as datasets
from jaxcompress import distill, models, training
from jaxcompress.nn import Norm
from jaxcompress.pipeline import PRESETS
from jaxcompress.pipeline.context import STEPS

BATCH = 64


def network(classes, width):
  return models.mobilenet_v2(
    classes, width, layout="short", padding="SAME", norm=Norm(epsilon=1e-3), zero_residual=True
  )


class Bench:
  """Trains students that differ in one thing only."""

  def __init__(self, data, console):
    self.data, self.console = data, console
    self.preprocess = datasets.Preprocess()

  def train(self, model, seed, steps, name, teacher=None, variables=None):
    """Returns top-1 on the test set and seconds per step."""
    parts = {}
    if teacher is not None:
      parts = {
        "teachers": (teacher,),
        "loss": distill.parse("kd").loss,
      }
    recipe = training.Recipe(
      student=model,
      optimizer=PRESETS["default"].protocol.optimizer(steps),
      augment=datasets.Augment(crop=2),
      preprocess=self.preprocess,
      **parts,
    )

    def batch_at(position):
      return datasets.batch_at(self.data.train, BATCH, seed=seed, position=position)

    given = () if teacher is None else (variables,)
    state = training.init_state(recipe, jax.random.key(seed), batch_at(0), teacher_variables=given)
    rows = []
    state = training.fit(
      state, batch_at, steps=steps, name=name, on_log=rows.append, console=self.console
    )
    per_step = statistics.median(BATCH / row["images_per_second"] for row in rows[1:])
    batches = datasets.eval_batches(self.data.test, 250)
    top1 = training.evaluate(model, state.variables, batches, preprocess=self.preprocess)["top1"]
    return top1, per_step, state.variables


def spread(values):
  """Mean and sample standard deviation, in per cent."""
  deviation = statistics.stdev(values) if len(values) > 1 else 0.0
  return f"{100 * statistics.mean(values):.2f} +- {100 * deviation:.2f}"


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=STEPS)
  parser.add_argument("--json", type=pathlib.Path)
  args = parser.parse_args()
  console = Console()
  data = datasets.load("glyphs")
  bench = Bench(data, console)
  classes = len(data.classes)
  teacher, student = network(classes, 0.75), network(classes, 0.25)
  started = time.perf_counter()
  teacher_top1, _, variables = bench.train(teacher, 1, args.steps, "teacher")
  results = {"alone": [], "distilled": [], "alone, equal time": []}
  ratios = []
  for seed in range(args.seeds):
    alone, alone_step, _ = bench.train(student, 2 * seed, args.steps, f"alone {seed}")
    distilled, distilled_step, _ = bench.train(
      student, 2 * seed, args.steps, f"distilled {seed}", teacher, variables
    )
    ratios.append(distilled_step / alone_step)
    steps = round(args.steps * ratios[-1])
    longer, _, _ = bench.train(student, 2 * seed, steps, f"longer {seed}")
    for key, value in zip(results, (alone, distilled, longer), strict=True):
      results[key].append(value)
  table = Table(title=f"Top-1 on glyphs, {args.seeds} seeds; teacher {teacher_top1:.2%}")
  for column in ("MobileNetV2 x0.25", "steps", "top-1, %", "gain of distillation, points"):
    table.add_column(column, justify="left" if column.startswith("Mobile") else "right")
  ratio = statistics.mean(ratios)
  steps = {
    "alone": args.steps,
    "distilled": args.steps,
    "alone, equal time": round(args.steps * ratio),
  }
  for key, values in results.items():
    gains = [d - v for d, v in zip(results["distilled"], values, strict=True)]
    table.add_row(key, str(steps[key]), spread(values), "" if key == "distilled" else spread(gains))
  console.print(table)
  console.print(
    f"a distillation step takes {ratio:.2f}x the step alone; {time.perf_counter() - started:.0f} s"
  )
  if args.json:
    args.json.write_text(json.dumps({"teacher": teacher_top1, "ratio": ratio, **results}, indent=2))


if __name__ == "__main__":
  main()
