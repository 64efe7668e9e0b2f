"""Weights of examples: the mean that they mean, and a refusal where they mean nothing."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxcompress import distill
from jaxcompress.distill.base import check_weights
from jaxcompress.nn import Endpoints

SIZE, CLASSES = 6, 5
HEADS = [
  {"classifier": {"kernel": np.random.default_rng(9).normal(size=(c, CLASSES))}} for c in (12, 12)
]
EXTRAS = {"step": jnp.int32(0), "student_params": HEADS[0], "teacher_params": (HEADS[1],)}

BY_EXAMPLE = {
  "cross_entropy": distill.cross_entropy,
  "smoothed": lambda: distill.cross_entropy(0.1),
  "kd": distill.kd,
  "lskd": distill.lskd,
  "ctkd": lambda: distill.ctkd(10),
  "ctkd_per_example": lambda: distill.ctkd(10, per_example=True, hidden=3),
  "dkd": distill.dkd,
  "nkd": distill.nkd,
  "rld": distill.rld,
  "wttm": distill.wttm,
  "attention": distill.attention,
  "nst": distill.nst,
  "cat_kd": distill.cat_kd,
  "vid": distill.vid,
  "wkd_l": distill.wkd_l,
  "sdd": distill.sdd,
  "vkd": distill.vkd,
  "hcl": distill.hcl,
  "fitnet": lambda: distill.fitnet(maps=(1,), regressor=False),
  "factor": lambda: distill.factor(translate=False),
  "fsp": lambda: distill.fsp(maps=(0, 1)),
  "kdsvd": lambda: distill.kdsvd(maps=(0, 1)),
  "patient": lambda: distill.patient(1),
  "teacher_head": lambda: distill.teacher_head(CLASSES, distill.kd()),
  "chain": lambda: distill.chain(distill.cross_entropy(), distill.scale(0.5, distill.kd())),
  "named_chain": lambda: distill.named_chain(a=distill.cross_entropy(), b=distill.dkd()),
  "by_uncertainty": lambda: distill.by_uncertainty(a=distill.cross_entropy(), b=distill.kd()),
  "own": lambda: distill.stateless("own", lambda s, t, b: jnp.mean(s.logits), by_example=True),
}
TOGETHER = {
  "dist": distill.dist,
  "mlkd": distill.mlkd,
  "crld": distill.crld,
  "srd": distill.srd,
  "fitnet": distill.fitnet,
  "ab": distill.ab,
  "ofd": distill.ofd,
  "factor": distill.factor,
  "simkd": distill.simkd,
  "wkd_f": distill.wkd_f,
  "dcd": lambda: distill.dcd(4),
  "review": distill.review,
  "similarity": distill.similarity,
  "correlation": lambda: distill.correlation(4),
  "rkd": distill.rkd,
  "pkt": distill.pkt,
  "crd": lambda: distill.crd(20, dim=4, negatives=7),
  "in_batch_infonce": lambda: distill.in_batch_infonce(4),
  "own": lambda: distill.stateless("own", lambda s, t, b: jnp.mean(s.logits)),
  "chain": lambda: distill.chain(distill.cross_entropy(), distill.rkd()),
}


def endpoints(seed):
  shapes = [(SIZE, CLASSES), (SIZE, 12), (SIZE, 4, 4, 4), (SIZE, 4, 4, 8), (SIZE, 2, 2, 12)]
  rng = np.random.default_rng(seed)
  logits, pooled, *maps = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
  return Endpoints(logits, pooled, tuple(jax.nn.relu(m) for m in maps), tuple(maps))


STUDENT, TEACHER = endpoints(0), endpoints(1)
BATCH = {
  "label": jnp.arange(SIZE, dtype=jnp.int32) % CLASSES,
  "view": jnp.repeat(jnp.eye(2, dtype=bool), SIZE // 2, axis=0),
  "index": 3 * jnp.arange(SIZE, dtype=jnp.int32) % 20,
  "contrast_index": (5 * jnp.arange(SIZE * 8, dtype=jnp.int32) % 20).reshape(SIZE, 8),
}


def part(tree, rows):
  return jax.tree.map(lambda x: x[rows], tree)


_updates: dict = {}


def loss_of(name, rows, weight=None):
  """Loss, gradient with respect to the student's outputs, and metrics; compiled once for each size."""
  if name not in _updates:
    transform = BY_EXAMPLE[name]()
    made = transform.init(jax.random.key(0), STUDENT, (TEACHER,), BATCH)

    def value(student, teacher, batch):
      loss, state, metrics = transform.update(*made, student, (teacher,), batch, **EXTRAS)
      return loss, (state, metrics)

    _updates[name] = jax.jit(jax.value_and_grad(value, has_aux=True))
  batch = part(BATCH, rows) | ({} if weight is None else {"weight": jnp.asarray(weight)})
  return _updates[name](part(STUDENT, rows), part(TEACHER, rows), batch)


def close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-5), a, b)


ALL = np.arange(SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_EXAMPLE)
def test_weights_of_0_and_1_are_the_batch_without_those_examples(name):
  if name == "by_uncertainty":
    return _check_same(name, ALL[[0, 2, 3]])
  for rows in ([0, 2, 3], [5]):
    _check_same(name, np.array(rows))


def _check_same(name, rows):
  weight = np.isin(ALL, rows).astype(np.float32)
  (loss, (state, metrics)), gradient = loss_of(name, ALL, weight)
  (expected, (wanted, _)), of_part = loss_of(name, rows)
  close((loss, state), (expected, wanted))
  close(part(gradient, rows), of_part)
  for x in jax.tree.leaves(part(gradient, np.setdiff1d(ALL, rows))):
    assert not np.any(x)  # the others are not looked at
  (_, (_, plain)), _ = loss_of(name, ALL)
  close(metrics, plain)


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(
  name=st.sampled_from(
    ["cross_entropy", "smoothed", "kd", "lskd", "ctkd_per_example", "dkd", "nkd"]
  ),
  weight=st.lists(st.floats(0.0, 100.0, width=32), min_size=SIZE, max_size=SIZE),
)
def test_any_weights_give_the_weighted_mean(name, weight):
  hypothesis.assume(sum(weight) > 1e-3)
  alone = [float(loss_of(name, np.array([i]))[0][0]) for i in ALL]
  found = float(loss_of(name, ALL, np.float32(weight))[0][0])
  np.testing.assert_allclose(found, np.average(alone, weights=weight), rtol=1e-4, atol=1e-5)


def test_weights_of_one_change_nothing_and_of_zero_teach_nothing():
  for name in ("cross_entropy", "dkd"):
    close(loss_of(name, ALL, np.ones(SIZE, np.float32)), loss_of(name, ALL))
    (loss, _), gradient = loss_of(name, ALL, np.zeros(SIZE, np.float32))
    assert float(loss) == 0 and not any(np.any(x) for x in jax.tree.leaves(gradient))


def test_what_does_not_count_may_have_no_label():
  batch = {"label": jnp.array([1, -1, 0, 2, 3, 4]), "weight": jnp.array([1.0, 0, 1, 1, 1, 1])}
  value = lambda s: distill.cross_entropy().update((), (), s, (), batch)[0]  # noqa: E731
  loss, gradient = jax.value_and_grad(value)(STUDENT)
  assert np.isfinite(loss) and all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


@pytest.mark.slow
@pytest.mark.parametrize("name", TOGETHER)
def test_losses_that_compare_examples_refuse_weights_or_see_none(name):
  batch = {**BATCH, "weight": jnp.arange(SIZE, dtype=jnp.float32)}
  with pytest.raises(
    ValueError, match=r"does not take examples one by one; write distill\.unweighted"
  ):
    TOGETHER[name]().init(jax.random.key(0), STUDENT, (TEACHER,), batch)
  if name == "chain":
    return
  made = []
  for transform, seen in ((distill.unweighted(TOGETHER[name]()), batch), (TOGETHER[name](), BATCH)):
    params, state = transform.init(jax.random.key(0), STUDENT, (TEACHER,), seen)
    made.append(transform.update(params, state, STUDENT, (TEACHER,), seen, **EXTRAS)[0])
  close(*made)


@pytest.mark.parametrize("name", distill.DISTILLERS)
def test_losses_by_name_take_weights_or_leave_them(name):
  batch = {**BATCH, "weight": jnp.arange(SIZE, dtype=jnp.float32)}
  settings = {"crd": {"dim": 4, "negatives": 7}, "correlation": {"dim": 4}, "kdsvd": {"maps": (0, 1)},
              "fsp": {"maps": (0, 1)}}  # fmt: skip
  asked = distill.parse(name, num_examples=20, **{k: v for k, v in settings.items() if k == name})
  for loss in filter(None, (asked.first, asked.loss)):
    jax.eval_shape(lambda loss=loss: loss.init(jax.random.key(0), STUDENT, (TEACHER,), batch))
  row = distill.DISTILLERS[name]
  make = row.first if not row.stays else row.make
  given = {"num_examples": 20} if name == "crd" else {}
  try:
    jax.eval_shape(
      lambda: make(**given, **settings.get(name, {})).init(
        jax.random.key(0), STUDENT, (TEACHER,), batch
      )
    )
    weighs = True
  except ValueError:
    weighs = False
  assert weighs == row.weighs


@pytest.mark.slow
@pytest.mark.parametrize(
  ("weight", "message"),
  [
    (np.array([1.0, -0.5]), "'weight' has -0.5; weights must be finite, and 0 or more"),
    (np.array([1.0, np.nan]), "'weight' has nan"),
    (np.array(["1", "2"]), "'weight' is <U1; it must be numbers, one for each example"),
    (np.ones((2, 1)), r"'weight' has shape \(2, 1\); it must be \(batch,\)"),
  ],
)
def test_weights_that_are_none_are_refused(weight, message):
  with pytest.raises(ValueError, match=message):
    check_weights({"weight": weight})
  with pytest.raises(ValueError, match=message):
    distill.chain(distill.cross_entropy()).check({"label": np.array([0, 1]), "weight": weight})
