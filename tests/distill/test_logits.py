"""Losses on logits: golden values, and what their definitions say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxcompress import distill
from jaxcompress.distill import chain, cross_entropy, kd
from jaxcompress.nn import Endpoints

logit_arrays = hnp.arrays(
  np.float32, (3, 5), elements=st.floats(-30, 30, width=32, allow_subnormal=False)
)


def value(transform, student, teacher=None, **batch):
  """The loss of one stateless call."""
  teachers = () if teacher is None else (Endpoints(logits=jnp.asarray(teacher)),)
  student = Endpoints(logits=jnp.asarray(student))
  params, state = transform.init(jax.random.key(0), student, teachers, batch)
  return transform.update(params, state, student, teachers, batch)[0]


@pytest.mark.parametrize("temperature", [1, 4])
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "schedule"])
def test_kd_and_its_gradient_are_the_golden_ones(golden, assert_near, temperature, constant):
  arrays = golden("distill/kd")
  transform = kd(temperature if constant else optax.constant_schedule(temperature))
  loss, grad = jax.jit(
    jax.value_and_grad(lambda student: value(transform, student, arrays["in_teacher"]))
  )(arrays["in_student"])
  assert_near(loss, arrays[f"f64_loss_T{temperature}"])
  assert_near(grad, arrays[f"f64_grad_student_T{temperature}"])


@settings(deadline=None, max_examples=30)
@given(logits=logit_arrays, temperature=st.floats(0.5, 20))
def test_identical_logits_cost_nothing(logits, temperature):
  assert abs(value(kd(temperature), logits, logits)) <= 1e-4
  grad = jax.grad(lambda s: value(kd(temperature), s, logits))(logits)
  np.testing.assert_allclose(grad, 0.0, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(student=logit_arrays, teacher=logit_arrays, shift=st.floats(-20, 20))
def test_kd_does_not_see_a_shift_of_the_logits(student, teacher, shift):
  plain = value(kd(), student, teacher)
  np.testing.assert_allclose(value(kd(), student + np.float32(shift), teacher), plain, 1e-4, 1e-3)
  np.testing.assert_allclose(value(kd(), student, teacher + np.float32(shift)), plain, 1e-4, 1e-3)


@settings(deadline=None, max_examples=30)
@given(student=logit_arrays, teacher=logit_arrays)
def test_kd_is_never_negative(student, teacher):
  assert value(kd(), student, teacher) >= -1e-4


def test_the_temperature_follows_its_schedule_one_step_per_update():
  student, teacher = (Endpoints(jax.random.normal(jax.random.key(i), (4, 6))) for i in range(2))
  transform = kd(lambda step: 1.0 + step)
  params, state = transform.init(jax.random.key(0), student, (teacher,), {})
  update = jax.jit(transform.update)
  for temperature in (1.0, 2.0, 3.0):
    loss, state, _ = update(params, state, student, (teacher,), {})
    np.testing.assert_allclose(loss, value(kd(temperature), student[0], teacher[0]), rtol=1e-6)
  assert state == 3


def test_a_class_that_the_teacher_rules_out_costs_nothing():
  teacher = jnp.array([[1.0, 2.0, -jnp.inf]])
  loss, grad = jax.value_and_grad(lambda s: value(kd(1.0), s, teacher))(
    jnp.array([[1.0, 2.0, -9.0]])
  )
  np.testing.assert_allclose(loss, 0.0, atol=1e-4)
  assert jnp.all(jnp.isfinite(grad))


@settings(deadline=None, max_examples=30)
@given(logits=logit_arrays, smoothing=st.floats(0, 0.5), seed=st.integers(0, 99))
def test_cross_entropy_is_the_one_of_optax_for_labels_and_targets(logits, smoothing, seed):
  label = np.random.default_rng(seed).integers(0, 5, 3)
  target = jax.nn.one_hot(label, 5)
  expected = optax.softmax_cross_entropy(logits, optax.smooth_labels(target, smoothing)).mean()
  for batch in ({"label": label}, {"target": target}, {"target": target, "label": label[::-1]}):
    loss = value(cross_entropy(smoothing), logits, **batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)


def test_cross_entropy_is_linear_in_soft_targets():
  logits, a, b = jax.random.normal(jax.random.key(0), (3, 4, 6))
  a, b = jax.nn.softmax(a), jax.nn.softmax(b)
  parts = [value(cross_entropy(0.1), logits, target=t) for t in (a, b, 0.3 * a + 0.7 * b)]
  np.testing.assert_allclose(parts[2], 0.3 * parts[0] + 0.7 * parts[1], rtol=1e-5)


@pytest.mark.parametrize("number", [0.0, -1.0, float("nan"), float("inf"), "4"])
def test_a_temperature_that_is_no_positive_number_is_refused(number):
  with pytest.raises(ValueError, match="temperature: "):
    kd(number)


@pytest.mark.parametrize("number", [-0.1, 1.0, float("nan")])
def test_a_label_smoothing_out_of_range_is_refused(number):
  with pytest.raises(ValueError, match="label_smoothing: "):
    cross_entropy(number)


@pytest.mark.parametrize(
  ("batch", "message"),
  [
    ({"image": jnp.zeros(2)}, "it has image, but no 'label' or 'target'"),
    ({"label": jnp.zeros((2, 3))}, r"'label' has shape \(2, 3\); it must be \(2,\)"),
    ({"target": jnp.zeros((2, 4))}, r"'target' has shape \(2, 4\)"),
  ],
)
def test_labels_that_do_not_fit_are_refused_when_the_loss_is_initialised(batch, message):
  student = Endpoints(logits=jnp.zeros((2, 3)))
  with pytest.raises(ValueError, match=message):
    chain(cross_entropy()).init(jax.random.key(0), student, (), batch)


@pytest.mark.parametrize(
  ("teachers", "message"),
  [
    ((), "teachers: kd needs a teacher, got none"),
    ((Endpoints(logits=jnp.zeros((2, 4))),), r"logits have shape \(2, 4\) and the student's"),
  ],
)
def test_teachers_that_do_not_fit_are_refused_when_the_loss_is_initialised(teachers, message):
  with pytest.raises(ValueError, match=message):
    kd().init(jax.random.key(0), Endpoints(logits=jnp.zeros((2, 3))), teachers, {})


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (
      lambda rate: distill.srd(rate),
      r"exponent: the function schedule .* finite number above 0; .* distill.scale\(schedule, loss",
    ),
    (
      lambda rate: distill.crd(9, temperature=rate),
      "temperature: a schedule would .* distill.scale",
    ),
    (lambda _: distill.dcd(2.5), "dim: 2.5 must be a whole number"),
    (lambda _: distill.sdd(scales=2), "scales: 2 must be numbers of cells per side"),
    (lambda _: distill.sdd(head=None), "head: None must be the path of a layer"),
    (lambda _: distill.wkd_l(sharpen=-1.0), "sharpen: -1.0 must be a number of at least 0"),
    (lambda _: distill.wkd_l(cost=np.full((2, 2), np.nan)), "cost: nan is among its numbers"),
    (
      lambda _: distill.wkd_l(cost=10 * (1 - np.eye(2)), sharpen=0),
      "must be at least 0.5, a 20th of",
    ),
    (lambda _: distill.wkd_l(regularization=1e-3), "regularization: 0.001 must be at least 0.0316"),
    (lambda _: distill.ofa(maps=((1, 2),)), "maps: .* must be places in the student's maps"),
  ],
)
def test_arguments_with_which_a_loss_would_break_or_vanish_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make(optax.linear_schedule(1.0, 2.0, 3))


@pytest.mark.slow
def test_the_scale_of_dcd_stops_at_its_largest_without_overflow():
  pooled = jax.random.normal(jax.random.key(0), (4, 3))
  both, loss = Endpoints(None, pooled=pooled), distill.dcd(3, log_scale=1000.0)
  params, _ = loss.init(jax.random.key(1), both, (both,), {})
  grads = jax.grad(lambda params: loss.update(params, (), both, (both,), {})[0])(params)
  assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(grads))
  assert grads["log_scale"] == 0


def test_places_of_ofa_that_do_not_ascend_are_refused():
  ends = Endpoints(jnp.zeros((2, 5)), jnp.ones((2, 6)), (jnp.ones((2, 4, 4, 3)),) * 3)
  with pytest.raises(ValueError, match=r"maps: \(1, -2\) must ascend, each place once"):
    distill.ofa(maps=(1, -2)).init(
      jax.random.key(0), ends, (ends,), {"label": jnp.zeros(2, jnp.int32)}
    )


@pytest.mark.parametrize(
  ("teacher", "path", "message"),
  [
    ({"fc": {"kernel": jnp.ones((3, 5))}}, "fc", "head: 'fc' of the teacher has 5 outputs"),
    ({"fc": {"kernel": jnp.ones((3, 3, 8, 2))}}, "fc", "head: 'fc' of the teacher is no linear"),
    ({"fc": {"kernel": jnp.ones((3, 2))}}, "fc/kernel", "'fc/kernel' of the teacher is no linear"),
  ],
)
def test_a_head_that_does_not_make_the_logits_is_refused(teacher, path, message):
  ends, batch = Endpoints(jnp.ones((4, 2))), {"label": jnp.zeros(4, jnp.int32)}
  with pytest.raises(ValueError, match=message):
    distill.wkd_l(head=path).update((), (), ends, (ends,), batch, teacher_params=(teacher,))
