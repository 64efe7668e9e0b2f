"""Faults of all kinds of operations, of memory and of whole kernels are located and explained."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import export
from jaxcompress.export.faults.walk import compared, evaluated, unseen_before
from jaxcompress.nn import Graph, Node
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid, Integers
from tests.export.faults.simulated import NETWORKS, SHAPE, Device, Layer

pytestmark = pytest.mark.usefixtures("optimized")


def rules(found):
  return {one.rule for one in found.explanation}


def reals(device, layer):
  """Returns the real values of an operation's inputs, and the grid of its output."""
  node, grids = device.node(layer), device.quantized.grids
  values = [
    (device.sound[name].astype(np.float64) - grids[name].zero_point) * np.float64(grids[name].scale)
    for name in node.inputs
  ]
  return values, grids[node.output]


def rounded(of, rounding):
  """An operation on real numbers, rounded to its output."""

  def fault(device, layer):
    values, grid = reals(device, layer)
    steps = rounding(of(*values) / np.float64(grid.scale)) + grid.zero_point
    low = grid.zero_point if device.node(layer).attrs.get("act") else -128
    return (np.clip(steps, low, 127),)

  return fault


def of_codes(of):
  """An operation on the codes of its inputs."""
  return lambda device, layer: of(*(device.sound[name] for name in device.node(layer).inputs))


def of_output(of):
  """Makes a fault that changes the sound output of an operation."""
  return lambda device, layer: (of(device.sound[device.node(layer).output]),)


def pooled_with_zeros(device, layer):
  """The largest of 3 x 3 cells by steps of two, where padded cells hold code 0."""
  node = device.node(layer)
  x = np.pad(device.sound[node.inputs[0]], ((0, 0), (1, 1), (1, 1), (0, 0)))
  height, width = node.output_shapes[0][1:3]
  cells = [
    x[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2] for i in range(3) for j in range(3)
  ]
  return (np.max(cells, axis=0),)


def averaged_down(x):
  cells = [x[:, i : x.shape[1] - 1 + i, j : x.shape[2] - 1 + j] for i in (0, 1) for j in (0, 1)]
  height, width = x.shape[1] - 1, x.shape[2] - 1
  total = sum(cell[:, :height, :width].astype(int) for cell in cells)
  return (np.floor(total / 4),)


def shuffled(x):
  parts = x.reshape(*x.shape[:-1], 4, 3)
  return (np.swapaxes(parts, -1, -2).reshape(x.shape),)


def reused(device, layer):
  """Memory in which a later tensor was written, over the first part of what was there."""
  memory = device.sound["depthwise"].copy()
  for image, other in zip(memory, device.sound["project"], strict=True):
    image.reshape(-1)[: other.size] = other.ravel()
  return (memory,)


mean = lambda x: x.mean((1, 2))  # noqa: E731
OPERATIONS = {  # fault: (network, layer, how, rule)
  "mean": ("inverted", "mean", rounded(mean, np.floor), "rounding down"),
  "sum": ("inverted", "add", rounded(np.add, np.trunc), "truncation"),
  "sum with relu": ("residual", "add", rounded(np.add, np.floor), "rounding down"),
  "product": ("excited", "se/scale", rounded(np.multiply, np.floor), "rounding down"),
  "order of a concatenation": (
    *("shuffled", "concat"),
    of_codes(lambda x, y: (np.concatenate([y, x], -1),)),
    "inputs in another order",
  ),
  "order of parts": (
    *("shuffled", "split"),
    of_codes(lambda x: (x[..., 6:], x[..., :6])),
    "outputs in another order",
  ),
  "shuffle": (
    *("shuffled", "shuffle"),
    of_codes(shuffled),
    "channels shuffled the other way round",
  ),
  "average": ("shuffled", "pool", of_codes(averaged_down), "rounding down"),
  "padding of a pool": (
    *("residual", "max"),
    pooled_with_zeros,
    "padding with 0 in place of the zero point",
  ),
  "transposed": (
    *("inverted", "project"),
    of_output(lambda y: np.swapaxes(y, 1, 2)),
    "output transposed",
  ),
  "channels first": (
    *("inverted", "project"),
    of_output(lambda y: y.transpose(0, 3, 1, 2).reshape(y.shape)),
    "output in another order of memory",
  ),
  "not written": ("inverted", "head", of_output(np.zeros_like), "output not written"),
  "left out": (
    *("inverted", "add"),
    of_codes(lambda x, y: (x,)),
    "operation left out",
  ),
  "memory used again": (
    *("inverted", "depthwise"),
    reused,
    "memory used again before it was printed",
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", OPERATIONS)
def test_a_fault_of_an_operation_is_located_and_explained(fault, device):
  network, layer, how, rule = OPERATIONS[fault]
  made = device(network)
  dump = made.dump(layer, *how(made, layer))
  if rule.startswith("memory"):  # what was computed before it was written over is sound
    dump |= {name: made.sound[name] for name in dump if name != made.node(layer).output}
  found = export.locate(made.quantized, dump)
  assert found.layer == layer and rule in rules(found), str(found)


KERNELS = {  # (network, layer): runtime
  ("tied inverted", "expand"): "tflm",
  ("tied inverted", "add"): "onnxruntime",
  ("excited", "se/scale"): "tflm",
  ("shuffled", "pool"): "onnxruntime",
  ("residual", "mean"): "tflm",
}


@pytest.mark.slow
@pytest.mark.parametrize(("place", "name"), KERNELS.items())
def test_the_kernels_of_another_runtime_explain_its_operation(place, name, device):
  network, layer = place
  made = device(network)
  inputs = {tensor: made.sound[tensor] for tensor in ("input", *made.node(layer).inputs)}
  other = evaluated(made.quantized.with_kernels(name), inputs)
  written = [other[tensor] for tensor in made.node(layer).outputs]
  dump = made.dump(layer, *written)
  found = export.locate(made.quantized, dump)
  assert found.layer == layer and f"kernels of {name}" in rules(found)


@pytest.mark.slow
def test_a_device_with_other_kernels_throughout_is_told_at_once(device):
  made = device("tied inverted")
  dump = {
    "input": made.codes,
    **evaluated(made.quantized.with_kernels("tflm"), {"input": made.codes}),
  }
  found = export.locate(made.quantized, dump)
  assert "kernels of tflm" in rules(found) and "tflm" in found.kernels
  ends = {name: dump[name] for name in ("input", "classifier")}
  found = export.locate(made.quantized, ends)
  assert "tflm" in found.kernels and found.untried == 0


def test_scales_of_float64_are_told_from_those_of_float32():
  """A tenth times five is a half in float32 alone, where it is rounded to even."""
  codes = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16, 1)
  attrs = {"kernel": 1, "stride": 1, "padding": "VALID", "groups": 1, "features": 1, "act": None}
  shapes = ((1, 16, 16, 1),), ((1, 16, 16, 1),)
  node = Node(
    "conv", "ConvNorm", {**attrs, "norm": None, "dilation": 1}, ("input",), ("conv",), *shapes
  )
  grids = dict.fromkeys(("input", "conv"), Grid(np.float32(1), 0))
  tenth = Integers(np.ones((1, 1, 1, 1), np.int8), np.float32([0.1]), np.zeros(1, np.int32))
  quantized = QuantizedModel(Graph((node,), (1, 16, 16, 1), "conv"), grids, {"conv": tenth})
  printed = np.rint(codes * np.float64(np.float32(0.1))).astype(np.int8)
  found = export.locate(quantized, {"input": codes, "conv": printed})
  ways = {one.detail for one in found.explanation if one.rule == "rounding half to even"}
  assert ways == {"float64 scale", "31-bit factor, rounded once"}


@pytest.mark.slow
def test_accumulators_of_32_bits_are_located_where_64_are_needed(networks):
  quantized = networks.random_quantized(NETWORKS["inverted"](), SHAPE)
  quantized = networks.with_widths(quantized, lambda key: 16)
  layer = quantized.layers["head"]
  bias = layer.bias.copy()
  bias[2] = 2**31 + 2**30
  layers = {**quantized.layers, "head": layer._replace(bias=bias)}
  quantized = dataclasses.replace(quantized, layers=layers)
  made = Device(quantized, quantized.quantize_input(networks.images_for(quantized, 2)))
  bias = bias.copy()
  bias[2] -= 2**32
  layers = {**quantized.layers, "head": layer._replace(bias=bias)}
  wrapped = dataclasses.replace(quantized, layers=layers)
  written = evaluated(wrapped, {"input": made.codes})["head"]
  found = export.locate(quantized, made.dump("head", written))
  ways = {one.detail for one in found.explanation if one.rule == "accumulator wraps around"}
  assert found.layer == "head" and ways == {"32 bits"}
  assert {where[-1] for where in np.argwhere(written != made.sound["head"])} == {2}


@pytest.mark.slow
def test_a_fault_whose_tensor_was_not_printed_is_found_by_its_rule(device):
  made = device("inverted")
  layer = Layer(made, "depthwise")
  layer.pad = 0
  factor = np.float32(layer.source.scale) * layer.scales / np.float32(layer.output.scale)
  written = layer.finish(np.rint((layer.sums() + layer.bias).astype(np.float32) * factor))
  dump = made.dump("depthwise", written)
  printed = {name: dump[name] for name in ("input", "expand", "add", "head", "classifier")}
  found = export.locate(made.quantized, printed)
  assert found.tensor == "add" and found.layer == "depthwise" and found.among == ("depthwise",)
  assert "padding with 0 in place of the zero point" in rules(found)
  assert set(found.missing) == {"stem", "depthwise", "project", "mean"}


def test_later_faults_are_named_too(device):
  made = device("inverted")
  dump = made.dump("stem", made.sound["stem"][:, :, ::-1])
  dump["head"] = dump["head"][:, ::-1]
  found = export.locate(made.quantized, dump)
  assert (found.layer, found.also) == ("stem", ("head",))
  assert "output flipped" in rules(found)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(data=st.data(), network=st.sampled_from(sorted(NETWORKS)))
def test_any_corruption_is_that_of_its_tensor(data, network, device):
  made = device(network)
  layer = data.draw(st.sampled_from([node.name for node in made.quantized.graph.nodes]))
  outputs = made.node(layer).outputs
  place = data.draw(st.integers(0, len(outputs) - 1))
  written = [made.sound[name].astype(int) for name in outputs]
  changed = written[place]
  cells = data.draw(st.lists(st.integers(0, changed.size - 1), min_size=1, max_size=9, unique=True))
  flat = changed.reshape(-1)
  flat[cells] += np.where(flat[cells] > 0, -1, 1) * data.draw(st.integers(1, 100))
  dump = made.dump(layer, *written)
  found = {name: one for name, one in compared(made.quantized, dump).items() if one is not None}
  assert list(found) == [outputs[place]]
  (one,) = found.values()
  assert one.share == pytest.approx(len(cells) / changed.size)
  first = np.unravel_index(min(cells), changed.shape)
  assert (one.image, *one.where) == tuple(map(int, first))


@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(data=st.data(), network=st.sampled_from(sorted(NETWORKS)))
def test_of_some_tensors_a_corruption_is_among_those_before_the_first_that_differs(
  data, network, device
):
  made = device(network)
  graph = made.quantized.graph
  layer = data.draw(st.sampled_from([node.name for node in graph.nodes]))
  names = [name for node in graph.nodes for name in node.outputs]
  shown = data.draw(st.sets(st.sampled_from(names), min_size=1))
  written = [-1 - made.sound[name].astype(int) for name in made.node(layer).outputs]
  dump = made.dump(layer, *written)
  printed = {name: dump[name] for name in ("input", *shown)}
  found = [n for n, one in compared(made.quantized, printed).items() if one is not None]
  makers = {name: node for node in graph.nodes for name in node.outputs}
  for name in found:  # all that differ, since what follows from printed tensors does not
    before = unseen_before(made.quantized, makers[name], printed)
    assert layer in {node.name for node in before}
  if set(made.node(layer).outputs) & shown:
    assert found and makers[found[0]].name == layer


def test_nothing_is_located_without_a_fault(device):
  for network in NETWORKS:
    made = device(network)
    found = export.locate(made.quantized, made.sound)
    assert found.is_equal and not found.missing and "all" in str(found)
