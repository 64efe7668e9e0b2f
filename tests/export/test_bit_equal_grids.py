"""Steps from one 8-bit grid to another, before what joins or adds tensors, in every runtime."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxcompress import export, quantize
from jaxcompress.nn import (
  Activation,
  Add,
  AvgPool,
  Concat,
  ConvNorm,
  Dense,
  GlobalAvgPool,
  Graph,
  MaxPool,
  Node,
  Split,
  init_variables,
)
from jaxcompress.quantize import QuantizedModel, assemble
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.runtimes import KERNELS, KERNELS_16

pytestmark = pytest.mark.usefixtures("optimized")

SHAPE = (9, 9, 3)


def step(source: Grid, output: Grid, codes: np.ndarray):
  """A model that requantizes codes twice and joins both, and images of these codes."""
  shape, whole = (1, 1, 1, codes.shape[-1]), (1, 1, 1, 2 * codes.shape[-1])
  attrs = {"kernel": 1, "stride": 1, "padding": "VALID"}
  nodes = (
    Node("pool", "MaxPool", attrs, ("input",), ("pool",), (shape,), (shape,)),
    Node("step", "Requantize", {}, ("pool",), ("step",), (shape,), (shape,)),
    Node("other", "Requantize", {}, ("input",), ("other",), (shape,), (shape,)),
    Node("cat", "Concat", {}, ("step", "other"), ("cat",), (shape, shape), (whole,)),
    Node("mean", "GlobalAvgPool", {"keepdims": False}, ("cat",), ("mean",), (whole,), ((1, whole[-1]),)),
  )  # fmt: skip
  grids = {"input": source, "pool": source} | dict.fromkeys(
    ("step", "other", "cat", "mean"), output
  )
  images = (codes - source.zero_point) * np.float64(source.scale)
  model = QuantizedModel(Graph(nodes, shape, "mean"), grids, {})
  return model, images.astype(np.float32).reshape(-1, 1, 1, codes.shape[-1])


LIMITS = (2.0**-10, float(np.nextafter(np.float32(256), np.float32(0))))


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [*LIMITS, 1 / 300, 1 / 256, 0.01, 1 / 3, 0.5, 1.0, 1.3, 100.0])
def test_every_code_is_requantized_as_in_the_runtime(ratio, kernels, check):
  rng = np.random.default_rng(int(1e6 * ratio))
  for count in (256, 251):
    source = Grid(np.float32(0.0625 * ratio), int(rng.integers(-128, 128)))
    output = Grid(np.float32(0.0625), int(rng.integers(-128, 128)))
    codes = np.stack([rng.permutation(256)[:count] - 128 for _ in range(4)])
    quantized, images = step(source, output, codes)
    result = check(quantized, images, kernels=kernels)
    assert (result.bit_equal, result.max_steps) == (1.0, 0)
    assert result.left_out == ()


def test_random_steps_are_requantized_as_in_the_runtime(kernels, check):
  rng = np.random.default_rng(7)
  for _ in range(12):
    source = Grid(np.float32(rng.uniform(1e-3, 1)), int(rng.integers(-128, 128)))
    ratio = np.exp(rng.uniform(-9, 5))
    output = Grid(np.float32(source.scale / ratio), int(rng.integers(-128, 128)))
    quantized, images = step(source, output, rng.integers(-128, 128, (8, 40)))
    assert check(quantized, images, kernels=kernels).bit_equal == 1.0


@pytest.mark.parametrize("bits", [(16, 16), (8, 16), (16, 8)])
def test_steps_between_grids_of_16_bits_are_bit_equal(bits, check):
  rng = np.random.default_rng(0)
  for ratio in (1.0, 3e-4, 0.3, 7.0):
    source, output = (
      Grid(np.float32(scale), 0 if width == 16 else 5, width)
      for width, scale in zip(bits, (0.01, 0.01 / ratio), strict=True)
    )
    low = -(2 ** (bits[0] - 1))
    shape = (1, 1, 1, 40)
    ends = (shape,), (shape,)
    node = Node("step", "Requantize", {}, ("input",), ("step",), *ends)
    quantized = QuantizedModel(Graph((node,), shape, "step"), {"input": source, "step": output}, {})
    codes = rng.integers(low, -low, (6, 1, 1, 40))
    images = ((codes - source.zero_point) * np.float64(source.scale)).astype(np.float32)
    for kernels in KERNELS_16:
      if kernels != "xnnpack-int4":
        assert check(quantized, images, kernels=kernels).bit_equal == 1.0


def test_xnnpack_requantizes_a_fine_tensor_without_an_error_of_scale():
  """Its QUANTIZE has 8 bits after the point: 3 / 256 in place of 1 / 100."""
  source, output = Grid(np.float32(0.01), -128), Grid(np.float32(1.0), -128)
  quantized, images = step(source, output, np.arange(-128, 128)[None])
  found = quantized.integers(images)[0, :256].astype(int) + 128
  np.testing.assert_allclose(found, np.arange(256) / 100, atol=0.5001)


class Unlike(nn.Module):
  """Tensors of very different sizes that are joined, pooled, split and added, and read by others."""

  @nn.compact
  def __call__(self, x, *, train):
    conv = lambda name, x, act="relu", features=8: ConvNorm(  # noqa: E731
      features, kernel=3, act=act, norm=None, name=name
    )(x, train=train)
    small, big = conv("small", x), conv("big", x)
    average = AvgPool(3, 1, "VALID", name="average")(conv("noise", small, act=None))
    inner = Concat(name="inner")(MaxPool(3, 1, "VALID", name="max")(small), average)
    left, right = Split((8, 8), name="split")(inner)
    cat = Concat(name="cat")(MaxPool(3, 1, "VALID", name="crop")(big), left)
    y = Add(name="add")(conv("after", cat, act=None), conv("other", right, act=None))
    y = Add(name="sum")(y, conv("huge", y))
    return Dense(5, name="head")(GlobalAvgPool(name="mean")(Add(name="last")(y, average)))


@pytest.fixture(scope="module")
def unlike():
  model = Unlike()
  variables = jax.tree.map(np.array, init_variables(model, jax.random.key(0), SHAPE))
  params = variables["params"]
  params["big"]["kernel"] *= np.float32(60)
  params["after"]["kernel"][:, :, :8] /= np.float32(60)
  params["noise"]["kernel"] *= np.float32(7)
  params["huge"]["kernel"] *= np.float32(9000)
  images = np.random.default_rng(0).normal(size=(14, *SHAPE)).astype(np.float32)
  return model, variables, images


OPTIONS = {
  "8 bits": {},
  "weights of 4 bits": {"bits": 4},
  "symmetric": {"symmetric": True},
  "16 bits": {"activation_bits": 16},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_tensors_with_grids_of_their_own_are_bit_equal_in_every_runtime(
  unlike, name, check, tmp_path
):
  model, variables, images = unlike
  quantized = quantize.post_training(
    model, variables, images, method="minmax", progress=False, **OPTIONS[name]
  )
  steps = {node.name for node in quantized.graph.nodes if node.op == "Requantize"}
  if name != "16 bits":
    assert {"split/on/big", "add/for/sum"} <= steps
    assert any(node.attrs.get("average") for node in quantized.graph.nodes)
  for kernels in KERNELS_16 if name == "16 bits" else KERNELS:
    if kernels != "xnnpack-int4":
      assert check(quantized, images, kernels=kernels).bit_equal == 1.0
  path = export.packed(quantized, tmp_path / "a.jcz")
  loaded = export.load_packed(path)
  np.testing.assert_array_equal(loaded.integers(images), quantized.integers(images))
  written = export.tflite(quantized, tmp_path / "a.tflite")
  assert export.unpack(path, tmp_path / "b.tflite").read_bytes() == written.read_bytes()
  run = export.load_stablehlo(export.stablehlo(quantized, tmp_path / "a.stablehlo"))
  found = run(quantized.quantize_input(images))
  np.testing.assert_array_equal(found, quantized.integers(images))
  if name == "weights of 4 bits":
    path = export.tflite(quantized, tmp_path / "c.tflite", weights="int4")
    for kernels in ("xnnpack-int4", "reference"):
      assert export.verify(path, quantized.with_kernels(kernels), images).bit_equal == 1.0


def test_targets_take_files_with_grids_of_their_own(unlike, tmp_path):
  model, variables, images = unlike
  quantized = quantize.post_training(model, variables, images, method="minmax", progress=False)
  for target in ("xnnpack", "tflm", "ethos-u", "edgetpu"):
    path = export.tflite(quantized, tmp_path / f"{target}.tflite", target=target)
    errors = [f for f in export.lint(path, target) if f.severity == "error"]
    assert not errors
  symmetric = quantize.post_training(
    model, variables, images, method="minmax", progress=False, symmetric=True
  )
  path = export.onnx(symmetric, tmp_path / "a.onnx", target="tensorrt")
  assert not [finding for finding in export.lint(path, "tensorrt") if finding.severity == "error"]


class Gated(nn.Module):
  """A gate that is joined with what it is the gate of."""

  @nn.compact
  def __call__(self, x, *, train):
    gate = Activation("hard_sigmoid", name="gate")(x)
    return GlobalAvgPool(name="mean")(Concat(name="cat")(x, gate))


def test_gates_that_are_joined_with_other_values_are_bit_equal(networks, check, kernels):
  graph, _ = networks.graph_of(Gated(), SHAPE)
  grids = {
    "input": Grid(np.float32(0.05), 3),
    "cat": Grid(np.float32(0.05), 3),
    "mean": Grid(np.float32(0.02), 0),
  }
  quantized = assemble(graph, {}, {}, grids)
  assert [node.name for node in quantized.graph.nodes if node.op == "Requantize"] == [
    "gate/on/input"
  ]
  assert check(quantized, kernels=kernels).bit_equal == 1.0


@pytest.mark.parametrize("op", ["Maximum", "Minimum", "Add"])
def test_numbers_of_another_grid_are_rounded_before_the_op(op, networks, kernels, check):
  shape = (1, 4, 4, 8)
  nodes = (
    Node("relu", "Activation", {"act": "relu"}, ("input",), ("relu",), (shape,), (shape,)),
    Node("fine", "Requantize", {}, ("relu",), ("fine",), (shape,), (shape,)),
    Node("op", op, {}, ("fine", "input"), ("op",), (shape, shape), (shape,)),
  )
  grids = {
    "input": Grid(np.float32(0.04), 50),
    "relu": Grid(np.float32(0.06), -128),
    "fine": Grid(np.float32(0.04), 50),
    "op": Grid(np.float32(0.04), 50),
  }
  quantized = QuantizedModel(Graph(nodes, shape, "op"), grids, {})
  assert check(quantized, kernels=kernels).bit_equal == 1.0
