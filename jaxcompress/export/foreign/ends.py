"""The ends of a file: what it reads and gives, as integers of 8 or 16 bits, pixels or floats."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.export.contents import Tensor
from jaxcompress.export.foreign.builder import Builder
from jaxcompress.export.foreign.parts import Call
from jaxcompress.quantize.integer.functions import FUNCTIONS
from jaxcompress.quantize.integer.grid import LOWEST

PIXELS = 256
SHIFT = -LOWEST  # between unsigned codes and signed ones


@dataclasses.dataclass(frozen=True, eq=False)
class PixelTable:
  """Preprocessing by a table: what a network reads of each pixel in each channel.

  Attributes:
    values: (256, channels) float32.

  Examples:
    >>> PixelTable(np.arange(256, dtype=np.float32)[:, None] / 255)(np.uint8([[[[51]]]])).tolist()
    [[[[0.20000000298023224]]]]
  """

  values: np.ndarray

  def __call__(self, images: Any) -> np.ndarray:
    images = np.asarray(images)
    if images.dtype != np.uint8:
      raise ValueError(f"images: {images.dtype} must be uint8, which the file reads.")
    return self.values[images, np.arange(images.shape[-1])]


class Start(NamedTuple):
  """The input of a file.

  Attributes:
    type: ``"int8"``, ``"int16"``, ``"uint8"`` or ``"float32"``.
    codes: (256, channels) int8, of pixels; None of what is no pixels.
  """

  type: str
  codes: np.ndarray | None = None


def begin(builder: Builder) -> Start:
  """Finds the tensor of integers that is the input of the graph.

  Raises:
    ValueError: if the file has several inputs, or images that are no such integers.
  """
  parts = builder.parts
  if len(parts.inputs) != 1:
    raise ValueError(f"it has {len(parts.inputs)} inputs; a file with one is read")
  (index,) = parts.inputs
  tensor = builder.tensor(index)
  if len(tensor.shape) < 2 or tensor.shape[0] != 1:
    raise ValueError(f"it reads shape {tensor.shape}; one image at a time is read, (1, ...)")
  if tensor.type in ("INT8", "INT16"):
    builder.start(index, builder.grid(index))
    return Start(tensor.type.lower())
  readers = parts.readers(index)
  if tensor.type not in ("UINT8", "FLOAT32") or [call.code for call in readers] != ["QUANTIZE"]:
    raise ValueError(
      f"it reads {tensor.type}, by {' and '.join(call.code for call in readers) or 'nothing'}; files"
      " are read whose input is of 8 or 16 bits, or uint8 or float32 that a QUANTIZE makes so"
    )
  builder.done.add(readers[0].place)
  (signed,) = readers[0].outputs
  if tensor.type == "FLOAT32":
    builder.start(signed, builder.grid(signed))
    return Start("float32")
  if not _is_shifted(tensor, builder.tensor(signed)):
    raise ValueError("its uint8 input is rounded to another grid before anything else")
  channels = tensor.shape[-1]
  codes = np.broadcast_to(np.arange(-SHIFT, PIXELS - SHIFT)[:, None], (PIXELS, channels))
  looked_up = _looked_up(builder, signed)
  if looked_up is not None:
    calls, table, first = looked_up
    builder.done.update(call.place for call in calls)
    signed = calls[-1].outputs[0]
    codes = table[codes + first.ravel()]
  builder.start(signed, builder.grid(signed))
  return Start("uint8", codes.astype(np.int8))


def _is_shifted(unsigned: Tensor, signed: Tensor) -> bool:
  """Whether codes of a uint8 tensor are those of an int8 one, and 128 more."""
  scales, zeros = ([t.scales, t.zero_points] for t in (unsigned, signed)), None
  (first, before), (second, after) = scales
  if not first.size == second.size == 1 or signed.type != "INT8":
    return False
  zeros = [int(z[0]) if z.size else 0 for z in (before, after)]
  return bool(first[0] == second[0]) and zeros[0] == zeros[1] + SHIFT


def _looked_up(builder: Builder, index: int) -> tuple[list[Call], np.ndarray, np.ndarray] | None:
  """The operators that look the codes of a tensor up, the table, and what is added to the codes."""
  calls: list[Call] = []
  for code in ("CAST", "ADD", "GATHER"):
    readers = [call for call in builder.parts.readers(index) if call.code == code]
    if len(readers) != 1:
      return None
    calls += readers
    (index,) = readers[0].outputs
  _, added, found = calls
  first, table = builder.tensor(added.inputs[1]), builder.tensor(found.inputs[0])
  if first.values is None or table.values is None or table.type != "INT8":
    return None
  if found.option("axis", 0) or found.option("batchDims", 0) or table.values.ndim != 1:
    return None
  return calls, table.values, first.values


def look_up(builder: Builder, call: Call) -> None:
  """A table of codes, as files of ours hold those of activation functions: CAST, ADD and GATHER."""
  source = builder.grid(call.inputs[0])
  found = (
    _looked_up(builder, call.inputs[0])
    if len(builder.parts.readers(call.outputs[0])) == 1
    else None
  )
  if found is None:
    raise ValueError("it makes other numbers of integers than a table that is looked up")
  calls, table, first = found
  output = calls[-1].outputs[0]
  grid = builder.grid(output)
  if table.size != PIXELS or first.tolist() != [SHIFT] or source.bits != 8 or grid.bits != 8:
    raise ValueError("it looks up a table that is not one of 256 codes")
  wanted = table.astype(np.float32) - grid.zero_point
  for act, function in FUNCTIONS.items():
    if function.stored and np.array_equal(function.tables["tflm"](source, grid), wanted):
      read = builder.read(call.inputs[0])
      builder.add("Activation", {"act": act}, [read], output, grid=grid)
      builder.done.update(other.place for other in calls)
      return
  raise ValueError("it looks up a table that is not of a known activation function")


def find_outputs(builder: Builder) -> tuple[tuple[tuple[str, int], ...], dict[str, str]]:
  """The outputs of the graph, pairs of a name and the index of a tensor, and the types that the file gives them.

  Operators at the end that only shift codes or make floats of them are left out.
  """
  wanted, types = {}, {}
  for name, index in builder.parts.outputs.items():
    tensor, call = builder.tensor(index), builder.parts.maker(index)
    types[name] = tensor.type.lower()
    if (call is not None and call.code == "DEQUANTIZE" and tensor.type == "FLOAT32") or (
      call is not None
      and call.code == "QUANTIZE"
      and tensor.type == "UINT8"
      and _is_shifted(tensor, builder.tensor(call.inputs[0]))
    ):
      builder.done.add(call.place)
      (index,) = call.inputs
    wanted[name] = index
  return tuple(wanted.items()), types
