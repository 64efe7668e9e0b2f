"""int8 beside float32 on this machine's CPU, in LiteRT and in onnxruntime.

    python benchmarks/edge.py --size 224 --repeats 50

Weights are random. Each number is the median over single images in a process of its own; a ratio is
float32 over int8, for time and for the size of the file.
"""

import argparse
import pathlib
import tempfile

import jax
import numpy as np
from exactness import random_variables
from rich.console import Console
from rich.table import Table

from jaxcompress import export, models, quantize
from jaxcompress.nn import fold, fuse_activations

MODELS = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2", "ghostnet")


def write_files(name: str, size: int, folder: pathlib.Path) -> dict[tuple[str, str], pathlib.Path]:
  """The files of a model, by runtime and type of numbers."""
  model, shape = models.create(name), (size, size, 3)
  variables = random_variables(model, shape, np.random.default_rng(0))
  images = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
  quantized = quantize.post_training(model, variables, images, method="minmax", progress=False)
  graph = fuse_activations(models.summarize(model, size).graph)
  layers = fold(graph, variables)
  return {
    ("LiteRT", "float32"): export.tflite_float(graph, layers, folder / "float.tflite"),
    ("LiteRT", "int8"): export.tflite(quantized, folder / "int8.tflite"),
    ("onnxruntime", "float32"): export.onnx_float(graph, layers, folder / "float.onnx"),
    ("onnxruntime", "int8"): export.onnx(quantized, folder / "int8.onnx"),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
  parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="NAME")
  parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
  parser.add_argument("--repeats", type=int, default=100)
  args = parser.parse_args()
  times = (f"{n} thread{'s' * (n > 1)}" for n in args.threads)
  table = Table(
    "model", "runtime", "file", *times, "memory", title=f"int8 (float32), {args.size} px"
  )
  for name in args.models:
    with tempfile.TemporaryDirectory() as folder:
      files = write_files(name, args.size, pathlib.Path(folder))
      jax.clear_caches()
      for runtime in ("LiteRT", "onnxruntime"):
        rows = [
          [
            export.benchmark(files[runtime, numbers], threads=threads, repeats=args.repeats)
            for numbers in ("int8", "float32")
          ]
          for threads in args.threads
        ]
        small, large = rows[0]
        cells = [_ratio(*(row.median_ms for row in pair), "ms") for pair in rows]
        size = _ratio(small.file_bytes / 1e6, large.file_bytes / 1e6, "MB")
        memory = _ratio(*((each.memory_bytes or 0) / 1e6 for each in (small, large)), "MB")
        table.add_row(name, runtime, size, *cells, memory)
        print(name, runtime, size, *cells, memory, sep=" | ", flush=True)
  Console().print(table)


def _ratio(small: float, large: float, unit: str) -> str:
  return f"{small:.2f} ({large:.2f}) {unit}, {large / small if small else 0:.2f}x"


if __name__ == "__main__":
  main()
