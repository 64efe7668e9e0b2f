"""Tries what a device may have done in an operation, until something gives its very integers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.export.faults.layouts import (
  by_activation,
  by_arrangement,
  by_memory,
  by_padding,
  by_weights,
  by_zero_points,
)
from jaxcompress.export.faults.rounding import by_kernels, by_rounding, by_sums
from jaxcompress.export.faults.variants import Hypothesis, Operation, operation_of
from jaxcompress.export.faults.walk import (
  codes_of,
  evaluated,
  images_at_once,
  run_node,
  seen_after,
  steps_of,
  unseen_before,
)
from jaxcompress.nn import Node
from jaxcompress.quantize import QuantizedModel

FAMILIES = (
  by_kernels,
  by_rounding,
  by_sums,
  by_activation,
  by_zero_points,
  by_padding,
  by_weights,
  by_arrangement,
  by_memory,
)
MOST_TRIED = 6  # operations whose results were not printed
MOST_AGAIN = 8  # later operations on which rules that were found are tried
LEAST_REUSED = 16  # integers that memory must hold to be known again


class Explanation(NamedTuple):
  """A computation that gives the very integers that a device printed.

  Attributes:
    rule: in words, such as ``"rounding half up"``.
    detail: in which way, if there are several.
    layer: name of the operation that it is about.
    also: how many later operations it gives the integers of, of those that differ and that it was tried
      on.
  """

  rule: str
  detail: str = ""
  layer: str = ""
  also: int = 0

  def __str__(self) -> str:
    return f"{self.rule} ({self.detail})" if self.detail else self.rule


class Search(NamedTuple):
  """The result of a search.

  Attributes:
    found: what gives all integers exactly.
    nearest: what comes nearest where nothing does; None: nothing comes nearer than no fault at all.
    share: of the tensor's integers that it gives in the image of the first difference.
    untried: operations before it, also not printed, on which nothing was tried.
  """

  found: tuple[Explanation, ...]
  nearest: Explanation | None = None
  share: float = 0.0
  untried: int = 0


def hypotheses(operation: Operation) -> Iterator[Hypothesis]:
  """All that is tried on an operation."""
  for family in FAMILIES:
    yield from family(operation)


def search(
  quantized: QuantizedModel,
  node: Node,
  tensors: Mapping[str, np.ndarray],
  image: int,
  most: int = MOST_TRIED,
) -> Search:
  """Tries everything on an operation, and on those before it whose results were not printed.

  Args:
    quantized: the model.
    node: whose printed integers differ.
    tensors: integers that the device printed, by name, with the input among them.
    image: of the first difference.
    most: operations on which rules are tried, the last first.
  """
  segment = unseen_before(quantized, node, tensors)[::-1]
  one = {name: array[image : image + 1] for name, array in tensors.items()}
  state = _state(quantized, one, _batch(quantized, tensors))
  found: list[Explanation] = []
  nearest: Explanation | None = None
  best = _share(one, {name: state[name] for name in node.outputs if name in one}, quantized)
  for candidate in segment[:most]:
    for hypothesis in hypotheses(operation_of(quantized, candidate)):
      results = _results(quantized, candidate, hypothesis.operation, one, state)
      if results is None:
        continue
      explanation = Explanation(hypothesis.rule, hypothesis.detail, candidate.name)
      share = _share(one, results, quantized)
      if share == 1.0 and _holds(quantized, candidate, hypothesis, tensors):
        found.append(explanation)
      elif share > best:
        nearest, best = explanation, share
  found += reused_memory(quantized, node, one, state)
  untried = len(segment[most:])
  if found:
    return Search(tuple(found), untried=untried)
  return Search((), nearest, best if nearest else 0.0, untried)


def _batch(quantized: QuantizedModel, tensors: Mapping[str, np.ndarray]) -> int:
  """Images that one program evaluates at once."""
  return min(images_at_once(quantized), len(next(iter(tensors.values()))))


def _state(
  quantized: QuantizedModel, tensors: Mapping[str, np.ndarray], batch: int
) -> dict[str, np.ndarray]:
  """``q - z`` of all tensors, evaluated from those that were printed."""
  codes = {**tensors, **evaluated(quantized, tensors, count=batch)}
  return {name: steps_of(quantized, name, array) for name, array in codes.items()}


def _results(
  quantized: QuantizedModel,
  candidate: Node,
  operation: Operation,
  printed: Mapping[str, np.ndarray],
  state: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray] | None:
  """``q - z`` of all printed tensors that a hypothesis changes; None: it cannot be."""
  seen = {name: steps_of(quantized, name, array) for name, array in printed.items()}
  tensors = {**state, **seen}
  try:
    with np.errstate(all="ignore"):
      outputs = operation.run([tensors[name] for name in candidate.inputs])
  except (ValueError, TypeError):  # its rules refuse the numbers, or shapes do not fit
    return None
  results = dict(zip(candidate.outputs, outputs, strict=True))
  if any(array.shape != state[name].shape for name, array in results.items()):
    return None
  if not all(np.isfinite(array).all() for array in results.values()):
    return None
  later = seen_after(quantized, candidate, printed)[1:]
  changed = dict(results)
  for reader in later:
    inputs = {
      name: changed.get(name, tensors[name]) if name not in printed else tensors[name]
      for name in reader.inputs
    }
    changed |= {name: np.asarray(array) for name, array in run_node(quantized, reader, inputs)}
  return {name: array for name, array in changed.items() if name in printed}


def _share(
  printed: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray], quantized: QuantizedModel
) -> float:
  """Returns the share of the printed integers that equal the results; 0 without results."""
  equal = [printed[name] == codes_of(quantized, name, array) for name, array in results.items()]
  size = sum(map(np.size, equal))
  return float(sum(map(np.sum, equal)) / size) if size else 0.0


def _holds(
  quantized: QuantizedModel,
  candidate: Node,
  hypothesis: Hypothesis,
  tensors: Mapping[str, np.ndarray],
) -> bool:
  """Whether a hypothesis gives the integers of all images."""
  count, batch = len(next(iter(tensors.values()))), _batch(quantized, tensors)
  for start in range(0, count, batch):
    part = {name: array[start : start + batch] for name, array in tensors.items()}
    state = _state(quantized, part, batch)
    results = _results(quantized, candidate, hypothesis.operation, part, state)
    if results is None or _share(part, results, quantized) != 1.0:
      return False
  return True


def also_of(
  quantized: QuantizedModel,
  found: Sequence[Explanation],
  places: Sequence[tuple[Node, int]],
  tensors: Mapping[str, np.ndarray],
) -> tuple[Explanation, ...]:
  """Explanations with how many of some later operations they give, those that give most first.

  Args:
    quantized: the model.
    found: of the first operation.
    places: the others, and the images of their first differences.
    tensors: integers that the device printed, by name, with the input among them.
  """
  counts = {(one.rule, one.detail): 0 for one in found}
  batch = _batch(quantized, tensors)
  for node, image in places:
    one = {name: array[image : image + 1] for name, array in tensors.items()}
    state = _state(quantized, one, batch)
    for hypothesis in hypotheses(operation_of(quantized, node)):
      key = hypothesis.rule, hypothesis.detail
      if key in counts:
        results = _results(quantized, node, hypothesis.operation, one, state)
        counts[key] += results is not None and _share(one, results, quantized) == 1.0
  counted = [one._replace(also=counts[one.rule, one.detail]) for one in found]
  return tuple(sorted(counted, key=lambda one: -one.also))


def reused_memory(
  quantized: QuantizedModel,
  node: Node,
  printed: Mapping[str, np.ndarray],
  state: Mapping[str, np.ndarray],
) -> list[Explanation]:
  """Tensors that were written later, whose integers stand in the memory of an operation's result."""
  found = []
  later = quantized.graph.nodes[[one.name for one in quantized.graph.nodes].index(node.name) + 1 :]
  names = [tensor for one in later for tensor in one.outputs]
  for tensor in (name for name in node.outputs if name in printed):
    theirs, ours = printed[tensor].ravel(), codes_of(quantized, tensor, state[tensor]).ravel()
    for name in names:
      other = printed[name] if name in printed else codes_of(quantized, name, state[name])
      if quantized.grids[name].bits != quantized.grids[tensor].bits:
        continue
      size = min(theirs.size, other.size)
      if size < LEAST_REUSED or np.all(theirs[:size] == theirs[0]):
        continue
      if np.array_equal(theirs[:size], other.ravel()[:size]) and np.array_equal(
        theirs[size:], ours[size:]
      ):
        detail = f"it holds the integers of {name!r}, which is written later"
        found.append(Explanation("memory used again before it was printed", detail, node.name))
  return found


def grouped(found: Sequence[Explanation], tried: int = 0) -> list[str]:
  """Explanations in words, the ways of one rule together.

  Args:
    found: the explanations.
    tried: later operations on which they were tried, too.

  Examples:
    >>> grouped([Explanation("rounding half up", "float64"), Explanation("rounding half up", "float32")])
    ['rounding half up (float64; float32)']
  """
  ways: dict[tuple[str, str, int], list[str]] = {}
  for one in found:
    ways.setdefault((one.layer, one.rule, one.also), []).append(one.detail)
  several = len({one.layer for one in found}) > 1
  words = []
  for (layer, rule, also), details in ways.items():
    listed = "; ".join(filter(None, details))
    words.append(f"{rule} ({listed})" if listed else rule)
    if tried:
      words[-1] += f", also in {also} of {tried} later operations"
    if several:
      words[-1] = f"in {layer}: {words[-1]}"
  return words


def as_json(value: Any) -> Any:
  """Named tuples and tuples as objects and lists."""
  if hasattr(value, "_asdict"):
    return {name: as_json(part) for name, part in value._asdict().items()}
  return [as_json(part) for part in value] if isinstance(value, tuple | list) else value
