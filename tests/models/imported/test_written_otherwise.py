"""Operations that are imported as several leaf operations: colours, orders, squares, einsum, branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import models, quantize
from tests.models.imported.checks import verify_everywhere

DRAW = np.random.default_rng(0)


def drawn(*shape):
  return jnp.asarray(DRAW.normal(0, 0.3, shape), jnp.float32)


VARIABLES = {
  **{"kernel": drawn(3, 3, 3, 4), "head": drawn(4, 5), "gate": drawn(4, 4)},
  **{"mean": drawn(4), "scale": drawn(4), "var": jnp.abs(drawn(4)) + 0.5, "beta": drawn(4)},
}
MEAN, DEVIATION = jnp.array([0.1, 0.2, 0.3]), jnp.array([0.5, 0.6, 0.7])


def conv(v, x):
  numbers = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(x, v["kernel"], (2, 2), "SAME", dimension_numbers=numbers)


def head(v, x):
  return x.mean((1, 2)) @ v["head"]


def colours(made):
  """Images of one channel."""
  return 1, lambda v, x: head(v, jax.nn.relu(conv(v, made(x))))


def before(made):
  return 3, lambda v, x: head(v, jax.nn.relu(conv(v, made(x))))


def behind(made):
  return 3, lambda v, x: head(v, made(v, conv(v, x)))


def pooled(made):
  return 3, lambda v, x: made(v, conv(v, x).mean((1, 2))) @ v["head"]


def gate(v, x):
  return jax.nn.sigmoid(x.mean((1, 2)) @ v["gate"])


def normalized(v, x):
  return (x - v["mean"]) * (jax.lax.rsqrt(v["var"] + 1e-3) * v["scale"]) + v["beta"]


NETWORKS = {
  "a repeated gray image": (colours(lambda x: jnp.repeat(x, 3, -1)), ["Concat"]),
  "a tiled gray image": (colours(lambda x: jnp.tile(x, (1, 1, 1, 3))), ["Concat"]),
  "a broadcast gray image": (
    colours(lambda x: jnp.broadcast_to(x, (*x.shape[:3], 3))),
    ["Concat"],
  ),
  "a gray image less a mean of colours": (
    colours(lambda x: (x / 2 - MEAN) / DEVIATION),
    ["Affine", "Concat", "Affine"],
  ),
  "BGR less a mean": (before(lambda x: x[..., ::-1] - MEAN), ["Split", "Concat", "Affine"]),
  "BGR": (before(lambda x: x[..., ::-1]), []),
  "a channel twice": (before(lambda x: x[..., jnp.array([2, 2, 0])]), ["Split", "Concat"]),
  "every second channel": (
    behind(lambda v, x: jnp.concatenate([x[..., ::2], x[..., 1::2]], -1)),
    ["Split", "Concat", "Concat", "Concat"],
  ),
  "channels tiled": (
    behind(lambda v, x: jnp.tile(x[..., :2], (1, 1, 1, 2))),
    ["Split", "Split", "Concat"],
  ),
  "channels repeated": (
    behind(lambda v, x: jnp.repeat(x[..., :2], 2, -1)),
    ["Split", "Split", "Concat", "Concat"],
  ),
  "a square": (behind(lambda v, x: jnp.square(x)), ["Multiply"]),
  "a second power": (behind(lambda v, x: x**2), ["Multiply"]),
  "a variance of the map": (
    behind(lambda v, x: x + x.var((1, 2), keepdims=True)),
    ["GlobalAvgPool", "Subtract", "Multiply", "GlobalAvgPool", "Add"],
  ),
  "an absolute value": (behind(lambda v, x: jnp.abs(x)), ["Affine", "Maximum"]),
  "a gate by einsum": (
    behind(lambda v, x: jnp.einsum("bhwc,bc->bhwc", x, gate(v, x))),
    ["GlobalAvgPool", "ConvNorm", "Activation", "Multiply"],
  ),
  "a gate by einsum, first": (
    behind(lambda v, x: jnp.einsum("bc,bhwc->bhwc", gate(v, x), x)),
    ["GlobalAvgPool", "ConvNorm", "Activation", "Multiply"],
  ),
  "a gate of cells by einsum": (
    behind(lambda v, x: jnp.einsum("bhwc,bhw->bhwc", x, jax.nn.sigmoid(x.mean(-1)))),
    ["ChannelMean", "Activation", "Multiply"],
  ),
  "a branch that is not taken": (behind(lambda v, x: jnp.where(False, x, jnp.tanh(x))), None),
  "a normalization of pooled vectors": (pooled(normalized), None),
  "a mean times weights": (pooled(lambda v, x: x * v["scale"] + v["beta"]), None),
  "a sum less a number": (pooled(lambda v, x: (x - 0.5) * v["scale"]), None),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_imported_and_goes_back(name):
  (channels, apply), between = NETWORKS[name]
  x = np.random.default_rng(1).normal(size=(2, 8, 8, channels)).astype(np.float32)
  imported = models.from_jax(apply, VARIABLES, x)
  assert imported.difference < 1e-5
  ops = [layer.op for layer in imported.model.layers]
  place = ops.index("ConvNorm")
  if between is not None:
    assert between == (ops[:place] or ops[place + 1 : -2])
  trained = jax.tree.map(lambda a: a * 1.1 + 0.01, imported.variables)
  trained = {**imported.variables, "params": trained["params"]}
  wanted = imported.model.apply(trained, x, train=False).logits
  np.testing.assert_allclose(apply(imported.restore(trained), x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_their_integers_are_bit_equal_everywhere(tmp_path):
  def apply(v, x):
    x = conv(v, jnp.repeat(x, 3, -1)[..., ::-1] - MEAN)
    y = jnp.abs(x[..., ::2]) + jnp.square(x[..., 1::2])
    return head(v, jnp.einsum("bhwc,bc->bhwc", jnp.tile(y, 2), gate(v, x)))

  images = np.random.default_rng(1).normal(size=(16, 8, 8, 1)).astype(np.float32)
  imported = models.from_jax(apply, VARIABLES, images)
  quantized = quantize.post_training(
    imported.model, imported.variables, images, method="minmax", progress=False
  )
  verify_everywhere(quantized, images, tmp_path)


def test_what_no_output_follows_from_is_not_read():
  @jax.jit
  def features(x):
    return x, jnp.sort(x, axis=-1)  # what is dropped, such as a metric or a sown norm

  def apply(v, x):
    x, _ = features(conv(v, x))
    jnp.linalg.norm(x, axis=(1, 2))
    return head(v, jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="constant"))

  assert models.from_jax(apply, VARIABLES, np.ones((1, 8, 8, 3))).difference < 1e-5


def test_a_map_of_one_cell_is_padded_on_both_sides():
  def apply(v, x):
    x = conv(v, x).max((1, 2), keepdims=True)
    return head(v, jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0))))

  imported = models.from_jax(apply, VARIABLES, np.ones((1, 8, 8, 3), np.float32))
  assert imported.difference < 1e-5
  assert imported.model.layers[2].fields["pads"] == ((1, 0), (0, 2))
