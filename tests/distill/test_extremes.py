"""Losses on logits far from 0: the values and gradients of float64, in a compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import distill
from jaxcompress.distill import base
from jaxcompress.nn import Endpoints

IMAGES, CLASSES = 4, 5
RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, IMAGES, CLASSES))
MAPS = tuple(RNG.normal(size=(IMAGES, 2, 2, 3)).astype(np.float32) for _ in range(2))
POOLED = RNG.normal(size=(IMAGES, 3)).astype(np.float32)
HEAD = {"classifier": {"kernel": RNG.normal(size=(3, CLASSES)).astype(np.float32)}}
BATCH = {
  "label": np.array([0, 1, 2, 4], np.int32),
  "view": np.repeat(np.eye(2, dtype=bool), IMAGES // 2, axis=0),
}
FAR = {
  "ten": lambda x: 10 * x,
  "large": lambda x: 1e10 * x,
  "huge": lambda x: 1e30 * x,
  "far below": lambda x: -5e9 + 1e9 * x,
  "some huge": lambda x: np.where(np.arange(CLASSES) % 2, x, 1e30 * x),
  "equal": lambda x: np.full_like(x, 1e30),
}
LOSSES = {
  "cross_entropy": distill.cross_entropy(),
  "kd": distill.kd(3.0),
  "dkd": distill.dkd(temperature=3.0),
  "nkd": distill.nkd(temperature=3.0),
  "rld": distill.rld(temperature=3.0, confidence_temperature=3.0),
  "ttm": distill.ttm(0.3),
  "wttm": distill.wttm(0.3),
  "lskd": distill.lskd(3.0),
  "ctkd": distill.ctkd(10),
  "ctkd_per_example": distill.ctkd(10, per_example=True, hidden=3),
  "dist": distill.dist(temperature=3.0),
  "mlkd": distill.mlkd(),
  "mlkd_lskd": distill.mlkd_lskd(),
  "crld": distill.crld(3.0),
  "srd": distill.srd(temperature=3.0),
  "wkd_l": distill.wkd_l(temperature=3.0),
  "ofa": distill.ofa(temperature=3.0),
}


def as_float64(tree):
  wide = lambda x: jnp.asarray(x, jnp.float64 if jnp.issubdtype(x.dtype, jnp.floating) else None)  # noqa: E731
  return jax.tree.map(lambda x: wide(jnp.asarray(x)), tree)


def results(loss, dtype, jit):
  """The loss and its gradient for each kind of logits, one after the other in one program."""
  ends = lambda logits: Endpoints(logits, POOLED.astype(dtype), MAPS, MAPS)  # noqa: E731
  example = Endpoints(STUDENT.astype(np.float32), POOLED, MAPS, MAPS)
  made = jax.jit(loss.init)(jax.random.key(0), example, (example,), BATCH)
  made = base._float32(made)
  heads = {"student_params": HEAD, "teacher_params": (HEAD,)}

  def objective(student, teacher):
    return loss.update(*made, ends(student), (ends(teacher),), BATCH, **heads)[0]

  far = [np.stack([change(x) for change in FAR.values()]) for x in (STUDENT, TEACHER)]
  found = jit(lambda s, t: jax.lax.map(lambda pair: jax.value_and_grad(objective)(*pair), (s, t)))(
    *(x.astype(np.float32).astype(dtype) for x in far)
  )
  return [dict(zip(FAR, np.asarray(x), strict=True)) for x in found]


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_logits_far_from_zero_give_what_float64_gives(name, quick_jit, monkeypatch):
  found, slopes = results(LOSSES[name], np.float32, quick_jit)
  monkeypatch.setattr(base, "_float32", as_float64)
  monkeypatch.setattr(base, "_scalar", lambda name, loss: loss)
  jax.config.update("jax_enable_x64", True)
  try:
    expected, steep = results(LOSSES[name], np.float64, quick_jit)
  finally:
    jax.config.update("jax_enable_x64", False)
  assert next(iter(expected.values())).dtype == np.float64
  for kind in FAR:
    message = f"{kind} logits"
    np.testing.assert_allclose(found[kind], expected[kind], rtol=1e-4, atol=1e-4, err_msg=message)
    bound = 1e-3 * np.max(np.abs(steep[kind])) + 1e-6
    np.testing.assert_allclose(slopes[kind], steep[kind], rtol=0, atol=bound, err_msg=message)


def log_softmax(x):
  x = x - x.max()
  return x - np.log(np.exp(x).sum())


def rld_below(student, teacher, label, temperature):
  """The divergence among the classes below the label, of one example, by its definition."""
  below = teacher < teacher[label]
  if not below.any():
    return 0.0
  log_t, log_s = (log_softmax(x[below] / temperature) for x in (teacher, student))
  return temperature**2 * np.sum(np.exp(log_t) * (log_t - log_s))


@pytest.mark.parametrize("kind", ["ten", "large", "far below", "equal"])
def test_classes_that_rld_leaves_out_stay_out_however_low_the_others_are(kind):
  opposite = np.sort(STUDENT)[:, ::-1], np.sort(TEACHER)
  student, teacher = (FAR[kind](x).astype(np.float32) for x in opposite)
  label = np.full(IMAGES, CLASSES - 1, np.int32)
  rows = zip(*(x.astype(np.float64) for x in (student, teacher)), label, strict=True)
  expected = np.mean([rld_below(*row, 3.0) for row in rows])
  loss, both = distill.rld(0.0, 1.0, 3.0), Endpoints(jnp.asarray(teacher))
  found = jax.jit(lambda s: loss.update((), (), Endpoints(s), (both,), {"label": label})[0])(
    student
  )
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  assert kind == "equal" or expected > 1
