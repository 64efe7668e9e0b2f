"""Training in the device's arithmetic: its logits forwards, straight-through gradients backwards."""

import flax.linen as linen
import jax
import numpy as np
import optax
import pytest

from jaxcompress import export, nn, quantize
from jaxcompress.models.blocks import SqueezeExcite
from jaxcompress.training import init_state, predict, train_step

INT8 = {"weights": quantize.absmax(8), "activations": quantize.ema_range(8)}
LATE = {"freeze_norm_step": 1, "exact_step": 2}


class Gated(linen.Module):
  """A hard-swish, a gate, and a concatenation around a pool."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, kernel=3, stride=2, name="stem")(x, train=train)
    x = nn.Activation("hard_swish", name="swish")(x)
    x = SqueezeExcite(4, name="gate")(x, train=train)
    y = nn.ConvNorm(8, kernel=3, groups="depthwise", act="relu", name="depthwise")(x, train=train)
    x = nn.MaxPool(2, 2, name="shrink")(nn.Concat(name="concat")(x, y))
    return nn.Dense(5, name="classifier")(nn.GlobalAvgPool(name="pool")(x))


def run(recipe, batches, steps):
  state = init_state(recipe, jax.random.key(0), batches(0))
  for position in range(steps):
    state, metrics = train_step(state, batches(position))
  return state, metrics


PLANS = {
  "int8": quantize.Quantization(**INT8, **LATE),
  "lsq, reference kernels": quantize.Quantization(
    weights=quantize.lsq(4),
    activations=quantize.lsq_activations(8),
    rules=quantize.first_last_8bit(),
    kernels="reference",
    **LATE,
  ),
  "grids of their own": quantize.Quantization(
    **INT8, **LATE, apart=(("concat", "average"), ("average", "stem")), kernels="tflm"
  ),
}


class Joined(linen.Module):
  """Maps with other readers than the concatenation that joins them."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, kernel=3, stride=2, name="stem")(x, train=train)
    x = nn.AvgPool(2, 2, "VALID", name="average")(x)
    y = nn.ConvNorm(8, kernel=3, act="relu", name="branch")(x, train=train)
    x = nn.Concat(name="concat")(y, x)
    return nn.Dense(5, name="classifier")(nn.GlobalAvgPool(name="pool")(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_what_training_predicts_is_what_the_file_computes(recipe_of, batches, name, tmp_path):
  student = Joined() if PLANS[name].apart else Gated()
  state, metrics = run(recipe_of(student=student, quantize=PLANS[name]), batches, 5)
  assert np.isfinite(float(metrics["loss"]))
  images = batches(9)["image"]
  quantized = state.quantized().with_kernels(PLANS[name].kernels)
  logits = quantized(images)
  steps = [node.name for node in quantized.graph.nodes if node.op == "Requantize"]
  assert steps == (["average/on/branch"] if PLANS[name].apart else [])
  assert len(np.unique(logits)) > 20
  np.testing.assert_array_equal(predict(state, images), logits)
  path = export.tflite(quantized, tmp_path / "model.tflite")
  assert export.verify(path, quantized, images).bit_equal == 1.0


@pytest.mark.slow
def test_fake_quantization_sees_grids_of_their_own(recipe_of, batches):
  plan = quantize.int8(apart=PLANS["grids of their own"].apart)
  state, _ = run(recipe_of(student=Joined(), quantize=plan), batches, 5)
  quantized, images = state.quantized(), batches(9)["image"]
  grids = [quantized.grids[name] for name in ("stem", "average", "concat")]
  assert len(set(grids)) == 3
  steps = (predict(state, images) - quantized(images)) / quantized.grids["classifier"].scale
  assert np.abs(steps).max() < 2.5


@pytest.mark.parametrize(
  ("apart", "message"),
  [
    ((("concat",),), r"apart must be pairs of the names of a node and a tensor"),
    ((("concat", "dog"),), r"apart: \('concat', 'dog'\) is no pair of a pool"),
  ],
)
def test_pairs_that_are_none_are_refused(recipe_of, batches, apart, message):
  with pytest.raises(ValueError, match=message):
    init_state(
      recipe_of(student=Joined(), quantize=quantize.int8(apart=apart)),
      jax.random.key(0),
      batches(0),
    )


@pytest.mark.slow
def test_the_loss_of_a_step_is_that_of_the_deployed_logits(recipe_of, batches):
  state, _ = run(recipe_of(quantize=PLANS["int8"]), batches, 3)
  logits, batch = state.quantized()(batches(3)["image"]), batches(3)
  wanted = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
  _, metrics = train_step(state, batch)
  np.testing.assert_allclose(metrics["loss"], wanted, rtol=1e-5)


class Linear(linen.Module):
  """One layer, whose gradient is easy to write down."""

  @linen.compact
  def __call__(self, x, *, train):
    del train
    return nn.Dense(5, name="classifier")(nn.GlobalAvgPool(name="pool")(x))


@pytest.mark.slow
def test_gradients_are_those_of_the_rounded_layers_at_the_exact_values(recipe_of, batches):
  rate = 0.5
  widest = {**INT8, "activations": quantize.minmax_range(8)}  # nothing is clipped in the step
  plan = quantize.Quantization(**widest, **LATE)
  recipe = recipe_of(student=Linear(), optimizer=optax.sgd(rate), quantize=plan)
  state, _ = run(recipe, batches, 4)
  quantized, batch = state.quantized(), batches(4)
  codes = quantized.quantize_input(batch["image"])
  pool = quantized.graph.nodes[0]
  pooling = quantize.QuantizedModel(
    quantized.graph._replace(nodes=(pool,), outputs=(("logits", "pool"),)), quantized.grids, {}
  )
  grid = quantized.grids["pool"]
  pooled = (pooling.run(codes).astype(np.float32) - grid.zero_point) * grid.scale
  slope = jax.nn.softmax(quantized(batch["image"])) - np.eye(5)[batch["label"]]
  before = jax.device_get(state.params["classifier"])
  after, _ = train_step(state, batch)
  moved = (before["kernel"] - after.params["classifier"]["kernel"]) / rate
  np.testing.assert_allclose(moved, pooled.T @ slope / len(slope), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_before_its_step_nothing_is_different(recipe_of, batches):
  plain = quantize.Quantization(**INT8, freeze_norm_step=1)
  later = quantize.Quantization(**INT8, freeze_norm_step=1, exact_step=3)
  whole = {"frozen_rate": 1.0}  # at a tenth of it too little moves to tell them apart
  (a, _), (b, _) = (run(recipe_of(quantize=plan, **whole), batches, 3) for plan in (plain, later))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a.params, b.params
  )
  assert np.any(np.asarray(predict(b, batches(5)["image"])) != b.quantized()(batches(5)["image"]))


@pytest.mark.parametrize(
  ("parts", "message"),
  [
    ({"exact_step": 4}, "exact_step: 4 needs frozen BatchNorm"),
    ({"exact_step": 4, "freeze_norm_step": 5}, "exact_step: 4 is too early; it must be at least 5"),
    ({"exact_step": 4, "freeze_norm_step": 0, "start_step": 4}, "must be at least 5"),
    ({"kernels": "cuda"}, "kernels: 'cuda' is unknown"),
  ],
)
def test_mistakes_name_the_argument(parts, message):
  with pytest.raises(ValueError, match=message):
    quantize.Quantization(**INT8, **parts)
