"""Sums, weights and choices of losses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.distill import (
  LossTransform,
  chain,
  crd,
  cross_entropy,
  for_teacher,
  kd,
  named_chain,
  scale,
  stateful,
  stateless,
)
from jaxcompress.nn import Endpoints

LABELS = {"label": jnp.array([0, 1, 2, 3])}


def endpoints(seed, features=8):
  rng = np.random.default_rng(seed)
  return Endpoints(*(jnp.asarray(rng.normal(size=(4, n)), jnp.float32) for n in (6, features)))


STUDENT, TEACHERS = endpoints(0), (endpoints(1), endpoints(2, 12))


def once(transform, student=STUDENT, teachers=TEACHERS, batch=LABELS, **extras):
  params, state = transform.init(jax.random.key(0), student, teachers, batch)
  return transform.update(params, state, student, teachers, batch, **extras)


def test_a_loss_for_each_example_is_refused():
  def each(student, teachers, batch):
    return jnp.mean(student.logits, axis=1)

  def compute(params, state, student, teachers, batch, extras):
    return each(student, teachers, batch), state

  for transform in (
    stateless("each", each),
    stateful("each", lambda *arguments: ((), ()), compute),
  ):
    with pytest.raises(ValueError, match=r"loss: 'each' has shape \(4,\); it must be a scalar"):
      once(transform)


@settings(deadline=None, max_examples=15)
@given(weights=st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=4))
def test_a_chain_equals_its_terms_added_by_hand(weights):
  makers = (
    cross_entropy(0.1),
    kd(2.0),
    for_teacher(1, kd(4.0)),
    stateless("one", lambda *_: jnp.ones(())),
  )
  terms = [scale(weight, term) for weight, term in zip(weights, makers, strict=False)]
  by_hand = sum(weight * once(term)[0] for weight, term in zip(weights, makers, strict=False))
  for loss in (
    once(chain(*terms))[0],
    once(named_chain(*((str(i), term) for i, term in enumerate(terms))))[0],
  ):
    np.testing.assert_allclose(loss, by_hand, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_chain_is_the_sum_of_gradients():
  def grad(transform):
    return jax.grad(lambda s: once(transform, STUDENT._replace(logits=s))[0])(STUDENT.logits)

  terms = (scale(0.1, cross_entropy()), scale(0.9, kd()))
  np.testing.assert_allclose(grad(chain(*terms)), grad(terms[0]) + grad(terms[1]), atol=1e-6)


def test_metrics_of_one_name_get_suffixes_and_stay_unweighted():
  nested = chain(scale(5.0, kd()), chain(kd(), kd(2.0)), cross_entropy())
  metrics = once(nested)[2]
  assert list(metrics) == ["kd", "kd_2", "kd_2_2", "cross_entropy"]
  assert metrics["kd"] == once(kd())[0]
  assert list(once(chain(kd(), kd(), kd()))[2]) == ["kd", "kd_2", "kd_3"]


def test_named_terms_keep_their_parameters_states_and_metrics_under_their_names():
  batch = {**LABELS, "index": jnp.arange(4)}
  transform = named_chain(("soft labels", kd(lambda step: 4.0)), memory=crd(9, dim=3, negatives=5))
  params, state = jax.jit(transform.init)(jax.random.key(0), STUDENT, TEACHERS, batch)
  assert set(params) == set(state) == {"soft labels", "memory"}
  _, state, metrics = jax.jit(transform.update)(params, state, STUDENT, TEACHERS, batch)
  assert state["soft labels"] == state["memory"].count == 1
  assert set(metrics) == {"soft labels/kd", "memory/crd", "memory/crd_outside"}


@pytest.mark.parametrize("weight", [0, 0.0, lambda step: 0.0])
def test_a_weight_of_zero_gives_a_zero_gradient(weight):
  grad = jax.grad(lambda s: once(scale(weight, kd()), STUDENT._replace(logits=s))[0])(
    STUDENT.logits
  )
  np.testing.assert_array_equal(grad, 0.0)


def test_a_weight_follows_its_schedule_without_recompilation():
  schedule = optax.linear_schedule(0.0, 1.0, 4)
  transform = scale(schedule, kd())
  params, state = transform.init(jax.random.key(0), STUDENT, TEACHERS, LABELS)
  update = jax.jit(chex.assert_max_traces(transform.update, 1))
  for step in range(6):
    loss, state, metrics = update(params, state, STUDENT, TEACHERS, LABELS)
    np.testing.assert_allclose(loss, schedule(step) * metrics["kd"], rtol=1e-6)
  assert state.count == 6


def test_a_teacher_is_chosen_by_its_place():
  for i in (0, 1):
    assert once(for_teacher(i, kd()))[0] == once(kd(), teachers=(TEACHERS[i],))[0]
  assert once(kd())[0] == once(for_teacher(0, kd()))[0]


def test_extras_reach_every_term_and_each_gets_a_key_of_its_own():
  seen = []

  def compute(params, state, student, teachers, batch, extras):
    seen.append(extras)
    return jnp.zeros(()), state

  spy = stateful("spy", lambda *_: ((), ()), compute)
  key = jax.random.key(7)
  once(chain(scale(2.0, spy), named_chain(a=for_teacher(1, spy), b=spy)), step=3, rng=key, other=1)
  assert [(extras["step"], extras["other"]) for extras in seen] == [(3, 1)] * 3
  keys = {tuple(jax.random.key_data(extras["rng"]).tolist()) for extras in seen}
  assert len(keys) == 3


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (chain, "transforms must not be empty; chain"),
    (named_chain, "transforms must not be empty; named_chain"),
    (lambda: chain(kd(), cross_entropy), r"item 1 is cross_entropy, not a LossTransform"),
    (lambda: chain(0.9), "item 0 is 0.9, not"),
    (lambda: named_chain(a=kd), "'a' is kd, not"),
    (lambda: named_chain(("a", kd()), a=kd()), "the name 'a' is empty or used twice"),
    (lambda: named_chain(("", kd())), "the name '' is empty"),
    (lambda: named_chain(kd()), r"must be a \(name, transform\) tuple"),
    (lambda: scale(float("nan"), kd()), "weight: nan must be a finite number"),
    (lambda: scale(kd(), kd()), "weight: "),
    (lambda: scale(0.5, kd), "transform is kd, not"),
    (lambda: for_teacher(-1, kd()), "i: -1 must be a teacher's place"),
    (lambda: for_teacher("first", kd()), "i: 'first' must be"),
    (lambda: for_teacher(0, kd), "transform is kd, not"),
    (lambda: once(for_teacher(2, kd())), "i: teacher 2 was asked for and there are 2"),
  ],
)
def test_mistakes_name_the_argument_and_the_value_of_a_combination(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_a_weight_may_be_traced():
  losses = jax.vmap(lambda weight: once(scale(weight, kd()))[0])(jnp.array([0.0, 1.0, 2.0]))
  np.testing.assert_allclose(losses, once(kd())[0] * np.arange(3), rtol=1e-6)


def test_a_transform_is_a_pair_of_functions_that_anyone_can_write():
  def update(params, state, student, teachers, batch, **extras):
    return jnp.sum(params), state, {"sum": jnp.sum(params)}

  mine = LossTransform(lambda *_: (jnp.ones(3), ()), update)
  assert once(chain(mine, scale(2.0, mine)))[0] == 9.0
