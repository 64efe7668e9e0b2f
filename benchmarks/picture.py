"""README's picture: a training step beside its peers, and accuracy against size, as measured.

    python benchmarks/picture.py [--results benchmarks/results] [--out docs/images/measured.png]

Reads the rows that ``peers.py`` and ``pruning.py`` wrote with ``--out``; those of README are in
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
WAYS = {  # in the legend's order
  "all at once, distilled": style.ACCENT,
  "fewer bits": "#2563eb",
  "fewer channels, by cost, in rounds, taught by the whole": "#d97706",
  "zeros": "#db2777",
  "narrower": "#64748b",
}
LEAST = 0.5  # top-1 that is still drawn


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


def draw_sizes(ax, measured):
  """Lines of top-1 against bytes."""
  whole = next(row for row in measured if row["way"] == "float")
  ax.plot(whole["bytes"], whole["top1"], "s", color=style.INK, ms=7, label="float network")
  for way, color in WAYS.items():
    own = [r for r in measured if r["way"] == way and "/" in r["goal"] and r["top1"] >= LEAST]
    own = sorted({(r["bytes"], r["top1"]) for r in own})
    bold = 2.6 if color == style.ACCENT else 1.4
    ax.plot(
      *zip(*own, strict=True),
      "o-",
      color=color,
      ms=2 * bold,
      lw=bold,
      label=way.partition(", by cost")[0],
    )
  ax.set_xscale("log")
  ax.set_xlim(30e3, 800e3)
  ax.set_ylim(LEAST, 1)
  ax.set_xticks([38e3, 77e3, 154e3, 615e3])
  ax.xaxis.set_minor_locator(NullLocator())
  ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:.0f} kB"))
  ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
  ax.set_title("top-1 of a MobileNetV2 x0.35, made smaller")
  ax.legend(loc="lower right")


@style.styled
def picture(steps, sizes):
  """Both parts side by side."""
  fig = style.figure("Distilled, quantized and pruned in one fast train step", 3.6, 11.0)
  left, right = fig.subplots(1, 2, width_ratios=(1, 1))
  draw_steps(left, steps)
  draw_sizes(right, sizes)
  return fig


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--results", type=pathlib.Path, default=HERE / "results")
  images = HERE.parent / "docs" / "images"
  parser.add_argument("--out", type=pathlib.Path, default=images / "measured.png")
  args = parser.parse_args()
  steps = read_rows(args.results / "peers.jsonl", **STEP)
  sizes = read_rows(args.results / "pruning.jsonl", data="glyphs", model="mobilenet_v2")
  args.out.write_bytes(style.png(picture(steps, sizes)))


if __name__ == "__main__":
  main()
