"""Computes the values of test_sharding.py in a process with eight virtual devices; prints JSON."""

import json
import os
import pathlib
import re
import tempfile

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["NPROC"] = "64"  # threads: a device may wait in several collectives at once

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
from conftest import TinyNet, batch_of
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console

from jaxcompress import distill, nn, prune, quantize, training
from jaxcompress.nn import Endpoints
from jaxcompress.nn.epilogue import Epilogue, ending, norm_act
from jaxcompress.ops.parts import Parts, in_parts
from jaxcompress.quantize.quantizers.anchors import sample

jax.config.update("jax_numpy_rank_promotion", "raise")

STEPS, FITTED = 8, 40
KINDS = "all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all"
COLLECTIVE = re.compile(rf"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ({KINDS})(?:-start)?\(", re.MULTILINE)
ARRAY = r"(\w+)\[([\d,]*)\]"


def start(**parts):
  """Distillation with banks, int8, a moving average and pruned weights, before its first step.

  The batch that it sees is smaller than those of the steps, and no devices could share it.
  """
  loss = distill.chain(
    distill.cross_entropy(),
    distill.kd(4.0),
    distill.crd(40, dim=8, negatives=16, strata=8),
  )
  teacher = TinyNet(features=16)
  variables = teacher.init(jax.random.key(7), jnp.zeros((1, 8, 8, 3)), train=False)
  recipe = training.Recipe(
    **{
      "student": TinyNet(),
      "teachers": (teacher,),
      "loss": loss,
      "quantize": quantize.int8(),
      "optimizer": prune.n_m(optax.sgd(0.05, momentum=0.9), "2:4"),
      "ema": 0.9,
      **parts,
    }
  )
  seen = batch_of(0, size=6)
  return training.init_state(recipe, jax.random.key(0), seen, teacher_variables=(variables,))


def collectives(text):
  """``[kind, shape]`` of every array that devices exchange."""
  return [
    [kind, [int(n) for n in dims.split(",") if n]]
    for result, kind in COLLECTIVE.findall(text)
    for _, dims in re.findall(ARRAY, result)
  ]


def values(state):
  """All numbers of a state that a step may change, by part."""
  fields = state.__dataclass_fields__.items()
  parts = {name: getattr(state, name) for name, f in fields if f.metadata.get("pytree_node", True)}
  parts["rng"] = jax.random.key_data(state.rng)
  del parts["skipped"]
  return jax.device_get(parts)


def distance(a, b):
  """Largest difference of two trees, relative above 1, over what both ever write: banks have no padding here."""

  def furthest(x, y):
    x, y = x.astype(float), y.astype(float)
    return np.max(np.abs(x - y) / np.maximum(1, np.abs(x)), initial=0.0)

  sizes = jax.tree.map(furthest, a, b)
  return float(max(jax.tree.leaves(sizes), default=0.0))


def equal(a, b):
  return all(x.tobytes() == y.tobytes() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def one_and_eight(mesh):
  """The same run on one device and on eight."""
  one, eight = start(), training.shard(start(), mesh, shard_teachers=True)
  given = training.shard_batch(batch_of(0), mesh)
  step = training.distill_step.lower(eight, given).compile()
  found = {"collectives": collectives(step.as_text()), "losses": []}
  for position in range(STEPS):
    one, metrics = training.distill_step(one, batch_of(position))
    eight, of_eight = step(eight, training.shard_batch(batch_of(position), mesh))
    found["losses"].append([float(metrics["loss"]), float(of_eight["loss"])])
    if position == 0:
      parts = zip(values(one).items(), values(eight).values(), strict=True)
      found["first"] = {
        name: distance(a, b) for (name, a), b in parts if name not in ("rng", "loss_state")
      }
      banks = [s.loss_state[2]._replace(overwritten=()) for s in (one, eight)]
      found["first"]["banks"] = distance(*jax.device_get(banks))
  found["teacher_shards"] = str(eight.teachers[0]["params"]["expand"]["kernel"].sharding.spec)
  found["bank_rows_here"] = eight.loss_state[2].student_bank.addressable_shards[0].data.shape
  found["zeros"] = float(np.mean(np.asarray(eight.params["expand"]["kernel"]) == 0))
  before = values(eight)
  bad = batch_of(STEPS)
  bad["image"][3, 0, 0, 0] = np.nan
  eight, _ = step(eight, training.shard_batch(bad, mesh))
  found["bad_batch_changes_nothing"] = equal(before, values(eight))
  found["skipped"] = int(eight.skipped)
  try:
    training.distill_step(eight, batch_of(0, size=12))
  except ValueError as error:
    found["uneven"] = str(error)
  quiet = Console(quiet=True)
  fitted = training.fit(eight, batch_of, steps=FITTED, log_every=FITTED, console=quiet)
  found["fitted"] = [int(fitted.position), int(fitted.skipped)]
  return found


def kept(mesh):
  """A checkpoint of eight devices and one of a single one, each restored on both; and a damaged one."""
  one = start()
  eight, _ = training.distill_step(
    training.shard(start(), mesh, shard_teachers=True), training.shard_batch(batch_of(0), mesh)
  )
  found = {}
  for name, state in (("one", one), ("eight", eight)):
    folder = pathlib.Path(tempfile.mkdtemp())
    with training.Checkpoints(folder) as checkpoints:
      checkpoints.save(1, state, force=True)
      fresh = (start(), training.shard(start(), mesh, shard_teachers=True))
      restored = [checkpoints.restore(other) for other in fresh]
      found[name] = [equal(values(state), values(other)) for other in restored]
    noted = json.loads((folder / "1" / "arrays.json").read_text())
    found[f"{name}_summed"] = sorted(noted["arrays"]["sum"])
    data = max((folder / "1" / "default").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with training.Checkpoints(folder) as checkpoints:
      try:
        checkpoints.restore(fresh[1])
      except ValueError as error:
        found[f"{name}_damaged"] = str(error)
  return found


def reestimated(mesh):
  """How far statistics that eight devices measure are from those of one, relative to them."""
  one, eight = start(), training.shard(start(), mesh)
  batches = [batch_of(position) for position in range(2)]
  on_mesh = [training.shard_batch(batch, mesh) for batch in batches]
  found = [training.reestimate_norm(*given).ema for given in ((one, batches), (eight, on_mesh))]
  a, b = (jax.device_get(tree["batch_stats"]["stem"]) for tree in found)
  spread = np.sqrt(a["var"])
  return {
    "mean": float(np.max(np.abs(a["mean"] - b["mean"]) / spread)),
    "var": float(np.max(np.abs(a["var"] / b["var"] - 1))),
    "everywhere": found[1]["batch_stats"]["stem"]["mean"].sharding.is_fully_replicated,
  }


def everything(mesh):
  """Microbatches, bfloat16 and rematerialization, all at once on eight devices."""
  state = training.shard(start(accumulate=2, compute_dtype=jnp.bfloat16, remat=True), mesh)
  step = training.distill_step.lower(state, training.shard_batch(batch_of(0), mesh)).compile()
  found = {"collectives": collectives(step.as_text()), "losses": []}
  for position in range(3):
    state, metrics = step(state, training.shard_batch(batch_of(position), mesh))
    found["losses"].append(float(metrics["loss"]))
  before = values(state)
  bad = {**batch_of(3), "image": np.full((16, 8, 8, 3), np.inf, np.float32)}
  state, _ = step(state, training.shard_batch(bad, mesh))
  found["bad_batch_changes_nothing"] = equal(before, values(state))
  found["dtypes"] = sorted({str(x.dtype) for x in jax.tree.leaves(before)})
  return found


def on_six(folder):
  """Banks of eight strata, which six devices cannot share, and their checkpoints elsewhere."""
  six, three = training.make_mesh(6), training.make_mesh(3)
  batch = batch_of(0, size=12)
  state = training.shard(start(), six)
  alone = start()
  cut = alone.loss_state[2].cut_for(six)
  alone = alone.replace(loss_state=(*alone.loss_state[:2], cut, *alone.loss_state[3:]))
  alone, metrics = training.distill_step(alone, batch)
  state, of_six = training.distill_step(state, training.shard_batch(batch, six))
  found = {
    "bank_rows_here": state.loss_state[2].student_bank.addressable_shards[0].data.shape,
    "losses": [float(metrics["loss"]), float(of_six["loss"])],
    "banks": distance(
      *jax.device_get([s.loss_state[2]._replace(overwritten=()) for s in (alone, state)])
    ),
  }
  with training.Checkpoints(folder + "/of_eight", every=1) as checkpoints:
    eight = training.shard(start(), training.make_mesh(8))
    checkpoints.save(1, eight)
    checkpoints.wait()
    restored = checkpoints.restore(training.shard(start(), six))
    found["eight_to_six"] = restored.loss_state[2].student_bank.shape
    bank = np.asarray(restored.loss_state[2].student_bank)
    i = np.arange(40)
    original = np.asarray(eight.loss_state[2].student_bank)
    found["rows_kept"] = bool((bank[i % 6, i // 6] == original[i % 8, i // 8]).all())
  with training.Checkpoints(folder + "/of_six", every=1) as checkpoints:
    checkpoints.save(1, state)
    checkpoints.wait()
    shapes = []
    for mesh in (three, None):
      wanted = start() if mesh is None else training.shard(start(), mesh)
      after = checkpoints.restore(wanted)
      _, metrics = training.distill_step(
        after, batch if mesh is None else training.shard_batch(batch, mesh)
      )
      shapes.append([after.loss_state[2].student_bank.shape, float(metrics["loss"])])
    _, of_six = training.distill_step(state, training.shard_batch(batch, six))
    found["next"] = [*shapes, [None, float(of_six["loss"])]]
  return found


def contrastive_program(mesh, examples, batch=64, negatives=4096):
  """CRD's update, its gradient with respect to the features, and the guard, compiled for shapes alone.

  The gradients of its linear layers are summed over devices as those of all parameters are.
  """
  loss = distill.crd(examples, negatives=negatives)
  student = Endpoints(logits=jnp.zeros((batch, 3)), pooled=jnp.zeros((batch, 32)))
  given = {"index": jnp.zeros(batch, jnp.int32)}
  params, state = jax.eval_shape(lambda: loss.init(jax.random.key(0), student, (student,), given))

  def step(params, state, student, batch):
    def objective(student):
      value, after, _ = loss.update(params, state, student, (student,), batch, mesh=mesh)
      return value, after

    (value, after), slopes = jax.value_and_grad(objective, has_aux=True)(student)
    finite = jnp.isfinite(value + sum(jnp.sum(x) for x in jax.tree.leaves(slopes)))
    return slopes, distill.keep_where(finite, after, state, mesh)

  def placed(tree, specs):
    return jax.tree.map(
      lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)),
      tree,
      specs,
    )

  def all_of(tree, spec):
    return placed(tree, jax.tree.map(lambda _: spec, tree))

  split = PartitionSpec(mesh.axis_names)
  arguments = (
    all_of(params, PartitionSpec()),
    placed(state, state.partition(mesh)),
    all_of(student, split),
    all_of(given, split),
  )
  compiled = jax.jit(step, donate_argnums=1).lower(*arguments).compile()
  text = compiled.as_text()
  share, rows, dim = state.student_bank.shape
  share //= mesh.size
  here = rf"= f32\[(?:{share},{rows}|{share * rows}),{dim}\]\S* ([\w-]+)\("
  return {
    "collectives": collectives(text),
    "bank_shaped": sorted(set(re.findall(here, text))),
    "bank_bytes": 4 * share * rows * dim,
    "aliased_bytes": compiled.memory_analysis().alias_size_in_bytes,
    "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
  }


class Chain(linen.Module):
  """So many normalizations, with an addition behind each."""

  depth: int

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(4, name="stem")(x, train=train)
    for i in range(self.depth):
      y = nn.ConvNorm(4, act="relu6", name=f"conv{i}")(x, train=train)
      x = nn.Add(name=f"add{i}")(x, y)
    return nn.Endpoints(nn.Dense(5, name="classifier")(nn.GlobalAvgPool(name="pool")(x)))


def few_messages(mesh):
  """How many arrays devices exchange, one and two normalizations deep; and what one and eight compute."""
  found = {}
  for delayed, batch_norm in ((False, "global"), (True, "global"), (True, "local")):
    counts = []
    for depth in (1, 3):
      recipe = training.Recipe(
        student=Chain(depth),
        quantize=quantize.int8(delayed=delayed),
        optimizer=optax.sgd(0.05, momentum=0.9),
        batch_norm=batch_norm,
      )
      one = training.init_state(recipe, jax.random.key(0), batch_of(0))
      eight = training.shard(one, mesh)
      given = training.shard_batch(batch_of(0), mesh)
      step = training.train_step.lower(eight, given).compile()
      counts.append(len(COLLECTIVE.findall(step.as_text())))
    for position in range(2):
      one, _ = training.train_step(one, batch_of(position))
      eight, metrics = step(eight, training.shard_batch(batch_of(position), mesh))
      float(metrics["loss"])
    ranges = [jax.device_get(s.quantizer.state["activations"]) for s in (one, eight)]
    found[f"{'delayed' if delayed else 'immediate'}, {batch_norm}"] = {
      "counts": counts,
      "distance": distance(*(values(s)["params"] for s in (one, eight))),
      "of_ranges": distance(*ranges),
      "first_channel": float(np.ravel(eight.batch_stats["stem"]["mean"])[0]),
      "of_one": float(np.ravel(one.batch_stats["stem"]["mean"])[0]),
      "whole": eight.batch_stats["stem"]["mean"].sharding.is_fully_replicated,
    }
  return found


def normalised_apart(mesh):
  """How far eight parts at once, and their gradients, are from one after the other."""
  rng = np.random.default_rng(0)
  x, g = (rng.normal(1.0, 2.0, (16, 4, 4, 3)).astype(np.float32) for _ in range(2))
  scale, bias, mean = (rng.normal(size=3).astype(np.float32) for _ in range(3))
  factor = jnp.float32(1.5)

  @jax.jit
  def differentiated(x, g):
    def run(x, scale, bias, factor):
      scaled = Epilogue(
        prepare=lambda z: ((factor,), ()),
        forward=lambda z, trained, fixed: z * trained[0],
        backward=lambda z, g, trained, fixed: (g * trained[0], (g * z,)),
      )
      with ending(scaled):
        y, *statistics = norm_act(x, scale, bias, mean, jnp.ones(3), True, 1e-3, "relu")
      return y, statistics

    y, pull_back, statistics = jax.vjp(run, x, scale, bias, factor, has_aux=True)
    dx, *slopes = pull_back(g)
    return y, dx, slopes, statistics

  parts = [
    differentiated(*pair)
    for pair in zip(x.reshape(8, 2, 4, 4, 3), g.reshape(8, 2, 4, 4, 3), strict=True)
  ]
  y, dx, slopes, statistics = zip(*parts, strict=True)
  each = lambda combine, trees: jax.tree.map(lambda *leaves: combine(leaves), *trees)  # noqa: E731
  expected = (
    *map(np.concatenate, (y, dx)),
    each(lambda leaves: np.sum(leaves, 0), slopes),
    each(np.stack, statistics),
  )
  with in_parts(Parts(mesh, apart=True)):
    return distance(differentiated(x, g), expected)


def sampled(mesh):
  """Messages for some examples of a batch, and whether they are those that one device takes."""
  x = jnp.arange(64 * 16 * 16 * 64, dtype=jnp.float32).reshape(64, 16, 16, 64)
  apart = jax.device_put(x, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
  with in_parts(Parts(mesh)):
    program = jax.jit(lambda x: sample(x)).lower(apart).compile()
  messages = len(COLLECTIVE.findall(program.as_text()))
  return {"messages": messages, "equal": bool((program(apart) == sample(x)).all())}


if __name__ == "__main__":
  mesh = training.make_mesh(8)
  found = {
    "sampled": sampled(mesh),
    "apart": normalised_apart(mesh),
    "messages": few_messages(mesh),
    "runs": one_and_eight(mesh),
    "everything": everything(mesh),
    "kept": kept(mesh),
    "reestimated": reestimated(mesh),
    "six": on_six(tempfile.mkdtemp()),
    "small": contrastive_program(mesh, 50_000),
    "large": contrastive_program(mesh, 1_281_167),
  }
  print(json.dumps(found))
