"""Several teachers, new heads for teachers, and weights that find themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import distill
from jaxcompress.nn import Endpoints

LABELS = {"label": jnp.array([0, 1, 2, 1])}


def endpoints(seed, classes=3):
  rng = np.random.default_rng(seed)
  return Endpoints(*(jnp.asarray(rng.normal(size=(4, n)), jnp.float32) for n in (classes, 5)))


STUDENT, TEACHERS = endpoints(0), (endpoints(1), endpoints(2))


def once(transform, teachers=TEACHERS):
  params, state = transform.init(jax.random.key(0), STUDENT, teachers, LABELS)
  return transform.update(params, state, STUDENT, teachers, LABELS)


def each(transform):
  return [float(once(transform, (teacher,))[0]) for teacher in TEACHERS]


@pytest.mark.parametrize(("weights", "used"), [(None, (0.5, 0.5)), ((0.2, 2.0), (0.2, 2.0))])
def test_teachers_are_averaged_or_weighted(weights, used):
  loss, _, metrics = once(distill.for_teachers(2, distill.kd(), weights=weights))
  np.testing.assert_allclose(loss, np.dot(used, each(distill.kd())), rtol=1e-6)
  assert list(metrics) == ["teacher0/kd", "teacher1/kd"]


def test_a_patient_teacher_needs_no_labels_and_several_are_added():
  transform = distill.patient(2)
  params, state = transform.init(jax.random.key(0), STUDENT, TEACHERS, {})
  loss, _, _ = transform.update(params, state, STUDENT, TEACHERS, {})
  np.testing.assert_allclose(loss, sum(each(distill.kd(1.0))), rtol=1e-6)


def test_a_teacher_of_other_classes_learns_a_head_and_teaches_by_it(quick_jit):
  teachers = (endpoints(1, classes=9),)
  transform = distill.teacher_head(3, distill.kd(2.0))
  params, state = transform.init(jax.random.key(0), STUDENT, teachers, LABELS)

  @quick_jit
  def step(params, state):
    def objective(params):
      loss, after, metrics = transform.update(params, state, STUDENT, teachers, LABELS)
      return loss, (after, metrics)

    (_, (after, metrics)), gradients = jax.value_and_grad(objective, has_aux=True)(params)
    return jax.tree.map(lambda p, g: p - 0.5 * g, params, gradients), after, metrics

  first = step(params, state)[2]
  pooled = np.asarray(teachers[0].pooled)
  logits = pooled @ params["head"]["kernel"] + params["head"]["bias"].reshape(1, -1)
  np.testing.assert_allclose(first["kd"], once(distill.kd(2.0), (Endpoints(logits),))[0], rtol=1e-5)
  for _ in range(100):
    params, state, metrics = step(params, state)
  assert metrics["teacher_head"] < 0.2 < first["teacher_head"]


def test_uncertainties_settle_where_each_weighted_loss_is_one(quick_jit):
  terms = {"big": distill.scale(100.0, distill.kd()), "small": distill.scale(0.01, distill.kd())}
  transform = distill.by_uncertainty(**terms)
  params, state = transform.init(jax.random.key(0), STUDENT, TEACHERS, LABELS)

  @quick_jit
  def descend(params):
    grad = jax.grad(lambda p: transform.update(p, state, STUDENT, TEACHERS, LABELS)[0])(params)
    return jax.tree.map(lambda p, g: p - 0.2 * g, params, grad)

  for _ in range(300):
    params = descend(params)
  sizes = {name: float(once(term)[0]) for name, term in terms.items()}
  for name, size in sizes.items():
    np.testing.assert_allclose(np.exp(-params["log_variance"][name]) * size, 1.0, rtol=1e-3)


def test_magnitudes_are_corrected_running_means():
  transform = distill.by_magnitude(0.5, soft=distill.kd())
  params, state = transform.init(jax.random.key(0), STUDENT, TEACHERS, LABELS)
  mean = 0.0
  for i, strength in enumerate((1.0, 3.0, 0.5), start=1):
    student = STUDENT._replace(logits=strength * STUDENT.logits)
    loss, state, metrics = transform.update(params, state, student, TEACHERS, LABELS)
    mean = 0.5 * mean + 0.5 * float(metrics["soft/kd"])
    weight = (1 - 0.5**i) / mean
    np.testing.assert_allclose(metrics["weight/soft"], weight, rtol=1e-5)
    np.testing.assert_allclose(loss, weight * metrics["soft/kd"], rtol=1e-5)


def test_some_terms_of_a_named_chain_can_be_computed_alone():
  transform = distill.named_chain(
    hard=distill.cross_entropy(), soft=distill.kd(lambda step: 1.0 + step)
  )
  params, state = transform.init(jax.random.key(0), STUDENT, TEACHERS, LABELS)
  arguments = (params, state, STUDENT, TEACHERS, LABELS)
  parts = [transform.update(*arguments, only=(name,)) for name in ("hard", "soft")]
  whole = transform.update(*arguments)
  np.testing.assert_allclose(parts[0][0] + parts[1][0], whole[0], rtol=1e-6)
  assert [list(part[1]) for part in parts] == [["hard"], ["soft"]]
  assert {**parts[0][2], **parts[1][2]}.keys() == whole[2].keys()


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: distill.for_teachers(0, distill.kd()), "count: 0 must be"),
    (lambda: distill.for_teachers(2, distill.kd(), weights=[1.0]), "weights: there are 1 for 2"),
    (lambda: distill.teacher_head(0, distill.kd()), "classes: 0 must be"),
    (lambda: distill.by_magnitude(1.0, a=distill.kd()), "decay: 1.0 must be"),
    (lambda: distill.by_uncertainty(), "must not be empty"),
  ],
)
def test_mistakes_are_told(make, message):
  with pytest.raises(ValueError, match=message):
    make()
