"""The contents of .tflite files."""

import os
import pathlib

import flax.linen as nn
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from jaxcompress import export
from jaxcompress.export.contents import read_operators
from jaxcompress.files.extras import require
from jaxcompress.nn import (
  Activation,
  AvgPool,
  ConvNorm,
  Dense,
  Folded,
  GlobalAvgPool,
  fuse_activations,
  kernel_shape,
)
from jaxcompress.quantize.integer.pools import averaging


class Net(nn.Module):
  padding: str = "SAME"

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, stride=2, padding=self.padding, act="relu6", name="stem")(
      x, train=train
    )
    for i in range(3):
      x = ConvNorm(8, kernel=3, groups="depthwise", act="relu", name=f"depthwise{i}")(
        x, train=train
      )
      x = ConvNorm(8, name=f"project{i}")(x, train=train)
    return Dense(8, name="classifier")(GlobalAvgPool(name="pool")(x))


SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def quantized(networks):
  return networks.random_quantized(Net(), SHAPE)


@pytest.fixture
def path(quantized, tmp_path):
  return export.tflite(quantized, tmp_path / "net.tflite")


def read(path):
  return schema.ModelT.InitFromPackedBuf(pathlib.Path(path).read_bytes(), 0)


def names_of(path):
  return [operator.name for operator in read_operators(path)]


def test_everything_is_int8_between_int8_images_and_int8_logits(path):
  graph = read(path).subgraphs[0]
  types = {graph.tensors[i].type for op in graph.operators for i in (*op.inputs, *op.outputs)}
  assert types == {schema.TensorType.INT8, schema.TensorType.INT32}
  ends = [graph.tensors[i] for i in (*graph.inputs, *graph.outputs)]
  assert [list(tensor.shape) for tensor in ends] == [[1, *SHAPE], [1, 8]]
  assert {tensor.type for tensor in ends} == {schema.TensorType.INT8}
  assert not any(operator.is_float for operator in read_operators(path))


def test_operators_have_the_lowest_versions_that_hold_them(path):
  versions = {operator.name: operator.version for operator in read_operators(path)}
  assert versions == {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "MEAN": 2, "FULLY_CONNECTED": 4}


def test_scales_and_biases_follow_the_quantization_specification(path, quantized):
  graph = read(path).subgraphs[0]
  weighted = [op for op in graph.operators if len(op.inputs) == 3]
  assert len(weighted) == 8
  for op, node in zip(
    weighted, [n for n in quantized.graph.nodes if n.op != "GlobalAvgPool"], strict=True
  ):
    x, weights, bias = (graph.tensors[i].quantization for i in op.inputs)
    layer, grid = quantized.layers[node.name], quantized.grids[node.inputs[0]]
    np.testing.assert_array_equal(weights.scale, layer.scales)
    np.testing.assert_array_equal(bias.scale, grid.scale * layer.scales)
    assert not weights.zeroPoint.any() and not bias.zeroPoint.any()
    assert (x.scale[0], x.zeroPoint[0]) == (grid.scale, grid.zero_point)
    depthwise = node.attrs.get("groups") == "depthwise"
    assert weights.quantizedDimension == (3 if depthwise else 0)
    assert graph.tensors[op.inputs[1]].shape[weights.quantizedDimension] == 8


def test_constants_lie_inside_the_file_and_are_aligned(path, quantized):
  content, model = path.read_bytes(), read(path)
  assert all(buffer.offset == 0 for buffer in model.buffers)
  for layer in quantized.layers.values():
    position = content.find(layer.bias.tobytes())
    assert position > 0 and position % 16 == 0


def test_padding_that_is_not_tensorflows_becomes_an_operator(networks, quantized, tmp_path):
  symmetric = networks.random_quantized(Net(padding="SYMMETRIC"), SHAPE)
  path = export.tflite(symmetric, tmp_path / "symmetric.tflite")
  assert names_of(path)[:2] == ["PAD", "CONV_2D"]
  odd = networks.random_quantized(Net(padding="SYMMETRIC"), (9, 9, 3))  # there they are the same
  assert "PAD" not in names_of(export.tflite(odd, tmp_path / "odd.tflite"))
  assert "PAD" not in names_of(export.tflite(quantized, tmp_path / "same.tflite"))


def test_zero_points_of_one_length_are_stored_once(path, quantized):
  zeros = np.uint32(8).tobytes() + bytes(8 * 8)  # eight zero points with their length before them
  assert len(quantized.layers) == 8
  assert path.read_bytes().count(zeros) == 1


def test_metadata_is_kept_with_the_grids_of_both_ends(quantized, tmp_path):
  facts = {"classes": ["a", "ä"], "preprocess": {"scale": 64.0}}
  path = export.tflite(quantized, tmp_path / "net.tflite", metadata=facts)
  found = export.read_metadata(path)
  assert {key: found[key] for key in facts} == facts
  assert found["kernels"] == "xnnpack"
  assert found["input"]["zero_point"] == quantized.grids["input"].zero_point
  assert np.float32(found["output"]["scale"]) == quantized.grids["classifier"].scale


def test_tensors_have_the_names_of_layers_and_the_signature_those_of_its_ends(path):
  model = read(path)
  names = [tensor.name.decode() for tensor in model.subgraphs[0].tensors]
  assert {"input", "stem", "depthwise0", "pool", "classifier"} <= set(names)
  assert len(set(names)) == len(names)
  (signature,) = model.signatureDefs
  assert [signature.inputs[0].name, signature.outputs[0].name] == [b"image", b"logits"]


def test_the_same_model_gives_the_same_bytes(quantized, tmp_path):
  one, two = (export.tflite(quantized, tmp_path / name) for name in ("one", "two"))
  assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("metadata", [{"x": float("nan")}, {"x": object()}])
def test_metadata_that_is_no_json_is_refused(quantized, tmp_path, metadata):
  with pytest.raises(ValueError, match="metadata: it is no JSON"):
    export.tflite(quantized, tmp_path / "net.tflite", metadata=metadata)


@pytest.mark.parametrize("failing", ["write_bytes", "replace"])
def test_a_crash_in_the_middle_leaves_what_was_there(quantized, tmp_path, monkeypatch, failing):
  path = tmp_path / "net.tflite"
  path.write_bytes(b"before")
  write = pathlib.Path.write_bytes

  def half(self, data):
    write(self, data[: len(data) // 2])
    raise KeyboardInterrupt

  def stop(*args):
    raise KeyboardInterrupt

  if failing == "write_bytes":
    monkeypatch.setattr(pathlib.Path, "write_bytes", half)
  else:
    monkeypatch.setattr(os, "replace", stop)
  with pytest.raises(KeyboardInterrupt):
    export.tflite(quantized, path)
  assert path.read_bytes() == b"before"
  assert os.listdir(tmp_path) == ["net.tflite"]


def test_a_folder_that_is_not_there_is_named(quantized, tmp_path):
  with pytest.raises(ValueError, match=r"missing/net\.tflite cannot be written"):
    export.tflite(quantized, tmp_path / "missing" / "net.tflite")


def test_a_missing_extra_says_what_to_install(quantized, tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "flatbuffers", None)
  with pytest.raises(ImportError, match=r'pip install "jaxcompress\[edge\]"'):
    require("tflite")
  with pytest.raises(ValueError, match=r'pip install "jaxcompress\[edge\]"'):
    export.tflite(quantized, tmp_path / "net.tflite")


class Pooled(nn.Module):
  pool: AvgPool

  @nn.compact
  def __call__(self, x, *, train):
    return GlobalAvgPool(name="mean")(self.pool(x))


def test_an_average_pool_that_counts_padding_is_a_depthwise_convolution(networks, tmp_path):
  model = Pooled(AvgPool(3, 2, padding="SYMMETRIC", count_padding=True))
  path = export.tflite(networks.random_quantized(model, SHAPE), tmp_path / "pool.tflite")
  assert names_of(path) == ["PAD", "DEPTHWISE_CONV_2D", "MEAN"]
  node = networks.graph_of(model, SHAPE)[0].nodes[0]
  assert averaging(node).scales.tolist() == [np.float32(1 / 9)] * 3


def test_an_average_pool_without_tensorflows_padding_names_the_way_out(networks, tmp_path):
  model = Pooled(AvgPool((2, 3), 1, padding=((1, 0), (1, 1))))
  quantized = networks.random_quantized(model, SHAPE)
  message = "layer 'pool' averages without its padding .* up to 0 rows above and 1 below"
  with pytest.raises(ValueError, match=message):
    export.tflite(quantized, tmp_path / "pool.tflite")


def test_an_average_pool_without_its_padding_is_sliced_out_of_all_averages(networks, tmp_path):
  model = Pooled(AvgPool(3, 2, padding="SYMMETRIC"))
  path = export.tflite(networks.random_quantized(model, SHAPE), tmp_path / "pool.tflite")
  assert names_of(path) == ["AVERAGE_POOL_2D", "STRIDED_SLICE", "MEAN"]


class Swished(nn.Module):
  act: str | None = None

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(4, norm=None, act=self.act, name="conv")(x, train=train)
    return GlobalAvgPool(name="mean")(Activation("hard_swish", name="swish")(x))


def test_a_hard_swish_is_an_addition_and_two_products_or_an_operator(networks, tmp_path):
  for lower, expected in ((True, ["ADD", "MUL", "MUL"]), (False, ["HARD_SWISH"])):
    quantized = networks.random_quantized(Swished(), SHAPE, lower=lower)
    path = export.tflite(quantized, tmp_path / "swish.tflite")
    assert names_of(path) == ["CONV_2D", *expected, "MEAN"]


def test_a_hard_sigmoid_of_a_layer_costs_no_operator(networks, tmp_path):
  quantized = networks.random_quantized(Swished("hard_sigmoid"), SHAPE, lower=False)
  path = export.tflite(quantized, tmp_path / "sigmoid.tflite")
  assert names_of(path) == ["CONV_2D", "HARD_SWISH", "MEAN"]
  output = read(path).subgraphs[0].tensors[read(path).subgraphs[0].operators[0].outputs[0]]
  assert output.quantization.scale[0] == np.float32(1 / 255)
  assert output.quantization.zeroPoint[0] == -128


@pytest.mark.parametrize("act", ["hard_swish", "tanh"])
def test_activation_functions_without_an_operator_name_their_layer(act, networks, tmp_path):
  graph = fuse_activations(networks.graph_of(Swished(), SHAPE)[0])
  conv = graph.nodes[0]
  conv = conv._replace(attrs=conv.attrs.copy({"act": act}))
  graph = graph._replace(nodes=(conv, *graph.nodes[1:]))
  with pytest.raises(ValueError, match=f"layer 'conv' has the activation function '{act}'"):
    export.tflite_float(graph, {}, tmp_path / "swish.tflite")


def test_a_float_file_holds_floats_of_the_folded_network(networks, tmp_path):
  graph, _ = networks.graph_of(Net(), SHAPE)
  rng = np.random.default_rng(0)
  layers = {
    node.name: Folded(
      rng.normal(size=shape).astype(np.float32), rng.normal(size=8), rng.normal(size=8)
    )
    for node in graph.nodes
    if (shape := kernel_shape(node)) is not None
  }
  path = export.tflite_float(graph, layers, tmp_path / "float.tflite", metadata={"a": 1})
  assert all(operator.is_float and operator.version == 1 for operator in read_operators(path))
  assert export.read_metadata(path)["a"] == 1
  assert layers["project0"].weights.transpose(3, 0, 1, 2).tobytes() in path.read_bytes()


def test_a_layer_that_was_not_folded_is_named(networks, tmp_path):
  graph, _ = networks.graph_of(Net(), SHAPE)
  with pytest.raises(ValueError, match="folded: layer 'stem' is missing"):
    export.tflite_float(graph, {}, tmp_path / "float.tflite")


@pytest.mark.parametrize("kernels", ["xnnpack", "reference", "tflm"])
def test_a_bare_file_is_smaller_and_computes_the_same(quantized, path, tmp_path, kernels):
  model = quantized.with_kernels(kernels)
  bare = export.tflite(model, tmp_path / "bare.tflite", bare=True)
  assert path.stat().st_size - bare.stat().st_size > 700
  images = np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)
  assert export.verify(bare, model, images).bit_equal == 1
  file = read(bare)
  assert not file.metadata and not file.signatureDefs and not file.description
  assert not any(tensor.name for tensor in file.subgraphs[0].tensors)


def test_a_bare_file_with_metadata_or_of_another_kind_is_an_error(quantized, tmp_path):
  with pytest.raises(ValueError, match="bare: a bare file has no metadata"):
    export.tflite(quantized, tmp_path / "a.tflite", bare=True, metadata={"classes": ["a"]})
  with pytest.raises(ValueError, match="bare must be True or False, got 'yes'"):
    export.tflite(quantized, tmp_path / "a.tflite", bare="yes")
