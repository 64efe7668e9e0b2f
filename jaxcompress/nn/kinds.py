"""What a layer is in its network: the first, the last, depthwise, pointwise or linear."""

from jaxcompress.nn.graph import INPUT, Graph, Node

WITH_KERNEL = ("ConvNorm", "Dense")


def layer_kinds(graph: Graph) -> dict[str, frozenset[str]]:
  """Words for every layer that has a kernel, read off the graph.

  ``"first"``: it reads the image, or what operations without a kernel make of the image alone.
  ``"last"``: the logits are its output, or what operations without a kernel make of it.
  ``"depthwise"``: a convolution with as many groups as input channels, of which there are several.
  ``"pointwise"``: any other convolution whose kernel is 1x1. ``"dense"``: a linear layer. Networks
  with several inputs or heads have several first or last layers.

  Args:
    graph: traced.

  Examples:
    >>> from jaxcompress import models
    >>> kinds = layer_kinds(models.summarize(models.mobilenet_v2(10), 32).graph)
    >>> sorted(kinds["stem"]), sorted(kinds["stage0_block0/depthwise"]), sorted(kinds["classifier"])
    (['first'], ['depthwise'], ['dense', 'last'])
  """
  weighted = [node for node in graph.nodes if node.op in WITH_KERNEL]
  first, last = _readers(graph), _writers(graph)
  return {
    node.name: frozenset(
      (*_own_kinds(node), *("first",) * (node.name in first), *("last",) * (node.name in last))
    )
    for node in weighted
  }


def _readers(graph: Graph) -> set[str]:
  """Layers with a kernel between which and the image there is none."""
  found, image = set(), {INPUT}
  for node in graph.nodes:
    if image.issuperset(node.inputs):
      if node.op in WITH_KERNEL:
        found.add(node.name)
      else:
        image.update(node.outputs)
  return found


def _writers(graph: Graph) -> set[str]:
  """Layers with a kernel between which and the logits there is none."""
  found, logits = set(), {graph.output}
  for node in reversed(graph.nodes):
    if logits.intersection(node.outputs):
      if node.op in WITH_KERNEL:
        found.add(node.name)
      else:
        logits.update(node.inputs)
  return found


def _own_kinds(node: Node) -> tuple[str, ...]:
  if node.op == "Dense":
    return ("dense",)
  groups, channels = node.attrs["groups"], node.input_shapes[0][-1]
  if groups == "depthwise" or 1 < channels == groups:
    return ("depthwise",)
  return ("pointwise",) if node.attrs["kernel"] == 1 else ()
