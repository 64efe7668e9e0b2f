"""Makes the network of the leaf ops that were found: ranks, names, fused activations, endpoints."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flax.core import FrozenDict

from jaxcompress.models.imported.grouping import Grouping
from jaxcompress.models.imported.naming import layer_names
from jaxcompress.models.imported.results import End, endpoints
from jaxcompress.models.imported.units import Unit, as_convolution, as_linear
from jaxcompress.models.imported.values import Op
from jaxcompress.models.imported.weights import Weight
from jaxcompress.nn import INPUT
from jaxcompress.nn.activations import ACTIVATIONS
from jaxcompress.nn.replay import Layer, Replay, size_of

ANY_RANK = frozenset(
  [
    "Activation",
    "LeakyRelu",
    "Affine",
    "BatchNorm",
    "Softmax",
    "RmsNorm",
    "ChannelMean",
    "ChannelMax",
    "Add",
    "Subtract",
    "Multiply",
    "Maximum",
    "Minimum",
    "Concat",
    "Split",
    "ChannelShuffle",
    "ChannelMean",
    "RmsNorm",
  ]
)
"""Leaf ops whose outputs are vectors where their inputs are."""


class Assembled(NamedTuple):
  """A network.

  Attributes:
    model: made of leaf ops.
    weights: its arrays by collection, layer and name.
    names: of the layers that were made, in order.
  """

  model: Replay
  weights: Mapping[tuple[str, str, str], Weight]
  names: tuple[str, ...]


def assemble(
  grouping: Grouping,
  start: Op,
  logits: End,
  outputs: Mapping[str, End],
  paths: Sequence[str],
  origin: str,
) -> Assembled:
  """The network that leads from ``start`` to some outputs."""
  units = [_resolved(unit, grouping.aliases) for unit in grouping.units]
  ends = [logits, *outputs.values()]
  for end in ends:
    end.op = resolve(end.op, grouping.aliases)
  units = _ranked([_as_linear(unit) for unit in units], ends)
  units = _fused(_joined(units, ends), ends)
  called = layer_names(units, paths)
  tensors = {start: INPUT}
  layers, weights = [], {}
  for unit in units:
    name = called[id(unit)]
    for i, output in enumerate(unit.outputs):
      tensors[output] = f"{name}:{i}" if i else name
    read = tuple(tensors[op] for op in unit.inputs)
    layers.append(Layer(name, unit.op, FrozenDict(unit.fields), read))
    for collection, arrays in (("params", unit.params), ("batch_stats", unit.stats)):
      weights.update({(collection, name, key): weight for key, weight in arrays.items()})
  names = endpoints(logits, outputs, tensors, _pooled(units, logits.op, tensors))
  shape = tuple(map(int, start.shape[1:]))
  model = Replay(int(logits.op.shape[3]), tuple(layers), names, size_of(shape), origin)
  return Assembled(model, weights, tuple(layer.name for layer in layers))


def resolve(op: Op, aliases: Mapping[Op, Op]) -> Op:
  """The tensor that is written, for one that is the same."""
  while op in aliases:
    op = aliases[op]
  return op


def _resolved(unit: Unit, aliases: Mapping[Op, Op]) -> Unit:
  return dataclasses.replace(unit, inputs=tuple(resolve(op, aliases) for op in unit.inputs))


def _as_linear(unit: Unit) -> Unit:
  """A convolution of a whole map, without a normalization, as the linear layer that it is."""
  if unit.op != "ConvNorm" or unit.fields["norm"] is not None or unit.fields["groups"] != 1:
    return unit
  (source,), kernel = unit.inputs, unit.params["kernel"].value.shape[:2]
  whole = source.shape[1:3] == kernel and unit.fields["padding"] == "VALID"
  return as_linear(unit) if whole else unit


def _is_point(op: Op) -> bool:
  return op.shape[1:3] == (1, 1)


def _ranked(units: list[Unit], ends: Sequence[End]) -> list[Unit]:
  """Decides which tensors of one pixel are maps and which are vectors.

  Maps are those that a convolution, a pool or a larger map reads or writes; a linear layer between them
  is a convolution of one pixel. All others are vectors.
  """
  group: dict[Op, Op] = {}

  def find(op: Op) -> Op:
    while group.get(op, op) is not op:
      op = group[op]
    return op

  for unit in units:
    if unit.op in ANY_RANK:
      points = [op for op in (*unit.inputs, *unit.outputs) if _is_point(op)]
      for op in points[1:]:
        group[find(op)] = find(points[0])
  maps: set[Op] = set()
  producers = {output: unit for unit in units for output in unit.outputs}
  for unit in units:
    if unit.op in ("Dense", "GlobalAvgPool"):
      continue
    points = [op for op in (*unit.inputs, *unit.outputs) if _is_point(op)]
    mixed = len(points) < len(unit.inputs) + len(unit.outputs)
    if unit.op not in ANY_RANK or mixed:
      maps |= {find(op) for op in points}
    elif unit.op == "Activation" and ACTIVATIONS[unit.fields["act"]].fuses:
      (source,) = unit.inputs  # devices compute a rectifier in a convolution, not in a linear layer
      before = producers.get(source)
      if before is not None and before.op == "Dense" and _is_point(before.inputs[0]):
        maps.add(find(source))
  changed = True
  while changed:
    changed = False
    for unit in units:
      if unit.op == "Dense" and find(unit.outputs[0]) in maps:
        (source,) = unit.inputs
        if _is_point(source) and find(source) not in maps:
          maps.add(find(source))
          changed = True
  found = []
  for unit in units:
    is_map = find(unit.outputs[0]) in maps
    if unit.op == "Dense" and is_map:
      unit = as_convolution(unit)
    elif unit.op == "GlobalAvgPool":
      unit = dataclasses.replace(unit, fields={"keepdims": is_map})
    found.append(unit)
  flat: dict[Op, Op] = {}
  for end in ends:
    if end.is_vector and find(end.op) in maps:
      if end.op not in flat:
        flat[end.op] = vector = Op("sum", (end.op,), end.op.shape, {}, end.op.origin)
        found.append(Unit("GlobalAvgPool", (vector,), (end.op,), {"keepdims": False}))
      end.op = flat[end.op]  # a map of one pixel is read as a vector
  return found


def _joined(units: list[Unit], ends: Sequence[End]) -> list[Unit]:
  """A factor and then an offset are one leaf op."""
  readers = _readers(units, ends)
  found: list[Unit] = []
  place: dict[Op, int] = {}
  for unit in units:
    i = place.get(unit.inputs[0]) if unit.op == "Affine" and unit.fields["scale"] == 1.0 else None
    if i is not None and readers[unit.inputs[0]] == 1 and found[i].fields["bias"] == 0.0:
      before = found[i]
      found[i] = dataclasses.replace(
        before,
        outputs=unit.outputs,
        fields={**before.fields, "bias": unit.fields["bias"]},
        params={**before.params, **unit.params},
        stats={**before.stats, **unit.stats},
        path=before.path or unit.path,
      )
      place[unit.outputs[0]] = i
      continue
    if unit.op == "Affine":
      place[unit.outputs[0]] = len(found)
    found.append(unit)
  return found


def _readers(units: Sequence[Unit], ends: Sequence[End]) -> dict[Op, int]:
  """How many layers read each tensor; an output is read by the user."""
  counts: dict[Op, int] = dict.fromkeys((end.op for end in ends), 1)
  for unit in units:
    for op in unit.inputs:
      counts[op] = counts.get(op, 0) + 1
  return counts


def _fused(units: list[Unit], ends: Sequence[End]) -> list[Unit]:
  """Activation functions behind a convolution or normalization that nothing else reads are its own."""
  readers = _readers(units, ends)
  found: list[Unit] = []
  place: dict[Op, int] = {}
  for unit in units:
    if unit.op == "Activation" and _ends_layers(unit.fields["act"]):
      (source,) = unit.inputs
      i = place.get(source)
      if i is not None and readers[source] == 1 and found[i].fields.get("act", "") is None:
        fields = {**found[i].fields, "act": unit.fields["act"]}
        found[i] = dataclasses.replace(found[i], fields=fields, outputs=unit.outputs)
        place[unit.outputs[0]] = i
        continue
    place[unit.outputs[0]] = len(found)
    found.append(unit)
  return found


def _ends_layers(act: str) -> bool:
  """Whether devices compute it in a layer; others are tables, which read the layer's own integers."""
  return ACTIVATIONS[act].fuses or act == "hard_sigmoid"


def _pooled(units: Sequence[Unit], end: Op, tensors: Mapping[Op, str]) -> str | None:
  """The vectors that the classifier reads, if they are means of maps."""
  for unit in units:
    if end in unit.outputs and unit.op == "Dense":
      pools = (u for u in units if u.op == "GlobalAvgPool" and not u.fields["keepdims"])
      if any(unit.inputs[0] in pool.outputs for pool in pools):
        return tensors[unit.inputs[0]]
  return None
