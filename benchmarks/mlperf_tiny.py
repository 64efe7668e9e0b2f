"""Sizes of MLPerf Tiny's image networks as int8 .tflite files, beside those of its reference, and as C.

    python benchmarks/mlperf_tiny.py

Weights are random. The reference's files are pretrainedResnet_quant.tflite and vww_96_int8.tflite of
https://github.com/mlcommons/tiny, benchmark/training. Flash is of a program for a Cortex-M4 at -Os that only
runs the network, RAM is the C's arena, and both are measured as in microcontroller.py, as is TFLite-Micro's
arena, with pointers of 64 bits. The table is in Markdown.
"""

import pathlib
import tempfile

import jax
import numpy as np
from exactness import random_variables
from microcontroller import flash
from shared import print_row, print_table

from jaxcompress import data, export, models, quantize
from jaxcompress.export.c99.manifest import read_manifest

REFERENCE = {"mlperf_resnet8": 98_496, "mlperf_mobilenet_v1": 333_288}  # bytes
WHITE = {"mlperf_resnet8": 1, "mlperf_mobilenet_v1": 255}  # divides pixels


def row_of(name: str) -> tuple[int, ...]:
  """The counts of a network, in the order of the columns."""
  model = models.create(name)
  summary = models.summarize(model)
  shape = summary.graph.input_shape[1:]
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (16, *shape)).astype(np.uint8)
  preprocess = data.Preprocess(center=0, scale=WHITE[name], per_image=False)
  quantized = quantize.post_training(
    model,
    random_variables(model, shape, rng),
    images,
    preprocess=preprocess,
    method="minmax",
    progress=False,
  )
  with tempfile.TemporaryDirectory() as temporary:
    place = pathlib.Path(temporary)
    file = export.tflite(quantized, place / "network.tflite", target="tflm")
    folder = export.c(quantized, place / "network", name="network")
    for path in (file, folder):
      share = export.verify(path, quantized, images).bit_equal
      if share != 1:
        raise RuntimeError(f"{path.name} of {name}: {share:.2%} of the logits are equal")
    return (
      sum(leaf.size for leaf in jax.tree.leaves(summary.variables)),
      summary.parameters,
      summary.macs,
      file.stat().st_size,
      REFERENCE[name],
      flash(folder, place, "-Os"),
      read_manifest(folder).sizes.arena,
      export.arena(file),
    )


def main() -> None:
  print_table(
    (
      "network", "numbers", "trained", "multiply-adds", ".tflite, bytes", "the reference's",
      "flash as C", "RAM as C", "TFLite-Micro's arena",
    )
  )  # fmt: skip
  for name in REFERENCE:
    print_row(name, *(f"{count:,}" for count in row_of(name)))


if __name__ == "__main__":
  main()
