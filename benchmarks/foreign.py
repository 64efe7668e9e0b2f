"""Share of the codes of other tools' .tflite files that runtimes and exact evaluation have in common.

    python benchmarks/foreign.py FOLDER

Every file is read by ``export.from_tflite``, run on random images in every runtime that takes it, and compared
bit for bit. What is not read, or not run, is printed with the reason.
"""

import argparse
import pathlib

import numpy as np
from rich.console import Console
from rich.table import Table
from shared import print_table

from jaxcompress import export
from jaxcompress.nn import INPUT

RUNTIMES = {"xnnpack": "XNNPACK", "reference": "BUILTIN_REF", "tflm": "TFLite-Micro"}


def images_for(model, count: int) -> np.ndarray:
  """Pixels, or numbers on all codes of the input."""
  rng, (_, *shape), grid = np.random.default_rng(1), model.graph.input_shape, model.grids[INPUT]
  if model.preprocess is not None:
    return rng.integers(0, 256, (count, *shape)).astype(np.uint8)
  steps = rng.integers(grid.low, grid.high + 1, (count, *shape))
  return (steps * np.float64(grid.scale)).astype(np.float32)


def row_of(path: pathlib.Path, count: int, say) -> tuple[str, ...]:
  """A file's shares by runtime; "-" where it is not read, or does not run."""
  cells = []
  for kernels in RUNTIMES:
    try:
      model = export.from_tflite(path, kernels=kernels)
      share = export.verify(path, model, images_for(model, count)).bit_equal
      cells.append("100" if share == 1 else f"{min(100 * share, 99.9999):.4f}")
    except ValueError as error:
      say(f"{kernels}: {error}")
      cells.append("-")
  return path.stem, *cells


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("folder", type=pathlib.Path, help="with .tflite files")
  parser.add_argument("--images", type=int, default=16)
  args = parser.parse_args()
  console, head = Console(), ("file", *RUNTIMES.values())
  say = lambda words: console.print(words, markup=False, soft_wrap=True)  # noqa: E731
  lines = []
  for path in sorted(args.folder.glob("*.tflite")):
    lines.append(row_of(path, args.images, say))
    say("  ".join(lines[-1]))
  table = Table(*head, title="bit-equal codes, %")
  for line in lines:
    table.add_row(*line)
  console.print(table)
  print_table(head, lines)


if __name__ == "__main__":
  main()
