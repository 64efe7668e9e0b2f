"""Which layers are the first, the last and depthwise: on the graph, and from shapes alone."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import models, nn, prune
from jaxcompress.nn.kinds import layer_kinds
from jaxcompress.prune.kinds import read_shapes


class Narrow(linen.Module):
  """A network with narrow tensors, convolutions in groups, and a head of its own name."""

  squeezed: int = 3
  groups: int = 6
  width: int = 24

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(self.width, kernel=3, name="entry")(x, train=train)
    x = nn.ConvNorm(self.width, kernel=3, groups=self.groups, name="grouped")(x, train=train)
    x = nn.ConvNorm(self.squeezed, name="squeeze")(x, train=train)
    x = nn.ConvNorm(40, kernel=5, stride=2, name="wide")(x, train=train)
    x = nn.ConvNorm(40, kernel=3, groups=40, name="by_number")(x, train=train)
    x = nn.ConvNorm(20, name="narrower")(x, train=train)
    return nn.Dense(7, name="head")(nn.GlobalAvgPool(name="pool")(x))


def params_of(model, channels, size=8):
  variables = nn.init_variables(model, jax.random.key(0), (size, size, channels))
  return jax.tree.map(jnp.asarray, variables["params"])


def masked_layers(params, **options):
  return set(prune.magnitude(optax.sgd(0.1), sparsity=0.5, **options).init(params).masks)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 24])
@pytest.mark.parametrize("squeezed", [1, 2, 3, 4])
def test_on_the_graph_only_ends_and_depthwise_layers_keep_their_weights(channels, squeezed):
  model = Narrow(squeezed)
  graph = models.summarize(model, 8, channels).graph
  found = masked_layers(params_of(model, channels), graph=graph)
  assert found == {"grouped", "squeeze", "wide", "narrower"}
  kinds = layer_kinds(graph)
  assert kinds["entry"] == {"first"} and kinds["head"] == {"dense", "last"}
  assert kinds["by_number"] == {"depthwise"} and kinds["squeeze"] == {"pointwise"}


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 24])
@pytest.mark.parametrize("squeezed", [1, 2, 3, 4])
@pytest.mark.parametrize("groups", [4, 6, 8, 12])
def test_shapes_alone_give_the_graph_s_answer_or_ask_for_it(channels, squeezed, groups):
  model = Narrow(squeezed, groups)
  params = params_of(model, channels)
  try:
    found = masked_layers(params)
  except ValueError as error:
    assert "the parameters alone do not tell" in str(error) and "give graph=" in str(error)
    return
  assert found == {"grouped", "squeeze", "wide", "narrower"}


@pytest.mark.parametrize(("squeezed", "groups", "width"), [(2, 16, 32), (4, 8, 32), (5, 8, 16)])
def test_a_colour_network_with_narrow_layers_is_read_off_its_shapes(squeezed, groups, width):
  params = params_of(Narrow(squeezed, groups, width), 3)
  rules = (prune.Rule(match="wide", sparsity=0.25),)
  assert masked_layers(params, rules=rules) == {"grouped", "squeeze", "wide", "narrower"}


@pytest.mark.parametrize("name", models.MODELS)
def test_no_shape_of_the_registry_is_read_wrongly(name):
  for channels in (1, 3, 4):
    graph = models.summarize(models.create(name, 10), 32, channels).graph
    kinds = layer_kinds(graph)
    shapes = {n.name: nn.kernel_shape(n) for n in graph.nodes if n.name in kinds}
    readings = read_shapes(shapes)
    assert all(kinds[layer] in readings[layer] for layer in kinds)
    if channels == 3 and not name.startswith("shufflenet_v2"):  # whose splits hide its stem
      assert all(len(reading) == 1 for reading in readings.values())


def test_the_first_layer_of_a_grey_network_is_not_depthwise():
  params = params_of(models.resnet8(10), 1)
  assert "stem" not in masked_layers(params)
  for graph in (None, models.summarize(models.resnet8(10), 8, 1).graph):
    with pytest.raises(ValueError, match="rules: 'depthwise' matches no kernel"):
      masked_layers(params, rules=(prune.Rule(match="depthwise"),), graph=graph)
    first = prune.Rule(match="first", sparsity=0.25)
    assert "stem" in masked_layers(params, rules=(first,), graph=graph)


def test_a_grey_network_s_depthwise_layers_are_only_told_by_its_graph():
  model = models.mobilenet_v2(10, 0.35)
  params, rules = params_of(model, 1, 32), (prune.Rule(match="depthwise"),)
  with pytest.raises(ValueError, match="do not tell which kind of layer "):
    masked_layers(params, rules=rules)
  graph = models.summarize(model, 32, 1).graph
  found = masked_layers(params, rules=rules, graph=graph)
  assert "stage0_block0/depthwise" in found and "stem" not in found
  assert "stem" not in masked_layers(params)  # whichever it is, it keeps its weights


def test_a_tree_that_is_no_network_has_depthwise_kernels_and_no_first_one():
  kernels = {"a": {"kernel": jnp.ones((3, 3, 1, 12))}, "b": {"kernel": jnp.ones((1, 1, 3, 5))}}
  assert masked_layers(kernels) == {"b"}
  assert masked_layers(kernels, rules=(prune.Rule(match="depthwise"),)) == {"a", "b"}


def test_layers_between_which_and_the_image_or_the_logits_is_no_kernel_are_first_and_last():
  class Branches(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
      x = nn.BatchNorm(name="norm")(x, train=train)
      small = nn.AvgPool(2, 2, name="small")(x)
      a = nn.ConvNorm(8, stride=2, name="a")(x, train=train)
      b = nn.ConvNorm(8, name="b")(small, train=train)
      y = nn.ConvNorm(8, name="both")(nn.Concat(name="joined")(a, b, small), train=train)
      y = nn.GlobalAvgPool(name="pool")(y)
      return nn.Add(name="logits")(nn.Dense(3, name="one")(y), nn.Dense(3, name="two")(y))

  graph = models.summarize(Branches(), 8, 5).graph
  kinds = layer_kinds(graph)
  assert {name for name in kinds if "first" in kinds[name]} == {"a", "b"}
  assert {name for name in kinds if "last" in kinds[name]} == {"one", "two"}
  assert masked_layers(params_of(Branches(), 5), graph=graph) == {"both"}
  names = [rule.match for rule in prune.first_and_last(graph)]
  assert names == ["^a$", "^b$", "^one$", "^two$"]


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
    assert set(prune.masks_of(state.opt_state)) == {"grouped", "squeeze", "wide", "narrower"}


def test_a_flattened_tree_of_parameters_is_refused():
  """What flattens it has no layers left."""
  params = {"a": {"kernel": jnp.ones((4, 4))}, "b": {"kernel": jnp.ones((4, 2))}}
  model = models.summarize(models.resnet8(10), 8)
  with (
    prune.on_network(lambda: model.graph),
    pytest.raises(ValueError, match="params: there are no"),
  ):
    optax.flatten(prune.magnitude(optax.sgd(0.1), sparsity=0.5)).init(params)
