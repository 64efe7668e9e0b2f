"""Accuracy and bytes of a trained network at every number of bits, without and with fine-tuning.

    python benchmarks/quantization.py [--models mobilenet_v2,mobilenet_v3_small] [--steps 1000]
        [--tune 400] [--json FILE]

A network is trained in float on the built-in glyphs. Then every method of post-training
quantization makes an integer model of it from 512 unlabelled training images, with weights of 8
and of 4 bits; and the network is fine-tuned with weights of 8, 4, 3, 2 and 1 bit (the first and
the last layer keep 8; activations have 8 throughout). Beside them stands qwix: its post-training
quantization of the same network, evaluated as qwix evaluates it, and how its training fares.

Accuracy is that of the integer models in exact evaluation, on the test set, which nothing was
chosen on. Bytes are those of packed weights, scales and biases.
"""

import argparse
import json
import pathlib
import time

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from shared import numbers, words
from trainer import Trainer

from jaxcompress import ops, quantize, training
from jaxcompress.ops.dispatch import XLA_ONLY
from jaxcompress.pipeline import PRESETS, networks
from jaxcompress.pipeline.context import STEPS

IMAGES = 512
WIDTHS = {"mobilenet_v2": 0.25, "mobilenet_v3_small": 0.5}
PEAK = 0.02  # of fine-tuning
LOW_BITS = {
  8: quantize.absmax(8),
  4: quantize.lsq(4),
  3: quantize.lsq(3),
  2: quantize.lsq(2),
  1: quantize.bwn(),
}


class Bench(Trainer):
  """A data set, and everything that is done with one network on it."""

  def tuned(self, network, steps, peak, name, variables=None, plan=None):
    """The state after training."""
    optimizer = training.sgd(training.warmup_cosine(peak, steps))
    recipe = self.recipe(network.module, optimizer, quantize=plan)
    return self.train(recipe, steps, start=variables, name=name)

  def calibration(self):
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(self.data.train), IMAGES, replace=False)
    return self.data.train.images[np.sort(chosen)]

  def post_training(self, network, variables, method, bits):
    return quantize.post_training(
      network.module,
      variables,
      self.calibration(),
      method=method,
      bits=bits,
      preprocess=self.preprocess,
      progress=False,
    )

  def fine_tuned(self, network, variables, bits, steps):
    """The integer model after quantized training, BatchNorm frozen in its last quarter."""
    plan = quantize.Quantization(
      weights=LOW_BITS[bits],
      activations=quantize.ema_range(8),
      rules=() if bits == 8 else quantize.first_last_8bit(),
      freeze_norm_step=3 * steps // 4,
    )
    return self.tuned(network, steps, PEAK, f"{bits} bit", variables, plan).quantized()


def qwix_rows(bench, network, variables):
  """Rows of the same network in qwix, which only sees XLA's own convolutions."""
  import qwix

  image = bench.preprocess(bench.data.test.images[:1])
  rule = lambda bits: [  # noqa: E731
    qwix.QuantizationRule(module_path=".*", weight_qtype=bits, act_qtype=bits)
  ]

  def post_training(bits):
    model = qwix.quantize_model(network.module, qwix.PtqProvider(rule(bits)))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
    params = qwix.quantize_params(variables["params"], shapes["params"])
    return bench.top1(model, {**variables, "params": params})

  def gradient(provider):
    model = qwix.quantize_model(network.module, provider)

    def loss(params):
      return model.apply({**variables, "params": params}, image, train=False).logits.sum()

    slopes = jax.jit(jax.grad(loss))(variables["params"])
    return bool(all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes)))

  trained = [qwix.QtRule(module_path=".*", weight_qtype="int8", act_qtype="int8")]
  tried = {
    "qwix, 8 bit, post-training": lambda: post_training("int8"),
    "qwix, 4 bit, post-training": lambda: post_training("int4"),
    "qwix, QtProvider, a gradient": lambda: gradient(qwix.QtProvider(trained)),
    "qwix, OdmlQatProvider, a gradient": lambda: gradient(qwix.OdmlQatProvider(rule("int8"))),
  }
  for name, attempt in tried.items():
    try:
      with ops.formulations(**XLA_ONLY._asdict()):
        result = attempt()
    except Exception as error:  # whatever a peer raises is its result
      yield name, f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
    else:
      yield name, result


def measure(bench, name, args):
  """Rows of ``(what, top-1 or words, bytes)`` for one network."""
  preset = PRESETS["default"]
  shape = bench.data.image_shape
  network = networks.build(
    name, len(bench.data.classes), shape, WIDTHS.get(name), None, preset.network
  )
  state = bench.tuned(network, args.steps, preset.protocol.learning_rate, name)
  variables = jax.device_get(state.variables)
  yield "float", bench.top1(network.module, variables), 4 * network.summary.parameters
  for bits in () if args.no_post_training else (8, 4):
    for method in quantize.ALGORITHMS:
      quantized = bench.post_training(network, variables, method, bits)
      yield (
        f"{bits} bit, post-training, {method}",
        bench.integer_top1(quantized),
        quantize.model_bytes(quantized),
      )
  for bits in args.bits:
    quantized = bench.fine_tuned(network, variables, bits, args.tune)
    yield f"{bits} bit, fine-tuned", bench.integer_top1(quantized), quantize.model_bytes(quantized)
  if not args.no_qwix:
    for what, result in qwix_rows(bench, network, variables):
      yield what, result, None


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--models", type=words, default=list(WIDTHS))
  parser.add_argument("--steps", type=int, default=STEPS)
  parser.add_argument("--tune", type=int, default=400)
  parser.add_argument("--bits", type=numbers, default=LOW_BITS)
  parser.add_argument("--no-post-training", action="store_true")
  parser.add_argument("--no-qwix", action="store_true")
  parser.add_argument("--json", type=pathlib.Path)
  args = parser.parse_args()
  ops.keep_freed_memory()
  console, results, started = Console(), {}, time.perf_counter()
  bench = Bench(console)
  for name in args.models:
    rows = results[name] = []
    for what, result, size in measure(bench, name, args):
      rows.append((what, result, size))
      console.print(name, what, result, size)
      if args.json:
        args.json.write_text(json.dumps(results, indent=2))
  for name, rows in results.items():
    table = Table(title=f"{name} x{WIDTHS.get(name, 1):g} on glyphs: top-1 on the test set")
    for column in ("", "top-1, %", "points from float", "bytes"):
      table.add_column(column, justify="left" if not column else "right")
    reference = rows[0][1]
    for what, result, size in rows:
      is_share = isinstance(result, float)
      table.add_row(
        what,
        f"{100 * result:.2f}" if is_share else str(result),
        f"{100 * (result - reference):+.2f}" if is_share else "",
        "" if size is None else f"{size:,}",
      )
    console.print(table)
  console.print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
  main()
