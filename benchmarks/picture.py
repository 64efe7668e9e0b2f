"""README's picture: a training step beside its peers, and accuracy against size, as measured.

    python benchmarks/picture.py [--results benchmarks/results] [--out docs/images/measured.png]

Reads the rows that ``peers.py`` and ``ladder.py`` wrote with ``--out``; those of README are in
``benchmarks/results``.
"""

import argparse
import pathlib
import statistics

from contenders import OURS
from matplotlib.ticker import FuncFormatter, NullLocator
from peers import newest
from shared import read_rows

from jaxcompress.report import style

HERE = pathlib.Path(__file__).parent
STEP = {"task": "int8", "size": 32, "dtype": "float32"}
NAMES = {
  OURS: "jaxcompress",
  "PyTorch, eager": "PyTorch QAT, eager",
  "PyTorch, compiled": "PyTorch QAT, compiled",
  "Flax nn.Conv, rounded by hand": "Flax, rounded by hand",
  "qwix, OdmlQatProvider": "qwix, ODML QAT",
}
TICKS = (2, 4, 8, 16, 32, 64, 100)  # kB
WAYS = {  # of ladder.py: the file that counts, color and words, in the legend's order
  "4bit": ("packed", "#2563eb", "distilled, 4 bits, packed"),
  "int8": ("tflite", style.ACCENT, "distilled, int8, .tflite"),
  "ptq": ("tflite", "#d97706", "distilled, int8 after training"),
  "alone": ("tflite", "#64748b", "without a teacher, int8"),
}


def draw_steps(ax, measured):
  """Bars of times as multiples of ours."""
  found = {name: row for (name, *_), row in newest(measured).items()}
  ratios = [found[name]["ratio"] for name in NAMES]
  colors = [style.ACCENT if name == OURS else style.FAINT for name in NAMES]
  ends = [f"{ratio:.1f} times as long" for ratio in ratios]
  ends[0] = f"{statistics.median(found[OURS]['ms']):,.0f} ms"
  style.bars(ax, list(NAMES.values()), ratios, colors, ends)
  ax.set_xlim(0, 1.45 * max(ratios))
  ax.set_title(f"int8 train step of MobileNetV2: {found[OURS]['batch']} images, 32 px")


def draw_ladder(ax, measured):
  """Lines of mean top-1 against bytes."""
  for way, (file, color, label) in WAYS.items():
    rungs = dict.fromkeys(row["rung"] for row in measured if row["way"] == way and "top1" in row)
    own = [
      [r for r in measured if (r["way"], r.get("rung")) == (way, rung) and "top1" in r]
      for rung in rungs
    ]
    points = sorted(
      (max(r[file] for r in rows), statistics.mean(r["top1"] for r in rows)) for rows in own
    )
    if points:
      bold = 2.6 if color == style.ACCENT else 1.4
      ax.plot(*zip(*points, strict=True), "o-", color=color, ms=2 * bold, lw=bold, label=label)
  ax.set_xscale("log")
  ax.set_xticks([1000 * size for size in TICKS])
  ax.xaxis.set_minor_locator(NullLocator())
  ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:.0f} kB"))
  ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
  ax.set_title("Fashion-MNIST: top-1 against the size of the file")
  ax.legend(loc="lower right")


@style.styled
def picture(steps, ladder):
  """Both parts side by side."""
  fig = style.figure("Distilled, quantized and pruned in one fast train step", 3.6, 11.0)
  left, right = fig.subplots(1, 2, width_ratios=(1, 1))
  draw_steps(left, steps)
  draw_ladder(right, ladder)
  return fig


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--results", type=pathlib.Path, default=HERE / "results")
  images = HERE.parent / "docs" / "images"
  parser.add_argument("--out", type=pathlib.Path, default=images / "measured.png")
  args = parser.parse_args()
  steps = read_rows(args.results / "peers.jsonl", **STEP)
  ladder = read_rows(args.results / "ladder.jsonl")
  args.out.write_bytes(style.png(picture(steps, ladder)))


if __name__ == "__main__":
  main()
