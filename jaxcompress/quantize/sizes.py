"""Bits that weights need, and the bytes that they take when they are packed."""

import math

import numpy as np

from jaxcompress.quantize.model import QuantizedModel


def bits_of(weights: np.ndarray) -> int:
  """The fewest bits whose symmetric integers hold some weights: 1 for -1 and 1 alone, else 2 to 8.

  Args:
    weights: int8, any shape.

  Examples:
    >>> [bits_of(np.int8(codes)) for codes in ([-7, 3], [8], [0], [-1, 1])]
    [4, 5, 2, 1]
  """
  magnitudes = np.abs(weights.astype(np.int32))
  if magnitudes.size and np.all(magnitudes == 1):
    return 1
  return max(2, int(magnitudes.max(initial=1)).bit_length() + 1)


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


def model_bytes(quantized: QuantizedModel) -> int:
  """Bytes of a model's packed weights, scales and biases; every layer has the bits that it needs.

  Args:
    quantized: from training or :func:`~jaxcompress.quantize.post_training`.

  Examples:
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize.integer import Grid
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grid = Grid(np.float32(0.1), 0)
    >>> model_bytes(
    ...   QuantizedModel(Graph((pool,), (1, 2, 2, 3), "pool"), {"input": grid, "pool": grid}, {})
    ... )
    0
  """
  return sum(
    packed_bytes(layer.weights.size, layer.bias.size, bits_of(layer.weights))
    for layer in quantized.layers.values()
  )
