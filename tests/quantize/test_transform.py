"""Quantization of whole models by interception: what is rounded, what shares a grid, what moves."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import export, models, nn, quantize
from jaxcompress.training import Recipe, init_state, train_step


class Branches(linen.Module):
  """Split, shuffle, concatenation and pooling around two convolutions."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, kernel=3, act="relu", name="stem")(x, train=train)
    left, right = nn.Split((4, 4), name="split")(x)
    right = nn.ConvNorm(4, kernel=3, groups="depthwise", name="depthwise")(right, train=train)
    x = nn.ChannelShuffle(2, name="shuffle")(nn.Concat(name="concat")(left, right))
    x = nn.MaxPool(2, 2, name="pool")(x)
    return nn.Dense(3, name="classifier")(nn.GlobalAvgPool(name="mean")(x))


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  image = rng.normal(size=(16, 8, 8, 3)).astype(np.float32)
  return {"image": image, "label": rng.integers(0, 3, 16).astype(np.int32)}


@pytest.fixture(scope="module")
def trained(batch):
  """A network of structural ops after a few quantized steps."""
  recipe = Recipe(student=Branches(), optimizer=optax.sgd(0.05), quantize=quantize.int8())
  state = init_state(recipe, jax.random.key(0), batch)
  for _ in range(5):
    state, _ = train_step(state, batch)
  return state


def test_values_that_are_only_moved_share_the_grid_of_what_they_came_from(trained):
  sites = quantize.find_sites(trained.graph())
  keys = sites.key_of
  joined = {keys[t] for t in ("stem", "split", "split:1", "depthwise", "concat", "shuffle", "pool")}
  assert joined == {"stem"}
  assert {keys["input"], keys["mean"], keys["classifier"]} == {"input", "mean", "classifier"}
  assert sites.rounded == {"input", "stem", "depthwise", "mean", "classifier"}
  assert "stem" in sites.nonnegative
  assert "depthwise" not in sites.nonnegative


def test_a_shared_grid_holds_the_values_of_every_member(trained, batch):
  seen = trained.quantizer.state["activations"]["stem"]
  assert seen.low < 0 < seen.high  # the depthwise output is negative in places, the stem's is not
  assert int(seen.count) == 5


def test_structural_networks_deploy_bit_for_bit(trained, batch, tmp_path):
  quantized = trained.quantized()
  export.tflite(quantized, tmp_path / "model.tflite")
  images = np.random.default_rng(1).normal(size=(100, 8, 8, 3)).astype(np.float32)
  assert export.verify(tmp_path / "model.tflite", quantized, images).bit_equal == 1.0


@pytest.fixture(scope="module")
def resnet(batch):
  """A model, its variables, sites, quantizer variables and plan."""
  model = models.resnet8(3)
  variables = model.init(jax.random.key(0), batch["image"], train=False)
  x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  sites = quantize.find_sites(nn.trace(model, variables, x))
  plan = quantize.int8()
  state = quantize.init_quantizers(plan, sites, variables["params"])
  return model, variables, sites, state, plan


def run(resnet, images, *, active, train):
  """What a model of rounded kernels and activations returns, and the ranges that it saw."""
  model, variables, sites, state, plan = resnet

  @jax.jit
  def forward(variables, state, images):
    return forward_of(model, variables, sites, state, plan, images, active, train)

  return forward(variables, state, images)


def forward_of(model, variables, sites, state, plan, images, active, train):
  params, _ = quantize.quantize_kernels(plan, sites, state, variables["params"], active)
  passing = quantize.quantize_activations(plan, sites, state, active=active, train=train)
  x = passing.round_input(images)
  with passing.intercept():
    output = model.apply({**variables, "params": params}, x, train=False)
  return output, passing.new_state()


def test_every_rounded_tensor_lies_on_its_grid(resnet, batch):
  output, ranges = run(resnet, batch["image"], active=True, train=True)
  for tensor, name in (("logits", "classifier"), ("pooled", "pool")):
    scale, zero = resnet[4].activations.grid((), ranges[name], None)
    codes = getattr(output, tensor) / scale + zero
    np.testing.assert_allclose(codes, jnp.round(codes), atol=1e-3)


def test_an_inactive_plan_changes_nothing_to_the_bit(resnet, batch):
  model, variables, _, state, _ = resnet
  output, ranges = run(resnet, batch["image"], active=False, train=True)
  expected = jax.jit(lambda x: model.apply(variables, x, train=False))(batch["image"])
  np.testing.assert_array_equal(output.logits, expected.logits)
  jax.tree.map(np.testing.assert_array_equal, ranges, state.state["activations"])


def test_evaluation_leaves_the_ranges_alone(resnet, batch):
  model, variables, sites, state, plan = resnet
  _, ranges = run(resnet, batch["image"], active=True, train=True)
  later = (
    model,
    variables,
    sites,
    state._replace(state={**state.state, "activations": ranges}),
    plan,
  )
  _, after = run(later, 9 * batch["image"], active=True, train=False)
  assert jax.tree.leaves(after) == jax.tree.leaves(ranges)


def test_switching_on_at_run_time_gives_what_a_fixed_plan_gives(resnet, batch):
  switched = jax.jit(lambda on: forward_of(*resnet, batch["image"], on, True)[0].logits)
  for on in (True, False):
    fixed, _ = run(resnet, batch["image"], active=on, train=True)
    np.testing.assert_allclose(switched(on), fixed.logits, atol=2e-2 if on else 1e-5)


def test_kernels_get_their_gradients_straight_through(resnet, batch):
  _, variables, sites, state, plan = resnet

  def total(params):
    rounded, _ = quantize.quantize_kernels(plan, sites, state, params, True)
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(rounded))

  gradients = jax.grad(total)(variables["params"])
  assert all(np.all(np.asarray(leaf) == 1) for leaf in jax.tree.leaves(gradients))


def test_rounding_within_a_normalizations_gradient_is_rounding_behind_it(batch):
  """LSQ's step gets its sum in BatchNorm's reduction; the same taken apart is the reference."""
  model, x = Branches(), batch["image"]
  variables = model.init(jax.random.key(0), x, train=False)
  sites = quantize.find_sites(
    nn.trace(model, variables, jax.ShapeDtypeStruct((1, 8, 8, 3), x.dtype))
  )

  def gradients(activations):
    plan = quantize.Quantization(weights=quantize.lsq(4), activations=activations)
    start = quantize.init_quantizers(plan, sites, variables["params"])

    def forward(params, state, parameters):
      passing = quantize.quantize_activations(
        plan, sites, quantize.QuantVariables(params, state), active=True, train=True
      )
      images = passing.round_input(x)
      with passing.intercept():
        logits, _ = model.apply(
          {**variables, "params": parameters}, images, train=True, mutable=["batch_stats"]
        )
      return jnp.sum(jnp.square(logits)), passing.new_state()

    _, measured = forward(start.params, start.state, variables["params"])
    state = {**start.state, "activations": measured}
    return jax.jit(jax.grad(forward, argnums=(0, 2), has_aux=True))(
      start.params, state, variables["params"]
    )[0]

  quantizer = quantize.lsq_activations(4)
  behind = quantizer._replace(apply=lambda *args, **options: quantizer.apply(*args, **options))
  together, apart = gradients(quantizer), gradients(behind)
  steps = together[0]["activations"]
  assert steps["input"].delta == 0  # it is not trained
  assert all(steps[name].delta != 0 for name in ("stem", "mean", "classifier"))
  leaves = jax.tree.leaves(together), jax.tree.leaves_with_path(apart)
  for ours, (path, reference) in zip(*leaves, strict=True):
    limit = 2e-5 * np.abs(reference).max()
    np.testing.assert_allclose(
      ours, reference, rtol=0, atol=limit, err_msg=jax.tree_util.keystr(path)
    )
