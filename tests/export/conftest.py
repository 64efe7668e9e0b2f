"""Quantized networks with random integers, for comparing exact evaluation with LiteRT."""

import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import export
from jaxcompress.nn import INPUT, fold, kernel_shape, trace
from jaxcompress.nn.graph import parameters
from jaxcompress.nn.tracing import is_leaf_call, module_path
from jaxcompress.quantize import QuantizedModel, absmax, assemble, levels
from jaxcompress.quantize.fake_quant import affine
from jaxcompress.quantize.integer.functions import fixed_grid
from jaxcompress.quantize.integer.grid import Grid, Integers
from jaxcompress.quantize.integer.lower import lower_gates, lower_grids
from jaxcompress.quantize.integer.runtimes import KERNELS
from jaxcompress.quantize.limits import widen_grids
from jaxcompress.quantize.model import bias_type
from jaxcompress.quantize.sites import find_sites


def graph_of(module: nn.Module, shape: tuple[int, ...], lower: bool = False):
  """The fused graph of a module made of leaf ops, for images of one shape, and its sites."""
  x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  init = lambda key, x: module.init(key, x, train=False)  # noqa: E731
  sites = find_sites(trace(module, jax.eval_shape(init, jax.random.key(0), x), x))
  if lower:
    sites = find_sites(lower_gates(sites.graph))
  return sites.graph, sites.key_of


def random_quantized(
  module: nn.Module, shape: tuple[int, ...], seed: int = 0, lower: bool = True
) -> QuantizedModel:
  """A quantized model with random integers, scales and zero points, that neither dies out nor saturates."""
  rng = np.random.default_rng(seed)
  graph, key_of = graph_of(module, shape, lower)
  grids, layers = {}, {}

  def grid(tensor, scale, zero_points=(-128, 127)):
    key = key_of[tensor]
    if key not in grids:
      grids[key] = Grid(np.float32(scale), int(rng.integers(zero_points[0], zero_points[1] + 1)))
    return grids[key]

  grid(INPUT, rng.uniform(0.005, 0.1))
  for node in graph.nodes:
    inputs = [float(grids[key_of[name]].scale) for name in node.inputs]
    scale = max(inputs) * rng.uniform(0.3, 3.0)
    if node.op == "Multiply":
      scale = inputs[0] * inputs[1] * rng.uniform(20, 200)
    if node.op == "MatMul":
      scale = inputs[0] * inputs[1] * rng.uniform(20, 200) * node.input_shapes[0][-1] ** 0.5
    if node.op == "RmsNorm" or (kernel_shape(node) is not None and node.op != "ChannelMean"):
      scale = rng.uniform(0.005, 0.1)
    if fixed_grid(node):
      grids[key_of[node.output]] = fixed_grid(node)
    zero_points = (-128, -20) if str(node.attrs.get("act")).startswith("relu") else (-90, 90)
    for tensor in node.outputs:
      output = grid(tensor, scale, zero_points)
    if kernel_shape(node) is not None:
      layers[node.name] = random_integers(rng, kernel_shape(node), inputs[0], float(output.scale))
  return QuantizedModel(graph, {t: grids[key] for t, key in key_of.items()}, layers)


def random_integers(rng, shape, input_scale: float, output_scale: float) -> Integers:
  """Weights whose outputs spread over the output's grid; some channels are all zero."""
  weights = rng.integers(-127, 128, shape).astype(np.int8)
  weights[..., rng.random(shape[-1]) < 0.1] = 0
  spread = 5000.0 * np.prod(shape[:-1]) ** 0.5  # of an accumulator
  multipliers = 50.0 / spread * rng.uniform(0.3, 3.0, shape[-1])
  scales = (multipliers * output_scale / input_scale).astype(np.float32)
  bias = rng.normal(0.0, spread / 3, shape[-1]).astype(np.int32)
  return Integers(weights, scales, bias)


def with_widths(quantized: QuantizedModel, bits) -> QuantizedModel:
  """The same network with ``bits(name of a grid)`` in each grid; 16-bit steps are 256 times finer.

  Weights and scales stay; a bias stands for the same real number.
  """
  sites = find_sites(quantized.graph)
  grids = dict(quantized.grids)
  for tensor, key in sites.keys:
    if bits(key) == 16:
      grids[tensor] = Grid(grids[tensor].scale / np.float32(256), 0, 16)
  for node in sites.graph.nodes:
    if fixed_grid(node):
      grids[node.output] = fixed_grid(node, grids[node.output].bits)
  graph, grids = lower_grids(sites.graph, grids, sites.nonnegative, {})
  grids, layers = widen_grids(graph, grids, {}), {}
  before = {node.name: quantized.grids[node.inputs[0]].scale for node in sites.graph.nodes}
  for node in graph.nodes:
    if kernel_shape(node) is not None:
      layer, source = quantized.layers[node.name], grids[node.inputs[0]]
      bias = np.rint(layer.bias * (np.float64(before[node.name]) / source.scale))
      layers[node.name] = layer._replace(bias=bias.astype(bias_type(source)))
  return QuantizedModel(graph, grids, layers)


def images_for(quantized: QuantizedModel, count: int, seed: int = 0) -> np.ndarray:
  """Float images that are quantized to every code, and whose channels differ in their means."""
  rng = np.random.default_rng(seed)
  height, width, channels = quantized.graph.input_shape[1:]
  grid = quantized.grids[INPUT]
  fine = 2 ** (grid.bits - 8)
  means = rng.uniform(-110, 110, (count, 1, 1, channels))
  codes = np.rint(fine * rng.normal(means, 50, (count, height, width, channels)))
  steps = np.clip(codes - grid.zero_point, grid.low, grid.high)
  return (steps * grid.scale).astype(np.float32)


def trained_like(model, shape, seed=0):
  """Variables with negative and zero gammas, and channels whose weights are all zero."""
  rng = np.random.default_rng(seed)
  init = lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)  # noqa: E731

  def draw(path, leaf):
    kind, shape = path[-1].key, leaf.shape
    if kind == "kernel":
      kernel = rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)
      return np.where(rng.random(shape[-1]) < 0.1, 0.0, kernel).astype(np.float32)
    if kind == "scale":
      gamma = rng.normal(1.0, 0.3, shape) * rng.choice([1, 1, 1, 1, -1], shape)
      return np.where(rng.random(shape) < 0.1, 0.0, gamma).astype(np.float32)
    other = rng.uniform(0.3, 2.0, shape) if kind == "var" else rng.normal(0, 0.3, shape)
    return other.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init))


def calibrated(model: nn.Module, variables, images, **options):
  """Float logits, and the quantized model with the ranges of the images."""
  graph, key_of = graph_of(model, images.shape[1:])

  @jax.jit
  def forward(variables, images):
    seen = {"input": images}

    def remember(next_fun, args, kwargs, context):
      result = next_fun(*args, **kwargs)
      if is_leaf_call(context):
        outputs = result if isinstance(result, tuple) else (result,)
        name = module_path(context.module)
        seen.update({f"{name}:{i}" if i else name: output for i, output in enumerate(outputs)})
      return result

    with nn.intercept_methods(remember):
      result = model.apply(variables, images, train=False)
      return getattr(result, "logits", result), seen

  logits, seen = forward(variables, images)
  grids = {}
  for tensor, key in key_of.items():
    values = [seen[other] for other in key_of if key_of[other] == key and other in seen]
    low, high = (f([f(array) for array in values]) for f in (np.min, np.max))
    scale, zero_point = affine(low, high, levels(8, symmetric=False))
    grids[tensor] = Grid(np.float32(scale), int(zero_point))
  layers = fold(graph, variables)
  kernels = {name: parameters(variables["params"], name).get("kernel") for name in layers}
  scales = {
    name: np.asarray(absmax(8).grid((), (), kernel)[0]).reshape(-1)
    for name, kernel in kernels.items()
    if kernel is not None
  }
  return np.asarray(logits), graph, layers, assemble(graph, layers, scales, grids, **options)


def write(quantized: QuantizedModel, folder: pathlib.Path, kernels: str) -> pathlib.Path:
  """The file of a model that a runtime runs."""
  if kernels == "onnxruntime":
    return export.onnx(quantized, folder / "model.onnx")
  return export.tflite(quantized, folder / "model.tflite")


@pytest.fixture(autouse=True, scope="session")
def emulated_processor():
  """Has all files run on the processor that ``JAXCOMPRESS_PROCESSOR`` names, where it has a build."""
  name, real = os.environ.get("JAXCOMPRESS_PROCESSOR"), export.Runtime.__init__

  def start(self, path, **options):
    if options.get("kernels") not in ("tflm", "c") and options.get("processor") is None:
      options["processor"] = name
    real(self, path, **options)

  with pytest.MonkeyPatch.context() as patch:
    if name:
      patch.setattr(export.Runtime, "__init__", start)
    yield


@pytest.fixture(scope="session")
def networks():
  """The functions of this file."""

  class Networks:
    graph_of = staticmethod(graph_of)
    random_quantized = staticmethod(random_quantized)
    random_integers = staticmethod(random_integers)
    with_widths = staticmethod(with_widths)
    images_for = staticmethod(images_for)
    trained_like = staticmethod(trained_like)
    calibrated = staticmethod(calibrated)
    write = staticmethod(write)

  return Networks


@pytest.fixture
def check(tmp_path):
  """Exports a quantized model, runs it in a runtime on random images, and returns the verification."""

  def run(quantized: QuantizedModel, images=8, seed: int = 0, kernels: str = "xnnpack"):
    path = write(quantized, tmp_path, kernels)
    quantized = quantized.with_kernels(kernels)
    if isinstance(images, int):
      images = images_for(quantized, images, seed)
    return export.verify(path, quantized, images)

  return run


@pytest.fixture(params=KERNELS)
def kernels(request):
  """Every runtime's name."""
  return request.param
