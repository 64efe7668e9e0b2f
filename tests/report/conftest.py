"""Synthetic results of runs that never were."""

import numpy as np
import pytest

from jaxcompress.report.results import (
  Entry,
  Layer,
  Point,
  Results,
  Run,
  Sample,
  Search,
  Spread,
  TensorRange,
)

NAMES_47 = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")


def curve(steps: int, classes: int, seed: int, every: int = 10) -> list[dict]:
  """Rows of a loss that falls and an accuracy that rises, with noise."""
  rng = np.random.default_rng(seed)
  rows = []
  for step in range(every, steps + 1, every):
    progress = step / steps
    loss = np.log(classes) * np.exp(-3 * progress) + 0.1 * rng.random()
    accuracy = min(1 - 0.9 * np.exp(-4 * progress) + 0.03 * rng.normal(), 1.0)
    rows.append({"step": step, "loss": float(loss), "accuracy": float(accuracy)})
  return rows


def confusion(classes: int, images: int, seed: int = 0) -> np.ndarray:
  """Counts with nine in ten right and the mistakes on a few pairs."""
  rng = np.random.default_rng(seed)
  shares = np.eye(classes) * 0.9
  wrong = rng.random((classes, classes)) ** 12 * (1 - np.eye(classes))
  shares += 0.1 * wrong / np.maximum(wrong.sum(1, keepdims=True), 1e-9)
  rows = [rng.multinomial(images // classes, row / row.sum()) for row in shares]
  return np.array(rows, np.int64)


def layer_list(count: int) -> tuple[tuple[Layer, ...], tuple[TensorRange, ...]]:
  """Blocks of expansion, depthwise and projection, with ranges for their outputs."""
  rng = np.random.default_rng(1)
  layers, ranges = [], [TensorRange("input", -2.5, 2.45, 4.95 / 255, 1)]
  for i in range(count):
    name = f"stage{i // 6}_block{i % 6 // 3}/{('expand', 'depthwise', 'project')[i % 3]}"
    op = ("conv 1x1, relu6", "depthwise 3x3, relu6", "conv 1x1")[i % 3]
    high = float(6 * rng.random() + 0.2)
    low = 0.0 if i % 3 < 2 else -high * float(rng.random() + 0.2)
    scale = (high - low) / 255
    spread = Spread(*sorted(map(float, np.exp(rng.normal(size=3) - 1))))
    layers.append(Layer(name, op, (16, 16, 24), 1000 + i, 90_000 * (i + 1), 1192, name, spread))
    ranges.append(TensorRange(name, low, high, scale, round(-128 - low / scale)))
  layers.append(Layer("pool", "GlobalAvgPool", (320,), 0, 0, 0, "pool"))
  ranges.append(TensorRange("pool", 0.0, 3.0, 3 / 255, -128))
  return tuple(layers), tuple(ranges)


def synthetic(names=NAMES_47, images=4000, count=34) -> Results:
  """Results with every part, near those of the default run."""
  rng = np.random.default_rng(2)
  layers, ranges = layer_list(count)
  student, teacher = "MobileNetV2 x0.25", "MobileNetV2 x0.75"
  size = {"parameters": 88_431, "macs": 5_910_000}
  entries = {
    "teacher": Entry(teacher, 0.9367, 608_000, 41_200_000, 2_432_000, 1000, 120.0),
    "alone": Entry(
      student, 0.8778, **size, bytes=361_000, steps=900, seconds=41.4, latency_ms=0.92
    ),
    "distilled": Entry(
      student, 0.9058, **size, bytes=361_000, steps=900, seconds=51.3,
      latency_ms=0.91, latency_ms_2_threads=0.62,
    ),
    "int8": Entry(
      student, 0.9032, **size, bytes=128_400, steps=180, seconds=13.9, weight_bits=8,
      latency_ms=0.41, latency_ms_2_threads=0.33, bit_equal=1.0, max_steps=0,
      top1_agreement=1.0, logits=images * len(names), file="student.tflite",
      arena_bytes=160_000, npu="64 of 64 operators on the NPU",
    ),
  }  # fmt: skip
  samples = tuple(
    Sample.of(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8), i % len(names), j % len(names))
    for i, j in [(0, 0), (1, 1), (2, 0), (3, 3)]
  )
  return Results(
    run=Run(
      data="glyphs", classes=names, image_shape=(32, 32, 3), train_images=24_000,
      test_images=images, seed=0, command="jaxcompress compress --seed 0", version="0.1.0",
      jax_version="0.10.2", device="cpu, x86_64, 2 CPU cores", date="2025-01-31 12:00 UTC",
      seconds=263.0, packages={"flax": "0.12.0"}, settings={"optimizer": "SGD 0.1", "batch": 64},
    ),
    entries=entries,
    curves={
      key: curve(entry.steps, len(names), i) for i, (key, entry) in enumerate(entries.items())
    },
    confusion=confusion(len(names), images),
    layers=layers,
    ranges=ranges,
    samples=samples,
    preprocess={"center": 127.5, "scale": 64.0, "per_image": True, "epsilon": 0.1},
    search=Search(
      (
        Point("x0.25", 128_400, 0.9032),
        Point("x0.35 pruned, mixed bits", 127_000, 0.9101, chosen=True),
      ),
      0.9367,
      2000,
    ),
  )  # fmt: skip


@pytest.fixture(scope="session")
def full() -> Results:
  """47 classes, every part there."""
  return synthetic()


@pytest.fixture(scope="session")
def make_results():
  """Makes results with other classes."""
  return synthetic
