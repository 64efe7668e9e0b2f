"""Vela's numbers for the Ethos-U NPU, compared with those by which TFLite-Micro rounds.

    python benchmarks/ethos_u.py --models resnet8 mobilenet_v2 --size 32

The command stream of the compiled file is read word by word. For every convolution and linear layer
the NPU gets a bias, a factor of 31 bits and a shift for each channel, and a rounding mode. A channel
counts as equal if all three are those by which exact evaluation with ``kernels="tflm"`` rounds. What
the NPU computes from them is not run: no model of it can be had from a package registry.
"""

import argparse
import pathlib
import tempfile

from exactness import quantized_of
from npu_stream import compare
from shared import print_row, print_table

from jaxcompress import export, models
from jaxcompress.export.measure import ACCELERATORS

HEAD = ("model", "channels", "weights", "others", "operations and their rounding")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--models", nargs="+", default=["resnet8", "mobilenet_v1", "mobilenet_v2"])
  parser.add_argument("--size", type=int, default=32)
  parser.add_argument("--accelerator", choices=ACCELERATORS, default="ethos-u55-128")
  args = parser.parse_args()
  print_table(HEAD)
  for name in args.models:
    if name not in models.MODELS:
      parser.error(f"--models: {name!r} is unknown.")
    quantized, _ = quantized_of(name, args.size, 20, "random")
    with tempfile.TemporaryDirectory() as folder:
      path = export.tflite(quantized, pathlib.Path(folder) / "model.tflite")
      print_row(name, *compare(quantized, path, args.accelerator))


if __name__ == "__main__":
  main()
