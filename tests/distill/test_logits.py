"""Losses on logits: golden values, and what their definitions say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

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
