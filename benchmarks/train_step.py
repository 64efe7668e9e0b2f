"""Our training step against the same network written with plain Flax layers, in one run.

    python benchmarks/train_step.py [--width 1.0] [--size 32] [--batch 32] [--repeats 5] [--ours]

MobileNetV2 with batch statistics and SGD with momentum: plain ``nn.Conv`` and ``nn.BatchNorm``,
float and with the fake quantization that one would write by hand, against jaxcompress, float and
int8 (weights, every activation) with moving ranges and with trained steps (LSQ). Rounds alternate, so
that a slow moment of the machine hits all; medians and ratios are printed, with compile times.
"""

import argparse
import statistics

from contenders import Setting, ours, plain_flax
from rich.console import Console
from rich.table import Table
from shared import in_turns, median_ratio, timed

from jaxcompress import ops

FLOAT = "jaxcompress, float"


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--width", type=float, default=1.0)
  parser.add_argument("--size", type=int, default=32, choices=(32, 224))
  parser.add_argument("--batch", type=int, default=32)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--ours", action="store_true", help="leave the plain networks out")
  args = parser.parse_args()
  ops.keep_freed_memory()
  setting = Setting("float", args.size, args.batch, args.width, "float32")
  makers = {FLOAT: ours.train, "jaxcompress, int8": ours.int8, "jaxcompress, int8 LSQ": ours.lsq}
  if not args.ours:
    makers = {
      "plain, float": plain_flax.train,
      "plain, int8": lambda setting: plain_flax.train(setting._replace(task="int8")),
      **makers,
    }
  steps = {name: make(setting) for name, make in makers.items()}
  assert len({step.parameters for step in steps.values()}) == 1, "networks differ"
  calls = {name: step.run for name, step in steps.items()}
  first = {name: timed(call) for name, call in calls.items()}
  times = in_turns(calls, args.repeats)
  median = {name: statistics.median(values) for name, values in times.items()}
  table = Table(
    title=f"MobileNetV2 x{args.width:g}, {args.size} px, batch {args.batch}, one training step"
  )
  for column in ("", "ms, median", "least", "plain / this", "first step, s"):
    table.add_column(column, justify="left" if not column else "right")
  for name, value in median.items():
    rival = median.get("plain, int8" if "int8" in name else "plain, float", float("nan"))
    cells = (f"{value * 1e3:.0f}", f"{min(times[name]) * 1e3:.0f}", f"{rival / value:.1f}x")
    table.add_row(name, *cells, f"{first[name]:.1f}")
  console = Console()
  console.print(table)
  for name in (name for name in steps if name.startswith("jaxcompress, int8")):
    console.print(f"{name}: {median_ratio(times[name], times[FLOAT]):.2f}x of the float step")


if __name__ == "__main__":
  main()
