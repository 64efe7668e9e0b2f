"""The operations of a network as C functions: what each reads, writes and may overwrite.

All functions of the sources have one shape::

  void NAME(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y);

A tensor is row-major (rows, columns, channels) without its batch, int8 or int16. Its rows are the first
axis of what has two or three; a vector is one row. A *row operation* computes row ``y`` of all its
outputs, to which ``out`` points; ``in`` lists the rows that it reads, input after input, NULL for rows
of padding. A *whole operation* is called once, with ``y = 0`` and pointers to whole tensors. A *fold* is
called once for each row of its first input, in order, keeps sums in its scratch between the calls, and
has written its outputs, whole, after the last one.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

PADDING = -1
"""The place of a row that is not there."""


class Window(NamedTuple):
  """Rows that a row of the output reads: ``y * stride - before + i * dilation`` for each ``i``.

  Attributes:
    rows: how many.
    stride: from the first of an output row to that of the next.
    before: rows of padding before the first; negative where the first rows are not read.
    dilation: from one row to the next.

  Examples:
    >>> Window(3, 2, 1).of(0, 8), Window(3, 2, 1).of(1, 8)
    ((-1, 0, 1), (1, 2, 3))
  """

  rows: int = 1
  stride: int = 1
  before: int = 0
  dilation: int = 1

  def of(self, y: int, height: int) -> tuple[int, ...]:
    """Rows of an input of so many that output row ``y`` reads; :data:`PADDING` beyond its ends."""
    first = y * self.stride - self.before
    places = (first + i * self.dilation for i in range(self.rows))
    return tuple(place if 0 <= place < height else PADDING for place in places)


class Table(NamedTuple):
  """Rows that each row of the output reads, listed.

  Attributes:
    places: for each row of the output as many rows of the input; :data:`PADDING` for none.

  Examples:
    >>> Table(((0, 0), (0, 1))).of(1, 2), Table(((0, 0), (0, 1))).rows
    ((0, 1), 2)
  """

  places: tuple[tuple[int, ...], ...]

  @property
  def rows(self) -> int:
    """How many a row of the output reads."""
    return len(self.places[0])

  def of(self, y: int, height: int) -> tuple[int, ...]:
    """As :meth:`Window.of`."""
    return self.places[y]


class Whole(NamedTuple):
  """An input that has to be there as a whole: one pointer, to its first row."""


Reads = Window | Table | Whole


class Params(NamedTuple):
  """The constants of an operation.

  Attributes:
    struct: name of the C structure, without the prefix of all names.
    fields: its members by name: integers as they are, arrays as pointers to constants of their own,
      tuples and mappings as arrays and structures within it, None as NULL.
  """

  struct: str
  fields: Mapping[str, Any]


class Emitted(NamedTuple):
  """An operation as a call of a C function.

  Attributes:
    name: of the layer.
    function: name of the C function, without the prefix of all names.
    params: its constants, or None.
    inputs: names of the tensors that it reads.
    reads: what it reads of each, as many.
    outputs: names of the tensors that it writes.
    kind: how it is called; see the module.
    overwrites: places of inputs that the first output may be written upon: row ``y`` on the same row of
      the input, which has rows of the same size, since each number is read before it is written.
      Of a whole operation the whole of it.
    scratch: bytes that it needs for itself, at a multiple of 4; a row operation's need not be kept.
    is_view: whether the output has the input's bytes in the same order: where both have one place, the
      call can be left out.
  """

  name: str
  function: str
  params: Params | None
  inputs: tuple[str, ...]
  reads: tuple[Reads, ...]
  outputs: tuple[str, ...]
  kind: Literal["rows", "whole", "fold"] = "rows"
  overwrites: tuple[int, ...] = ()
  scratch: int = 0
  is_view: bool = False


class Tensor(NamedTuple):
  """An array of integers in memory.

  Attributes:
    name: of the tensor.
    shape: without the batch.
    dtype: int8 or int16.

  Examples:
    >>> Tensor("map", (4, 5, 3), np.dtype(np.int16)).row_bytes, Tensor("end", (10,), np.dtype(np.int8)).rows
    (30, 1)
  """

  name: str
  shape: tuple[int, ...]
  dtype: np.dtype[Any]

  @property
  def rows(self) -> int:
    """Rows of it."""
    return self.shape[0] if len(self.shape) > 1 else 1

  @property
  def size(self) -> int:
    """Bytes of all of it."""
    return math.prod(self.shape) * self.dtype.itemsize

  @property
  def row_bytes(self) -> int:
    """Bytes of a row."""
    return self.size // self.rows


class Part(NamedTuple):
  """Some columns of a tensor: they lie in its rows.

  Attributes:
    whole: name of the tensor.
    first: of their bytes in each of its rows.
  """

  whole: str
  first: int


class Network(NamedTuple):
  """All operations of a network, in an order in which they can run.

  Attributes:
    operations: of the network.
    tensors: by name.
    input: name of the tensor that it reads.
    outputs: names of outputs and the tensors that hold them.
    parts: those of the tensors that are columns of others, by name.
  """

  operations: tuple[Emitted, ...]
  tensors: Mapping[str, Tensor]
  input: str
  outputs: tuple[tuple[str, str], ...]
  parts: Mapping[str, Part] = MappingProxyType({})

  def whole(self, name: str) -> str:
    """The tensor in whose rows another lies; most often that one itself."""
    return self.parts[name].whole if name in self.parts else name
