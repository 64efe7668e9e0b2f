"""Depthwise convolutions beside PyTorch's, in one process: ``python benchmarks/depthwise.py --repeats 30``.

The shapes of ``benchmarks/ops.py``. PyTorch runs channels last, which is its faster layout for them.
Both sides take turns, with a pause in which the other's threads fall asleep. Times are the least of
all turns: two pools of threads on few cores make others of ten times as long. Backward passes include
the forward pass and give both gradients.

Needs ``pip install ".[bench]"``.
"""

import argparse
from functools import partial

import jax
import numpy as np
import torch
from ops import KINDS, backward
from rich.console import Console
from rich.table import Table
from shared import in_turns

from jaxcompress import ops as ours

PAUSE = 0.02  # seconds


def torch_runs(case, x, kernel):
  """PyTorch's forward pass, and forward and backward."""
  image = torch.tensor(x).permute(0, 3, 1, 2)  # NHWC in memory
  weight = torch.tensor(kernel.transpose(3, 2, 0, 1)).to(memory_format=torch.channels_last)
  options = {"stride": case.stride, "padding": case.kernel // 2, "groups": case.groups}

  def forward():
    with torch.no_grad():
      return torch.nn.functional.conv2d(image, weight, **options)

  def both():
    inputs = [array.detach().requires_grad_() for array in (image, weight)]
    y = torch.nn.functional.conv2d(*inputs, **options)
    return torch.autograd.grad(y, inputs, y.detach())

  return forward, both


def jax_runs(case, arguments):
  """Ours."""
  programs = (jax.jit(case.ours), jax.jit(backward(case.ours, case.stem)))
  return [partial(run, *arguments) for run in programs]


def measure(case, repeats):
  """For both passes: milliseconds, theirs and ours, and our share of their time."""
  arguments = case.arguments("float32")
  theirs, mine = torch_runs(case, *map(np.asarray, arguments)), jax_runs(case, arguments)
  np.testing.assert_allclose(theirs[0]().permute(0, 2, 3, 1), mine[0](), rtol=1e-3, atol=1e-3)
  found = []
  for pair in zip(theirs, mine, strict=True):
    times = in_turns(dict(zip(("theirs", "ours"), pair, strict=True)), repeats, pause=PAUSE)
    least = [1e3 * min(seconds) for seconds in times.values()]
    found += [*least, least[1] / least[0]]
  return found


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--repeats", type=int, default=30)
  repeats = parser.parse_args().repeats
  ours.keep_freed_memory()
  table = Table(title=f"depthwise, float32, ms on {jax.default_backend()}; ours / PyTorch's")
  table.add_column("images > features", no_wrap=True)
  for name in ("forward", "both"):
    for column in (f"PyTorch {name}", "ours", "ratio"):
      table.add_column(column, justify="right")
  for case in KINDS["depthwise"]:
    found = measure(case, repeats)
    cells = [f"{n:.2f}" + ("x" if i % 3 == 2 else "") for i, n in enumerate(found)]
    table.add_row(str(case), *cells)
  Console(width=100).print(table)


if __name__ == "__main__":
  main()
