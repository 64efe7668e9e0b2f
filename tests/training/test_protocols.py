"""Learning rates, weight decay by name and shape, soft labels, and the published protocols."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress.training import eval_step, init_state, sgd, train_step, warmup_cosine
from jaxcompress.training.networks import split_labels
from jaxcompress.training.optimizers import dense_kernels_only, kernels_only
from jaxcompress.training.protocols import PROTOCOLS, Protocol, epoch_decay, step_decay


def selected(mask):
  flat = jax.tree_util.tree_leaves_with_path(mask)
  return {jax.tree_util.keystr(path, simple=True, separator="/") for path, on in flat if on}


@pytest.mark.slow
def test_only_dense_kernels_decay_with_any_optimizer(tiny):
  shapes = jax.eval_shape(
    lambda: tiny().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
  )["params"]
  dense = {"stem/kernel", "expand/kernel", "project/kernel", "classifier/kernel"}
  assert selected(dense_kernels_only(shapes)) == dense
  assert selected(kernels_only(shapes)) == dense | {"depthwise/kernel"}
  params = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)
  still = jax.tree.map(jnp.zeros_like, params)
  for optimizer in (
    optax.adamw(0.1, weight_decay=0.5, mask=dense_kernels_only),
    sgd(0.1, weight_decay=0.5, mask=dense_kernels_only, nesterov=False),
  ):
    updates, _ = optimizer.update(still, optimizer.init(params), params)
    moved = jax.tree.map(lambda x: bool(jnp.any(x != 0)), updates)
    assert selected(moved) == dense
    np.testing.assert_allclose(updates["stem"]["kernel"], -0.05, rtol=1e-6)


def test_the_optimizer_of_the_cifar_protocol_is_that_of_pytorch():
  rng = np.random.default_rng(0)
  protocol = PROTOCOLS["cifar-steps"]
  optimizer = protocol.optimizer_at(0.05)
  weight = rng.normal(size=7)
  params = {"scale": jnp.asarray(weight, jnp.float32)}
  state, velocity = optimizer.init(params), np.zeros(7)
  for _ in range(4):
    gradient = rng.normal(size=7)
    velocity = 0.9 * velocity + gradient + 5e-4 * weight
    weight = weight - 0.05 * velocity
    grads = {"scale": jnp.asarray(gradient, jnp.float32)}
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(params["scale"], weight, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "first"), [("cifar-steps", 0.05), ("cifar-steps-light", 0.01)])
def test_rates_fall_after_150_180_and_210_of_240_epochs(name, first):
  protocol, images = PROTOCOLS[name], 50_000
  steps = protocol.steps(images)
  assert steps == 240 * images / 64
  rate = protocol.rate(steps)
  for epoch, factor in (
    (0, 1),
    (149.9, 1),
    (150.1, 0.1),
    (180.1, 0.01),
    (210.1, 1e-3),
    (240, 1e-3),
  ):
    at = round(epoch * images / 64)
    assert float(rate(at)) == pytest.approx(first * factor, rel=1e-5)


@pytest.mark.parametrize("name", ["cifar-cosine", "imagenet-cosine"])
def test_cosines_rise_for_five_epochs_and_end_at_zero(name):
  protocol = PROTOCOLS[name]
  steps = 1000
  rate = np.array([float(protocol.rate(steps)(i)) for i in range(0, steps + 1, 5)])
  top = round(5 / protocol.epochs * steps)
  assert abs(5 * rate.argmax() - top) <= 5
  assert rate.max() == pytest.approx(protocol.learning_rate, rel=0.01)
  assert rate[0] == 0 and rate[-1] == pytest.approx(0, abs=1e-7)
  middle = (top + steps) / 2
  assert float(protocol.rate(steps)(middle)) == pytest.approx(protocol.learning_rate / 2, rel=0.01)


def test_the_rates_of_mlperf_tiny_fall_as_its_training_scripts_say():
  cifar, persons = PROTOCOLS["mlperf-resnet8"], PROTOCOLS["mlperf-vww"]
  rate = cifar.rate(cifar.steps(50_000))
  for epoch in (0, 1, 7, 499):
    for step in (epoch * 50_000 / 32, (epoch + 1) * 50_000 / 32 - 1):
      assert float(rate(np.ceil(step))) == pytest.approx(1e-3 * 0.99**epoch, rel=1e-4)
  rate = persons.rate(persons.steps(96_000))
  for epoch, wanted in ((0, 1e-3), (19.9, 1e-3), (20.1, 5e-4), (29.9, 5e-4), (30.1, 2.5e-4)):
    assert float(rate(round(epoch * 3000))) == pytest.approx(wanted, rel=1e-5)
  quick = cifar.rate(100)  # five epochs in each step
  assert float(quick(99)) == pytest.approx(1e-3 * 0.99**495, rel=1e-4)


def test_adam_sees_decay_as_part_of_the_gradient():
  protocol = PROTOCOLS["mlperf-resnet8"]
  optimizer, rng = protocol.optimizer_at(1e-3), np.random.default_rng(0)
  weight = rng.normal(size=(1, 1, 3, 2))
  params = {"stem": {"kernel": jnp.asarray(weight, jnp.float32)}}
  state, mean, square = optimizer.init(params), 0.0, 0.0
  for step in range(1, 5):
    gradient = 1e-3 * rng.normal(size=weight.shape)
    grads = {"stem": {"kernel": jnp.asarray(gradient, jnp.float32)}}
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    gradient += 2e-4 * weight
    mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
    corrected = mean / (1 - 0.9**step), square / (1 - 0.999**step)
    weight = weight - 1e-3 * corrected[0] / (np.sqrt(corrected[1]) + 1e-7)
  np.testing.assert_allclose(params["stem"]["kernel"], weight, rtol=1e-5, atol=1e-7)


def test_keras_penalty_is_on_convolutions_over_all_channels_alone(tiny):
  variables = tiny().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
  for name in ("mlperf-resnet8", "mlperf-vww"):
    found = selected(PROTOCOLS[name].mask(variables["params"]))
    assert found == {"stem/kernel", "expand/kernel", "project/kernel"}


def test_a_run_shorter_than_its_milestones_still_falls_by_all_of_them():
  assert float(step_decay(1.0, 2, milestones=(0.6, 0.7, 0.8))(2)) == pytest.approx(1e-3, rel=1e-5)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: step_decay(0.1, 10, milestones=(0.5, 0.5)), "milestones: "),
    (lambda: step_decay(0.0, 10, milestones=()), "start, steps, factor: 0.0"),
    (
      lambda: epoch_decay(0.1, 10, epochs=0, factor=0.5),
      "start, steps, epochs, factor: 0.1, 10, 0",
    ),
    (lambda: Protocol(epochs=0, batch_size=1, learning_rate=1.0), "epochs: 0 must be positive"),
    (
      lambda: Protocol(epochs=1, batch_size=1, learning_rate=1.0, schedule="linear"),
      "schedule: 'linear' is unknown",
    ),
    (
      lambda: split_labels({"label": jnp.ones((2, 3)), "target": jnp.ones((2, 3))}),
      "'label' is soft and there is a 'target' as well",
    ),
  ],
)
def test_mistakes_name_the_value(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.slow
def test_soft_labels_train_and_are_evaluated_as_their_likeliest_class(recipe_of, batches):
  hard = batches(0)
  one_hot = {**hard, "label": np.eye(5, dtype=np.float32)[hard["label"]]}
  recipe, ends = recipe_of(), []
  for batch in (hard, one_hot):
    state = init_state(recipe, jax.random.key(0), batch)
    state, metrics = train_step(state, batch)
    ends.append((state.params["classifier"]["kernel"], metrics, eval_step(state, batch)))
  for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
  soft = 0.6 * one_hot["label"] + 0.08
  sums = eval_step(state, {**hard, "label": soft.astype(np.float32)})
  logits = np.asarray(recipe.student.apply(state.variables, hard["image"], train=False).logits)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  np.testing.assert_allclose(sums["loss"], -np.sum(soft * log_p), rtol=1e-5)
  assert float(sums["correct"]) == np.sum(logits.argmax(-1) == hard["label"])


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.6, 0.95])
def test_a_warm_up_leaves_the_shortest_runs_a_step_at_the_peak(steps, warmup):
  rates = [float(warmup_cosine(0.2, steps, warmup=warmup)(step)) for step in range(steps)]
  assert max(rates) == pytest.approx(0.2) and all(np.isfinite(rates))
