"""Costs of CRD's memory banks and of the guard against bad batches in a training step.

    python benchmarks/banks.py [--devices 8] [--batch 16] [--examples 50000,1281167]
      [--parts banks,steps,guard]

CRD must send as much at any number of examples, and copy no bank: bytes and copies as compiled for
virtual devices, where there is one CPU. Then the time of its update alone and of the whole step on one
device with small and with large banks, and the time of a step with and without the guard that leaves
batches out that are not finite; all in turns. On a CPU the times of the first two are
seconds of all its cores.
"""

import argparse
import re
import statistics
from unittest import mock

from compiled import (
  DIM,
  NEGATIVES,
  ROUNDS,
  clock,
  recipe_for,
  sample,
  state_for,
)

import jax  # isort: skip  # after it has been told how many devices there are
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from programs import cost_of
from rich.console import Console
from rich.table import Table
from shared import in_turns, median_ratio, numbers, stateful, words

from jaxcompress import distill, training
from jaxcompress.nn import Endpoints
from jaxcompress.training import step as step_module


def bank_step(examples: int, mesh):
  """CRD's update, its gradient with respect to the features, and the guard; and what it takes.

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
  calls = {}
  for count in examples:
    step, init, student, given = bank_step(count, None)
    params, state = jax.jit(init)()
    calls[count] = stateful(step, state, params, student, given)
  seconds = in_turns(calls, 3 * ROUNDS, clock=clock)
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
  ratio = median_ratio(seconds[examples[-1]][1:], seconds[examples[0]][1:])
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
  calls = {}
  for count in examples:
    recipe, given = recipe_for(count), sample(batch, count)
    state = state_for(recipe, given)
    calls[count] = stateful(training.distill_step.lower(state, given).compile(), state, given)
  times = in_turns(calls, 3 * ROUNDS, clock=clock)
  for count, seconds in times.items():
    console.print(
      f"whole step, {batch} images, n = {count:,}: {statistics.median(seconds) * 1e3:.1f} ms"
    )
  ratio = median_ratio(times[examples[-1]][1:], times[examples[0]][1:])
  console.print(f"whole step, last over first: {ratio:.2f} (median of {3 * ROUNDS - 1} pairs)")


def guard_cost(batch: int, console: Console) -> None:
  """Time of a step with and without the guard against batches that are not finite, in turns.

  The step without it is there twice: what the two differ by is noise.
  """
  recipe, given = recipe_for(50_000), sample(batch, 50_000)
  always = lambda keep, new, old, mesh=None: new  # noqa: E731
  steps, states = {}, {}
  for name in ("without", "with", "without, again"):
    states[name] = state_for(recipe, given)
    if name == "with":
      steps[name] = training.distill_step.lower(states[name], given).compile()
      continue
    with (
      mock.patch.object(step_module, "keep_where", always),
      mock.patch.object(step_module, "is_sound", lambda *_: jnp.array(True)),
      mock.patch.object(step_module, "stays_finite", lambda *_: jnp.array(True)),
    ):
      function = lambda state, batch: step_module._update(state, batch)  # noqa: E731
      steps[name] = jax.jit(function, donate_argnums=0).lower(states[name], given).compile()
  calls = {name: stateful(step, states[name], given) for name, step in steps.items()}
  times = in_turns(calls, 10 * ROUNDS)
  for name in times:
    own, least = times[name][1:], min(times[name][1:]) / min(times["without"][1:])
    ratio = median_ratio(own, times["without"][1:])
    console.print(
      f"guard, {batch} images, {name}: {statistics.median(own) * 1e3:.1f} ms,"
      f" {100 * (ratio - 1):+.1f} % (median of {len(own)} pairs), {100 * (least - 1):+.1f} % (least)"
    )


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--devices", type=int, default=8, help="over which banks are split")
  parser.add_argument("--batch", type=int, default=16, help="images, times 4 with both banks")
  parser.add_argument(
    "--examples", type=numbers, default=[50_000, 1_281_167], help="sizes of CRD's banks"
  )
  parser.add_argument(
    "--parts", type=words, default=["banks", "steps", "guard"], help="what to print"
  )
  args = parser.parse_args()
  console, parts, examples = Console(), args.parts, args.examples
  if "banks" in parts:
    bank_costs(examples, min(args.devices, len(jax.devices())), console)
  if "steps" in parts:
    step_ratio(examples, 4 * args.batch, console)
  if "guard" in parts:
    guard_cost(args.batch, console)


if __name__ == "__main__":
  main()
