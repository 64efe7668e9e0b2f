"""Layers that cannot be computed are refused where they are called, by name."""

from typing import Any

import flax.linen as linen
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from jaxcompress import distill, init_variables, models, nn, quantize, training
from jaxcompress.nn.tracing import trace_init


class Network(linen.Module):
  """One layer between an image and its logits."""

  layer: type
  fields: Any
  num_classes: int = 4

  @linen.compact
  def __call__(self, x, *, train):
    extras = {"train": train} if self.layer in (nn.ConvNorm, nn.BatchNorm) else {}
    y = self.layer(**self.fields, name="odd_one")(x, **extras)
    return nn.Endpoints(nn.Dense(self.num_classes, name="head")(nn.GlobalAvgPool(name="pool")(y)))


def init_state(model, side):
  recipe = training.Recipe(student=model, optimizer=optax.sgd(0.1), loss=distill.cross_entropy())
  batch = {"image": np.ones((2, side, side, 3), np.float32), "label": np.zeros(2, np.int32)}
  return training.init_state(recipe, jax.random.key(0), batch)


def post_training(model, side):
  variables = init_variables(model, jax.random.key(0), (32, 32, 3))  # of a size that fits
  images = np.ones((4, side, side, 3), np.float32)
  return quantize.post_training(model, variables, images, method="minmax", progress=False)


@pytest.mark.parametrize(
  "look",
  [
    models.summarize,
    init_state,
    post_training,
    lambda model, side: init_variables(model, jax.random.key(0), (side, side, 3)),
  ],
)
@pytest.mark.parametrize(
  ("layer", "fields"),
  [
    (nn.ConvNorm, {"features": 6, "kernel": 7, "padding": "VALID"}),
    (
      nn.ConvNorm,
      {"features": 3, "kernel": 9, "stride": 4, "groups": "depthwise", "padding": "VALID"},
    ),
    (nn.ConvNorm, {"features": 2, "kernel": 9, "padding": ((1, 1), (0, 0))}),
    (nn.ConvNorm, {"features": 2, "kernel": 7, "dilation": (1, 2), "padding": "VALID"}),
    (nn.MaxPool, {"kernel": 7, "stride": 7, "padding": "VALID"}),
    (nn.AvgPool, {"kernel": 8, "stride": 2, "padding": ((0, 1), (0, 0))}),
  ],
)
def test_windows_larger_than_the_map_are_refused_wherever_a_network_is_traced(look, layer, fields):
  message = rf"layer 'odd_one' \({layer.__name__}\): the image is too small: windows of {fields['kernel']} x"
  with pytest.raises(ValueError, match=message):
    look(Network(layer, fields), 6)


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
  layer=st.sampled_from([nn.ConvNorm, nn.MaxPool, nn.AvgPool]),
  size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
  kernel=st.integers(1, 9),
  stride=st.integers(1, 4),
  pads=st.one_of(
    st.sampled_from(["SAME", "SYMMETRIC", "VALID"]),
    st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
  ),
)
def test_a_map_has_cells_or_the_layer_is_refused(layer, size, kernel, stride, pads):
  fields = {"kernel": kernel, "stride": stride, "padding": pads}
  made = layer(features=2, **fields) if layer is nn.ConvNorm else layer(**fields)
  extras = {"train": False} if layer is nn.ConvNorm else {}
  x = jax.ShapeDtypeStruct((1, *size, 2), jnp.float32)
  run = lambda x: made.init_with_output(jax.random.key(0), x, **extras)[0]  # noqa: E731
  if isinstance(pads, str):
    cells = {"SAME": kernel - 1, "SYMMETRIC": kernel // 2 * 2, "VALID": 0}[pads]
    fits = pads == "SAME" or min(size) + cells >= kernel
    refused = not fits
  else:
    refused = any(n + sum(pair) < kernel for n, pair in zip(size, pads, strict=True))
    refused |= layer is not nn.ConvNorm and max(map(max, pads)) >= kernel
  if refused:
    with pytest.raises(ValueError, match=layer.__name__):
      jax.eval_shape(run, x)
  else:
    assert 0 not in jax.eval_shape(run, x).shape


@pytest.mark.parametrize(
  ("layer", "fields", "message"),
  [
    (nn.ConvNorm, {"features": 0}, "features must be one whole number of 1 or more, got 0"),
    (nn.ConvNorm, {"features": -8}, "features must be one whole number of 1 or more, got -8"),
    (nn.ConvNorm, {"features": 2.5}, "features must be .*, got 2.5"),
    (nn.ConvNorm, {"features": 4, "kernel": 0}, r"kernel must be .* \(height, width\), got 0"),
    (nn.ConvNorm, {"features": 4, "kernel": (5, 0)}, r"kernel must be .*, got \(5, 0\)"),
    (nn.ConvNorm, {"features": 4, "kernel": (5,)}, r"kernel must be .*, got \(5,\)"),
    (nn.ConvNorm, {"features": 4, "kernel": "3"}, "kernel must be .*, got '3'"),
    (nn.ConvNorm, {"features": 4, "stride": (2.0, 1)}, r"stride must be .*, got \(2.0, 1\)"),
    (nn.ConvNorm, {"features": 4, "stride": 0}, "stride must be .*, got 0"),
    (nn.ConvNorm, {"features": 4, "dilation": 0}, "dilation must be .*, got 0"),
    (nn.ConvNorm, {"features": 4, "dilation": (1, 2, 3)}, "dilation must be .* directions"),
    (nn.MaxPool, {"kernel": (2, True), "stride": 1}, "kernel must be .*, got"),
    (nn.ConvNorm, {"features": 4, "groups": 2}, r"groups: 2 must divide the input channels \(3\)"),
    (nn.ConvNorm, {"features": 4, "groups": 0}, "groups must be .* or 'depthwise', got 0"),
    (nn.ConvNorm, {"features": 3, "groups": "all"}, "groups must be .* or 'depthwise', got 'all'"),
    (nn.ConvNorm, {"features": 4, "groups": "depthwise"}, "groups: 3 must divide"),
    (nn.ConvNorm, {"features": 4, "padding": "same"}, "padding: 'same' is unknown"),
    (nn.ConvNorm, {"features": 4, "padding": 1}, "padding: 1 must be"),
    (nn.ConvNorm, {"features": 4, "padding": ((1, 1), (1,))}, "padding: .* must be"),
    (nn.ConvNorm, {"features": 4, "padding": ((1, -1), (1, 1))}, "must not be negative"),
    (nn.ConvNorm, {"features": 4, "padding": ((0.5, 1), (1, 1))}, "must be whole numbers of cells"),
    (nn.ConvNorm, {"features": 4, "padding": (("a", 1), (1, 1))}, "must be whole numbers of cells"),
    (nn.ConvNorm, {"features": 4, "act": "swish"}, "act: 'swish' is no activation function"),
    (nn.ConvNorm, {"features": 4, "norm": "batch"}, "norm must be a jaxcompress.nn.Norm"),
    (nn.ConvNorm, {"features": 4, "norm": nn.Norm(epsilon=-1e-5)}, "norm: epsilon must be"),
    (
      nn.BatchNorm,
      {"norm": nn.Norm(momentum=1.5)},
      "norm: momentum must be a number, 0 to 1, got 1.5",
    ),
    (nn.BatchNorm, {"norm": None}, "norm must be a jaxcompress.nn.Norm, got None"),
    (nn.MaxPool, {"kernel": 0, "stride": 1}, "kernel must be .*, got 0"),
    (nn.MaxPool, {"kernel": 2, "stride": (2, -2)}, "stride must be"),
    (nn.AvgPool, {"kernel": (2, 2, 2), "stride": 2}, "kernel must be"),
    (
      nn.AvgPool,
      {"kernel": (1, 3), "stride": 1, "padding": ((1, 0), (0, 0))},
      r"leaves windows of \(1, 3\) without a cell of the image; pad less than 1",
    ),
    (nn.AvgPool, {"kernel": True, "stride": 2}, "kernel must be .*, got True"),
    (nn.ChannelShuffle, {"groups": 0}, "groups must be .*, got 0"),
    (nn.ChannelShuffle, {"groups": 2}, "groups: 2 must divide the 3 channels"),
    (nn.Activation, {"act": "sine"}, "act: 'sine' is no activation function"),
    (nn.Activation, {"act": ["relu"]}, "is no activation function"),
    (nn.Split, {"sizes": (3, 0)}, "sizes must be whole numbers of 1 or more"),
    (nn.Split, {"sizes": 3}, "sizes must be whole numbers of 1 or more, got 3"),
    (nn.Split, {"sizes": (1, 1)}, r"sizes: \(1, 1\) must add up to the 3 channels"),
    (nn.Add, {}, "it reads two arrays, got 1; take a layer of its own for each pair"),
    (nn.Dense, {"features": 0}, "features must be"),
  ],
)
def test_odd_fields_are_refused_with_the_name_of_the_layer(layer, fields, message):
  with pytest.raises(ValueError, match=rf"layer 'odd_one' \({layer.__name__}\): .*{message}"):
    models.summarize(Network(layer, fields), 8)


@pytest.mark.parametrize("classes", [0, -1, 2.5])
def test_a_number_of_classes_that_is_none_is_refused(classes):
  with pytest.raises(
    ValueError, match=rf"layer 'head' \(Dense\): features must be .*, got {classes}"
  ):
    models.summarize(Network(nn.Activation, {"act": "relu"}, classes), 8)


MAP = (1, 4, 4, 2)


@pytest.mark.parametrize(
  ("layer", "shapes", "message"),
  [
    (nn.Add(), (MAP, MAP, MAP), "it reads two arrays, got 3"),
    (nn.Add(), (MAP, (1, 2)), "must be the same but for axes of one"),
    (nn.Add(), (MAP, (1, 4, 4, 3)), "must be the same but for axes of one"),
    (nn.Subtract(), (MAP, (1, 4, 3, 2)), "must be the same but for axes of one"),
    (nn.Maximum(), (MAP, (3, 1, 1, 2)), "must be the same but for axes of one"),
    (nn.Minimum(), (MAP,), "it reads two arrays, got 1"),
    (nn.Multiply(), (MAP, (1, 2)), "a Reshape gives a vector these axes"),
    (nn.Multiply(), (MAP,), "it reads two arrays, got 1"),
    (nn.Concat(), (), "got shapes none"),
    (nn.Concat(), (MAP, (1, 2, 2, 2)), "that differ in their channels only"),
    (nn.Concat(), (MAP, (1, 2)), "that differ in their channels only"),
    (nn.MaxPool(2, 2), ((4, 4, 2),), "must be .batch, height, width, channels"),
    (nn.GlobalAvgPool(), ((1, 2),), "must be .batch, height, width, channels"),
    (nn.GlobalAvgPool(), ((1, 0, 4, 2),), "reads a map without cells"),
    (nn.Dense(3), ((5,),), "must be .batch, ...."),
    (nn.Dense(3), ((5, 0),), "must be .batch, ...."),
  ],
)
def test_inputs_that_do_not_fit_are_refused(layer, shapes, message):
  xs = [jnp.ones(shape) for shape in shapes]
  with pytest.raises(ValueError, match=f"{type(layer).__name__}: .*{message}"):
    layer.init(jax.random.key(0), *xs)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
@pytest.mark.parametrize(
  "layer", [nn.ConvNorm(4), nn.BatchNorm(), nn.Dense(3), nn.AvgPool(2, 2), nn.GlobalAvgPool()]
)
def test_integers_are_refused_where_weights_would_take_their_type(layer, dtype):
  extras = {"train": False} if isinstance(layer, nn.ConvNorm | nn.BatchNorm) else {}
  with pytest.raises(ValueError, match=f"it reads {dtype}, which must be floats"):
    layer.init(jax.random.key(0), jnp.ones(MAP, dtype), **extras)


def test_lists_do_as_well_as_tuples():
  x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  fields = {"features": 4, "kernel": 3, "padding": [[1, 0], [0, 1]]}
  graph, _ = trace_init(Network(nn.ConvNorm, fields), x)
  assert graph.nodes[0].attrs["padding"] == ((1, 0), (0, 1)) and hash(graph)


@pytest.mark.parametrize(
  ("layer", "message"),
  [
    (nn.Affine("trained", start=np.inf), "start: inf is no finite number"),
    (nn.PRelu(slope="steep"), "slope: 'steep' is no finite number"),
    (nn.LeakyRelu(True), "slope: True must be above 0"),
    (nn.RmsNorm(True), "epsilon must be a finite number of zero or more, got True"),
  ],
)
def test_what_is_no_number_is_refused(layer, message):
  with pytest.raises(ValueError, match=message):
    layer.init(jax.random.key(0), jnp.ones((1, 2)))


def test_numbers_of_numpy_are_numbers():
  x = jnp.array([[-1.0, 2.0]])
  np.testing.assert_allclose(nn.LeakyRelu(np.float32(0.5)).apply({}, x), [[-0.5, 2.0]])


@pytest.mark.parametrize("other", [2.0, np.float32(2.0)])
def test_a_number_beside_an_array_is_told_an_affine(other):
  with pytest.raises(ValueError, match=r"Multiply: .* got a number; an Affine multiplies by one"):
    nn.Multiply().apply({}, jnp.ones((1, 2)), other)


@pytest.mark.parametrize("x", [jnp.ones((1, 2), jnp.int32), jnp.ones(2)])
def test_a_softmax_of_no_images_is_refused(x):
  with pytest.raises(ValueError, match="Softmax: it reads"):
    nn.Softmax().apply({}, x)
