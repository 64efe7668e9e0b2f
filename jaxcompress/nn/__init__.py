"""Leaf ops, what models return, and the graph that interception reads from them."""

from jaxcompress.nn.execute import Folded, fold
from jaxcompress.nn.graph import INPUT, Endpoints, Graph, Node
from jaxcompress.nn.initial import init_variables
from jaxcompress.nn.layers import BatchNorm, ConvNorm, Dense, LeafOp
from jaxcompress.nn.norm import Norm
from jaxcompress.nn.operations import count_macs, count_parameters, fuse_activations, kernel_shape
from jaxcompress.nn.structure import (
  Activation,
  Add,
  AvgPool,
  ChannelShuffle,
  Concat,
  GlobalAvgPool,
  MaxPool,
  Multiply,
  Split,
)
from jaxcompress.nn.tracing import trace

__all__ = [
  "INPUT",
  "Activation",
  "Add",
  "AvgPool",
  "BatchNorm",
  "ChannelShuffle",
  "Concat",
  "ConvNorm",
  "Dense",
  "Endpoints",
  "Folded",
  "GlobalAvgPool",
  "Graph",
  "LeafOp",
  "MaxPool",
  "Multiply",
  "Node",
  "Norm",
  "Split",
  "count_macs",
  "count_parameters",
  "fold",
  "fuse_activations",
  "init_variables",
  "kernel_shape",
  "trace",
]
