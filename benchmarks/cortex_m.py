"""Share of logits that a network in C and exact evaluation have in common, here and on Cortex-M processors.

    python benchmarks/cortex_m.py --out cortex_m.jsonl

Every row is one network, with random weights, BatchNorm statistics and images, on one processor: this
machine's, or a Cortex-M, for which the same folder is compiled by gcc-arm-none-eabi (-O2) and which
qemu-arm emulates. Rows are appended to ``--out``, the cheapest networks first, and rows that are there are
not computed again. Networks have 10 classes, and half of their width where they have one; those with more
than ``--work`` million multiply-adds for an image of ``--size`` pixels are computed for 32 pixels.
"""

import argparse
import pathlib
import tempfile
import time
import traceback

import jax
import numpy as np
from exactness import CALIBRATION, percent, quantized_of
from rich.console import Console
from shared import append_row, print_table, read_rows

from jaxcompress import export, models
from jaxcompress.export.c99.compiling import CORES
from jaxcompress.export.c99.pictures import CHECKED
from jaxcompress.export.verification import compare, run_both

HERE = "x86"  # this machine
SMALL = 32  # pixels
KEYS = ("model", "processor")


def options_of(name: str) -> dict:
  """Of a network that a microcontroller may hold."""
  return {"num_classes": 10} | ({"width": 0.5} if "width" in models.options_of(name) else {})


def macs_of(name: str, size: int) -> int:
  """Multiply-adds of a network for an image."""
  return models.summarize(models.create(name, **options_of(name)), size).macs


def size_of(name: str, args: argparse.Namespace) -> int:
  """Side of the images of a network."""
  return args.size if macs_of(name, args.size) <= 1e6 * args.work else SMALL


def by_twos(quantized, codes: np.ndarray) -> dict[str, np.ndarray]:
  """Exact evaluation of two images at a time, as many as the folder's check is written from: one compilation."""
  parts = [quantized.outputs(codes[i : i + CHECKED]) for i in range(0, len(codes), CHECKED)]
  return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def compute(name: str, processors: list[str], args: argparse.Namespace) -> None:
  """Appends the rows of a network."""
  size = size_of(name, args)
  count = CALIBRATION + args.images
  quantized, images = quantized_of(name, size, count, "random", **options_of(name))
  with tempfile.TemporaryDirectory() as place:
    folder = export.c(quantized, f"{place}/network")
    for processor in processors:
      start = time.perf_counter()
      emulated = None if processor == HERE else processor
      shown = images[-args.images :]
      found = compare(run_both(folder, quantized, shown, processor=emulated, evaluate=by_twos))
      row = {"model": name, "size": size, "processor": processor, **found._asdict()}
      append_row(args.out, row | {"seconds": round(time.perf_counter() - start, 1)})
      print(name, size, processor, f"{found.bit_equal:.4%}", flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", type=pathlib.Path, required=True, help="file of JSON lines")
  parser.add_argument("--models", nargs="+", default=list(models.MODELS), metavar="NAME")
  parser.add_argument("--processors", nargs="+", default=[HERE, *CORES], metavar="NAME")
  parser.add_argument("--size", type=int, default=96, help="side in pixels")
  parser.add_argument(
    "--work", type=float, default=60, help="most million multiply-adds at that size"
  )
  parser.add_argument("--images", type=int, default=4)
  parser.add_argument("--print", action="store_true", help="only print what is there")
  args = parser.parse_args()
  failed = 0
  if not args.print:
    macs = {name: macs_of(name, size_of(name, args)) for name in args.models}
    for name in sorted(macs, key=macs.get):
      done = {row["processor"] for row in read_rows(args.out) if row["model"] == name}
      missing = [processor for processor in args.processors if processor not in done]
      try:
        if missing:
          compute(name, missing, args)
      except Exception:  # one network must not end a run of an hour
        failed += 1
        print(f"{name}:\n{traceback.format_exc()}", flush=True)
      jax.clear_caches()
  rows = {tuple(row[key] for key in KEYS): row for row in read_rows(args.out)}
  lines = []
  for name in dict.fromkeys(row["model"] for row in rows.values()):
    mine = [rows.get((name, processor)) for processor in args.processors]
    first = next(row for row in mine if row)
    shares = ("-" if row is None else percent(row["bit_equal"]) for row in mine)
    lines.append((name, str(first["size"]), str(first["images"]), *shares))
  print_table(("model", "px", "images", *args.processors), lines)
  equal = sum(row["bit_equal"] == 1 for row in rows.values())
  Console().print(
    f"\n{len(rows)} rows, {equal} of them bit-equal throughout; {failed} networks failed"
  )
  if failed or equal < len(rows):
    raise SystemExit(1)


if __name__ == "__main__":
  main()
