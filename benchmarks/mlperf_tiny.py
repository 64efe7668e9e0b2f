"""Sizes of MLPerf Tiny's image networks as int8 .tflite files, beside those of its reference.

    python benchmarks/mlperf_tiny.py

Weights are random. The reference's files are pretrainedResnet_quant.tflite and vww_96_int8.tflite of
https://github.com/mlcommons/tiny, benchmark/training. The table is in Markdown.
"""

import pathlib
import tempfile

import jax
import numpy as np
from exactness import random_variables
from shared import print_row, print_table

from jaxcompress import data, export, models, quantize

REFERENCE = {"mlperf_resnet8": 98_496, "mlperf_mobilenet_v1": 333_288}  # bytes


def main() -> None:
  columns = ("network", "numbers", "trained", "multiply-adds", ".tflite, bytes", "the reference's")
  print_table(columns)
  for name, theirs in REFERENCE.items():
    model = models.create(name)
    summary = models.summarize(model)
    shape = summary.graph.input_shape[1:]
    variables = random_variables(model, shape, np.random.default_rng(0))
    images = np.random.default_rng(0).integers(0, 256, (16, *shape)).astype(np.uint8)
    preprocess = data.Preprocess(center=0, scale=255, per_image=False)
    quantized = quantize.post_training(
      model, variables, images, preprocess=preprocess, method="minmax", progress=False
    )
    with tempfile.TemporaryDirectory() as folder:
      path = export.tflite(quantized, pathlib.Path(folder) / "network.tflite")
      share = export.verify(path, quantized, preprocess(images)).bit_equal
      if share != 1:
        raise RuntimeError(f"{name}: {share:.2%} of the logits are equal")
      size = path.stat().st_size
    numbers = sum(leaf.size for leaf in jax.tree.leaves(summary.variables))
    counts = (numbers, summary.parameters, summary.macs, size, theirs)
    print_row(name, *(f"{count:,}" for count in counts))


if __name__ == "__main__":
  main()
