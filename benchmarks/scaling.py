"""How a distillation step scales over devices: what it sends, computes and holds on each.

    python benchmarks/scaling.py [--devices 1,2,8] [--batch 16] [--examples 50000,1281167]
      [--parts scaling,banks,steps,guard]

Where there is one CPU, the devices are virtual, and only what XLA says of the compiled programs is
printed: bytes that collectives send, FLOPs and memory per device, with the batch per device held
constant. Nothing is allocated for that. Where there are real devices, steps are timed as well. Then
come an estimate for 256 chips with its arithmetic; CRD's banks, which must send as much at any number
of examples, alone and in the whole step on one device; and what it costs to leave batches out that
are not finite.
"""

import argparse
import math
import os
import re
import statistics
import time
from collections import Counter
from typing import NamedTuple
from unittest import mock

if (
  os.environ.get("JAX_PLATFORMS", "cpu") == "cpu"
):  # before jax is imported; real devices ignore it
  os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
  )

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table

from jaxcompress import distill, models, quantize, training
from jaxcompress.nn import Endpoints, count_parameters
from jaxcompress.training import step as step_module

KINDS = "all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all"
COLLECTIVE = re.compile(rf"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ({KINDS})(?:-start)?\(", re.MULTILINE)
BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1, "s8": 1, "u8": 1}
DIM, NEGATIVES, ROUNDS = 128, 4096, 7

# Google's figures of a TPU v5e chip (cloud.google.com/tpu/docs/v5e), and two assumptions
CHIPS = 256
PEAK_FLOPS, HBM_BYTES, HBM_RATE, LINK_RATE = 197e12, 16e9, 819e9, 200e9
HOPS, SECONDS_PER_HOP = 2 * (16 - 1), 1e-6  # around both rings of a 16 x 16 torus; assumed latency


class Cost(NamedTuple):
  """What one device does in one step.

  Attributes:
    sent: bytes of the results of collectives, by kind.
    collectives: how many there are.
    flops: as XLA counts them.
    touched: bytes read and written, as XLA counts them.
    held: bytes of arguments and temporaries.
  """

  sent: Counter
  collectives: int
  flops: float
  touched: float
  held: int


def cost_of(compiled) -> Cost:
  """What XLA says about a compiled program."""
  found = COLLECTIVE.findall(compiled.as_text())
  sent = Counter()
  for result, kind in found:
    for name, dims in re.findall(r"(\w+)\[([\d,]*)\]", result):
      sent[kind] += BYTES[name] * math.prod(int(n) for n in dims.split(",") if n)
  facts, memory = compiled.cost_analysis(), compiled.memory_analysis()
  held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  return Cost(sent, len(found), facts["flops"], facts["bytes accessed"], held)


def sample(batch: int, examples: int) -> dict[str, np.ndarray]:
  """A batch of random 32 px images."""
  rng = np.random.default_rng(0)
  return {
    "image": rng.normal(size=(batch, 32, 32, 3)).astype(np.float32),
    "label": rng.integers(0, 100, batch).astype(np.int32),
    "index": rng.integers(0, examples, batch).astype(np.int32),
  }


def recipe_for(examples: int) -> training.Recipe:
  """MobileNetV2 x0.5 at int8, taught by a ResNet with KD and CRD."""
  loss = distill.chain(
    distill.cross_entropy(),
    distill.kd(4.0),
    distill.crd(examples, dim=DIM, negatives=NEGATIVES, formulation="gather"),
  )
  return training.Recipe(
    student=models.mobilenet_v2(100, 0.5, layout="short"),
    teachers=(models.resnet8x4(100),),
    loss=loss,
    quantize=quantize.int8(),
    optimizer=optax.sgd(0.05, momentum=0.9),
  )


def state_for(recipe: training.Recipe, batch: dict[str, np.ndarray]) -> training.CompressState:
  """The first state, its teacher untrained."""
  variables = training.init_variables(recipe.teachers[0], jax.random.key(1), (32, 32, 3))
  return training.init_state(recipe, jax.random.key(0), batch, teacher_variables=(variables,))


def compiled_step(recipe: training.Recipe, devices: int, batch: int, examples: int):
  """The step over devices, compiled for shapes: ``batch`` images on each."""
  mesh = training.make_mesh(devices)
  given = sample(batch * devices, examples)
  state = training.shard(jax.eval_shape(lambda: state_for(recipe, given)), mesh)
  split = training.batch_sharding(mesh)
  shapes = {k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split) for k, x in given.items()}
  return training.distill_step.lower(state, shapes).compile()


def clock() -> float:
  """Seconds; on a CPU those of all its cores, which tell percents apart while others use them."""
  return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()


def timed(step, state, batch) -> float:
  """Seconds of a step, the median of a few."""
  times = []
  for _ in range(ROUNDS):
    start = time.perf_counter()
    state, _ = jax.block_until_ready(step(state, batch))
    times.append(time.perf_counter() - start)
  return statistics.median(times[1:])


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
      row.append(1e3 * timed(step, state, training.shard_batch(given, mesh)))
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


def bank_step(examples: int, mesh):
  """CRD's update, its gradient by the features, and the guard; and what it takes.

  The gradients of its linear layers are left out: they are summed as those of all parameters are.
  """
  batch = 64
  loss = distill.crd(examples, dim=DIM, negatives=NEGATIVES, formulation="gather")
  student = Endpoints(logits=jnp.zeros((batch, 100)), pooled=jnp.zeros((batch, 256)))
  given = {"index": jnp.arange(batch, dtype=jnp.int32)}

  def init():
    return loss.init(jax.random.key(0), student, (student,), given)

  def step(state, params, student, batch):
    def objective(student):
      value, after, _ = loss.update(params, state, student, (student,), batch, mesh=mesh)
      return value, after

    (value, after), slopes = jax.value_and_grad(objective, has_aux=True)(student)
    finite = jnp.isfinite(value + sum(jnp.sum(x) for x in jax.tree.leaves(slopes)))
    return distill.keep_where(finite, after, state, mesh), slopes

  return jax.jit(step, donate_argnums=0), init, student, given


def bank_costs(examples: list[int], devices: int, console: Console) -> None:
  """Bytes that CRD sends for small and large banks, over devices; milliseconds on one, in turns."""
  mesh = training.make_mesh(devices)
  costs = [bank_cost(count, devices, mesh) for count in examples]
  runs = {}
  for count in examples:
    step, init, student, given = bank_step(count, None)
    params, state = jax.jit(init)()
    runs[count] = [step, state, (params, student, given)]
  seconds = {count: [] for count in examples}
  for _ in range(3 * ROUNDS):
    for count, run in runs.items():
      step, state, rest = run
      start = clock()
      run[1], _ = jax.block_until_ready(step(state, *rest))
      seconds[count].append(clock() - start)
  median = {count: statistics.median(times[1:]) for count, times in seconds.items()}
  table = Table(title=f"CRD, batch 64, K = {NEGATIVES}, dim {DIM}, {devices} devices")
  for column in ("n", "bank on a device, MB", "bytes sent", "copies of banks", "ms on 1 device"):
    table.add_column(column, justify="right")
  for count, (size, sent, copies) in zip(examples, costs, strict=True):
    table.add_row(
      f"{count:,}", f"{size / 1e6:.1f}", f"{sent:,}", f"{copies}", f"{median[count] * 1e3:.1f}"
    )
  console.print(table)
  console.print(f"bytes sent, last over first: {costs[-1][1] / costs[0][1]:.2f}")
  pairs = zip(seconds[examples[-1]][1:], seconds[examples[0]][1:], strict=True)
  ratio = statistics.median(last / first for last, first in pairs)
  console.print(f"step time, last over first: {ratio:.2f} (median of {3 * ROUNDS - 1} pairs)")


def bank_cost(examples: int, devices: int, mesh) -> tuple[int, int, int]:
  """Bytes of one device's share of a bank, bytes sent, and copies of a share, as compiled."""
  step, init, student, given = bank_step(examples, mesh)
  params, state = jax.eval_shape(init)
  split = PartitionSpec(mesh.axis_names)

  def placed(tree, specs):
    return jax.tree.map(
      lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)),
      tree,
      specs,
    )

  def all_of(tree, spec):
    return placed(tree, jax.tree.map(lambda _: spec, tree))

  compiled = step.lower(
    placed(state, state.partition(mesh)),
    all_of(params, PartitionSpec()),
    all_of(student, split),
    all_of(given, split),
  ).compile()
  strata, rows, dim = state.student_bank.shape
  share = strata // devices
  here = rf"= f32\[(?:{share},{rows}|{share * rows}),{dim}\]\S* copy\("
  copies = len(re.findall(here, compiled.as_text()))
  return 4 * share * rows * dim, sum(cost_of(compiled).sent.values()), copies


def step_ratio(examples: list[int], batch: int, console: Console) -> None:
  """Time of the whole step with small and with large banks on one device, in turns."""
  runs = {}
  for count in examples:
    recipe, given = recipe_for(count), sample(batch, count)
    state = state_for(recipe, given)
    runs[count] = [training.distill_step.lower(state, given).compile(), state, given]
  times = {count: [] for count in examples}
  for _ in range(3 * ROUNDS):
    for count, run in runs.items():
      step, state, given = run
      start = clock()
      run[1], _ = jax.block_until_ready(step(state, given))
      times[count].append(clock() - start)
  for count, seconds in times.items():
    console.print(
      f"whole step, {batch} images, n = {count:,}: {statistics.median(seconds) * 1e3:.1f} ms"
    )
  pairs = zip(times[examples[-1]][1:], times[examples[0]][1:], strict=True)
  ratio = statistics.median(last / first for last, first in pairs)
  console.print(f"whole step, last over first: {ratio:.2f} (median of {3 * ROUNDS - 1} pairs)")


def guard_cost(batch: int, console: Console) -> None:
  """Time of a step with and without the guard against batches that are not finite, in turns."""
  recipe, given = recipe_for(50_000), sample(batch, 50_000)
  always = lambda keep, new, old, mesh=None: new  # noqa: E731
  steps, states = {}, {}
  for name in ("guarded", "unguarded"):
    states[name] = state_for(recipe, given)
    if name == "unguarded":
      with (
        mock.patch.object(step_module, "keep_where", always),
        mock.patch.object(step_module, "_all_finite", lambda *_: jnp.array(True)),
      ):
        function = lambda state, batch: step_module._update(state, batch)  # noqa: E731
        steps[name] = jax.jit(function, donate_argnums=0).lower(states[name], given).compile()
    else:
      steps[name] = training.distill_step.lower(states[name], given).compile()
  times = {name: [] for name in steps}
  for _ in range(10 * ROUNDS):
    for name, step in steps.items():
      start = clock()
      states[name], _ = jax.block_until_ready(step(states[name], given))
      times[name].append(clock() - start)
  with_guard, without = (times[name][1:] for name in ("guarded", "unguarded"))
  ratios = [a / b for a, b in zip(with_guard, without, strict=True)]
  console.print(
    f"guard, {batch} images: {statistics.median(with_guard) * 1e3:.1f} ms with,"
    f" {statistics.median(without) * 1e3:.1f} ms without;"
    f" {100 * (statistics.median(ratios) - 1):+.1f} % (median of {len(ratios)} pairs),"
    f" {100 * (min(with_guard) / min(without) - 1):+.1f} % (least)"
  )


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
    f" {HBM_BYTES / 1e9:.0f} GB, with crd(strata={CHIPS})",
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
  init = lambda: training.init_variables(model, jax.random.key(0), (32, 32, 3))  # noqa: E731
  return count_parameters(jax.eval_shape(init)["params"])


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--devices", default="1,2,8", help="numbers of devices")
  parser.add_argument("--batch", type=int, default=16, help="images on each device")
  parser.add_argument("--examples", default="50000,1281167", help="sizes of CRD's banks")
  parser.add_argument("--parts", default="scaling,banks,steps,guard", help="what to print")
  args = parser.parse_args()
  console = Console()
  counts = [int(n) for n in args.devices.split(",") if int(n) <= len(jax.devices())]
  console.print(f"{len(jax.devices())} devices ({jax.devices()[0].platform})")
  parts, examples = args.parts.split(","), [int(n) for n in args.examples.split(",")]
  if "scaling" in parts:
    costs = weak_scaling(counts, args.batch, console)
    estimate(costs[counts[-1]], counts[-1], args.batch, console)
  if "banks" in parts:
    bank_costs(examples, counts[-1], console)
  if "steps" in parts:
    step_ratio(examples, 4 * args.batch, console)
  if "guard" in parts:
    guard_cost(args.batch, console)


if __name__ == "__main__":
  main()
