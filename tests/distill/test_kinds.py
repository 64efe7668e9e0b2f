"""NNX modules and functions as teachers: their own outputs, layers by name, and clear refusals."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcompress.distill import adapter
from jaxcompress.distill.adapters import as_teacher
from jaxcompress.nn import Endpoints

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)


class Block(nnx.Module):
  def __init__(self, inputs, outputs, rngs):
    self.conv = nnx.Conv(inputs, outputs, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(outputs, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, x):
    return self.drop(jax.nn.relu(self.norm(self.conv(x))))


class Net(nnx.Module):
  """A list of blocks, one of them called twice, as NNX's users write them; it is made for training."""

  def __init__(self, rngs, rematerialized=False):
    self.blocks = nnx.List([Block(3, 4, rngs), Block(4, 4, rngs)])
    self.head = nnx.Linear(4, 5, rngs=rngs)
    self.rematerialized = rematerialized
    for i, block in enumerate(self.blocks):
      block.norm.mean[...] = jnp.linspace(-0.5, 0.5, 4) + i

  def __call__(self, x):
    run = nnx.remat(lambda block, x: block(x)) if self.rematerialized else lambda block, x: block(x)
    x = run(self.blocks[0], x)
    x = run(self.blocks[1], run(self.blocks[1], x))
    return self.head(x.mean((1, 2)))


@pytest.fixture
def net():
  return Net(nnx.Rngs(0))


def in_evaluation(net):
  copy = nnx.clone(net)
  copy.eval()
  return copy


def test_an_nnx_module_gives_its_own_logits_and_stays_as_it_is(net):
  before = nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngState)))
  teacher = adapter(net)
  found = jax.jit(teacher.apply)(teacher.variables, IMAGES)
  np.testing.assert_allclose(found.logits, in_evaluation(net)(IMAGES), rtol=1e-5, atol=1e-6)
  assert found.maps == () and found.pooled is None
  assert not net.blocks[0].drop.deterministic and not net.blocks[0].norm.use_running_average
  after = nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngState)))
  jax.tree.map(np.testing.assert_array_equal, before, after)
  assert isinstance(net.blocks[0].conv.kernel[...], jax.Array)
  assert type(net.blocks[0].conv) is nnx.Conv


@pytest.mark.parametrize("rematerialized", [False, True])
def test_layers_of_an_nnx_module_are_captured_by_path_the_last_call_of_each(rematerialized):
  net = Net(nnx.Rngs(0), rematerialized)
  teacher = adapter(net, maps=["blocks/0", "blocks/1"], preact=["blocks/1/norm"], pooled="blocks/1")
  found = jax.jit(teacher.apply)(teacher.variables, IMAGES)
  plain = in_evaluation(net)
  first, second = plain.blocks
  x = first(IMAGES)
  y = second(x)
  maps, preact = (x, second(y)), second.norm(second.conv(y))
  expected = Endpoints(plain(IMAGES), maps[1].mean((1, 2)), maps, (preact,))
  near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
  jax.tree.map(near, found, expected)


class Inner(nnx.Module):
  """Layers within a transformation."""

  def __init__(self, transform, rngs):
    self.stem = nnx.Conv(3, 4, (1, 1), rngs=rngs)
    self.block, self.transform = Block(4, 4, rngs), transform
    self.head = nnx.Linear(4, 5, rngs=rngs)

  def __call__(self, x):
    x = self.transform(self.block, self.stem(x))
    return self.head(x.mean((1, 2)))


def within_nnx(block, x):
  return nnx.jit(lambda block, x: block(x))(block, x)


def within_jax(block, x):
  return jax.checkpoint(lambda x: block(x))(x)


def test_layers_within_transformations_are_captured_where_nnx_carries_them():
  for transform, names in ((within_nnx, ["stem", "block", "block/conv"]), (within_jax, ["stem"])):
    net = Inner(transform, nnx.Rngs(0))
    teacher = adapter(net, maps=names)
    found = jax.jit(teacher.apply)(teacher.variables, IMAGES)
    assert [x.shape for x in found.maps] == [(2, 8, 8, 4)] * len(names)
    np.testing.assert_allclose(found.logits, in_evaluation(net)(IMAGES), rtol=1e-5, atol=1e-6)
  teacher = adapter(Inner(within_jax, nnx.Rngs(0)), maps=["block"])
  with pytest.raises(ValueError, match="layers block is called within a transformation of JAX's"):
    teacher.apply(teacher.variables, IMAGES)


def test_a_stack_of_maps_is_no_map():
  with pytest.raises(
    ValueError, match=r"maps: 'a' has shape \(3, 2, 8, 8, 3\); it must be \(batch"
  ):
    adapter(lambda v, x: {"logits": x.mean((1, 2)), "a": jnp.stack([x] * 3)}, maps=["a"]).apply(
      {}, IMAGES
    )


@pytest.mark.parametrize("form", ["state", "params and others", "pure", "own"])
def test_variables_of_another_such_module_may_be_its_state_in_any_form(net, form):
  other = Net(nnx.Rngs(7))
  teacher = adapter(net)
  given = {
    "state": lambda: nnx.state(other),
    "params and others": lambda: nnx.state(other, nnx.Not(nnx.RngState)),
    "pure": lambda: nnx.to_pure_dict(nnx.state(other)),
    "own": lambda: adapter(other).variables,
  }[form]()
  found = teacher.apply(teacher.variables_of(given), IMAGES)
  np.testing.assert_allclose(found.logits, in_evaluation(other)(IMAGES), rtol=1e-5, atol=1e-6)


def test_variables_of_another_network_are_named(net):
  class Wide(nnx.Module):
    def __init__(self, rngs):
      self.head = nnx.Linear(9, 5, rngs=rngs)

    def __call__(self, x):
      return self.head(x)

  teacher = adapter(net)
  with pytest.raises(ValueError, match=r"another network: blocks/0/conv/.* is missing"):
    teacher.variables_of(nnx.state(Wide(nnx.Rngs(0))))
  narrow = nnx.to_pure_dict(nnx.state(net))
  narrow["head"]["kernel"] = narrow["head"]["kernel"][:2]
  with pytest.raises(ValueError, match=r"head/kernel has shape \(2, 5\), not \(4, 5\)"):
    teacher.variables_of(narrow)


def test_a_module_with_a_flag_gets_it_under_its_own_name():
  class Flagged(nnx.Module):
    def __call__(self, x, *, deterministic=False):
      return x.mean((1, 2)) if deterministic else None

  assert adapter(Flagged()).apply({"params": {}, "state": {}}, IMAGES).logits.shape == (2, 3)


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (
      {"maps": ["blocks/2"]},
      "maps: 'blocks/2' is no layer of the model; its layers are .*blocks/0/",
    ),
    ({"logits": "blocks/0"}, r"logits: the model's output is \(2, 8, 8, 4\)"),
    ({"pooled": "unused"}, "pooled: the model does not call its layer 'unused'"),
  ],
)
def test_layers_that_are_not_there_or_were_not_called_are_told(net, names, message):
  net.unused = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
  teacher = adapter(net, **names)
  with pytest.raises(ValueError, match=message):
    teacher.apply(teacher.variables, IMAGES)


def kernel():
  return jnp.asarray(np.random.default_rng(1).normal(size=(3, 5)), jnp.float32)


def logits_of(variables, images):
  return images.mean((1, 2)) @ variables["w"]


FUNCTIONS = {
  "logits": (logits_of, {}),
  "endpoints": (lambda v, x: Endpoints(logits_of(v, x), x.mean((1, 2)), (x,), (2 * x,)), {}),
  "fields": (
    lambda v, x: {
      "logits": logits_of(v, x),
      "pooled": x.mean((1, 2)),
      "maps": [x],
      "preact": [2 * x],
    },
    {},
  ),
  "tree": (
    lambda v, x: {"head": {"scores": logits_of(v, x)}, "features": (x, 2 * x)},
    {
      "logits": "head/scores",
      "pooled": "features/0",
      "maps": ["features/0"],
      "preact": ["features/1"],
    },
  ),
  "tuple": (
    lambda v, x: (logits_of(v, x), x, 2 * x),
    {"pooled": "1", "maps": ["1"], "preact": ["2"]},
  ),
}


@pytest.mark.parametrize("form", FUNCTIONS)
def test_a_function_may_return_its_outputs_in_any_form(form):
  function, names = FUNCTIONS[form]
  variables = {"w": kernel()}
  found = jax.jit(adapter(function, **names).apply)(variables, IMAGES)
  np.testing.assert_allclose(found.logits, logits_of(variables, IMAGES), rtol=1e-5)
  if form != "logits":
    np.testing.assert_allclose(found.pooled, IMAGES.mean((1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.maps[0], IMAGES)
    np.testing.assert_array_equal(found.preact[0], 2 * IMAGES)


@pytest.mark.parametrize(
  ("function", "names", "message"),
  [
    (
      lambda v, x: (x.mean((1, 2)), x.mean((1, 2))),
      {},
      r"returns 0 \(2, 3\), 1 \(2, 3\); name the",
    ),
    (lambda v, x: {"a": x}, {}, r"returns a \(2, 8, 8, 3\); name the one .* such as logits='a'"),
    (lambda v, x: {"a": x}, {"logits": "b"}, "'b' is no output of the model; its outputs are a"),
    (
      lambda v, x: x.mean((1, 2)),
      {"maps": ["a"]},
      "maps: 'a' is no output of the model; it has no",
    ),
    (
      lambda v, x: x,
      {},
      r"logits: the model's output is \(2, 8, 8, 3\); it must be \(batch, class",
    ),
    (lambda v, x: x.mean((0, 1, 2)), {}, r"logits: the model's output is \(3,\)"),
  ],
)
def test_outputs_that_are_not_clear_are_told(function, names, message):
  with pytest.raises(ValueError, match=message):
    adapter(function, **names).apply({}, jnp.asarray(IMAGES))


def test_a_map_may_be_the_logits_where_it_is_named():
  scores = adapter(lambda v, x: {"scores": 2 * x, "boxes": x}, logits="scores")
  np.testing.assert_array_equal(scores.apply({}, jnp.asarray(IMAGES)).logits, 2 * IMAGES)
  with pytest.raises(ValueError, match=r"logits: the model's output is \(3,\)"):
    adapter(lambda v, x: {"a": x.mean((0, 1, 2))}, logits="a").apply({}, jnp.asarray(IMAGES))


def made_by(library, name):
  base = type(name, (), {"__module__": library})
  return type("Net", (base,), {"__module__": "users", "__call__": lambda self, x: x})()


@pytest.mark.parametrize(
  ("model", "message"),
  [
    (
      lambda images: images,
      r"the function <lambda> takes \(images\); it must take \(variables, im",
    ),
    (Net, r"model must be a linen or NNX module, .* got the class Net \(not called\)"),
    (
      "a.onnx",
      r"got 'a\.onnx'; read it by data\.OnnxTeacher, cache its outputs with data\.cache_tea",
    ),
    ({}, r"model must be a linen or NNX module, or a function .* got \{\}\.$"),
    (
      made_by("haiku._src.transform", "Transformed"),
      "got a Haiku transformed pair, Net; give the function lambda variables, images: net.apply",
    ),
    (
      made_by("equinox._module", "Module"),
      "an Equinox module, Net; give the function .*, with var",
    ),
    (made_by("torch.nn.modules.module", "Module"), "to teach, it is exported to ONNX and read by"),
  ],
)
def test_what_is_no_teacher_is_told_how_it_becomes_one(model, message):
  with pytest.raises(ValueError, match=message):
    adapter(model)
  with pytest.raises(ValueError, match=r"^teachers\[0\]"):
    as_teacher("teachers[0]", model)


@pytest.mark.parametrize("make", [lambda: Net(nnx.Rngs(0)), lambda: logits_of])
def test_only_linen_modules_can_be_called_as_in_training(make):
  with pytest.raises(ValueError, match="train must be False: a teacher that is no linen module"):
    adapter(make()).apply({}, IMAGES, train=True)


def test_a_teacher_may_read_pixels_in_its_own_way():
  halved = lambda images: images / 2  # noqa: E731
  variables = {"w": kernel()}
  for model, own in ((logits_of, variables), (linen.Dense(3), None)):
    function = model if own else (lambda v, x, model=model: model.apply(v, x).mean((1, 2)))
    own = own or model.init(jax.random.key(0), IMAGES)
    found = adapter(function, preprocess=halved).apply(own, IMAGES)
    np.testing.assert_allclose(found.logits, function(own, IMAGES / 2), rtol=1e-5, atol=1e-6)
  with pytest.raises(ValueError, match="preprocess must be a function"):
    adapter(logits_of, preprocess=2.0)


def test_what_is_adapted_alike_is_the_same():
  net = Net(nnx.Rngs(0))
  assert adapter(logits_of, maps=["a"]) == adapter(logits_of, maps=("a",))
  assert hash(adapter(net)) == hash(adapter(net)) and adapter(net) == adapter(net)
  assert adapter(net) != adapter(net, maps=["blocks/0"])


def test_a_linen_module_may_name_outputs_beside_layers():
  class Two(linen.Module):
    @linen.compact
    def __call__(self, x):
      x = linen.Conv(4, (1, 1), name="conv")(x)
      return {"scores": linen.Dense(5, name="head")(x.mean((1, 2))), "map": x}

  model = adapter(Two(), logits="scores", maps=["map", "conv"])
  variables = model.init(jax.random.key(0), IMAGES, train=False)
  found = model.apply(variables, IMAGES, train=False)
  np.testing.assert_array_equal(*found.maps)
  np.testing.assert_allclose(found.logits, Two().apply(variables, IMAGES)["scores"], rtol=1e-6)
