"""Rewrites a graph into the one that a device runs."""

from flax.core import FrozenDict

from jaxcompress.nn.graph import Graph, Node

FUSABLE = ("relu", "relu6")
HOSTS = ("ConvNorm", "BatchNorm", "Add", "Multiply")
POINTWISE = {"kernel": 1, "stride": 1, "padding": "VALID", "groups": "depthwise"}


def fuse_activations(graph: Graph) -> Graph:
  """Moves each rectifier into the op before it, as edge runtimes do.

  An ``Activation`` of ReLU or ReLU6 that alone reads the output of a convolution, a normalization,
  an add or a multiply becomes that node's ``act``. The node keeps its name and writes the
  activation's tensor, so the tensor in between is never rounded. A ``BatchNorm`` that no
  convolution precedes gets the attributes of the depthwise 1x1 convolution that it becomes.

  Args:
    graph: a traced graph.

  Returns:
    An equivalent graph; its tensors are the ones that quantization rounds.

  Raises:
    ValueError: for a ``BatchNorm`` of vectors.

  Examples:
    >>> from jaxcompress import models
    >>> graph = fuse_activations(models.summarize(models.resnet8(), 32).graph)
    >>> node = graph.producer("stage0_block0/relu")
    >>> node.op, node.attrs["act"]
    ('Add', 'relu')
  """
  nodes: list[Node] = []
  for node in graph.nodes:
    host = _host(graph, nodes, node)
    if host is None:
      if node.op == "BatchNorm" and len(node.input_shapes[0]) != 4:
        raise ValueError(
          f"model: {node.name!r} normalizes arrays of shape {node.input_shapes[0]}, which has no"
          " integer arithmetic; write a dense layer with BatchNorm as a ConvNorm of kernel 1 on maps"
          " of 1 x 1, as GlobalAvgPool(keepdims=True) makes them."
        )
      attrs = {**node.attrs, **POINTWISE} if node.op == "BatchNorm" else node.attrs
      nodes.append(node._replace(attrs=FrozenDict(attrs)))
    else:
      attrs = FrozenDict({**nodes[host].attrs, "act": node.attrs["act"]})
      nodes[host] = nodes[host]._replace(attrs=attrs, outputs=node.outputs)
  return graph._replace(nodes=tuple(nodes))


def _host(graph: Graph, nodes: list[Node], node: Node) -> int | None:
  """Position of the node that can take an activation in."""
  if node.op != "Activation" or node.attrs["act"] not in FUSABLE:
    return None
  (tensor,) = node.inputs
  if len(graph.consumers(tensor)) > 1:
    return None
  for i, candidate in enumerate(nodes):
    if candidate.output == tensor and candidate.op in HOSTS and not candidate.attrs.get("act"):
      return i
  return None
