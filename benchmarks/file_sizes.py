"""Sizes of MobileNetV2's files, 1.0 at 224 px.

    python benchmarks/file_sizes.py

Weights are random; packed files hold random integers in every layer, which no compression shrinks.
The table is in Markdown.
"""

import dataclasses
import pathlib
import tempfile

import numpy as np
from edge import write_files
from exactness import random_variables
from shared import print_row, print_table

from jaxcompress import export, models, quantize

MODEL, SIZE = "mobilenet_v2", 224


def random_codes(quantized: quantize.QuantizedModel, bits: int) -> quantize.QuantizedModel:
  """The same network with random weights of so many bits."""
  rng = np.random.default_rng(bits)
  values = np.int8([-1, 1] if bits == 1 else np.arange(1 - 2 ** (bits - 1), 2 ** (bits - 1)))
  layers = {
    name: layer._replace(weights=rng.choice(values, layer.weights.shape))
    for name, layer in quantized.layers.items()
  }
  return dataclasses.replace(quantized, layers=layers)


def main() -> None:
  print_table(("file", "MB", "of float32"))
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    bytes_of = {key: p.stat().st_size for key, p in write_files(MODEL, SIZE, folder).items()}
    for (runtime, numbers), count in bytes_of.items():
      share = count / bytes_of[runtime, "float32"]
      print_row(f"{runtime}, {numbers}", f"{count / 1e6:.3f}", f"{share:.3f}")
    model, shape = models.create(MODEL), (SIZE, SIZE, 3)
    variables = random_variables(model, shape, np.random.default_rng(0))
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    quantized = quantize.post_training(model, variables, images, method="minmax", progress=False)
    for bits in (8, 4, 2, 1):
      path = export.packed(random_codes(quantized, bits), folder / "net.jcz")
      count = path.stat().st_size
      share = count / bytes_of["LiteRT", "float32"]
      print_row(f"packed, {bits} bit", f"{count / 1e6:.3f}", f"{share:.3f}")


if __name__ == "__main__":
  main()
