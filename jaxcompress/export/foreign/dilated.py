"""Dilated convolutions as TensorFlow's converter spells them: between SPACE_TO_BATCH_ND and its inverse.

The cells of a map that a dilated kernel reads together become images of their own, over which the kernel
moves without gaps; so every sum is that of the dilated convolution.
"""

from flax.core import FrozenDict

from jaxcompress.export.foreign import weighted
from jaxcompress.export.foreign.builder import Builder
from jaxcompress.export.foreign.parts import Call

KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D")


def dilated(builder: Builder, call: Call) -> None:
  """SPACE_TO_BATCH_ND, a convolution, and BATCH_TO_SPACE_ND."""
  inner = _only_reader(builder, call)
  outer = _only_reader(builder, inner) if inner and inner.code in KINDS else None
  if inner is None or outer is None or outer.code != "BATCH_TO_SPACE_ND":
    raise ValueError("cells become images for something else than a dilated convolution")
  block = [int(n) for n in builder.values(call, 1, "block").ravel()]
  (top, bottom), (left, right) = _pairs(builder, call, "padding")
  (above, below), (before, behind) = _pairs(builder, outer, "crops")
  plain = all(
    int(inner.option(name, 1)) == 1
    for name in ("strideH", "strideW", "dilationHFactor", "dilationWFactor", "padding")
  )
  same = [int(n) for n in builder.values(outer, 1, "block").ravel()] == block
  if not plain or not same or above or before or below > bottom or behind > right:
    raise ValueError("cells become images for no dilated convolution that is known")
  down, across = block
  options = {**inner.options, "dilationHFactor": down, "dilationWFactor": across}
  whole = inner._replace(
    inputs=(call.inputs[0], *inner.inputs[1:]), outputs=outer.outputs, options=options
  )
  pads = ((top, bottom - below), (left, right - behind))
  weighted.READERS[inner.code](builder, whole)
  node = builder.nodes[-1]
  builder.nodes[-1] = node._replace(attrs=FrozenDict({**node.attrs, "padding": pads}))
  builder.done |= {inner.place, outer.place}


def _pairs(builder: Builder, call: Call, what: str) -> list[list[int]]:
  pairs = builder.values(call, 2, what)
  if pairs.shape != (2, 2):
    raise ValueError(f"its {what} are {pairs.tolist()}")
  found: list[list[int]] = pairs.tolist()
  return found


def _only_reader(builder: Builder, call: Call) -> Call | None:
  """The one operator that reads what another one writes."""
  readers = builder.parts.readers(call.outputs[0])
  if len(readers) != 1 or call.outputs[0] in builder.parts.outputs.values():
    return None
  return readers[0]
