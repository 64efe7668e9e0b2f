"""Matrix products of two activations as TFLite operators."""

from jaxcompress.export.emit_operators import operator
from jaxcompress.export.emitter import Emitter
from jaxcompress.nn import Node


def matrix_product(emitter: Emitter, node: Node) -> None:
  """BATCH_MATMUL."""
  inputs, outputs = emitter.inputs(node), emitter.outputs(node)
  fields = {"adjX": False, "adjY": bool(node.attrs["transpose_second"])}
  operator(emitter, "BATCH_MATMUL", inputs, outputs, node.output, "BatchMatMulOptions", **fields)
