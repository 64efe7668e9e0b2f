"""The states of many quantizers in few arrays: those of one form are stacked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LARGEST_STACKED = 4096  # numbers in an array; larger ones would be copied at every step


@jax.tree_util.register_pytree_with_keys_class
class States(Mapping[str, Any]):
  """The states of quantizers by name; those of one structure and shape share their arrays. A pytree.

  A step then passes and keeps three arrays for the ranges of all tensors, instead of three scalars for
  each of them. It is read as a dict is.

  Attributes:
    stacks: pytrees of arrays, the states along their first axis.
    places: the name of each state, which stack it is in, and where.

  Examples:
    >>> from jaxcompress.quantize.fake_quant import Range, empty_range
    >>> seen = Range(jnp.float32(-1.0), jnp.float32(2.0), jnp.int32(1))
    >>> states = States.of({"stem": empty_range(), "pool": seen, "kernel": ()})
    >>> float(states["pool"].high), states["kernel"], list(states)
    (2.0, (), ['stem', 'pool', 'kernel'])
    >>> [leaf.shape for leaf in jax.tree.leaves(states)]
    [(2,), (2,), (2,)]
  """

  def __init__(self, stacks: tuple[Any, ...], places: tuple[tuple[str, int, int], ...]):
    self.stacks, self.places = stacks, places
    self._place_of = {name: place for name, *place in places}

  @classmethod
  def of(cls, states: Mapping[str, Any]) -> "States":
    """Stacks states that come one by one.

    Args:
      states: by name; pytrees of arrays.
    """
    groups: dict[Any, list[str]] = {}
    for name, state in states.items():
      groups.setdefault(_form(name, state), []).append(name)
    found = {
      name: (i, j) for i, names in enumerate(groups.values()) for j, name in enumerate(names)
    }
    places = tuple((name, *found[name]) for name in states)
    return cls(_stacked(states, list(groups.values())), places)

  def updated(self, states: Mapping[str, Any]) -> "States":
    """The same, with states of the same names and forms."""
    names: list[list[str]] = [[] for _ in self.stacks]
    for name, group, _ in self.places:
      names[group].append(name)
    return States(_stacked(states, names), self.places)

  def at(self, names: Sequence[str]) -> Any:
    """States of one form, along the first axis; a name may come more than once.

    Examples:
      >>> states = States.of({"a": jnp.float32(1.0), "b": jnp.float32(2.0)})
      >>> states.at(["b", "a", "b"]).tolist()
      [2.0, 1.0, 2.0]
    """
    group, places = self._in_one(names)
    return taken(self.stacks[group], places)

  def with_at(self, names: Sequence[str], states: Any) -> "States":
    """The same with other states of some names, each of which comes once.

    Examples:
      >>> states = States.of({"a": jnp.float32(1.0), "b": jnp.float32(2.0)})
      >>> float(states.with_at(["b"], jnp.array([5.0]))["b"])
      5.0
    """
    group, places = self._in_one(names)
    count = len(jax.tree.leaves(self.stacks[group])[0])
    order = np.arange(count)
    order[places] = count + np.arange(len(places))
    both = jax.tree.map(lambda *pair: jnp.concatenate(pair), self.stacks[group], states)
    stacks = tuple(taken(both, order) if i == group else x for i, x in enumerate(self.stacks))
    return States(stacks, self.places)

  def _in_one(self, names: Sequence[str]) -> tuple[int, np.ndarray]:
    """The stack that states lie in, and where in it."""
    groups, places = zip(*(self._place_of[name] for name in names), strict=True)
    (group,) = set(groups)
    return group, np.array(places)

  def described(self) -> dict[str, Any]:
    """Shape, dtype and sharding of every state's arrays, one by one."""

    def without_first(x):
      return jax.ShapeDtypeStruct(x.shape[1:], x.dtype, sharding=x.sharding)

    return {name: jax.tree.map(without_first, self.stacks[group]) for name, group, _ in self.places}

  def __getitem__(self, name: str) -> Any:
    group, place = self._place_of[name]
    return state_at(self.stacks[group], place)

  def __iter__(self) -> Iterator[str]:
    return iter(self._place_of)

  def __len__(self) -> int:
    return len(self.places)

  def __repr__(self) -> str:
    return f"States({', '.join(self)})"

  def tree_flatten_with_keys(self) -> tuple[Any, Any]:
    keys = map(jax.tree_util.SequenceKey, range(len(self.stacks)))
    return tuple(zip(keys, self.stacks, strict=True)), self.places

  def tree_flatten(self) -> tuple[Any, Any]:
    return self.stacks, self.places

  @classmethod
  def tree_unflatten(cls, places: Any, stacks: Any) -> "States":
    return cls(tuple(stacks), places)


def _form(name: str, state: Any) -> Any:
  """Returns a key that is equal for the states that share a stack."""
  leaves, structure = jax.tree.flatten(state)
  own = name if any(np.size(leaf) > LARGEST_STACKED for leaf in leaves) else None
  return structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves), own


def _stacked(states: Mapping[str, Any], groups: list[list[str]]) -> tuple[Any, ...]:
  return tuple(
    jax.tree.map(lambda *leaves: jnp.stack(leaves), *(states[name] for name in names))
    for names in groups
  )


def taken(stack: Any, places: np.ndarray) -> Any:
  """Some states of a stack, along the first axis."""
  return jax.tree.map(lambda x: jnp.take(x, places, 0, mode="clip"), stack)


def state_at(stack: Any, place: int) -> Any:
  """One state of a stack."""

  def at(x):
    if isinstance(x, np.ndarray):
      return x[place]
    return jax.lax.index_in_dim(x, place, 0, keepdims=False)

  return jax.tree.map(at, stack)
