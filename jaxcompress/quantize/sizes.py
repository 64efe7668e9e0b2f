"""Bytes that weights take when they are packed."""

import math

import numpy as np

from jaxcompress.quantize.model import QuantizedModel
from jaxcompress.quantize.storage import forms_of


def packed_bytes(weights: int, channels: int, bits: int) -> int:
  """Bytes of a layer whose weights lie side by side without gaps.

  ``ceil(weights * bits / 8) + 8 * channels``: the weights, and for each output channel a float32
  scale and an int32 bias. Runtimes for .tflite files keep weights of fewer than 8 bits in a byte
  each; what is counted here is what a packed store, or nearly what a compressed file, takes.

  Examples:
    >>> packed_bytes(432, 16, 8), packed_bytes(432, 16, 3)
    (560, 290)
  """
  return math.ceil(weights * bits / 8) + 8 * channels


def weight_bytes(weights: np.ndarray) -> int:
  """Bytes of a layer's integers in the smallest of four forms.

  Dense: the bits that the largest needs. Sparse: a bitmap, and those that are not zero. Clustered: a
  codebook, and indices into it. Sparse and clustered: all three. :func:`jaxcompress.export.packed`
  writes these, and deflates each part where that makes it smaller.

  Args:
    weights: int8, output channels last.

  Examples:
    >>> weight_bytes(np.int8([[100], [-100], [0], [3], [0], [0], [0], [0]]))  # a bitmap and 3 bytes
    4
    >>> weight_bytes(np.full((100, 1), 7, np.int8))  # 7, and a bit for each
    14
  """
  return min(stored.nbytes for stored in forms_of(weights).values())


def zero_share(quantized: QuantizedModel) -> float:
  """Share of a model's weights that are zero, over all layers with a kernel.

  Args:
    quantized: from training or :func:`~jaxcompress.quantize.post_training`.

  Examples:
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize import Grid, Integers
    >>> node = Node("dense", "Dense", {"features": 1}, ("input",), ("dense",), ((1, 4),), ((1, 1),))
    >>> grids = dict.fromkeys(("input", "dense"), Grid(np.float32(0.1), 0))
    >>> weights = np.int8([[0], [9], [0], [0]])
    >>> layers = {"dense": Integers(weights, np.ones(1, np.float32), np.zeros(1, np.int32))}
    >>> zero_share(QuantizedModel(Graph((node,), (1, 4), "dense"), grids, layers))
    0.75
  """
  kernels = [layer.weights for layer in quantized.layers.values()]
  alive = sum(int(np.count_nonzero(kernel)) for kernel in kernels)
  return 1 - alive / max(1, sum(kernel.size for kernel in kernels))


def model_bytes(quantized: QuantizedModel) -> int:
  """Bytes of a model's packed weights, scales and biases.

  Every layer is in the form that takes it least, see :func:`weight_bytes`, with a float32 scale and
  an int32 bias for each output channel.

  Args:
    quantized: from training or :func:`~jaxcompress.quantize.post_training`.

  Examples:
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize import Grid, Integers
    >>> shapes = ((1, 8),), ((1, 1),)
    >>> node = Node("dense", "Dense", {"features": 1}, ("input",), ("dense",), *shapes)
    >>> grid = Grid(np.float32(0.1), 0)
    >>> weights = np.int8([[0], [0], [0], [9], [0], [0], [-9], [0]])
    >>> layers = {"dense": Integers(weights, np.ones(1, np.float32), np.zeros(1, np.int32))}
    >>> grids = {"input": grid, "dense": grid}
    >>> model = QuantizedModel(Graph((node,), (1, 8), "dense"), grids, layers)
    >>> model_bytes(model), zero_share(model)  # a bitmap, 2 values of 5 bits, and 8
    (11, 0.75)
  """
  return sum(
    weight_bytes(layer.weights) + 8 * layer.bias.size for layer in quantized.layers.values()
  )
