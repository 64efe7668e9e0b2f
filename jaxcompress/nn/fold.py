"""Folds BatchNorm into the convolution before it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.nn.graph import Graph, Node, kernel_shape, needed_shape, parameters


class Folded(NamedTuple):
  """A layer in evaluation: ``y = conv(x, kernel) * factor + bias``.

  Attributes:
    kernel: as trained, float32; (k, k, in / groups, out) or (in, out); ones for a normalization
      without a convolution.
    factor: (out,) float64, ``gamma / sqrt(variance + epsilon)``; ones without BatchNorm.
    bias: (out,) float64, ``beta - (mean - b) * factor`` with the convolution's bias ``b``, or the
      layer's own bias.
  """

  kernel: np.ndarray
  factor: np.ndarray
  bias: np.ndarray

  @property
  def weights(self) -> np.ndarray:
    """The kernel times its factor, float32: what a float runtime convolves with."""
    return (self.kernel * self.factor.reshape((1,) * (self.kernel.ndim - 1) + (-1,))).astype(
      np.float32
    )


def fold(graph: Graph, variables: Mapping[str, Any]) -> dict[str, Folded]:
  """Folds the running statistics of every layer of a graph.

  ``W' = W * gamma / sqrt(v + e)`` and ``b' = beta + (b - m) * gamma / sqrt(v + e)``. The kernel
  and its factor are kept apart, because symmetric per-channel integers of the kernel are, up to
  the sign of the factor, those of the folded weights.

  Args:
    graph: a traced graph.
    variables: the model's ``params`` and ``batch_stats``, arrays.

  Returns:
    A :class:`Folded` for each node that has a kernel, by name.

  Raises:
    ValueError: if a value is not finite.

  Examples:
    >>> import jax
    >>> from jaxcompress import models
    >>> summary = models.summarize(models.resnet8(num_classes=10))
    >>> ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), summary.variables)
    >>> stem = fold(summary.graph, ones)["stem"]
    >>> stem.kernel.shape, round(float(stem.factor[0]), 4), round(float(stem.bias[0]), 4)
    ((3, 3, 3, 16), 1.0, 0.0)

  References:
    Jacob et al., `Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference <https://arxiv.org/abs/1712.05877>`_, 2018, equation 14.
  """
  layers = {}
  for node in graph.nodes:
    if kernel_shape(node) is not None:
      layers[node.name] = _fold_node(
        node,
        parameters(variables.get("params", {}), node.name),
        parameters(variables.get("batch_stats", {}), node.name),
      )
  return layers


def _fold_node(node: Node, params: Mapping[str, Any], stats: Mapping[str, Any]) -> Folded:
  kernel = np.asarray(params.get("kernel", np.ones(needed_shape(node))), np.float32)
  out = kernel.shape[-1]
  shift = np.asarray(params.get("bias", np.zeros(out)), np.float64)
  if node.attrs.get("norm") is None:
    folded = Folded(kernel, np.ones(out), shift)
  else:
    variance = np.asarray(stats["var"], np.float64) + node.attrs["norm"].epsilon
    factor = np.asarray(params["scale"], np.float64) / np.sqrt(variance)
    mean = np.asarray(stats["mean"], np.float64) - np.asarray(params.get("conv_bias", 0))
    folded = Folded(kernel, factor, shift - mean * factor)
  if not all(np.isfinite(array).all() for array in folded):
    raise ValueError(
      f"variables: layer {node.name!r} holds values that are not finite; train with a lower"
      " learning rate."
    )
  return folded
