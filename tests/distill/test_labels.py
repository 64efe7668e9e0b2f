"""Classes and soft labels: what losses make of them, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxcompress.distill import DISTILLERS, cross_entropy, dkd, nkd
from jaxcompress.nn import Endpoints

READERS = {
  "cross_entropy": cross_entropy(),
  "cross_entropy_smoothed": cross_entropy(0.1),
  "dkd": dkd(1.5, 6.0, 3.0),
  "nkd": nkd(1.2, 2.0),
}
OF_ONE_CLASS = {"rld", "sdd", "wkd_l", "ofa"}  # they read the likeliest class of a soft label alone
CLASSES = 5


def value(loss, student, teacher, **batch):
  student, teacher = (Endpoints(jnp.asarray(x, jnp.float32)) for x in (student, teacher))
  loss.init(jax.random.key(0), student, (teacher,), batch)
  return loss.update((), (), student, (teacher,), batch)[0]


def logits(scale):
  elements = st.floats(-scale, scale, width=32, allow_subnormal=False)
  return hnp.arrays(np.float32, (2, CLASSES), elements=elements)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@settings(deadline=None, max_examples=25)
@given(student=logits(30), teacher=logits(30), seed=st.integers(0, 99), zeros=st.integers(0, 3))
def test_a_soft_label_costs_what_its_classes_do_each_with_its_share(
  name, student, teacher, seed, zeros
):
  target = np.random.default_rng(seed).dirichlet(np.ones(CLASSES), 2).astype(np.float32)
  target[:, :zeros] = 0
  target /= target.sum(-1, keepdims=True)
  loss = READERS[name]
  expected = [
    sum(share * value(loss, s[None], t[None], label=np.array([c])) for c, share in enumerate(row))
    for s, t, row in zip(student, teacher, target, strict=True)
  ]
  found = value(loss, student, teacher, target=target)
  np.testing.assert_allclose(found, np.mean(expected), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint32, np.int64])
def test_classes_are_integers_of_any_kind_and_one_hot_rows_are_the_same(name, dtype):
  student, teacher = np.random.default_rng(0).normal(size=(2, 4, 300))
  label = np.array([0, 127, 5, 44])
  found = [
    value(READERS[name], student, teacher, **batch)
    for batch in (
      {"label": label},
      {"label": label.astype(dtype)},
      {"target": np.eye(300, dtype=dtype)[label]},
      {"target": np.eye(300)[label].astype(jnp.bfloat16), "label": label[::-1]},
    )
  ]
  assert np.isfinite(found[0])
  np.testing.assert_allclose(found, [found[0]] * 4, rtol=1e-6)


def decoupled(x, c):
  """Log-probabilities of a class or not, and of the others among themselves, in float64."""
  others = np.logaddexp.reduce(np.delete(x, c))
  return np.array([x[c], others]) - np.logaddexp(x[c], others), np.delete(x, c) - others


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0, 200.0])
@pytest.mark.parametrize("classes", [2, 3, 40])
def test_decoupled_losses_are_their_formulas_however_sure_the_networks_are(scale, classes):
  rng = np.random.default_rng(classes)
  student, teacher = (scale * rng.normal(size=(2, 9, classes))).astype(np.float32)
  student[-1] = teacher[-1]
  target = rng.dirichlet(np.ones(classes), 9).astype(np.float32)
  target[:4] = np.eye(classes)[teacher[:4].argmax(-1)]
  expected = {"dkd": 0.0, "nkd": 0.0}
  for s, t, row in zip(*(x.astype(np.float64) for x in (student, teacher, target)), strict=True):
    for c, share in enumerate(row):
      (two_s, others_s), (two_t, others_t) = (decoupled(x / 3, c) for x in (s, t))
      terms = [(np.exp(p) * (p - q)).sum() for p, q in ((two_t, two_s), (others_t, others_s))]
      expected["dkd"] += share * 9 * (1.5 * terms[0] + 6 * terms[1]) / 9
      p, q = (decoupled(x, c)[0][0] for x in (t, s))
      others_s, others_t = (decoupled(x / 2, c)[1] for x in (s, t))
      expected["nkd"] -= share * (np.exp(p) * q + 1.2 * 4 * np.exp(others_t) @ others_s) / 9
  for name, number in expected.items():
    run = jax.value_and_grad(lambda s, loss=READERS[name]: value(loss, s, teacher, target=target))
    found, slopes = run(jnp.asarray(student))
    np.testing.assert_allclose(found, number, rtol=1e-5, atol=1e-4)
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
  "row", [[0, 3, 0, 0, 0], [1.5, -0.5, 0, 0, 0], [0] * 5, [np.nan, 1, 0, 0, 0], [0.9, 0, 0, 0, 0]]
)
def test_soft_labels_that_are_no_shares_give_no_number_and_are_refused_on_the_host(name, row):
  rows = np.float32([[0, 1, 0, 0, 0], row])
  student, teacher = np.random.default_rng(0).normal(size=(2, 2, CLASSES))
  assert np.isnan(value(READERS[name], student, teacher, target=rows))
  for key in ("label", "target"):
    with pytest.raises(
      ValueError, match=f"batch: row 1 of '{key}' .*; soft labels must be 0 or more"
    ):
      READERS[name].check({key: rows})
    READERS[name].check({key: rows[:1].astype(jnp.bfloat16)})
  READERS[name].check({"label": np.array([-1, 99])})  # of no class: data without labels have such


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
  ("batch", "message"),
  [
    ({"label": jnp.zeros(2)}, "'label' is float32"),
    ({"label": jnp.zeros(2, bool)}, "'label' is bool"),
    ({"label": jnp.zeros((2, 1), int)}, "'label' has shape"),
    ({"label": jnp.zeros((), int)}, "'label' has shape"),
    ({"label": jnp.zeros(3, int)}, "'label' has shape"),
    ({"target": jnp.zeros((2, CLASSES + 1))}, "'target' has shape"),
    ({"target": jnp.zeros(2)}, "'target' has shape"),
    ({"index": jnp.zeros(2, int)}, "no 'label' or 'target'"),
  ],
)
def test_labels_of_another_shape_or_dtype_are_refused_at_the_start_and_in_every_step(
  name, batch, message
):
  networks = Endpoints(jnp.zeros((2, CLASSES)))
  for act in (
    lambda: READERS[name].init(jax.random.key(0), networks, (networks,), batch),
    lambda: READERS[name].update((), (), networks, (networks,), batch),
  ):
    with pytest.raises(ValueError, match=f"batch: .*{message}"):
      act()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rld", "wkd_l"])  # of logits alone
def test_a_soft_label_may_stand_for_its_likeliest_class(name):
  student, teacher = np.random.default_rng(0).normal(size=(2, 3, CLASSES))
  options = {"cost": 1 - np.eye(CLASSES)} if name == "wkd_l" else {}
  loss = DISTILLERS[name].make(**options)
  label = np.array([3, 0, 2])
  target = (0.4 * np.eye(CLASSES)[label] + 0.6 / CLASSES).astype(np.float32)
  found = [
    value(loss, student, teacher, **batch) for batch in ({"label": label}, {"target": target})
  ]
  assert found[0] == found[1] > 0


def test_every_loss_that_reads_labels_is_under_test_and_no_other_does():
  reading = {name for name, method in DISTILLERS.items() if "label" in method.reads}
  assert reading == (READERS.keys() & DISTILLERS.keys()) | OF_ONE_CLASS
  wrong = {"label": np.full((2, CLASSES), 2.0, np.float32), "index": np.arange(2)}
  for name, method in DISTILLERS.items():
    loss = method.make(**({"num_examples": 9} if name == "crd" else {}))
    if name not in reading:
      loss.check(wrong)
      continue
    with pytest.raises(ValueError, match="sums to 10"):
      loss.check(wrong)
