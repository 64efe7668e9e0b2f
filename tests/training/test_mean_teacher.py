"""A teacher that is the running mean of its student."""

import jax
import numpy as np
import pytest

from jaxcompress import distill
from jaxcompress.training import distill_step, init_state


@pytest.mark.slow
def test_it_follows_the_student_and_a_bad_batch_does_not_move_it(recipe_of, tiny, batches):
  loss = distill.chain(distill.cross_entropy(), distill.kd(1.0))
  recipe = recipe_of(teachers=(tiny(),), loss=loss, mean_teacher=0.75)
  state = init_state(recipe, jax.random.key(0), batches(0))
  mean = jax.device_get(state.variables)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.teachers[0]), mean)
  for position in range(3):
    state, _ = distill_step(state, batches(position))
    mean = jax.tree.map(lambda t, s: 0.75 * t + 0.25 * s, mean, jax.device_get(state.variables))
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.teachers[0], mean
    )
  before = jax.device_get(state.teachers[0])
  bad = batches(3)
  bad["image"][0] = np.nan
  state, _ = distill_step(state, bad)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.teachers[0]), before)


def test_what_cannot_follow_is_refused(recipe_of, tiny, batches):
  with pytest.raises(ValueError, match="the last teacher must be the student's module"):
    recipe_of(teachers=(tiny(features=16),), mean_teacher=0.9)
  with pytest.raises(ValueError, match=r"mean_teacher: 1.0 must be in"):
    recipe_of(teachers=(tiny(),), mean_teacher=1.0)
  recipe = recipe_of(teachers=(tiny(), tiny()), mean_teacher=0.9)
  with pytest.raises(ValueError, match="0 given for 2 teachers"):
    init_state(recipe, jax.random.key(0), batches(0))
