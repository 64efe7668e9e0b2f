"""Whole training steps, compiled by the compilers of TPUs and GPUs for machines that are not here.

    python benchmarks/aot.py --out benchmarks/results/aot.jsonl

libtpu and XLA's GPU plugin need no device to compile for one; ``.ci/aot`` installs them. Every row is a step
of MobileNetV2 at 224 px on one kind of machine: that it compiles, what one device holds and sends, and
whether the whole state is donated. Rows are appended to ``--out``, and rows that are there are not
computed again.

``--cycles`` compiles for one TPU v5e once more, with the effort of a real run (six times as long), and
adds the cycles that its compiler estimates; the other figures do not depend on it. ``plain`` rows are
the same student of flax.linen's own layers, without a teacher, as are those that they are compared with.
"""

import argparse
import math
import os
import pathlib
import time
import traceback
from collections.abc import Mapping
from typing import Any

if "JAX_PLATFORMS" not in os.environ:  # of this machine alone the CPU is needed
  os.environ["JAX_PLATFORMS"] = "cpu"

import jax
from programs import ALONE, CASES, QUICK, TARGETS, UNTIMED, compiled, devices_of, traced
from rich.console import Console
from shared import append_row, print_table, read_rows


def row_of(name: str, target: str, batch: int, size: int, cycles: bool) -> dict[str, Any]:
  """Returns the measurements of a case on a target."""
  start = time.process_time()
  options = UNTIMED if TARGETS[target].platform == "cuda" else None if cycles else QUICK
  step, state = traced(CASES[name], devices_of(TARGETS[target]), batch, size)
  found = compiled(step, state, options)
  return {
    "case": name,
    "target": target,
    "batch": batch,
    "size": size,
    "held": found.cost.held,
    "collectives": found.cost.collectives,
    "sent": dict(found.cost.sent),
    "flops": None if math.isnan(found.cost.flops) else found.cost.flops,
    "touched": None if math.isnan(found.cost.touched) else found.cost.touched,
    "cycles": found.cycles if cycles else None,
    "callbacks": found.callbacks,
    "donated": round(found.donated, 4),
    "processor_seconds": round(time.process_time() - start),
  }


HEAD = (
  "step",
  "machine",
  "images a device",
  "GB held",
  "collectives",
  "MB sent",
  "GFLOP",
  "GB read and written",
  "M cycles",
  "donated",
)


def line_of(row: Mapping[str, Any]) -> tuple[str, ...]:
  """A row of the table."""
  cycles = "" if not row["cycles"] else f"{row['cycles'] / 1e6:.1f}"
  return (
    row["case"],
    row["target"],
    str(row["batch"]),
    f"{row['held'] / 1e9:.2f}",
    str(row["collectives"]),
    f"{sum(row['sent'].values()) / 1e6:.1f}",
    *(f"{row[name] / 1e9:.1f}" if row[name] else "" for name in ("flops", "touched")),
    cycles,
    f"{row['donated']:.0%}",
  )


def wanted(args: argparse.Namespace) -> list[tuple[str, str, bool]]:
  """Cases and targets in the order in which they are compiled, and whether cycles are asked for."""
  found = [
    (name, target, False)
    for target in args.targets
    for name in args.cases
    if target == "v5e x1" or name not in ALONE
  ]
  if args.cycles and "v5e x1" in args.targets:
    found += [(name, "v5e x1", True) for name in args.cases if name in ALONE]
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", type=pathlib.Path, required=True, help="file of JSON lines")
  parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
  parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
  parser.add_argument("--batch", type=int, default=128, help="images of a device")
  parser.add_argument("--size", type=int, default=224, help="side in pixels")
  parser.add_argument("--cycles", action="store_true", help="of one v5e too, which takes long")
  parser.add_argument("--print", action="store_true", help="only print what is there")
  args = parser.parse_args()
  console, failed = Console(), 0
  settings = {"batch": args.batch, "size": args.size}
  for name, target, cycles in [] if args.print else wanted(args):
    if any(
      (row["case"], row["target"], bool(row["cycles"])) == (name, target, cycles)
      for row in read_rows(args.out, **settings)
    ):
      continue
    try:
      row = row_of(name, target, args.batch, args.size, cycles)
    except Exception:  # one row must not end a run of hours
      failed += 1
      console.print(f"{name} on {target}:")
      print(traceback.format_exc())
    else:
      append_row(args.out, row)
      console.print(*line_of(row))
    jax.clear_caches()
  print_table(HEAD, [line_of(row) for row in read_rows(args.out, **settings)])
  raise SystemExit(failed > 0)


if __name__ == "__main__":
  main()
