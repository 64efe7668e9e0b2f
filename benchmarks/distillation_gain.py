"""Accuracy gained by distillation on the built-in glyphs: at equal steps, and at equal training time.

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

from rich.console import Console
from rich.table import Table
from shared import spread
from trainer import BATCH, Trainer

from jaxcompress import distill, models, ops
from jaxcompress.nn import Norm
from jaxcompress.pipeline import PRESETS
from jaxcompress.pipeline.context import STEPS


def network(classes, width):
  return models.mobilenet_v2(
    classes, width, layout="short", padding="SAME", norm=Norm(epsilon=1e-3), zero_residual=True
  )


def train(bench, model, seed, steps, name, teacher=None, variables=None):
  """Top-1 on the test set, seconds per step, and the variables."""
  taught = {} if teacher is None else {"teachers": (teacher,), "loss": distill.parse("kd").loss}
  recipe = bench.recipe(model, PRESETS["default"].protocol.optimizer(steps), **taught)
  given, rows = () if teacher is None else (variables,), []
  state = bench.train(recipe, steps, seed=seed, given=given, name=name, on_log=rows.append)
  per_step = statistics.median(BATCH / row["images_per_second"] for row in rows[1:])
  return bench.top1(model, state.variables), per_step, state.variables


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=STEPS)
  parser.add_argument("--json", type=pathlib.Path)
  args = parser.parse_args()
  ops.keep_freed_memory()
  console = Console()
  bench = Trainer(console)
  classes = len(bench.data.classes)
  teacher, student = network(classes, 0.75), network(classes, 0.25)
  started = time.perf_counter()
  teacher_top1, _, variables = train(bench, teacher, 1, args.steps, "teacher")
  results = {"alone": [], "distilled": [], "alone, equal time": []}
  ratios = []
  for seed in range(args.seeds):
    alone, alone_step, _ = train(bench, student, 2 * seed, args.steps, f"alone {seed}")
    distilled, distilled_step, _ = train(
      bench, student, 2 * seed, args.steps, f"distilled {seed}", teacher, variables
    )
    ratios.append(distilled_step / alone_step)
    steps = round(args.steps * ratios[-1])
    longer, _, _ = train(bench, student, 2 * seed, steps, f"longer {seed}")
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
