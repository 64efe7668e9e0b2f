"""Checks that hold for every network of the zoo; the test files beside this one choose networks."""

from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import distill, export, models, prune, quantize
from jaxcompress.nn.outputs import as_endpoints
from jaxcompress.quantize.integer.runtimes import KERNELS
from jaxcompress.training import Recipe, distill_step, init_state

TOLERANCE = 1e-5  # of the largest value
STEPS = 40


def outputs_of(found):
  """{name: array}, whatever a network returns."""
  ends = as_endpoints(found)
  return dict(ends.outputs) or {"logits": ends.logits}


def named(tree):
  """{path: array} of a pytree's floats."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  floats = ((p, a) for p, a in leaves if jnp.issubdtype(a.dtype, jnp.floating))
  return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(a) for p, a in floats}


def assert_close(found, expected):
  """Each array by its largest value."""
  assert sorted(found) == sorted(expected)
  for name, array in expected.items():
    array, other = np.asarray(array, np.float64), np.asarray(found[name], np.float64)
    assert array.shape == other.shape, name
    bound = TOLERANCE * max(np.abs(array).max(), 1e-3)
    np.testing.assert_allclose(other, array, rtol=0, atol=bound, err_msg=name)


def assert_gradients_close(found, expected):
  """By the largest of all; what is small by its own largest, with ten times the tolerance."""
  largest = {name: np.abs(gradient).max() for name, gradient in expected.items()}
  together = max(largest.values())
  for name, gradient in expected.items():
    bound = TOLERANCE * min(together, 10 * max(largest[name], 0.1 * together))
    np.testing.assert_allclose(found[name], gradient, rtol=0, atol=bound, err_msg=name)


def infer(model, variables, images):
  """The outputs that a model of ours has in evaluation."""
  run = jax.jit(lambda v, x: model.apply(v, x, train=False))
  return outputs_of(run(variables, images))


def distance(student, teachers, batch):
  """Mean square of what all outputs differ by."""
  ours, theirs = (outputs_of(ends) for ends in (student, teachers[0]))
  return sum(jnp.mean((ours[name] - theirs[name]) ** 2) for name in ours)


@contextmanager
def optimized():
  """Programs as users run them, since integers are told apart by their last bit."""
  jax.clear_caches()
  jax.config.update("jax_disable_most_optimizations", False)
  try:
    yield
  finally:
    jax.config.update("jax_disable_most_optimizations", True)


def verify_everywhere(quantized, images, folder):
  """The file of every runtime has the outputs of exact evaluation."""
  for kernels in KERNELS:
    if kernels == "onnxruntime":
      path = export.onnx(quantized, folder / "model.onnx")
    else:
      path = export.tflite(quantized, folder / "model.tflite")
    with optimized():
      result = export.verify(path, quantized.with_kernels(kernels), images)
    assert (kernels, result.bit_equal, result.max_steps) == (kernels, 1.0, 0)


def test_outputs_are_the_originals(network):
  images = network.images(4)
  expected = jax.jit(network.original.infer)(network.original.variables, images)
  found = infer(network.model, network.variables, images)
  assert_close(found, outputs_of(expected))


def test_layers_have_the_names_of_the_originals(network):
  leaves = named(network.original.variables)
  params = named(network.variables["params"])
  layers = {name.removesuffix("/kernel") for name in params if name.endswith("/kernel")}
  unknown = {layer for layer in layers if not any(layer in leaf for leaf in leaves)}
  assert layers and not unknown


@pytest.mark.slow
def test_it_trains_as_the_original_does(network):
  images = network.images(8)
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(network.original.infer, network.original.variables, images)
  wanted = {name: rng.normal(size=a.shape).astype("f4") for name, a in outputs_of(shapes).items()}

  def loss_of(outputs):
    return sum(jnp.mean((outputs[name] - wanted[name]) ** 2) for name in wanted)

  def theirs(floats, others):
    variables = jax.tree.map(lambda a, b: b if a is None else a, floats, others, is_leaf=is_none)
    outputs, new = network.original.train(variables, images)
    return loss_of(outputs_of(outputs)), new

  def ours(params):
    variables = {**network.variables, "params": params}
    outputs, new = network.model.apply(variables, images, train=True, mutable=["batch_stats"])
    return loss_of(outputs_of(outputs)), {**network.variables, **new}

  is_none = lambda leaf: leaf is None  # noqa: E731
  is_float = lambda a: jnp.issubdtype(a.dtype, jnp.floating)  # noqa: E731
  floats = jax.tree.map(lambda a: a if is_float(a) else None, network.original.variables)
  others = jax.tree.map(lambda a: None if is_float(a) else a, network.original.variables)
  (loss, new), grads = jax.jit(jax.value_and_grad(theirs, has_aux=True))(floats, others)
  (our_loss, our_new), our_grads = jax.jit(jax.value_and_grad(ours, has_aux=True))(
    network.variables["params"]
  )
  np.testing.assert_allclose(our_loss, loss, rtol=TOLERANCE)
  restore = lambda variables: named(network.original.renew(network.restore(variables)))  # noqa: E731
  assert_close(restore(our_new), named(new))
  assert_gradients_close(back(network, our_grads), trained(grads))


def trained(gradients):
  """Those of the leaves that a training changes."""
  return {name: gradient for name, gradient in named(gradients).items() if gradient.any()}


def back(network, gradients):
  """Gradients by the name of the original's leaf, each on the way that trained weights take.

  What the original lacks, such as a scale, is taken up by others and has no way of its own.
  """
  leaves, tree = jax.tree.flatten(network.variables["params"])
  before = named(network.original.variables)
  found = {}
  for i, gradient in enumerate(jax.tree.leaves(gradients)):
    params = tree.unflatten([*leaves[:i], gradient, *leaves[i + 1 :]])
    try:
      variables = network.restore({**network.variables, "params": params})
    except ValueError as error:
      assert "has no scale to take them" in str(error) or "the original has no" in str(error)
      continue
    after = named(network.original.renew(variables))
    found |= {name: a for name, a in after.items() if (a != before[name]).any()}
  return found


@pytest.mark.slow
def test_integers_after_training_are_bit_equal_everywhere(network, tmp_path):
  images = network.images(16)
  quantized = quantize.post_training(
    network.model, network.variables, images, method="minmax", progress=False
  )
  verify_everywhere(quantized, network.images(24, seed=2), tmp_path)


@pytest.mark.slow
def test_it_is_distilled_at_integers_and_goes_back_into_the_original(network, tmp_path):
  images = network.images(8)
  batch = {"image": images}
  recipe = Recipe(
    student=network.model,
    teachers=(network.model,),
    loss=distill.stateless("distance", distance),
    quantize=quantize.int8(),
    optimizer=optax.sgd(1e-2, momentum=0.9),
  )
  state = init_state(
    recipe,
    jax.random.key(0),
    batch,
    student_variables=network.variables,
    teacher_variables=(network.variables,),
  )
  for _ in range(STEPS):
    state, metrics = distill_step(state, batch)
  assert np.isfinite(float(metrics["loss"])) and int(metrics["skipped"]) == 0
  verify_everywhere(state.quantized(), images, tmp_path)
  trained = jax.device_get(state.variables)
  assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (trained, network.variables))))  # noqa: B905
  back = network.original.renew(network.restore(trained))
  expected = infer(network.model, trained, images)
  assert_close(outputs_of(jax.jit(network.original.infer)(back, images)), expected)


@pytest.mark.slow
def test_it_has_fewer_channels(network):
  model, variables, images = network.model, network.variables, network.images(4)
  found = prune.channel_importance(model, variables, images, method="l1")
  small, fewer = prune.remove_channels(
    model, variables, prune.choose_channels(found, 0.6, divisor=1)
  )
  assert models.summarize(small, 32).parameters < models.summarize(model, 32).parameters
  shapes = {name: array.shape for name, array in infer(small, fewer, images).items()}
  assert shapes == {name: a.shape for name, a in infer(model, variables, images).items()}


def test_it_is_saved_and_loaded(network, tmp_path):
  path = models.save(tmp_path / "model.safetensors", network.model, network.variables)
  model, variables = models.load(path)
  assert model == network.model
  jax.tree.map(np.testing.assert_array_equal, variables, network.variables)
