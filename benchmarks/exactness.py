"""Share of logits that a runtime and exact evaluation have bit for bit in common, for all models.

Weights are random, BatchNorm's statistics and scales too; activation ranges are those of a few
images. With ``--trained FOLDER`` the models are those that ``jaxcompress.models.save`` wrote there,
``NAME.safetensors``. Run it from the project's root:

    python benchmarks/exactness.py --size 96 --images 3
"""

import argparse
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxcompress import export, models, quantize
from jaxcompress.quantize.integer import KERNELS


def random_variables(model, shape, rng):
  """Variables as of a trained network: gammas of both signs, means and variances of all sizes."""
  init = lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)  # noqa: E731

  def draw(path, leaf):
    kind, shape = path[-1].key, leaf.shape
    if kind == "kernel":
      return rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape).astype(np.float32)
    if kind == "scale":
      return (rng.normal(1.0, 0.2, shape) * rng.choice([1, 1, 1, 1, -1], shape)).astype(np.float32)
    other = rng.uniform(0.3, 2.0, shape) if kind == "var" else rng.normal(0, 0.2, shape)
    return other.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init))


def quantized_of(name: str, size: int, images: int, trained: pathlib.Path | None):
  """A quantized model and images for it."""
  rng = np.random.default_rng(0)
  pixels = rng.normal(size=(images, size, size, 3)).astype(np.float32)
  if trained is None:
    model = models.create(name)
    variables = random_variables(model, (size, size, 3), rng)
  else:
    model, variables = models.load(trained / f"{name}.safetensors")
  return quantize.post_training(model, variables, pixels, method="minmax", progress=False), pixels


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
  parser.add_argument("--images", type=int, default=3)
  parser.add_argument("--models", nargs="+", default=list(models.MODELS), metavar="NAME")
  parser.add_argument("--runtimes", nargs="+", default=list(KERNELS), choices=list(KERNELS))
  parser.add_argument("--trained", type=pathlib.Path, help="folder of trained models")
  args = parser.parse_args()
  table = Table(
    "model", *args.runtimes, title=f"bit-equal logits, {args.size} px, {args.images} images"
  )
  worst = 1.0
  for name in args.models:
    start = time.perf_counter()
    quantized, images = quantized_of(name, args.size, args.images, args.trained)
    shares = []
    with tempfile.TemporaryDirectory() as folder:
      for kernels in args.runtimes:
        write = export.onnx if kernels == "onnxruntime" else export.tflite
        suffix = "onnx" if kernels == "onnxruntime" else "tflite"
        path = write(quantized, f"{folder}/model.{suffix}")
        shares.append(export.verify(path, quantized.with_kernels(kernels), images).bit_equal)
    worst = min(worst, *shares)
    table.add_row(name, *(f"{share:.2%}" for share in shares))
    took = time.perf_counter() - start
    print(name, *(f"{share:.4f}" for share in shares), f"{took:.0f} s", flush=True)
    jax.clear_caches()  # compiled programs of all networks would fill gigabytes
  Console().print(table)
  print(f"{len(args.models)} models, smallest share {worst:.2%}")


if __name__ == "__main__":
  main()
