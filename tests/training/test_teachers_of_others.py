"""Runs whose teachers are NNX modules, functions, or linen modules of others."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcompress import data, distill, quantize
from jaxcompress.training import (
  CachedTeacher,
  Checkpoints,
  distill_step,
  fit,
  init_state,
  make_mesh,
  shard,
  shard_batch,
)


class OfNnx(nnx.Module):
  def __init__(self, rngs):
    self.convs = nnx.List([nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)])
    self.norm = nnx.BatchNorm(8, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rngs=rngs)
    self.head = nnx.Linear(8, 5, rngs=rngs)

  def __call__(self, x):
    x = self.norm(self.convs[0](x))
    return self.head(self.drop(jax.nn.relu(x).mean((1, 2))))


class OfLinen(linen.Module):
  """Without a flag."""

  @linen.compact
  def __call__(self, x):
    x = linen.Conv(8, (3, 3), strides=2, name="conv")(x)
    return linen.Dense(5, name="head")(linen.relu(x).mean((1, 2)))


def apply(variables, images):
  """In Haiku's form of variables, whose names have slashes."""
  kernel = variables["net/~/conv"]["w"]
  x = jax.lax.conv_general_dilated(
    images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return {
    "logits": jax.nn.relu(x).mean((1, 2)) @ variables["net/~/head"]["w"],
    "pooled": jax.nn.relu(x).mean((1, 2)),
    "maps": [x],
  }


def drawn(*shape):
  return jnp.asarray(np.random.default_rng(3).normal(size=shape), jnp.float32)


FUNCTION = {"net/~/conv": {"w": drawn(3, 3, 3, 8)}, "net/~/head": {"w": drawn(8, 5)}}


@pytest.fixture(scope="module")
def module():
  return OfNnx(nnx.Rngs(2))


@pytest.fixture(scope="module")
def kinds(module):
  """Each kind with maps and pooled features: the teacher, its variables, and its logits."""
  copy = nnx.clone(module)
  copy.eval()
  model = OfLinen()
  of_linen = model.init(jax.random.key(2), jnp.zeros((1, 8, 8, 3)))
  names = {"maps": ["convs/0"], "pooled": "norm"}
  return {
    "nnx": (distill.adapter(module, **names), None, copy),
    "function": (apply, FUNCTION, lambda x: apply(FUNCTION, x)["logits"]),
    "linen": (
      distill.adapter(model, maps=["conv"], pooled="conv"),
      of_linen,
      lambda x: model.apply(of_linen, x),
    ),
  }


ALL = pytest.mark.parametrize("kind", ["nnx", "function", "linen"])
LOSS = distill.named_chain(
  labels=distill.cross_entropy(),
  logits=distill.kd(4.0),
  maps=distill.scale(10.0, distill.attention()),
  banks=distill.scale(0.1, distill.crd(40, dim=8, negatives=16)),
)


@pytest.mark.slow
@ALL
def test_a_run_reads_logits_pooled_features_and_maps_and_learns(kind, kinds, recipe_of, batches):
  teacher, variables, logits = kinds[kind]
  recipe = recipe_of(teachers=(teacher,), loss=LOSS, quantize=quantize.int8(start_step=6))
  given = () if variables is None else (variables,)
  state = init_state(recipe, jax.random.key(0), batches(0), teacher_variables=given)
  assert set(state.trained) == {"student", "quantizer", "loss"}  # which gradients are taken of
  before = jax.tree.map(np.array, state.teachers)
  found = recipe.teachers[0].apply(state.teachers[0], batches(0)["image"], train=False)
  np.testing.assert_allclose(found.logits, logits(batches(0)["image"]), rtol=1e-4, atol=1e-5)
  programs = distill_step.program._cache_size()
  losses = []
  for position in range(12):
    state, metrics = distill_step(state, batches(position % 2))
    losses.append(float(metrics["loss"]))
  assert losses[-1] < losses[0] and int(state.skipped) == 0
  assert distill_step.program._cache_size() == programs + 1
  jax.tree.map(np.testing.assert_array_equal, before, state.teachers)
  state.quantized()


@pytest.mark.slow
@ALL
def test_the_divergence_is_that_of_the_networks_own_logits(kind, kinds, recipe_of, batches):
  teacher, variables, logits = kinds[kind]
  recipe = recipe_of(teachers=(teacher,), loss=distill.kd(2.0))
  batch = batches(3)
  state = init_state(
    recipe, jax.random.key(0), batch, teacher_variables=(variables,) if variables else (None,)
  )
  outputs, _ = recipe.student.apply(
    state.variables, batch["image"], train=True, mutable=["batch_stats"]
  )
  t, s = (jax.nn.log_softmax(x / 2.0) for x in (logits(batch["image"]), outputs.logits))
  expected = 4.0 * jnp.mean(jnp.sum(jnp.exp(t) * (t - s), -1))
  _, metrics = distill_step(state, batch)
  np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)


@pytest.mark.slow
@ALL
def test_a_resumed_run_ends_in_the_same_bits(kind, kinds, recipe_of, batches, tmp_path):
  teacher, variables, _ = kinds[kind]
  recipe = recipe_of(teachers=(teacher,), loss=LOSS)
  given = () if variables is None else (variables,)
  start = lambda: init_state(recipe, jax.random.key(0), batches(0), teacher_variables=given)  # noqa: E731
  whole = fit(start(), batches, steps=4)
  with Checkpoints(tmp_path, every=2) as checkpoints:
    fit(start(), batches, steps=2, checkpoints=checkpoints)
  with Checkpoints(tmp_path, every=2) as checkpoints:
    resumed = fit(checkpoints.restore(start()), batches, steps=4)
  for name in ("params", "teachers", "loss_params"):
    jax.tree.map(np.testing.assert_array_equal, getattr(whole, name), getattr(resumed, name))


def test_arrays_that_a_checkpoint_could_not_tell_apart_are_refused(recipe_of, batches, tmp_path):
  recipe = recipe_of(teachers=(lambda v, x: x.mean((1, 2)) @ v["a/b"],), loss=distill.kd())
  variables = {"a/b": drawn(3, 5), "a": {"b": drawn(2)}}
  state = init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(variables,))
  with (
    Checkpoints(tmp_path, every=1) as checkpoints,
    pytest.raises(
      ValueError, match=r"two arrays of the state are called 'teachers\.0\.a\.b'; rename"
    ),
  ):
    checkpoints.save(1, state)


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("shard_teachers", [False, True])
def test_a_mesh_computes_the_same(kind, shard_teachers, kinds, recipe_of, batches):
  teacher, variables, _ = kinds[kind]
  recipe = recipe_of(teachers=(teacher,), loss=LOSS, accumulate=2)
  given = () if variables is None else (variables,)
  start = lambda: init_state(recipe, jax.random.key(0), batches(0), teacher_variables=given)  # noqa: E731
  _, alone = distill_step(start(), batches(0))
  mesh = make_mesh(1)
  state = shard(start(), mesh, shard_teachers=shard_teachers)
  state, metrics = distill_step(state, shard_batch(batches(0), mesh))
  np.testing.assert_allclose(metrics["loss"], alone["loss"], rtol=1e-5)


@pytest.mark.slow
def test_teachers_may_be_given_as_they_are(module, recipe_of, batches):
  model = OfLinen()
  variables = model.init(jax.random.key(2), jnp.zeros((1, 8, 8, 3)))
  recipe = recipe_of(teachers=(module, apply, model), loss=distill.for_teachers(3, distill.kd()))
  given = (nnx.state(module), FUNCTION, variables)
  state = init_state(recipe, jax.random.key(0), batches(0), teacher_variables=given)
  _, metrics = distill_step(state, batches(0))
  assert np.isfinite(metrics["loss"])


def test_own_variables_of_some_are_taken_where_the_others_are_given(module, recipe_of, batches):
  recipe = recipe_of(
    teachers=(module, apply, CachedTeacher()), loss=distill.for_teachers(3, distill.kd())
  )
  batch = {**batches(0), "teacher_logits": np.zeros((16, 5), np.float32)}
  state = init_state(recipe, jax.random.key(0), batch, teacher_variables=(None, FUNCTION, None))
  jax.tree.map(np.testing.assert_array_equal, state.teachers[0], recipe.teachers[0].variables)
  assert state.teachers[2] == {}


def test_a_teachers_state_is_its_runs_own(module, recipe_of, batches):
  """Steps donate theirs, and training the module on changes no run."""
  copy = nnx.clone(module)
  recipe = recipe_of(teachers=(copy,), loss=distill.kd())
  state = init_state(recipe, jax.random.key(0), batches(0))
  copy.head.kernel[...] = jnp.zeros((8, 5))
  state, _ = distill_step(state, batches(0))
  assert np.any(state.teachers[0]["params"]["head"]["kernel"] != 0)
  np.testing.assert_array_equal(copy.head.kernel[...], np.zeros((8, 5)))


@pytest.mark.slow
def test_a_teacher_with_preprocessing_of_its_own_reads_augmented_pixels(recipe_of, batches):
  seen = lambda rng, batch: {**batch, "image": batch["image"] + 1.0}  # noqa: E731
  own = lambda images: (images - 3.0) / 2.0  # noqa: E731
  losses = []
  for teacher in (
    distill.adapter(apply, preprocess=own),
    lambda variables, images: apply(variables, (images * 5.0 - 3.0) / 2.0),
  ):
    recipe = recipe_of(
      teachers=(teacher,),
      loss=distill.kd(),
      augment=seen,
      preprocess=lambda x: x / 5.0,
      accumulate=2,
    )
    state = init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(FUNCTION,))
    losses.append(float(distill_step(state, batches(0))[1]["loss"]))
  np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ((), "teacher_variables: 0 given for 2 teachers; pass a tuple with the variables of each"),
    ((None, None), r"teacher_variables\[0\] must be what the function reads, such as \{\}, got No"),
    ((FUNCTION,), "teacher_variables: 1 given for 2 teachers"),
    (
      (FUNCTION, {"w": print}),
      r"teacher_variables\[1\]: \['w'\] is the function print .* no array",
    ),
    (
      (FUNCTION, {"drop": [True]}),
      r"\[1\]: \['drop'\]\[0\] is True, which is no array; give arrays",
    ),
    ((FUNCTION, 3.0, {}), "teacher_variables: 3 given for 2 teachers"),
  ],
)
def test_variables_that_are_missing_or_no_arrays_are_told(recipe_of, batches, given, message):
  recipe = recipe_of(teachers=(apply, apply), loss=distill.kd())
  with pytest.raises(ValueError, match=message):
    init_state(recipe, jax.random.key(0), batches(0), teacher_variables=given)


def test_variables_of_another_nnx_module_are_told(module, recipe_of, batches):
  recipe = recipe_of(teachers=(module,), loss=distill.kd())
  with pytest.raises(
    ValueError, match=r"teacher_variables\[0\]: they are of another network: .* is"
  ):
    init_state(recipe, jax.random.key(0), batches(0), teacher_variables=({"head": {}},))
  with pytest.raises(ValueError, match=r"teacher_variables\[0\] must be a dict"):
    init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(3,))


@pytest.mark.slow
def test_outputs_of_such_teachers_are_cached(module, recipe_of, tmp_path):
  """Also of one without pooled features, and with the module's own state."""
  rng = np.random.default_rng(0)
  split = data.Split(
    rng.integers(0, 256, (6, 8, 8, 3), np.uint8), rng.integers(0, 5, 6).astype(np.int32)
  )
  scaled = lambda images: images / 255.0  # noqa: E731
  options = {"augment": None, "preprocess": scaled, "batch_size": 4}
  copy = nnx.clone(module)
  copy.eval()
  cache = data.cache_teacher(tmp_path / "nnx", module, None, split, **options)
  np.testing.assert_allclose(
    cache.logits[0].astype(np.float32), copy(split.images / np.float32(255)), rtol=2**-7, atol=1e-2
  )
  assert cache.pooled is None and sorted(p.name for p in (tmp_path / "nnx").iterdir()) == [
    "cache.json", "checksums.json", "logits",
  ]  # fmt: skip
  again = data.cache_teacher(tmp_path / "nnx", module, None, split, **options)
  np.testing.assert_array_equal(again.logits, cache.logits)
  other = data.cache_teacher(tmp_path / "function", apply, FUNCTION, split, **options)
  assert other.pooled.shape == (1, 6, 8)
  recipe = recipe_of(teachers=(CachedTeacher(),), loss=distill.kd(), preprocess=scaled)
  batch = cache.batch_at(4, seed=0, position=0)
  assert "teacher_pooled" not in batch
  _, metrics = distill_step(init_state(recipe, jax.random.key(0), batch), batch)
  assert np.isfinite(metrics["loss"])
  with pytest.raises(
    ValueError, match="variables: they are missing, and the teacher holds no variables"
  ):
    data.cache_teacher(tmp_path / "none", apply, None, split, **options)
