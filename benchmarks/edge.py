"""int8 beside float32 on this machine's CPU, in LiteRT and in onnxruntime.

    python benchmarks/edge.py --size 224 --repeats 50

Weights are random. Each time is the median over single images in a process of its own, memory that
process's peak beyond what it took before the file was read. int8, float32 in brackets, and float32
over int8. The table is in Markdown.
"""

import argparse
import pathlib
import tempfile

import jax
import numpy as np
from exactness import random_variables
from shared import print_row, print_table

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
  times = (f"{n} thread{'s' * (n > 1)}, ms" for n in args.threads)
  head = (f"{args.size} px", "runtime", "file, MB", *times, "memory, MB")
  print_table(head)
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
        cells = [ratio(*(row.median_ms for row in pair)) for pair in rows]
        size = ratio(*(row.file_bytes / 1e6 for row in (small, large)))
        memory = "-"  # where the system does not tell
        if small.memory_bytes and large.memory_bytes:
          memory = ratio(*(row.memory_bytes / 1e6 for row in (small, large)))
        print_row(name, runtime, size, *cells, memory)


def ratio(small: float, large: float) -> str:
  return f"{small:.2f} ({large:.2f}), {large / small:.2f}x"


if __name__ == "__main__":
  main()
