"""Importance of channels against its definitions, and slimming."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import models, nn, prune
from jaxcompress.nn.graph import parameters, with_parameters
from tests.prune.test_removal import random_variables

IMAGES = np.random.default_rng(2).normal(size=(6, 8, 8, 3)).astype(np.float32)
MODEL = models.resnet8(5)
STREAM = ("stem", "stage0_block0/conv2")  # what is added is one class of channels
INNER = "stage0_block0/conv1"


@pytest.fixture(scope="module")
def variables():
  return random_variables(MODEL, 8)


def importance(variables, method, **options):
  return prune.channel_importance(MODEL, variables, IMAGES, method=method, **options).by_layer


def test_l1_is_the_mean_magnitude_in_multiples_of_the_layers_mean(variables):
  found = importance(variables, "l1")

  def relative(name):
    norms = np.abs(parameters(variables["params"], name)["kernel"]).sum((0, 1, 2))
    return norms / norms.mean()

  np.testing.assert_allclose(found[INNER], relative(INNER), rtol=1e-5)
  np.testing.assert_allclose(found["stem"], np.mean([*map(relative, STREAM)], axis=0), rtol=1e-5)
  assert np.isinf(found["classifier"]).all()


def test_gamma_is_averaged_over_the_normalizations_of_a_class(variables):
  found = importance(variables, "bn_gamma")
  gamma = lambda name: np.abs(parameters(variables["params"], name)["scale"])  # noqa: E731
  np.testing.assert_allclose(found[INNER], gamma(INNER), rtol=1e-6)
  np.testing.assert_allclose(found["stem"], np.mean([*map(gamma, STREAM)], axis=0), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("labels", [None, np.arange(6) % 5])
def test_taylor_is_the_squared_change_of_the_loss_to_first_order(variables, labels):
  found = importance(variables, "taylor", labels=labels, batch_size=3)

  @jax.jit
  def loss(gates, images, labels):
    params = variables["params"]
    for name in STREAM:
      for key in ("scale", "bias"):
        array = parameters(params, name)[key] * gates
        params = with_parameters(params, f"{name}/{key}", array)
    logits = MODEL.apply({**variables, "params": params}, images, train=False).logits
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  logits = MODEL.apply(variables, IMAGES, train=False).logits
  wanted = np.argmax(logits, -1) if labels is None else labels
  slopes = [
    jax.grad(loss)(jnp.ones(16), IMAGES[rows], wanted[rows]) for rows in (slice(3), slice(3, 6))
  ]
  np.testing.assert_allclose(
    found["stem"], np.mean(np.square(slopes), axis=0), rtol=1e-3, atol=1e-9
  )


def test_what_does_not_fit_is_refused(variables):
  with pytest.raises(ValueError, match="method: 'l2' is unknown; it must be one of l1, bn_gamma"):
    importance(variables, "l2")
  with pytest.raises(ValueError, match=r"labels: \(4,\) must be \(6,\)"):
    importance(variables, "taylor", labels=np.zeros(4, int))
  found = prune.channel_importance(MODEL, variables, IMAGES)
  with pytest.raises(ValueError, match="fraction: 0 is out of range"):
    prune.choose_channels(found, 0)
  for fraction in ("half", None, float("nan"), 1.5, np.ones(2)):
    with pytest.raises(ValueError, match=r"fraction: .* is out of range; it must be above 0"):
      prune.choose_channels(found, fraction)
  for divisor in (2.5, "8", None, True):
    with pytest.raises(ValueError, match=r"divisor: .* must be a whole number of at least 1"):
      prune.choose_channels(found, 0.5, divisor=divisor)
  with pytest.raises(ValueError, match="scope: 'model' is unknown"):
    prune.choose_channels(found, 0.5, scope="model")
  with pytest.raises(ValueError, match="divisor: 0 must be a whole number of at least 1"):
    prune.choose_channels(found, 0.5, divisor=0)
  with pytest.raises(ValueError, match=r"strength: -1\.0 must be a number, and not negative"):
    prune.slimming(-1.0)


@pytest.mark.parametrize("method", ["l1", "bn_gamma", "group", "taylor"])
def test_parameters_that_are_not_finite_tell_nothing(variables, method):
  name = "stage1_block0/conv1"
  kernel = np.array(parameters(variables["params"], name)["kernel"])
  kernel[0, 0, 0, 3] = np.nan
  params = with_parameters(variables["params"], f"{name}/kernel", kernel)
  with pytest.raises(ValueError, match=f"^variables: the kernel of layer '{name}' is not finite"):
    importance({**variables, "params": params}, method)


def test_slopes_that_are_not_finite_tell_nothing(variables):
  images = IMAGES.copy()
  images[4, 0, 0, 0] = np.inf
  with pytest.raises(ValueError, match=r"^images: the slopes .* are not finite"):
    prune.channel_importance(MODEL, variables, images, method="taylor")


@pytest.mark.parametrize("labels", [np.full(6, 5), np.full(6, -1), np.full(6, 1.5)])
def test_labels_of_no_class_are_refused(variables, labels):
  with pytest.raises(ValueError, match=r"^labels: .* must be integers from 0 to 4"):
    importance(variables, "taylor", labels=labels)


def test_every_image_counts_however_batches_divide(variables):
  """Six images in batches of four at most are two batches of three."""
  even = importance(variables, "taylor", batch_size=3)
  odd = importance(variables, "taylor", batch_size=4)
  np.testing.assert_array_equal(odd["stem"], even["stem"])


@pytest.mark.parametrize("images", [IMAGES[:0], IMAGES[0], [1, 2]])
def test_images_that_are_none_are_refused(variables, images):
  with pytest.raises(ValueError, match=r"^images: .* must be \(N, height, width, channels\)"):
    prune.channel_importance(MODEL, variables, images, method="taylor")
  with pytest.raises(ValueError, match=r"^batch_size: 0 must be a whole number"):
    importance(variables, "taylor", batch_size=0)


class Mean(flax.linen.Module):
  @flax.linen.compact
  def __call__(self, x, *, train):
    return nn.Endpoints(nn.GlobalAvgPool(name="pool")(x))


@pytest.mark.parametrize("method", ["l1", "bn_gamma", "taylor"])
def test_a_network_without_parameters_has_no_channels_to_remove(method):
  images = np.ones((3, 4, 5, 2), np.float32)
  found = prune.channel_importance(Mean(), {}, images, method=method)
  assert found.by_layer == {}
  with pytest.warns(UserWarning, match="this network has no channels that can be removed"):
    keep = prune.choose_channels(found, 0.5)
  small, variables = prune.remove_channels(Mean(), {}, keep)
  np.testing.assert_array_equal(small.apply(variables, images, train=False).logits, np.ones((3, 2)))


def test_the_least_important_go_first_and_one_threshold_serves_all_layers(variables):
  found = prune.channel_importance(MODEL, variables, IMAGES)
  keep = prune.choose_channels(found, 0.5, divisor=1)
  scores = found.by_layer
  kept = np.concatenate([scores[name][mask] for name, mask in keep.masks.items()])
  gone = np.concatenate([scores[name][~mask] for name, mask in keep.masks.items()])
  assert kept.min() >= gone.max()
  classes = {float(score) for name in scores if name != "classifier" for score in scores[name]}
  removed = {float(score) for score in gone}
  assert len(removed) == len(classes) // 2


@pytest.mark.slow
def test_slimming_adds_the_penalty_to_scales_of_the_student_alone():
  tree = {
    "student": {"stem": {"scale": jnp.array([2.0, -1.0]), "kernel": jnp.ones(2)}},
    "quantizer": {"stem": {"scale": jnp.ones(1)}},
    "loss": {},
  }
  penalty = lambda t: 0.5 * jnp.abs(t["student"]["stem"]["scale"]).sum()  # noqa: E731
  optimizer = optax.chain(prune.slimming(lambda step: 0.5 * (step > 0)), optax.sgd(1.0))
  state = optimizer.init(tree)
  zeros = jax.tree.map(jnp.zeros_like, tree)
  first, state = jax.jit(optimizer.update)(zeros, state, tree)
  jax.tree.map(np.testing.assert_array_equal, first, zeros)
  second, _ = jax.jit(optimizer.update)(zeros, state, tree)
  jax.tree.map(lambda u, g: np.testing.assert_array_equal(-u, g), second, jax.grad(penalty)(tree))
  with pytest.raises(ValueError, match="params: slimming needs"):
    optimizer.update(zeros, state)
