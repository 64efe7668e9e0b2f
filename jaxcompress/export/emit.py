"""Leaf ops as TFLite operators: a table from a leaf op's name to the function that writes it."""

from collections.abc import Callable, Mapping

from jaxcompress.export.emit_elementwise import FUSED, activation, add, multiply, requantize
from jaxcompress.export.emit_layers import average_pool, convolution, dense, max_pool, mean
from jaxcompress.export.emit_moves import concat, shuffle, split
from jaxcompress.export.emitter import Emitter
from jaxcompress.nn import Node

EMITTERS: Mapping[str, Callable[[Emitter, Node], None]] = {
  "ConvNorm": convolution,
  "BatchNorm": convolution,
  "Dense": dense,
  "Add": add,
  "Multiply": multiply,
  "Activation": activation,
  "Requantize": requantize,
  "GlobalAvgPool": mean,
  "AvgPool": average_pool,
  "MaxPool": max_pool,
  "Concat": concat,
  "Split": split,
  "ChannelShuffle": shuffle,
}


def emit(emitter: Emitter) -> None:
  """Writes all nodes of a graph.

  Raises:
    ValueError: for a node that TFLite cannot hold; it names the layer.
  """
  for node in emitter.graph.nodes:
    if node.op not in EMITTERS:
      raise ValueError(
        f"model: layer {node.name!r} is a {node.op}, which has no TFLite operator here; it can be"
        f" one of {', '.join(EMITTERS)}."
      )
    act = node.attrs.get("act")
    if act not in FUSED and not (node.op == "Activation" and act == "hard_swish"):
      raise ValueError(
        f"model: layer {node.name!r} has the activation function {act!r}; TFLite files of"
        f" jaxcompress hold {', '.join(filter(None, FUSED))} in layers, and hard_swish as an"
        " Activation of its own."
      )
    EMITTERS[node.op](emitter, node)
