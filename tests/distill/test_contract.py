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

from jaxcompress import distill
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
from jaxcompress.distill.base import keep_where
from jaxcompress.nn import Endpoints

BATCH, CLASSES = 6, 5


class Row(NamedTuple):
  """A loss under test.

  Attributes:
    make: builds it.
    reads: fields of the student that get a gradient.
    smooth: whether numerical differentiation must agree; those with golden gradients go without.
    frozen: names of parameters that another loss trains.
  """

  make: Callable[[], LossTransform]
  reads: tuple[str, ...]
  smooth: bool = True
  frozen: tuple[str, ...] = ()


def small_crd(**settings):
  return crd(20, dim=4, negatives=7, **settings)


def with_heads(transform):
  """Passes the classifiers that the training step would pass."""
  rng = np.random.default_rng(9)
  heads = [{"classifier": {"kernel": rng.normal(size=(c, CLASSES))}} for c in (12, 18)]

  def update(*args, **extras):
    given = {"student_params": heads[0], "teacher_params": (heads[1],)}
    return transform.update(*args, **{**extras, **given})

  return transform._replace(update=update)


def golden(make, *reads, **fields):
  """A row whose gradients test_golden.py compares."""
  return Row(make, reads, smooth=False, **fields)


TABLE = {
  "cross_entropy": Row(cross_entropy, ("logits",)),
  "cross_entropy_smoothed": Row(lambda: cross_entropy(0.1), ("logits",)),
  "kd": Row(kd, ("logits",)),
  "kd_scheduled": Row(lambda: kd(optax.linear_schedule(1.0, 4.0, 10)), ("logits",)),
  "dkd": golden(distill.dkd, "logits"),
  "nkd": Row(distill.nkd, ("logits",)),
  "rld": golden(distill.rld, "logits"),
  "ttm": golden(distill.ttm, "logits"),
  "wttm": golden(distill.wttm, "logits"),
  "lskd": golden(distill.lskd, "logits"),
  "ctkd": Row(lambda: distill.ctkd(10), ("logits",), smooth=False),  # reversed by design
  "ctkd_per_example": Row(
    lambda: distill.ctkd(10, per_example=True, hidden=3), ("logits",), smooth=False
  ),
  "dist": golden(distill.dist, "logits"),
  "mlkd": Row(distill.mlkd, ("logits",)),
  "mlkd_two_views": Row(lambda: distill.mlkd(views=2), ("logits",)),
  "mlkd_lskd": golden(distill.mlkd_lskd, "logits"),
  "wkd_l_scheduled": golden(
    lambda: with_heads(distill.wkd_l(optax.linear_schedule(600.0, 0.0, 9))), "logits"
  ),
  "crld": golden(lambda: distill.crld(weak_confidence=0.1), "logits"),
  "srd": Row(distill.srd, ("logits", "pooled")),
  "wkd_l": golden(lambda: with_heads(distill.wkd_l()), "logits"),
  "sdd": golden(lambda: with_heads(distill.sdd(scales=(1, 2))), "maps"),
  "ofa": golden(distill.ofa, "logits", "maps"),
  "fitnet": golden(distill.fitnet, "maps"),
  "wkd_f": golden(distill.wkd_f, "maps"),
  "vkd": golden(distill.vkd, "pooled"),
  "vid": golden(distill.vid, "maps"),
  "attention": golden(distill.attention, "maps"),
  "nst": golden(distill.nst, "maps"),
  "cat_kd": Row(lambda: with_heads(distill.cat_kd()), ("maps",)),
  "simkd": Row(distill.simkd, ("maps",), smooth=False),  # many ReLUs
  "ab": golden(distill.ab, "preact"),
  "ofd": golden(distill.ofd, "preact"),
  "factor": golden(distill.factor, "maps", frozen=("paraphraser",)),
  "paraphrase": golden(distill.paraphrase, frozen=("translator",)),
  "review": golden(distill.review, "pooled", "preact"),
  "hcl": golden(lambda: distill.hcl(maps=((2, 1),)), "maps"),
  "similarity": golden(distill.similarity, "maps"),
  "correlation": golden(lambda: distill.correlation(4), "pooled"),
  "rkd": golden(distill.rkd, "pooled"),
  "pkt": golden(distill.pkt, "pooled"),
  "fsp": golden(lambda: distill.fsp(maps=((2, 1), (2, 1))), "maps"),
  "kdsvd": golden(lambda: distill.kdsvd(maps=((2, 1), (2, 1))), "maps"),
  "crd_dense": Row(lambda: small_crd(formulation="dense"), ("pooled",)),
  "crd_gather": Row(lambda: small_crd(formulation="gather"), ("pooled",)),
  "dcd": golden(lambda: distill.dcd(4), "pooled"),
  "in_batch_infonce": Row(lambda: distill.in_batch_infonce(4), ("pooled",)),
  "scale": Row(lambda: scale(0.5, kd()), ("logits",)),
  "scale_scheduled": Row(lambda: scale(lambda step: 1.0 / (1 + step), kd()), ("logits",)),
  "for_teacher": Row(lambda: for_teacher(1, kd()), ("logits",)),
  "patient": Row(lambda: distill.patient(2), ("logits",), smooth=False),
  "teacher_head": Row(lambda: distill.teacher_head(CLASSES, kd()), ("logits",), smooth=False),
  "by_uncertainty": Row(
    lambda: distill.by_uncertainty(hard=cross_entropy(), soft=kd()), ("logits",)
  ),
  "by_magnitude": Row(
    lambda: distill.by_magnitude(hard=cross_entropy(), soft=kd()), ("logits",), smooth=False
  ),
  "chain": Row(lambda: chain(scale(0.1, cross_entropy()), kd(), small_crd()), ("logits", "pooled")),
  "named_chain": Row(lambda: named_chain(hard=cross_entropy(), soft=kd()), ("logits",)),
}


def example_endpoints(seed, channels, dtype=jnp.float32, size=BATCH):
  """Endpoints of every kind: logits, pooled features, and maps at 4, 4 and 2 pixels."""
  sides = ((4, channels), (4, 2 * channels), (2, 3 * channels))
  shapes = [(size, CLASSES), (size, 3 * channels), *((size, s, s, c) for s, c in sides)]
  rng = np.random.default_rng(seed)
  logits, pooled, *maps = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
  return Endpoints(logits, pooled, tuple(jax.nn.relu(m) for m in maps), tuple(maps))


def example(dtype=jnp.float32, size=BATCH):
  student = example_endpoints(0, 4, dtype, size)
  teachers = (example_endpoints(1, 6, dtype, size), example_endpoints(2, 5, dtype, size))
  batch = {
    "image": jnp.zeros((size, 8, 8, 3), dtype),
    "label": jnp.arange(size, dtype=jnp.int32) % CLASSES,
    "view": jnp.repeat(jnp.eye(2, dtype=bool), size // 2, axis=0),
    "index": 3 * jnp.arange(size, dtype=jnp.int32) % 20,
    "contrast_index": (5 * jnp.arange(size * 8, dtype=jnp.int32) % 20).reshape(size, 8),
  }
  return student, teachers, batch


class Case(NamedTuple):
  """A built loss with its inputs; functions are compiled once for all tests."""

  transform: LossTransform
  update: Callable
  params: object
  state: object
  probe: Callable
  found: dict


def probe_of(transform):
  """A function of a key that does with a loss what a training step does, in several ways."""
  student, teachers, batch = example()
  narrow = example(jnp.bfloat16)
  wide = jax.tree.map(lambda x: x.astype(jnp.float32), narrow[:2])

  def probe(key):
    params, state = transform.init(key, student, teachers, batch)

    def objective(params, student, teachers):
      loss, after, metrics = transform.update(params, state, student, teachers, batch)
      return loss, (after, metrics)

    def differentiate(student, teachers):
      return jax.value_and_grad(objective, (0, 1, 2), has_aux=True)(params, student, teachers)

    (loss, (after, metrics)), gradients = differentiate(student, teachers)
    (narrow_loss, _), narrow_gradients = differentiate(*narrow[:2])
    second_loss = loss  # where no state has changed
    if jax.tree.leaves(after):
      second_loss = transform.update(params, after, student, teachers, batch)[0]
    return {
      "params": params, "state": state, "loss": loss, "after": after, "metrics": metrics,
      "gradients": gradients, "narrow_loss": narrow_loss, "narrow_gradients": narrow_gradients,
      "wide_loss": objective(params, *wide)[0],
      "second_loss": second_loss,
    }  # fmt: skip

  return probe


@pytest.fixture(scope="module")
def case_of(quick_jit):
  @functools.cache
  def build(name):
    transform = TABLE[name].make()
    probe = quick_jit(chex.assert_max_traces(probe_of(transform), 1))
    found = probe(jax.random.key(0))
    update = jax.jit(transform.update)
    return Case(transform, update, found["params"], found["state"], probe, found)

  return build


@pytest.fixture(params=TABLE)
def name(request):
  return request.param


def any_nonzero(tree):
  return any(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(tree))


def test_every_loss_that_has_a_name_is_under_test():
  tested = {name.removesuffix("_dense") for name in TABLE}
  assert tested >= distill.DISTILLERS.keys()


@pytest.mark.slow
def test_loss_and_metrics_are_finite_float32_scalars(case_of, name):
  found = case_of(name).found
  assert found["metrics"] and all(isinstance(key, str) for key in found["metrics"])
  for scalar in (found["loss"], found["second_loss"], *found["metrics"].values()):
    assert (scalar.shape, scalar.dtype) == ((), jnp.float32)
    assert jnp.isfinite(scalar)


@pytest.mark.slow
def test_one_program_serves_all_steps_as_the_state_keeps_its_form(case_of, name):
  case = case_of(name)
  before = jax.eval_shape(lambda: case.state)
  _, after, _ = jax.eval_shape(case.transform.update, case.params, case.state, *example())
  chex.assert_trees_all_equal_structs(before, after)
  for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
    assert (old.shape, old.dtype, old.weak_type) == (new.shape, new.dtype, new.weak_type)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 16])
def test_a_batch_of_another_size_than_at_the_start_is_taken_and_keeps_the_states_form(
  case_of, name, size
):
  case = case_of(name)

  def step(state, student, teachers, batch):
    loss, after, _ = case.transform.update(case.params, state, student, teachers, batch)
    return loss, keep_where(jnp.isfinite(loss), after, state)

  loss, after = jax.eval_shape(step, case.state, *example(size=size))
  chex.assert_trees_all_equal_shapes_and_dtypes(after, case.state)
  assert loss.shape == ()


@pytest.mark.parametrize("stateful", ["kd_scheduled", "srd", "chain"])
def test_later_calls_compile_nothing(case_of, quick_jit, stateful):
  case = case_of(stateful)
  update = quick_jit(chex.assert_max_traces(case.transform.update, 1))
  state = case.state
  for _ in range(3):
    loss, state, _ = update(case.params, state, *example())
    assert jnp.isfinite(loss)


def test_parameters_are_float32_and_parameters_and_state_are_plain_arrays(case_of, name):
  case = case_of(name)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(case.params))
  for leaf in jax.tree.leaves((case.params, case.state)):
    np.asarray(leaf)  # raises for a typed key, which checkpoints would have to know about


@pytest.mark.slow
@pytest.mark.parametrize("light", [name for name, row in TABLE.items() if row.smooth])
def test_compiled_updates_give_what_plain_ones_give(case_of, light):
  case = case_of(light)
  plain = case.transform.update(case.params, case.state, *example())
  compiled = tuple(case.found[key] for key in ("loss", "after", "metrics"))
  chex.assert_trees_all_close(plain, compiled, rtol=5e-5, atol=1e-6)


@pytest.mark.slow
def test_numpy_arrays_will_do(case_of, name):
  case = case_of(name)
  arrays = jax.tree.map(np.asarray, (case.params, case.state, *example()))
  expected = jax.eval_shape(case.transform.update, case.params, case.state, *example())
  found = jax.eval_shape(lambda: case.transform.update(*arrays))
  chex.assert_trees_all_equal_shapes_and_dtypes(expected, found)


@pytest.mark.slow
def test_extras_that_mean_nothing_are_ignored(case_of, name):
  case = case_of(name)

  def program(**extras):
    def update(params, state, student, teachers, batch):
      return case.transform.update(params, state, student, teachers, batch, **extras)

    text = str(jax.make_jaxpr(update)(case.params, case.state, *example()))
    return re.sub("0x[0-9a-f]+", "", text)

  assert program() == program(step=jnp.int32(5), rng=None, unheard_of=object())


def test_gradients_are_finite_reach_what_is_trained_and_spare_the_teachers(case_of, name):
  gradients = case_of(name).found["gradients"]
  chex.assert_tree_all_finite(gradients)
  for_params, for_student, for_teachers = gradients
  for path, leaf in jax.tree_util.tree_leaves_with_path(for_params):
    frozen = any(part in jax.tree_util.keystr(path) for part in TABLE[name].frozen)
    assert any_nonzero(leaf) != frozen, path
  reached = {field for field, value in for_student._asdict().items() if any_nonzero(value)}
  assert reached == set(TABLE[name].reads)
  assert not any_nonzero(for_teachers)


@pytest.mark.slow
def test_bfloat16_is_computed_in_float32(case_of, name):
  case, (student, teachers, _) = case_of(name), example(jnp.bfloat16)
  loss, gradients = case.found["narrow_loss"], case.found["narrow_gradients"]
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, case.found["wide_loss"], rtol=2e-5)
  chex.assert_trees_all_equal_shapes_and_dtypes(gradients, (case.params, student, teachers))
  chex.assert_tree_all_finite(gradients)


@pytest.mark.slow
def test_many_seeds_run_at_once(case_of, quick_jit, name):
  case, inputs = case_of(name), example()
  if not jax.tree.leaves((case.params, case.state)):
    pytest.skip("nothing of it depends on a seed")

  @quick_jit
  @jax.vmap
  def run(key):
    params, state = case.transform.init(key, *inputs)
    return case.transform.update(params, state, *inputs)[0]

  keys = jax.random.split(jax.random.key(0), 3)
  one_by_one = [case.probe(key)["loss"] for key in keys]
  np.testing.assert_allclose(run(keys), one_by_one, rtol=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize("smooth", [name for name, row in TABLE.items() if row.smooth])
def test_numerical_differentiation_agrees(case_of, smooth):
  case, (student, teachers, batch) = case_of(smooth), example()
  state = case.found["after"]

  def objective(params, read):
    return case.update(params, state, student._replace(**read), teachers, batch)[0]

  read = {field: getattr(student, field) for field in TABLE[smooth].reads}
  check_grads(objective, (case.params, read), order=1, modes=("rev",), rtol=3e-2, atol=1e-2)
