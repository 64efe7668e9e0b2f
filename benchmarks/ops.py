"""Our operations beside XLA's, in one process: ``python benchmarks/ops.py --repeats 7``.

The peers are ``lax.conv_general_dilated`` and ``flax.linen.BatchNorm``. Both sides take turns and
a ratio is the median over pairs of neighbouring runs, so a machine that is busy with something
else slows both down. Backward passes include the forward pass and give all gradients (for a stem,
whose input is data, only the kernel's).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen
import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table
from shared import in_turns, median_ratio

from jaxcompress import ops
from jaxcompress.nn.epilogue import norm_act

XLA = {"depthwise": "xla", "pointwise": "xla", "standard": "xla"}
SIDES = ("XLA", "ours")


class Conv(NamedTuple):
  """One convolution with a square kernel on square images."""

  batch: int
  size: int
  channels: int
  kernel: int
  stride: int
  features: int
  groups: int = 1
  stem: bool = False

  def __str__(self):
    image = f"{self.batch}x{self.size}x{self.size}x{self.channels}"
    return f"{image} > {self.features} k{self.kernel} s{self.stride}"

  def arguments(self, dtype):
    keys = jax.random.split(jax.random.key(0), 2)
    kernel = (self.kernel, self.kernel, self.channels // self.groups, self.features)
    image = (self.batch, self.size, self.size, self.channels)
    return jax.random.normal(keys[0], image, dtype), jax.random.normal(keys[1], kernel, dtype)

  def ours(self, x, kernel):
    return ops.conv(x, kernel, stride=self.stride, padding="SYMMETRIC", groups=self.groups)

  def xla(self, x, kernel):
    with ops.formulations(**XLA):
      return self.ours(x, kernel)


class Norm(NamedTuple):
  """Batch normalization in training."""

  batch: int
  size: int
  channels: int
  stem: bool = False

  def __str__(self):
    return f"{self.batch}x{self.size}x{self.size}x{self.channels}"

  def arguments(self, dtype):
    x = jax.random.normal(jax.random.key(0), (self.batch, self.size, self.size, self.channels))
    return x.astype(dtype), jnp.ones(self.channels), jnp.zeros(self.channels)

  def ours(self, x, scale, bias):
    zeros, ones = jnp.zeros_like(scale), jnp.ones_like(scale)
    return norm_act(x, scale, bias, zeros, ones, True, 1e-5, None)[0]

  def xla(self, x, scale, bias):
    layer = flax.linen.BatchNorm(use_running_average=False, epsilon=1e-5, dtype=x.dtype)
    stats = {"mean": jnp.zeros_like(scale), "var": jnp.ones_like(scale)}
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
    return layer.apply(variables, x, mutable=["batch_stats"])[0]


def depthwise(batch: int, size: int, channels: int, kernel: int, stride: int) -> Conv:
  return Conv(batch, size, channels, kernel, stride, channels, channels)


pointwise = partial(Conv, kernel=1, stride=1)
KINDS = {
  "depthwise": (
    depthwise(32, 32, 96, kernel=3, stride=1),
    depthwise(32, 32, 144, kernel=3, stride=2),
    depthwise(32, 8, 384, kernel=3, stride=1),
    depthwise(8, 112, 96, kernel=3, stride=2),
    depthwise(8, 56, 144, kernel=3, stride=1),
    depthwise(8, 14, 672, kernel=5, stride=1),
    depthwise(32, 16, 192, kernel=7, stride=1),
  ),
  "pointwise": (
    pointwise(32, 32, 16, features=96),
    pointwise(32, 32, 144, features=24),
    pointwise(32, 8, 64, features=384),
    pointwise(32, 8, 384, features=64),
    pointwise(32, 4, 320, features=1280),
    pointwise(8, 56, 144, features=24),
  ),
  "standard": (
    Conv(32, 32, 64, kernel=3, stride=1, features=64),
    Conv(32, 16, 128, kernel=3, stride=1, features=128),
    Conv(32, 8, 256, kernel=3, stride=1, features=256),
    Conv(32, 32, 3, kernel=3, stride=1, features=32, stem=True),
    Conv(8, 224, 3, kernel=3, stride=2, features=32, stem=True),
  ),
  "grouped": (
    pointwise(32, 16, 240, features=60, groups=3),
    Conv(32, 16, 64, kernel=3, stride=1, features=64, groups=8),
  ),
  "batch_norm": (Norm(32, 32, 144), Norm(32, 16, 192), Norm(32, 4, 960), Norm(8, 56, 144)),
}


class Runs(NamedTuple):
  """A compiled program of one side, its milliseconds per repeat, and seconds of compilation."""

  program: Callable
  milliseconds: list[float]
  compilation: float


def backward(forward: Callable, stem: bool) -> Callable:
  def both(*arguments):
    y, pull_back = jax.vjp(forward, *arguments)
    gradients = pull_back(y)
    return y, gradients[1:] if stem else gradients

  return both


def compare(case: Conv | Norm, dtype: jnp.dtype, repeats: int) -> list[dict[str, Runs]]:
  """Runs of both sides: first of the forward pass, then of forward and backward."""
  arguments = case.arguments(dtype)
  programs = [{}, {}]
  for side, forward in zip(SIDES, (case.xla, case.ours), strict=True):
    for place, function in zip(programs, (forward, backward(forward, case.stem)), strict=True):
      lowered = jax.jit(function).lower(*arguments)
      start = time.perf_counter()
      compiled = lowered.compile()
      place[side] = Runs(compiled, [], time.perf_counter() - start)
      jax.block_until_ready(compiled(*arguments))
  for sides in programs:
    calls = {side: partial(runs.program, *arguments) for side, runs in sides.items()}
    for side, seconds in in_turns(calls, repeats).items():
      sides[side].milliseconds.extend(1e3 * s for s in seconds)
  return programs


def row(case: Conv | Norm, programs: list[dict[str, Runs]]) -> list[str]:
  cells = [str(case)]
  for sides in programs:
    cells += [f"{statistics.median(sides[side].milliseconds):.2f}" for side in SIDES]
    cells.append(f"{median_ratio(*(sides[side].milliseconds for side in SIDES)):.1f}x")
  return [*cells, f"{programs[1]['ours'].compilation:.1f}"]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--repeats", type=int, default=7, help="timed runs of each program")
  parser.add_argument("--kind", choices=[*KINDS, "all"], default="all")
  parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
  options = parser.parse_args()
  ops.keep_freed_memory()  # for both sides; without it the kernel's page faults are timed
  console = Console(width=max(Console().width, 100))
  for kind in KINDS if options.kind == "all" else [options.kind]:
    table = Table(title=f"{kind}, {options.dtype}, ms on {jax.default_backend()}")
    table.add_column("images > features", no_wrap=True)
    for name in ("forward", "both"):
      table.add_column(f"XLA {name}", justify="right")
      table.add_column("ours", justify="right")
      table.add_column("ratio", justify="right", style="bold")
    table.add_column("compile s", justify="right")
    for case in KINDS[kind]:
      table.add_row(*row(case, compare(case, jnp.dtype(options.dtype), options.repeats)))
    console.print(table)


if __name__ == "__main__":
  main()
