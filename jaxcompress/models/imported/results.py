"""The outputs of the network among the results of a traced function, and their names."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.core import FrozenDict

from jaxcompress.models.imported import views
from jaxcompress.models.imported.axes import plain
from jaxcompress.models.imported.problems import Unreadable
from jaxcompress.models.imported.reading import Call, Reader, Value
from jaxcompress.models.imported.values import Op, Origin, Tensor
from jaxcompress.nn.graph import Endpoints
from jaxcompress.nn.outputs import as_endpoints


class End:
  """One output.

  Attributes:
    place: among all arrays that the function returns.
    op: that writes it.
    view: how the function sees it.
    shape: that it has there.
  """

  def __init__(self, place: int, tensor: Tensor, shape: views.Shape):
    self.place, self.shape = place, shape
    self.op, self.view = tensor

  @property
  def is_vector(self) -> bool:
    """Whether it is (batch, values)."""
    return len(self.view) < 3


def ends_of(found: Sequence[Value], output: Any, reader: Reader) -> tuple[End, dict[str, End]]:
  """The logits, and all outputs by name where there are several.

  Arrays that do not depend on the images, such as a state that is handed through, are left out.

  Args:
    found: the arrays that the function returns.
    output: their tree.
    reader: takes what is no output.

  Raises:
    ValueError: if none depends on the images, or the logits are no array.
  """
  leaves, treedef = jax.tree.flatten(output)
  ends = [
    _end(place, value, tuple(leaf.shape), reader) if isinstance(value, Tensor) else None
    for place, (value, leaf) in enumerate(zip(found, leaves, strict=True))
  ]
  known = [end for end in ends if end is not None]
  if not known:
    raise ValueError("apply: what it returns does not depend on the images.")
  if len(known) == 1:
    return known[0], {}
  result: Any = jax.tree.unflatten(treedef, ends)
  if isinstance(result, Endpoints):  # a network of ours, whose features are not outputs
    chosen: Any = result
    return chosen.logits, dict(chosen.outputs)
  named: Any = as_endpoints(result)
  return named.logits, dict(named.outputs)


def _end(place: int, tensor: Tensor, shape: views.Shape, reader: Reader) -> End:
  """An output with its axes whole."""
  call = Call("result", {}, (shape,), (np.dtype("float32"),), Origin(layer=reader.layer), reader)
  try:
    tensor = tensor if views.is_unknown(tensor.view) else plain(call, tensor)
  except Unreadable as problem:
    reader.report(call.origin, f"an output as {problem.operation}", problem.hint)
  return End(place, tensor, shape)


def endpoints(
  logits: End, outputs: Mapping[str, End], tensors: Mapping[Op, str], pooled: str | None
) -> Endpoints:
  """Names of tensors."""
  names = {name: tensors[end.op] for name, end in outputs.items()}
  found: Any = (tensors[logits.op], pooled, (), (), FrozenDict(names))
  return Endpoints(*found)


def seen(array: np.ndarray, end: End) -> np.ndarray:
  """An output of the imported network as the original has it."""
  return views.seen(array.reshape(len(array), *end.op.shape[1:]), end.view).reshape(end.shape)
