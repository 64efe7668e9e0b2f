"""Which layers are pruned: by the graph, offered or given, or by parameters that are no whole network."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import models, nn, prune
from jaxcompress.nn.select import on_network


class Narrow(linen.Module):
  """A network with narrow tensors, convolutions in groups, and a head of its own name."""

  squeezed: int = 3
  groups: int = 6

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(24, kernel=3, name="entry")(x, train=train)
    x = nn.ConvNorm(24, kernel=3, groups=self.groups, name="grouped")(x, train=train)
    x = nn.ConvNorm(self.squeezed, name="squeeze")(x, train=train)
    x = nn.ConvNorm(40, kernel=5, stride=2, name="wide")(x, train=train)
    x = nn.ConvNorm(40, kernel=3, groups=40, name="by_number")(x, train=train)
    x = nn.ConvNorm(20, name="narrower")(x, train=train)
    return nn.Dense(7, name="head")(nn.GlobalAvgPool(name="pool")(x))


INNER = {"grouped", "squeeze", "wide", "narrower"}


def params_of(model, channels, size=8):
  variables = nn.init_variables(model, jax.random.key(0), (size, size, channels))
  return jax.tree.map(jnp.asarray, variables["params"])


def masked_layers(params, *rules, **options):
  return set(
    prune.magnitude(optax.sgd(0.1), sparsity=0.5, rules=rules, **options).init(params).masks
  )


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 24])
@pytest.mark.parametrize("squeezed", [1, 2, 3, 4])
def test_on_the_graph_only_ends_and_depthwise_layers_keep_their_weights(channels, squeezed):
  model = Narrow(squeezed)
  graph = models.summarize(model, 8, channels).graph
  params = params_of(model, channels)
  assert masked_layers(params, graph=graph) == INNER
  with on_network(lambda: graph):
    assert masked_layers(params) == INNER
    assert masked_layers(params, prune.Rule(match="!first")) == {*INNER, "by_number", "head"}
  with pytest.raises(ValueError, match=r"rules: 'Add' matches no layer; the paths are .*entry"):
    masked_layers(params, prune.Rule(match="Add"), graph=graph)


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_bare_parameters_of_a_network_ask_for_the_graph_unless_paths_tell_all(channels):
  params = params_of(Narrow(), channels)
  some = prune.Rule(match="wide|narrower", sparsity=0.25)
  for rules in ((), (some,), (prune.Rule(match="depthwise"), prune.Rule(match="."))):
    with pytest.raises(ValueError, match=r"^graph: parameters alone do not tell .* give graph="):
      masked_layers(params, *rules)
  rest = prune.Rule(match=".", keep=True)
  assert masked_layers(params, some, rest) == {"wide", "narrower"}


def test_the_first_layer_of_a_grey_network_is_not_depthwise():
  params, graph = params_of(models.resnet8(10), 1), models.summarize(models.resnet8(10), 8, 1).graph
  assert "stem" not in masked_layers(params, graph=graph)
  with pytest.raises(ValueError, match="rules: 'depthwise' matches no layer"):
    masked_layers(params, prune.Rule(match="depthwise"), graph=graph)
  assert "stem" in masked_layers(params, prune.Rule(match="first", sparsity=0.25), graph=graph)


def test_kernels_that_are_no_network_are_what_their_shapes_say():
  kernels = {"a": {"kernel": jnp.ones((3, 3, 1, 12))}, "b": {"kernel": jnp.ones((1, 1, 3, 5))}}
  assert masked_layers(kernels) == {"b"}
  assert masked_layers(kernels, prune.Rule(match="depthwise")) == {"a", "b"}
  assert masked_layers(
    kernels, prune.Rule(match="pointwise", keep=True), prune.Rule(match="a")
  ) == {"a"}
  with pytest.raises(ValueError, match="rules: 'last' matches no layer"):
    masked_layers(kernels, prune.Rule(match="last"))


def test_the_graph_of_another_network_is_refused():
  params = params_of(models.resnet8(10), 3)
  with pytest.raises(ValueError, match="its layer 'stem' has a kernel of"):
    masked_layers(params, graph=models.summarize(models.resnet8(10), 8, 1).graph)
  with pytest.raises(ValueError, match="graph: it has none of the layers"):
    masked_layers({"x": {"kernel": jnp.ones((4, 4))}}, graph=models.summarize(Narrow(), 8).graph)


@pytest.mark.parametrize("channels", [1, 6])
def test_training_prunes_by_the_student_s_graph(channels):
  from jaxcompress import training

  rng = np.random.default_rng(0)
  batch = {"image": jnp.float32(rng.normal(size=(4, 8, 8, channels))), "label": jnp.arange(4)}
  for wrap in (lambda one: one, lambda one: optax.chain(optax.clip(1.0), one)):
    optimizer = wrap(prune.n_m(optax.sgd(0.1), "1:2"))
    recipe = training.Recipe(student=Narrow(4, 6), optimizer=optimizer)
    state = training.init_state(recipe, jax.random.key(0), batch)
    assert set(prune.masks_of(state.opt_state)) == INNER


def test_a_flattened_tree_of_parameters_is_refused():
  """A flattened tree has no layers left."""
  params = {"a": {"kernel": jnp.ones((4, 4))}, "b": {"kernel": jnp.ones((4, 2))}}
  model = models.summarize(models.resnet8(10), 8)
  with on_network(lambda: model.graph), pytest.raises(ValueError, match="params: there are no"):
    optax.flatten(prune.magnitude(optax.sgd(0.1), sparsity=0.5)).init(params)
