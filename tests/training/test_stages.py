"""Stages: what stands still keeps its bits, terms are shared by name, a restart repeats the run."""

import dataclasses

import chex
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from jaxcompress import distill, models, nn
from jaxcompress.nn import Endpoints
from jaxcompress.training import (
  Checkpoints,
  Stage,
  at_stage,
  distill_step,
  fit,
  init_state,
  train_step,
)
from jaxcompress.training.stages import init_losses, moving, paths_of


class Own(linen.Module):
  """Ends that only the graph tells."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, kernel=3, act="relu", name="entry")(x, train=train)
    x = nn.ConvNorm(8, kernel=3, groups="depthwise", act="relu", name="filter")(x, train=train)
    x = nn.ConvNorm(8, act="relu", name="classifier")(x, train=train)
    return nn.Dense(3, name="head")(nn.GlobalAvgPool(name="pool")(x))


class Foreign(linen.Module):
  """A network without a graph."""

  @linen.compact
  def __call__(self, x, *, train):
    return linen.Dense(3, name="head")(x.mean((1, 2)))


QUIET = Console(quiet=True)
FIRST, TOTAL = 3, 6


@pytest.fixture(scope="module")
def recipe(recipe_of, teacher):
  """Embeddings are trained first, then the student and its own embedding, with weight decay."""
  embed = distill.in_batch_infonce(4)
  return recipe_of(
    teachers=(teacher[0],),
    optimizer=optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, momentum=0.9)),
    stages=(Stage(distill.named_chain(embed=embed), ("loss/embed",), FIRST),),
    loss=distill.named_chain(labels=distill.cross_entropy(), embed=embed),
    trainable=("student", "!student/stem", "loss/*/student"),
  )


@pytest.fixture(scope="module")
def fresh(recipe, batches, teacher):
  return lambda: init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(teacher[1],))


@pytest.fixture(scope="module")
def ran(fresh, batches):
  """The start, the end of the first stage, and the end; one program per stage."""
  states, state, compiled = [fresh()], fresh(), distill_step._cache_size()
  for position in range(TOTAL):
    state = at_stage(state, position)
    state, metrics = distill_step(state, batches(position))
    if position in (FIRST - 1, TOTAL - 1):
      states.append(jax.tree.map(jnp.copy, state))
  assert distill_step._cache_size() - compiled == 2
  assert {"labels/cross_entropy", "embed/in_batch_infonce"} <= set(metrics)
  return states


def arrays(state):
  return jax.device_get(jax.tree.leaves(state.replace(rng=jax.random.key_data(state.rng))))


def same(a, b):
  return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


def all_differ(a, b):
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return not any(np.array_equal(x, y) for x, y in pairs)


def test_only_the_loss_moves_in_the_first_stage(ran):
  start, first, _ = ran
  assert same(start.params, first.params)
  assert same(start.batch_stats, first.batch_stats)
  assert all_differ(start.loss_params, first.loss_params)


def test_what_is_left_out_of_the_main_stage_keeps_its_bits_despite_weight_decay(ran):
  _, first, last = ran
  assert same(first.params["stem"], last.params["stem"])
  assert same(first.batch_stats["stem"], last.batch_stats["stem"])
  assert all_differ(first.params["expand"]["kernel"], last.params["expand"]["kernel"])
  assert all_differ(first.batch_stats["expand"], last.batch_stats["expand"])
  assert same(first.loss_params["embed"]["teacher"], last.loss_params["embed"]["teacher"])
  assert all_differ(first.loss_params["embed"]["student"], last.loss_params["embed"]["student"])


def test_the_optimizer_starts_anew_with_a_stage(ran, recipe):
  _, first, _ = ran
  assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(first.opt_state))
  begun = at_stage(first, FIRST)
  assert begun.stage == 1
  assert not any(np.any(leaf != 0) for leaf in jax.tree.leaves(begun.opt_state))
  assert at_stage(begun, FIRST) is begun


@pytest.mark.slow
def test_a_stage_may_have_an_optimizer_of_its_own(recipe, recipe_of, batches, teacher):
  """Steps of a fifth of the rate are a fifth of the steps."""

  def moved(rate):
    own = None if rate is None else optax.chain(optax.identity(), optax.sgd(rate))
    stage = dataclasses.replace(recipe.stages[0], optimizer=own)
    slow = recipe_of(
      teachers=(teacher[0],),
      optimizer=optax.chain(optax.identity(), optax.sgd(0.1)),
      stages=(stage,),
      loss=recipe.loss,
    )
    state = init_state(slow, jax.random.key(0), batches(0), teacher_variables=(teacher[1],))
    before = jax.device_get(state.loss_params["embed"])
    after, _ = distill_step(state, batches(0))
    return jax.tree.map(lambda a, b: a - b, jax.device_get(after.loss_params["embed"]), before)

  whole, fifth = moved(None), moved(0.02)
  chex.assert_trees_all_close(jax.tree.map(lambda x: x / 5, whole), fifth, rtol=1e-3, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, FIRST, FIRST + 1])
def test_a_restored_run_ends_in_the_same_bits_wherever_it_stopped(fresh, batches, tmp_path, stop):
  whole = fit(fresh(), batches, steps=TOTAL, console=QUIET)
  first = Checkpoints(tmp_path, every=100)
  fit(fresh(), batches, steps=stop, checkpoints=first, console=QUIET)
  first.close()
  again = Checkpoints(tmp_path, every=100)
  ended = fit(again.restore(fresh()), batches, steps=TOTAL, console=QUIET)
  again.close()
  chex.assert_trees_all_equal(arrays(whole), arrays(ended))
  assert ended.stage == 1


def test_a_loop_of_ones_own_goes_through_the_stages_as_fit_does(fresh, batches):
  whole = fit(fresh(), batches, steps=TOTAL, console=QUIET)
  state, stages = fresh(), []
  for position in range(TOTAL):
    state, _ = distill_step(state, batches(position))
    stages.append(state.stage)
  assert stages == [0] * FIRST + [1] * (TOTAL - FIRST)
  chex.assert_trees_all_equal(arrays(whole), arrays(state))


@pytest.mark.parametrize("stop", [1, FIRST, FIRST + 1])
def test_a_loop_of_ones_own_goes_on_from_any_checkpoint(fresh, batches, tmp_path, stop):
  """Also where a state that has come further is what the checkpoint is read into."""
  state = fresh()
  with Checkpoints(tmp_path, every=1) as checkpoints:
    for position in range(TOTAL):
      state, _ = distill_step(state, batches(position))
      if position + 1 == stop:
        checkpoints.save(stop, state, force=True)
        checkpoints.wait()
    again = checkpoints.restore(state)
  assert again.stage == (0 if stop <= FIRST else 1)
  for position in range(stop, TOTAL):
    again, _ = distill_step(again, batches(position))
  chex.assert_trees_all_equal(arrays(state), arrays(again))


def test_a_skipped_batch_counts_towards_a_stage(fresh, batches):
  bad = {**batches(0), "image": np.full((16, 8, 8, 3), np.nan, np.float32)}
  state, stages = fresh(), []
  for position in range(FIRST + 1):
    state, _ = distill_step(state, bad if position == 1 else batches(position))
    stages.append(state.stage)
  assert stages == [0] * FIRST + [1] and int(state.skipped) == 1


@pytest.mark.slow
def test_inside_another_transformation_a_stage_that_may_end_is_refused(fresh, batches):
  with pytest.raises(ValueError, match="cannot be read inside jit"):
    jax.jit(lambda state, batch: distill_step(state, batch))(fresh(), batches(0))
  state, _ = jax.jit(distill_step.program)(at_stage(fresh(), 0), batches(0))
  assert int(state.step) == 1
  state, _ = jax.jit(lambda state, batch: distill_step(state, batch))(
    at_stage(fresh(), FIRST), batches(0)
  )
  assert state.stage == 1


def test_a_step_wants_a_state(batches):
  with pytest.raises(ValueError, match="state must be a CompressState"):
    distill_step(batches(0), batches(0))


def example():
  maps = tuple(jnp.ones((2, size, size, 4)) for size in (4, 2))
  return Endpoints(jnp.ones((2, 3)), jnp.ones((2, 5)), maps, maps)


def loss_trees(recipe):
  batch = {"label": jnp.zeros(2, jnp.int32)}
  key = jax.random.key(0)
  return jax.eval_shape(lambda: init_losses(recipe, key, example(), (example(),), batch))


def test_factor_transfer_shares_its_paraphraser_and_freezes_it_later(recipe_of):
  asked = distill.parse("factor,kd:1")
  first = Stage(asked.first, asked.moves, 5)
  recipe = recipe_of(loss=asked.loss, trainable=asked.trainable, stages=(first,))
  params, _ = loss_trees(recipe)
  assert sorted(params) == ["factor", "kd", "labels"]
  tree = {"student": {"stem": 0.0, "classifier": 0.0}, "loss": params}
  early, late = moving(asked.moves, tree), moving(asked.trainable, tree)
  assert not any(jax.tree.leaves(early["student"])) and all(jax.tree.leaves(late["student"]))
  for part in ("paraphraser", "translator"):
    flags = [jax.tree.leaves(moves["loss"]["factor"][0][part]) for moves in (early, late)]
    assert [set(f) for f in flags] == [{part == "paraphraser"}, {part == "translator"}]


def test_boundaries_train_the_maps_first_and_labels_after(recipe_of):
  asked = distill.parse("ab")
  recipe = recipe_of(loss=asked.loss, stages=(Stage(asked.first, asked.moves, 5),))
  tree = {
    "student": {"entry": {"kernel": 0}, "head": {"kernel": 0}},
    "loss": {"ab": 0, "labels": 0},
  }
  early, _ = paths_of(recipe, tree, lambda: models.summarize(Own(), 8).graph)
  moves = moving(early, tree)["student"]
  assert moves == {"entry": {"kernel": True}, "head": {"kernel": False}}
  assert sorted(loss_trees(recipe)[0]) == ["ab", "labels"]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("trainable", "moved"),
  [
    (("last",), {"head"}),
    (("first|last",), {"entry", "head"}),
    (("student", "!first"), {"filter", "classifier", "head"}),
    (("!first|depthwise", "student", "loss"), {"classifier", "head"}),
    (("ConvNorm", "student/head/bias", "!pointwise"), {"entry", "filter", "head"}),
    (("depthwise|student/head",), {"filter", "head"}),
  ],
)
def test_kinds_of_layers_move_as_their_paths_do(recipe_of, trainable, moved):
  rng = np.random.default_rng(0)
  batch = {"image": jnp.float32(rng.normal(size=(4, 8, 8, 6))), "label": jnp.arange(4) % 3}
  recipe = recipe_of(student=Own(), trainable=trainable)
  state = init_state(recipe, jax.random.key(0), batch)
  before = jax.device_get(state.variables)
  state, _ = train_step(state, batch)
  after = jax.device_get(state.variables)
  assert {
    name for name in before["params"] if not same(*(v["params"][name] for v in (before, after)))
  } == moved
  still = {
    name
    for name in before["batch_stats"]
    if same(*(v["batch_stats"][name] for v in (before, after)))
  }
  assert still == set(before["batch_stats"]) - moved


@pytest.mark.parametrize(
  "trainable",
  [("student", "!student"), ("student/classifier", "!last"), ("loss",), ("last", "!dense")],
)
def test_a_stage_in_which_nothing_moves_is_refused(recipe_of, batches, trainable):
  with pytest.raises(ValueError, match=r"^trainable: .* of stage 0 moves nothing"):
    init_state(recipe_of(trainable=trainable), jax.random.key(0), batches(0))


def test_kinds_need_a_graph_and_paths_do_not(recipe_of, batches):
  batch = batches(0)
  batch["label"] %= 3  # the classes of this student
  start = lambda *trainable: init_state(  # noqa: E731
    recipe_of(student=Foreign(), trainable=trainable), jax.random.key(0), batch
  )
  assert start("student/head").trainable == (("student/head",),)
  with pytest.raises(
    ValueError, match="'last' of stage 0 is a kind of layer, and the student has no"
  ):
    start("last")


@pytest.mark.slow
def test_a_bank_of_another_stage_is_not_rolled_back_with_a_bad_batch(recipe_of, teacher, batches):
  recipe = recipe_of(
    teachers=(teacher[0],),
    loss=distill.named_chain(crd=distill.crd(40, dim=4, negatives=4)),
    stages=(Stage(distill.named_chain(labels=distill.cross_entropy()), ("student",), 5),),
  )
  state = init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(teacher[1],))
  bad = batches(0)
  bad["image"][0] = np.nan
  before = jax.device_get(state.loss_state)
  after, _ = distill_step(state, bad)
  assert int(after.skipped) == 1
  assert same(before["crd"], after.loss_state["crd"])


@pytest.mark.slow
@pytest.mark.parametrize(
  ("parts", "message"),
  [
    (
      {"trainable": ("student/clasifier",)},
      "'student/clasifier' of stage 0 is no path .* the paths are student/classifier, ",
    ),
    ({"trainable": ("grouped",)}, "'grouped' of stage 0 is no layer with parameters; .* depthwise"),
    ({"trainable": ("student", "!Add")}, "'!Add' of stage 0 is no layer with parameters"),
    ({"stages": (Stage(distill.cross_entropy(), ("student",), 2),)}, "no named_chain"),
    ({"stages": [1]}, "stages must be a tuple"),
    (
      {
        "stages": (
          Stage(
            distill.named_chain(labels=distill.cross_entropy()), ("student",), 2, optax.adam(0.1)
          ),
        ),
        "loss": distill.named_chain(labels=distill.cross_entropy()),
      },
      "the optimizer of stage 0 keeps another state",
    ),
    (
      {
        "stages": (Stage(distill.named_chain(kd=distill.in_batch_infonce(3)), ("loss",), 2),),
        "loss": distill.named_chain(kd=distill.in_batch_infonce(4)),
      },
      "the term 'kd' of stage 0 has other parameters",
    ),
  ],
)
def test_stages_that_do_not_fit_are_refused(recipe_of, teacher, batches, parts, message):
  with pytest.raises(ValueError, match=message):
    recipe = recipe_of(teachers=(teacher[0],), **parts)
    init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(teacher[1],))
