"""The first operations of a network computed in strips of columns, so that their rows are short.

A strip is a network of its own on some columns of the input. What its windows read beyond them is computed
by its neighbour too: less memory is paid for with multiply-adds, and the integers stay the same.
"""

from collections.abc import Iterator
from typing import NamedTuple

from jaxcompress.export.c99.emitted import Emitted, Network, Part, Tensor, Window

SLIDING = (
  "convolution",
  "depthwise",
  "pool",
)  # structures that tell how a window moves over columns
BY_WIDTH = ("parts", "shuffle", "channels")
BY_COUNT = ("table", "shift")

Range = tuple[int, int]
"""Columns: the first, and the one after the last."""


class Strips(NamedTuple):
  """A network whose first operations are there once for each strip.

  Attributes:
    network: of all operations.
    each: operations of each strip; they come first, strip after strip.
    more: multiply-adds that are computed again.
  """

  network: Network
  each: tuple[int, ...]
  more: int


def striped_ends(network: Network) -> Iterator[int]:
  """How many first operations can be computed in strips: those of which one map goes on."""
  tensors, kept = network.tensors, {tensor for _, tensor in network.outputs}
  last = {name: i for i, emitted in enumerate(network.operations) for name in emitted.inputs}
  made: list[str] = []
  for i, emitted in enumerate(network.operations):
    if _columns(network, emitted) is None:
      return
    made += emitted.outputs
    goes_on = [name for name in (network.input, *made) if last.get(name, -1) > i or name in kept]
    is_last = goes_on == [emitted.outputs[0]] and goes_on[0] not in kept
    if is_last and len(emitted.outputs) == 1 and len(tensors[goes_on[0]].shape) == 3:
      yield i + 1


def in_strips(network: Network, stop: int, count: int) -> Strips | None:
  """A network whose operations before ``stop``, one of :func:`striped_ends`, run in strips.

  Returns:
    None if the last map has fewer columns than there are strips.
  """
  end = network.operations[stop - 1].outputs[0]
  width = network.tensors[end].shape[1]
  if width < count:
    return None
  tensors, parts = dict(network.tensors), dict(network.parts)
  for emitted in network.operations[: stop - 1]:
    for name in emitted.outputs:
      del tensors[name]
  operations: list[Emitted] = []
  each = []
  for strip in range(count):
    columns = width * strip // count, width * (strip + 1) // count
    made = _strip(network, stop, strip, columns, tensors, parts)
    operations += made
    each.append(len(made))
  again = sum(_macs(e, tensors) for e in operations)
  before = sum(_macs(e, network.tensors) for e in network.operations[:stop])
  rest = network.operations[stop:]
  striped = network._replace(operations=(*operations, *rest), tensors=tensors, parts=parts)
  return Strips(striped, tuple(each), again - before)


def _columns(network: Network, emitted: Emitted) -> Window | None:
  """Columns that each of the output reads; None where an operation cannot run on some of them."""
  shapes = [network.tensors[name].shape for name in (*emitted.inputs, *emitted.outputs)]
  rows = all(isinstance(reads, Window) for reads in emitted.reads)
  if emitted.kind != "rows" or not rows or emitted.params is None:
    return None
  if any(len(shape) != 3 for shape in shapes):
    return None
  struct, fields = emitted.params.struct, emitted.params.fields
  if struct in SLIDING:
    if fields["in_width"] != shapes[0][1] or fields["out_width"] != shapes[-1][1]:
      return None
    dilation = fields.get("dilation", 1)
    return Window(fields["kernel_width"], fields["stride"], fields["left"], dilation)
  alike = all(shape[1] == shapes[0][1] for shape in shapes)
  if struct in BY_WIDTH or struct in BY_COUNT:
    return Window() if alike else None
  if struct == "pair":
    flat = fields["width"] == 1 and all(shape == shapes[0] for shape in shapes)
    return Window() if flat else None
  return None


def _strip(
  network: Network,
  stop: int,
  strip: int,
  columns: Range,
  tensors: dict[str, Tensor],
  parts: dict[str, Part],
) -> list[Emitted]:
  """The operations of a strip; its tensors are added to the others."""
  end = network.operations[stop - 1].outputs[0]
  needed: dict[str, Range] = {end: columns}
  plans: list[tuple[Emitted, Range, Range, int]] = []
  for emitted in reversed(network.operations[:stop]):
    wanted = [needed[name] for name in emitted.outputs if name in needed]
    if not wanted:
      continue
    out = min(low for low, _ in wanted), max(high for _, high in wanted)
    read, left = _read(network, emitted, out)
    for name in emitted.outputs:
      needed[name] = out
    for name in emitted.inputs:
      low, high = needed.get(name, read)
      needed[name] = min(low, read[0]), max(high, read[1])
    plans.append((emitted, out, read, left))
  needed[network.input] = 0, network.tensors[network.input].shape[1]
  made = []
  for emitted, out, read, left in reversed(plans):
    inputs = [
      _part(network, name, needed[name], read, strip, tensors, parts) for name in emitted.inputs
    ]
    outputs = [_stored(network, name, out, strip, end, tensors, parts) for name in emitted.outputs]
    made.append(_narrowed(network, emitted, out, read, left, inputs, outputs))
  return made


def _read(network: Network, emitted: Emitted, out: Range) -> tuple[Range, int]:
  """Columns that some of the output read, and those of padding before them."""
  window = _columns(network, emitted)
  assert window is not None
  width = network.tensors[emitted.inputs[0]].shape[1]
  low = out[0] * window.stride - window.before
  high = (out[1] - 1) * window.stride - window.before + (window.rows - 1) * window.dilation + 1
  first = min(max(low, 0), width - 1)
  return (first, max(min(high, width), first + 1)), first - low


def _cell_bytes(tensor: Tensor) -> int:
  return tensor.row_bytes // tensor.shape[1]


def _narrow(tensor: Tensor, name: str, columns: Range) -> Tensor:
  rows, _, channels = tensor.shape
  return Tensor(name, (rows, columns[1] - columns[0], channels), tensor.dtype)


def _part(network, name: str, stored: Range, read: Range, strip: int, tensors, parts) -> str:
  """The name of the columns that are read of what a strip has."""
  own = name if name == network.input else f"{name} {strip}"
  if stored == read:
    return own
  part = f"{own} from {read[0]} to {read[1]}"
  tensors[part] = _narrow(network.tensors[name], part, read)
  parts[part] = Part(own, (read[0] - stored[0]) * _cell_bytes(network.tensors[name]))
  return part


def _stored(network, name: str, out: Range, strip: int, end: str, tensors, parts) -> str:
  """The name of what a strip makes of a tensor; of the last one it is a part."""
  own = f"{name} {strip}"
  tensors[own] = _narrow(network.tensors[name], own, out)
  if name == end:
    parts[own] = Part(end, out[0] * _cell_bytes(network.tensors[end]))
  return own


def _narrowed(network, emitted: Emitted, out: Range, read: Range, left: int, inputs, outputs):
  """An operation on some columns."""
  params = emitted.params
  assert params is not None
  width = out[1] - out[0]
  fields = dict(params.fields)
  if params.struct in SLIDING:
    fields |= {"in_width": read[1] - read[0], "out_width": width, "left": left}
  elif params.struct in BY_WIDTH:
    fields["width"] = width
  else:
    field = "channels" if params.struct == "pair" else "count"
    fields[field] = fields[field] // network.tensors[emitted.outputs[0]].shape[1] * width
  return emitted._replace(
    params=params._replace(fields=fields), inputs=tuple(inputs), outputs=tuple(outputs)
  )


def _macs(emitted: Emitted, tensors) -> int:
  """Multiply-adds of an operation."""
  if emitted.params is None or emitted.params.struct not in ("convolution", "depthwise"):
    return 0
  fields, shape = emitted.params.fields, tensors[emitted.outputs[0]].shape
  depth = fields["in_channels"] // fields["groups"] if "groups" in fields else 1
  cells = shape[0] * fields["out_width"] * shape[-1]
  return int(cells * fields["kernel_height"] * fields["kernel_width"] * depth)
