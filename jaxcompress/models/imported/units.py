"""A leaf op of the network that is made, before it has a name."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxcompress.models.imported.values import Op, Origin
from jaxcompress.models.imported.weights import Weight


@dataclasses.dataclass(eq=False)
class Unit:
  """One leaf op of the network that is made.

  Attributes:
    op: its name.
    outputs: tensors that it writes.
    inputs: tensors that it reads.
    fields: of the leaf op.
    params: arrays that are trained.
    stats: running statistics.
    path: of the leaf that it is named by, or None.
    origin: where it stands.
  """

  op: str
  outputs: tuple[Op, ...]
  inputs: tuple[Op, ...]
  fields: dict[str, Any]
  params: dict[str, Weight] = dataclasses.field(default_factory=dict)
  stats: dict[str, Weight] = dataclasses.field(default_factory=dict)
  path: str | None = None
  origin: Origin = dataclasses.field(default_factory=Origin)

  @property
  def number(self) -> float:
    """Its place in the order."""
    return min(op.number for op in self.outputs)


def one_or_pair(sizes: Sequence[int]) -> int | tuple[int, int]:
  """One number where height and width have the same."""
  height, width = (int(size) for size in sizes)
  return height if height == width else (height, width)


def as_convolution(unit: Unit) -> Unit:
  """A linear layer as the convolution of a map of 1 x 1 that it is."""
  (source,) = unit.inputs
  height, width = source.shape[1:3]
  features = unit.fields["features"]
  shape = (height, width, source.shape[3], features)
  fields = {
    "features": features,
    "kernel": one_or_pair((height, width)),
    "stride": 1,
    "groups": 1,
    "padding": "VALID",
    "act": None,
    "norm": unit.fields.get("norm"),
    "use_bias": unit.fields["use_bias"],
  }
  return dataclasses.replace(unit, op="ConvNorm", fields=fields, params=_reshaped(unit, shape))


def as_linear(unit: Unit) -> Unit:
  """A convolution of the whole map as the linear layer that it is."""
  features = unit.fields["features"]
  fields = {"features": features, "use_bias": unit.fields["use_bias"]}
  return dataclasses.replace(
    unit, op="Dense", fields=fields, params=_reshaped(unit, (-1, features))
  )


def _reshaped(unit: Unit, shape: tuple[int, ...]) -> dict[str, Weight]:
  return {**unit.params, "kernel": unit.params["kernel"].reshaped(shape)}
