"""Quantization of whole models by interception: what is rounded, what shares a grid, what moves."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import distill, export, models, nn, quantize
from jaxcompress.quantize import transform
from jaxcompress.quantize.sites import find_sites
from jaxcompress.quantize.states import States
from jaxcompress.training import Recipe, distill_step, init_state, train_step


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
  sites = find_sites(trained.graph())
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


def test_ranges_of_all_tensors_share_three_arrays(trained):
  ranges = trained.quantizer.state["activations"]
  assert len(ranges) == 4 and {leaf.shape for leaf in jax.tree.leaves(ranges)} == {(4,)}
  assert len(jax.tree.leaves(trained.quantizer.state)) == 3


def test_states_of_other_forms_and_large_ones_have_stacks_of_their_own():
  large = jnp.zeros(5000)
  states = States.of({"a": jnp.zeros(2), "b": (large,), "c": jnp.ones(2), "d": (large + 1,)})
  assert sorted(leaf.shape for leaf in jax.tree.leaves(states)) == [(1, 5000), (1, 5000), (2, 2)]
  assert list(states) == ["a", "b", "c", "d"]
  again = states.updated({name: jax.tree.map(jnp.negative, states[name]) for name in states})
  assert jax.tree.structure(again) == jax.tree.structure(states)
  assert again["c"].tolist() == [-1, -1] and float(again["d"][0][0]) == -1


def test_structural_networks_deploy_bit_for_bit(trained, batch, tmp_path):
  quantized = trained.quantized()
  export.tflite(quantized, tmp_path / "model.tflite")
  images = np.random.default_rng(1).normal(size=(100, 8, 8, 3)).astype(np.float32)
  assert export.verify(tmp_path / "model.tflite", quantized, images).bit_equal == 1.0


@pytest.fixture(scope="module")
def resnet(batch):
  """A model, its variables, its plan, and its quantizers' variables before the first step."""
  model, plan = models.resnet8(3), quantize.int8(start_step=1)
  variables = model.init(jax.random.key(0), batch["image"], train=False)
  start = transform(model, plan).init(jax.random.key(1), variables, batch["image"])
  return model, variables, plan, start


def run(resnet, images, *, step, train=True):
  """Applies a model with fake-quantized kernels and activations; returns the output and the ranges."""
  model, variables, plan, start = resnet
  call = lambda variables, images: (model.apply(variables, images, train=False), {})  # noqa: E731

  @jax.jit
  def forward(start, images):
    given = {"train": train, "step": step, "call": call}
    output, _, state = transform(model, plan).apply(*start, variables, images, **given)
    return output, state["activations"]

  return forward(start, images)


def test_every_rounded_tensor_lies_on_its_grid(resnet, batch):
  output, ranges = run(resnet, batch["image"], step=1)
  for tensor, name in (("logits", "classifier"), ("pooled", "pool")):
    scale, zero = resnet[2].activations.grid((), ranges[name], None)
    codes = getattr(output, tensor) / scale + zero
    np.testing.assert_allclose(codes, jnp.round(codes), atol=1e-3)


def test_before_its_start_a_plan_changes_nothing_to_the_bit(resnet, batch):
  model, variables, _, start = resnet
  output, ranges = run(resnet, batch["image"], step=0)
  expected = jax.jit(lambda x: model.apply(variables, x, train=False))(batch["image"])
  np.testing.assert_array_equal(output.logits, expected.logits)
  jax.tree.map(np.testing.assert_array_equal, ranges, start.state["activations"])


@pytest.mark.slow
def test_evaluation_leaves_the_ranges_alone_and_rounds_after_the_first_quantized_step(
  resnet, batch
):
  model, variables, plan, start = resnet
  trained, ranges = run(resnet, batch["image"], step=1)
  later = start._replace(state={**start.state, "activations": ranges})
  later = model, variables, plan, later
  for step, same in ((None, True), (2, True), (1, False)):
    output, after = run(later, batch["image"], step=step, train=False)
    jax.tree.map(np.testing.assert_array_equal, after, ranges)
    assert bool(jnp.all(output.logits == trained.logits)) == same


@pytest.mark.slow
def test_switching_on_at_run_time_gives_what_a_fixed_plan_gives(resnet, batch):
  for step in (0, 1):
    fixed, _ = run(resnet, batch["image"], step=step)
    switched, _ = run(resnet, batch["image"], step=jnp.int32(step))
    np.testing.assert_allclose(switched.logits, fixed.logits, atol=2e-2 if step else 1e-5)


@pytest.mark.slow
def test_kernels_get_their_gradients_straight_through(resnet, batch):
  model, variables, plan, start = resnet
  call = lambda variables, images: (variables["params"], {})  # noqa: E731

  def total(params):
    given = {"train": True, "step": 1, "call": call}
    rounded, _, _ = transform(model, plan).apply(
      *start, {**variables, "params": params}, batch["image"], **given
    )
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(rounded))

  gradients = jax.grad(total)(variables["params"])
  assert all(np.all(np.asarray(leaf) == 1) for leaf in jax.tree.leaves(gradients))


def test_a_late_plan_must_be_told_the_step(resnet, batch):
  model, variables, plan, start = resnet
  with pytest.raises(ValueError, match="step: the plan starts at step 1; pass the number of"):
    transform(model, plan).apply(*start, variables, batch["image"], train=True)


@pytest.mark.parametrize(
  "other",
  [
    quantize.int4(),
    quantize.clustered(4),
    quantize.int8(rules=(quantize.Rule(match="stem", activations=None),)),
  ],
  ids=["steps", "codebooks", "without"],
)
def test_variables_of_another_plan_are_refused_by_both_plans(resnet, batch, other):
  model, variables, plan, start = resnet
  theirs = transform(model, other).init(jax.random.key(0), variables, batch["image"])
  for made, given in ((plan, theirs), (other, start)):
    for train in (True, False):
      with pytest.raises(ValueError, match="params, state: they are of another plan or model"):
        transform(model, made).apply(*given, variables, batch["image"], train=train, step=1)
    with pytest.raises(ValueError, match="params, state: they are of another plan or model"):
      transform(model, made).convert(*given, variables, batch["image"])


def test_integers_need_ranges_that_were_measured(resnet, batch):
  model, variables, *_ = resnet
  for plan in (quantize.int8(), quantize.int4()):
    quantized = transform(model, plan)
    start = quantized.init(jax.random.key(0), variables, batch["image"])
    with pytest.raises(ValueError, match=r"state: the activations of .* were seen by no quantized"):
      quantized.convert(*start, variables, batch["image"])


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((models.resnet8, quantize.int8()), r"model must be a linen module, .*\(not called\)"),
    ((models.resnet8(3), quantize.int8), r"plan must be a plan, .* int8 \(not called\)"),
    ((models.resnet8(3), quantize.absmax(8)), r"plan must be a plan, .* absmax\(8\)"),
  ],
)
def test_arguments_of_another_kind_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    transform(*arguments)


PLANS = {
  "ranges": quantize.int8(start_step=1, freeze_norm_step=2),
  "steps": quantize.Quantization(weights=quantize.lsq(4), activations=quantize.lsq_activations(4)),
  "device": quantize.int8(freeze_norm_step=1, exact_step=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_a_loop_of_ones_own_trains_what_distill_step_trains(name, batch):
  model, plan, optimizer = Branches(), PLANS[name], optax.sgd(0.05, momentum=0.9)
  loss = distill.chain(distill.cross_entropy(), distill.kd(2.0))
  teacher = Branches().init(jax.random.key(1), batch["image"], train=False)
  parts = {"loss": loss, "optimizer": optimizer, "quantize": plan}
  recipe = Recipe(student=model, teachers=(model,), **parts, frozen_rate=1.0)  # as the loop below
  reference = init_state(recipe, jax.random.key(0), batch, teacher_variables=(teacher,))
  variables = jax.tree.map(jnp.copy, reference.variables)
  quantized = transform(model, plan)
  params, state = quantized.init(jax.random.key(0), variables, batch["image"])
  said = (nn.Endpoints(logits=model.apply(teacher, batch["image"], train=False)),)
  student = nn.Endpoints(logits=model.apply(variables, batch["image"], train=False))
  of_loss = loss.init(jax.random.key(0), student, said, batch)
  trained = {"student": variables["params"], "quantizer": params, "loss": of_loss[0]}
  run = trained, variables["batch_stats"], state, of_loss[1], optimizer.init(trained)

  @jax.jit
  def own_step(run, step):
    trained, stats, state, loss_state, opt_state = run

    def objective(trained):
      own = {"params": trained["student"], "batch_stats": stats}
      logits, updated, new = quantized.apply(
        trained["quantizer"], state, own, batch["image"], train=True, step=step
      )
      student = nn.Endpoints(logits=logits)
      value, after, _ = loss.update(trained["loss"], loss_state, student, said, batch, step=step)
      return value, (updated["batch_stats"], new, after)

    gradients, carried = jax.grad(objective, has_aux=True)(trained)
    updates, opt_state = optimizer.update(gradients, opt_state)
    return optax.apply_updates(trained, updates), *carried, opt_state

  for step in range(4):
    reference, _ = distill_step(reference, batch)
    run = own_step(run, step)
  trained, stats, state, *_ = run
  variables = {"params": trained["student"], "batch_stats": stats}
  ours, theirs = (
    (variables, trained["quantizer"], state),
    (reference.variables, *reference.quantizer),
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)
  model = quantized.convert(trained["quantizer"], state, variables, batch["image"])
  integers = reference.quantized().integers(batch["image"])
  np.testing.assert_array_equal(model.integers(batch["image"]), integers)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["steps", "device"])
def test_networks_of_many_seeds_are_trained_at_once(name, batch):
  quantized = transform(Branches(), PLANS[name])

  def grown(key):
    variables = Branches().init(key, batch["image"], train=False)
    params, state = quantized.init(key, variables, batch["image"])
    logits, _, state = quantized.apply(
      params, state, variables, batch["image"], train=True, step=2, rng=key
    )
    return logits, state

  keys = jax.random.split(jax.random.key(0), 2)
  together = jax.jit(jax.vmap(grown))(keys)
  for i, key in enumerate(keys):
    alone = jax.jit(grown)(key)
    jax.tree.map(
      lambda many, one, i=i: np.testing.assert_allclose(many[i], one, rtol=1e-5, atol=1e-5),
      together,
      alone,
    )


@pytest.mark.slow
def test_rounding_within_a_normalizations_gradient_is_rounding_behind_it(batch):
  """LSQ's step gets its sum in BatchNorm's reduction; the same taken apart is the reference."""
  model, x = Branches(), batch["image"]
  variables = model.init(jax.random.key(0), x, train=False)

  def gradients(activations):
    plan = quantize.Quantization(weights=quantize.lsq(4), activations=activations)
    start = transform(model, plan).init(jax.random.key(0), variables, x)

    def forward(params, state, parameters):
      logits, _, new = transform(model, plan).apply(
        params, state, {**variables, "params": parameters}, x, train=True
      )
      return jnp.sum(jnp.square(logits)), new

    _, measured = forward(*start, variables["params"])
    return jax.jit(jax.grad(forward, argnums=(0, 2), has_aux=True))(
      start.params, {**start.state, "activations": measured["activations"]}, variables["params"]
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


@pytest.fixture(scope="module")
def delayed(resnet, batch):
  """A plan that rounds by the ranges of the step before, and its first pass."""
  model, variables, _, _ = resnet
  plan = quantize.int8(delayed=True)
  first = transform(model, plan).init(jax.random.key(1), variables, batch["image"])
  return (model, variables, plan, first), run(
    (model, variables, plan, first), batch["image"], step=0
  )


def test_the_first_step_of_delayed_ranges_leaves_activations_as_they_are(delayed, resnet, batch):
  (model, variables, _, _), (output, ranges) = delayed
  weights = quantize.Quantization(weights=quantize.absmax(8), activations=None)
  start = transform(model, weights).init(jax.random.key(1), variables, batch["image"])
  expected, _ = run((model, variables, weights, start), batch["image"], step=0)
  np.testing.assert_allclose(output.logits, expected.logits, rtol=1e-5, atol=1e-5)
  assert all(int(seen.count) == 1 for seen in ranges.values())


@pytest.mark.slow
def test_delayed_ranges_are_used_one_step_later_and_kept_as_ever(delayed, resnet, batch):
  (model, variables, plan, first), (_, ranges) = delayed
  setting = model, variables, plan, first._replace(state={**first.state, "activations": ranges})
  other = {"image": 2 * batch["image"]}
  output, after = run(setting, other["image"], step=1)
  frozen, _ = run(setting, other["image"], step=1, train=False)  # evaluation reads what is there
  np.testing.assert_allclose(output.logits, frozen.logits, rtol=1e-5, atol=1e-5)
  low, high = jnp.min(other["image"]), jnp.max(other["image"])
  old = ranges["input"]
  np.testing.assert_allclose(after["input"].low, 0.95 * old.low + 0.05 * low, rtol=1e-6)
  np.testing.assert_allclose(after["input"].high, 0.95 * old.high + 0.05 * high, rtol=1e-6)


@pytest.mark.slow
def test_a_delayed_plan_trains_and_deploys_bit_for_bit(batch, tmp_path):
  recipe = Recipe(
    student=models.resnet8(3), optimizer=optax.sgd(0.05), quantize=quantize.int8(delayed=True)
  )
  state, losses = init_state(recipe, jax.random.key(0), batch), []
  for _ in range(6):
    state, metrics = train_step(state, batch)
    losses.append(float(metrics["loss"]))
  assert losses[-1] < losses[0]
  quantized = state.quantized()
  export.tflite(quantized, tmp_path / "model.tflite")
  images = np.random.default_rng(1).normal(size=(20, 8, 8, 3)).astype(np.float32)
  assert export.verify(tmp_path / "model.tflite", quantized, images).bit_equal == 1.0


def test_a_plan_without_moving_ranges_has_none_to_delay():
  with pytest.raises(ValueError, match="delayed: no quantizer of activations keeps a range"):
    quantize.Quantization(
      weights=quantize.lsq(8), activations=quantize.lsq_activations(8), delayed=True
    )
