"""Groups pools, means and other operations without weights."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxcompress.models.imported.axes import NAMES
from jaxcompress.models.imported.grouping import Group, Grouping
from jaxcompress.models.imported.layered import supported, with_pads
from jaxcompress.models.imported.units import Unit, one_or_pair
from jaxcompress.models.imported.values import Op
from jaxcompress.ops.resizing import METHODS, SAMPLINGS, cells_between, nearest_cells


def _of_channels(g: Grouping, op: Op) -> Unit:
  """The mean or the largest of each cell's channels."""
  (source,) = op.inputs
  if op.kind == "largest":
    return Unit("ChannelMax", (op,), (source,), {}, origin=op.origin)
  count = source.shape[3]
  if not math.isclose(op.fields["factor"] * count, 1, rel_tol=1e-3):
    return _times(op, count)
  return Unit("ChannelMean", (op,), (source,), {}, origin=op.origin)


def _mean(g: Grouping, op: Op) -> Unit | None:
  (source,) = op.inputs
  large = {role for role, size in zip("HW", source.shape[1:3], strict=True) if size > 1}
  if op.fields["roles"] == {"C"}:
    return _of_channels(g, op)
  if op.fields["roles"] != large:
    over = " and ".join(_names(op.fields["roles"]))
    g.report(op.origin, f"a sum over {over}", "take the mean over height and width")
    return None
  count = source.shape[1] * source.shape[2]
  if not math.isclose(op.fields["factor"] * count, 1, rel_tol=1e-3):
    return _times(op, count)
  return Unit("GlobalAvgPool", (op,), (source,), {"keepdims": False}, origin=op.origin)


def _times(op: Op, count: int) -> Unit:
  """A sum as a mean that is multiplied."""
  fields = {**op.fields, "factor": 1 / count}
  mean = Op(op.kind, op.inputs, op.shape, fields, op.origin, op.number - 0.5)
  scale = op.fields["factor"] * count
  return Unit(
    "Affine", (op,), (mean,), {"scale": scale, "bias": 0.0, "act": None}, origin=op.origin
  )


def _names(roles) -> list[str]:
  return [NAMES[role] for role in "NHWC" if role in roles]


def _pool(g: Grouping, op: Op) -> Unit | None:
  fields, (source,) = dict(op.fields), op.inputs
  padding, fillers = fields["padding"], FILLERS[op.kind]
  while source.kind == "pad" and fillers(source.fields["value"]):
    padding = with_pads(padding, source)
    (source,) = source.inputs
  window: dict[str, Any] = {name: one_or_pair(fields[name]) for name in ("kernel", "stride")}
  if not all(supported(g, op, name, value) for name, value in window.items()):
    return None
  padded = any(map(any, padding))
  window["padding"] = padding if padded else "VALID"
  if op.kind == "window_max":
    return Unit("MaxPool", (op,), (source,), window, origin=op.origin)
  count = math.prod(fields["kernel"]) if op.kind == "window_sum" else 1
  if not math.isclose(fields["factor"] * count, 1, rel_tol=1e-3):
    return _times(op, count)
  if fields["kernel"] == source.shape[1:3] and not padded:
    return Unit("GlobalAvgPool", (op,), (source,), {"keepdims": False}, origin=op.origin)
  window["count_padding"] = padded and op.kind == "window_sum"
  return Unit("AvgPool", (op,), (source,), window, origin=op.origin)


def _maximum(g: Grouping, op: Op) -> Unit | None:
  (source,) = op.inputs
  large = {role for role, size in zip("HW", source.shape[1:3], strict=True) if size > 1}
  if op.fields["roles"] == {"C"}:
    return _of_channels(g, op)
  if op.fields["roles"] != large:
    over = " and ".join(_names(op.fields["roles"]))
    g.report(op.origin, f"a maximum over {over}", "take it over height and width")
    return None
  kernel = one_or_pair(source.shape[1:3])
  if not supported(g, op, "kernel", kernel):
    return None
  window = {"kernel": kernel, "stride": 1, "padding": "VALID"}
  return Unit("MaxPool", (op,), (source,), window, origin=op.origin)


FILLERS: Mapping[str, Callable[[float], bool]] = {
  "window_max": lambda value: value < -1e30,
  "window_sum": lambda value: value == 0,
  "window_mean": lambda value: False,
}
"""Which padding a pool can take over."""


def _copied(g: Grouping, op: Op) -> Unit:
  return Unit(op.kind, (op,), op.inputs, dict(op.fields), origin=op.origin)


def _pad(g: Grouping, op: Op) -> Unit | None:
  pads, value = op.fields["padding"], op.fields["value"]
  if not math.isfinite(value) or abs(value) > 1e30:
    g.report(op.origin, f"padding with {value}", "pad where max_pool reads it")
    return None
  if min(map(min, pads)) < 0:
    g.report(op.origin, "padding by less than 0", "cut with a slice")
    return None
  return Unit("Pad", (op,), op.inputs, {"pads": pads, "value": value}, origin=op.origin)


def _crop(g: Grouping, op: Op) -> Unit:
  """Rows and columns that are cut one after the other are one slice."""
  (source,), cuts = op.inputs, {op.fields["role"]: op.fields}
  while source.kind == "crop" and g.only_read_by_one(source) and source.fields["role"] not in cuts:
    cuts[source.fields["role"]] = source.fields
    (source,) = source.inputs
  whole = {"start": 0, "step": 1}
  sizes = dict(zip("HW", source.shape[1:3], strict=True))
  ends = [cuts.get(role, {"stop": sizes[role]})["stop"] for role in "HW"]
  fields = {
    "begin": one_or_pair([cuts.get(role, whole)["start"] for role in "HW"]),
    "end": one_or_pair(ends),
    "step": one_or_pair([cuts.get(role, whole)["step"] for role in "HW"]),
  }
  return Unit("Slice", (op,), (source,), fields, origin=op.origin)


def _ordered(g: Grouping, op: Op) -> Unit | None:
  """Channels in another order, as parts of the channels that are joined."""
  (source,), order = op.inputs, op.fields["order"]
  starts = [0, *(np.flatnonzero(np.diff(order) != 1) + 1).tolist()]
  if len(starts) > MOST_PARTS:
    hint = "reorder the channels of the kernels that read them"
    g.report(op.origin, f"channels in another order, in {len(starts)} parts", hint)
    return None
  parts = []
  for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
    first = int(order[start])
    fields = {"start": first, "stop": first + stop - start}
    shape = (*op.shape[:3], stop - start)
    parts.append(Op("part", (source,), shape, fields, op.origin, op.number - 0.5))
  return Unit("Concat", (op,), tuple(parts), {}, origin=op.origin)


MOST_PARTS = 16  # that channels in another order are cut into


def _along(g: Grouping, op: Op) -> Unit | None:
  """Resizing of one axis after the other."""
  (source,), found = op.inputs, {op.fields["role"]: op.fields["matrix"]}
  ways = _ways(op.fields["matrix"])
  if source.kind == "along" and g.only_read_by_one(source) and source.fields["role"] not in found:
    both = [way for way in ways if way in _ways(source.fields["matrix"])]
    if both:
      ways = both
      found[source.fields["role"]] = source.fields["matrix"]
      (source,) = source.inputs
  if not ways:
    hint = "use jax.image.resize with 'nearest', or 'bilinear' and antialias=False"
    g.report(op.origin, "a linear map along height or width that is not a supported resizing", hint)
    return None
  method, sampling = ways[0]
  fields = {"size": one_or_pair(op.shape[1:3]), "method": method, "sampling": sampling}
  return Unit("Resize", (op,), (source,), fields, origin=op.origin)


def _ways(matrix: np.ndarray) -> list[tuple[str, str]]:
  """The methods and samplings that read cells with the shares of a matrix (cells, outputs)."""
  found = []
  for method in METHODS:
    for sampling in SAMPLINGS:
      if (method, sampling) == ("nearest", "align_corners"):
        continue
      wanted = _shares(matrix.shape, method, sampling)
      if np.allclose(matrix, wanted, rtol=0, atol=1e-5):
        found.append((method, sampling))
  return found


def _shares(shape: tuple[int, ...], method: str, sampling: str) -> np.ndarray:
  size, to = shape
  shares, outputs = np.zeros((size, to)), np.arange(to)
  if method == "nearest":
    shares[nearest_cells(size, to, sampling), outputs] = 1
    return shares
  cells = cells_between(size, to, sampling)
  np.add.at(shares, (cells.low, outputs), 1 - cells.part / cells.whole)
  np.add.at(shares, (cells.high, outputs), cells.part / cells.whole)
  return shares


GROUPS: Mapping[str, Group] = {
  "sum": _mean,
  "window_sum": _pool,
  "window_mean": _pool,
  "window_max": _pool,
  "Concat": _copied,
  "ChannelShuffle": _copied,
  "DepthToSpace": _copied,
  "SpaceToDepth": _copied,
  "largest": _maximum,
  "pad": _pad,
  "crop": _crop,
  "along": _along,
  "order": _ordered,
}
"""Makers by the kind of operation that was read: the leaf op, a tensor that it is the same as, or None if it was refused."""
