"""Accuracy of networks that were made smaller: fewer channels, zeros, fewer bits, and all at once.

    python benchmarks/pruning.py --out runs/pruning.jsonl [--data glyphs] [--models mobilenet_v2,resnet20]
        [--goals 75%,90%,1/2macs,1/4,1/8,1/16] [--ways zeros,narrower,...]
        [--steps 1000] [--tune 400] [--seeds 1]

A network is trained in float, and every way makes it as small as a goal says and trains on for
``--tune`` steps. Goals are a share of zeros in the weights that may be zero (all but those of the first,
the last and the depthwise layers), a share of the multiply-adds, or one of the bytes. Networks that are made
of nothing, narrower ones and those of the shape that pruning found, are trained from scratch for as many
steps as the others in sum. Channels go by their Taylor importance, zeros by AGP, bits by measured
sensitivity, LSQ below 5.

Bytes are those of weights, scales and biases: 4 for a float32; a zeroed layer has a bit for each
weight that says whether it is there, and 2:4 two bits for each weight that is; integers as
``quantize.model_bytes`` counts them. Accuracy is that of the integer models in exact evaluation, or
of the float models, on all test images. Networks choose nothing by them; the settings below were
tried on those of the glyphs, those of "all at once" (loss, mean bits) among two or three values.

Each row is a line of the output file, and rows that are there are not measured again; so it can be
killed and started again. The trained networks are kept beside it.
"""

import argparse
import dataclasses
import functools
import itertools
import pathlib
import re
import time
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from shared import append_row, read_rows, words
from trainer import Trainer

from jaxcompress import distill, models, nn, ops, prune, quantize
from jaxcompress.nn.select import layers_of
from jaxcompress.pipeline import PRESETS, networks
from jaxcompress.quantize.analysis.budget import choose_bits
from jaxcompress.quantize.storage import packed_bytes

WIDTHS = {"mobilenet_v2": 0.35, "resnet8": 1.0, "resnet20": 1.0}  # and networks without widths
CHANNELS = (16, 16, 32, 64)  # of ResNets with a width of 1
TEACHER_WIDTH = 0.75
BETWEEN = 1 / 8  # of the steps, between two rounds of removing channels
SCORED, MEASURED = 1024, 256
TAUGHT = "kd:0.9,labels:1"  # the loss of what follows a teacher
BITS_RATE = 0.3  # of the learning rate, for networks that lose bits and nothing else
FROZEN = 8  # the last eighth of the steps has BatchNorm frozen; at higher rates few bits diverge so
MEAN_BITS = 3  # that channels leave room for, where bits are chosen too
BITS = (8, 6, 5, 4, 3, 2)
ALIKE = {"distribution": "uniform"}
KEEP = ("first", "last", "depthwise")  # the layers whose weights stay, where a network has them
OF = {"zeros": "of zeros", "macs": "of the multiply-adds", "bytes": "of the bytes"}


class Goal(NamedTuple):
  """The size that a network is to have.

  Attributes:
    name: as it was asked for: ``75%`` zeros, ``1/2macs``, ``1/4`` of the bytes.
    part: that is left.
    of: what is counted: zeros, macs or bytes.
  """

  name: str
  part: float
  of: str

  @classmethod
  def parse(cls, name):
    found = re.fullmatch(r"(?P<zeros>\d+)%|1/(?P<bytes>\d+)|1/(?P<macs>\d+)macs", name)
    if found is None:
      raise argparse.ArgumentTypeError(f"goals: {name!r} must be like 75%, 1/2macs or 1/4.")
    kind, number = found.lastgroup, int(found[found.lastgroup])
    return cls(name, 1 - number / 100 if kind == "zeros" else 1 / number, kind)

  def size(self, graph):
    """Of a float network, in what the goal counts."""
    return nn.count_macs(graph) if self.of == "macs" else float_bytes(graph)

  def limit(self, graph):
    """The size that the network may have."""
    return self.part * self.size(graph)


class Bench(Trainer):
  """The data, and how networks are trained on them."""

  def __init__(self, args, name, seed):
    super().__init__(Console(quiet=True), name=args.data)
    self.args, self.name, self.seed, self.preset = args, name, seed, PRESETS["default"]
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(self.data.train))[:SCORED])
    self.images, self.labels = self.data.train.images[chosen], self.data.train.labels[chosen]

  def network(self, width):
    shape, count = self.data.image_shape, len(self.data.classes)
    if width is None or not self.name.startswith("resnet"):
      return networks.build(self.name, count, shape, width, None, self.preset.network)
    widths = tuple(max(1, round(width * channels)) for channels in CHANNELS)
    module = models.resnet_cifar(int(self.name.removeprefix("resnet")), count, widths=widths)
    return networks.network_of(self.name, width, module, shape)

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
    title = f"{self.args.data}-{self.name}-{name}-{steps}-{self.seed}"
    path = self.args.out.with_suffix("") / f"{title}.safetensors"
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


def from_scratch(bench, module):
  """A network that is made of nothing."""
  state = bench.tuned(module, bench.args.steps + bench.args.tune)
  graph = bench.graph(module)
  return bench.top1(module, state.variables), float_bytes(graph), graph


def narrower(bench, base, goal):
  """The widest network that fits, from scratch."""
  most, low, high = goal.limit(bench.graph(base[0])), 1, round(100 * WIDTHS[bench.name])
  while low < high:  # hundredths
    middle = (low + high + 1) // 2
    fits = goal.size(bench.network(middle / 100).summary.graph) <= most
    low, high = (middle, high) if fits else (low, middle - 1)
  return from_scratch(bench, bench.network(low / 100).module)


def without_channels(bench, base, goal, *, by_cost, rounds=1, teacher=None, between=0):
  """The network without the channels that are too many, those that matter least for their cost."""
  cost = ("macs" if goal.of == "macs" else "weights") if by_cost else None

  def train(module, variables):
    return bench.tuned(module, between, start=variables, teacher=teacher).variables

  fewest = prune.fit_channels(bench.importance(*base), lambda graph: False, cost=cost)
  least = goal.size(bench.graph(prune.remove_channels(*base, fewest)[0]))
  most = max(goal.limit(bench.graph(base[0])), least)
  return prune.remove_in_steps(
    *base, bench.importance, goal.size, most, steps=rounds, cost=cost, train=train
  )


def fewer_channels(bench, base, goal, *, by_cost=False, rounds=1, taught=False):
  """Channels removed in rounds, between which the network is trained on."""
  teacher, between = base if taught else None, round(BETWEEN * bench.args.tune)
  module, variables = without_channels(
    bench, base, goal, by_cost=by_cost, rounds=rounds, teacher=teacher, between=between
  )
  left = bench.args.tune - (rounds - 1) * between
  state = bench.tuned(module, left, start=variables, teacher=teacher)
  graph = bench.graph(module)
  return bench.top1(module, state.variables), float_bytes(graph), graph


def same_shape(bench, base, goal):
  """The shape that removing channels by their cost leaves, from scratch."""
  return from_scratch(bench, without_channels(bench, base, goal, by_cost=True)[0])


def zeros(bench, base, goal, *, taught=False, **shares):
  """Zeros shared out among layers; the second half of the steps trains what is left.

  Every output keeps a weight, where there are so many.
  """
  module, variables = base
  graph = bench.graph(module)
  weights = sum(size for size, _ in sizes(graph).values())
  rest = float_bytes(graph) - 4 * weights + -(-weights // 8)
  sparsity = 1 - goal.part
  if goal.of == "bytes":
    sparsity = float(np.clip(1 - (goal.limit(graph) - rest) / (4 * weights), 0, 0.99))
  steps = bench.args.tune
  kinds = frozenset().union(*(layer.kinds for layer in layers_of(graph).values()))
  outputs = sum(channels for _, channels in sizes(graph).values())
  wrap = lambda optimizer: prune.magnitude(  # noqa: E731
    optimizer,
    sparsity=sparsity,
    schedule=prune.agp_within(steps, choices=24),
    rules=(prune.Rule(match="|".join(kind for kind in KEEP if kind in kinds)),),
    floor=int(shares != ALIKE and outputs <= (1 - sparsity) * weights),
    **shares,
  )
  teacher = base if taught else None
  state = bench.tuned(module, steps, start=variables, wrap=wrap, teacher=teacher)
  left = sum(int(np.count_nonzero(leaf["kernel"])) for leaf in _layers(state.params))
  return bench.top1(module, state.variables), 4 * left + rest, graph


def two_of_four(bench, base, goal):
  """Half of the weights; there is no other share."""
  module, variables = base
  graph = bench.graph(module)
  state = bench.tuned(module, bench.args.tune, start=variables, wrap=prune.n_m)
  masks = prune.masks_of(state.opt_state)
  gone = sum(int((~np.asarray(mask)).sum()) for mask in masks.values())
  left = sum(int(mask.size) for mask in masks.values()) - gone
  size = float_bytes(graph) - 4 * gone + left // 4
  return bench.top1(module, state.variables), size, graph


def fewer_bits(bench, base, goal):
  module, variables = base
  most = goal.limit(bench.graph(module))
  quantized = bench.integers(module, variables, most, bench.args.tune)
  return bench.integer_top1(quantized), quantize.model_bytes(quantized), bench.graph(module)


def all_at_once(bench, base, goal):
  """Channels, bits and a teacher; integers from a third of the steps on."""
  module, variables = base
  most = goal.limit(bench.graph(module))
  keep = prune.fit_channels(
    bench.importance(module, variables), lambda graph: integer_bytes(graph, MEAN_BITS) <= most
  )
  module, variables = prune.remove_channels(module, variables, keep)
  teacher = bench.kept("teacher", TEACHER_WIDTH, bench.args.steps)
  steps = bench.args.tune
  quantized = bench.integers(module, variables, most, steps, start_step=steps // 3, teacher=teacher)
  return bench.integer_top1(quantized), quantize.model_bytes(quantized), bench.graph(module)


ANY, BYTES, SIZES = ("zeros", "bytes"), ("bytes",), ("macs", "bytes")
WAYS = {  # and the goals that each can reach
  "all at once, distilled": (all_at_once, BYTES),
  "fewer bits": (fewer_bits, BYTES),
  "fewer channels": (fewer_channels, SIZES),
  "fewer channels, by cost": (functools.partial(fewer_channels, by_cost=True), SIZES),
  "fewer channels, by cost, in rounds, taught by the whole": (
    functools.partial(fewer_channels, by_cost=True, rounds=3, taught=True),
    SIZES,
  ),
  "the same shape from scratch": (same_shape, SIZES),
  "narrower": (narrower, SIZES),
  "zeros": (zeros, ANY),
  "zeros, taught by the whole": (functools.partial(zeros, taught=True), ANY),
  "zeros, by LAMP": (functools.partial(zeros, distribution="lamp"), ANY),
  "zeros, one threshold": (functools.partial(zeros, distribution="global"), ANY),
  "zeros, all layers alike": (functools.partial(zeros, **ALIKE), ANY),
  "2:4": (two_of_four, ("zeros",)),
}
GOALS = "75%,90%,1/2macs,1/4,1/8,1/16"


def trials(args, name):
  """Ways and goals of a network, the easier goals first."""
  for goal in args.goals:
    for way in args.ways:
      if goal.of not in WAYS[way][1] or (way == "narrower" and name not in WIDTHS):
        continue
      if way == "2:4" and goal != next(one for one in args.goals if one.of == "zeros"):
        continue  # half of the weights: there is no other share
      if way == "all at once, distilled" and WIDTHS.get(name, 1.0) >= TEACHER_WIDTH:
        continue  # its teacher is a wider one
      yield way, goal


def _layers(params):
  if "kernel" in params:
    yield params
    return
  for part in params.values():
    if isinstance(part, dict):
      yield from _layers(part)


def measure(args, settings, console):
  for name, seed in itertools.product(args.models, range(args.seeds)):
    known = {"model": name, "seed": seed, "data": args.data, "settings": settings}
    done = {(row["way"], row["goal"]) for row in read_rows(args.out, **known)}
    bench = Bench(args, name, seed)
    for way, goal in [("float", None), *trials(args, name)]:
      goal_name = goal.name if goal else ""
      if (way, goal_name) in done:
        continue
      began = time.perf_counter()
      base = bench.kept("base", WIDTHS.get(name), args.steps)
      if goal is None:
        graph = bench.graph(base[0])
        top1, size = bench.top1(*base), float_bytes(graph)
      else:
        top1, size, graph = WAYS[way][0](bench, base, goal)
      row = {"way": way, "goal": goal_name, "top1": top1, "bytes": int(size)}
      row |= {"macs": nn.count_macs(graph), "seconds": time.perf_counter() - began} | known
      append_row(args.out, row)
      console.print(f"{name}, {way}, {goal_name}: {100 * top1:.2f} %, {size:,} bytes")
      jax.clear_caches()


def table(measured, title):
  """Means over seeds, by goal and way."""
  made = Table(title=title)
  for column in ("", "way", "top-1, %", "kB", "multiply-adds"):
    made.add_column(column, justify="right" if column[2:] else "left")
  order = ["", *dict.fromkeys(row["goal"] for row in measured if row["goal"])]
  keys = dict.fromkeys((row["goal"], row["way"]) for row in measured)
  for goal, way in sorted(keys, key=lambda key: order.index(key[0])):
    own = [row for row in measured if (row["goal"], row["way"]) == (goal, way)]
    top1, size, macs = (np.mean([row[key] for row in own]) for key in ("top1", "bytes", "macs"))
    of = OF[Goal.parse(goal).of] if goal else "the whole"
    words = f"{goal.removesuffix('macs')} {of}".strip()
    made.add_row(words, way, f"{100 * top1:.2f}", f"{size / 1000:.1f}", f"{macs / 1e6:.2f} M")
  return made


def known_ways(text):
  chosen = [way for way in WAYS if way in text.split(";")] if text else list(WAYS)
  if len(chosen) != len(text.split(";") if text else WAYS):
    raise argparse.ArgumentTypeError(f"ways: {text!r} must be among {'; '.join(WAYS)}.")
  return chosen


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", default="glyphs", help="a data set's name")
  parser.add_argument("--models", type=words, default=["mobilenet_v2"])
  parser.add_argument(
    "--goals", type=lambda text: [Goal.parse(name) for name in words(text)], default=GOALS
  )
  parser.add_argument("--ways", type=known_ways, default="", help="names with ; between, or all")
  parser.add_argument("--steps", type=int, default=1000)
  parser.add_argument("--tune", type=int, default=400)
  parser.add_argument("--seeds", type=int, default=1)
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("pruning.jsonl"))
  args = parser.parse_args()
  settings = {"steps": args.steps, "tune": args.tune}  # of rows alike
  console = Console()
  ops.keep_freed_memory()
  args.out.parent.mkdir(parents=True, exist_ok=True)
  measure(args, settings, console)
  for name in args.models:
    rows = read_rows(args.out, model=name, data=args.data, settings=settings)
    console.print(table(rows, f"{name} on {args.data}: top-1 on the test set"))


if __name__ == "__main__":
  main()
