"""Programs are made for the devices on which a state lies, whichever the host has."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import models
from jaxcompress.ops.dispatch import backend, traced_for
from jaxcompress.training import Recipe, init_state, make_mesh, shard, train_step
from jaxcompress.training.evaluation import eval_step, predict
from jaxcompress.training.targeted import Targeted, made_for

BATCH = {"image": np.zeros((2, 8, 8, 3), np.float32), "label": np.zeros(2, np.int32)}


@pytest.fixture(scope="module")
def state():
  recipe = Recipe(student=models.mobilenet_v1(10, 0.25), optimizer=optax.sgd(0.1))
  return init_state(recipe, jax.random.key(0), BATCH)


@pytest.fixture
def on_a_tpu_host(monkeypatch):
  """A host whose default is not where the arrays of these tests lie."""
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")


def shapes(state, sharding=None):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def placed(state):
  device = jax.devices("cpu")[0]
  return {
    "committed": jax.device_put(state, device),
    "mesh": shard(state, make_mesh(1)),
    "shapes": shapes(state, jax.sharding.SingleDeviceSharding(device)),
    "shapes of a mesh": shard(shapes(state), make_mesh(1)),
  }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["committed", "mesh", "shapes", "shapes of a mesh"])
def test_a_step_is_made_for_the_devices_of_its_state(kind, state, on_a_tpu_host):
  text = train_step.lower(placed(state)[kind], BATCH).as_text()
  assert "feature_group_count = 8" not in text  # XLA's depthwise convolution, which is for TPUs
  with traced_for("tpu"):
    text = train_step.lower(placed(state)[kind], BATCH).as_text()
  assert "feature_group_count = 8" in text


def test_arrays_that_lie_nowhere_in_particular_go_where_the_host_computes(state, on_a_tpu_host):
  with made_for(state):
    assert backend() == "tpu"
  with made_for(placed(state)["committed"]):
    assert backend() == "cpu"


def test_within_other_transformations_the_target_around_them_counts(state):
  seen = []

  def program(state):
    with made_for(state):
      seen.append(backend())
    return state.step

  with traced_for("gpu"):
    jax.jit(program)(placed(state)["committed"])
  assert seen == ["gpu"]


def test_evaluation_and_prediction_are_made_for_the_state_too(state, on_a_tpu_host):
  for program, rest in ((eval_step, BATCH), (predict, BATCH["image"])):
    assert "feature_group_count = 8" not in program.lower(placed(state)["mesh"], rest).as_text()
    assert jax.tree.leaves(program.eval_shape(placed(state)["mesh"], rest))


def test_a_targeted_function_keeps_its_name_and_words():
  program = Targeted(jnp.sum)
  assert program.__name__ == "sum" and int(program(jnp.ones(3))) == 3
