"""Channels that go until a network fits: what each costs, in which order, and in how many steps."""

import jax
import numpy as np
import pytest

from jaxcompress import models, nn, prune
from jaxcompress.nn.graph import parameters
from jaxcompress.prune.importance import Importance
from jaxcompress.prune.removal import plan_removal
from jaxcompress.prune.routes import find_routes, name_depthwise
from tests.prune.test_removal import random_variables

MODEL, SIDE = models.resnet8(5), 8
IMAGE = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), np.float32)
STREAM = "stem", "stage0_block0/conv2"


def weights(graph):
  shapes = filter(None, map(nn.kernel_shape, graph.nodes))
  return sum(int(np.prod(shape)) for shape in shapes)


SIZES = {"macs": nn.count_macs, "weights": weights}


@pytest.fixture(scope="module")
def variables():
  return random_variables(MODEL, SIDE)


def measured(model, variables):
  return prune.channel_importance(model, variables, IMAGE)


@pytest.mark.parametrize("cost", SIZES)
def test_a_channel_costs_what_the_network_saves_without_it(cost):
  graph = name_depthwise(models.summarize(models.mobilenet_v2(3, 0.25), 32).graph)
  routes = find_routes(graph)
  found = prune.channel_costs(graph, routes, cost)
  for name in ("stage1_block0/expand", "stage2_block0/expand", "head"):  # none reads what it makes
    node = next(node for node in graph.nodes if node.name == name)
    mask = np.arange(node.output_shapes[0][-1]) > 0
    saved = SIZES[cost](graph) - SIZES[cost](plan_removal(graph, {name: mask}).graph)
    np.testing.assert_allclose(found[routes.ids[name]], saved)


def test_of_channels_that_matter_alike_the_dear_ones_go_first(variables):
  graph, routes, scores = measured(MODEL, variables)
  equal = Importance(graph, routes, np.where(np.isfinite(scores), 1.0, np.inf))
  costs = prune.channel_costs(graph, routes, "macs")
  keep = prune.choose_channels(equal, 0.5, divisor=1, cost="macs")
  free = np.isfinite(scores)
  kept = np.ones(len(scores), bool)
  for node in graph.nodes:
    if node.name in keep.masks:
      kept[routes.ids[node.output][~keep.masks[node.name]]] = False
  alive = lambda name: keep.masks[name].mean()  # noqa: E731
  assert costs[free & kept].mean() < costs[free & ~kept].mean()
  assert alive("stage2_block0/conv1") > alive("stage0_block0/conv1")  # of 8x8 and of 32x32 cells
  with pytest.raises(ValueError, match="cost: 'macs' has no meaning with scope 'layer'"):
    prune.choose_channels(equal, 0.5, scope="layer", cost="macs")
  with pytest.raises(ValueError, match="cost: 'bytes' is unknown; it must be one of macs, weights"):
    prune.choose_channels(equal, 0.5, cost="bytes")


def test_a_group_counts_all_that_belongs_to_its_channels(variables):
  found = prune.channel_importance(MODEL, variables, IMAGE, method="group").by_layer

  def squares(name, part, axis):
    array = np.square(np.float64(parameters(variables["params"], name)[part]))
    return array.sum(tuple(i for i in range(array.ndim) if i != axis % array.ndim))

  def made(name):
    return squares(name, "kernel", -1) + squares(name, "scale", -1)

  inner = made("stage0_block0/conv1") + squares("stage0_block0/conv2", "kernel", -2)
  np.testing.assert_allclose(found["stage0_block0/conv1"], inner / inner.mean(), rtol=1e-6)
  graph = measured(MODEL, variables).graph
  stream = sum(map(made, STREAM))
  tensors = {"stem"} | {n.output for n in graph.nodes if n.name.startswith("stage0_block0/add")}
  readers = [
    node.name for node in graph.nodes if node.op == "ConvNorm" and _source(graph, node) in tensors
  ]
  assert len(readers) == 3  # the block itself, and two of the next
  stream += sum(squares(name, "kernel", -2) for name in readers)
  np.testing.assert_allclose(found["stem"], stream / stream.mean(), rtol=1e-6)


def _source(graph, node):
  """The layer whose channels a node reads, whatever activation lies between."""
  makers = {node.output: node for node in graph.nodes}
  name = node.inputs[0]
  while name in makers and makers[name].op == "Activation":
    name = makers[name].inputs[0]
  return name


@pytest.mark.slow
def test_importance_is_measured_again_before_each_step(variables):
  seen, sizes = [], []

  def importance(model, variables):
    found = measured(model, variables)
    seen.append(nn.count_macs(found.graph))
    return found

  def train(model, variables):
    sizes.append(sum(map(np.size, jax.tree.leaves(variables))))
    return jax.tree.map(lambda x: 2 * x, variables)

  whole = nn.count_macs(measured(MODEL, variables).graph)
  smaller, few = prune.remove_in_steps(
    MODEL, variables, importance, nn.count_macs, whole / 4, steps=3, divisor=1, train=train
  )
  assert len(seen) == 3 and len(sizes) == 2 and sizes[1] < sizes[0]
  for before, after in zip(
    seen, [*seen[1:], nn.count_macs(measured(smaller, few).graph)], strict=True
  ):
    assert 0.9 * 4 ** (-1 / 3) < after / before < 1.1 * 4 ** (-1 / 3)
  assert nn.count_macs(measured(smaller, few).graph) <= whole / 4
  columns = lambda kernel: {c.tobytes() for c in np.moveaxis(np.asarray(kernel), -1, 0)}  # noqa: E731
  kernel = parameters(variables["params"], "stem")["kernel"]
  assert columns(few["params"]["stem"]["kernel"]) < columns(4 * kernel)  # trained twice


def test_what_cannot_be_had_is_refused_before_any_step(variables):
  with pytest.raises(
    ValueError, match=r"most: 1,000 cannot be reached; with divisor 8 .* has \d+,"
  ):
    prune.remove_in_steps(MODEL, variables, measured, nn.count_macs, 1000)
  with pytest.raises(ValueError, match="steps: 0 must be a whole number of at least 1"):
    prune.remove_in_steps(MODEL, variables, measured, nn.count_macs, 400_000, steps=0)
