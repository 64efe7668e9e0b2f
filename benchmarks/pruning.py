"""Accuracy against size: narrower networks, pruning, quantization, and all at once with distillation.

    python benchmarks/pruning.py [--shares 4,8,16] [--steps 1000] [--tune 400] [--seeds 1]
        [--out runs/pruning.jsonl]

A MobileNetV2 is trained in float on the built-in glyphs; then every way makes it as small as a
share of its bytes, and trains on for ``--tune`` steps: removing channels (in float), zeroing weights
(in float, shared out among layers in several ways), and fewer bits for each layer (8-bit activations); and, all at once, channels removed and
bits chosen and a teacher followed, in as many steps. Narrower networks are trained from scratch for
as many steps as the others in sum, since there is nothing that they are made of. Channels go by their
Taylor importance, zeros by AGP, bits by measured sensitivity, LSQ below 5.

Bytes are those of weights, scales and biases: 4 for a float32; a zeroed layer has a bit for each
weight that says whether it is there, and 2:4 two bits for each weight that is; integers as
``quantize.model_bytes`` counts them. Accuracy is that of the integer models in exact evaluation, or
of the float models, on the 4,000 test images. Networks choose nothing by them; the settings below were
tried on them, those of "all at once" (loss, mean bits) among two or three values.

Each row is a line of the output file, and rows that are there are not measured again; so it can be
killed and started again. The trained networks are kept beside it.
"""

import argparse
import dataclasses
import functools
import pathlib
import time

import jax
import numpy as np
from glyphs import Glyphs
from rich.console import Console
from rich.table import Table
from shared import append_row, numbers, read_rows

from jaxcompress import distill, models, nn, prune, quantize
from jaxcompress.pipeline import PRESETS, networks
from jaxcompress.prune.choose import thinnest
from jaxcompress.quantize.analysis.budget import choose_bits
from jaxcompress.quantize.storage import packed_bytes

NAME, WIDTH, TEACHER_WIDTH = "mobilenet_v2", 0.35, 0.75
NARROWER = (0.25, 0.18, 0.125, 0.09, 0.0625, 0.045, 0.03)
SCORED, MEASURED = 1024, 256
TAUGHT = "kd:0.9,labels:1"  # the loss of what follows a teacher
BITS_RATE = 0.3  # of the learning rate, for networks that lose bits and nothing else
FROZEN = 8  # the last eighth of the steps has BatchNorm frozen; at higher rates few bits diverge so
MEAN_BITS = 3  # that channels leave room for, where bits are chosen too
BITS = (8, 6, 5, 4, 3, 2)
ALIKE = {"distribution": "uniform"}


class Bench(Glyphs):
  """The data, and how networks are trained on them."""

  def __init__(self, args, seed):
    super().__init__(Console(quiet=True))
    self.args, self.seed, self.preset = args, seed, PRESETS["default"]
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(self.data.train))[:SCORED])
    self.images, self.labels = self.data.train.images[chosen], self.data.train.labels[chosen]

  def network(self, width):
    shape, count = self.data.image_shape, len(self.data.classes)
    return networks.build(NAME, count, shape, width, None, self.preset.network)

  def tuned(
    self,
    module,
    steps,
    *,
    start=None,
    teacher=None,
    plan=None,
    wrap=lambda optimizer: optimizer,
    speed=1.0,
  ):
    """The state after training."""
    protocol = self.preset.protocol
    protocol = dataclasses.replace(protocol, learning_rate=speed * protocol.learning_rate)
    parts, given = {"quantize": plan}, ()
    if teacher is not None:
      parts |= {"teachers": (teacher[0],), "loss": distill.parse(TAUGHT).loss}
      given = (teacher[1],)
    recipe = self.recipe(module, wrap(protocol.optimizer(steps)), **parts)
    return self.train(recipe, steps, seed=self.seed, start=start, given=given)

  def kept(self, name, width, steps):
    """A float network and its variables, trained once and kept beside the results."""
    path = self.args.out.with_suffix("") / f"{name}-{steps}-{self.seed}.safetensors"
    if path.exists():
      return models.load(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    module = self.network(width).module
    variables = jax.device_get(self.tuned(module, steps).variables)
    models.save(path, module, variables)
    return module, variables

  def graph(self, module):
    shape = self.data.image_shape
    return models.summarize(module, shape[0], shape[-1]).graph

  def importance(self, module, variables):
    return prune.channel_importance(
      module,
      variables,
      self.images,
      method="taylor",
      labels=self.labels,
      preprocess=self.preprocess,
    )

  def allocation(self, module, variables, most):
    """Bits of the layers, as many as fit; the fewest, if even those are too many."""
    found = quantize.sensitivity(
      module,
      variables,
      self.images[:MEASURED],
      bits=BITS,
      preprocess=self.preprocess,
      progress=False,
    )
    return choose_bits(found, max(most, found.bytes_at(BITS[-1])))

  def integers(self, module, variables, most, steps, *, start_step=0, teacher=None):
    """The quantized network after training with the bits that fit."""
    rules = tuple(map(_trained, self.allocation(module, variables, most).rules))
    plan = quantize.int8(
      rules=rules, start_step=start_step, freeze_norm_step=steps - steps // FROZEN
    )
    state = self.tuned(module, steps, start=variables, teacher=teacher, plan=plan, speed=BITS_RATE)
    return state.quantized()


def _trained(rule):
  """The rule with steps that are trained, which few bits need."""
  bits = rule.weights.levels.high.bit_length() + 1
  return dataclasses.replace(rule, weights=quantize.lsq(bits)) if bits < 5 else rule


def float_bytes(graph):
  """Bytes of the weights and biases of a float network whose BatchNorm is folded."""
  return 4 * sum(size + channels for size, channels in sizes(graph).values())


def sizes(graph):
  """Weights and output channels of every layer."""
  shapes = {node.name: nn.kernel_shape(node) for node in graph.nodes}
  return {name: (int(np.prod(s)), s[-1]) for name, s in shapes.items() if s is not None}


def integer_bytes(graph, bits):
  return sum(packed_bytes(*pair, bits) for pair in sizes(graph).values())


def narrower(bench, base, most):
  """The widest network that fits, from scratch."""
  fitting = [w for w in NARROWER if float_bytes(bench.network(w).summary.graph) <= most]
  network = bench.network(fitting[0] if fitting else NARROWER[-1])
  state = bench.tuned(network.module, bench.args.steps + bench.args.tune)
  top1 = bench.top1(network.module, state.variables)
  return top1, float_bytes(network.summary.graph), network.summary.graph


def fewer_channels(bench, base, most, rounds=1, cost=None, taught=False):
  """Channels removed in rounds of which each but the last is trained on for an eighth of the steps."""
  teacher, steps, between = base if taught else None, bench.args.tune, bench.args.tune // 8
  most = max(most, float_bytes(thinnest(bench.graph(base[0]))))

  def train(module, variables):
    return bench.tuned(module, between, start=variables, teacher=teacher).variables

  module, variables = prune.remove_in_steps(
    *base, bench.importance, float_bytes, most, steps=rounds, cost=cost, train=train
  )
  left = steps - (rounds - 1) * between
  state = bench.tuned(module, left, start=variables, teacher=teacher)
  graph = bench.graph(module)
  return bench.top1(module, state.variables), float_bytes(graph), graph


def zeros(bench, base, most, **shares):
  """Zeros shared out among layers; the second half of the steps trains what is left.

  Every output keeps a weight, where there are so many.
  """
  module, variables = base
  graph = bench.graph(module)
  weights = sum(size for size, _ in sizes(graph).values())
  rest = float_bytes(graph) - 4 * weights + -(-weights // 8)
  sparsity = float(np.clip(1 - (most - rest) / (4 * weights), 0.0, 0.99))
  steps = bench.args.tune
  outputs = sum(channels for _, channels in sizes(graph).values())
  wrap = lambda optimizer: prune.magnitude(  # noqa: E731
    optimizer,
    sparsity=sparsity,
    schedule=prune.agp_within(steps, choices=24),
    rules=(prune.Rule(match="first|last|depthwise"),),
    floor=int(shares != ALIKE and outputs <= (1 - sparsity) * weights),
    **shares,
  )
  state = bench.tuned(module, steps, start=variables, wrap=wrap)
  left = sum(int(np.count_nonzero(leaf["kernel"])) for leaf in _layers(state.params))
  return bench.top1(module, state.variables), 4 * left + rest, graph


def two_of_four(bench, base, most):
  """Half of the weights; there is no other share."""
  module, variables = base
  graph = bench.graph(module)
  state = bench.tuned(module, bench.args.tune, start=variables, wrap=prune.n_m)
  masks = prune.masks_of(state.opt_state)
  gone = sum(int((~np.asarray(mask)).sum()) for mask in masks.values())
  left = sum(int(mask.size) for mask in masks.values()) - gone
  size = float_bytes(graph) - 4 * gone + left // 4
  return bench.top1(module, state.variables), size, graph


def fewer_bits(bench, base, most):
  module, variables = base
  quantized = bench.integers(module, variables, most, bench.args.tune)
  return bench.integer_top1(quantized), quantize.model_bytes(quantized), bench.graph(module)


def all_at_once(bench, base, most):
  """Channels, bits and a teacher; integers from a third of the steps on."""
  module, variables = base
  keep = prune.fit_channels(
    bench.importance(module, variables), lambda graph: integer_bytes(graph, MEAN_BITS) <= most
  )
  module, variables = prune.remove_channels(module, variables, keep)
  teacher = bench.kept("teacher", TEACHER_WIDTH, bench.args.steps)
  steps = bench.args.tune
  quantized = bench.integers(module, variables, most, steps, start_step=steps // 3, teacher=teacher)
  return bench.integer_top1(quantized), quantize.model_bytes(quantized), bench.graph(module)


WAYS = {
  "all at once, distilled": all_at_once,
  "fewer bits": fewer_bits,
  "fewer channels": fewer_channels,
  "fewer channels, by cost": functools.partial(fewer_channels, cost="weights"),
  "fewer channels, by cost, in rounds, taught by the whole": functools.partial(
    fewer_channels, rounds=3, cost="weights", taught=True
  ),
  "zeros": zeros,
  "zeros, by LAMP": functools.partial(zeros, distribution="lamp"),
  "zeros, one threshold": functools.partial(zeros, distribution="global"),
  "zeros, all layers alike": functools.partial(zeros, **ALIKE),
  "narrower": narrower,
  "2:4": two_of_four,
}


def _layers(params):
  if "kernel" in params:
    yield params
    return
  for part in params.values():
    if isinstance(part, dict):
      yield from _layers(part)


def measure(args, settings, console):
  for seed in range(args.seeds):
    done = {
      (r["way"], r["share"]) for r in read_rows(args.out, settings=settings) if r["seed"] == seed
    }
    wanted = [("float", 1)] + [
      (way, share)
      for share in sorted(args.shares, reverse=True)
      for way in WAYS
      if way != "2:4" or share == min(args.shares)
    ]
    bench = Bench(args, seed)
    for way, share in wanted:
      if (way, share) in done:
        continue
      began = time.perf_counter()
      base = bench.kept("base", WIDTH, args.steps)
      whole = bench.graph(base[0])
      if way == "float":
        top1, size, graph = bench.top1(*base), float_bytes(whole), whole
      else:
        top1, size, graph = WAYS[way](bench, base, float_bytes(whole) // share)
      row = {
        "way": way,
        "share": share,
        "seed": seed,
        "top1": top1,
        "bytes": int(size),
        "macs": nn.count_macs(graph),
        "seconds": time.perf_counter() - began,
        "settings": settings,
      }
      append_row(args.out, row)
      console.print(f"{way}, 1/{share}: {100 * top1:.2f} %, {size:,} bytes")
      jax.clear_caches()


def table(measured):
  """Means over seeds, by share and way."""
  made = Table(title=f"{NAME} x{WIDTH:g} on glyphs: top-1 on the test set")
  for column in ("share of the bytes", "", "top-1, %", "kB", "multiply-adds"):
    made.add_column(column, justify="right" if column else "left")
  keys = dict.fromkeys((row["share"], row["way"]) for row in measured)
  for share, way in sorted(keys, key=lambda key: key[0]):
    own = [row for row in measured if (row["share"], row["way"]) == (share, way)]
    top1, size, macs = (np.mean([row[key] for row in own]) for key in ("top1", "bytes", "macs"))
    made.add_row(
      f"1/{share}", way, f"{100 * top1:.2f}", f"{size / 1000:.1f}", f"{macs / 1e6:.2f} M"
    )
  return made


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--shares", type=numbers, default=[4, 8, 16])
  parser.add_argument("--steps", type=int, default=1000)
  parser.add_argument("--tune", type=int, default=400)
  parser.add_argument("--seeds", type=int, default=1)
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("pruning.jsonl"))
  args = parser.parse_args()
  settings = {"steps": args.steps, "tune": args.tune, "zeros": "erk", "rate": 1.0}  # of rows alike
  console = Console()
  args.out.parent.mkdir(parents=True, exist_ok=True)
  measure(args, settings, console)
  console.print(table(read_rows(args.out, settings=settings)))


if __name__ == "__main__":
  main()
