"""An ONNX file in the making: nodes, and every identical constant once.

Importing this module needs the ``edge`` extra.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 21
IR_VERSION = 10  # the one that came with the opset


class OnnxFile:
  """Collects nodes and constants; tensors are known by their names."""

  def __init__(self):
    self._nodes: list[onnx.NodeProto] = []
    self._constants: dict[tuple, str] = {}
    self._initializers: list[onnx.TensorProto] = []

  def constant(self, data: np.ndarray | np.generic, *, own: bool = False) -> str:
    """Name of a constant; one that is there already is used again, unless it is to be its reader's own."""
    data = np.asarray(data, order="C")  # ascontiguousarray would give a scalar an axis
    key: Any = (data.dtype.str, data.shape, data.tobytes(), len(self._constants) if own else None)
    if key not in self._constants:
      name = self._constants[key] = f"c{len(self._constants)}"
      self._initializers.append(numpy_helper.from_array(data, name))
    return self._constants[key]

  def operator(
    self, kind: str, inputs: Sequence[str], outputs: Sequence[str] | str, **attributes: Any
  ) -> str:
    """Adds a node, named after its first output, and returns that output's name."""
    outputs = [outputs] if isinstance(outputs, str) else list(outputs)
    self._nodes.append(helper.make_node(kind, list(inputs), outputs, outputs[0], **attributes))
    return outputs[0]

  def rename(self, tensor: str, name: str) -> None:
    """Gives a tensor another name, wherever it is written and read."""
    for node in self._nodes:
      for names in (node.input, node.output):
        names[:] = [name if found == tensor else found for found in names]

  def again(self, tensor: str, name: str) -> None:
    """Computes a tensor once more, under another name: by the node that writes it."""
    (maker,) = (node for node in self._nodes if tensor in node.output)
    if maker.op_type == "DequantizeLinear":
      copy = helper.make_node(maker.op_type, list(maker.input), [name], name)
      copy.attribute.extend(maker.attribute)
      self._nodes.append(copy)
    else:
      self.operator("Identity", [tensor], name)

  def knows(self, name: str) -> bool:
    """Whether a tensor has a name already."""
    used = {name for node in self._nodes for name in (*node.input, *node.output)}
    return name in used or name in self._constants.values()

  def to_bytes(
    self,
    name: str,
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    *,
    producer: tuple[str, str],
    metadata: Mapping[str, str],
  ) -> bytes:
    """The file, checked by ONNX.

    Args:
      name: of the graph.
      inputs: shapes of float32 inputs; a size that is a name is free.
      outputs: likewise.
      producer: name and version of what writes it.
      metadata: texts kept in the file.
    """
    read, written = (
      [helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, list(shape)) for end, shape in of]
      for of in (inputs.items(), outputs.items())
    )
    model = helper.make_model(
      helper.make_graph(self._nodes, name, read, written, self._initializers),
      opset_imports=[helper.make_opsetid("", OPSET)],
      ir_version=IR_VERSION,
      producer_name=producer[0],
      producer_version=producer[1],
    )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)
