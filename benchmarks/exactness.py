"""Share of logits that a runtime and exact evaluation have bit for bit in common, for all models.

    python benchmarks/exactness.py --out exactness.jsonl

Every row is one model at one size with one kind of weights in one runtime. Rows are appended to
``--out`` as soon as they are known, the cheapest models first, and rows that are there are not
computed again: a run can be stopped and gone on with, with other choices too. The table at the end
is of the whole file. Runtimes without vector instructions take hours for large networks:
``--work 50`` gives a row no more images than 50 billion multiply-accumulates allow, but at least 4.

``random`` weights come with random BatchNorm statistics and scales, and random images; ``trained``
ones are of 20 steps on the built-in glyphs, which are also the images, enlarged. ``pruned`` networks
are such trained ones without half of their channels, trained on for 20 steps; not by default.

On emulated 64-bit Arm, with 8-bit and 16-bit activations, of which onnxruntime has none:

    python benchmarks/exactness.py --out arm.jsonl --processors cortex-a53 cortex-a76 neoverse-v1 \
      --runtimes xnnpack --weights random --sizes 96 --images 16 --bits 8 16
"""

import argparse
import itertools
import math
import pathlib
import tempfile
import time
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table
from shared import append_row, print_table, read_rows

from jaxcompress import data, export, models, prune, quantize
from jaxcompress.export.emulation import ARM64
from jaxcompress.export.verification import compare, run_both
from jaxcompress.quantize.integer.runtimes import KERNELS, KERNELS_16
from jaxcompress.training import Recipe, init_state, train_step

NAMES = {
  "xnnpack": "XNNPACK",
  "reference": "BUILTIN_REF",
  "tflm": "TFLite-Micro",
  "onnxruntime": "onnxruntime",
}
WEIGHTS = ("random", "trained", "pruned")
KEYS = ("model", "size", "weights", "bits", "kernels", "processor")  # what tells rows apart
HERE = "here"  # the processor of this machine
OLDER = {"bits": 8, "processor": HERE}  # of rows that do not say
CALIBRATION = 16  # images; the others go beyond their ranges here and there
GLYPH, BATCH, STEPS = 32, 32, 20
FEWEST = 4  # images of a row
GONE = 0.5  # of the channels of pruned networks


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


def trained_variables(model, start=None):
  """Variables after some steps on the built-in glyphs."""
  glyphs = data.load("glyphs", limit=BATCH * STEPS).train
  batch_at = lambda i: data.batch_at(glyphs, BATCH, seed=0, position=i)  # noqa: E731
  recipe = Recipe(
    student=model, preprocess=data.Preprocess(), optimizer=optax.sgd(0.02, momentum=0.9)
  )
  state = init_state(recipe, jax.random.key(0), batch_at(0), student_variables=start)
  for position in range(STEPS):
    state, metrics = train_step(state, batch_at(position))
  if metrics["skipped"] or not np.isfinite(metrics["loss"]):
    raise ValueError(f"training: {int(metrics['skipped'])} of {STEPS} steps had no finite loss.")
  return jax.device_get(state.variables)


def pruned(model, variables):
  """A trained network without the channels that matter least, trained on."""
  image = jax.ShapeDtypeStruct((1, GLYPH, GLYPH, 3), jnp.float32)
  importance = prune.channel_importance(model, variables, image)
  keep = prune.choose_channels(importance, GONE)
  model, variables = prune.remove_channels(model, variables, keep)
  return model, trained_variables(model, variables)


def quantized_of(name: str, size: int, count: int, weights: str, bits: int = 8, **options):
  """A quantized model and images for it; options of the model."""
  model, shape = models.create(name, **options), (size, size, 3)
  if weights != "random":
    glyphs = data.load("glyphs", limit=count).test.images
    rows = np.arange(size) * GLYPH // size
    images = np.asarray(data.Preprocess()(glyphs[:, rows][:, :, rows]))
    variables = trained_variables(model)
    if weights == "pruned":
      model, variables = pruned(model, variables)
  else:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(count, *shape)).astype(np.float32)
    variables = random_variables(model, shape, rng)
  model, variables = models.fold_branches(model, variables, image_shape=shape)
  quantized = quantize.post_training(
    model,
    variables,
    images[:CALIBRATION],
    method="minmax",
    activation_bits=bits,
    progress=False,
  )
  return quantized, images


def evaluations():
  """Exact evaluation of a model, once by the rules of each of its runtimes."""
  found = {}

  def evaluate(quantized, codes):
    if quantized.kernels not in found:
      found[quantized.kernels] = quantized.outputs(codes)
    return found[quantized.kernels]

  return evaluate


def verified(quantized, images, kernels: str, processor: str, evaluate) -> export.Verification:
  """Compares a model's file in a runtime with exact evaluation."""
  quantized = quantized.with_kernels(kernels)
  processor = None if processor == HERE else processor
  with tempfile.TemporaryDirectory() as folder:
    if kernels == "onnxruntime":
      path = export.onnx(quantized, f"{folder}/model.onnx")
    else:
      path = export.tflite(quantized, f"{folder}/model.tflite")
    return compare(run_both(path, quantized, images, processor=processor, evaluate=evaluate))


def best_rows(path: pathlib.Path) -> dict[tuple, dict]:
  """Rows of a file, by what tells them apart; the one with the most images counts."""
  found = {}
  for row in ({**OLDER, **row} for row in read_rows(path)):
    key = tuple(row[name] for name in KEYS)
    if key not in found or row["images"] >= found[key]["images"]:
      found[key] = row
  return found


def images_of(macs: int, args: argparse.Namespace) -> int:
  """How many images a network runs on."""
  return int(min(args.images, max(FEWEST, args.work * 1e9 / macs)))


def columns_of(bits: int, args: argparse.Namespace) -> list[tuple[str, str]]:
  """The runtimes and processors that run a network."""
  return [
    (kernels, processor)
    for processor in args.processors
    for kernels in args.runtimes
    if bits == 8 or kernels in KERNELS_16
    if processor == HERE or kernels != "tflm"  # it has no build for 64-bit Arm
  ]


def compute_rows(args: argparse.Namespace, console: Console) -> int:
  """Appends the rows that are missing; the number of those that failed."""
  failed, macs = 0, {}
  for name, size in itertools.product(args.models, args.sizes):
    macs[name, size] = models.summarize(models.create(name), size).macs
  for bits, (name, size) in itertools.product(args.bits, sorted(macs, key=macs.get)):
    count = images_of(macs[name, size], args)
    for weights in args.weights:
      rows = best_rows(args.out)
      done = {key for key, row in rows.items() if row["images"] >= count}
      wanted = columns_of(bits, args)
      missing = [column for column in wanted if (name, size, weights, bits, *column) not in done]
      try:
        if missing:
          total = max(count, CALIBRATION + FEWEST)
          quantized, images = quantized_of(name, size, total, weights, bits)
        evaluate = evaluations()
        for kernels, processor in missing:
          start = time.perf_counter()
          found = verified(quantized, images[-count:], kernels, processor, evaluate)
          key = (name, size, weights, bits, kernels, processor)
          seconds = round(time.perf_counter() - start, 1)
          append_row(
            args.out, {**dict(zip(KEYS, key, strict=True)), **found._asdict(), "seconds": seconds}
          )
          console.print(*key, f"{found.bit_equal:.4%}", seconds, "s")
      except Exception:  # one model must not end a run of hours
        failed += 1
        console.print(f"{name}, {size} px, {weights} weights, {bits} bits:")
        print(traceback.format_exc())
      jax.clear_caches()  # compiled programs of all networks would fill gigabytes
  return failed


def columns_in(rows: dict[tuple, dict]) -> list[tuple[str, str]]:
  """Runtimes and processors of a file's rows; this machine's own runtimes always."""
  found = dict.fromkeys(key[4:] for key in rows)
  here = [(kernels, HERE) for kernels in KERNELS]
  elsewhere = [column for column in found if column[1] != HERE]
  return (here if any(column in found for column in here) or not found else []) + elsewhere


def cells(rows: dict[tuple, dict]) -> list[tuple[str, ...]]:
  """A line of the table for each network: shares by runtime, "-" where there is none."""
  lines = []
  for name, size, weights, bits in dict.fromkeys(key[:4] for key in rows):
    found = [rows.get((name, size, weights, bits, *column)) for column in columns_in(rows)]
    counts = sorted({row["images"] for row in found if row})
    shares = ("-" if row is None else percent(row["bit_equal"]) for row in found)
    lines.append((name, str(size), weights, str(bits), "-".join(map(str, counts)), *shares))
  return lines


def percent(share: float) -> str:
  """A share that reads 100 only if nothing differs."""
  return "100" if share == 1 else f"{min(100 * share, 99.9999):.4f}"


def print_tables(rows: dict[tuple, dict], console: Console) -> None:
  """The rows as one table for the terminal, as one in Markdown, and in one line."""
  titles = (
    NAMES[kernels] + (f", {processor}" if processor != HERE else "")
    for kernels, processor in columns_in(rows)
  )
  head = ("model", "px", "weights", "bits", "images", *titles)
  table = Table(*head, title="bit-equal logits, %")
  lines = cells(rows)
  for line in lines:
    table.add_row(*line)
  console.print(table)
  print_table(head, lines)
  equal = sum(row["bit_equal"] == 1 for row in rows.values())
  least = min((row["bit_equal"] for row in rows.values()), default=1.0)
  print(f"\n{len(rows)} rows, {equal} of them bit-equal throughout; smallest {percent(least)} %")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", type=pathlib.Path, required=True, help="file of JSON lines")
  parser.add_argument("--models", nargs="+", default=list(models.MODELS), metavar="NAME")
  parser.add_argument("--sizes", type=int, nargs="+", default=[96, 224], help="sides in pixels")
  parser.add_argument("--weights", nargs="+", default=list(WEIGHTS[:2]), choices=WEIGHTS)
  parser.add_argument("--runtimes", nargs="+", default=list(KERNELS), choices=list(KERNELS))
  parser.add_argument("--bits", type=int, nargs="+", default=[8], choices=(8, 16))
  places = (HERE, *ARM64)
  parser.add_argument("--processors", nargs="+", default=[HERE], choices=places, metavar="NAME")
  parser.add_argument("--images", type=int, default=200)
  parser.add_argument("--work", type=float, default=math.inf, help="most 1e9 MACs of a row")
  parser.add_argument("--print", action="store_true", help="only print what is there")
  args = parser.parse_args()
  console = Console()
  failed = 0 if args.print else compute_rows(args, console)
  rows = best_rows(args.out)
  print_tables(rows, console)
  if failed or any(row["bit_equal"] < 1 for row in rows.values()):
    raise SystemExit(1)


if __name__ == "__main__":
  main()
