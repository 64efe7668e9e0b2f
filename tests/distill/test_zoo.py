"""Losses by name: the table is complete, texts are parsed, mistakes are told."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import distill
from jaxcompress.distill import DISTILLERS, parse
from jaxcompress.nn import Endpoints

COMBINE = {
  "by_magnitude", "by_uncertainty", "chain", "for_teacher", "for_teachers", "named_chain", "patient",
  "scale", "stateful", "stateless", "teacher_head", "unweighted",
}  # fmt: skip
PARTS = {"cross_entropy", "hcl", "paraphrase"}  # of others, or without a teacher


def endpoints(channels):
  rng = np.random.default_rng(channels)
  maps = tuple(rng.normal(size=(4, size, size, 6)).astype(np.float32) for size in (4, 4, 2))
  logits, pooled = (rng.normal(size=(4, n)).astype(np.float32) for n in (3, channels))
  return Endpoints(logits, pooled, maps, maps)


def is_loss(name):
  value = getattr(distill, name)
  if not inspect.isfunction(value) or name in COMBINE | PARTS:
    return False
  return inspect.signature(value).return_annotation is distill.LossTransform


def test_every_loss_is_in_the_table_under_its_own_name():
  assert {name for name in distill.__all__ if is_loss(name)} <= set(DISTILLERS)
  for name, method in DISTILLERS.items():
    assert getattr(distill, name) is method.make
    assert method.weight > 0 and "\n" not in method.formula and len(method.formula) <= 60


@pytest.mark.parametrize("name", DISTILLERS)
def test_every_loss_is_built_from_its_name_with_what_it_says_it_reads(name):
  asked = parse(name, num_examples=9)
  assert asked.weights[name] == DISTILLERS[name].weight
  loss = asked.loss if name in _terms(asked.loss) else asked.first
  whole = endpoints(5)
  reads = {**dict.fromkeys(DISTILLERS[name].reads, True)}
  seen = whole._replace(
    pooled=whole.pooled if "pooled" in reads else None,
    maps=whole.maps if "maps" in reads or "classifiers" in reads else (),
    preact=whole.preact if "preact" in reads else (),
  )
  batch = {"label": jnp.zeros(4, jnp.int32)}
  if DISTILLERS[name].views > 1:
    batch["view"] = jnp.repeat(jnp.eye(2, dtype=bool), 2, axis=0)
  if "index" in reads:
    batch["index"] = jnp.arange(4, dtype=jnp.int32)
  heads = {"classifier": {"kernel": jnp.ones((6, 3))}}

  def run():
    made = loss.init(jax.random.key(0), seen, (seen,), batch)
    extras = {"student_params": heads, "teacher_params": (heads,)}
    return loss.update(*made, seen, (seen,), batch, **extras)

  value, _, metrics = jax.eval_shape(run)
  assert value.shape == () and any(key.startswith(f"{name}/") for key in metrics)


def run(name, student, teacher):
  """Makes a loss and computes it, of shapes alone."""
  method = DISTILLERS[name]
  loss = (
    method.make(9) if "num_examples" in inspect.signature(method.make).parameters else method.make()
  )
  heads = {"classifier": {"kernel": jnp.ones((6, 3))}}
  batch = {
    "label": jnp.zeros(4, jnp.int32),
    "index": jnp.arange(4),
    "view": jnp.eye(4, 2, dtype=bool),
  }

  def update(student, teacher):
    made = loss.init(jax.random.key(0), student, (teacher,), batch)
    extras = {"student_params": heads, "teacher_params": (heads,)}
    return loss.update(*made, student, (teacher,), batch, **extras)[0]

  return jax.eval_shape(update, student, teacher)


READS_STUDENT = {"ofa": ("maps",)}  # of the student alone


@pytest.mark.parametrize("name", DISTILLERS)
def test_what_a_loss_reads_and_a_network_lacks_is_named(name):
  whole = endpoints(5)
  fields = [
    field for field in ("logits", "pooled", "maps", "preact") if field in DISTILLERS[name].reads
  ]
  for field in fields:
    less = whole._replace(**{field: None if field in ("logits", "pooled") else ()})
    with pytest.raises(
      ValueError, match=rf"^student: {name} reads {field}.* missing; return Endpoints\("
    ):
      run(name, less, whole)
    if field not in READS_STUDENT.get(name, ()):
      with pytest.raises(
        ValueError, match=rf"^teacher: {name} reads {field}.* missing; return Endpo"
      ):
        run(name, whole, less)
  assert fields


@pytest.mark.parametrize("name", [name for name in DISTILLERS if name != "factor"])
def test_outputs_of_other_examples_are_refused(name):
  whole = endpoints(5)
  half = jax.tree.map(lambda x: x[:2], whole)
  message = (
    rf"^teachers: {name} compares outputs of the same examples, but .* of 4 and .* of 2; run"
  )
  with pytest.raises(ValueError, match=message):
    run(name, whole, half)


def test_a_loss_of_pooled_features_needs_no_logits():
  less = endpoints(5)._replace(logits=None)
  assert run("crd", less, less).shape == ()


def _terms(loss):
  whole, batch = endpoints(5), {"label": jnp.zeros(4, jnp.int32), "index": jnp.zeros(4, jnp.int32)}
  return jax.eval_shape(lambda: loss.init(jax.random.key(0), whole, (whole,), batch))[0]


@pytest.mark.parametrize(
  ("text", "weights"),
  [
    ("kd", {"labels": 0.1, "kd": 0.9}),
    ("kd:0.5", {"labels": 0.5, "kd": 0.5}),
    ("kd:3", {"kd": 3.0}),
    ("lskd", {"labels": 0.1, "lskd": 9.0}),
    ("crd", {"labels": 1.0, "crd": 0.8}),
    ("kd:0.9, crd:0.8", {"labels": 1.0, "kd": 0.9, "crd": 0.8}),
    ("labels:0.1,kd:0.9,crd:0.8", {"labels": 0.1, "kd": 0.9, "crd": 0.8}),
    ("simkd", {"simkd": 1.0}),
    ("hint,labels", {"fitnet": 100.0, "labels": 1.0}),
    ("abound", {"labels": 1.0, "ab": 1.0}),
  ],
)
def test_weights_are_the_usual_ones_where_none_are_given(text, weights):
  assert parse(text, num_examples=9).weights == weights


def test_the_loss_is_the_weighted_sum(quick_jit):
  student, teacher, batch = endpoints(5), endpoints(6), {"label": jnp.arange(4) % 3}
  loss = parse("labels:0.3,kd:0.7,similarity:2", kd={"temperature": 2.0}).loss

  @quick_jit
  def run():
    params, state = loss.init(jax.random.key(0), student, (teacher,), batch)
    terms = (distill.cross_entropy(), distill.kd(2.0), distill.similarity())
    alone = [term.update((), (), student, (teacher,), batch)[0] for term in terms]
    return loss.update(params, state, student, (teacher,), batch)[0], alone

  total, alone = run()
  np.testing.assert_allclose(total, np.dot([0.3, 0.7, 2.0], alone), rtol=1e-5)


def test_a_first_stage_is_not_weighted_as_the_main_one_is(quick_jit):
  """RepDistiller trains the paraphraser by its plain loss; its 200 is of what follows."""
  teacher, batch = endpoints(6), {"label": jnp.arange(4) % 3}

  @quick_jit
  def run():
    found = []
    for loss in (distill.paraphrase(), parse("factor").first, parse("factor:400").first):
      made = loss.init(jax.random.key(0), teacher, (teacher,), batch)
      made = jax.tree.map(jnp.ones_like, made)
      found.append(loss.update(*made, teacher, (teacher,), batch)[0])
    return found

  plain, usual, double = run()
  np.testing.assert_allclose([usual, double], [plain, 2 * plain], rtol=1e-6)


@pytest.mark.parametrize(
  ("text", "settings", "message"),
  [
    ("", {}, "'' is unknown; it must be one of kd, "),
    ("kd,nothing", {}, "'nothing' is unknown"),
    ("kd:high", {}, "'kd:high' must be a name, or name:weight"),
    ("kd=0.9", {}, "'kd=0.9' must be a name, or name:weight, such as kd:0.9"),
    ("crd 0.8", {}, "'crd 0.8' must be a name, or name:weight, such as crd:0.8"),
    ("kd:-1", {}, "'kd:-1' must be"),
    ("kd:nan", {}, "'kd:nan' must be"),
    ("kd:inf", {}, "'kd:inf' must be"),
    ("kd,kd:2", {}, "'kd' is there twice"),
    ("labels", {}, "has no loss but labels"),
    ("crd", {}, "num_examples: crd needs"),
    ("kd", {"crd": {}}, "settings: 'crd' is not among"),
    ("kd", {"kd": {"heat": 2}}, "settings: kd has no heat; it has temperature"),
  ],
)
def test_what_cannot_be_built_is_told_in_one_line(text, settings, message):
  with pytest.raises(ValueError, match=message) as error:
    parse(text, **settings)
  assert "\n" not in str(error.value)
