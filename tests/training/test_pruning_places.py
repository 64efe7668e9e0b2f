"""Pruning wherever it stands among transformations, in stages, and after a restart."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from jaxcompress import distill, nn, prune
from jaxcompress.nn.graph import parameters
from jaxcompress.prune.masked import progress_of
from jaxcompress.prune.scores import keep_largest
from jaxcompress.training import Checkpoints, Stage, fit, init_state, train_step

HALF = prune.magnitude(optax.sgd(0.1, momentum=0.9), sparsity=0.5)


def by_part(tree):
  """Labels for :func:`optax.multi_transform`: kernels, and all else."""
  label = lambda path, _: "kernels" if path[-1].key == "kernel" else "others"  # noqa: E731
  return jax.tree_util.tree_map_with_path(label, tree)


def kernels(tree):
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", tree)


PLACES = {
  "outermost": HALF,
  "before a scale": optax.chain(HALF, optax.scale(0.3)),
  "before a momentum": optax.chain(HALF, optax.trace(0.9)),
  "before weight decay": optax.chain(HALF, optax.add_decayed_weights(-1e-3)),
  "behind a clip": optax.chain(optax.clip(1.0), HALF),
  "in a chain of a chain": optax.chain(optax.chain(HALF, optax.scale(0.5)), optax.identity()),
  "in a named chain": optax.named_chain(("first", HALF), ("then", optax.scale(0.5))),
  "for a part": optax.multi_transform({"kernels": HALF, "others": optax.sgd(0.1)}, by_part),
  "masked": optax.masked(HALF, kernels),
  "every second step": optax.MultiSteps(HALF, 2),
  "if finite": optax.apply_if_finite(HALF, 3),
  "in a factory": optax.inject_hyperparams(
    lambda rate: prune.magnitude(optax.sgd(rate), sparsity=0.5)
  )(rate=0.1),
  "in another one": prune.n_m(optax.chain(HALF, optax.scale(0.5)), "3:4"),
  "RigL before a scale": optax.chain(
    prune.rigl(optax.sgd(0.1), sparsity=0.5, stop=9, every=2), optax.scale(0.5)
  ),
}


def zero_share(state):
  found = [
    np.asarray(parameters(state.params, name)["kernel"]) == 0
    for name in prune.masks_of(state.opt_state)
  ]
  return sum(zeros.sum() for zeros in found) / sum(zeros.size for zeros in found)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_the_metric_is_the_share_of_zeros_in_the_weights_wherever_pruning_stands(
  recipe_of, batches, place
):
  state = init_state(recipe_of(optimizer=PLACES[place], ema=0.9), jax.random.key(0), batches(0))
  for position in range(5):
    state, metrics = train_step(state, batches(position))
    assert float(metrics["sparsity"]) == pytest.approx(zero_share(state), abs=1e-6)
    for name, mask in prune.masks_of(state.opt_state).items():
      for params in (state.params, state.ema["params"]):
        assert not np.asarray(parameters(params, name)["kernel"])[~np.asarray(mask)].any()
  assert zero_share(state) == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_masks_in_a_chain_are_chosen_by_weights_and_not_by_updates_that_are_scaled_later(
  recipe_of, batches
):
  inner = prune.magnitude(optax.scale(1e4), sparsity=0.5)  # alone it would drown the weights
  optimizer = optax.chain(inner, optax.scale(-1e-6))
  state = init_state(recipe_of(optimizer=optimizer), jax.random.key(0), batches(0))
  before = jax.device_get(state.params)
  state, _ = train_step(state, batches(0))
  for name, mask in prune.masks_of(state.opt_state).items():
    wanted = keep_largest(parameters(before, name)["kernel"], 0.5, floor=1)
    np.testing.assert_array_equal(mask, wanted)


@pytest.mark.slow
def test_pruning_what_never_trains_is_refused_and_what_stands_still_keeps_its_weights(
  recipe_of, batches
):
  recipe = recipe_of(optimizer=HALF, trainable=("student/classifier",))
  with pytest.raises(ValueError, match="it prunes 'expand', which no stage trains"):
    init_state(recipe, jax.random.key(0), batches(0))
  loss = distill.named_chain(labels=distill.cross_entropy())
  first = Stage(loss, ("student/classifier",), steps=2)
  recipe = recipe_of(optimizer=HALF, loss=loss, stages=(first,), ema=0.5)
  state = init_state(recipe, jax.random.key(0), batches(0))
  kernel = np.array(state.params["expand"]["kernel"])
  state, metrics = train_step(state, batches(0))
  np.testing.assert_array_equal(state.params["expand"]["kernel"], kernel)
  np.testing.assert_allclose(state.ema["params"]["expand"]["kernel"], kernel, rtol=1e-6)
  assert float(metrics["sparsity"]) == 0.0
  state = fit(state, batches, steps=4, console=Console(quiet=True))
  assert zero_share(state) == 0.5


def test_a_penalty_behind_the_optimizer_is_refused(recipe_of, batches):
  start = lambda optimizer: init_state(  # noqa: E731
    recipe_of(optimizer=optimizer), jax.random.key(0), batches(0)
  )
  start(optax.chain(prune.slimming(1e-3), optax.sgd(0.1)))
  for wrong in (optax.chain(optax.sgd(0.1), prune.slimming(1e-3)), prune.slimming(1e-3)):
    with pytest.raises(ValueError, match="slimming comes last"):
      start(wrong)


def saved(recipe, batches, folder, steps):
  state = init_state(recipe, jax.random.key(0), batches(0))
  state = fit(state, batches, steps=steps, console=Console(quiet=True))
  with Checkpoints(folder, every=1) as checkpoints:
    checkpoints.save(steps, state, force=True)
  return state


def restored(recipe, batches, folder):
  with Checkpoints(folder, every=1) as checkpoints:
    return checkpoints.restore(init_state(recipe, jax.random.key(0), batches(0)))


AGP = prune.agp(1, 3, every=1)
SGD = optax.sgd(0.05)
GOALS = {
  "more": (prune.magnitude(SGD, sparsity=0.6, schedule=AGP), {"sparsity": 0.9}),
  "less": (prune.magnitude(SGD, sparsity=0.6, schedule=AGP), {"sparsity": 0.3}),
  "of one layer": (
    prune.magnitude(SGD, sparsity=0.6, schedule=AGP),
    {"sparsity": 0.6, "rules": (prune.Rule(match="project", sparsity=0.9),)},
  ),
  "shared out": (
    prune.magnitude(SGD, sparsity=0.6, schedule=AGP),
    {"sparsity": 0.6, "distribution": "global"},
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", GOALS)
def test_another_goal_after_a_restart_is_refused(recipe_of, batches, tmp_path, change):
  before, options = GOALS[change]
  saved(recipe_of(optimizer=before), batches, tmp_path, 5)
  other = recipe_of(optimizer=prune.magnitude(SGD, schedule=AGP, **options))
  with pytest.raises(ValueError, match=r"checkpoint: .* another (goal|recipe)"):
    restored(other, batches, tmp_path)


@pytest.mark.slow
def test_another_pattern_or_sparsity_of_moving_masks_is_refused(recipe_of, batches, tmp_path):
  saved(recipe_of(optimizer=prune.n_m(SGD, "2:4")), batches, tmp_path / "a", 2)
  with pytest.raises(ValueError, match="another goal than the recipe's: n is 2 there and 1 in"):
    restored(recipe_of(optimizer=prune.n_m(SGD, "1:4")), batches, tmp_path / "a")
  rigl = lambda sparsity: prune.rigl(SGD, sparsity=sparsity, stop=9)  # noqa: E731
  saved(recipe_of(optimizer=rigl(0.5)), batches, tmp_path / "b", 2)
  with pytest.raises(ValueError, match="another goal"):
    restored(recipe_of(optimizer=rigl(0.7)), batches, tmp_path / "b")
  assert int(restored(recipe_of(optimizer=rigl(0.5)), batches, tmp_path / "b").step) == 2


@pytest.mark.slow
def test_a_shorter_schedule_after_a_restart_still_comes_to_its_end(recipe_of, batches, tmp_path):
  long = prune.magnitude(SGD, sparsity=0.75, schedule=prune.agp(0, 40, every=1))
  state = saved(recipe_of(optimizer=long), batches, tmp_path, 6)
  assert 0 < zero_share(state) < 0.7
  short = prune.magnitude(SGD, sparsity=0.75, schedule=prune.agp(0, 4, every=1))
  state = restored(recipe_of(optimizer=short), batches, tmp_path)
  state, metrics = train_step(state, batches(6))
  assert float(metrics["sparsity"]) == 0.75 and float(progress_of(state.opt_state)) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 4])
def test_stages_may_have_goals_of_their_own_which_a_restart_keeps_apart(
  recipe_of, batches, tmp_path, steps
):
  loss = distill.named_chain(labels=distill.cross_entropy())
  own = prune.magnitude(SGD, sparsity=0.25)
  stage = Stage(loss, ("student", "loss"), steps=2, optimizer=own)
  make = lambda: recipe_of(  # noqa: E731
    optimizer=prune.magnitude(SGD, sparsity=0.75), loss=loss, stages=(stage,)
  )
  saved(make(), batches, tmp_path, steps)
  state = restored(make(), batches, tmp_path)
  state = fit(state, batches, steps=5, console=Console(quiet=True))
  assert zero_share(state) == 0.75


@pytest.mark.slow
def test_a_schedule_that_lies_beyond_training_is_told(recipe_of, batches, capsys):
  optimizer = prune.magnitude(SGD, sparsity=0.5, schedule=prune.agp(2, 90, every=1))
  state = init_state(recipe_of(optimizer=optimizer), jax.random.key(0), batches(0))
  state = fit(state, batches, steps=4, console=Console(width=200))
  assert "pruning: after 4 steps it has come 3% of the way" in capsys.readouterr().out
  done = prune.magnitude(SGD, sparsity=0.5, schedule=prune.agp(0, 2, every=1))
  state = init_state(recipe_of(optimizer=done), jax.random.key(0), batches(0))
  fit(state, batches, steps=4, console=Console(width=200))
  assert "pruning" not in capsys.readouterr().out


class Own(linen.Module):
  """A head of its own name, and whatever images."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, kernel=3, act="relu", name="entry")(x, train=train)
    x = nn.ConvNorm(8, kernel=3, groups=4, act="relu", name="grouped")(x, train=train)
    x = nn.ConvNorm(8, act="relu", name="mix")(x, train=train)
    return nn.Dense(3, name="head")(nn.GlobalAvgPool(name="pool")(x))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 6])
def test_own_networks_keep_their_first_and_last_layer(recipe_of, channels):
  rng = np.random.default_rng(0)
  batch = {"image": jnp.float32(rng.normal(size=(4, 8, 8, channels))), "label": jnp.arange(4) % 3}
  recipe = recipe_of(student=Own(), optimizer=optax.chain(optax.clip(1.0), HALF))
  state, _ = train_step(init_state(recipe, jax.random.key(0), batch), batch)
  assert set(prune.masks_of(state.opt_state)) == {"grouped", "mix"}
  assert np.all(np.asarray(state.params["entry"]["kernel"]) != 0)
  assert np.all(np.asarray(state.params["head"]["kernel"]) != 0)
