"""Packed files give back every integer; other files are refused."""

import dataclasses
import json
import os
import pathlib
import re
import struct
import tracemalloc
import zlib

import flax.linen as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as read_arrays

from jaxcompress import export, models
from jaxcompress.data import Preprocess
from jaxcompress.export.packed import _seal
from jaxcompress.export.packing import (
  Blob,
  deflate,
  inflate,
  pack_bits,
  restore,
  shrink,
  unpack_bits,
  unzigzag,
  zigzag,
)
from jaxcompress.nn import Activation, ConvNorm, Dense, GlobalAvgPool, kernel_shape
from jaxcompress.quantize import model_bytes
from jaxcompress.quantize.model import Move, QuantizedModel
from jaxcompress.quantize.storage import bits_of

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "packed"
SHAPE = (6, 6, 3)
FACTS = {"classes": ["b", "ä"], "preprocess": {"scale": 64.1, "per_image": True}, "a": [1, None]}


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, stride=2, act="relu6", name="stem")(x, train=train)
    x = ConvNorm(8, kernel=3, groups="depthwise", act="relu", name="depthwise")(x, train=train)
    x = Activation("hard_swish", name="swish")(ConvNorm(8, name="project")(x, train=train))
    return Dense(5, name="classifier")(GlobalAvgPool(name="pool")(x))


def weights_of(rng, bits, shape):
  """Weights that need as many bits: -1 and 1 of one bit, else the highest and zero are there."""
  if bits == 1:
    return rng.choice(np.int8([-1, 1]), shape)
  high = 2 ** (bits - 1) - 1
  weights = rng.integers(-high, high + 1, shape).astype(np.int8)
  weights.flat[:2] = high, 0
  return weights


def with_bits(quantized, bits):
  """The same model with other weights, of so many bits in each layer; and channels that moved."""
  rng = np.random.default_rng(0)
  layers = {
    name: layer._replace(weights=weights_of(rng, b, layer.weights.shape))
    for (name, layer), b in zip(quantized.layers.items(), bits, strict=True)
  }
  moves = {"stem": Move(rng.uniform(0.5, 2, 8), rng.normal(size=8))}
  return QuantizedModel(quantized.graph, quantized.grids, layers, None, quantized.kernels, moves)


@pytest.fixture(scope="module")
def quantized(networks):
  return with_bits(networks.random_quantized(Net(), SHAPE), (8, 3, 1, 2))


@pytest.fixture(scope="module")
def content(quantized, tmp_path_factory):
  path = tmp_path_factory.mktemp("packed") / "net.jcz"
  return export.packed(quantized, path, metadata=FACTS).read_bytes()


@pytest.fixture
def path(content, tmp_path):
  path = tmp_path / "net.jcz"
  path.write_bytes(content)
  return path


def assert_same(found, expected):
  assert found.graph == expected.graph and hash(found.graph) == hash(expected.graph)
  assert (found.grids, found.kernels, found.preprocess) == (expected.grids, expected.kernels, None)
  assert all(type(grid.scale) is np.float32 for grid in found.grids.values())
  for kind in ("layers", "moves"):
    ours, theirs = getattr(found, kind), getattr(expected, kind)
    assert list(ours) == list(theirs)
    for name in theirs:
      for one, other in zip(ours[name], theirs[name], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@given(st.integers(1, 8), st.integers(2, 40), st.integers(0, 99))
def test_packed_integers_are_given_back_in_the_fewest_bytes(bits, count, seed):
  weights = weights_of(np.random.default_rng(seed), bits, (count,))
  assert bits_of(weights) == bits
  data = pack_bits(weights, bits)
  assert data.nbytes == -(-count * bits // 8)
  np.testing.assert_array_equal(unpack_bits(data, count, bits), weights)
  with pytest.raises(ValueError, match="cannot hold"):
    unpack_bits(data, count + 8, bits)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9))
def test_deflated_numbers_are_given_back_and_counted(values):
  values = np.array(values, np.int64)
  data = deflate(zigzag(values))
  np.testing.assert_array_equal(unzigzag(inflate(data, np.uint64, len(values))), values)
  assert zigzag(values).tolist() == [2 * v if v >= 0 else -2 * v - 1 for v in values.tolist()]
  with pytest.raises(ValueError, match="are not"):
    inflate(data, np.uint64, len(values) + 1)


def test_every_array_grid_and_attribute_is_what_it_was(path, quantized):
  assert_same(export.load_packed(path), quantized)


def test_a_loaded_model_reads_pixels_as_the_one_that_was_saved(quantized, tmp_path):
  saved = dataclasses.replace(quantized, preprocess=Preprocess(scale=50.0, per_image=False))
  loaded = export.load_packed(export.packed(saved, tmp_path / "net.jcz", metadata={"a": 1}))
  pixels = np.random.default_rng(0).integers(0, 256, (5, *SHAPE)).astype(np.uint8)
  assert loaded.preprocess == saved.preprocess
  np.testing.assert_array_equal(loaded(pixels), saved(pixels))


def test_sixteen_bit_activations_keep_their_wide_biases(networks, tmp_path):
  wide = networks.with_widths(networks.random_quantized(Net(), SHAPE), lambda key: 16)
  assert {layer.bias.dtype for layer in wide.layers.values()} == {np.dtype(np.int64)}
  wide = wide.with_kernels("reference")
  assert_same(export.load_packed(export.packed(wide, tmp_path / "wide.jcz")), wide)


def test_the_tflite_file_is_byte_for_byte_the_one_exported_directly(path, quantized, tmp_path):
  direct = export.tflite(quantized, tmp_path / "direct.tflite", metadata=FACTS)
  assert export.unpack(path, tmp_path / "net.tflite").read_bytes() == direct.read_bytes()
  assert export.read_metadata(path) == export.read_metadata(direct)


def test_the_same_model_gives_the_same_bytes_and_no_other_file(path, content, tmp_path):
  again = export.packed(export.load_packed(path), tmp_path / "again.jcz", metadata=FACTS)
  assert again.read_bytes() == content
  assert sorted(os.listdir(tmp_path)) == ["again.jcz", "net.jcz"]


def test_metadata_that_is_no_json_is_refused_and_nothing_is_written(quantized, tmp_path):
  with pytest.raises(ValueError, match="metadata: it is no JSON"):
    export.packed(quantized, tmp_path / "net.jcz", metadata={"x": float("nan")})
  assert os.listdir(tmp_path) == []


def refused(path):
  with pytest.raises(ValueError) as caught:
    export.load_packed(path)
  message = str(caught.value)
  assert "\n" not in message and str(path) in message
  return message


def test_files_with_flipped_bytes_or_cut_ends_are_refused(content, tmp_path):
  rng, path = np.random.default_rng(0), tmp_path / "damaged.jcz"
  header = int.from_bytes(content[:8], "little") + 8
  places = [*range(8), *rng.integers(8, header, 150), *rng.integers(header, len(content), 50)]
  for place in places:
    damaged = bytearray(content)
    damaged[place] ^= int(rng.integers(1, 256))
    path.write_bytes(damaged)
    refused(path)
  for size in (0, 1, 8, 9, header - 1, header, *rng.integers(0, len(content), 50)):
    path.write_bytes(content[:size])
    refused(path)
  path.write_bytes(content + b"\0")
  refused(path)


def test_files_of_others_are_refused(quantized, tmp_path):
  model = models.resnet8(3)
  variables = models.summarize(model, 8).variables
  zeros = {k: _zeros(v) for k, v in variables.items()}
  other = models.save(tmp_path / "float.jcz", model, zeros)
  assert "is no packed file of jaxcompress" in refused(other)
  assert "is no packed file" in refused(export.tflite(quantized, tmp_path / "net.tflite"))
  assert "cannot be read" in refused(tmp_path / "missing.jcz")
  assert "cannot be read" in refused(tmp_path)
  with pytest.raises(ValueError, match="names a model that cannot be built"):
    models.load(export.packed(quantized, tmp_path / "net.jcz"))


def _zeros(tree):
  if isinstance(tree, dict):
    return {key: _zeros(value) for key, value in tree.items()}
  return np.zeros(tree.shape, tree.dtype)


def test_a_later_format_says_to_update(content, path):
  path.write_bytes(content.replace(rb"{\"packed\": 2", rb"{\"packed\": 3"))
  assert "has format 3 and this version reads 1 to 2; update jaxcompress" in refused(path)


def test_a_file_of_the_first_format_is_read(quantized, tmp_path):
  found, expected = export.load_packed(GOLDEN / "format1.jcz"), np.load(GOLDEN / "format1.npz")
  assert found.graph == quantized.graph
  for name, layer in found.layers.items():
    for field in layer._fields:
      np.testing.assert_array_equal(getattr(layer, field), expected[f"{name}/{field}"])
  assert export.read_metadata(GOLDEN / "format1.jcz")["classes"] == FACTS["classes"]
  again = export.packed(found, tmp_path / "again.jcz", metadata=FACTS)
  assert rb"{\"packed\": 2" in again.read_bytes()
  assert_same(export.load_packed(again), found)


def resealed(content, change):
  """The file with a changed manifest and a checksum that is right."""
  arrays = dict(read_arrays(content))
  manifest = json.loads(inflate(arrays["manifest"], np.uint8).tobytes())
  change(manifest, arrays)
  arrays["manifest"] = deflate(np.frombuffer(json.dumps(manifest).encode(), np.uint8))
  return _seal(arrays)


def leaves(tree, where=()):
  """Paths to everything in a JSON value."""
  pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
  for key, value in pairs:
    yield (*where, key)
    if isinstance(value, (dict, list)):
      yield from leaves(value, (*where, key))


def node(manifest, index=0):
  return manifest["graph"]["nodes"][index]


def everywhere(size):
  """A first layer that consistently reads images of a size."""

  def change(manifest, arrays):
    manifest["graph"]["input_shape"] = node(manifest)["input_shapes"][0] = [1, size, size, 3]
    node(manifest)["output_shapes"] = [[1, -(-size // 2), -(-size // 2), 8]]

  return change


HOSTILE = {
  "'stem' reads 'stem'": lambda m, a: node(m).update(inputs=["stem"]),
  "'stem' reads 'project'": lambda m, a: node(m).update(inputs=["project"]),
  "'stem' reads 'nowhere'": lambda m, a: node(m).update(inputs=["nowhere"]),
  "'depthwise' is there twice": lambda m, a: m["graph"]["nodes"].insert(2, node(m, 1)),
  "writes 'stem', which is there already": lambda m, a: node(m, 1).update(outputs=["stem"]),
  "its output 'end' is made by no node": lambda m, a: m["graph"].update(output="end"),
  r"'stem' has shape \(1, -3, 3, 8\)": lambda m, a: node(m).update(output_shapes=[[1, -3, 3, 8]]),
  r"'input' has shape \(1, 6, 0, 3\)": lambda m, a: m["graph"].update(input_shape=[1, 6, 0, 3]),
  r"'input' has shape .*2.5.*whole": lambda m, a: m["graph"].update(input_shape=[1, 6, 2.5, 3]),
  "'input' has shape .* more than the 67,108,864": everywhere(2**20),
  "'input' has shape .* more than": everywhere(10**40),
  "'stem/kernel' has shape .* more than": lambda m, a: node(m)["attrs"].update(kernel=2**20),
  "'stem' writes shapes .* a ConvNorm makes": lambda m, a: node(m).update(
    output_shapes=[[1, 4, 4, 8]]
  ),
  "'depthwise' reads shapes": everywhere(12),
  "'stem' is no ConvNorm that can run .*stride": lambda m, a: node(m)["attrs"].update(stride=0),
  "'stem' has attributes that no ConvNorm has": lambda m, a: node(m)["attrs"].update(groups=0),
  "'stem' is a 'Loop', which this version": lambda m, a: node(m).update(op="Loop"),
  "30,000 nodes": lambda m, a: m["graph"].update(nodes=[node(m)] * 30_000),
  "1000000000 channels of 'stem' moved": lambda m, a: m["moves"].update(stem=10**9),
  "'else' is no tensor": lambda m, a: m["moves"].update({"else": 8}),
  "the number NaN": lambda m, a: m["grids"].update(stem=[float("nan"), 0, 8]),
  "the number Infinity": lambda m, a: m["grids"].update(stem=[float("inf"), 0, 8]),
  "scale inf": lambda m, a: m["grids"].update(stem=[1e300, 0, 8]),
  "nested more than 64 deep": lambda m, a: m.update(metadata=json.loads("[" * 99 + "]" * 99)),
  "are not the parts": lambda m, a: m["weights"].update(stem=[2**40, 0, 0, 0, 7]),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("reason", HOSTILE)
def test_sealed_contents_that_are_no_network_are_refused_with_what_is_wrong(reason, content, path):
  path.write_bytes(resealed(content, HOSTILE[reason]))
  assert re.search(reason, refused(path))


def test_consistent_shapes_of_any_size_below_the_bound_are_a_model(content, path):
  def change(manifest, arrays):
    everywhere(12)(manifest, arrays)
    for index, side in ((1, 6), (2, 6), (3, 6), (4, 6), (5, 6)):
      one = node(manifest, index)
      one["input_shapes"] = [[1, side, side, 8]] * len(one["input_shapes"])
      if one["op"] != "GlobalAvgPool":
        one["output_shapes"] = [[1, side, side, 8]]

  path.write_bytes(resealed(content, change))
  assert export.load_packed(path).graph.input_shape == (1, 12, 12, 3)


@pytest.mark.slow
def test_a_manifest_that_inflates_to_gigabytes_is_refused_in_no_time_and_room(content, path):
  writer = zlib.compressobj(9)
  pieces = [writer.compress(b" " * 2**24) for _ in range(64)]  # 1 GB in 1 MB
  bomb = b"".join([*pieces, writer.flush()])
  arrays = {**read_arrays(content), "manifest": np.frombuffer(bomb, np.uint8)}
  path.write_bytes(_seal(arrays))
  tracemalloc.start()
  try:
    assert "more than 16,777,216 bytes when inflated" in refused(path)
    assert tracemalloc.get_traced_memory()[1] < 2**27
  finally:
    tracemalloc.stop()


def test_metadata_beyond_what_is_read_is_not_written(quantized, tmp_path):
  for metadata, message in (
    ({"a": "x" * 2**24}, r"metadata: it is no JSON \(16,\d{3},\d{3} bytes"),
    ({"a": json.loads("[" * 64 + "]" * 64)}, "more than 64 deep"),
  ):
    with pytest.raises(ValueError, match=message):
      export.packed(quantized, tmp_path / "net.jcz", metadata=metadata)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", ["0", "-1", "2.5", "true", "null", r"\"2\"", "9" * 30])
def test_numbers_of_formats_that_are_none_or_later_say_so(number, content, path):
  old, new = rb"{\"packed\": 2", rb"{\"packed\": " + number.encode()
  size = int.from_bytes(content[:8], "little") + len(new) - len(old)
  path.write_bytes(size.to_bytes(8, "little") + content[8:].replace(old, new))
  later = number.startswith("9")
  assert ("reads 1 to 2; update" if later else "formats are counted from 1") in refused(path)


JUNK = [None, -1, 10**30, 0.5, "", "x", [], [[]], {}, {"x": 1}, True]


def test_forged_contents_are_refused_or_are_a_model(content, path):
  manifest = json.loads(inflate(read_arrays(content)["manifest"], np.uint8).tobytes())
  places, rng = list(leaves(manifest)), np.random.default_rng(0)
  accepted = 0
  for _ in range(150):
    place, junk = places[rng.integers(len(places))], JUNK[rng.integers(len(JUNK))]

    def forge(manifest, arrays, place=place, junk=junk):
      for key in place[:-1]:
        manifest = manifest[key]
      manifest[place[-1]] = junk

    path.write_bytes(resealed(content, forge))
    try:
      assert isinstance(export.load_packed(path), QuantizedModel)
      accepted += 1
    except ValueError as error:
      assert "\n" not in str(error) and str(path) in str(error)
  assert accepted < 75


@settings(max_examples=25)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path_factory, data):
  path = tmp_path_factory.getbasetemp() / "junk.jcz"
  for junk in (data, struct.pack("<Q", len(data)) + data):
    path.write_bytes(junk)
    refused(path)


@pytest.mark.parametrize("name", ["scales", "biases", "moves", "weights/stem", "manifest"])
def test_arrays_that_are_missing_or_short_are_named_in_one_line(content, path, name):
  arrays = dict(read_arrays(content))
  for change in ({name: arrays[name][:-1]}, {}):
    path.write_bytes(_seal({k: v for k, v in arrays.items() if k != name} | change))
    assert "has contents that are no model" in refused(path)


def test_the_weights_of_a_file_take_the_bits_that_they_need(content, quantized):
  arrays = read_arrays(content)
  sizes = {name: arrays[f"weights/{name}"].nbytes for name in quantized.layers}
  counts = [np.prod(kernel_shape(n)) for n in quantized.graph.nodes if kernel_shape(n)]
  dense = [-(-n * b // 8) for n, b in zip(counts, (8, 3, 1, 2), strict=True)]
  ternary = np.count_nonzero(quantized.layers["classifier"].weights)
  bitmap_and_signs = -(-counts[-1] // 8) + -(-ternary // 8)
  assert list(sizes.values()) == [*dense[:-1], min(dense[-1], bitmap_and_signs)]
  channels = sum(layer.bias.size for layer in quantized.layers.values())
  assert sum(sizes.values()) + 8 * channels == model_bytes(quantized)


def pruned_and_clustered(quantized):
  """The same model with 2 of 4 inputs in one layer, 5 values and flipped channels in another."""
  rng, layers = np.random.default_rng(0), dict(quantized.layers)
  project = rng.integers(1, 128, layers["project"].weights.shape).astype(np.int8)
  project[:, :, ::2] = 0
  codebook = np.int8([-80, -9, 0, 31, 115])
  stem = rng.choice(codebook, layers["stem"].weights.shape) * np.int8([1, 1, -1, 1, -1, -1, 1, 1])
  for name, weights in {"project": project, "stem": stem}.items():
    layers[name] = layers[name]._replace(weights=weights)
  return QuantizedModel(quantized.graph, quantized.grids, layers)


def test_zeros_and_codebooks_make_files_smaller_and_are_given_back(quantized, tmp_path):
  model = pruned_and_clustered(quantized)
  path = export.packed(model, tmp_path / "net.jcz")
  arrays = read_arrays(path.read_bytes())
  blobs = json.loads(inflate(arrays["manifest"], np.uint8).tobytes())["weights"]
  project, stem = (Blob(*blobs[name]) for name in ("project", "stem"))
  assert (project.bitmap, project.codebook, project.values) == (8, 0, 32)
  assert stem.bits <= 3 and stem.signs == 1 and stem.codebook in (4, 5)
  assert_same(export.load_packed(path), model)
  direct = export.tflite(model, tmp_path / "direct.tflite")
  assert export.unpack(path, tmp_path / "net.tflite").read_bytes() == direct.read_bytes()


@pytest.mark.parametrize(("bits", "megabytes"), [(4, 2.0), (2, 1.1), (1, 0.65)])
def test_mobilenet_v2_is_as_small_as_promised_whatever_its_weights(bits, megabytes):
  """Random integers, which deflate does not shrink, in every layer with a kernel."""
  rng = np.random.default_rng(bits)
  nodes = models.summarize(models.mobilenet_v2(), 224).graph.nodes
  shapes = [kernel_shape(node) for node in nodes if kernel_shape(node) is not None]
  values = [-1, 1] if bits == 1 else np.arange(1 - 2 ** (bits - 1), 2 ** (bits - 1))
  total = 0
  for shape in shapes:
    weights = rng.choice(np.int8(values), shape)
    total += len(shrink(pack_bits(weights, bits_of(weights)))) + 8 * shape[-1]
  assert 0.7 * megabytes < total / 1e6 < megabytes - 0.02  # of graph and grids
  assert sum(map(np.prod, shapes)) > 3_400_000


def test_flipped_bits_in_sparse_and_clustered_weights_are_refused(quantized, tmp_path):
  path = export.packed(pruned_and_clustered(quantized), tmp_path / "net.jcz")
  content = path.read_bytes()
  for name in ("project", "stem"):
    blob = read_arrays(content)[f"weights/{name}"].tobytes()
    start = content.index(blob)
    for place in range(start, start + len(blob), 3):
      path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
      assert "is damaged" in refused(path)


@given(st.binary(max_size=60), st.integers(0, 200))
def test_shrunk_bytes_are_given_back_and_never_more(data, zeros):
  data = np.frombuffer(data + bytes(zeros), np.uint8)
  small = shrink(data)
  assert small.size <= data.size
  np.testing.assert_array_equal(restore(small, data.size), data)
