"""Every loss keeps the contract of LossTransform. A new loss is one more row."""

import functools
import re
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
  "named_chain": Row(lambda: named_chain(hard=cross_entropy(), soft=kd()), ("logits",)),
}


def example_endpoints(seed, channels, dtype=jnp.float32):
  """Endpoints of every kind: logits, pooled features, and maps at 8, 4 and 4 pixels."""
  sides = ((8, channels), (4, 2 * channels), (4, 3 * channels))
  shapes = [(BATCH, CLASSES), (BATCH, 3 * channels), *((BATCH, s, s, c) for s, c in sides)]
  rng = np.random.default_rng(seed)
  logits, pooled, *maps = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
  return Endpoints(logits, pooled, tuple(jax.nn.relu(m) for m in maps), tuple(maps))


def example(dtype=jnp.float32):
  student = example_endpoints(0, 4, dtype)
  teachers = (example_endpoints(1, 6, dtype), example_endpoints(2, 5, dtype))
  batch = {
    "image": jnp.zeros((BATCH, 8, 8, 3), dtype),
    "label": jnp.arange(BATCH, dtype=jnp.int32) % CLASSES,
    "index": 3 * jnp.arange(BATCH, dtype=jnp.int32),
    "contrast_index": (5 * jnp.arange(BATCH * 8, dtype=jnp.int32) % 20).reshape(BATCH, 8),
  }
  return student, teachers, batch


class Case(NamedTuple):
  """A built loss with its inputs; functions are compiled once for all tests."""

  transform: LossTransform
  init: Callable
  update: Callable
  params: object
  state: object


@functools.cache
def case_of(name):
  transform = TABLE[name].make()
  init = jax.jit(transform.init)
  update = jax.jit(chex.assert_max_traces(transform.update, 1))
  return Case(transform, init, update, *init(jax.random.key(0), *example()))


@pytest.fixture(params=TABLE)
def name(request):
  return request.param


def any_nonzero(tree):
  return any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(tree))


def test_loss_and_metrics_are_float32_scalars(name):
  case = case_of(name)
  loss, _, metrics = jax.eval_shape(case.transform.update, case.params, case.state, *example())
  assert metrics and all(isinstance(key, str) for key in metrics)
  for scalar in (loss, *metrics.values()):
    assert (scalar.shape, scalar.dtype) == ((), jnp.float32)


def test_one_program_serves_all_steps_and_the_state_keeps_its_form(name):
  case = case_of(name)
  state = case.state
  for _ in range(3):
    loss, after, _ = case.update(case.params, state, *example())
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    assert jnp.isfinite(loss)
    state = after


def test_parameters_are_float32_and_parameters_and_state_are_plain_arrays(name):
  case = case_of(name)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(case.params))
  for leaf in jax.tree.leaves((case.params, case.state)):
    np.asarray(leaf)  # raises for a typed key, which checkpoints would have to know about


def test_compiled_updates_give_what_plain_ones_give(name):
  case = case_of(name)
  plain = case.transform.update(case.params, case.state, *example())
  compiled = case.update(case.params, case.state, *example())
  chex.assert_trees_all_close(plain, compiled, rtol=5e-5, atol=1e-6)


def test_numpy_arrays_will_do(name):
  case = case_of(name)
  arrays = jax.tree.map(np.asarray, (case.params, case.state, *example()))
  expected = jax.eval_shape(case.transform.update, case.params, case.state, *example())
  found = jax.eval_shape(lambda: case.transform.update(*arrays))
  chex.assert_trees_all_equal_shapes_and_dtypes(expected, found)


def test_extras_that_mean_nothing_are_ignored(name):
  case = case_of(name)

  def program(**extras):
    def update(params, state, student, teachers, batch):
      return case.transform.update(params, state, student, teachers, batch, **extras)

    text = str(jax.make_jaxpr(update)(case.params, case.state, *example()))
    return re.sub("0x[0-9a-f]+", "", text)

  assert program() == program(step=jnp.int32(5), rng=None, unheard_of=object())


def test_gradients_are_finite_reach_what_is_trained_and_spare_the_teachers(name):
  case, (student, teachers, batch) = case_of(name), example()

  def objective(params, student, teachers):
    return case.transform.update(params, case.state, student, teachers, batch)[0]

  gradients = jax.jit(jax.grad(objective, (0, 1, 2)))(case.params, student, teachers)
  chex.assert_tree_all_finite(gradients)
  for_params, for_student, for_teachers = gradients
  assert all(any_nonzero(leaf) for leaf in jax.tree.leaves(for_params))
  reached = {field for field, value in for_student._asdict().items() if any_nonzero(value)}
  assert reached == set(TABLE[name].reads)
  assert not any_nonzero(for_teachers)


def test_bfloat16_is_computed_in_float32(name):
  case, (student, teachers, batch) = case_of(name), example(jnp.bfloat16)
  wide = jax.tree.map(lambda x: x.astype(jnp.float32), (student, teachers))
  expected = case.update(case.params, case.state, *wide, example()[2])[0]

  def objective(params, student):
    return case.transform.update(params, case.state, student, teachers, batch)[0]

  loss, gradients = jax.jit(jax.value_and_grad(objective, (0, 1)))(case.params, student)
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, expected, rtol=2e-5)
  chex.assert_trees_all_equal_shapes_and_dtypes(gradients, (case.params, student))
  chex.assert_tree_all_finite(gradients)


def test_many_seeds_run_at_once(name):
  case, inputs = case_of(name), example()

  @jax.jit
  @jax.vmap
  def run(key):
    params, state = case.transform.init(key, *inputs)
    return case.transform.update(params, state, *inputs)[0]

  keys = jax.random.split(jax.random.key(0), 3)
  one_by_one = [case.update(*case.init(key, *inputs), *inputs)[0] for key in keys]
  np.testing.assert_allclose(run(keys), one_by_one, rtol=5e-5)


@pytest.mark.parametrize("smooth", [name for name, row in TABLE.items() if row.smooth])
def test_numerical_differentiation_agrees(smooth):
  case, (student, teachers, batch) = case_of(smooth), example()
  _, state, _ = case.update(case.params, case.state, student, teachers, batch)

  def objective(params, read):
    return case.update(params, state, student._replace(**read), teachers, batch)[0]

  read = {field: getattr(student, field) for field in TABLE[smooth].reads}
  check_grads(objective, (case.params, read), order=1, modes=("rev",), rtol=1e-2, atol=1e-2)
