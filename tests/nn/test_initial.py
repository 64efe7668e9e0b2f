"""First values: the distribution that each parameter asks for, from one stream."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import models
from jaxcompress.nn import ConvNorm, Norm, init_variables
from jaxcompress.nn.initial import Initial

SHAPE = (8, 8, 3)


class Net(nn.Module):
  """A layer of ours and one of linen's."""

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(4, name="ours")(x, train=train)
    return nn.Conv(5, (3, 3), bias_init=nn.initializers.constant(2.0), name="theirs")(x)


def leaves(variables):
  return {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(variables)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet8", "vgg8"])
def test_the_tree_and_its_distributions_are_those_of_linen(name):
  model = models.create(name, 10)
  ours = leaves(init_variables(model, jax.random.key(0), (32, 32, 3)))
  theirs = leaves(
    jax.jit(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False))(jax.random.key(0))
  )
  assert ours.keys() == theirs.keys()
  for path, array in ours.items():
    other = theirs[path]
    assert (array.shape, array.dtype) == (other.shape, other.dtype)
    if array.size > 500 and other.std() > 0:
      np.testing.assert_allclose(array.std(), other.std(), rtol=0.2)
      assert abs(array.mean()) < 5 * other.std() / array.size**0.5
    elif not other.std():
      np.testing.assert_array_equal(array, other)


def test_keys_decide_and_parameters_do_not_repeat():
  model = models.resnet8(10)
  first, again, other = (init_variables(model, jax.random.key(i), SHAPE) for i in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  kernel = first["params"]["stage0_block0"]["conv1"]["kernel"]
  assert not np.array_equal(kernel, other["params"]["stage0_block0"]["conv1"]["kernel"])
  assert not np.array_equal(kernel, first["params"]["stage0_block0"]["conv2"]["kernel"])


def test_residual_branches_can_start_at_zero():
  layer = ConvNorm(4, norm=Norm(zero=True))
  variables = init_variables(layer, jax.random.key(0), SHAPE)
  np.testing.assert_array_equal(variables["params"]["scale"], np.zeros(4))


def test_parameters_of_other_modules_are_what_linen_makes_them():
  key = jax.random.key(3)
  made = init_variables(Net(), key, SHAPE)["params"]
  linen = Net().init(key, jnp.zeros((1, *SHAPE)), train=False)["params"]
  np.testing.assert_array_equal(made["theirs"]["bias"], np.full(5, 2.0))
  np.testing.assert_allclose(made["theirs"]["kernel"], linen["theirs"]["kernel"], rtol=1e-6)
  assert not np.allclose(made["ours"]["kernel"], linen["ours"]["kernel"])


def test_under_a_transformation_linen_draws_everything():
  model = Net()
  keys = jax.random.split(jax.random.key(0), 2)
  two = jax.vmap(lambda key: init_variables(model, key, SHAPE))(keys)
  one = model.init(keys[1], jnp.zeros((1, *SHAPE)), train=False)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-5, atol=1e-6), two, one)


def test_an_initializer_is_one_of_linens():
  drawn = Initial(1.0, 0.5)(jax.random.key(0), (4000,))
  np.testing.assert_allclose([drawn.mean(), drawn.std()], [1.0, 0.5], atol=0.03)
  np.testing.assert_array_equal(Initial(3.0)(None, (2,)), [3.0, 3.0])
