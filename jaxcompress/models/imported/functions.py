"""Recognises activation functions by what they compute, however they are spelled.

Elementwise operations that read one tensor and numbers are one function of a real number. Its values on
a grid tell which it is: ``nn.silu(x)``, ``x * jax.nn.sigmoid(x)`` and ``x / (1 + jnp.exp(-x))`` are one.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.models.imported.compiling import compiled
from jaxcompress.models.imported.meanings import MEANINGS
from jaxcompress.models.imported.values import Op, Operand
from jaxcompress.nn.activations import ACTIVATIONS

GRID = np.concatenate(
  [np.linspace(-12, 12, 2401), np.outer([-1, 1], [15, 20, 30, 50, 80, 1e3, 1e4]).ravel()]
)
ONE_BELOW = int(np.argmin(np.abs(GRID + 1)))  # where the grid has -1
CLOSE = 3e-6  # of what single precision makes of the same function
ROUGH = 8e-3  # of what constants in half precision make of it
MOST_BASES = 16  # tensors that a function may start from; no activation function is longer


class Function(NamedTuple):
  """An operation that an elementwise function is.

  Attributes:
    op: name of the leaf op.
    fields: of it.
  """

  op: str
  fields: Mapping[str, Any]


def _table() -> dict[str, np.ndarray]:
  """Values on the grid of the functions that have a name."""
  functions = {act: function.run for act, function in ACTIVATIONS.items() if act is not None}
  with jax.enable_x64(True):
    grid = jnp.asarray(GRID, jnp.float64)
    (run,) = compiled([(lambda x: {act: run(x) for act, run in functions.items()}, (grid,))])
    return jax.device_get(run(grid))


_values: dict[str, np.ndarray] = {}


def named_values() -> dict[str, np.ndarray]:
  """Values on the grid, by name."""
  if not _values:
    _values.update(_table())
  return _values


Family = Callable[[np.ndarray], tuple[Function, np.ndarray] | None]


def _leaky(values: np.ndarray) -> tuple[Function, np.ndarray] | None:
  slope = float(str(np.float32(-values[ONE_BELOW])))
  if not 0 < slope < 1:
    return None
  return Function("LeakyRelu", {"slope": slope}), np.where(GRID >= 0, GRID, slope * GRID)


FAMILIES: Mapping[str, Family] = {"LeakyRelu": _leaky}
"""Functions with a parameter: from values to the op with the parameter read off, and its values."""


def identify(values: np.ndarray, rough: bool) -> Function | None:
  """The function that has some values on the grid; None where it has no name here."""
  if not np.all(np.isfinite(values)):
    return None
  bound = (ROUGH if rough else CLOSE) * np.maximum(1, np.abs(values))
  best, least = None, np.inf
  candidates = [(Function("Activation", {"act": n}), v) for n, v in named_values().items()]
  candidates += [found for family in FAMILIES.values() if (found := family(values)) is not None]
  for function, wanted in candidates:
    error = np.max(np.abs(values - wanted) / bound)
    if error <= 1 and error < least:
      best, least = function, error
  return best


def is_identity(values: np.ndarray) -> bool:
  """Whether nothing is changed."""
  return bool(np.all(np.abs(values - GRID) <= CLOSE * np.maximum(1, np.abs(GRID))))


class Form(NamedTuple):
  """A tensor as a function of another.

  Attributes:
    values: on the grid.
    rough: whether its numbers have half precision.
  """

  values: np.ndarray
  rough: bool


class Forms:
  """Each tensor as functions of those that it is computed of elementwise."""

  def __init__(self) -> None:
    self._found: dict[int, dict[Op, Form]] = {}

  def of(self, op: Op) -> dict[Op, Form]:
    """Returns its forms by the tensor that it is a function of; the first is the farthest."""
    stack = [op]
    while stack:
      top = stack[-1]
      waiting = [x for x in top.inputs if id(x) not in self._found]
      if _is_function(top) and id(top) not in self._found and waiting:
        stack += waiting
      else:
        stack.pop()
        if id(top) not in self._found:
          self._found[id(top)] = self._computed(top)
    return self._found[id(op)]

  def _computed(self, op: Op) -> dict[Op, Form]:
    itself = {op: Form(GRID, False)}
    if not _is_function(op):
      return itself
    parts = [self._found[id(x)] for x in op.inputs]
    bases = [base for base in parts[0] if all(base in part for part in parts[1:])]
    bases = sorted(bases, key=lambda base: base.number)[-MOST_BASES:]
    found = {}
    for base in bases:
      if base.shape == op.shape:
        found[base] = self._applied(op, [part[base] for part in parts])
    return {**found, **itself}

  def _applied(self, op: Op, forms: list[Form]) -> Form:
    rough = any(form.rough for form in forms)
    xs = []
    for operand in op.fields["operands"]:
      if isinstance(operand, Operand):
        number = operand.array.ravel()[0]
        rough |= number.dtype.itemsize == 2
        xs.append(np.asarray(number if number.dtype == bool else number.astype(np.float64)))
      else:
        xs.append(forms[operand].values)
    with np.errstate(all="ignore"):
      values = MEANINGS[op.fields["primitive"]](op.fields["params"], *xs)
    return Form(np.broadcast_to(values, GRID.shape), rough)


def _is_function(op: Op) -> bool:
  """Whether an operation computes each number of its inputs' numbers and of literals alone."""
  return op.kind == "elementwise" and all(
    o.literal for o in op.fields["operands"] if isinstance(o, Operand)
  )


def activation_of(op: Op, forms: Forms) -> tuple[Op, Function | None] | None:
  """The farthest tensor of which ``op`` is a known function, or is the same (None); None: neither."""
  for base, form in forms.of(op).items():
    if base is op or form.values.dtype == bool:
      continue
    if is_identity(form.values):
      return base, None
    function = identify(form.values, form.rough)
    if function is not None:
      return base, function
  return None
