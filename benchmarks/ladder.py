"""Accuracy on Fashion-MNIST of networks of 4 to 100 kB, each bit-equal on every runtime.

    python benchmarks/ladder.py --out runs/ladder.jsonl [--rungs 100,64,32,16,8,4] [--seeds 1]
        [--ways int8,ptq,4bit,zeros,clusters,alone] [--runtimes xnnpack,reference,tflm,onnxruntime,c]

The teacher is trained on the 54,000 training images, shifted and mirrored; 6,000 are held out
for validation. Its outputs are computed once, for the images as they are, which is how students see them: small
networks have no room for more. Every rung's network is trained in float and then, in the last epochs, as the
integers that it will be:

- ``int8``: from the teacher; beside it the same float network in int8 after training (``ptq``);
- ``4bit``: the next rung's network with weights of 4 bits whose steps are trained (LSQ), in a packed file;
- ``zeros``: likewise, of 8 bits, four fifths of those that may be zero;
- ``clusters``: likewise, of 16 values for each layer, in a codebook;
- ``alone``: int8 without the teacher, for as many epochs.

A kB is 1,000 bytes; .tflite files are bare (``export.tflite(..., bare=True)``). Networks were chosen for
their bytes, those of 4 and 8 kB among two each by the validation images, which also chose that students see images
as they are; the test images are looked at once, when a row is written, and choose nothing. Each runtime computes the logits of all 10,000, and a row says
which share is equal to ours, bit for bit.

Rows that are there are not measured again, and trained networks are kept beside them, so it can be killed and
started again; several processes may work on one file, each on rungs or ways of its own, once the teacher is there
(``--rungs ""``).
"""

import argparse
import dataclasses
import functools
import pathlib
import tempfile
import time

import flax.linen as linen
import jax
import numpy as np
from rich.console import Console
from shared import append_row, numbers, print_table, read_rows, spread, words
from trainer import EVAL_BATCH, Trainer

from jaxcompress import data as datasets
from jaxcompress import distill, export, models, nn, ops, prune, quantize, training
from jaxcompress.pipeline import PRESETS
from jaxcompress.training.variables import load_variables, save_variables

TEACHER_EPOCHS = 14
SHIFTED = datasets.Augment(crop=2, flip=True)  # as the teacher learns
EPOCHS = {100: 12, 64: 12, 32: 14, 16: 16, 8: 24, 4: 40}  # in float, by rung
TUNED = 2  # epochs as integers
RATE, TUNED_RATE = 0.1, 0.01
TAUGHT = "kd:0.9,labels:1"
CALIBRATED = 256
PIXELS = datasets.Preprocess(center=72.9, scale=90.0, per_image=False)  # mean and deviation
PACKED = ("4bit", "zeros", "clusters")
WAYS = ("int8", "ptq", *PACKED, "alone")
ZEROS, CLUSTERS = 0.8, 16  # so that the packed file fits the rung
RUNTIMES = ("xnnpack", "reference", "tflm", "onnxruntime", "c")


class Chain(linen.Module):
  """Convolutions one after the other, with few operators: a file has little beside its weights.

  ``rows`` are (kind, features, stride): ``"c"``, a 3x3 convolution; ``"r"``, a residual of two. The last map is
  averaged in windows, and the classifier reads all of them: with so few channels it needs to know where things
  are. Windows of None are the whole map.
  """

  rows: tuple[tuple[str, int, int], ...]
  window: int | None = None
  num_classes: int = 10

  @linen.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> nn.Endpoints:
    for i, (kind, features, stride) in enumerate(self.rows):
      conv = functools.partial(nn.ConvNorm, features, kernel=3)
      if kind == "c":
        x = conv(stride=stride, act="relu", name=f"conv{i}")(x, train=train)
        continue
      y = conv(act="relu", name=f"first{i}")(x, train=train)
      y = conv(name=f"second{i}")(y, train=train)
      x = nn.Activation("relu", name=f"relu{i}")(nn.Add(name=f"add{i}")(y, x))
    window = self.window
    pool = (
      nn.AvgPool(window, window, "VALID", name="pool") if window else nn.GlobalAvgPool(name="pool")
    )
    return nn.Endpoints(logits=nn.Dense(self.num_classes, name="classifier")(pool(x)))


def residual(depth, *widths):
  return models.resnet_cifar(depth, 10, widths=widths)


RUNGS = {  # kB, and the network
  100: residual(14, 16, 16, 24, 40),
  64: residual(8, 16, 16, 32, 46),
  32: residual(8, 12, 12, 16, 32),
  16: Chain((("c", 10, 1), ("r", 10, 1), ("c", 16, 2), ("r", 16, 1), ("c", 20, 2))),
  8: Chain((("c", 8, 1), ("c", 12, 2), ("c", 10, 1), ("c", 12, 2)), 2),
  4: Chain((("c", 4, 1), ("c", 8, 2), ("c", 7, 2)), 2),
}
TEACHER = Chain(
  (("c", 24, 1), ("c", 48, 2), *2 * (("r", 48, 1),), ("c", 96, 2), *2 * (("r", 96, 1),))
)
LARGER = dict(zip([*RUNGS][1:], RUNGS, strict=False))  # the next rung, for packed files


class Bench(Trainer):
  """Fashion-MNIST in gray, and how networks are trained on it."""

  def __init__(self, args, console):
    self.args, self.console = args, console
    self.data = datasets.load("fashion-mnist", reader=datasets.ImageReader(channels=1))
    self.preprocess = PIXELS
    self.folder = args.out.with_suffix("")
    self.folder.mkdir(parents=True, exist_ok=True)

  def steps(self, epochs):
    return round(epochs * len(self.data.train) / self.protocol().batch_size)

  def protocol(self, rate=RATE):
    return dataclasses.replace(PRESETS["default"].protocol, learning_rate=rate)

  @functools.cached_property
  def teacher(self):
    """The teacher's variables, trained once and kept beside the results."""
    path = self.folder / "teacher"
    if not path.exists():
      steps, preprocess = self.steps(TEACHER_EPOCHS), datasets.Preprocess()
      recipe = self.recipe(
        TEACHER, self.protocol().optimizer(steps), preprocess=preprocess, augment=SHIFTED
      )
      state = self.train(recipe, steps, seed=100, name="teacher")
      save_variables(path, jax.device_get(state.variables))
    like = nn.init_variables(TEACHER, jax.random.key(0), self.data.image_shape)
    return load_variables(path, like)

  @functools.cached_property
  def taught(self):
    """The teacher's outputs for the training images, computed once."""
    folder, preprocess = self.folder / "taught", datasets.Preprocess()
    return datasets.cache_teacher(
      folder, TEACHER, self.teacher, self.data.train, augment=None, preprocess=preprocess
    )

  def teacher_top1(self, part):
    """The share of a part's images that the teacher classifies rightly."""
    batches = datasets.eval_batches(part, EVAL_BATCH)
    return training.evaluate(TEACHER, self.teacher, batches, preprocess=datasets.Preprocess())[
      "top1"
    ]

  def learn(self, rung, epochs, seed, *, start=None, rate=RATE, alone=False, wrap=None, **parts):
    """The state of a rung's network after so many epochs, from the teacher's outputs or alone."""
    parts["augment"] = None
    steps = self.steps(epochs)
    optimizer = self.protocol(rate).optimizer(steps)
    given, batch_at = (), None
    if not alone:
      parts |= {"teachers": (training.CachedTeacher(),), "loss": distill.parse(TAUGHT).loss}
      given = ({},)
      batch_at = lambda i: self.taught.batch_at(self.protocol().batch_size, seed=seed, position=i)  # noqa: E731
    recipe = self.recipe(
      RUNGS[rung], optimizer if wrap is None else wrap(optimizer, steps), **parts
    )
    return self.train(recipe, steps, seed=seed, start=start, given=given, batch_at=batch_at)

  def in_float(self, rung, seed, *, alone=False):
    """A rung's float network, trained once and kept beside the results."""
    module = RUNGS[rung]
    path = self.folder / f"{'alone' if alone else 'taught'}-{rung}-{seed}"
    like = nn.init_variables(module, jax.random.key(0), self.data.image_shape)
    if not path.exists():
      variables = self.learn(rung, EPOCHS[rung], seed, alone=alone).variables
      save_variables(path, jax.device_get(variables))
    return module, load_variables(path, like)

  def integers(self, rung, seed, plan=None, *, alone=False, wrap=None):
    """A rung's network after its last epochs as integers, by default int8."""
    _, variables = self.in_float(rung, seed, alone=alone)
    plan = plan or quantize.int8(freeze_norm_step=0)
    return self.learn(
      rung, TUNED, seed, start=variables, rate=TUNED_RATE, alone=alone, wrap=wrap, quantize=plan
    ).quantized()

  def after_training(self, rung, seed):
    """A rung's float network in int8 without training."""
    module, variables = self.in_float(rung, seed)
    images = self.data.train.images[:CALIBRATED]
    return quantize.post_training(
      module, variables, images, method="mse", preprocess=PIXELS, progress=False
    )

  def made(self, way, rung, seed):
    """The integer network of a row, made once and kept beside the results."""
    path = self.folder / f"{way}-{rung}-{seed}.jcz"
    if not path.exists():
      if way == "ptq":
        quantized = self.after_training(rung, seed)
      elif way == "4bit":
        frozen = (
          self.steps(TUNED) * 3 // 4
        )  # at higher rates trained steps diverge without batch statistics
        plan = dataclasses.replace(quantize.int8(freeze_norm_step=frozen), weights=quantize.lsq(4))
        quantized = self.integers(LARGER[rung], seed, plan)
      elif way == "zeros":
        quantized = self.integers(LARGER[rung], seed, wrap=with_zeros)
      elif way == "clusters":
        plan = quantize.clustered(CLUSTERS, freeze_norm_step=0)
        quantized = self.integers(LARGER[rung], seed, plan)
      else:
        quantized = self.integers(rung, seed, alone=way == "alone")
      export.packed(quantized, path)
    return export.load_packed(path), path.stat().st_size


def with_zeros(optimizer, steps):
  return prune.magnitude(optimizer, sparsity=ZEROS, schedule=prune.agp_within(steps))


def file_of(quantized, runtime, folder):
  """The model, and its file or folder for a runtime."""
  if runtime == "onnxruntime":
    return quantized, export.onnx(quantized, folder / "network.onnx")
  if runtime == "c":
    return quantized, export.c(quantized, folder / "network", name="network")
  quantized = quantized.with_kernels(runtime)
  return quantized, export.tflite(quantized, folder / "network.tflite", bare=True)


def trials(args):
  for rung in args.rungs:
    for way in args.ways:
      if rung in LARGER or way not in PACKED:
        yield from ((way, rung, seed) for seed in range(args.seeds))


def measure(bench, args, console):
  test = bench.data.test
  if not read_rows(args.out, way="teacher"):
    top1 = {
      name: bench.teacher_top1(part)
      for name, part in (("validation", bench.data.validation), ("top1", test))
    }
    append_row(args.out, {"way": "teacher"} | top1)
  for way, rung, seed in trials(args):
    known = {"way": way, "rung": rung, "seed": seed}
    rows = read_rows(args.out, **known)
    began = time.perf_counter()
    if not any("top1" in row for row in rows):
      quantized, packed = bench.made(way, rung, seed)
      top1 = {
        name: float(np.mean(quantized.integers(part.images).argmax(-1) == part.labels))
        for name, part in (("validation", bench.data.validation), ("top1", test))
      }
      with tempfile.TemporaryDirectory() as folder:
        size = file_of(quantized, "xnnpack", pathlib.Path(folder))[1].stat().st_size
      row = known | top1 | {"tflite": size, "packed": packed}
      append_row(args.out, row | {"seconds": time.perf_counter() - began})
      console.print(f"{rung} kB, {way}, {seed}: {100 * top1['top1']:.2f} %, {size:,} bytes")
      jax.clear_caches()
    done = {row["runtime"] for row in rows if "runtime" in row}
    for runtime in args.runtimes:
      if runtime not in done:
        quantized, _ = bench.made(way, rung, seed)
        with tempfile.TemporaryDirectory() as folder:
          quantized, path = file_of(quantized, runtime, pathlib.Path(folder))
          equal = export.verify(path, quantized, test.images).bit_equal
        append_row(args.out, known | {"runtime": runtime, "equal": equal})


def print_rows(rows):
  """Top-1 over seeds, bytes, and the least share of logits that are equal, over runtimes."""
  lines = []
  for rung, way in sorted({(-r["rung"], WAYS.index(r["way"])) for r in rows if "rung" in r}):
    own = [row for row in rows if (row.get("rung"), row["way"]) == (-rung, WAYS[way])]
    trained, equal = [r for r in own if "top1" in r], [r for r in own if "runtime" in r]
    if trained:
      sizes = [f"{max(row[key] for row in trained):,}" for key in ("tflite", "packed")]
      share = f"{100 * min(row['equal'] for row in equal):.4g} %" if equal else ""
      runtimes = ", ".join(name for name in RUNTIMES if name in {row["runtime"] for row in equal})
      top1 = spread([row["top1"] for row in trained])
      top1 = top1 if len(trained) > 1 else top1.split()[0]
      lines.append((str(-rung), WAYS[way], str(len(trained)), top1, *sizes, share, runtimes))
  head = ("kB", "way", "seeds", "top-1, %", ".tflite, bytes", "packed, bytes", "equal", "on")
  print_table(head, lines)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rungs", type=numbers, default=list(RUNGS))
  parser.add_argument("--ways", type=words, default=list(WAYS))
  parser.add_argument("--runtimes", type=words, default=list(RUNTIMES))
  parser.add_argument("--seeds", type=int, default=1)
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("ladder.jsonl"))
  args = parser.parse_args()
  console = Console()
  ops.keep_freed_memory()
  bench = Bench(args, console)
  measure(bench, args, console)
  rows = read_rows(args.out)
  for row in rows:
    if row["way"] == "teacher":
      console.print(f"teacher: {100 * row['top1']:.2f} %")
  print_rows(rows)


if __name__ == "__main__":
  main()
