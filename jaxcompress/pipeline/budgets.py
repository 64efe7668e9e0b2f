"""Costs of a network, before it is trained; and the candidates that a budget leaves."""

import pathlib
import tempfile
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxcompress import data as datasets
from jaxcompress import export, quantize
from jaxcompress.data.storage import in_chunks
from jaxcompress.nn import Folded, Graph, count_macs, kernel_shape
from jaxcompress.prune.choose import thinnest
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.sites import find_sites

LOW_BITS = 4  # on average, that the bits of single layers are expected to come down to
FEWEST_BITS = 2
DIVISOR = 8  # of the channels that stay
FROM_SCRATCH = "from scratch"  # the last word of a candidate's name
NEAR = 0.95  # of the latency that is asked for, since it is measured again at the end
SENSED = 256  # images on which the sensitivity of layers is measured


class Budget(NamedTuple):
  """Limits of a network; None where they do not matter.

  Attributes:
    size: bytes of the packed file.
    macs: multiply-adds for one image.
    latency_ms: for one image, in LiteRT on one thread.

  Examples:
    >>> Budget(size=300_000)
    Budget(size=300000, macs=None, latency_ms=None)
  """

  size: int | None = None
  macs: int | None = None
  latency_ms: float | None = None


class Candidate(NamedTuple):
  """A way to a student.

  Attributes:
    name: as a person writes it.
    width: multiplier of the network that it starts from; None where there is none.
    prunes: whether channels are removed until it fits.
    mixed: whether every layer gets its own bits.
    fresh: whether it has the shape of the one before, and none of its weights.
  """

  name: str
  width: float | None
  prunes: bool = False
  mixed: bool = False
  fresh: bool = False


def sketch(graph: Graph, bits: int = 8) -> quantize.QuantizedModel:
  """A model of a graph with random integers: it costs what a trained one does, or a little more.

  Args:
    graph: traced, not fused.
    bits: of all weights.
  """
  sites, rng = find_sites(graph), np.random.default_rng(0)
  high = 2 ** (bits - 1) - 1
  folded, scales = {}, {}
  for node in sites.graph.nodes:
    shape = kernel_shape(node)
    if shape is None:
      continue
    kernel, bias = np.ones(shape, np.float32), rng.normal(size=shape[-1])
    if node.name in sites.kernels:
      scale = rng.uniform(0.5, 1.5, shape[-1]) / (high * np.prod(shape[:-1]) ** 0.5)
      scales[node.name] = scale.astype(np.float32)
      kernel = scales[node.name] * rng.integers(-high, high + 1, shape).astype(np.float32)
    folded[node.name] = Folded(kernel, np.ones(shape[-1]), bias)
  grids = {t: Grid(np.float32(0.05), 0) for t, _ in sites.keys}
  return quantize.assemble(sites.graph, folded, scales, grids)


def packed_size(model: quantize.QuantizedModel) -> int:
  """Bytes of a model's packed file."""
  with tempfile.TemporaryDirectory() as folder:
    return export.packed(model, pathlib.Path(folder) / "model.jcz").stat().st_size


def latency(model: quantize.QuantizedModel) -> float:
  """Milliseconds that a model takes for an image, measured."""
  with tempfile.TemporaryDirectory() as folder:
    path = export.tflite(model, pathlib.Path(folder) / "model.tflite")
    return export.benchmark(path, threads=1).median_ms


def integer_top1(model: quantize.QuantizedModel, split: datasets.Split) -> float:
  """Share of a split's images that an integer network gets right."""
  chunks = in_chunks(split.images)
  picked = np.concatenate([model.integers(chunk).argmax(axis=-1) for chunk in chunks])
  return float(np.mean(picked == split.labels))


def costs(graph: Graph, budget: Budget, bits: int = 8, extra: int = 0) -> Budget:
  """Measures or counts what a budget names of a graph.

  Args:
    graph: traced, not fused.
    budget: costs that it leaves open are not measured.
    bits: of all weights.
    extra: bytes that the packed file holds beside the model.

  Examples:
    >>> from jaxcompress import models
    >>> graph = models.summarize(models.resnet8(10)).graph
    >>> costs(graph, Budget(macs=1))
    Budget(size=None, macs=12501632, latency_ms=None)
  """
  return Budget(
    None if budget.size is None else packed_size(sketch(graph, bits)) + extra,
    None if budget.macs is None else count_macs(graph),
    None if budget.latency_ms is None else latency(sketch(graph)) / NEAR,
  )


def within(spent: Budget, budget: Budget) -> bool:
  """Whether nothing costs more than it may.

  Examples:
    >>> within(Budget(size=90), Budget(size=100)), within(Budget(macs=11), Budget(macs=10))
    (True, False)
  """
  return all(
    most is None or (cost is not None and cost <= most)
    for cost, most in zip(spent, budget, strict=True)
  )


def plan(
  budget: Budget, ladder: Mapping[float | None, Graph], bits: int = 8, extra: int = 0
) -> tuple[Candidate, ...]:
  """The candidates that can meet a budget.

  The widest network that fits as it is; the next wider one, from which channels are removed; and,
  where the size counts, the widest whose layers fit with fewer bits, and the next wider one with
  both. Where no width fits as it is, the shape of the one that lost channels is trained from scratch
  too, so that what was removed is always compared with a network of its size that lost nothing.

  Args:
    budget: what a network may cost.
    ladder: graphs by width.
    bits: the most that a layer has.
    extra: as for :func:`costs`.

  Returns:
    Two to five candidates, or one: that fits as it is, or with the fewest bits.

  Raises:
    ValueError: if none can; the message says what is the least.

  Examples:
    >>> from jaxcompress import models
    >>> graphs = {w: models.summarize(models.mobilenet_v2(10, w), 32).graph for w in (0.35, 0.5)}
    >>> [candidate.name for candidate in plan(Budget(macs=count_macs(graphs[0.35])), graphs)]
    ['x0.35', 'x0.5 pruned']
  """
  widths = sorted(ladder, key=lambda width: width or 0.0, reverse=True)
  low = min(LOW_BITS, bits)

  def fits(width: float | None, *, pruned: bool, bits: int) -> bool:
    graph = thinnest(ladder[width], DIVISOR) if pruned else ladder[width]
    return within(costs(graph, budget, bits, extra), budget)

  found: list[Candidate] = []
  for mixed in (False, True) if budget.size is not None else (False,):
    few = low if mixed else bits
    plain = next((i for i, w in enumerate(widths) if fits(w, pruned=False, bits=few)), None)
    wider = len(widths) - 1 if plain is None else plain - 1
    if plain is not None and not (mixed and found and found[0] == Candidate("", widths[plain])):
      found.append(Candidate("", widths[plain], mixed=mixed))
    if wider >= 0 and fits(widths[wider], pruned=True, bits=few):
      found.append(Candidate("", widths[wider], prunes=True, mixed=mixed))
  if not found:
    found = _least(budget, ladder, widths[-1], extra)
  if found[0].prunes and not found[0].mixed:
    found.insert(1, found[0]._replace(fresh=True))
  named = (candidate._replace(name=_name(candidate)) for candidate in found)
  return tuple(dict.fromkeys(named))


def _name(candidate: Candidate) -> str:
  start = "whole width" if candidate.width is None else f"x{candidate.width:g}"
  changes = ("pruned",) * candidate.prunes + ("mixed bits",) * candidate.mixed
  changes += (FROM_SCRATCH,) * candidate.fresh
  return " ".join((start, ", ".join(changes))).strip()


def _least(
  budget: Budget, ladder: Mapping[float | None, Graph], narrowest: float | None, extra: int
) -> list[Candidate]:
  """The candidate for budgets that only the thinnest network with the fewest bits meets."""
  smallest = thinnest(ladder[narrowest], DIVISOR)
  least = costs(smallest, budget, FEWEST_BITS, extra)
  for name, most, cost, unit in zip(
    ("max_size", "max_macs", "max_latency_ms"),
    budget,
    least,
    (" bytes of the packed file", " multiply-adds", " ms"),
    strict=True,
  ):
    if most is not None and cost is not None and cost > most:
      said = f"{cost:.3g}" if isinstance(cost, float) else f"{cost:,}"
      raise ValueError(
        f"{name}: {most:,}{unit} cannot be met; the least that this student reaches is {said},"
        " with the fewest channels and bits; allow more, or take another student."
      )
  return [Candidate("", narrowest, prunes=True, mixed=budget.size is not None)]
