"""Our convolutions beside XLA's, in one process: ``python benchmarks/ops.py --repeats 7``.

Both sides are timed alternately and the ratio is the median over the pairs, so a machine that is
busy with something else slows both down. A backward pass includes its forward pass and gives the
gradients by the input and by the kernel (only by the kernel for a stem, whose input is data).
"""

import argparse
import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from jaxcompress import ops


class Case(NamedTuple):
  """One convolution: a square kernel on images of one shape."""

  batch: int
  size: int
  channels: int
  kernel: int
  stride: int
  features: int
  groups: int = 1
  stem: bool = False


def depthwise(batch: int, size: int, channels: int, kernel: int, stride: int) -> Case:
  return Case(batch, size, channels, kernel, stride, channels, channels)


CASES = {
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
    Case(32, 32, 16, 1, 1, features=96),
    Case(32, 32, 144, 1, 1, features=24),
    Case(32, 8, 64, 1, 1, features=384),
    Case(32, 8, 384, 1, 1, features=64),
    Case(32, 4, 320, 1, 1, features=1280),
    Case(8, 56, 144, 1, 1, features=24),
  ),
  "standard": (
    Case(32, 32, 64, 3, 1, features=64),
    Case(32, 16, 128, 3, 1, features=128),
    Case(32, 8, 256, 3, 1, features=256),
    Case(32, 32, 64, 3, 2, features=128),
    Case(32, 32, 3, 3, 1, features=32, stem=True),
    Case(8, 224, 3, 3, 2, features=32, stem=True),
  ),
  "grouped": (
    Case(32, 16, 240, 1, 1, features=60, groups=3),
    Case(32, 16, 64, 3, 1, features=64, groups=8),
  ),
}
XLA = {"depthwise": "xla", "pointwise": "xla", "standard": "xla"}
SIDES = ("xla", "ours")


class Timing(NamedTuple):
  """Milliseconds of one side, one per repeat, and seconds until the first result."""

  milliseconds: list[float]
  first: float


def programs(case: Case, dtype: jnp.dtype):
  """The compiled forward pass and forward + backward pass, with their arguments."""
  keys = jax.random.split(jax.random.key(0), 2)
  shape = (case.kernel, case.kernel, case.channels // case.groups, case.features)
  x = jax.random.normal(keys[0], (case.batch, case.size, case.size, case.channels), dtype)
  kernel = jax.random.normal(keys[1], shape, dtype)

  def forward(x, kernel):
    return ops.conv(x, kernel, stride=case.stride, padding="SYMMETRIC", groups=case.groups)

  def both(x, kernel):
    y, pull_back = jax.vjp(forward, x, kernel)
    gradients = pull_back(y)
    return y, gradients[1:] if case.stem else gradients

  return {"forward": jax.jit(forward), "both": jax.jit(both)}, (x, kernel)


def clock(function, arguments) -> float:
  start = time.perf_counter()
  jax.block_until_ready(function(*arguments))
  return time.perf_counter() - start


def compare(case: Case, dtype: jnp.dtype, repeats: int) -> dict[str, dict[str, Timing]]:
  """Timings by program and side, the sides taking turns."""
  runs = {}
  for side in SIDES:
    functions, arguments = programs(case, dtype)
    with ops.formulations(**(XLA if side == "xla" else {})):
      for name, function in functions.items():
        compiled = function.lower(*arguments)
        start = time.perf_counter()
        compiled = compiled.compile()
        seconds = time.perf_counter() - start
        clock(compiled, arguments)
        runs.setdefault(name, {})[side] = compiled, arguments, Timing([], seconds)
  for _ in range(repeats):
    for sides in runs.values():
      for compiled, arguments, timing in sides.values():
        timing.milliseconds.append(clock(compiled, arguments) * 1e3)
  return {name: {side: run[2] for side, run in sides.items()} for name, sides in runs.items()}


def ratio(timings: dict[str, Timing]) -> float:
  """How many times faster ours is: the median over pairs of neighbouring runs."""
  pairs = zip(timings["xla"].milliseconds, timings["ours"].milliseconds, strict=True)
  return statistics.median(theirs / mine for theirs, mine in pairs)


def describe(case: Case) -> str:
  shape = f"{case.batch}x{case.size}x{case.size}x{case.channels}"
  return f"{shape} > {case.features} k{case.kernel} s{case.stride}"


def row(case: Case, results: dict[str, dict[str, Timing]]) -> list[str]:
  cells = [describe(case)]
  for timings in results.values():
    cells += [f"{statistics.median(timings[side].milliseconds):.2f}" for side in SIDES]
    cells.append(f"{ratio(timings):.1f}x")
  return [*cells, f"{results['both']['ours'].first:.1f}"]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--repeats", type=int, default=7, help="timed runs of each program")
  parser.add_argument("--kind", choices=[*CASES, "all"], default="all")
  parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
  options = parser.parse_args()
  console = Console()
  for kind in CASES if options.kind == "all" else [options.kind]:
    table = Table(title=f"{kind}, {options.dtype}, ms ({jax.default_backend()})", min_width=88)
    table.add_column("images > features")
    for name in ("forward", "forward + backward"):
      table.add_column(f"XLA {name}", justify="right")
      table.add_column("ours", justify="right")
      table.add_column("ratio", justify="right", style="bold")
    table.add_column("compile s", justify="right")
    for case in CASES[kind]:
      table.add_row(*row(case, compare(case, jnp.dtype(options.dtype), options.repeats)))
    console.print(table)


if __name__ == "__main__":
  main()
