"""Contrastive distillation: two golden steps, its banks, and its edge cases."""

import re
import types
from collections.abc import Callable
from typing import NamedTuple

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxcompress.distill import (
  LossTransform,
  bank_state,
  by_magnitude,
  by_uncertainty,
  chain,
  crd,
  for_teacher,
  for_teachers,
  kd,
  named_chain,
  scale,
  teacher_head,
)
from jaxcompress.distill.bank_state import CRDParams, CRDState
from jaxcompress.distill.banks import (
  draw_contrast,
  draw_rows,
  scores,
  share_out,
  write_rows,
)
from jaxcompress.distill.base import keep_where
from jaxcompress.distill.combine import ScaleState
from jaxcompress.distill.contrastive import noise_contrastive
from jaxcompress.nn import Endpoints


def features(seed, size, width):
  pooled = np.random.default_rng(seed).normal(size=(size, width)).astype(np.float32)
  return Endpoints(logits=jnp.zeros((size, 3)), pooled=jnp.asarray(pooled))


class Small(NamedTuple):
  """A small case whose update is compiled once."""

  transform: LossTransform
  update: Callable
  params: CRDParams
  state: CRDState
  student: Endpoints
  teachers: tuple[Endpoints, ...]

  def step(self, state=None, student=None, index=range(6), **extras):
    return self.update(
      self.params,
      self.state if state is None else state,
      self.student if student is None else student,
      self.teachers,
      {"index": jnp.asarray(index)},
      **extras,
    )


@pytest.fixture(scope="module")
def small():
  transform = crd(30, dim=4, negatives=6)
  student, teachers = features(1, 6, 10), (features(2, 6, 14),)
  batch = {"index": jnp.arange(6)}
  variables = jax.jit(transform.init)(jax.random.key(0), student, teachers, batch)
  return Small(transform, jax.jit(transform.update), *variables, student, teachers)


@pytest.mark.parametrize("formulation", ["auto", "gather"])
def test_two_steps_are_the_golden_ones_with_all_gradients(golden, assert_near, formulation):
  arrays = golden("distill/crd")
  transform = crd(64, dim=16, negatives=16, formulation=formulation)

  def endpoints(network, step):
    return Endpoints(logits=jnp.zeros((8, 3)), pooled=arrays[f"in_{network}_step{step}"])

  def batch_of(step):
    return {
      "index": arrays[f"in_y_step{step}"],
      "contrast_index": arrays[f"in_contrast_idx_step{step}"],
    }

  @jax.jit
  @chex.assert_max_traces(1)
  def step(params, state, student, teacher, batch):
    def objective(params, pooled):
      loss, after, metrics = transform.update(
        params, state, student._replace(pooled=pooled), (teacher,), batch
      )
      return loss, (after, metrics)

    return jax.value_and_grad(objective, (0, 1), has_aux=True)(params, student.pooled)

  first = (endpoints("student", 1), (endpoints("teacher", 1),), batch_of(1))
  _, state = transform.init(jax.random.key(0), *first)
  embed = [
    {"kernel": arrays[f"param_embed_{n}.weight"].T, "bias": arrays[f"param_embed_{n}.bias"]}
    for n in "st"
  ]
  params = CRDParams(*embed)
  state = state._replace(
    student_bank=arrays["memory_v1_step0"], teacher_bank=arrays["memory_v2_step0"]
  )
  for i in (1, 2):
    (loss, (state, metrics)), (d_params, d_student) = step(
      params, state, endpoints("student", i), endpoints("teacher", i), batch_of(i)
    )
    assert_near(loss, arrays[f"f64_loss_step{i}"])
    assert metrics["crd"] == loss
    assert_near(d_student, arrays[f"f64_grad_student_step{i}"])
    for name, grad in (("s", d_params.student), ("t", d_params.teacher)):
      assert_near(grad["kernel"].T, arrays[f"f64_gradparam_embed_{name}.weight_step{i}"])
      assert_near(grad["bias"], arrays[f"f64_gradparam_embed_{name}.bias_step{i}"])
    assert_near(state.student_bank, arrays[f"f64_memory_v1_step{i}"])
    assert_near(state.teacher_bank, arrays[f"f64_memory_v2_step{i}"])
    assert_near(jnp.exp(state.student_log_z), arrays[f"f64_Z_v1_step{i}"])
    assert_near(jnp.exp(state.teacher_log_z), arrays[f"f64_Z_v2_step{i}"])
  assert state.count == 2


@pytest.mark.parametrize("examples", [12, 500])
def test_both_formulations_agree_in_value_and_gradient(examples):
  rng = np.random.default_rng(0)
  vectors, bank, weights = (
    rng.normal(size=shape).astype(np.float32) for shape in ((5, 8), (examples, 8), (5, 9))
  )
  ids = rng.integers(0, examples, (5, 9))

  def run(vectors, formulation):
    products = scores(vectors, bank, ids, formulation)
    return jnp.sum(weights * jnp.square(products)), products

  dense, gather = (
    jax.jit(jax.value_and_grad(run, has_aux=True), static_argnums=1)(vectors, formulation)
    for formulation in ("dense", "gather")
  )
  chex.assert_trees_all_close(dense, gather, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(dense[0][1], np.einsum("bd,bkd->bk", vectors, bank[ids]), atol=1e-5)


def test_the_dense_product_is_taken_up_to_batch_times_negatives_rows():
  def program(examples):
    vectors, bank, ids = jnp.ones((2, 4)), jnp.ones((examples, 4)), jnp.zeros((2, 5), int)
    return str(jax.make_jaxpr(scores)(vectors, bank, ids))

  assert "scan" not in program(10)
  assert "scan" in program(11)


def test_negatives_are_uniform_over_the_others():
  index, examples = jnp.array([0, 3, 6]), 7
  ids = draw_contrast(jax.random.key(0), index, examples, 70_000)
  np.testing.assert_array_equal(ids[:, 0], index)
  for own, row in zip(index, np.asarray(ids[:, 1:]), strict=True):
    counts = np.bincount(row, minlength=examples)
    assert counts[own] == 0 and len(counts) == examples
    others = np.delete(counts, own) * (examples - 1) / row.size
    np.testing.assert_allclose(others, 1.0, atol=0.05)


@pytest.mark.parametrize("strata", [2, 5])
def test_negatives_by_stratum_are_others_uniform_within_each(strata):
  index, examples = jnp.array([0, 3, 6, 10]), 11
  numbers = jnp.arange(strata)
  rows = draw_rows(jax.random.key(0), index, numbers, strata, examples, 20_000)
  for stratum in range(strata):
    members = np.arange(stratum, examples, strata)
    for own, drawn in zip(np.asarray(index), np.asarray(rows[:, stratum]), strict=True):
      others = members[members != own]
      counts = np.bincount(drawn * strata + stratum, minlength=examples)
      assert counts.sum() == counts[others].sum()
      np.testing.assert_allclose(counts[others] * len(others) / drawn.size, 1.0, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("strata", [4, 7, 13])
def test_banks_cut_anew_compute_what_the_same_negatives_give_without_strata(strata):
  """Whether or not their number divides that of the negatives."""
  examples, negatives, whole = 30, 12, crd(30, dim=4, negatives=12, strata=1)
  student, teachers = features(1, 6, 10), (features(2, 6, 14),)
  index, key = jnp.array([3, 8, 29, 3, 0, 17]), jax.random.key(5)
  params, flat = whole.init(jax.random.key(0), student, teachers, {"index": index})
  banks = {n: bank_state.cut(getattr(flat, n), strata) for n in ("student_bank", "teacher_bank")}
  numbers, each = jnp.arange(strata), -(-negatives // strata)
  rows = draw_rows(key, index, numbers, strata, examples, each)
  counted = share_out(key, numbers, strata, negatives, 6)
  ids = (rows * strata + numbers.reshape(1, -1, 1))[counted].reshape(6, negatives)
  ids = jnp.concatenate([index.reshape(-1, 1), ids], axis=1)

  def run(state, batch):
    def objective(params, student):
      loss, after, _ = whole.update(params, state, student, teachers, batch, rng=key)
      return loss, after

    return jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))(params, student)

  (loss, after), slopes = run(flat._replace(**banks), {"index": index})
  (expected, then), expected_slopes = run(flat, {"index": index, "contrast_index": ids})
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  chex.assert_trees_all_close(slopes, expected_slopes, rtol=1e-4, atol=1e-5)
  for name in banks:
    in_order = bank_state.cut(getattr(after, name), 1)[:examples]
    np.testing.assert_allclose(in_order, getattr(then, name), atol=1e-5)
  np.testing.assert_allclose(after.student_log_z, then.student_log_z, rtol=1e-5)


def test_uneven_strata_give_as_many_negatives_each_on_average():
  counted = share_out(jax.random.key(0), jnp.arange(5), 5, 12, 20_000)
  assert (counted.sum((1, 2)) == 12).all()
  np.testing.assert_allclose(counted.sum(2).mean(0), 12 / 5, rtol=0.01)
  np.testing.assert_array_equal(
    share_out(jax.random.key(0), jnp.array([3]), 5, 12, 9)[:, 0],
    share_out(jax.random.key(0), jnp.arange(5), 5, 12, 9)[:, 3],
  )


@pytest.mark.slow
@hypothesis.given(
  examples=st.integers(2, 200), cuts=st.lists(st.integers(2, 40), min_size=1, max_size=2)
)
@hypothesis.settings(deadline=None, max_examples=50)
def test_banks_that_are_cut_anew_keep_every_row(examples, cuts):
  bank = np.arange(1, 1 + 2 * examples, dtype=np.float32).reshape(examples, 2)
  found = bank
  for strata in cuts:
    found = bank_state.cut(found, strata)
    assert bank_state.hold_alike(bank.shape, found.shape)
  i, last = np.arange(examples), cuts[-1]
  rows = np.asarray(found)[i % last, i // last]
  np.testing.assert_array_equal(rows, bank)
  assert not bank_state.hold_alike((examples + 300, 2), found.shape)


@pytest.mark.parametrize(
  ("examples", "negatives", "devices", "expected"),
  [
    (50_000, 16384, 8, (64, 782)),  # as they were
    (50_000, 16384, 24, (192, 261)),  # which 8 devices, and 64, can share too
    (50_000, 16384, 256, (256, 196)),
    (50_000, 1000, 8, (64, 782)),
    (200, 16384, 24, (24, 11)),
    (100, 6, 8, (100,)),
    (1_281_167, 16384, 1, (64, 20019)),
  ],
)
def test_any_number_of_devices_shares_banks(examples, negatives, devices, expected):
  student = features(1, 2, 4)
  loss, batch = crd(examples, dim=8, negatives=negatives), {"index": jnp.arange(2)}
  _, state = jax.eval_shape(lambda: loss.init(jax.random.key(0), student, (student,), batch))
  cut = state.cut_for(types.SimpleNamespace(size=devices))
  assert cut.student_bank.shape == cut.teacher_bank.shape == (*expected, 8)


@pytest.mark.slow
@pytest.mark.parametrize("formulation", ["dense", "gather"])
def test_strata_compute_what_the_same_negatives_give_without_them(formulation):
  strata, examples, negatives = 4, 30, 12
  options = {"dim": 4, "negatives": negatives, "formulation": formulation}
  cut, whole = crd(examples, strata=strata, **options), crd(examples, strata=1, **options)
  student, teachers = features(1, 6, 10), (features(2, 6, 14),)
  index, key = jnp.array([3, 8, 29, 3, 0, 17]), jax.random.key(5)
  params, state = cut.init(jax.random.key(0), student, teachers, {"index": index})
  rows = draw_rows(key, index, jnp.arange(strata), strata, examples, negatives // strata)
  ids = (rows * strata + jnp.arange(strata).reshape(1, -1, 1)).reshape(6, -1)
  ids = jnp.concatenate([index.reshape(-1, 1), ids], axis=1)

  def in_order(bank):
    return jnp.swapaxes(bank, 0, 1).reshape(-1, 4)[:examples]

  def flat(state):
    banks = {n: in_order(getattr(state, n)) for n in ("student_bank", "teacher_bank")}
    return state._replace(**banks)

  def run(transform, state, batch):
    def objective(params, student):
      loss, after, _ = transform.update(params, state, student, teachers, batch, rng=key)
      return loss, after

    return jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))(params, student)

  (loss, after), slopes = run(cut, state, {"index": index})
  for transform, start in ((whole, flat(state)), (cut, state)):
    batch = {"index": index, "contrast_index": ids}
    (expected, then), expected_slopes = run(transform, start, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    chex.assert_trees_all_close(slopes, expected_slopes, rtol=1e-4, atol=1e-5)
    if transform is whole:
      after_in_order = flat(after)
      chex.assert_trees_all_close(
        after_in_order._replace(overwritten=()), then._replace(overwritten=()), atol=1e-5
      )


def test_negatives_come_from_the_state_or_from_the_key_that_is_passed(small):
  def loss(count, **extras):
    return float(small.step(small.state._replace(count=jnp.int32(count)), **extras)[0])

  assert loss(1) == loss(1) != loss(2)
  five, six = jax.random.key(5), jax.random.key(6)
  assert loss(1, rng=five) == loss(2, rng=five) != loss(2, rng=six)


def test_the_normaliser_is_set_by_the_first_update_and_kept(small):
  states = [small.state]
  for _ in range(3):
    states.append(small.step(states[-1])[1])
  constants = [(float(s.student_log_z), float(s.teacher_log_z)) for s in states]
  assert constants[0] == (0.0, 0.0) != constants[1]
  assert constants[1] == constants[2] == constants[3]


def test_only_rows_of_the_batch_change_and_they_have_unit_length(small):
  after = small.step(index=[3, 8, 1, 20, 29, 0])[1]
  for name in ("student_bank", "teacher_bank"):
    old, new = np.asarray(getattr(small.state, name)), np.asarray(getattr(after, name))
    changed = np.flatnonzero((old != new).any(1))
    np.testing.assert_array_equal(changed, [0, 1, 3, 8, 20, 29])
    np.testing.assert_allclose(np.linalg.norm(new[changed], axis=1), 1.0, rtol=1e-5)


def test_the_last_of_several_rows_for_one_place_wins(small):
  after = small.step(index=[5, 2, 5, 5, 2, 7])[1]
  layer = small.params.student
  e = np.asarray(small.student.pooled) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
  e /= np.linalg.norm(e, axis=1, keepdims=True)
  for place, winner in ((5, 3), (2, 4), (7, 5)):
    row = np.asarray(small.state.student_bank[place]) + e[winner]
    np.testing.assert_allclose(after.student_bank[place], row / np.linalg.norm(row), atol=1e-6)


def test_features_that_embed_to_zero_keep_everything_finite(small):
  params = jax.tree.map(lambda x: x if x.ndim == 2 else jnp.zeros_like(x), small.params)
  student, teachers = jax.tree.map(lambda x: x.at[0].set(0.0), (small.student, small.teachers))

  @jax.jit
  def objective(params, student):
    batch = {"index": jnp.arange(6)}
    loss, after, _ = small.transform.update(params, small.state, student, teachers, batch)
    return loss, after

  (loss, after), grads = jax.value_and_grad(objective, (0, 1), has_aux=True)(params, student)
  assert jnp.isfinite(loss) and after.count == 1
  chex.assert_tree_all_finite((grads, after))


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_scores_of_any_size_are_finite_as_they_are_at_low_temperatures(size):
  logits = size * jnp.linspace(-1.0, 1.0, 8).reshape(2, 4)
  loss, grad = jax.value_and_grad(lambda x: noise_contrastive(x[:, 0], x[:, 1:], 3 / 40))(logits)
  chex.assert_tree_all_finite((loss, grad))


def test_noise_contrastive_estimation_is_its_formula():
  out = np.random.default_rng(0).uniform(0.01, 3, (5, 8))
  noise = 7 / 40
  positive, negative = out[:, 0], out[:, 1:]
  expected = -np.log(positive / (positive + noise + 1e-7)).sum()
  expected -= np.log(noise / (negative + noise + 1e-7)).sum()
  log_out = jnp.log(jnp.asarray(out, jnp.float32))
  actual = noise_contrastive(log_out[:, 0], log_out[:, 1:], noise)
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("bad", ["student", "index"])
def test_a_bad_batch_gives_no_number_and_leaves_the_state_alone(small, bad):
  if bad == "student":
    pooled = small.student.pooled.at[0, 0].set(jnp.nan)
    loss, after, _ = small.step(student=small.student._replace(pooled=pooled))
  else:
    loss, after, _ = small.step(index=[0, 1, 30, 3, 4, 5])
  assert jnp.isnan(loss)
  for name in set(CRDState._fields) - {"overwritten"}:
    np.testing.assert_array_equal(getattr(after, name), getattr(small.state, name))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("index", [[5, 2, 5, 5, 2, 7], [29], [3, 3], [*range(30), 0, 4, 4]])
def test_an_update_of_any_size_is_kept_or_taken_back_to_the_bit(small, keep, index):
  before = (ScaleState((), small.state),)  # as in a chain
  student, teachers = features(3, len(index), 10), (features(4, len(index), 14),)
  found = small._replace(teachers=teachers).step(student=student, index=index)[1]
  chosen = jax.jit(keep_where)(jnp.bool_(keep), (ScaleState((), found),), before)
  kept = found._replace(overwritten=small.state.overwritten)  # no step reads it
  chex.assert_trees_all_equal(chosen, (ScaleState((), kept),) if keep else before)
  changed = np.flatnonzero((chosen[0].inner.student_bank != small.state.student_bank).any(1))
  np.testing.assert_array_equal(changed, np.unique(index) if keep else [])


@pytest.mark.parametrize("size", [1, 4, 13])
def test_a_batch_is_what_it_is_whatever_the_size_at_the_start(small, size):
  student, teachers = features(3, size, 10), (features(4, size, 14),)
  index = 2 * jnp.arange(size)
  of_its_size = small.transform.init(jax.random.key(0), student, teachers, {"index": index})[1]
  ends = [
    small._replace(teachers=teachers).step(state, student, index)
    for state in (small.state, of_its_size)
  ]
  chex.assert_trees_all_equal(*ends)
  assert jnp.isfinite(ends[0][0])


@pytest.mark.parametrize(("index", "count"), [([0, 29, 1, 2, 3, 4], 0), ([30, -1, 0, 99, 1, 2], 3)])
def test_places_outside_the_banks_are_counted(small, index, count):
  loss, _, metrics = small.step(index=index)
  assert (float(metrics["crd_outside"]), bool(jnp.isnan(loss))) == (count, count > 0)


@pytest.mark.parametrize(
  ("batch", "message"),
  [
    (
      {"index": np.array([3, 30, 0])},
      "'index' must be places from 0 to 29 .*, got 30; num_examples",
    ),
    ({"index": jnp.array([3, -2, 0])}, "'index' must be places from 0 to 29 .*, got -2"),
    ({"index": np.uint8([200])}, "got 200"),
    (
      {"index": np.array([0]), "contrast_index": np.array([[0, 31]])},
      "'contrast_index' must .*, got 31",
    ),
  ],
)
@pytest.mark.parametrize(
  "around",
  [
    lambda loss: loss,
    lambda loss: scale(2.0, loss),
    lambda loss: chain(kd(), loss),
    lambda loss: named_chain(kd=kd(), memory=loss),
    lambda loss: for_teacher(1, loss),
    lambda loss: for_teachers(2, loss),
    lambda loss: by_magnitude(memory=loss),
    lambda loss: by_uncertainty(memory=loss),
    lambda loss: teacher_head(3, loss),
  ],
)
def test_places_outside_the_banks_are_refused_on_the_host(small, around, batch, message):
  check = around(small.transform).check
  check({"index": np.arange(30)})
  jax.eval_shape(check, batch)  # what is traced has no values
  with pytest.raises(ValueError, match=message):
    check(batch)


@pytest.mark.parametrize(
  ("batch", "message"),
  [
    ({"label": jnp.zeros(6, int)}, "no 'index'"),
    ({"index": jnp.zeros(6)}, "'index' is float32"),
    ({"index": jnp.zeros(5, int)}, r"of shape \(5,\)"),
  ],
)
def test_an_index_that_does_not_fit_is_refused_by_each_update(small, batch, message):
  with pytest.raises(ValueError, match=message):
    small.update(small.params, small.state, small.student, small.teachers, batch)


@pytest.mark.parametrize(("formulation", "strata"), [("dense", 1), ("gather", 1), ("gather", 4)])
def test_donated_banks_are_never_copied_not_even_to_take_a_step_back(formulation, strata):
  examples = 1000
  settings = {"formulation": formulation, "strata": strata}
  transform = scale(0.8, crd(examples, dim=16, negatives=32, **settings))
  student, teachers, batch = features(1, 6, 10), (features(2, 6, 14),), {"index": jnp.arange(6)}
  params, state = jax.eval_shape(transform.init, jax.random.key(0), student, teachers, batch)

  def step(params, state, student, batch):
    def objective(params, student):
      loss, after, _ = transform.update(params, state, student, teachers, batch)
      return loss, after

    (loss, after), grads = jax.value_and_grad(objective, (0, 1), has_aux=True)(params, student)
    finite = jnp.isfinite(loss + sum(jnp.sum(g) for g in jax.tree.leaves(grads)))
    return grads, keep_where(finite, after, state)

  lowered = jax.jit(step, donate_argnums=1).lower(params, state, student, batch)
  compiled = lowered.compile({"xla_cpu_use_fusion_emitters": True})  # as users have it
  made = re.findall(r"= f32\[(?:1000|4,250),16\]\S* ([\w-]+)\(", compiled.as_text())
  assert "scatter" in made
  assert not {"copy", "select"} & set(made), made
  assert compiled.memory_analysis().alias_size_in_bytes >= 2 * examples * 16 * 4


def test_rows_that_are_not_kept_are_not_written():
  bank, rows = jnp.zeros((3, 2)), jnp.ones((2, 2))
  for keep in (True, False):
    after = write_rows(bank, jnp.array([2, 0]), rows, jnp.bool_(keep))
    np.testing.assert_array_equal(after.sum(), 4.0 * keep)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"num_examples": 1}, "num_examples: 1 must be a whole number, at least 2"),
    ({"num_examples": 9.5}, "num_examples: 9.5"),
    ({"dim": 0}, "dim: 0"),
    ({"negatives": 0}, "negatives: 0 must be a whole number, at least 1"),
    ({"temperature": 0.0}, "temperature: 0.0 must be a finite number above 0"),
    ({"temperature": lambda step: 1.0}, "temperature: a schedule"),
    ({"momentum": 1.0}, r"momentum: 1.0 must be in \[0, 1\)"),
    ({"momentum": -0.1}, "momentum: -0.1"),
    ({"strata": 0}, r"strata: 0 must be a whole number that divides negatives \(16384\)"),
    ({"strata": 3}, "strata: 3"),
    ({"strata": 8}, r"at most half of num_examples \(10\)"),
    ({"formulation": "fast"}, "formulation: 'fast' must be one of auto, dense, gather"),
  ],
)
def test_mistakes_name_the_argument_and_the_value_of_contrastive_distillation(settings, message):
  with pytest.raises(ValueError, match=message):
    crd(**{"num_examples": 10, **settings})


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"batch": {"label": jnp.zeros(6, int)}}, "batch: it has label, but no 'index'"),
    ({"batch": {"index": jnp.zeros(5, int)}}, r"'index' is int32 of shape \(5,\)"),
    ({"batch": {"index": jnp.zeros(6)}}, "'index' is float32"),
    (
      {"batch": {"index": jnp.zeros(6, int), "contrast_index": jnp.zeros((6, 1), int)}},
      r"'contrast_index' has shape \(6, 1\)",
    ),
    ({"student": Endpoints(logits=jnp.zeros((6, 3)))}, "student: crd reads pooled features"),
    ({"teachers": (Endpoints(logits=jnp.zeros((6, 3))),)}, "teacher: crd reads pooled features"),
    ({"teachers": ()}, "teachers: crd needs a teacher, got none"),
  ],
)
def test_inputs_that_do_not_fit_are_refused_by_the_init_of_contrastive_distillation(
  change, message
):
  good = {
    "student": features(1, 6, 10),
    "teachers": (features(2, 6, 14),),
    "batch": {"index": jnp.zeros(6, int)},
  }
  with pytest.raises(ValueError, match=message):
    crd(10).init(jax.random.key(0), **{**good, **change})
