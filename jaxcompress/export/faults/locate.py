"""Finds the first operation of a device whose integers are not what exact evaluation makes of its inputs."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcompress.data import ImageReader
from jaxcompress.export.faults.dump import Dump, read_dump, tensors_of
from jaxcompress.export.faults.model import Model, open_model
from jaxcompress.export.faults.preprocessing import read_images, search_input, with_reader
from jaxcompress.export.faults.result import Located
from jaxcompress.export.faults.rounding import RUNTIMES, of_kernels
from jaxcompress.export.faults.search import MOST_AGAIN, MOST_TRIED, also_of, search
from jaxcompress.export.faults.walk import compared, difference_of, unseen_before
from jaxcompress.nn import INPUT, Node
from jaxcompress.quantize import QuantizedModel


def locate(
  model: QuantizedModel | Model | str | os.PathLike,
  dump: Any,
  images: Any = None,
  *,
  reader: ImageReader | None = None,
) -> Located:
  """Names the first operation whose integers on a device are not what its own inputs make, and why.

  Every operation is evaluated exactly from what the device printed of its inputs, and from what was
  evaluated where it printed none. So a fault is that of the operation that made it, not of those that
  followed. On that operation all rules are tried that are known: the kernels of other runtimes, ways
  to round, to clamp, to pad and to overflow, scales, zero points, orders of weights and channels; on
  the input also ways to read, resize and normalize pictures.

  Args:
    model: what the device runs, of the kernels that it should have: a model, a packed file, the folder
      of a run with one, a .tflite file of anybody's, or what :func:`open_model` made of one.
    dump: what the device printed: a .npz file, a mapping of arrays, or a folder with a file for each
      tensor, .npy or of raw bytes. Any of the tensors, by their names or those of outputs; of files
      all but letters, digits, points and dashes may be underscores. Integers as they lie in memory,
      (images, ...) or of a single image.
    images: what the model takes, (N, height, width, channels), or pictures: paths, bytes or images of
      Pillow's. None: the dump holds the input.
    reader: how pictures are read; None: as the packed file says.

  Returns:
    A :class:`Located`.

  Raises:
    ValueError: if the model or the dump cannot be read, a shape or type does not fit, or there is neither
      an input nor images.

  Examples:
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grids = dict.fromkeys(("input", "pool"), Grid(np.float32(0.1), 0))
    >>> quantized = QuantizedModel(Graph((pool,), (1, 2, 2, 3), "pool"), grids, {})
    >>> codes = np.int8([[[[1, 5, 3], [2, 5, 3]], [[2, 5, 3], [2, 5, 3]]]])
    >>> found = locate(quantized, {"input": codes, "pool": np.int8([[1, 5, 3]])})
    >>> found.layer, found.where, found.most_steps
    ('pool', (0,), 1)
    >>> {"rounding down", "truncation"} <= {one.rule for one in found.explanation}
    True
  """
  quantized, known, names = open_model(model)
  printed = read_dump(dump, quantized, names)
  order = tensors_of(quantized)
  result = Located(
    checked=tuple(n for n in order if n in printed.tensors and (n != INPUT or images is not None)),
    missing=tuple(name for name in order if name not in printed.tensors),
    skipped=printed.skipped,
    images=printed.images,
  )
  if images is None:
    _check_input(printed)
    return _of_operations(quantized, printed.tensors, result)
  arrays, pictures, reader = read_images(quantized, images, reader or known)
  quantized = with_reader(quantized, reader)
  codes = quantized.quantize_input(arrays)
  if len(codes) != printed.images:
    raise ValueError(f"images: {len(codes)} must be as many as in the dump, {printed.images}.")
  tensors = {INPUT: codes, **printed.tensors}
  difference = difference_of(tensors[INPUT], codes)
  if difference is None:
    return _of_operations(quantized, tensors, result)
  theirs, image = tensors[INPUT], difference.image
  later = [name for name, one in compared(quantized, tensors).items() if one is not None]
  return result._replace(
    layer=INPUT,
    op=INPUT,
    tensor=INPUT,
    **difference._asdict(),
    explanation=search_input(quantized, theirs, arrays, pictures, reader, image),
    among=(INPUT,),
    also=_names(map(makers_of(quantized).__getitem__, later)),
  )


def _check_input(printed: Dump) -> None:
  """Checks that there is something to begin with, and something to compare.

  Raises:
    ValueError: if there is not.
  """
  if INPUT not in printed.tensors:
    raise ValueError(
      f"images: they are missing, and the dump has no {INPUT!r}; give one of the two."
    )
  if len(printed.tensors) == 1:
    raise ValueError(
      f"dump: it has {INPUT!r} alone; give images to compare it with, or more tensors."
    )


def makers_of(quantized: QuantizedModel) -> dict[str, Node]:
  """Nodes by the tensors that they write."""
  return {tensor: node for node in quantized.graph.nodes for tensor in node.outputs}


def _names(nodes: Iterable[Node]) -> tuple[str, ...]:
  return tuple(dict.fromkeys(node.name for node in nodes))


def _of_operations(
  quantized: QuantizedModel, tensors: Mapping[str, np.ndarray], result: Located
) -> Located:
  """Locates the first operation with a fault, where the input has none."""
  found = {n: one for n, one in compared(quantized, tensors).items() if one is not None}
  if not found:
    return result
  makers = makers_of(quantized)
  (tensor, difference), *others = found.items()
  node = makers[tensor]
  among = _names(unseen_before(quantized, node, tensors))
  tried = 0
  if len(among) == 1:
    outcome = search(quantized, node, tensors, difference.image)
    places = [
      (makers[name], one.image)
      for name, one in others
      if len(unseen_before(quantized, makers[name], tensors)) == 1
    ][:MOST_AGAIN]
    outcome = outcome._replace(found=also_of(quantized, outcome.found, places, tensors))
    tried = len(places) if outcome.found else 0
    rules = {one.rule for one in outcome.found if one.also == tried}
    able = [name for name in RUNTIMES if of_kernels(name) in rules]  # others cannot explain all
    kernels = _explaining_all(quantized, tensors, able)
  else:
    kernels = _explaining_all(quantized, tensors, RUNTIMES)
    outcome = search(quantized, node, tensors, difference.image, 1 if kernels else MOST_TRIED)
    outcome = outcome._replace(untried=0) if kernels else outcome
  layers = {one.layer for one in outcome.found}
  if len(layers) == 1 and node.name not in layers:  # a rule tells which of several it is
    node = next(one for one in quantized.graph.nodes if one.name in layers)
    among = (node.name,)
  return result._replace(
    layer=node.name,
    op=node.op,
    tensor=tensor,
    **difference._asdict(),
    explanation=outcome.found,
    nearest=outcome.nearest,
    nearest_share=outcome.share,
    among=among,
    untried=outcome.untried,
    tried=tried,
    also=_names(makers[name] for name, _ in others if makers[name] != makers[tensor]),
    kernels=kernels,
  )


def _explaining_all(
  quantized: QuantizedModel, tensors: Mapping[str, np.ndarray], names: Sequence[str]
) -> tuple[str, ...]:
  """Runtimes by whose rules every printed tensor follows from its inputs."""
  found = []
  for name in names:
    if name == quantized.kernels:
      continue
    try:
      other = quantized.with_kernels(name)
    except ValueError:  # it refuses the model
      continue
    if not any(compared(other, tensors).values()):
      found.append(name)
  return tuple(found)
