"""Every loss keeps the contract of LossTransform. A new loss is one more row."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from jaxcompress.distill import (
  LossTransform,
  chain,
  crd,
  cross_entropy,
  for_teacher,
  kd,
  named_chain,
  scale,
)
from jaxcompress.nn import Endpoints

BATCH, CLASSES = 6, 5


class Row(NamedTuple):
  """A loss under test.

  Attributes:
    make: builds it.
    reads: fields of the student that get a gradient.
    smooth: whether numerical differentiation must agree.
  """

  make: Callable[[], LossTransform]
  reads: tuple[str, ...]
  smooth: bool = True


def small_crd(**settings):
  return crd(20, dim=4, negatives=7, **settings)


TABLE = {
  "cross_entropy": Row(cross_entropy, ("logits",)),
  "cross_entropy_smoothed": Row(lambda: cross_entropy(0.1), ("logits",)),
  "kd": Row(kd, ("logits",)),
  "kd_scheduled": Row(lambda: kd(optax.linear_schedule(1.0, 4.0, 10)), ("logits",)),
  "crd_dense": Row(lambda: small_crd(formulation="dense"), ("pooled",)),
  "crd_gather": Row(lambda: small_crd(formulation="gather"), ("pooled",)),
  "scale": Row(lambda: scale(0.5, kd()), ("logits",)),
  "scale_scheduled": Row(lambda: scale(lambda step: 1.0 / (1 + step), kd()), ("logits",)),
  "for_teacher": Row(lambda: for_teacher(1, kd()), ("logits",)),
  "chain": Row(lambda: chain(scale(0.1, cross_entropy()), kd(), small_crd()), ("logits", "pooled")),
  "named_chain": Row(
    lambda: named_chain(hard=cross_entropy(), crd=small_crd()), ("logits", "pooled")
  ),
}


def example_endpoints(seed, channels, dtype=jnp.float32):
  """Endpoints of every kind: logits, pooled features, and maps at 8, 4 and 4 pixels."""
  sides = ((8, channels), (4, 2 * channels), (4, 3 * channels))
  shapes = [(BATCH, CLASSES), (BATCH, 3 * channels), *((BATCH, s, s, c) for s, c in sides)]
  keys = jax.random.split(jax.random.key(seed), len(shapes))
  logits, pooled, *maps = (
    jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes, strict=True)
  )
  return Endpoints(logits, pooled, tuple(jax.nn.relu(m) for m in maps), tuple(maps))


def example(dtype=jnp.float32):
  student = example_endpoints(0, 4, dtype)
  teachers = (example_endpoints(1, 6, dtype), example_endpoints(2, 5, dtype))
  batch = {
    "image": jnp.zeros((BATCH, 8, 8, 3), dtype),
    "label": jnp.arange(BATCH, dtype=jnp.int32) % CLASSES,
    "index": 3 * jnp.arange(BATCH, dtype=jnp.int32),
  }
  return student, teachers, batch


def leaves_of(tree):
  return jax.tree.leaves(tree)


@pytest.fixture(params=TABLE)
def row(request):
  return TABLE[request.param]


def test_compiled_updates_give_what_plain_ones_give(row):
  transform, (student, teachers, batch) = row.make(), example()
  params, state = transform.init(jax.random.key(0), student, teachers, batch)
  plain = transform.update(params, state, student, teachers, batch)
  compiled = jax.jit(transform.update)(params, state, student, teachers, batch)
  chex.assert_trees_all_close(
    *(jax.tree.map(without_keys, x) for x in (plain, compiled)), rtol=2e-5, atol=1e-6
  )


def without_keys(x):
  return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def test_loss_and_metrics_are_float32_scalars(row):
  transform, (student, teachers, batch) = row.make(), example()
  params, state = transform.init(jax.random.key(0), student, teachers, batch)
  loss, _, metrics = transform.update(params, state, student, teachers, batch)
  assert metrics and all(isinstance(name, str) for name in metrics)
  for scalar in (loss, *metrics.values()):
    assert (scalar.shape, scalar.dtype) == ((), jnp.float32)


def test_extras_that_mean_nothing_are_ignored(row):
  transform, (student, teachers, batch) = row.make(), example()
  params, state = transform.init(jax.random.key(0), student, teachers, batch)
  plain = transform.update(params, state, student, teachers, batch)
  extra = transform.update(
    params, state, student, teachers, batch, step=jnp.int32(5), rng=None, unheard_of=object()
  )
  chex.assert_trees_all_equal(*(jax.tree.map(without_keys, x) for x in (plain, extra)))


def test_state_keeps_its_structure_shapes_and_dtypes_and_one_program_serves_all_steps(row):
  transform, (student, teachers, batch) = row.make(), example()
  params, state = transform.init(jax.random.key(0), student, teachers, batch)
  update = jax.jit(chex.assert_max_traces(transform.update, 1))
  for step in range(3):
    before = state
    key = jax.random.key(step)
    _, state, _ = update(params, state, student, teachers, batch, step=jnp.int32(step), rng=key)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, state)


def test_gradients_are_finite_reach_what_is_trained_and_spare_the_teachers(row):
  transform, (student, teachers, batch) = row.make(), example()
  params, state = transform.init(jax.random.key(0), student, teachers, batch)

  def objective(params, student, teachers):
    return transform.update(params, state, student, teachers, batch)[0]

  d_params, d_student, d_teachers = jax.jit(jax.grad(objective, (0, 1, 2)))(
    params, student, teachers
  )
  for leaf in leaves_of((d_params, d_student)):
    assert jnp.all(jnp.isfinite(leaf))
  assert all(jnp.any(leaf != 0) for leaf in leaves_of(d_params))
  for name, value in d_student._asdict().items():
    assert (name in row.reads) == any(bool(jnp.any(leaf != 0)) for leaf in leaves_of(value))
  assert not any(jnp.any(leaf != 0) for leaf in leaves_of(d_teachers))


def test_bfloat16_is_computed_in_float32(row):
  transform, (student, teachers, batch) = row.make(), example(jnp.bfloat16)
  params, state = transform.init(jax.random.key(0), student, teachers, batch)
  assert all(leaf.dtype == jnp.float32 for leaf in leaves_of(params))
  wide = jax.tree.map(lambda x: x.astype(jnp.float32), (student, teachers))
  expected = transform.update(params, state, *wide, batch)[0]

  def objective(student):
    return transform.update(params, state, student, teachers, batch)[0]

  loss, grad = jax.jit(jax.value_and_grad(objective))(student)
  assert loss.dtype == jnp.float32 and jnp.isfinite(loss)
  np.testing.assert_allclose(loss, expected, rtol=2e-5)
  chex.assert_trees_all_equal_shapes_and_dtypes(grad, student)
  assert all(jnp.all(jnp.isfinite(leaf)) for leaf in leaves_of(grad))


def test_many_seeds_run_at_once(row):
  transform, (student, teachers, batch) = row.make(), example()

  def run(key):
    params, state = transform.init(key, student, teachers, batch)
    for _ in range(2):
      loss, state, _ = transform.update(params, state, student, teachers, batch)
    return loss

  keys = jax.random.split(jax.random.key(0), 3)
  together = jax.jit(jax.vmap(run))(keys)
  np.testing.assert_allclose(together, [run(key) for key in keys], rtol=5e-5)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.smooth])
def test_numerical_differentiation_agrees(name):
  row, (student, teachers, batch) = TABLE[name], example()
  transform = row.make()
  params, state = transform.init(jax.random.key(0), student, teachers, batch)

  @jax.jit
  def objective(params, read):
    return transform.update(params, state, student._replace(**read), teachers, batch)[0]

  read = {field: getattr(student, field) for field in row.reads}
  check_grads(objective, (params, read), order=1, modes=("fwd", "rev"), rtol=2e-2, atol=2e-2)
