"""A head on stored features: what it reads, and that it is the best one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import data as datasets
from jaxcompress import models
from jaxcompress.nn import init_variables
from jaxcompress.training.features import best_head, features, fit_head, head_of, with_head

SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def network():
  model = models.resnet8(4)
  variables = init_variables(model, jax.random.key(0), SHAPE)
  stats = jax.tree.map(lambda x: x + 0.02, variables["batch_stats"])  # not those of a batch
  return model, {**variables, "batch_stats": stats}


@pytest.fixture(scope="module")
def split():
  rng = np.random.default_rng(0)
  labels = np.arange(11, dtype=np.int32) % 4
  return datasets.Split(rng.integers(0, 256, (11, *SHAPE), dtype=np.uint8), labels)


@pytest.mark.slow
def test_features_are_what_the_classifier_reads_with_running_statistics(network, split):
  model, variables = network
  preprocess = datasets.Preprocess()
  batches = datasets.eval_batches(split, 4)
  found = features(model, variables, batches, "classifier", preprocess=preprocess)
  wanted = model.apply(variables, preprocess(jnp.asarray(split.images)), train=False).pooled
  assert (
    found.shape == wanted.shape and found.any()
  )  # copies that fill up the last batch are left out
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_found_head_makes_the_logits_of_the_network(network, split):
  model, variables = network
  x = features(model, variables, [{"image": split.images / 255}], head_of(_graph(model)))
  head = fit_head(x, split.labels, 4, strength=100.0)
  logits = model.apply(
    with_head(variables, "classifier", head), jnp.asarray(split.images / 255), train=False
  ).logits
  np.testing.assert_allclose(head(x), logits, rtol=1e-3, atol=1e-3)


def test_views_differ_by_key_and_repeat_with_it(network, split):
  model, variables = network
  shift = datasets.Augment(crop=2)
  batches = [{"image": split.images}]
  first, again, other = (
    features(
      model,
      variables,
      batches,
      "classifier",
      preprocess=datasets.Preprocess(),
      augment=shift,
      rng=jax.random.key(seed),
    )
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("classes", [2, 4])
def test_the_gradient_of_loss_and_decay_vanishes_at_the_head(classes):
  rng = np.random.default_rng(1)
  x, labels = rng.normal(size=(60, 5)), np.arange(60) % classes
  x /= np.sqrt(np.mean(x**2))  # features of unit scale are not rescaled
  head = fit_head(x, labels, classes, strength=0.5)

  def objective(kernel, bias):
    loss = -jax.nn.log_softmax(x @ kernel + bias[None])[jnp.arange(60), labels].sum()
    decay = 2.0 if classes == 2 else 1.0  # two columns share the decay of their difference
    return 0.5 * loss + 0.5 * decay * jnp.sum(kernel**2)

  for gradient in jax.grad(objective, (0, 1))(jnp.asarray(head.kernel), jnp.asarray(head.bias)):
    np.testing.assert_allclose(gradient, np.zeros_like(gradient), atol=5e-3)


def test_a_head_does_not_depend_on_the_scale_of_features():
  rng = np.random.default_rng(2)
  x, labels = rng.normal(size=(40, 5)), np.arange(40) % 3
  one, other = fit_head(x, labels, 3)(x), fit_head(1000 * x, labels, 3)(1000 * x)
  np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_a_class_without_images_is_never_found():
  rng = np.random.default_rng(3)
  x, labels = rng.normal(size=(40, 5)), 2 * (np.arange(40) % 2)
  assert set(fit_head(x, labels, 4, strength=100.0)(x).argmax(-1)) == {0, 2}


def test_weights_of_examples_count_like_copies():
  rng = np.random.default_rng(4)
  x, labels = rng.normal(size=(30, 5)), np.arange(30) % 3
  twice = np.where(labels == 1, 2, 1)
  x = x / np.sqrt(np.mean(np.repeat(x, twice, axis=0) ** 2))
  copied = fit_head(np.repeat(x, twice, axis=0), np.repeat(labels, twice), 3)
  scale = np.sqrt(np.mean(x**2))  # of the features without copies
  weighted = fit_head(x, labels, 3, weights=twice, strength=scale**2)
  np.testing.assert_allclose(copied(x), weighted(x), rtol=1e-2, atol=1e-2)


def scored(head, x, labels):
  logits = head(x)
  return -float(jnp.mean(jax.nn.log_softmax(logits)[np.arange(len(x)), labels]))


def test_the_best_head_decays_as_strongly_as_images_that_are_held_out_bear():
  rng = np.random.default_rng(5)
  x, labels = rng.normal(size=(60, 30)), np.arange(60) % 2
  x[:, 0] += 2 * labels  # one feature tells a little; with 30 others, decay is needed
  others, wanted = rng.normal(size=(400, 30)), np.arange(400) % 2
  others[:, 0] += 2 * wanted
  head, strength = best_head(x[None], labels, 2)
  right = lambda head: np.mean(head(others).argmax(-1) == wanted)  # noqa: E731
  found = {s: fit_head(x, labels, 2, strength=s) for s in (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)}
  assert strength < 1.0 and right(head) > right(found[100.0])
  assert scored(head, others, wanted) < scored(
    found[strength], others, wanted
  )  # as sure as it may be
  assert scored(head, others, wanted) < scored(found[100.0], others, wanted)


def test_a_head_that_gets_all_right_leaves_something_to_learn():
  labels = np.arange(60) % 3
  x = np.eye(3)[labels] + np.random.default_rng(0).normal(0, 0.01, (60, 3))
  head, _ = best_head(x[None], labels, 3)
  assert (head(x).argmax(-1) == labels).all() and 0.03 < scored(head, x, labels) < 0.3


def test_views_of_an_image_are_held_out_with_it():
  rng = np.random.default_rng(6)
  x, labels = rng.normal(size=(40, 20)), rng.integers(0, 2, 40)  # nothing to be learned
  one, several = (best_head(np.stack([x] * count), labels, 2) for count in (1, 4))
  assert several[1] == one[1] <= 1e-2
  np.testing.assert_allclose(several[0].kernel, one[0].kernel, atol=1e-3)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_handful_of_images_has_a_head(count):
  labels = np.arange(count) % 2
  x = np.eye(2)[labels] + np.random.default_rng(count).normal(0, 0.01, (count, 2))
  head, _ = best_head(x[None], labels, 2, weights=np.ones(count))
  assert np.isfinite(head(x)).all() and head.kernel.shape == (2, 2)


def test_a_network_without_a_dense_last_layer_is_refused():
  graph = _graph(models.resnet8(4))
  graph = graph._replace(nodes=(*graph.nodes[:-1], graph.nodes[-1]._replace(op="ConvNorm")))
  with pytest.raises(ValueError, match="no dense layer"):
    head_of(graph)


def _graph(model):
  return models.summarize(model, 8).graph
