"""Leaf ops, what models return, and the graph that interception reads from them."""

from jaxcompress.nn.activations import activate
from jaxcompress.nn.bounds import check_graph
from jaxcompress.nn.endpoints import Endpoints
from jaxcompress.nn.epilogue import Epilogue, ending
from jaxcompress.nn.execute import execute, folded_layers
from jaxcompress.nn.fold import Folded, fold
from jaxcompress.nn.fuse import fuse_activations
from jaxcompress.nn.graph import (
  INPUT,
  Graph,
  Node,
  count_macs,
  count_parameters,
  kernel_shape,
  macs,
  needed_shape,
  parameters,
  with_parameters,
)
from jaxcompress.nn.initial import Initial, init_variables
from jaxcompress.nn.interception import intercept
from jaxcompress.nn.kinds import layer_kinds
from jaxcompress.nn.layers import MOMENTS, BatchNorm, ConvNorm, Dense, LeafOp
from jaxcompress.nn.norm import Norm, batch_norm
from jaxcompress.nn.replay import LEAF_OPS, Layer, Replay, replay
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
from jaxcompress.nn.tracing import (
  is_leaf_call,
  module_path,
  trace,
  trace_endpoints,
  trace_init,
)

__all__ = [
  "INPUT",
  "LEAF_OPS",
  "MOMENTS",
  "Activation",
  "Add",
  "AvgPool",
  "BatchNorm",
  "ChannelShuffle",
  "Concat",
  "ConvNorm",
  "Dense",
  "Endpoints",
  "Epilogue",
  "Folded",
  "GlobalAvgPool",
  "Graph",
  "Initial",
  "Layer",
  "LeafOp",
  "MaxPool",
  "Multiply",
  "Node",
  "Norm",
  "Replay",
  "Split",
  "activate",
  "batch_norm",
  "check_graph",
  "count_macs",
  "count_parameters",
  "ending",
  "execute",
  "fold",
  "folded_layers",
  "fuse_activations",
  "init_variables",
  "intercept",
  "is_leaf_call",
  "kernel_shape",
  "layer_kinds",
  "macs",
  "module_path",
  "needed_shape",
  "parameters",
  "replay",
  "trace",
  "trace_endpoints",
  "trace_init",
  "with_parameters",
]
