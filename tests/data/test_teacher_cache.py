"""A teacher's outputs on disk: what they are, that training reads them, and that damage is seen."""

import json

import flax.linen as linen
import jax
import numpy as np
import optax
import pytest

from jaxcompress import distill, nn
from jaxcompress.data import Augment, Mix, PerExample, Split, cache_teacher, compose
from jaxcompress.training import (
  CachedTeacher,
  Recipe,
  distill_step,
  init_state,
  make_mesh,
  shard,
  shard_batch,
)

COUNT, BATCH, CYCLES = 10, 4, 2


class Net(linen.Module):
  """One layer on pooled pixels."""

  @linen.compact
  def __call__(self, x, *, train):
    pooled = nn.GlobalAvgPool(name="pool")(x[:, ::3, ::3])
    return nn.Endpoints(nn.Dense(5, name="classifier")(pooled), pooled)


def scaled(images):
  return images.astype(np.float32) / 255


@pytest.fixture(scope="module")
def split():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
  return Split(images, rng.integers(0, 5, COUNT).astype(np.int32))


@pytest.fixture(scope="module")
def variables():
  return Net().init(jax.random.key(3), np.zeros((1, 8, 8, 3), np.float32), train=False)


AUGMENT = PerExample(Augment(crop=2, flip=True), seed=5)


@pytest.fixture
def opened(tmp_path, split, variables):
  """Opens the cache of the test's folder; counts passes of the teacher."""
  calls = []

  def counted(images):
    jax.debug.callback(lambda: calls.append(1))
    return scaled(images)

  def open_it(**changed):
    options = {"augment": AUGMENT, "preprocess": counted, "cycles": CYCLES, "batch_size": 3}
    given = {"variables": variables, "split": split, **options, **changed}
    return cache_teacher(tmp_path / "cache", Net(), **given)

  return open_it, calls


def test_outputs_are_those_of_the_teacher_on_what_the_student_sees(opened, split, variables):
  cache = opened[0]()
  assert cache.logits.shape == (CYCLES, COUNT, 5) and cache.logits.dtype.itemsize == 2
  see = jax.jit(AUGMENT)
  for position in range(6):  # two epochs and a half
    batch = cache.batch_at(BATCH, seed=1, position=position)
    place = position * BATCH + np.arange(BATCH)
    np.testing.assert_array_equal(batch["cycle"], place // COUNT % CYCLES)
    images = see(jax.random.key(position), batch)["image"]
    found = Net().apply(variables, scaled(images), train=False)
    np.testing.assert_allclose(
      batch["teacher_logits"].astype(np.float32), found.logits, rtol=2**-8, atol=1e-3
    )
    np.testing.assert_allclose(
      batch["teacher_pooled"].astype(np.float32), found.pooled, rtol=2**-8, atol=1e-3
    )
  first, second = cache.logits.astype(np.float32)
  assert np.any(first != second)


def test_a_second_opening_computes_one_batch_and_damage_computes_all_anew(opened, tmp_path):
  open_it, calls = opened
  whole = open_it().logits.copy()
  jax.effects_barrier()
  passes = len(calls)
  assert passes >= CYCLES * 4
  open_it()
  jax.effects_barrier()
  assert len(calls) == passes + 1
  folder = tmp_path / "cache"
  for damage in (
    lambda: (folder / "cache.json").unlink(),
    lambda: (folder / "pooled").write_bytes(b"half"),
    lambda: (folder / "cache.json").write_text("{"),
    lambda: flip(folder / "cache.json"),
    lambda: flip(folder / "logits"),
    lambda: flip(folder / "pooled"),
    lambda: flip(folder / "checksums.json"),
  ):
    damage()
    before = len(calls)
    np.testing.assert_array_equal(open_it().logits, whole)
    jax.effects_barrier()
    assert len(calls) > before


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)


def test_a_cache_of_before_is_opened_without_checksums(opened, tmp_path):
  open_it, calls = opened
  whole = open_it().pooled.copy()
  jax.effects_barrier()
  passes, folder = len(calls), tmp_path / "cache"
  facts = json.loads((folder / "cache.json").read_text())
  del facts["seal"]
  (folder / "cache.json").write_text(json.dumps(facts))
  (folder / "checksums.json").unlink()
  np.testing.assert_array_equal(open_it().pooled, whole)
  jax.effects_barrier()
  assert len(calls) == passes + 1


def test_a_folder_with_something_else_is_not_emptied(opened, tmp_path):
  (tmp_path / "cache").mkdir()
  (tmp_path / "cache" / "photo.png").write_bytes(b"mine")
  with pytest.raises(ValueError, match=r"folder: .*cache holds 'photo.png'"):
    opened[0]()
  assert (tmp_path / "cache" / "photo.png").read_bytes() == b"mine"


def test_outputs_of_something_else_are_refused(opened, split, variables):
  open_it, _ = opened
  open_it()
  other = jax.tree.map(lambda x: x + 1, variables)
  images = Split(split.images[::-1].copy(), split.labels)
  for changed, name in (
    ({"variables": other}, "teacher"),
    ({"split": images}, "images"),
    ({"augment": PerExample(Augment(crop=1))}, "augment"),
    ({"cycles": 3}, "cycles"),
  ):
    with pytest.raises(ValueError, match=f"was made with another {name}"):
      open_it(**changed)


class Lower(linen.Module):
  """A network with the variables of another one, and other layers."""

  @linen.compact
  def __call__(self, x, *, train):
    found = Net(name="inner")(x, train=train)
    return nn.Endpoints(jax.nn.relu(found.logits) - 0.1, found.pooled)


def test_a_teacher_of_the_same_variables_but_other_outputs_is_refused(tmp_path, split, variables):
  """Neither what a network computes nor what a function does to pixels is in their names."""
  inner = {"params": {"inner": variables["params"]}}
  pixels = [lambda x: x.astype(np.float32) / 255, lambda x: x.astype(np.float32) / 127.5 - 1]

  def open_it(model=Net(), variables=variables, preprocess=pixels[0]):  # noqa: B008  # frozen
    options = {"augment": None, "preprocess": preprocess, "batch_size": 3}
    return cache_teacher(tmp_path / "cache", model, variables, split, **options)

  open_it()
  assert len(open_it().split) == COUNT
  with pytest.raises(ValueError, match=r"holds other (logits|pooled) of image 0 .* preprocess"):
    open_it(preprocess=pixels[1])
  with pytest.raises(ValueError, match=r"holds other logits of image 0"):
    open_it(Lower(), inner)


@pytest.mark.slow
def test_a_step_learns_from_the_cache_as_from_the_teacher(opened, variables):
  cache = opened[0]()
  batch = cache.batch_at(BATCH, seed=1, position=0)
  losses = []
  for teacher, given in ((CachedTeacher(), {}), (Net(), variables)):
    recipe = Recipe(
      student=Net(), teachers=(teacher,), loss=distill.kd(4.0), optimizer=optax.sgd(0.1),
      augment=AUGMENT, preprocess=scaled,
    )  # fmt: skip
    state = init_state(recipe, jax.random.key(0), batch, teacher_variables=(given,))
    state, metrics = distill_step(state, batch)
    losses.append(float(metrics["loss"]))
  assert losses[0] > 0
  np.testing.assert_allclose(*losses, rtol=0.05)


def taught(augment):
  return Recipe(
    student=Net(), teachers=(CachedTeacher(),), loss=distill.kd(4.0), optimizer=optax.sgd(0.1),
    augment=augment, preprocess=scaled,
  )  # fmt: skip


@pytest.mark.parametrize(
  "other",
  [
    None,
    AUGMENT.augment,
    PerExample(AUGMENT.augment, seed=6),
    PerExample(Augment(crop=1, flip=True), seed=5),
    Mix(classes=5, mixup=1.0),
    compose(AUGMENT, Mix(classes=5, cutmix=1.0)),
    lambda rng, batch: batch,
  ],
  ids=["none", "bare", "other seed", "other crop", "mixup", "mixed after", "own"],
)
def test_a_student_that_sees_other_pictures_than_the_teacher_saw_is_refused(opened, other):
  batch = opened[0]().batch_at(BATCH, seed=1, position=0)
  with pytest.raises(ValueError, match=r"augment: the recipe's is .* saw its images through PerEx"):
    init_state(taught(other), jax.random.key(0), batch, teacher_variables=({},))


def test_batches_of_another_cache_are_refused_by_the_step(opened, tmp_path, split, variables):
  """Also after a start that was right, and however the batches are copied or placed."""
  right = opened[0]()
  plain = cache_teacher(
    tmp_path / "plain", Net(), variables, split, augment=None, preprocess=scaled, batch_size=3
  )
  first, other = (cache.batch_at(BATCH, seed=1, position=0) for cache in (right, plain))
  state = init_state(taught(AUGMENT), jax.random.key(0), first, teacher_variables=({},))
  state, _ = distill_step(state, {name: np.asarray(x) for name, x in first.items()})
  state, _ = distill_step(state, jax.tree.map(np.asarray, first))
  with pytest.raises(ValueError, match="saw its images through None"):
    distill_step(state, other)
  state = shard(state, make_mesh(1))
  with pytest.raises(ValueError, match="saw its images through None"):
    distill_step(state, shard_batch(other, make_mesh(1)))
  state = init_state(taught(None), jax.random.key(0), other, teacher_variables=({},))
  _, metrics = distill_step(state, other)
  assert np.isfinite(metrics["loss"])


def test_an_equal_augmentation_is_the_same(opened):
  batch = opened[0]().batch_at(BATCH, seed=1, position=0)
  again = PerExample(Augment(crop=2, flip=True), seed=5)
  init_state(taught(again), jax.random.key(0), batch, teacher_variables=({},))


def test_what_cannot_be_cached_says_so(opened, variables):
  open_it, _ = opened
  with pytest.raises(ValueError, match="mixes examples, which cannot be cached"):
    open_it(augment=PerExample(Mix(classes=5, mixup=1.0)))
  with pytest.raises(ValueError, match=r"augment must be a PerExample.*write PerExample\(Augment"):
    open_it(augment=Augment(crop=2))
  with pytest.raises(ValueError, match="cycles: 0 must be a whole number, at least 1"):
    open_it(cycles=0)
  with pytest.raises(ValueError, match="but no 'teacher_logits'"):
    CachedTeacher().from_batch({"image": 0})
