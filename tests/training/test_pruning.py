"""Pruning, distillation and quantization in one step: zeros stay zero down to the file."""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from jaxcompress import distill, export, prune, quantize, training
from jaxcompress.export.contents import read_operators
from jaxcompress.nn.graph import parameters
from jaxcompress.nn.tracing import is_leaf_call, module_path
from jaxcompress.quantize import transform
from jaxcompress.training import distill_step, init_state, predict

LAYERS = ("expand", "project")  # that rules do not keep
PLANS = {
  "absmax": quantize.int8(freeze_norm_step=2),
  "lsq": quantize.Quantization(
    weights=quantize.lsq(4), activations=quantize.lsq_activations(8), freeze_norm_step=2
  ),
  "cluster": quantize.clustered(16, freeze_norm_step=2),
}


@pytest.fixture(scope="module")
def run(recipe_of, batches, teacher, tmp_path_factory):
  """``run(plan)``: recipe, start, and the state after four steps; each plan is trained once."""
  found = {}

  def make(plan):
    if plan in found:
      return found[plan]
    recipe = recipe_of(
      teachers=(teacher[0],),
      loss=distill.chain(distill.cross_entropy(), distill.scale(0.9, distill.kd(4.0))),
      optimizer=prune.n_m(optax.sgd(0.1, momentum=0.9), "2:4"),
      quantize=PLANS[plan],
      ema=0.9,
    )

    def start():
      return init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(teacher[1],))

    state = start()
    for position in range(4):
      state, metrics = distill_step(state, batches(position))
    assert float(metrics["sparsity"]) == 0.5
    found[plan] = start, state
    return found[plan]

  return make


def most_of_four(weights):
  """The most weights that are not zero among four successive inputs; (..., in, out)."""
  inputs_last = np.moveaxis(np.asarray(weights), -2, -1)
  return (inputs_last.reshape(-1, 4) != 0).sum(axis=1).max()


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_two_of_four_holds_in_weights_averages_rounded_weights_and_what_predict_reads(
  run, batches, plan
):
  state = run(plan)[1]

  def seen(state, images):
    kernels = {}

    def intercept(next_fun, args, kwargs, context):
      if is_leaf_call(context) and module_path(context.module) in LAYERS:
        kernels[module_path(context.module)] = context.module.variables["params"]["kernel"]
      return next_fun(*args, **kwargs)

    with nn.intercept_methods(intercept):
      return predict.__wrapped__(state, images), kernels

  _, read = jax.jit(seen)(state, batches(9)["image"])
  rounded, _, _ = transform(state.recipe.student, PLANS[plan]).apply(
    *state.quantizer,
    state.variables,
    batches(9)["image"],
    train=False,
    call=lambda variables, images: (variables["params"], {}),
  )
  codes = state.quantized().layers
  for name in LAYERS:
    mask = np.asarray(state.opt_state.masks[name])
    assert most_of_four(mask) == 2 and mask.mean() == 0.5
    for params in (state.params, state.ema["params"], rounded):
      assert np.all(np.asarray(parameters(params, name)["kernel"])[~mask] == 0)
    assert np.all(np.asarray(read[name])[~mask] == 0) and np.any(read[name])
    assert np.all(codes[name].weights[~mask] == 0) and most_of_four(codes[name].weights) == 2
  assert "depthwise" not in state.opt_state.masks and "stem" not in state.opt_state.masks


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_two_of_four_holds_in_the_file_whose_logits_are_bit_equal(run, batches, plan, tmp_path):
  quantized = run(plan)[1].quantized()
  path = export.tflite(quantized, tmp_path / "student.tflite")
  kernels = {
    operator.outputs[0].name: operator.inputs[1].values  # (out, k, k, in)
    for operator in read_operators(path)
    if operator.name == "CONV_2D"
  }
  assert len(kernels) == 3
  for name in LAYERS:
    (kernel,) = [values for key, values in kernels.items() if name in key]
    assert kernel.dtype == np.int8
    assert (kernel.reshape(-1, 4) != 0).sum(axis=1).max() == 2
  assert export.verify(path, quantized, batches(8)["image"]).bit_equal == 1.0
  packed = export.packed(quantized, tmp_path / "student.jcz")
  assert export.unpack(packed, tmp_path / "again.tflite").read_bytes() == path.read_bytes()


def test_clustered_layers_have_no_more_values_than_clusters(run):
  for name, layer in run("cluster")[1].quantized().layers.items():
    flipped = layer.weights.reshape(-1, layer.weights.shape[-1])
    assert len(np.unique(np.abs(flipped))) <= 16, name
  assert np.any(run("cluster")[1].quantizer.params["weights"]["stem"].delta)


@pytest.mark.slow
def test_a_resumed_run_has_the_same_bits(run, batches, tmp_path):
  start, expected = run("lsq")
  checkpoints, state = training.Checkpoints(tmp_path / "run", every=2), start()
  for position in range(2):
    state, _ = distill_step(state, batches(position))
  checkpoints.save(2, state, force=True)
  checkpoints.close()
  checkpoints = training.Checkpoints(tmp_path / "run", every=2)
  state = checkpoints.restore(start())
  checkpoints.close()
  for position in range(int(state.position), 4):
    state, _ = distill_step(state, batches(position))
  bits = lambda state: state.replace(rng=jax.random.key_data(state.rng))  # noqa: E731
  jax.tree.map(np.testing.assert_array_equal, bits(state), bits(expected))


def test_a_quantizer_without_a_zero_is_refused(recipe_of, batches):
  recipe = recipe_of(
    optimizer=prune.magnitude(optax.sgd(0.1), sparsity=0.5), quantize=quantize.binary()
  )
  with pytest.raises(ValueError, match="pruned weights would not stay zero"):
    init_state(recipe, jax.random.key(0), batches(0))
