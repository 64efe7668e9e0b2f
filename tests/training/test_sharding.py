"""The same step on eight virtual devices of a CPU as on one, and what the devices exchange."""

import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxcompress import distill
from jaxcompress.training import (
  Stage,
  at_stage,
  init_state,
  make_mesh,
  shard,
  shard_batch,
  train_step,
)

pytestmark = pytest.mark.slow

SCRIPT = pathlib.Path(__file__).with_name("on_eight_devices.py")


@pytest.fixture(scope="module")
def found():
  """One process with eight devices computes all; the others of the suite keep their one device."""
  root = str(SCRIPT.parent.parent.parent)
  paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
  env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
  done = subprocess.run(
    [sys.executable, str(SCRIPT)], capture_output=True, text=True, env=env, check=False
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


def bytes_of(collectives):
  return sum(4 * math.prod(shape) for _, shape in collectives)


def test_one_step_is_the_same_on_eight_devices_in_every_part_of_the_state(found):
  one, eight = found["runs"]["losses"][0]
  assert abs(one - eight) <= 1e-6 * max(1.0, abs(one))
  assert {"params", "batch_stats", "banks", "quantizer", "ema", "opt_state"} <= set(
    found["runs"]["first"]
  )
  assert {name: d for name, d in found["runs"]["first"].items() if d > 1e-6} == {}


def test_a_short_run_stays_together(found):
  losses = np.array(found["runs"]["losses"])
  assert losses[-1, 0] < losses[0, 0]
  np.testing.assert_allclose(losses[:, 1], losses[:, 0], atol=1e-3)


@pytest.mark.parametrize("run", ["runs", "everything"])
def test_a_bad_batch_leaves_every_bit_of_a_sharded_state_banks_included(found, run):
  assert found[run]["bad_batch_changes_nothing"]


def test_a_skipped_batch_is_counted_once_and_pruned_weights_are_zero(found):
  assert found["runs"]["skipped"] == 1
  assert found["runs"]["zeros"] == 0.5


def test_many_steps_between_two_looks_do_not_wait_for_each_other(found):
  """Virtual devices share the threads of one CPU; with steps in flight XLA would give up."""
  assert found["runs"]["fitted"] == [40, 1]


def test_a_batch_that_devices_cannot_share_is_named(found):
  assert found["runs"]["uneven"].startswith("batch: 'image' has 12 examples, which 8 devices")


def test_banks_and_teachers_are_split(found):
  assert found["runs"]["bank_rows_here"] == [1, 5, 8]  # of 8 strata with 5 rows
  assert "data" in found["runs"]["teacher_shards"]


def test_banks_are_cut_for_devices_that_do_not_divide_their_strata(found):
  six = found["six"]
  assert six["bank_rows_here"] == [1, 7, 8]  # 40 examples, of one stratum for each device
  one, of_six = six["losses"]
  assert of_six == pytest.approx(one, rel=1e-6) and six["banks"] < 1e-6


def test_checkpoints_of_banks_go_on_with_other_devices(found):
  six = found["six"]
  assert six["eight_to_six"] == [6, 7, 8] and six["rows_kept"]
  (on_three, *_), (alone, *_) = shapes = six["next"][:2]
  assert on_three == alone == [6, 7, 8]  # both can go on with the draws of six
  for _, loss in shapes:
    assert loss == pytest.approx(six["next"][2][1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["runs", "everything"])
def test_no_images_or_activations_are_exchanged(found, run):
  """Only embeddings and places of the batch, and kernels of a teacher that is split, are gathered."""
  gathered = [shape for kind, shape in found[run]["collectives"] if kind == "all-gather"]
  assert all(len(shape) <= 2 or shape[0] <= 3 for shape in gathered), gathered
  moved = {kind for kind, _ in found[run]["collectives"]}
  assert moved <= {"all-gather", "all-reduce", "reduce-scatter"}


def test_everything_at_once_learns_and_keeps_its_state_in_float32(found):
  assert np.isfinite(found["everything"]["losses"]).all()
  assert "bfloat16" not in found["everything"]["dtypes"]


def test_what_banks_send_depends_on_the_batch_alone(found):
  small, large = (bytes_of(found[size]["collectives"]) for size in ("small", "large"))
  assert small == large <= 100_000


def test_statistics_taken_on_eight_devices_are_those_of_one(found):
  assert found["reestimated"]["everywhere"]
  assert max(found["reestimated"]["mean"], found["reestimated"]["var"]) < 2e-6


def test_ranges_of_the_step_before_cost_one_message_however_many_tensors_there_are(found):
  shallow, deep = found["messages"]["delayed, global"]["counts"]
  assert deep - shallow == 2 * 2  # of two more normalizations, forward and backward
  shallow_now, deep_now = found["messages"]["immediate, global"]["counts"]
  assert deep_now - shallow_now > deep - shallow


def test_statistics_of_each_device_cost_no_message_more_however_deep_the_network_is(found):
  shallow, deep = found["messages"]["delayed, local"]["counts"]
  assert shallow == deep <= 4


@pytest.mark.parametrize("kind", ["immediate, global", "delayed, global"])
def test_few_messages_carry_what_one_device_computes(found, kind):
  assert found["messages"][kind]["distance"] < 1e-6
  assert found["messages"][kind]["of_ranges"] < 1e-5


def test_parts_are_normalised_and_differentiated_as_batches_of_their_own(found):
  assert found["apart"] < 1e-4  # of sums of hundreds of numbers


def test_steps_start_from_examples_that_stay_where_they_are(found):
  assert found["sampled"] == {"messages": 0, "equal": True}


def test_running_statistics_of_each_device_are_averaged(found):
  """The mean of the parts' means is the batch's, where the layer reads images."""
  local = found["messages"]["delayed, local"]
  assert local["whole"]
  assert local["distance"] > 1e-6  # each part is normalised by other numbers
  np.testing.assert_allclose(local["first_channel"], local["of_one"], rtol=0.1)


@pytest.mark.parametrize("size", ["small", "large"])
def test_banks_are_written_in_place_and_never_gathered(found, size):
  program = found[size]
  assert "scatter" in program["bank_shaped"]
  assert not {"copy", "select", "all-gather"} & set(program["bank_shaped"])
  assert program["aliased_bytes"] >= 2 * program["bank_bytes"]
  if size == "large":
    assert program["temporary_bytes"] < program["bank_bytes"] / 4


def test_a_mesh_of_one_device_changes_nothing(recipe_of, batches):
  recipe = recipe_of()
  plain, placed = (init_state(recipe, jax.random.key(0), batches(0)) for _ in range(2))
  placed = shard(placed, make_mesh(1))
  plain, _ = train_step(plain, batches(0))
  placed, _ = train_step(placed, shard_batch(batches(0), make_mesh(1)))
  for a, b in zip(jax.tree.leaves(plain.params), jax.tree.leaves(placed.params), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-7)


def test_shapes_get_shardings_and_the_given_state_survives_the_step(recipe_of, batches):
  recipe = recipe_of()
  state = init_state(recipe, jax.random.key(0), batches(0))
  placed = shard(state, make_mesh())
  abstract = jax.eval_shape(lambda: init_state(recipe, jax.random.key(0), batches(0)))
  leaf, real = (jax.tree.leaves(shard(s, make_mesh()).params)[0] for s in (abstract, state))
  assert isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding == real.sharding
  train_step(placed, batches(0))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_an_optimizer_that_starts_anew_lies_where_the_state_does(recipe_of, batches):
  first = Stage(distill.named_chain(labels=distill.cross_entropy()), ("student",), 1)
  recipe = recipe_of(loss=first.loss, stages=(first,))
  state = shard(init_state(recipe, jax.random.key(0), batches(0)), make_mesh())
  later = at_stage(state, 1)
  for old, new in zip(*(jax.tree.leaves(s.opt_state) for s in (state, later)), strict=True):
    assert new.sharding == old.sharding


@pytest.mark.parametrize(
  ("act", "message"),
  [
    (lambda: make_mesh(0), "devices: 0 asked for"),
    (lambda: make_mesh(1000), "device_count=1000 makes more"),
    (lambda: make_mesh([]), "devices must not be empty"),
    (lambda: make_mesh(axes=("a", "b")), r"axes: \('a', 'b'\) must be one name"),
  ],
)
def test_mistakes_about_meshes_say_what_to_do(act, message):
  with pytest.raises(ValueError, match=message):
    act()


def test_a_mesh_with_explicit_axes_is_refused(recipe_of, batches):
  mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))
  state = init_state(recipe_of(), jax.random.key(0), batches(0))
  with pytest.raises(ValueError, match="mesh: its axes are Explicit and must be Auto"):
    shard(state, mesh)


def test_checkpoints_of_split_arrays_are_checked_on_any_number_of_devices(found):
  kept = found["kept"]
  assert kept["one"] == kept["eight"] == [True, True]
  banks = [f"loss_state.2.{name}_bank" for name in ("student", "teacher")]
  assert kept["one_summed"] == [] and kept["eight_summed"] == banks
  for name in ("one", "eight"):
    assert "1 cannot be read" in kept[f"{name}_damaged"]
