"""Sums of branches become one convolution that computes the same."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import models
from jaxcompress.models.branched import Branched, fold_branches
from jaxcompress.nn import (
  Activation,
  Add,
  Affine,
  BatchNorm,
  ConvNorm,
  Dense,
  GlobalAvgPool,
  Norm,
  init_variables,
  trace,
)
from jaxcompress.nn.branches import fold_branches as fold_graph
from tests.golden.parity import weights as parity
from tests.models.checkpoints.test_originals import close, images
from tests.nn.test_execute import lively

SHAPE = (9, 8, 3)


class Reparameterized(nn.Module):
  """Branches of every kind: strided, depthwise, grouped, around a sum, and under a normalization."""

  @nn.compact
  def __call__(self, x, *, train):
    x = Branched(8, Norm(), stride=2, name="stem")(x, train=train)
    x = Branched(8, Norm(), groups="depthwise", convolutions=3, name="depthwise")(x, train=train)
    x = Branched(8, Norm(), kernel=1, convolutions=2, name="pointwise")(x, train=train)
    x = Branched(8, Norm(), groups=2, squeezed=4, name="grouped")(x, train=train)
    y = ConvNorm(8, kernel=3, groups="depthwise", name="mixer")(x, train=train)
    scaled = ConvNorm(8, groups="depthwise", norm=None, name="scaled")(x, train=train)
    y = Add(name="three")(Add(name="both")(y, scaled), x)
    y = BatchNorm(name="norm")(y, train=train)
    wide = ConvNorm(8, kernel=(1, 5), name="wide")(y, train=train)
    y = Add(name="uneven")(wide, ConvNorm(8, kernel=(1, 3), name="narrow")(y, train=train))
    return Dense(5, name="classifier")(GlobalAvgPool(name="pool")(y))


FOLDED = [
  *("stem/sum", "stem/act", "depthwise/sum", "depthwise/act", "pointwise/sum", "pointwise/act"),
  *("grouped/sum", "grouped/se/pool", "grouped/se/reduce", "grouped/se/expand"),
  *(
    "grouped/se/expand_act",
    "grouped/se/scale",
    "grouped/act",
    "norm",
    "uneven",
    "pool",
    "classifier",
  ),
]


def logits_of(model, variables, x):
  found = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, x)
  return np.asarray(getattr(found, "logits", found))


@pytest.mark.slow
def test_a_folded_network_computes_the_same_with_one_convolution_for_each_sum():
  model = Reparameterized()
  variables = lively(init_variables(model, jax.random.key(0), SHAPE))
  folded, few = fold_branches(model, variables, image_shape=SHAPE)
  assert [layer.name for layer in folded.layers] == FOLDED
  kernels = {name: few["params"][name]["sum"]["kernel"].shape for name in ("stem", "grouped")}
  assert kernels == {"stem": (3, 3, 3, 8), "grouped": (3, 3, 4, 8)}
  assert "batch_stats" not in few
  x = jax.random.normal(jax.random.key(0), (4, *SHAPE))
  expected = logits_of(model, variables, x)
  np.testing.assert_allclose(logits_of(folded, few, x), expected, rtol=0, atol=2e-5)
  again, same = fold_branches(folded, few, image_shape=SHAPE)
  assert again.layers == folded.layers
  jax.tree.map(np.testing.assert_array_equal, same, few)


class Headed(nn.Module):
  """Linear layers of normalized vectors, in sums with one another and with the vectors."""

  @nn.compact
  def __call__(self, x, *, train):
    x = GlobalAvgPool(name="pool")(ConvNorm(8, kernel=3, act="relu", name="stem")(x, train=train))
    x = Add(name="both")(x, BatchNorm(name="norm")(x, train=train))
    hidden = Activation("relu", name="act")(Dense(6, name="hidden")(x))
    doubled = Add(name="doubled")(hidden, hidden)
    hidden = Activation("tanh", name="tanh")(doubled)
    heads = [
      Dense(5, use_bias=i == 0, name=f"head{i}")(
        BatchNorm(name=f"norm{i}")(hidden, train=train) if i < 2 else hidden
      )
      for i in range(3)
    ]
    y = Add(name="three")(Add(name="two")(*heads[:2]), heads[2])
    return Affine(scale=1 / 3, name="mean")(y)


def test_sums_of_linear_layers_and_normalizations_before_them_become_one_linear_layer():
  model = Headed()
  variables = lively(init_variables(model, jax.random.key(0), SHAPE))
  folded, few = fold_branches(model, variables, image_shape=SHAPE)
  kinds = [(layer.name, layer.op) for layer in folded.layers]
  assert kinds == [
    *(("stem", "ConvNorm"), ("pool", "GlobalAvgPool"), ("hidden", "Dense")),
    *(("act", "Activation"), ("doubled", "Add"), ("tanh", "Activation"), ("mean", "Dense")),
  ]
  assert few["params"]["mean"]["kernel"].shape == (6, 5)
  x = jax.random.normal(jax.random.key(0), (4, *SHAPE))
  expected = logits_of(model, variables, x)
  np.testing.assert_allclose(logits_of(folded, few, x), expected, rtol=0, atol=2e-5)


class Plain(nn.Module):
  """No branches, and no leaf ops."""

  @nn.compact
  def __call__(self, x, *, train):
    return nn.Dense(3)(x.mean((1, 2)))


def wrong(variables, **others):
  """Variables that are not those of the network."""
  return {**variables, **others}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda v: None, "^variables must be a dict of collections with 'params', .* got None"),
    (lambda v: (v["params"],), "^variables must be a dict of collections with 'params'"),
    (lambda v: wrong(v, params=3), "^variables: 'params' must be a dict, by layer, got 3"),
    (lambda v: {}, "^variables: they are of another network; give the model's own .*kernel"),
    (lambda v: v["params"], "^variables: they are of another network; give .* init_variables"),
    (lambda v: wrong(v, batch_stats={}), "^variables: they are of another network; .*batch_stats"),
    (lambda v: wrong(v, params={}), '^variables: they are of another network; .*"params"'),
    (
      lambda v: init_variables(Unlike(), jax.random.key(0), SHAPE),
      "^variables: they are of another network; .*stem/conv0",
    ),
    (
      lambda v: init_variables(Reparameterized(), jax.random.key(0), (9, 8, 1)),
      r"^variables: they do not fit images of shape \(9, 8, 3\), or are of another network; give",
    ),
    (lambda v: jax.eval_shape(lambda: v), "^variables: the kernel of layer .* is a shape; give"),
  ],
)
def test_variables_that_are_not_the_networks_own_are_refused(change, message):
  variables = init_variables(Reparameterized(), jax.random.key(0), SHAPE)
  with pytest.raises(ValueError, match=message):
    fold_branches(Reparameterized(), change(variables), image_shape=SHAPE)


def test_networks_and_images_that_cannot_be_folded_are_refused():
  variables = Plain().init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=False)
  with pytest.raises(ValueError, match=r"^model: .* that no leaf op .* models.from_linen"):
    fold_branches(Plain(), variables, image_shape=SHAPE)
  with pytest.raises(ValueError, match=r"^variables: they are of another network; give"):
    fold_branches(Plain(), {"params": {}}, image_shape=SHAPE)
  variables = init_variables(Reparameterized(), jax.random.key(0), SHAPE)
  for shape in (32, (9, 8), (0, 8, 3), "9x8"):
    with pytest.raises(ValueError, match=r"^image_shape.*\(height, width, channels\)"):
      fold_branches(Reparameterized(), variables, image_shape=shape)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda graph, v: (Unlike(), v), "^graph must be a graph, such as .* got a linen module"),
    (lambda graph, v: (graph, None), "^variables must be a dict of collections"),
    (
      lambda graph, v: (graph, {}),
      "^variables: layer 'stem/conv0' has no 'kernel' in their 'params'",
    ),
    (
      lambda graph, v: (graph, {"params": v["params"]}),
      "^variables: layer 'stem/conv0' has no 'mean' in their 'batch_stats'; give the model's own",
    ),
    (
      lambda graph, v: (graph, init_variables(Reparameterized(), jax.random.key(0), (9, 8, 1))),
      r"^variables: the kernel of layer 'stem/conv0' has shape \(3, 3, 1, 8\) and the network's",
    ),
    (
      lambda graph, v: (graph, v, ["stem/som"]),
      "^kept: 'stem/som' is unknown; did you mean stem/sum",
    ),
  ],
)
def test_graphs_are_folded_with_their_own_variables_alone(change, message):
  variables = init_variables(Reparameterized(), jax.random.key(0), SHAPE)
  graph = trace(Reparameterized(), variables, jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32))
  with pytest.raises(ValueError, match=message):
    fold_graph(*change(graph, variables))


class Unlike(nn.Module):
  """Sums that no single convolution computes."""

  @nn.compact
  def __call__(self, x, *, train):
    conv = ConvNorm(3, kernel=3, act="relu", name="rectified")(x, train=train)
    x = Add(name="residual")(x, conv)
    rows = ConvNorm(3, kernel=(3, 1), name="rows")(x, train=train)
    x = Add(name="crossed")(rows, ConvNorm(3, kernel=(1, 3), name="columns")(x, train=train))
    single = ConvNorm(3, kernel=3, groups="depthwise", name="single")(x, train=train)
    x = Add(name="grouped")(single, ConvNorm(3, name="mixed")(x, train=train))
    far = ConvNorm(3, kernel=3, dilation=2, name="far")(x, train=train)
    x = Add(name="dilated")(far, x)
    return GlobalAvgPool(name="pool")(Activation("relu", name="act")(x))


def test_other_sums_stay_as_they_are():
  variables = init_variables(Unlike(), jax.random.key(0), SHAPE)
  folded, same = fold_branches(Unlike(), variables, image_shape=SHAPE)
  graph = models.summarize(Unlike(), SHAPE[0]).graph
  assert [layer.name for layer in folded.layers] == [node.name for node in graph.nodes]
  jax.tree.map(np.testing.assert_array_equal, same, variables)


@pytest.mark.slow
@pytest.mark.usefixtures("programs_forgotten")
@pytest.mark.parametrize(
  ("source", "parameters", "macs"),
  [
    ("timm/repvgg_a0", 8_309_384, 1361),
    ("timm/mobileone_s0", 2_078_504, 275),
    ("timm/repvit_m0_9", 5_082_392, 816),  # 15,336 of them for normalizations, which become biases
  ],
)
def test_a_folded_checkpoint_has_the_published_size_and_the_originals_logits(
  source, parameters, macs
):
  folded, few = models.fold_branches(*models.from_torch(source, parity.state_dict(source)))
  summary = models.summarize(folded)
  assert summary.parameters == parameters
  assert summary.macs / 1e6 == pytest.approx(macs, abs=0.5)
  logits = logits_of(folded, few, jnp.asarray(images(source)))
  close(logits[:, :32], parity.outputs()[f"{source}/logits"])


def test_endpoints_stay_on_which_the_logits_do_not_depend():
  model = models.squeezenet1_1(5)
  shapes = models.summarize(model, 32).variables
  variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  folded, _ = fold_branches(model, variables, image_shape=(32, 32, 3))
  assert folded.ends.pooled == "features"
  assert "features" in {layer.name for layer in folded.layers}


class Padded(nn.Module):
  """A strided convolution beside a pointwise one, whose place in it follows the image's size."""

  @nn.compact
  def __call__(self, x, *, train):
    options = {"stride": 2, "padding": "SAME", "norm": None}
    y = ConvNorm(4, kernel=3, name="conv", **options)(x, train=train)
    y = Add(name="sum")(y, ConvNorm(4, name="pointwise", **options)(x, train=train))
    return GlobalAvgPool(name="pool")(y)


def test_windows_that_move_with_the_size_of_the_image_are_left_alone():
  model = Padded()
  variables = init_variables(model, jax.random.key(0), (9, 9, 3))
  folded, few = fold_branches(model, variables, image_shape=(9, 9, 3))
  x = jax.random.normal(jax.random.key(1), (1, 8, 8, 3))
  expected = model.apply(variables, x, train=False)
  np.testing.assert_allclose(
    folded.apply(few, x, train=False).logits, expected, rtol=1e-4, atol=1e-5
  )
