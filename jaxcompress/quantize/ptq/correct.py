"""Bias correction: takes the mean of the rounding error out of every output channel."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import Folded, Graph
from jaxcompress.nn.execute import folded_layers, linear
from jaxcompress.nn.structure import OPERATIONS
from jaxcompress.ops.padding import both
from jaxcompress.quantize.ptq.equalize import scale_inputs
from jaxcompress.quantize.ptq.images import Batches
from jaxcompress.quantize.ptq.moments import Moments, tensor_means
from jaxcompress.quantize.ptq.observe import float_tensors

Weights = Mapping[str, np.ndarray]


def correct_with_images(
  graph: Graph, folded: Mapping[str, Folded], rounded: Weights, batches: Batches
) -> dict[str, Folded]:
  """Corrects biases by the mean that every layer's error has on images, padding included.

  One pass over the images: each layer reads what the float network gives it.

  Args:
    graph: with fused activations.
    folded: float layers.
    rounded: their weights on their grids, by name.
    batches: of images.

  Returns:
    The layers with new biases, ``b - E[x (W_q - W)]``.

  References:
    Nagel et al., `Data-Free Quantization Through Weight Equalization and Bias Correction
    <https://arxiv.org/abs/1906.04721>`_, 2019, section 4.2.
  """
  layers = folded_layers(folded)
  errors = {name: rounded[name] - layer.weights for name, layer in folded.items()}
  totals = {name: np.zeros(layer.bias.shape) for name, layer in folded.items()}
  count = 0.0
  for x, weight in batches:
    sums = jax.device_get(_shifts(graph, layers, errors, x, weight))
    totals = {name: total + sums[name] for name, total in totals.items()}
    count += float(weight.sum())
  return {
    name: layer._replace(bias=layer.bias - totals[name] / count) for name, layer in folded.items()
  }


@partial(jax.jit, static_argnums=0)
def _shifts(graph, layers, errors, x, weight):
  """(out,) mean over positions of what each layer's error adds, summed over images."""
  nodes = [node for node in graph.nodes if node.name in errors]
  tensors, shifts = float_tensors(graph, layers, x, [node.inputs[0] for node in nodes]), {}
  for node in nodes:
    zero = jnp.zeros(errors[node.name].shape[-1])
    y = linear(node, errors[node.name], zero, tensors[node.inputs[0]])
    shifts[node.name] = weight @ jnp.mean(y, axis=tuple(range(1, y.ndim - 1)))
  return shifts


def correct_with_moments(
  graph: Graph, folded: Mapping[str, Folded], rounded: Weights, moments: Mapping[str, Moments]
) -> dict[str, Folded]:
  """Corrects biases by the mean that BatchNorm foresees, ``b - E[x] (W_q - W)``; needs no image.

  Layers whose input has no known mean, such as those that read images, keep their bias; padding
  counts as if it had the mean too.

  Args:
    graph: with fused activations.
    folded: float layers.
    rounded: their weights on their grids, by name.
    moments: of the outputs of layers with BatchNorm, before the activation.

  Returns:
    The layers with new biases.
  """
  means = tensor_means(graph, moments)
  layers = dict(folded)
  for node in graph.nodes:
    mean = means.get(node.inputs[0])
    if node.name in folded and mean is not None:
      layer = folded[node.name]
      error = np.asarray(rounded[node.name], np.float64) - layer.weights
      shift = scale_inputs(node, error, mean).reshape(-1, error.shape[-1]).sum(axis=0)
      if OPERATIONS[node.op].spreads:  # outputs take turns at the taps
        shift = shift / np.prod(both(node.attrs["stride"]))
      layers[node.name] = layer._replace(bias=layer.bias - shift)
  return layers
