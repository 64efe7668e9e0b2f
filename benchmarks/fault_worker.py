"""One process of the run that ``faults.py`` kills: a tiny network, distilled and quantized.

Memory banks are split over the processes. It notes what it read, and a digest of all that it holds
of the state before every step, as JSON lines.
"""

import argparse
import dataclasses
import hashlib
import json
import pathlib
import sys
import time

import flax.linen as linen
import jax
import numpy as np
import optax
from rich.console import Console

import jaxcompress as jc
from jaxcompress import nn, training
from jaxcompress.cli.ending import STOPPED, EndError, end
from jaxcompress.training.processes import join_processes, processes_here
from jaxcompress.training.sharding import process_rows

BATCH, EXAMPLES, CLASSES = 16, 64, 5  # a batch of all processes together


class Tiny(linen.Module):
  """Two convolutions with a shortcut, and a classifier."""

  features: int

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(self.features, kernel=3, stride=2, act="relu6", name="stem")(x, train=train)
    y = nn.ConvNorm(self.features, kernel=3, groups="depthwise", name="depthwise")(x, train=train)
    x = nn.Add(name="add")(x, y)
    pooled = nn.GlobalAvgPool(name="pool")(x)
    return nn.Endpoints(nn.Dense(CLASSES, name="classifier")(pooled), pooled, (x,))


def make_split(images: int = EXAMPLES) -> jc.data.Split:
  """Random images that are always the same."""
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (images, 8, 8, 3), dtype=np.uint8)
  return jc.data.Split(pixels, rng.integers(0, CLASSES, images, dtype=np.int32))


def make_state(split: jc.data.Split, exact_step: int | None) -> training.CompressState:
  """The state before the first step, on this process."""
  teacher, plan = Tiny(16), jc.quantize.int8(start_step=3)
  recipe = jc.Recipe(
    student=Tiny(8),
    teachers=(teacher,),
    loss=jc.distill.chain(jc.distill.kd(4.0), jc.distill.crd(EXAMPLES, dim=8, negatives=6)),
    quantize=dataclasses.replace(plan, freeze_norm_step=exact_step, exact_step=exact_step),
    augment=jc.data.Augment(crop=1),
    preprocess=jc.data.Preprocess(),
    optimizer=optax.sgd(0.05, momentum=0.9),
  )
  variables = jc.init_variables(teacher, jax.random.key(1), split.images.shape[1:])
  first = jc.data.batch_at(split, BATCH, seed=0, position=0)
  return jc.init_state(recipe, jax.random.key(0), first, teacher_variables=(variables,))


def digest(state: training.CompressState) -> str:
  """Of all that this process holds of a state, bit for bit."""
  found = hashlib.blake2b(digest_size=8)
  for leaf in jax.tree.leaves(state.replace(rng=jax.random.key_data(state.rng))):
    for shard in sorted(leaf.addressable_shards, key=lambda shard: shard.device.id):
      found.update(np.asarray(shard.data).tobytes())
  return found.hexdigest()


def work(options: argparse.Namespace) -> None:
  """The run, from its newest checkpoint to its end."""
  if options.processes > 1:
    address = f"127.0.0.1:{options.port}"
    join_processes(address, options.processes, options.worker, options.heartbeat)
  log = options.log.open("w", buffering=1)

  def note(**facts):
    log.write(json.dumps(facts) + "\n")

  note(here=processes_here())
  split, mesh = make_split(), training.make_mesh()
  rows = process_rows(mesh, BATCH)

  def batch_at(position):
    time.sleep(options.pause)
    batch = jc.data.batch_at(split, BATCH, seed=0, position=position, rows=rows)
    note(batch=position, index=batch["index"].tolist())
    return batch

  def look(state):
    note(step=int(state.position), digest=digest(state))

  state = training.shard(make_state(split, options.exact_step), mesh)
  with training.Checkpoints(
    options.folder / "checkpoints", every=options.every, warn=lambda text: note(warning=text)
  ) as checkpoints:
    if checkpoints.latest() is not None:
      state = checkpoints.restore(state)
    note(start=int(state.position))
    state = training.fit(
      state,
      batch_at,
      steps=options.steps,
      log_every=1,
      on_log=lambda row: note(row=row["step"], loss=row["loss"]),
      hooks=dict.fromkeys(range(options.steps), look),
      checkpoints=checkpoints,
      console=Console(quiet=True),
    )
  look(state)
  size = 2 * mesh.size
  batches = jc.data.eval_batches(split, size, process_rows(mesh, size))
  found = training.evaluate(
    state.recipe.student,
    state.averaged.variables,
    batches,
    preprocess=state.recipe.preprocess,
    mesh=mesh,
  )
  note(end=options.steps, **found)


def main() -> None:
  """Runs it; errors end as on the command line."""
  parser = argparse.ArgumentParser(description=__doc__)
  for name in ("--worker", "--processes", "--port", "--steps", "--every", "--heartbeat"):
    parser.add_argument(name, type=int, required=True)
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  parser.add_argument("--log", type=pathlib.Path, required=True)
  parser.add_argument("--pause", type=float, default=0.0)
  parser.add_argument("--exact-step", type=int)
  options = parser.parse_args()
  sys.argv[1:] = ["compress"]  # whose hint about --resume an error ends with
  try:
    work(options)
  except training.PreemptedError as error:
    end(EndError(str(error), STOPPED))
  except (Exception, KeyboardInterrupt) as error:
    end(error)


if __name__ == "__main__":
  main()
