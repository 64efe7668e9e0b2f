"""Quantized networks with random integers, for comparing exact evaluation with LiteRT."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import export
from jaxcompress.nn import INPUT, kernel_shape, trace
from jaxcompress.quantize import Grid, Integers, QuantizedModel, find_sites


def graph_of(module: nn.Module, shape: tuple[int, ...]):
  """The fused graph of a module made of leaf ops, for images of one shape, and its sites."""
  x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  init = lambda key, x: module.init(key, x, train=False)  # noqa: E731
  sites = find_sites(trace(module, jax.eval_shape(init, jax.random.key(0), x), x))
  return sites.graph, sites.key_of


def random_quantized(module: nn.Module, shape: tuple[int, ...], seed: int = 0) -> QuantizedModel:
  """A quantized model with random integers, scales and zero points, that neither dies out nor saturates."""
  rng = np.random.default_rng(seed)
  graph, key_of = graph_of(module, shape)
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
    if kernel_shape(node) is not None:
      scale = rng.uniform(0.005, 0.1)
    zero_points = (-128, -20) if node.attrs.get("act") else (-90, 90)
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


def images_for(quantized: QuantizedModel, count: int, seed: int = 0) -> np.ndarray:
  """Float images that are quantized to every int8 code, and whose channels differ in their means."""
  rng = np.random.default_rng(seed)
  height, width, channels = quantized.graph.input_shape[1:]
  means = rng.uniform(-110, 110, (count, 1, 1, channels))
  codes = rng.normal(means, 50, (count, height, width, channels))
  grid = quantized.grids[INPUT]
  return ((np.rint(np.clip(codes, -128, 127)) - grid.zero_point) * grid.scale).astype(np.float32)


@pytest.fixture(scope="session")
def networks():
  """The functions of this file."""

  class Networks:
    graph_of = staticmethod(graph_of)
    random_quantized = staticmethod(random_quantized)
    random_integers = staticmethod(random_integers)
    images_for = staticmethod(images_for)

  return Networks


@pytest.fixture
def check(tmp_path):
  """Exports a quantized model, runs it in LiteRT on random images, and returns the verification."""

  def run(quantized: QuantizedModel, images: int = 8, seed: int = 0):
    path = export.tflite(quantized, tmp_path / "model.tflite")
    return export.verify(path, quantized, images_for(quantized, images, seed))

  return run
