"""Blocks of a network are found, learn to do with few bits, and end in files that are bit-equal."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import models
from jaxcompress.nn import Graph, Node, fuse_activations
from jaxcompress.nn.execute import execute, folded_layers
from jaxcompress.quantize import Quantization, absmax, levels, minmax_range
from jaxcompress.quantize.ptq import algorithms
from jaxcompress.quantize.ptq.algorithms import Algorithm, Subject
from jaxcompress.quantize.ptq.blocks import WHOLE, anonymous, find_blocks, find_piece
from jaxcompress.quantize.ptq.images import Batches
from jaxcompress.quantize.ptq.learn_block import Settings, run_block
from jaxcompress.quantize.ptq.post_training import decibels, post_training
from jaxcompress.quantize.ptq.reconstruct import reconstruct
from jaxcompress.quantize.ptq.weights import choose_scales

pytestmark = pytest.mark.slow

SHORT = Settings(kept=0.5, steps=60)


def subject_of(case, bits=3):
  plan = Quantization(weights=absmax(bits), activations=minmax_range(8))
  return Subject.of(case.graph, case.variables, Batches(case.images, None, 12), plan)


def rebuilt(subject, settings=SHORT):
  scales = choose_scales(subject.folded, subject.to, "mse")
  grids = subject.grids(Algorithm("mse"))
  arguments = subject.apart, subject.folded, scales, grids, subject.batches
  return reconstruct(*arguments, to=subject.to, settings=settings)


@pytest.fixture(scope="module")
def found(case):
  """A network of 3-bit weights, and what was learned of it."""
  subject = subject_of(case)
  return subject, rebuilt(subject)


def names_of(blocks):
  return [[node.name for node in block.nodes] for block in blocks]


def test_a_residual_block_stays_whole_and_what_has_no_weights_joins_the_layer_before_it(case):
  blocks = find_blocks(case.sites.graph)
  expected = [["stem"], ["depthwise", "max"], ["branch", "add", "pool"], ["dense"]]
  assert names_of(blocks) == expected
  assert blocks[2].inputs == ("max",) and blocks[2].outputs == ("pool",)


def test_layers_of_one_module_are_one_block_and_long_ones_are_taken_apart():
  shape = (1, 4, 4, 3)
  attrs = {"kernel": 1, "groups": 1, "features": 3, "stride": 1, "padding": "SAME", "act": "relu"}

  def chain(count):
    tensors = ["input", *(f"block/conv{i}" for i in range(count))]
    pairs = itertools.pairwise(tensors)
    nodes = tuple(Node(b, "ConvNorm", attrs, (a,), (b,), (shape,), (shape,)) for a, b in pairs)
    return Graph(nodes, shape, tensors[-1])

  assert [len(block.layers) for block in find_blocks(chain(3))] == [3]
  assert [len(block.layers) for block in find_blocks(chain(3), layerwise=True)] == [1, 1, 1]
  assert [len(block.layers) for block in find_blocks(chain(9))] == [1] * 9


def test_blocks_hold_every_node_once_in_any_network():
  for model in (models.shufflenet_v2(), models.mobilenet_v3_small(), models.ghostnet()):
    graph = fuse_activations(models.summarize(model, 64).graph)
    for layerwise in (False, True):
      blocks = find_blocks(graph, layerwise=layerwise)
      assert [node for block in blocks for node in block.nodes] == list(graph.nodes)
      made = {"input"}
      for block in blocks:
        assert set(block.inputs) <= made and block.layers
        made |= set(block.outputs)


@pytest.mark.parametrize(
  ("kernel", "stride", "padding"), [(3, 1, "SAME"), (3, 2, "SYMMETRIC"), (5, 2, "SAME")]
)
def test_a_piece_of_a_map_gives_what_the_whole_map_does_but_for_its_margin(kernel, stride, padding):
  rng, side = np.random.default_rng(0), 40
  attrs = {"groups": "depthwise", "features": 2, "padding": padding, "act": None}
  inner = (1, side, side, 2)
  outer = (1, side // stride, side // stride, 2)
  fields = [{**attrs, "kernel": 3, "stride": 1, "padding": "SAME"}]
  fields.append({**attrs, "kernel": kernel, "stride": stride})
  nodes = (
    Node("a/a", "ConvNorm", fields[0], ("input",), ("a/a",), (inner,), (inner,)),
    Node("a/b", "ConvNorm", fields[1], ("a/a",), ("a/b",), (inner,), (outer,)),
  )
  (block,) = find_blocks(Graph(nodes, inner, "a/b"))
  piece = find_piece(block, 6)
  assert piece != WHOLE and find_piece(block, side) == WHOLE
  shape, _, _ = anonymous(block, piece)
  layers = {
    f"n{i}": (rng.normal(size=(k, k, 1, 2)).astype(np.float32), np.ones(2, np.float32))
    for i, k in enumerate((3, kernel))
  }
  x = rng.normal(size=inner).astype(np.float32)
  keep = lambda tensor, array: array  # noqa: E731
  (whole,) = run_block(shape, layers, (jnp.asarray(x),), keep)
  cells, (low, high) = piece.size // piece.stride, piece.margin
  for start in (0, 3, side // stride - cells):
    first = start * stride
    part = x[:, first : first + piece.size, first : first + piece.size]
    (y,) = run_block(shape, layers, (jnp.asarray(part),), keep)
    top = 0 if start == 0 else low
    end = cells if start == side // stride - cells else cells - high
    wanted = whole[:, start + top : start + end, start + top : start + end]
    np.testing.assert_allclose(y[:, top:end, top:end], wanted, rtol=1e-4, atol=1e-5)


def test_learning_lowers_the_error_of_blocks_and_never_raises_it(found):
  _, learned = found
  assert len(learned.errors) == 4
  assert all(after <= before for before, after in learned.errors)
  assert sum(after < 0.9 * before for before, after in learned.errors) >= 2


def test_the_whole_network_comes_closer_to_the_float_one(case, found):
  subject, learned = found
  graph, x = subject.sites.graph, jnp.asarray(case.images)
  before = execute(graph, subject.layers, x)
  nearest = subject.quantized(Algorithm("mse", weights="mse"))(case.images)
  layers = {
    name: layer._replace(kernel=learned.codes[name] * learned.scales[name])
    for name, layer in learned.folded.items()
  }
  ours = execute(graph, folded_layers(layers), x)
  assert decibels(before, np.asarray(ours)) > 2 + decibels(before, nearest)


def test_every_weight_is_one_of_its_neighbours_on_the_grid(found):
  subject, learned = found
  first = choose_scales(subject.folded, subject.to, "mse")
  for name, codes in learned.codes.items():
    to, floor = subject.to[name], np.floor(subject.folded[name].kernel / first[name])
    low, high = (np.clip(floor + one, to.low, to.high) for one in (0, 1))
    nearest = np.clip(np.rint(subject.folded[name].kernel * (1 / first[name])), to.low, to.high)
    assert np.all((codes == low) | (codes == high) | (codes == nearest)), name
    assert np.all(np.abs(codes) <= levels(3, symmetric=True, narrow=True).high)


def test_layers_of_8_bits_beside_narrower_ones_are_left_to_rounding(case):
  subject = subject_of(case)
  wide = levels(8, symmetric=True, narrow=True)
  subject.to["stem"] = wide
  learned = rebuilt(subject, Settings(steps=2))
  assert set(learned.codes) == {"depthwise", "branch", "dense"}


def test_the_same_seed_gives_the_same_integers(case, monkeypatch):
  short = Algorithm("mse", weights="mse", reconstruct=Settings(kept=0.5, steps=20))
  monkeypatch.setitem(algorithms.ALGORITHMS, "qdrop", short)
  options = {"method": "qdrop", "bits": 4, "seed": 3}
  a, b = (post_training(case.model, case.variables, case.images, **options) for _ in range(2))
  for name, layer in a.layers.items():
    np.testing.assert_array_equal(layer.weights, b.layers[name].weights)
    np.testing.assert_array_equal(layer.bias, b.layers[name].bias)
  assert a.grids == b.grids
