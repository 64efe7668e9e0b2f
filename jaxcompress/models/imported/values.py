"""Values of a traced function's variables: constants, and views of the results of operations."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.models.imported.views import View


@dataclasses.dataclass(eq=False)
class Constant:
  """A value that does not depend on the images.

  Attributes:
    value: a numpy array; of a key for random numbers, a JAX array.
    index: for each number, its place among all numbers of the variables, if it is one of them.
    made: name of the operation and its operands, if it was computed; ``"same"`` for the same numbers in
      another shape or dtype.
    learned: whether it depends on variables that are trained, so on floats.
    random: whether it depends on random numbers.
  """

  value: Any
  index: np.ndarray | None = None
  made: tuple[str, tuple["Constant", ...]] | None = None
  learned: bool = False
  random: bool = False


class Origin(NamedTuple):
  """The place of an operation in the user's code.

  Attributes:
    line: file and line, or nothing.
    module: path of the module, if the library notes it.
    layer: path of the weights that were read before.
    fixed: whether the line is that of a call into a library, whose own lines say nothing.
  """

  line: str = ""
  module: str = ""
  layer: str = ""
  fixed: bool = False


_count = itertools.count()


@dataclasses.dataclass(eq=False)
class Op:
  """One operation on tensors of shape (batch, height, width, channels).

  Attributes:
    kind: what it computes.
    inputs: operations whose outputs it reads.
    shape: of its output, (batch, height, width, channels).
    fields: what else it computes by.
    origin: where it stands in the user's code.
    number: operations that read it have higher ones.
  """

  kind: str
  inputs: tuple["Op", ...]
  shape: tuple[int, ...]
  fields: Mapping[str, Any]
  origin: Origin
  number: float = dataclasses.field(default_factory=lambda: next(_count))


class Tensor(NamedTuple):
  """An array that depends on the images."""

  op: Op
  view: View


class Operand(NamedTuple):
  """A constant that an elementwise operation reads.

  Attributes:
    constant: as it was traced.
    array: its values as (height, width, channels), 1 where they are alike.
  """

  constant: Constant
  array: np.ndarray

  @property
  def literal(self) -> bool:
    """Whether it is one number that is never trained."""
    return self.array.size == 1 and not self.constant.learned


class Leaves:
  """The arrays of the user's variables, and the place of each number among all of them.

  Attributes:
    paths: one for each leaf, its parts joined by slashes.
    values: the leaves as numpy arrays; keys for random numbers as they are.
    treedef: of the user's pytree.
  """

  def __init__(self, variables: Any):
    found, self.treedef = jax.tree_util.tree_flatten_with_path(variables)
    self.paths = tuple(_path(path) for path, _ in found)
    self.originals = tuple(leaf for _, leaf in found)
    self.values = tuple(leaf if is_key(leaf) else np.asarray(leaf) for leaf in self.originals)
    sizes = [0 if is_key(leaf) else leaf.size for leaf in self.values]
    self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

  def constants(self) -> list[Constant]:
    """The leaves as constants."""
    kind = np.int32 if self.starts[-1] < 2**31 else np.int64
    found = []
    for start, value in zip(self.starts, self.values, strict=False):
      index = None
      if not is_key(value):
        index = np.arange(start, start + value.size, dtype=kind).reshape(value.shape)
      trained = not is_key(value) and jnp.issubdtype(value.dtype, jnp.inexact)
      found.append(Constant(value, index, learned=trained))  # counters are not trained
    return found

  def number_of(self, place: int) -> int:
    """Which leaf holds a number."""
    return int(np.searchsorted(self.starts, place, side="right")) - 1

  def path_of(self, constant: Constant) -> str | None:
    """Path of the first leaf that a constant depends on; the longest array goes first."""
    numbers = self.behind([constant])
    return (
      self.paths[max(numbers, key=lambda number: self.values[number].size)] if numbers else None
    )

  def behind(self, constants: Iterable[Constant]) -> list[int]:
    """Numbers of the leaves that constants depend on, in the order in which they are read."""
    queue, seen, numbers = list(constants)[::-1], set[int](), dict[int, None]()
    while queue:
      found = queue.pop()
      if id(found) in seen:
        continue
      seen.add(id(found))
      if found.index is not None:
        numbers.update(dict.fromkeys(leaves_in(self.starts, found.index)))
      elif found.made is not None:
        queue.extend(found.made[1][::-1])
    return list(numbers)

  def read(self, constant: Constant) -> np.ndarray:
    """Values of a constant in float64, before they were rounded to a compute dtype."""
    if constant.index is None:
      return np.asarray(constant.value).astype(np.float64)
    return self.take(constant.index)

  def take(self, index: np.ndarray) -> np.ndarray:
    """The numbers at some places, in float64."""
    return take(self.values, self.starts, index)


def take(values: Sequence[Any], starts: np.ndarray, index: np.ndarray) -> np.ndarray:
  """Numbers of leaves by their places among all, in float64."""
  found = np.empty(index.shape, np.float64)
  for number in leaves_in(starts, index):
    here = (index >= starts[number]) & (index < starts[number + 1])
    flat = np.asarray(values[number]).reshape(-1)
    found[here] = flat[index[here] - starts[number]]
  return found


def leaves_in(starts: np.ndarray, index: np.ndarray) -> Sequence[int]:
  """Numbers of the leaves that hold some places."""
  if index.size == 0:
    return ()
  ends = np.searchsorted(starts, [index.min(), index.max()], side="right") - 1
  if ends[0] == ends[1]:
    return (int(ends[0]),)
  return np.unique(np.searchsorted(starts, index.ravel(), side="right") - 1).tolist()


def is_static(leaf: Any) -> bool:
  """Whether a leaf is no array and no number."""
  return isinstance(leaf, bool) or not (hasattr(leaf, "dtype") or isinstance(leaf, int | float))


def is_key(leaf: Any) -> bool:
  """Whether a leaf is a key for random numbers."""
  return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _path(path: Sequence[Any]) -> str:
  return jax.tree_util.keystr(tuple(path), simple=True, separator="/")
