"""Networks that cannot be imported raise one error: layer, operation, line, and the way out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxcompress import models

IMAGES = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)


class Net(nn.Module):
  layer: object

  @nn.compact
  def __call__(self, x):
    return nn.Dense(5, name="head")(self.layer(nn.Conv(4, (3, 3), name="stem")(x)).mean((1, 2)))


REFUSED = [
  (lambda x: jnp.sin(x), "an elementwise function without a leaf operation (sin)", "relu6"),
  (lambda x: x[..., :2] @ x[..., 2:].swapaxes(2, 3), "a matrix product of two activations", ""),
  (lambda x: jnp.sort(x, -1), "sorting", "Do it behind the network"),
  (lambda x: jnp.cumsum(x, 1), "a cumulative sum", ""),
  (
    lambda x: jnp.concatenate([x, x], 1),
    "a concatenation along the height",
    "Concatenate channels",
  ),
  (lambda x: x + jnp.arange(8.0).reshape(1, 8, 1, 1), "a constant for each pixel", "one for each"),
  (
    lambda x: jnp.tile(x, 8)[..., jnp.arange(32)[::-1]],
    "channels in another order, in 32 parts",
    "Reorder the channels of the kernels",
  ),
  (lambda x: x - x.mean(0), "statistics of the batch", "use_running_average=True"),
  (
    lambda x: x * jax.random.bernoulli(jax.random.key(0), 0.5, x.shape),
    "random numbers",
    "dropout",
  ),
  (
    lambda x: x.astype(jnp.int32) * 1.0,
    "a conversion of activations to int32",
    "Leave them floats",
  ),
  (lambda x: jax.lax.while_loop(lambda y: y.sum() < 0, lambda y: y + 1, x), "a loop", "lax.scan"),
]


@pytest.mark.parametrize("layer, operation, way", REFUSED, ids=[row[1] for row in REFUSED])
def test_each_refusal_says_what_where_and_the_way_out(layer, operation, way):
  model = Net(layer)
  variables = model.init(jax.random.key(0), jnp.ones(IMAGES.shape))
  with pytest.raises(models.NotImportable) as caught:
    models.from_linen(model, variables, IMAGES)
  message = str(caught.value)
  assert operation in message and way in message
  assert "test_refusals.py:" in message


def test_all_problems_are_told_at_once_with_their_layers():
  class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = jnp.sin(nn.Conv(4, (3, 3), name="first")(x))
      x = nn.relu(nn.Conv(4, (3, 3), name="second")(x))
      return jnp.sort(nn.Dense(5, name="head")(x.mean((1, 2))))

  model = Two()
  variables = model.init(jax.random.key(0), jnp.ones(IMAGES.shape))
  with pytest.raises(models.NotImportable, match="2 parts of it cannot be imported") as caught:
    models.from_linen(model, variables, IMAGES)
  assert isinstance(caught.value, ValueError)
  assert [problem.operation.split()[0] for problem in caught.value.problems] == ["sorting", "an"]


def test_networks_that_train_are_told_what_to_pass():
  class Training(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(5)(nn.BatchNorm(use_running_average=False)(x).mean((1, 2)))

  variables = Training().init(jax.random.key(0), jnp.ones(IMAGES.shape))
  with pytest.raises(ValueError, match=r"it trains .* pass a function that evaluates: train=False"):
    models.from_linen(Training(), variables, IMAGES)


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"layout": "CHWN"}, "layout: 'CHWN' must be one of NHWC, NCHW"),
    ({"maps": "stem"}, r"maps: 'stem' must be a list of names; write \['stem'\]"),
    ({"momentum": 2.0}, "momentum: 2.0 must be from 0 to 1"),
    ({"images": jnp.ones((8, 8, 3))}, "images: shape .* must be"),
  ],
)
def test_arguments_that_do_not_fit_are_told(arguments, message):
  variables = {"w": jnp.ones((3, 5))}
  given = {"images": IMAGES, **arguments}
  with pytest.raises(ValueError, match=message):
    models.from_jax(lambda v, x: x.mean((1, 2)) @ v["w"], variables, **given)


def test_outputs_that_do_not_depend_on_the_images_are_told():
  with pytest.raises(ValueError, match="does not depend on the images"):
    models.from_jax(lambda v, x: v["w"], {"w": jnp.ones((3, 5))}, IMAGES)


def test_variables_that_give_no_numbers_are_told():
  variables = {"w": jnp.full((3, 5), jnp.nan)}
  with pytest.raises(ValueError, match="not finite on random images"):
    models.from_jax(lambda v, x: x.mean((1, 2)) @ v["w"], variables, IMAGES)


def test_what_the_function_closes_over_does_not_go_back():
  kernel = jnp.ones((3, 5))
  imported = models.from_jax(
    lambda v, x: x.mean((1, 2)) @ kernel + v["b"], {"b": jnp.zeros(5)}, IMAGES
  )
  trained = jax.tree.map(lambda x: x + 1, imported.variables)
  with pytest.raises(ValueError, match="closes over it, so there is no leaf to write it to"):
    imported.restore(trained)
