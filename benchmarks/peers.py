"""One MobileNetV2 training step in jaxcompress and in what a user could take instead, side by side.

    python benchmarks/peers.py [--tasks float,int8,distill] [--sizes 32,224] [--dtypes float32,bfloat16]
                               [--repeats 7] [--out FILE] [--print] [--peak-tflops X]

Batch statistics, SGD with momentum; 32 px with batches of 128, 224 px with batches of 8. ``float`` is
the plain step, ``int8`` each framework's quantization-aware training, ``distill`` Hinton's loss with a
MobileNetV2 x1.0 as the teacher of one of x0.5. Every contender lives in a process of its own, all with an
allocator that keeps freed memory, and steps in turn with jaxcompress, so that a slow moment of the
machine hits both. Printed: median and spread, the ratio to jaxcompress (above 1: slower than
jaxcompress), the first step (compilation included, without anything cached on disk) and the process's
peak memory; at the end one table for each task. What a framework cannot do, it says in its row. Rows are appended to ``--out``,
whose newest ones the tables at the end show. With ``--peak-tflops``, the share of the device's arithmetic that
jaxcompress uses, by XLA's count of the plain step.

Needs ``pip install ".[bench]"``. On a GPU the same command runs on it.
"""

import argparse
import importlib
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

from contenders import CONTENDERS, OURS, Setting, batch_of
from shared import append_row, median_ratio, numbers, print_row, print_table, read_rows, words

from jaxcompress.cli.entry import KEPT_MEMORY

BATCHES = {32: 128, 224: 8}
WIDTHS = {"float": 1.0, "int8": 1.0, "distill": 0.5}
SETTLE = 0.2  # seconds between two contenders, in which thread pools fall asleep
ENVIRONMENT = {  # for all alike: freed memory is kept, in huge pages
  "GLIBC_TUNABLES": KEPT_MEMORY,
  "OMP_WAIT_POLICY": "passive",
  "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
  "TF_CPP_MIN_LOG_LEVEL": "3",
}


def serve(place: str, setting: Setting) -> None:
  """A contender's process: builds, takes a first step, then one for each line it reads."""
  answers = os.fdopen(os.dup(1), "w")  # what frameworks print goes elsewhere
  os.dup2(2, 1)

  def answer(**line):
    answers.write(json.dumps(line) + "\n")
    answers.flush()

  try:
    module, function = place.split(".")
    step = getattr(importlib.import_module(f"contenders.{module}"), function)(setting)
    start = time.perf_counter()
    step.run()
    answer(first=time.perf_counter() - start, parameters=step.parameters)
    for _ in sys.stdin:
      start = time.perf_counter()
      step.run()
      peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
      answer(ms=1e3 * (time.perf_counter() - start), mb=peak)
  except Exception as error:  # whatever a peer raises is its result
    answer(error=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]}")


class Contender:
  """A process that steps when it is told."""

  def __init__(self, place: str, setting: Setting):
    command = [sys.executable, __file__, "--serve", place, *map(str, setting)]
    self.process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
      env={**os.environ, **ENVIRONMENT},
    )
    self.start = self._answer()
    self.ms, self.mb = [], 0.0

  def _answer(self) -> dict:
    line = self.process.stdout.readline()
    return json.loads(line) if line else {"error": "the process ended without a word"}

  def step(self) -> None:
    """One more time."""
    time.sleep(SETTLE)
    self.process.stdin.write("step\n")
    self.process.stdin.flush()
    answer = self._answer()
    if "error" in answer:
      self.start["error"] = answer["error"]
      return
    self.ms.append(answer["ms"])
    self.mb = answer["mb"]

  def measured(self, ratio: float) -> dict:
    """Returns the entries of its row."""
    return {"ms": self.ms, "ratio": ratio, "first": self.start["first"], "mb": self.mb}

  def end(self) -> None:
    """Ends the process."""
    self.process.stdin.close()
    self.process.wait()


def measure(setting: Setting, places: dict[str, str], repeats: int) -> list[dict]:
  """Rows of one setting: each contender beside jaxcompress, so that two of them share the memory."""
  ours = Contender(places[OURS], setting)
  rows = []
  for name, place in places.items():
    if name == OURS:
      continue
    theirs, before = Contender(place, setting), len(ours.ms)
    for _ in range(repeats):
      if "error" not in theirs.start:
        ours.step()
        theirs.step()
    theirs.end()
    row = {"contender": name, **setting._asdict()}
    if "error" in theirs.start:
      rows.append(row | {"error": theirs.start["error"]})
      continue
    expected, found = (one.start["parameters"] for one in (ours, theirs))
    assert found == expected, f"the networks differ: {expected} and {found} parameters"
    rows.append(row | theirs.measured(median_ratio(theirs.ms, ours.ms[before:])))
  ours.end()
  return [{"contender": OURS, **setting._asdict(), **ours.measured(1.0)}, *rows]


def show(setting: Setting, rows: list[dict]) -> None:
  """A Markdown table of one setting."""
  print(
    f"\n{setting.task}, {setting.size} px, batch {setting.batch}, x{setting.width:g}, {setting.dtype}\n"
  )
  print_table(("", "ms, median (least to most)", "of jaxcompress", "first step, s", "peak, MB"))
  for row in rows:
    if "error" in row:
      print_row(row["contender"], row["error"], "", "", "")
      continue
    ms = row["ms"]
    times = f"{statistics.median(ms):.0f} ({min(ms):.0f} to {max(ms):.0f})"
    ratio, first, peak = f"{row['ratio']:.2f}x", f"{row['first']:.1f}", f"{row['mb']:,.0f}"
    print_row(row["contender"], times, ratio, first, peak)


def newest(rows: list[dict]) -> dict[tuple, dict]:
  """By contender, size and dtype, the newest row of a task; of ours with the times of all runs."""
  found = {}
  for row in rows:
    key = row["contender"], row["size"], row["dtype"]
    if row["contender"] == OURS and key in found:
      row = row | {"ms": found[key]["ms"] + row["ms"]}
    found[key] = row
  return found


def summarize(rows: list[dict]) -> None:
  """A Markdown table for each task."""
  for task in dict.fromkeys(row["task"] for row in rows):
    found = newest([row for row in rows if row["task"] == task])
    columns = dict.fromkeys((size, dtype) for _, size, dtype in found)
    head = [
      f"{task}: ratio, first step, memory",
      *(f"{size} px, {dtype}" for size, dtype in columns),
    ]
    lines = [
      [name, *(cell(found.get((name, *column))) for column in columns)]
      for name in dict.fromkeys(name for name, *_ in found)
    ]
    print()
    print_table(head, lines)


def cell(row: dict | None) -> str:
  """A row as one cell: milliseconds of jaxcompress, ratios of the others."""
  if row is None or "error" in row:
    return "-" if row is None else row["error"]
  milliseconds = f"{statistics.median(row['ms']):.0f} ms"
  speed = milliseconds if row["contender"] == OURS else f"{row['ratio']:.2f}x"
  return f"{speed}, {row['first']:.0f} s, {row['mb'] / 1000:.1f} GB"


def utilisation(setting: Setting, ms: float, peak: float) -> str:
  """Share of the device's arithmetic in our plain step."""
  import jax
  from contenders import ours

  import jaxcompress as jc

  batch, model = batch_of(setting), ours.network(setting, setting.width)
  variables = jc.init_variables(model, jax.random.key(0), batch["image"].shape[1:])

  def loss(params, x):
    return model.apply({**variables, "params": params}, x, train=True, mutable="batch_stats")[
      0
    ].logits.sum()

  cost = (
    jax.jit(jax.grad(loss)).lower(variables["params"], batch["image"]).compile().cost_analysis()
  )
  rate = cost["flops"] / ms / 1e9
  return f"jaxcompress: {rate:.3f} of {peak:g} TFLOP/s, {rate / peak:.1%}"


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--tasks", type=words, default=list(WIDTHS))
  parser.add_argument("--sizes", type=numbers, default=[32, 224])
  parser.add_argument("--dtypes", type=words, default=["float32", "bfloat16"])
  parser.add_argument("--contenders", type=lambda text: text.split(";"), help="names between ';'")
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument("--out", type=pathlib.Path, help="file of JSON lines")
  parser.add_argument("--print", action="store_true", help="only print what is there")
  parser.add_argument("--peak-tflops", type=float)
  parser.add_argument("--serve", nargs=6, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.serve:
    place, task, size, batch, width, dtype = args.serve
    serve(place, Setting(task, int(size), int(batch), float(width), dtype))
    return
  measured = read_rows(args.out)
  for task in () if args.print else args.tasks:
    places = CONTENDERS[task]
    if args.contenders:
      places = {name: places[name] for name in places if name in (OURS, *args.contenders)}
    for size in args.sizes:
      for dtype in args.dtypes:
        setting = Setting(task, size, BATCHES[size], WIDTHS[task], dtype)
        rows = measure(setting, places, args.repeats)
        show(setting, rows)
        measured += rows
        for row in rows:
          append_row(args.out, row)
        if args.peak_tflops and task == "float":
          print("\n" + utilisation(setting, statistics.median(rows[0]["ms"]), args.peak_tflops))
  summarize(measured)


if __name__ == "__main__":
  main()
