"""Files that other tools wrote, read as quantized models."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.export.contents import tflite_entries
from jaxcompress.export.foreign import copying, elementwise, weighted, windows
from jaxcompress.export.foreign.builder import Builder, Problem, Reader
from jaxcompress.export.foreign.dilated import dilated
from jaxcompress.export.foreign.ends import PixelTable, Start, begin, find_outputs, look_up
from jaxcompress.export.foreign.parts import Call, Parts, has_free_shapes, parse_parts
from jaxcompress.export.metadata import ENTRY, from_entry, preprocess_of
from jaxcompress.export.pixels import check_input
from jaxcompress.export.trial import KERNELS_BY_SUFFIX, parsing, read_sound_model, run_apart
from jaxcompress.files.values import one_line
from jaxcompress.nn import INPUT, Graph, Node
from jaxcompress.nn.operations import pads_within
from jaxcompress.nn.replay import check_graph
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.arithmetic import ARITHMETIC
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.runtimes import find_kernels, kernels_of_file

READERS: Mapping[str, Reader] = {
  **weighted.READERS,
  **elementwise.READERS,
  **copying.READERS,
  **windows.READERS,
  "CAST": look_up,
  "SPACE_TO_BATCH_ND": dilated,
}


ROUNDED = (  # that LiteRT's own kernels round otherwise than XNNPACK's and the reference ones
  *("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"),
  *("ADD", "SUB", "MUL", "MEAN"),
)
LONGEST = 600  # seconds of a run whose shapes are asked for


class Reading(NamedTuple):
  """A file as it was read.

  Attributes:
    parts: of the file.
    builder: with nodes, grids and integers, and what was not read.
    graph: None where something was not read.
    start: what the file reads.
    types: that the file gives its outputs, by name.
    entry: what jaxcompress wrote about the file; empty in files of others.
    left_out: operators that XNNPACK leaves to LiteRT's own kernels, which round otherwise, since shapes
      are known only when the file runs.
  """

  parts: Parts
  builder: Builder
  graph: Graph | None
  start: Start | None
  types: Mapping[str, str]
  entry: Mapping[str, Any]
  left_out: tuple[str, ...] = ()

  @property
  def problems(self) -> list[Problem]:
    """The operators and ends of the file that are not evaluated exactly."""
    return self.builder.problems


GRAPHS = "there are {} of them, as files of control flow have, and one is read"
LEFT_OUT = (
  "has shapes that are known only when it runs, for which XNNPACK leaves {} to LiteRT's own kernels, which"
  " round in another way; pass kernels='reference' or 'tflm', or convert it for a fixed number of images."
)


def from_tflite(path: str | os.PathLike, *, kernels: str = "xnnpack") -> QuantizedModel:
  """Reads a .tflite file of integers, whoever wrote it, as a model that is evaluated exactly.

  TensorFlow's converter, ai-edge-quantizer and jaxcompress spell the same network in different ways. It
  is read operator by operator, and every integer, scale and zero point is kept. What comes of it is
  evaluated bit for bit as the runtime does it, compared by :func:`~jaxcompress.export.verify`, and
  written again by all exporters. :func:`~jaxcompress.export.explain` says what a file is made of, also where it is
  not read.

  Activations have 8 or 16 bits. An input of floats that a QUANTIZE rounds is what the network reads; of
  an input of uint8 the model takes images, by a table of pixels as its ``preprocess`` or by what the
  metadata of a file of ours says. Outputs that the file gives as floats or uint8 are those that are
  made of them.

  Args:
    path: of the file.
    kernels: the runtime whose arithmetic is evaluated, as for
      :class:`~jaxcompress.quantize.QuantizedModel`; XNNPACK's are those of the file's weights, of 8 or 4
      bits.

  Returns:
    A :class:`~jaxcompress.quantize.QuantizedModel`; tensors have their names in the file, but for the
    input.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if the file is missing or damaged, or holds operators that are not evaluated exactly: all
      of them are named with their places and tensors.

  Examples:
    >>> import pathlib, tempfile
    >>> from jaxcompress.export.flatbuffer import ModelFile
    >>> file = ModelFile()
    >>> x, y = (file.tensor(name, (1, 2), np.int8, file.quantization(0.5, 0)) for name in "xy")
    >>> file.operator("HARD_SWISH", 1, [x], [y])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "swish.tflite"
    >>> _ = path.write_bytes(file.to_bytes({"x": x}, {"y": y}))
    >>> model = from_tflite(path)
    >>> model.run(np.int8([[-8, 8]])).tolist()  # of -4 and 4, in steps of a half
    [[0, 8]]
  """
  reading = read(path)
  if reading.problems or reading.graph is None:
    found = reading.problems
    count = sum(problem.place is not None for problem in found)
    what = f"has {count} operators that are" if count > 1 else "has an operator that is"
    what = what if count == len(found) else "is"
    raise ValueError(f"path: {path} {what} not evaluated exactly: {'; '.join(map(str, found))}.")
  return as_model(path, reading, kernels)


def as_model(path: str | os.PathLike, reading: Reading, kernels: str) -> QuantizedModel:
  """The model of a file that was read without problems."""
  graph, builder, start = reading.graph, reading.builder, reading.start
  assert graph is not None and start is not None
  kernels = kernels_of_file(kernels, int4=builder.holds_int4)
  find_kernels(kernels)
  tensors = {INPUT, *(tensor for node in graph.nodes for tensor in node.outputs)}
  names = {node.name for node in graph.nodes}
  grids = {name: grid for name, grid in builder.grids.items() if name in tensors}
  layers = {name: layer for name, layer in builder.layers.items() if name in names}
  eight_bits = all(grid.bits == 8 for grid in grids.values())  # XNNPACK has no others
  if reading.left_out and eight_bits and kernels.startswith("xnnpack"):
    raise ValueError(f"path: {path} {LEFT_OUT.format(' and '.join(reading.left_out))}")
  found = [
    f"{builder.made[name].code} of {name!r}: {reason}"
    for name, reason in _obstacles(graph, grids, layers, kernels).items()
  ]
  if found:
    others = [
      name for name in KERNELS_BY_SUFFIX[".tflite"] if not _obstacles(graph, grids, layers, name)
    ]
    remedy = f"; pass kernels={others[0]!r}" if others else ""
    raise ValueError(
      f"path: {path} is not evaluated by kernels={kernels!r}: {'; '.join(found)}{remedy}."
    )
  preprocess = preprocess_of(reading.entry)
  try:
    model = QuantizedModel(graph, grids, layers, preprocess, kernels)
  except ValueError as error:
    raise ValueError(
      f"path: {path} holds no network that can be evaluated ({one_line(error)})"
    ) from error
  if start.codes is None or (preprocess is not None and _maps(model, start.codes)):
    return model
  return QuantizedModel(graph, grids, layers, _table(start.codes, grids[INPUT]), kernels)


def _obstacles(
  graph: Graph, grids: Mapping[str, Grid], layers: Mapping[str, Any], kernels: str
) -> dict[str, str]:
  """Returns the reasons why a runtime does not run nodes, by their names."""
  found = {node.name: obstacle(node, grids, layers, kernels) for node in graph.nodes}
  return {name: reason for name, reason in found.items() if reason is not None}


def obstacle(
  node: Node, grids: Mapping[str, Grid], layers: Mapping[str, Any], kernels: str
) -> str | None:
  """Says why a runtime does not run a node as it is, or runs it in no way that is known; None: it does."""
  rules = find_kernels(kernels, grids[node.output].bits)
  try:
    ARITHMETIC[node.op].prepare(node, grids, layers.get(node.name), rules)
  except ValueError as error:
    return one_line(error).removesuffix(".")
  return None


def _table(codes: np.ndarray, grid: Grid) -> PixelTable:
  return PixelTable((codes.astype(np.float32) - grid.zero_point) * np.float32(grid.scale))


def _maps(model: QuantizedModel, codes: np.ndarray) -> bool:
  """Whether preprocessing makes the codes of pixels that the file has."""
  try:
    found = check_input(model, "uint8")
  except ValueError:
    return False
  return found is not None and np.array_equal(found, codes)


def read(path: str | os.PathLike) -> Reading:
  """Reads a file as far as it can be.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if the file is missing or damaged, or is no .tflite file.
  """
  content = read_sound_model(path)
  if content[4:8] != b"TFL3":
    raise ValueError(f"path: {path} is no .tflite file.")
  with parsing(path):
    entries, free = tflite_entries(content), has_free_shapes(content)
  seen: Mapping[str, Any] = {"shapes": {}, "left_out": ()}
  if free:
    seen, _ = run_apart(
      path, "look_at_shapes", "xnnpack", content, longest=LONGEST, kernels="xnnpack"
    )
  with parsing(path):
    parts = parse_parts(content, entries, seen["shapes"])
    try:
      entry = from_entry(entries[ENTRY]) if ENTRY in entries else {}
    except ValueError:
      entry = {}
    left_out = tuple(code for code in seen["left_out"] if code in ROUNDED)
    return _read(parts, entry)._replace(left_out=tuple(dict.fromkeys(left_out)))


def _read(parts: Parts, entry: Mapping[str, Any]) -> Reading:
  builder = Builder(parts)
  start, graph = None, None
  ends, types = find_outputs(builder)
  if parts.graphs > 1:
    builder.problems.append(Problem(None, "graphs", "", GRAPHS.format(parts.graphs)))
  try:
    start = begin(builder)
  except ValueError as error:
    builder.problems.append(Problem(None, "input", "", _reason(error)))
    builder.lose(parts.inputs)
  for call in parts.calls:
    if call.place not in builder.done and not copying.computes_a_shape(builder, call):
      builder.run(call, READERS.get(call.code, _unknown))
  outputs = []
  for name, index in ends:
    try:
      tensor = builder.read(index)
      if tensor == INPUT:
        raise ValueError("it is what the file reads")
      outputs.append((name, tensor))
    except ValueError as error:
      if not builder.problems:
        builder.problems.append(Problem(None, "output", name, _reason(error)))
  if not builder.problems:
    graph = Graph(_needed(builder.nodes, outputs), builder.shapes[INPUT], tuple(outputs))
    check_graph(graph)
    graph = pads_within(graph)
  return Reading(parts, builder, graph, start, types, entry)


def _reason(error: ValueError) -> str:
  return one_line(error).removesuffix(".")


def _needed(nodes: list[Node], outputs: list[tuple[str, str]]) -> tuple[Node, ...]:
  """The nodes that outputs depend on, in order."""
  wanted, kept = {tensor for _, tensor in outputs}, []
  for node in reversed(nodes):
    if wanted & set(node.outputs):
      wanted |= set(node.inputs)
      kept.append(node)
  return tuple(reversed(kept))


def _unknown(builder: Builder, call: Call) -> None:
  """An operator that no leaf op is."""
  for index in (*call.outputs, *call.inputs):
    if index >= 0 and builder.tensor(index).type in ("FLOAT16", "FLOAT32"):
      raise ValueError("it computes in floating point")
  raise ValueError("no leaf op computes it")
