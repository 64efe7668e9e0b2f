"""Losses without golden arrays against the papers' formulas in float64, gradients by differences."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import distill
from jaxcompress.nn import Endpoints

BATCH, CLASSES = 5, 4
RNG = np.random.default_rng(3)
LABEL = np.array([0, 3, 1, 1, 2], np.int32)
STUDENT, TEACHER = (2 * RNG.normal(size=(2, BATCH, CLASSES))).astype(np.float32)
POOLED_S, POOLED_T = (RNG.normal(size=(BATCH, n)).astype(np.float32) for n in (6, 7))
MAP_S, MAP_T = (RNG.normal(size=(BATCH, 4, 4, n)).astype(np.float32) for n in (6, 7))
HEAD_S, HEAD_T = (RNG.normal(size=(n, CLASSES)).astype(np.float32) for n in (6, 7))


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def kl(p, q):
  return np.sum(p * np.log(p / q)) / len(p)


def nkd(s, t):
  total = 0.0
  for row_s, row_t, label in zip(s, t, LABEL, strict=True):
    total -= softmax(row_t)[label] * np.log(softmax(row_s)[label])
    others_s, others_t = (softmax(np.delete(row, label) / 2.0) for row in (row_s, row_t))
    total -= 1.5 * 2.0**2 * np.sum(others_t * np.log(others_s))
  return total / len(s)


def mlkd(s, t):
  total = 0.0
  for temperature in (2.0, 5.0):
    p, q = softmax(s / temperature), softmax(t / temperature)
    total += temperature**2 * kl(q, p)
    total += np.sum((q @ q.T - p @ p.T) ** 2) / BATCH + np.sum((q.T @ q - p.T @ p) ** 2) / CLASSES
  return total


def ctkd(raw):
  temperature = 1 + 20 / (1 + np.exp(-raw))
  t, s = (x.astype(np.float64) / temperature for x in (TEACHER, STUDENT))
  return temperature**2 * kl(softmax(t), softmax(s))


def normalised(x):
  return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def srd(pooled, kernel, bias):
  gap = normalised(pooled @ kernel + bias) - normalised(POOLED_T.astype(np.float64))
  return 2 * np.log(np.sum(np.abs(gap) ** 4)) + kl(softmax(TEACHER), softmax(STUDENT))


def infonce(pooled, student, teacher):
  e_s, e_t = pooled @ student["kernel"] + student["bias"], POOLED_T @ teacher["kernel"]
  e_t = e_t + teacher["bias"]
  e_s, e_t = (e / np.linalg.norm(e, axis=1, keepdims=True) for e in (e_s, e_t))
  scores = e_s @ e_t.T / 0.1
  return -np.mean([np.log(np.diag(softmax(x))) for x in (scores, scores.T)])


def cat_kd(s, head):
  def attention(x, kernel):
    maps = np.einsum("bhwc,ck->bhwk", x, kernel)
    pooled = maps.reshape(BATCH, 2, 2, 2, 2, CLASSES).mean((2, 4)).reshape(BATCH, -1)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

  return np.mean((attention(s, head) - attention(MAP_T, HEAD_T)) ** 2)


def conv_norm_relu(x, layer, seen=None):
  kernel = np.asarray(layer["kernel"], np.float64)
  pad = kernel.shape[0] // 2
  padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  y = sum(
    padded[:, i : i + x.shape[1], j : j + x.shape[2]] @ kernel[i, j]
    for i in range(kernel.shape[0])
    for j in range(kernel.shape[1])
  )
  mean, variance = (y.mean((0, 1, 2)), y.var((0, 1, 2))) if seen is None else seen
  y = (y - mean) / np.sqrt(variance + 1e-5)
  return np.maximum(y * layer["scale"] + layer["bias"], 0)


def simkd(s, layers):
  for layer in layers:
    s = conv_norm_relu(s, layer)
  return np.mean((s - MAP_T) ** 2)


def slope(function, x, direction, size=1e-6):
  """Directional derivative by a central difference in float64."""
  x = np.asarray(x, np.float64)
  return (function(x + size * direction) - function(x - size * direction)) / (2 * size)


class Row(NamedTuple):
  """A loss, the field of the endpoints that it is differentiated by, and its reference."""

  transform: distill.LossTransform
  field: str
  reference: object
  extras: dict = {}  # noqa: RUF012


def on_maps(x):
  return (x,)


ROWS = {
  "nkd": Row(distill.nkd(1.5, 2.0), "logits", lambda x, _: nkd(x, TEACHER.astype(np.float64))),
  "mlkd": Row(distill.mlkd((2.0, 5.0)), "logits", lambda x, _: mlkd(x, TEACHER.astype(np.float64))),
  "srd": Row(distill.srd(), "pooled", lambda x, p: srd(x, p["kernel"], p["bias"])),
  "in_batch_infonce": Row(
    distill.in_batch_infonce(3, 0.1), "pooled", lambda x, p: infonce(x, p["student"], p["teacher"])
  ),
  "cat_kd": Row(
    distill.cat_kd("head/fc", "fc"),
    "maps",
    lambda x, _: cat_kd(x, HEAD_S),
    {
      "student_params": {"head": {"fc": {"kernel": HEAD_S}}},
      "teacher_params": ({"fc": {"kernel": HEAD_T}},),
    },
  ),
  "simkd": Row(distill.simkd(), "maps", lambda x, p: simkd(x, p[0])),
}


def endpoints():
  student = Endpoints(STUDENT, POOLED_S, (MAP_S,))
  return student, (Endpoints(TEACHER, POOLED_T, (MAP_T,)),), {"label": LABEL}


@pytest.mark.parametrize("name", ROWS)
def test_loss_and_gradient_are_those_of_the_formula(assert_near, quick_jit, name):
  transform, field, reference, extras = ROWS[name]
  student, teachers, batch = endpoints()
  params, state = jax.jit(transform.init)(jax.random.key(1), student, teachers, batch)

  def objective(x):
    read = {field: on_maps(x) if field == "maps" else x}
    return transform.update(params, state, student._replace(**read), teachers, batch, **extras)[0]

  x = {"logits": STUDENT, "pooled": POOLED_S, "maps": MAP_S}[field]
  loss, gradient = quick_jit(jax.value_and_grad(objective))(x)
  wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  expected = lambda value: reference(value, wide)  # noqa: E731
  assert_near(loss, expected(x.astype(np.float64)))
  for seed in range(4):
    direction = np.random.default_rng(seed).normal(size=x.shape)
    found = np.sum(np.asarray(gradient, np.float64) * direction)
    np.testing.assert_allclose(found, slope(expected, x, direction), rtol=2e-4, atol=1e-6)


def test_the_learned_temperature_climbs_by_the_reversed_and_scheduled_gradient(quick_jit):
  student, teachers, batch = endpoints()
  transform = distill.ctkd(10)
  params, state = transform.init(jax.random.key(0), student, teachers, batch)
  assert float(params["temperature"]) == 1.0

  def objective(params, state):
    return transform.update(params, state, student, teachers, batch)[:2]

  step = quick_jit(jax.value_and_grad(objective, has_aux=True))
  straight = slope(ctkd, np.array(1.0), 1.0)
  for i in range(1, 14):
    (loss, state), gradient = step(params, state)
    np.testing.assert_allclose(loss, ctkd(1.0), rtol=1e-5)
    strength = (1 - np.cos(np.pi * min(i, 10) / 10)) / 2
    np.testing.assert_allclose(gradient["temperature"], -strength * straight, rtol=1e-3)


@pytest.mark.slow
def test_each_example_has_a_temperature_of_its_own_and_the_student_feels_it_as_a_constant():
  student, teachers, batch = endpoints()
  transform = distill.ctkd(10, per_example=True, hidden=3)
  params, state = transform.init(jax.random.key(0), student, teachers, batch)
  assert params["temperature"]["bias"].tolist() == [1.0]
  first, last = (jax.tree.map(np.float64, params[name]) for name in ("hidden", "temperature"))
  both = np.concatenate([STUDENT, TEACHER], 1).astype(np.float64)
  raw = np.maximum(both @ first["kernel"] + first["bias"], 0) @ last["kernel"] + last["bias"]
  heat = 1 + 20 / (1 + np.exp(-raw))  # (batch, 1)

  def expected(s):
    p, q = softmax(s / heat), softmax(TEACHER / heat)
    return np.mean(heat[:, 0] ** 2 * np.sum(q * np.log(q / p), 1))

  def objective(logits):
    return transform.update(params, state, student._replace(logits=logits), teachers, batch)[0]

  loss, gradient = jax.value_and_grad(objective)(jnp.asarray(STUDENT))
  np.testing.assert_allclose(loss, expected(STUDENT.astype(np.float64)), rtol=1e-5)
  found = slope(expected, STUDENT.astype(np.float64), np.ones_like(STUDENT) * [1, 2, -1, 0.5])
  np.testing.assert_allclose(np.sum(np.asarray(gradient) * [1, 2, -1, 0.5]), found, rtol=1e-3)


def test_views_of_a_batch_are_compared_apart_and_added():
  halves = (Endpoints(jnp.asarray(x)) for x in (STUDENT, TEACHER))
  student, teacher = halves
  both = Endpoints(jnp.concatenate([student.logits, teacher.logits]))
  swapped = Endpoints(jnp.concatenate([teacher.logits, student.logits]))
  batch = {"view": np.repeat(np.eye(2, dtype=bool), len(STUDENT), axis=0)}
  found, _, _ = distill.mlkd((2.0, 5.0), views=2).update((), (), both, (swapped,), batch)
  np.testing.assert_allclose(found, mlkd(STUDENT, TEACHER) + mlkd(TEACHER, STUDENT), rtol=1e-5)


@pytest.mark.parametrize("name", ["mlkd", "mlkd_lskd", "crld"])
def test_a_batch_is_parted_once_it_is_augmented_by_views(name):
  student, teachers, batch = endpoints()
  loss = getattr(distill, name)(views=2)
  made = loss.init(jax.random.key(0), student, teachers, batch)  # as the data have it
  missing = (
    rf"^batch: 'view' is missing; {name} compares 2 views .* augment=data.Views.* {name}\(views=1\)"
  )
  wrong = r"^batch: 'view' has shape \(5, 3\); .* one of shape \(5, 2\)"
  for marks, message in (({}, missing), ({"view": np.ones((5, 3), bool)}, wrong)):
    with pytest.raises(ValueError, match=message):
      jax.eval_shape(loss.update, *made, student, teachers, {**batch, **marks})


def test_the_projector_predicts_by_its_running_statistics():
  student, teachers, batch = endpoints()
  transform = distill.simkd()
  params, state = jax.jit(transform.init)(jax.random.key(1), student, teachers, batch)
  state = jax.tree.map(lambda x: x + 0.5, state)
  projected = MAP_S.astype(np.float64)
  layers, seen = jax.tree.map(np.asarray, (params[0], state[0]))
  for layer, statistics in zip(layers, seen, strict=True):
    projected = conv_norm_relu(projected, layer, statistics)
  found = distill.project(params[0], state[0], MAP_S)
  np.testing.assert_allclose(found, projected, atol=1e-4)


def test_margins_are_the_means_below_zero_of_a_normal_distribution():
  rng = np.random.default_rng(0)
  scale, bias = np.array([1.0, -0.5, 2.0]), np.array([0.3, -0.2, 1.0])
  samples = bias + np.abs(scale) * rng.normal(size=(1_000_000, 3))
  expected = [column[column < 0].mean() for column in samples.T]
  np.testing.assert_allclose(distill.ofd_margin(scale, bias), expected, rtol=0.01)


def test_margins_that_are_not_given_are_the_teachers_means_below_zero(quick_jit):
  student = Endpoints(STUDENT, preact=(MAP_S,))
  teachers = (Endpoints(TEACHER, preact=(MAP_T,)),)
  transform = distill.ofd()
  params, state = transform.init(jax.random.key(0), student, teachers, {})
  _, after, _ = quick_jit(transform.update)(params, state, student, teachers, {})
  negative = np.where(MAP_T < 0, MAP_T, np.nan)
  np.testing.assert_allclose(after["margins"][0], np.nanmean(negative, (0, 1, 2)), rtol=1e-5)


QUIRKS = {
  "zeros": lambda rng, shape: np.zeros(shape),
  "identical": lambda rng, shape: np.broadcast_to(rng.normal(size=shape[1:]), shape),
  "tiny": lambda rng, shape: 1e-20 * rng.normal(size=shape),
  "one_example": lambda rng, shape: rng.normal(size=(1, *shape[1:])),
}
EVERYTHING = {
  "kd": distill.kd(),
  "dkd": distill.dkd(),
  "nkd": distill.nkd(),
  "rld": distill.rld(),
  "ttm": distill.ttm(),
  "wttm": distill.wttm(),
  "dist": distill.dist(),
  "lskd": distill.lskd(),
  "ctkd": distill.ctkd(10),
  "ctkd_per_example": distill.ctkd(10, per_example=True, hidden=3),
  "mlkd": distill.mlkd((2.0,)),
  "mlkd_lskd": distill.mlkd_lskd(views=1),
  "crld": distill.crld(views=1),
  "srd": distill.srd(),
  "rkd": distill.rkd(),
  "pkt": distill.pkt(),
  "correlation": distill.correlation(3),
  "in_batch_infonce": distill.in_batch_infonce(3),
  "dcd": distill.dcd(3),
  "wkd_l": distill.wkd_l(),
  "sdd": distill.sdd(),
  "ofa": distill.ofa(),
  "wkd_f": distill.wkd_f(),
  "vkd": distill.vkd(),
  "crd": distill.crd(9, dim=3, negatives=4),
  "similarity": distill.similarity(),
  "attention": distill.attention(),
  "nst": distill.nst(),
  "fitnet": distill.fitnet(maps=(1,)),
  "vid": distill.vid(),
  "review": distill.review(3),
  "simkd": distill.simkd(),
  "cat_kd": distill.cat_kd(),
  "factor": distill.factor(),
  "factor_plain": distill.factor(translate=False),
  "fsp": distill.fsp(maps=((0, 1), (1, 0))),
  "kdsvd": distill.kdsvd(maps=((0, 1), (1, 0))),
  "ab": distill.ab(maps=((0, 1),)),
  "ofd": distill.ofd(maps=((0, 1),)),
  "ofd_plain": distill.ofd(connector=False, maps=((0, 1),)),
  "hcl": distill.hcl(maps=((0, 1),)),
}


def test_every_loss_that_has_a_name_meets_degenerate_batches():
  assert EVERYTHING.keys() >= distill.DISTILLERS.keys()


@pytest.fixture(scope="module")
def everything(quick_jit):
  loss = distill.named_chain(**EVERYTHING)
  head = {"classifier": {"kernel": np.random.default_rng(1).normal(size=(4, 5))}}
  heads = {"student_params": head, "teacher_params": (head,)}

  def objective(student, teacher, batch):
    params, state = loss.init(jax.random.key(0), student, (teacher,), batch)
    value, _, metrics = loss.update(params, state, student, (teacher,), batch, **heads)
    return value, metrics

  return quick_jit(jax.value_and_grad(objective, has_aux=True))


@pytest.mark.slow
@pytest.mark.parametrize("quirk", QUIRKS)
@pytest.mark.parametrize("network", ["student", "both"])
def test_degenerate_batches_have_finite_losses_and_gradients(everything, quirk, network):
  rng = np.random.default_rng(0)

  def make(degenerate):
    size = 1 if quirk == "one_example" else 4
    shapes = ((size, 5), (size, 6), (size, 3, 3, 4), (size, 3, 3, 4))
    fill = QUIRKS[quirk] if degenerate else lambda rng, shape: rng.normal(size=shape)
    logits, pooled, *maps = (jnp.asarray(fill(rng, shape), jnp.float32) for shape in shapes)
    return Endpoints(logits, pooled, tuple(maps), tuple(maps))

  student, teacher = make(True), make(network == "both")
  size = len(student.logits)
  batch = {"label": jnp.zeros(size, jnp.int32), "index": jnp.arange(size, dtype=jnp.int32)}
  (_, metrics), gradient = everything(student, teacher, batch)
  for name, value in metrics.items():
    assert np.isfinite(value), name
  for leaf in jax.tree.leaves(gradient):
    assert np.all(np.isfinite(leaf)) and np.max(np.abs(leaf)) < 1e9
