"""Signal-to-noise ratio of networks whose tensors differ in scale, beside onnxruntime's quantization.

    python benchmarks/shared_grids.py [--seeds 4] [--ratios 1,10,100,1000] [--json FILE]

Small networks join, pool, split and add tensors of which one is up to 1000 times larger than another;
later weights take that back, so that the float network is the same at every ratio. Each is quantized by
`post_training`, with min-max ranges and with all methods, and by `quantize_static` of onnxruntime (QDQ,
int8, weights per channel, min-max calibration) on the same images, written as float ONNX before.

Shown is the ratio of the logits' variance over images to the mean squared error, in decibels, on images
that calibrated nothing, the mean over seeds; and the mean difference to onnxruntime. Ours is exact
evaluation of what XNNPACK computes. A network has few roundings, so a single seed differs by about
one decibel either way. The last column counts requantizations that min-max ranges put in.
"""

import argparse
import json
import logging
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from shared import numbers, words

from jaxcompress import export, quantize
from jaxcompress.nn import (
  Add,
  AvgPool,
  ChannelShuffle,
  Concat,
  ConvNorm,
  Dense,
  GlobalAvgPool,
  MaxPool,
  Split,
  fold,
  init_variables,
  trace,
)

SHAPE = (12, 12, 3)
CALIBRATION, TEST = 32, 64
METHODS = ("minmax", "auto")


class Conv(NamedTuple):
  """A convolution without normalization, called by its name."""

  name: str
  features: int = 8
  kernel: int = 1
  act: str | None = "relu"
  stride: int = 1

  def __call__(self, x):
    fields = {**self._asdict(), "norm": None}
    return ConvNorm(**fields)(x, train=False)


def head(x):
  return Dense(5, name="head")(GlobalAvgPool(name="mean")(x))


def two_readers(x):
  small, big = Conv("small", kernel=3)(x), Conv("big", kernel=3)(x)
  after = Conv("after", act=None)(Concat(name="cat")(big, small))
  return head(Add(name="add")(after, Conv("other", act=None)(small)))


def dense_block(x):
  x = Conv("x0", kernel=3)(x)
  for i in (1, 2, 3):
    x = Concat(name=f"cat{i}")(x, Conv(f"x{i}", kernel=3)(x))
  return head(Conv("after", 16)(x))


def flat_dense_block(x):
  """Each layer reads all tensors before it, joined anew."""
  tensors = [Conv("x0", kernel=3)(x)]
  for i in (1, 2, 3):
    joined = Concat(name=f"cat{i}")(*tensors) if i > 1 else tensors[0]
    tensors.append(Conv(f"x{i}", kernel=3)(joined))
  return head(Conv("after", 16)(Concat(name="cat")(*tensors)))


def pool_branch(x, pool=MaxPool):
  small = Conv("small", kernel=3)(x)
  pooled = pool(3, 1, name="pool")(small)
  joined = Concat(name="cat")(Conv("big", kernel=3)(small), pooled)
  return head(Add(name="add")(Conv("after", act=None)(joined), Conv("other", act=None)(small)))


def transition(x):
  """As between two dense blocks: an average of 4x4 cells that vary around zero, joined later."""
  x = AvgPool(4, 4, "VALID", name="pool")(Conv("small", act=None)(x))
  joined = Concat(name="cat")(Conv("big", kernel=3)(x), x)
  return head(Conv("after", 16)(joined))


def shuffle_block(x):
  x = Conv("small", kernel=3)(x)
  for i in (1, 2):
    kept, y = Split((4, 4), name=f"split{i}")(x)
    y = Conv(f"big{i}", 4, kernel=3)(y)
    x = ChannelShuffle(2, name=f"shuffle{i}")(Concat(name=f"cat{i}")(kept, y))
  return head(Conv("after", 16)(x))


def sum_of_unlike(x):
  small, big = Conv("small", kernel=3)(x), Conv("big", kernel=3)(x)
  total = Conv("after", act=None)(Add(name="sum")(big, small))
  return head(Add(name="add")(total, Conv("other", act=None)(small)))


class Network(nn.Module):
  function: Callable[[Any], Any]

  @nn.compact
  def __call__(self, x, *, train):
    return self.function(x)


class Case(NamedTuple):
  """A network and its scales.

  Attributes:
    function: of the images.
    scales: of the channels that layers write, by layer, in ratios to the power of: one number.
    reads: of the channels that layers read, likewise: one number for each.
  """

  function: Callable[[Any], Any]
  scales: dict[str, float]
  reads: dict[str, list[float]]


def shuffled(channels):
  return np.reshape(channels, (2, -1)).T.ravel().tolist()


_FIRST = shuffled([0] * 4 + [0.5] * 4)
_SECOND = shuffled([*_FIRST[:4], *[1.0] * 4])
CASES = {
  "two readers": Case(two_readers, {"big": 1}, {"after": [1.0] * 8 + [0.0] * 8}),
  "dense block": Case(
    dense_block,
    {"x1": 1 / 3, "x2": 2 / 3, "x3": 1},
    {f"x{i}": [j / 3 for j in range(i) for _ in range(8)] for i in (2, 3)}
    | {"after": [j / 3 for j in range(4) for _ in range(8)]},
  ),
  "flat dense block": Case(
    flat_dense_block,
    {"x1": 1 / 3, "x2": 2 / 3, "x3": 1},
    {f"x{i}": [j / 3 for j in range(i) for _ in range(8)] for i in (2, 3)}
    | {"after": [j / 3 for j in range(4) for _ in range(8)]},
  ),
  "max pool branch": Case(pool_branch, {"big": 1}, {"after": [1.0] * 8 + [0.0] * 8}),
  "average pool branch": Case(
    lambda x: pool_branch(x, AvgPool), {"big": 1}, {"after": [1.0] * 8 + [0.0] * 8}
  ),
  "transition": Case(transition, {"big": 1}, {"after": [1.0] * 8 + [0.0] * 8}),
  "split and shuffle": Case(
    shuffle_block,
    {"big1": 0.5, "big2": 1},
    {"big2": _FIRST[4:], "after": _SECOND},
  ),
  "sum": Case(sum_of_unlike, {"big": 1}, {}),
}


def scaled(case: Case, seed: int, ratio: float):
  """The module and variables at a ratio, the same function at each but for sums."""
  module = Network(case.function)
  variables = jax.tree.map(np.array, init_variables(module, jax.random.key(seed), SHAPE))
  params = variables["params"]
  for name, power in case.scales.items():
    params[name]["kernel"] *= np.float32(ratio**power)
    params[name]["bias"] *= np.float32(ratio**power)
  for name, powers in case.reads.items():
    params[name]["kernel"] /= np.float32(ratio ** np.array(powers))[:, None]
  if case.function is sum_of_unlike:
    params["after"]["kernel"] /= np.float32(ratio)
  return module, variables


def decibels(signal, found):
  noise = np.square(found - signal).sum()
  return float(10 * np.log10(np.square(signal - signal.mean(0)).sum() / noise))


def peer(module, variables, images, test, folder):
  """Logits of onnxruntime's quantization."""
  import onnxruntime
  from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
  )

  logging.disable(logging.WARNING)  # it advises a preparation that does nothing here
  graph = trace(module, variables, images[:1])
  path = export.onnx_float(graph, fold(graph, variables), folder / "float.onnx")

  class Reader(CalibrationDataReader):
    def __init__(self):
      self.batches = iter([{"image": images.transpose(0, 3, 1, 2)}])

    def get_next(self):
      return next(self.batches, None)

  quantize_static(
    path,
    folder / "int8.onnx",
    Reader(),
    quant_format=QuantFormat.QDQ,
    per_channel=True,
    activation_type=QuantType.QInt8,
    weight_type=QuantType.QInt8,
    calibrate_method=CalibrationMethod.MinMax,
  )
  session = onnxruntime.InferenceSession(str(folder / "int8.onnx"))
  return session.run(None, {"image": test.transpose(0, 3, 1, 2)})[0]


def measure(name: str, ratio: float, seed: int) -> dict[str, Any]:
  """One network at one ratio."""
  module, variables = scaled(CASES[name], seed, ratio)
  rng = np.random.default_rng(seed)
  images, test = (
    rng.normal(size=(count, *SHAPE)).astype(np.float32) for count in (CALIBRATION, TEST)
  )
  want = np.asarray(module.apply(variables, test, train=False))
  row: dict[str, Any] = {"network": name, "ratio": ratio, "seed": seed}
  with tempfile.TemporaryDirectory() as folder:
    found = peer(module, variables, images, test, pathlib.Path(folder))
    row["onnxruntime"] = decibels(want, found)
  for method in METHODS:
    model = quantize.post_training(module, variables, images, method=method, progress=False)
    row[method] = decibels(want, model(test))
    row[f"{method} requantizations"] = sum(n.op == "Requantize" for n in model.graph.nodes)
  return row


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seeds", type=int, default=4)
  parser.add_argument("--ratios", type=numbers, default=[1, 10, 100, 1000])
  parser.add_argument("--networks", type=words, default=list(CASES))
  parser.add_argument("--json", type=pathlib.Path)
  options = parser.parse_args()
  table = Table("network", "ratio", "onnxruntime", *METHODS, "differences", "requantized")
  rows = []
  for name in options.networks:
    for ratio in map(float, options.ratios):
      found = [measure(name, ratio, seed) for seed in range(options.seeds)]
      rows += found
      mean = {
        key: float(np.mean([row[key] for row in found])) for key in found[0] if key != "network"
      }
      table.add_row(
        name,
        f"{ratio:g}",
        *(f"{mean[key]:.1f}" for key in ("onnxruntime", *METHODS)),
        " ".join(f"{mean[key] - mean['onnxruntime']:+.1f}" for key in METHODS),
        f"{mean['minmax requantizations']:.1f}",
      )
  Console(width=100).print(table)
  if options.json:
    options.json.write_text("\n".join(map(json.dumps, rows)) + "\n")


if __name__ == "__main__":
  main()
