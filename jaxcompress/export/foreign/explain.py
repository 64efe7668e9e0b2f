"""Explains a .tflite file operator by operator, and names the runtimes that compute it alike."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcompress.export.biases import needing_bias
from jaxcompress.export.foreign.builder import Problem
from jaxcompress.export.foreign.parts import Call, Parts
from jaxcompress.export.foreign.reading import Reading, obstacle, read
from jaxcompress.export.foreign.standard import describe_standard
from jaxcompress.export.metadata import class_names
from jaxcompress.nn import Node
from jaxcompress.quantize.integer.arithmetic import ARITHMETIC
from jaxcompress.quantize.integer.runtimes import find_kernels, kernels_of_file

BORDERS = "TFLite-Micro fills the border with what lies in its memory, not with zeros"
MOST_SHOWN = 5  # classes
RUNTIMES = ("xnnpack", "reference", "tflm")


class Explained(NamedTuple):
  """An operator of a file.

  Attributes:
    place: among all, from 0.
    operator: TFLite's name of it.
    tensor: name of the first one that it writes.
    inputs: types and shapes of what it reads, constants too, such as ``"INT8 (1, 8, 8, 3)"``.
    output: type and shape of the first tensor that it writes.
    grid: scale and zero point of that, such as ``"0.0235 * (q + 128)"``; empty if it has none.
    layer: the leaf op that it is read as; empty if it is not read, or part of another one.
    reason: why it is not evaluated exactly; empty if it is.
    alike: runtimes by what they compute: those of one tuple have one rule for its integers.
    refused: reasons of runtimes that do not run it, or in no way that is known, by name.
  """

  place: int
  operator: str
  tensor: str
  inputs: tuple[str, ...]
  output: str
  grid: str
  layer: str
  reason: str
  alike: tuple[tuple[str, ...], ...] = ()
  refused: Mapping[str, str] = {}

  @property
  def is_exact(self) -> bool:
    """Whether it is evaluated exactly."""
    return not self.reason

  def rounding(self) -> str:
    """The runtimes that compute it alike, in words."""
    if not self.alike:
      return ""
    words = " | ".join(" = ".join(names) for names in self.alike)
    return words + "".join(f"; not {name}: {reason}" for name, reason in self.refused.items())


class Explanation(NamedTuple):
  """The operators, inputs and outputs of a file; as a string, a table.

  Attributes:
    path: of the file.
    operators: in the order in which they run.
    problems: what is not evaluated exactly; with none, :func:`~jaxcompress.export.from_tflite` reads it.
    inputs: name, type, shape and grid of what the file reads.
    outputs: likewise of what it gives.
    description: that its writer gave.
    classes: names of them, from the metadata; empty if it has none.
    pictures: what the metadata says of how pictures are read, in words; empty if nothing.
  """

  path: str
  operators: tuple[Explained, ...]
  problems: tuple[Problem, ...]
  inputs: tuple[str, ...]
  outputs: tuple[str, ...]
  description: str
  classes: tuple[str, ...]
  pictures: str

  @property
  def is_exact(self) -> bool:
    """Whether the whole file is evaluated exactly."""
    return not self.problems

  def __str__(self) -> str:
    lines = [f"{name:8} {words}" for name, words in self.facts()]
    widths = (4, 22, 22, 26, 14)
    for row in self.rows():
      cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
      lines.append(" ".join((*cells, row[-1])).rstrip())
    return "\n".join([*lines, self.verdict()])

  def facts(self) -> list[tuple[str, str]]:
    """Returns the facts about the whole file, (title, text) each."""
    few = ", ".join(self.classes[:MOST_SHOWN]) + ", ..." * (len(self.classes) > MOST_SHOWN)
    facts = [("file", self.path), *(("reads", end) for end in self.inputs)]
    facts += [("gives", end) for end in self.outputs]
    facts += [("made by", self.description), ("pictures", self.pictures)]
    facts.append(("classes", f"{len(self.classes)}: {few}" if self.classes else ""))
    return [(name, words) for name, words in facts if words]

  def rows(self) -> list[tuple[str, ...]]:
    """A line of words for each operator."""
    return [
      (
        str(one.place),
        one.operator,
        one.output,
        one.grid,
        one.layer or "-",
        one.rounding() if one.is_exact else f"NOT EXACT: {one.reason}",
      )
      for one in self.operators
    ]

  def verdict(self) -> str:
    """Whether the file is evaluated exactly, in a sentence."""
    wrong = sum(not one.is_exact for one in self.operators)
    count = len(self.operators)
    parts = [f"{wrong} of {count} operators are not evaluated exactly"] if wrong else []
    parts += [f"not evaluated exactly: {one}" for one in self.problems if one.place is None]
    return "; ".join(parts) or "all operators are evaluated exactly"

  def to_json(self) -> dict[str, Any]:
    """As plain values."""
    operators = [{**one._asdict(), "refused": dict(one.refused)} for one in self.operators]
    problems = [problem._asdict() for problem in self.problems]
    return {**self._asdict(), "operators": operators, "problems": problems}


def explain(path: str | os.PathLike) -> Explanation:
  """Says what a .tflite file is made of: operators, grids, metadata, and what is evaluated exactly.

  Operators are told by runtime too: two runtimes are alike in one where exact evaluation has the same
  rule and the same constants for both. ``xnnpack = reference | tflm`` says that TFLite-Micro may round
  otherwise than LiteRT.

  Args:
    path: of the file, whoever wrote it; also one that is not read, or computes in float.

  Returns:
    An :class:`~jaxcompress.export.foreign.explain.Explanation`; ``print`` it.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if the file is missing or damaged.

  Examples:
    >>> import pathlib, tempfile
    >>> from jaxcompress.export.flatbuffer import ModelFile
    >>> file = ModelFile()
    >>> x, y = (file.tensor(name, (1, 2), np.int8, file.quantization(0.5, 0)) for name in "xy")
    >>> file.operator("HARD_SWISH", 1, [x], [y])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "swish.tflite"
    >>> _ = path.write_bytes(file.to_bytes({"x": x}, {"y": y}))
    >>> (swish,) = explain(path).operators
    >>> swish.layer, swish.grid, swish.alike
    ('Activation', '0.5 * q', (('xnnpack', 'reference', 'tflm'),))
  """
  reading = read(path)
  parts, builder = reading.parts, reading.builder
  nodes: dict[int, list[Node]] = {}
  for node in builder.nodes:
    if node.name in builder.made:
      nodes.setdefault(builder.made[node.name].place, []).append(node)
  reasons = {one.place: one.reason for one in reading.problems if one.place is not None}
  operators = tuple(
    _explain(parts, call, nodes.get(call.place, []), reading, reasons.get(call.place, ""))
    for call in parts.calls
  )
  standard = describe_standard(path, parts.entries)
  classes = class_names(reading.entry) or standard.classes
  return Explanation(
    str(path),
    operators,
    tuple(reading.problems),
    tuple(_end(parts, index) for index in parts.inputs),
    tuple(f"{name}: {_end(parts, index)}" for name, index in parts.outputs.items()),
    parts.description,
    tuple(classes),
    standard.pictures,
  )


def _explain(
  parts: Parts, call: Call, nodes: list[Node], reading: Reading, reason: str
) -> Explained:
  output = call.outputs[0] if call.outputs else -1
  alike, refused = _by_runtime(nodes, reading) if nodes and not reason else ((), {})
  if call.code == "SPACE_TO_BATCH_ND" and np.any(parts.tensors[call.inputs[2]].values):
    refused["tflm"] = BORDERS
  kind = parts.tensors[call.inputs[0]].type if call.inputs else ""
  for runtime in needing_bias(call.code, call.inputs, kind):
    if runtime in RUNTIMES:
      refused[runtime] = "has no bias, which it needs"
  if call.code in reading.left_out:
    refused["xnnpack"] = "left to LiteRT's own kernels, which round otherwise"
  alike = tuple(tuple(n for n in names if n not in refused) for names in alike)
  return Explained(
    place=call.place,
    operator=call.code,
    tensor=parts.tensors[output].name if output >= 0 else "",
    inputs=tuple(_kind(parts, index) for index in call.inputs if index >= 0),
    output=_kind(parts, output) if output >= 0 else "",
    grid=_grid(parts, output) if output >= 0 else "",
    layer=" ".join(dict.fromkeys(node.op for node in nodes)),
    reason=reason,
    alike=tuple(names for names in alike if names),
    refused=refused,
  )


def _by_runtime(
  nodes: list[Node], reading: Reading
) -> tuple[tuple[tuple[str, ...], ...], dict[str, str]]:
  """Runtimes by the rules that they have for some nodes, and what keeps others from them."""
  builder = reading.builder
  groups: list[tuple[Any, list[str]]] = []
  refused = {}
  for runtime in RUNTIMES:
    kernels = kernels_of_file(runtime, int4=builder.holds_int4)
    found = []
    for node in nodes:
      if (reason := obstacle(node, builder.grids, builder.layers, kernels)) is not None:
        refused[runtime] = reason
        break
      rules = find_kernels(kernels, builder.grids[node.output].bits)
      layer = builder.layers.get(node.name)
      found.append(ARITHMETIC[node.op].prepare(node, builder.grids, layer, rules))
    else:
      for known, names in groups:
        if _equal(known, found):
          names.append(runtime)
          break
      else:
        groups.append((found, [runtime]))
  return tuple(tuple(names) for _, names in groups), refused


def _equal(one: Any, other: Any) -> bool:
  """Whether two prepared operations have the same rules with the same constants."""
  first, second = jax.tree.leaves(one), jax.tree.leaves(other)
  shape_of: Any = jax.tree.structure
  return bool(shape_of(one) == shape_of(other)) and all(map(np.array_equal, first, second))


def _kind(parts: Parts, index: int) -> str:
  tensor = parts.tensors[index]
  return f"{tensor.type} {tensor.shape}"


def _end(parts: Parts, index: int) -> str:
  grid = _grid(parts, index)
  return f"{parts.tensors[index].name} {_kind(parts, index)}" + (f" {grid}" if grid else "")


def _grid(parts: Parts, index: int) -> str:
  tensor = parts.tensors[index]
  if tensor.scales.size == 0:
    return ""
  if tensor.scales.size > 1:
    return f"{tensor.scales.size} scales"
  zero_point = int(tensor.zero_points[0]) if tensor.zero_points.size else 0
  scale = f"{tensor.scales[0]:.6g}"
  return (
    f"{scale} * q"
    if zero_point == 0
    else f"{scale} * (q {'-' if zero_point > 0 else '+'} {abs(zero_point)})"
  )
