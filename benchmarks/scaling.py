"""How a distillation step scales over devices: what it sends, computes and holds on each.

    python benchmarks/scaling.py [--devices 1,2,8] [--batch 16]

Where there is one CPU, the devices are virtual, and only what XLA says of the compiled programs is
printed: bytes that collectives send, FLOPs and memory per device, with the batch per device held
constant. Nothing is allocated for that. Where there are real devices, steps are timed as well. Then
comes an estimate for 256 chips with its arithmetic.
"""

import argparse
import math
import statistics

from compiled import DIM, ROUNDS, compiled_step, recipe_for, sample, state_for

import jax  # isort: skip  # after it has been told how many devices there are
from programs import Cost, cost_of
from rich.console import Console
from rich.table import Table
from shared import in_turns, numbers, stateful

from jaxcompress import training
from jaxcompress.nn import count_parameters, init_variables

# Google's figures of a TPU v5e chip (cloud.google.com/tpu/docs/v5e), and two assumptions
CHIPS = 256
PEAK_FLOPS, HBM_BYTES, HBM_RATE, LINK_RATE = 197e12, 16e9, 819e9, 200e9
HOPS, SECONDS_PER_HOP = 2 * (16 - 1), 1e-6  # around both rings of a 16 x 16 torus; assumed latency


def weak_scaling(devices: list[int], batch: int, console: Console) -> dict[int, Cost]:
  """One row for each number of devices."""
  real = jax.default_backend() != "cpu"
  table = Table(title=f"one step, {batch} images on each device, CRD with n = 50,000")
  columns = ["devices", "collectives", "kB sent", "MFLOP", "MB held"] + ["ms"] * real
  for column in columns:
    table.add_column(column, justify="right")
  recipe, costs = recipe_for(50_000), {}
  for count in devices:
    step = compiled_step(recipe, count, batch, 50_000)
    cost = costs[count] = cost_of(step)
    row = [
      count,
      cost.collectives,
      sum(cost.sent.values()) / 1e3,
      cost.flops / 1e6,
      cost.held / 1e6,
    ]
    if real:
      mesh, given = training.make_mesh(count), sample(batch * count, 50_000)
      state = training.shard(state_for(recipe, given), mesh)
      call = stateful(step, state, training.shard_batch(given, mesh))
      row.append(1e3 * statistics.median(in_turns({"step": call}, ROUNDS)["step"][1:]))
    table.add_row(
      *(f"{value:,.0f}" if isinstance(value, int) else f"{value:,.1f}" for value in row)
    )
  console.print(table)
  first, last = costs[devices[0]], costs[devices[-1]]
  console.print(
    f"FLOPs per device, {devices[-1]} over {devices[0]}: {last.flops / first.flops:.2f}"
  )
  for kind, sent in last.sent.items():
    console.print(f"  {kind}: {sent:,} bytes on {devices[-1]} devices")
  return costs


def estimate(cost: Cost, devices: int, batch: int, console: Console) -> None:
  """The step on 256 chips, from what the compiled step does, by arithmetic that is printed."""
  recipe = recipe_for(1_281_167)
  student, teacher = (count_of(m) for m in (recipe.student, recipe.teachers[0]))
  rows, share = math.ceil(1_281_167 / CHIPS), (CHIPS - 1) / CHIPS
  reduced = cost.sent["all-reduce"]
  latency = cost.collectives * HOPS * SECONDS_PER_HOP
  lines = [
    f"Estimate for {CHIPS} chips (TPU v5e) and n = 1,281,167; not measured.",
    f"  student, teacher   {student:,} and {teacher:,} parameters, on every chip",
    f"  banks on a chip    2 x {rows:,} rows x {DIM} x 4 B = {2 * rows * DIM * 4 / 1e6:.1f} MB of"
    f" {HBM_BYTES / 1e9:.0f} GB, in {CHIPS} strata",
    f"  all-reduce         {reduced:,} B a step, as compiled for {devices} devices (gradients,"
    " BatchNorm, ranges), on any number of chips",
    f"  latency            {cost.collectives} collectives x {HOPS} hops x"
    f" {SECONDS_PER_HOP * 1e6:.0f} us (assumed) = {latency * 1e3:.2f} ms, if none overlap",
  ]
  for images in (batch, 16 * batch):
    total, times = CHIPS * images, images / batch
    gathered = total * (2 * DIM + 1) * 4
    ring = 2 * share * (reduced + gathered)
    flops, touched = times * cost.flops, times * cost.touched
    compute, wire = max(flops / PEAK_FLOPS, touched / HBM_RATE), ring / LINK_RATE
    step = compute + wire + latency
    lines += [
      f"  {images} images on a chip, {total:,} in a batch:",
      f"    embeddings       {total:,} x (2 x {DIM} + 1) x 4 B = {gathered / 1e6:.2f} MB gathered, and"
      " as many of gradients summed, whatever n and K are",
      f"    on a chip's link 2 x {share:.3f} x ({reduced / 1e6:.2f} + {gathered / 1e6:.2f}) ="
      f" {ring / 1e6:.2f} MB / {LINK_RATE / 1e9:.0f} GB/s = {wire * 1e3:.3f} ms",
      f"    arithmetic       {flops / 1e9:.2f} GFLOP / {PEAK_FLOPS / 1e12:.0f} TFLOP/s ="
      f" {flops / PEAK_FLOPS * 1e3:.3f} ms; {touched / 1e6:,.0f} MB touched (as fused for a CPU) /"
      f" {HBM_RATE / 1e9:.0f} GB/s = {touched / HBM_RATE * 1e3:.2f} ms",
      f"    step             {compute * 1e3:.2f} + {wire * 1e3:.2f} + {latency * 1e3:.2f} ="
      f" {step * 1e3:.2f} ms: {total / step / 1e6:.2f} million images/s,"
      f" {100 * compute / step:.0f} % of the time for arithmetic and memory",
    ]
  console.print("\n".join(lines), highlight=False, soft_wrap=True)


def count_of(model) -> int:
  """Parameters of a model for 32 px."""
  init = lambda: init_variables(model, jax.random.key(0), (32, 32, 3))  # noqa: E731
  return count_parameters(jax.eval_shape(init)["params"])


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--devices", type=numbers, default=[1, 2, 8], help="numbers of devices")
  parser.add_argument("--batch", type=int, default=16, help="images on each device")
  args = parser.parse_args()
  console = Console()
  counts = [n for n in args.devices if n <= len(jax.devices())]
  console.print(f"{len(jax.devices())} devices ({jax.devices()[0].platform})")
  costs = weak_scaling(counts, args.batch, console)
  estimate(costs[counts[-1]], counts[-1], args.batch, console)


if __name__ == "__main__":
  main()
