"""A graph in the making, from the operators of a file."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.core import FrozenDict

from jaxcompress.export.contents import FLOATS, Tensor
from jaxcompress.export.foreign.parts import Call, Parts
from jaxcompress.export.foreign.views import Shape, View, batched, steps_of
from jaxcompress.files.values import one_line
from jaxcompress.nn import INPUT, Node
from jaxcompress.nn.structure import CONSTANT
from jaxcompress.quantize.integer.grid import HIGHEST, LOWEST, Grid, Integers

BITS: Mapping[str, int] = {"INT8": 8, "INT16": 16}
WORDS = {"UINT8": "unsigned integers, as converters before TensorFlow 2 wrote them"}


class Problem(NamedTuple):
  """A part of a file that is not evaluated exactly: an operator, the input, an output or the graphs.

  Attributes:
    place: of the operator among all, from 0; None if it is not an operator.
    operator: TFLite's name of it; else ``"input"``, ``"output"`` or ``"graphs"``.
    tensor: name of the first one that it writes, or of the output; else empty.
    reason: why not.
  """

  place: int | None
  operator: str
  tensor: str
  reason: str

  def __str__(self) -> str:
    if self.place is None:
      return f"the {self.operator}{f' {self.tensor!r}' if self.tensor else ''}: {self.reason}"
    return f"operator {self.place} {self.operator} of {self.tensor!r}: {self.reason}"


class Lost(ValueError):
  """The input of an operator was not read; its problem is recorded already."""


class Builder:
  """Nodes, grids and integers, as the operators of a file are read one after another.

  Attributes:
    parts: of the file.
    nodes: that were made so far.
    grids: of their tensors.
    layers: integers of those that have a kernel.
    problems: what was not read.
    done: places of operators that need no reading, since another one took them in.
    made: the operator by which each node came, by its name.
  """

  def __init__(self, parts: Parts):
    self.parts = parts
    self.nodes: list[Node] = []
    self.grids: dict[str, Grid] = {}
    self.layers: dict[str, Integers] = {}
    self.problems: list[Problem] = []
    self.done: set[int] = set()
    self.made: dict[str, Call] = {}
    self.shapes: dict[str, Shape] = {}
    self._views: dict[int, View] = {}
    self._read: dict[tuple[View, Shape], str] = {}
    self._call: Call | None = None
    self._names: dict[int, str] = {}
    self._lost: set[int] = set()
    self._taken = {INPUT}

  # What the file says.

  @property
  def holds_int4(self) -> bool:
    """Whether the file has weights of 4 bits."""
    return any(tensor.type == "INT4" for tensor in self.parts.tensors)

  def tensor(self, index: int) -> Tensor:
    """A tensor of the file."""
    return self.parts.tensors[index]

  def name(self, index: int) -> str:
    """The file's name of a tensor, or one that no other has."""
    if index not in self._names:
      self._names[index] = self.unique(self.tensor(index).name or f"tensor{index}")
    return self._names[index]

  @property
  def input_name(self) -> str:
    """The name in the file of the tensor that is the graph's input."""
    return next(self.tensor(i).name for i, name in self._names.items() if name == INPUT)

  def unique(self, name: str) -> str:
    """A name that is not taken yet, as like another as can be."""
    found, count = name, 1
    while found in self._taken:
      count += 1
      found = f"{name}#{count}"
    self._taken.add(found)
    return found

  def grid(self, index: int) -> Grid:
    """The grid of an activation tensor.

    Raises:
      ValueError: if it holds no integers of a kind that is read.
    """
    tensor = self.tensor(index)
    if tensor.type in FLOATS:
      raise ValueError(f"it computes in floating point ({tensor.name!r} is {tensor.type})")
    if tensor.type not in BITS:
      raise ValueError(f"{tensor.name!r} is {WORDS.get(tensor.type, tensor.type)}")
    if tensor.scales.size != 1 or tensor.zero_points.size > 1:
      raise ValueError(f"{tensor.name!r} has {tensor.scales.size} scales, and activations have one")
    zero_point = int(tensor.zero_points[0]) if tensor.zero_points.size else 0
    grid = Grid(np.float32(tensor.scales[0]), zero_point, BITS[tensor.type])
    if not (np.isfinite(grid.scale) and grid.scale >= np.finfo(np.float32).tiny):
      raise ValueError(
        f"{tensor.name!r} has scale {grid.scale}, which is no positive, normal float32"
      )
    if not (zero_point == 0 if grid.bits == 16 else LOWEST <= zero_point <= HIGHEST):
      raise ValueError(
        f"{tensor.name!r} has zero point {zero_point}, which {grid.bits} bits do not have"
      )
    return grid

  def values(self, call: Call, place: int, what: str) -> np.ndarray:
    """A constant that an operator reads.

    Raises:
      ValueError: if it is not a constant, or left out.
    """
    index = call.inputs[place] if place < len(call.inputs) else -1
    if index < 0 or not self.tensor(index).is_constant:
      raise ValueError(f"its {what} must be a constant of the file")
    values = self.tensor(index).values
    if values is None or math.prod(values.shape) == 0:
      raise ValueError(f"its {what} is {self.tensor(index).type}, which is not read")
    return values

  def is_constant(self, index: int) -> bool:
    """Whether a tensor is a constant."""
    return self.tensor(index).is_constant

  # Tensors of the graph.

  def start(self, index: int, grid: Grid) -> None:
    """Makes a tensor the input of the graph."""
    self._names[index] = INPUT
    self.grids[INPUT], self.shapes[INPUT] = grid, self.tensor(index).shape
    self._views[index] = View(INPUT, self.tensor(index).shape)

  def view(self, index: int) -> View:
    """A tensor of the file in terms of one of the graph.

    Raises:
      ValueError: if no operator that was read writes it.
    """
    if index in self._lost:
      raise Lost
    if index not in self._views:
      raise ValueError(f"it reads {self.tensor(index).name!r}, which nothing before it writes")
    return self._views[index]

  def show(self, index: int, view: View) -> None:
    """Lets a tensor of the file be a copy of what is there.

    Raises:
      ValueError: if the file says another shape of it, or another grid.
    """
    self._check_shape(index, view.shape)
    if (grid := self.grid(index)) != self.grids[view.base]:
      raise ValueError(
        f"it copies codes from the grid {_brief(self.grids[view.base])} to {_brief(grid)}"
      )
    self._views[index] = view

  def _check_shape(self, index: int, shape: Shape) -> None:
    if self.tensor(index).shape != shape:
      raise ValueError(
        f"{self.tensor(index).name!r} has shape {self.tensor(index).shape} in the file, and the"
        f" operator makes {shape}"
      )

  def read(self, index: int, shape: Shape | None = None) -> str:
    """Name of the tensor of the graph with the numbers of one of the file.

    Args:
      index: of the tensor of the file.
      shape: that it shall have in the graph, the images included; None: that of the file.

    Raises:
      ValueError: as :meth:`view`, or if the shape holds other numbers.
    """
    view, after = self.view(index), shape or batched(self.tensor(index).shape)
    if math.prod(after) != math.prod(view.shape):
      raise ValueError(
        f"{self.tensor(index).name!r} of shape {view.shape} cannot be read as {after}"
      )
    key = view._replace(shape=after), after
    if key not in self._read:
      self._read[key] = self._copied(index, view, after)
    return self._read[key]

  def _copied(self, index: int, view: View, after: Shape) -> str:
    """The tensor of the graph that copies make, once they are made."""
    source, steps = view.base, steps_of(view, self.shapes[view.base], after)
    for step in steps:
      name, wanted = self.name(index), batched(self.tensor(index).shape)
      if step is not steps[-1] or after != wanted or name in self.shapes:
        name = self.unique(f"{name}/as")
      grid = self.grids[view.base]
      self._append(name, step.op, step.attrs, [source], [(name, step.after, grid)])
      source = name
    return source

  def number(self, index: int, shape: Shape) -> str:
    """Name of a tensor of the graph that holds a constant of the file, in a shape.

    Raises:
      ValueError: if it is no constant of integers.
    """
    grid, values = self.grid(index), self.tensor(index).values
    if values is None or math.prod(shape) != values.size:
      raise ValueError(f"{self.tensor(index).name!r} is no constant of shape {shape}")
    key = View(self.name(index), shape), shape
    if key not in self._read:
      name = self.name(index)
      if name in self.shapes:
        name = self.unique(f"{name}/as")
      codes = tuple(map(int, values.ravel()))
      self._append(name, CONSTANT, {"codes": codes}, [], [(name, shape, grid)])
      self._read[key] = name
    return self._read[key]

  def add(
    self,
    op: str,
    attrs: Mapping[str, Any],
    inputs: Iterable[str],
    index: int,
    *,
    shape: Shape | None = None,
    grid: Grid | None = None,
    layer: Integers | None = None,
  ) -> None:
    """Adds a node that computes a tensor of the file.

    Args:
      op: name of the leaf op.
      attrs: its attributes.
      inputs: names of tensors of the graph.
      index: of the tensor that it writes.
      shape: that the node makes, of as many numbers; None: that of the file.
      grid: of what it makes; None: that of the file.
      layer: its integers, if it has some.

    Raises:
      ValueError: if the file's tensor does not hold what the node makes.
    """
    wanted, grid = self.tensor(index).shape, grid or self.grid(index)
    shape = shape or batched(wanted)
    if math.prod(shape) != math.prod(wanted):
      raise ValueError(
        f"{self.tensor(index).name!r} has shape {wanted} in the file, and not {shape}"
      )
    name = self.name(index)
    self._append(name, op, attrs, inputs, [(name, shape, grid)])
    if layer is not None:
      self.layers[name] = layer
    self._views[index] = View(name, wanted)

  def between(
    self,
    op: str,
    source: str,
    shape: Shape,
    attrs: Mapping[str, Any] | None = None,
    *,
    count: int = 1,
  ) -> str:
    """Adds a node that copies integers and has no tensor in the file; the name of what it writes.

    Args:
      op: name of the leaf op; a reshape to the same shape adds no node.
      source: name of the tensor that it reads.
      shape: that it makes.
      attrs: its attributes; None: those of a reshape.
      count: how often it reads the tensor.
    """
    if op == "Reshape" and self.shapes[source] == shape:
      return source
    name = self.unique(f"{source}/{op.lower()}")
    attrs = {"shape": shape[1:]} if attrs is None else attrs
    self._append(name, op, attrs, [source] * count, [(name, shape, self.grids[source])])
    return name

  def add_parts(
    self, op: str, attrs: Mapping[str, Any], source: str, parts: list[tuple[int, Shape]]
  ) -> None:
    """Adds a node that writes several tensors of the file; -1 where it has none of a part."""
    first = next(index for index, _ in parts if index >= 0)
    outputs = []
    for place, (index, shape) in enumerate(parts):
      name = self.name(index) if index >= 0 else self.unique(f"{self.name(first)}/part{place}")
      outputs.append((name, shape, self.grids[source]))
      if index >= 0 and self.grid(index) != self.grids[source]:
        raise ValueError(
          f"it copies codes from the grid {_brief(self.grids[source])} to {_brief(self.grid(index))}"
        )
    self._append(self.name(first), op, attrs, [source], outputs)
    for index, _ in parts:
      if index >= 0:
        self._views[index] = View(self.name(index), self.tensor(index).shape)

  def _append(
    self,
    name: str,
    op: str,
    attrs: Mapping[str, Any],
    inputs: Iterable[str],
    outputs: list[tuple[str, Shape, Grid]],
  ) -> None:
    read, (made, shapes, grids) = tuple(inputs), zip(*outputs, strict=True)
    self.nodes.append(
      Node(name, op, FrozenDict(attrs), read, made, tuple(self.shapes[n] for n in read), shapes)
    )
    self.shapes.update(zip(made, shapes, strict=True))
    self.grids.update(zip(made, grids, strict=True))
    if self._call is not None:
      self.made[name] = self._call

  # Operators.

  def run(self, call: Call, read: Callable[["Builder", Call], None]) -> None:
    """Reads an operator; records a problem if it is not evaluated exactly."""
    self._call, count = call, len(self.nodes)
    try:
      read(self, call)
    except Lost:
      self._lose(call, count)
    except ValueError as error:
      self._lose(call, count)
      name = self.tensor(call.outputs[0]).name if call.outputs else ""
      reason = one_line(error).removesuffix(".")
      self.problems.append(Problem(call.place, call.code, name, reason))
    self._call = None

  def lose(self, indices: Iterable[int]) -> None:
    """Lets tensors be ones that were not read, which is said already."""
    self._lost.update(indices)

  def _lose(self, call: Call, count: int) -> None:
    """Lets those that read what an operator writes be looked at all the same."""
    del self.nodes[count:]
    for index in call.outputs:
      try:
        name, shape = self.name(index), batched(self.tensor(index).shape)
        self.grids[name], self.shapes[name] = self.grid(index), shape
        self._views[index] = View(name, self.tensor(index).shape)
      except ValueError:
        self._lost.add(index)


Reader = Callable[[Builder, Call], None]
"""Reads an operator of a file into nodes; raises ``ValueError`` with the reason if that is not possible."""


def _brief(grid: Grid) -> str:
  return f"({grid.scale:.6g}, {grid.zero_point})"
