"""Computes what depends on the variables alone, and keeps where its numbers come from."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.models.imported.meanings import MEANINGS
from jaxcompress.models.imported.values import Constant, is_key
from jaxcompress.models.imported.views import Shape

SAME = frozenset(
  [
    "convert_element_type",
    "copy",
    "copy_p",
    "stop_gradient",
    "reduce_precision",
    "name",
    "sharding_constraint",
    "mesh_cast",
    "reshard",
    "pvary",
    "optimization_barrier",
  ]
)
"""Operations that leave the numbers as they are, but for their precision."""
RANDOM = frozenset(
  ["random_bits", "threefry2x32", "random_gamma", "rng_uniform", "rng_bit_generator"]
)


def _broadcast(array: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
  shape = [1] * len(params["shape"])
  for size, axis in zip(array.shape, params["broadcast_dimensions"], strict=True):
    shape[axis] = size
  return np.broadcast_to(array.reshape(shape), params["shape"])


def _tile(array: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
  reps = params["reps"]
  if all(size == 1 or count == 1 for size, count in zip(array.shape, reps, strict=True)):
    return np.broadcast_to(array, np.multiply(array.shape, reps))
  return np.tile(array, reps)


def _slice(array: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
  strides = params["strides"] or (1,) * array.ndim
  bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
  return array[tuple(slice(*bound) for bound in bounds)]


MOVED: Mapping[str, Callable[[np.ndarray, Mapping[str, Any]], np.ndarray]] = {
  "reshape": lambda a, p: a.reshape(p["new_sizes"]),
  "transpose": lambda a, p: np.transpose(a, p["permutation"]),
  "squeeze": lambda a, p: np.squeeze(a, tuple(p["dimensions"])),
  "expand_dims": lambda a, p: np.expand_dims(a, tuple(p["dimensions"])),
  "broadcast_in_dim": _broadcast,
  "tile": _tile,
  "slice": _slice,
  "rev": lambda a, p: np.flip(a, tuple(p["dimensions"])),
}
"""Operations that only move numbers, which their places follow."""
KEEP_ORDER = frozenset(["reshape", "squeeze", "expand_dims", "broadcast_in_dim"])


def slim(array: np.ndarray) -> np.ndarray:
  """The array with axes of length one where it is alike all along because it was broadcast."""
  return array[tuple(slice(1) if step == 0 else slice(None) for step in array.strides)]


def fold(eqn: Any, operands: Sequence[Constant]) -> list[Constant]:
  """The constants that an operation makes of others."""
  name, params = eqn.primitive.name, eqn.params
  learned = any(c.learned for c in operands)
  random = name in RANDOM or any(c.random for c in operands)
  if name in SAME:
    return [
      _converted(c, variable.aval.dtype) for c, variable in zip(operands, eqn.outvars, strict=False)
    ]
  plain, made = all(isinstance(c.value, np.ndarray) for c in operands), (name, tuple(operands))
  if name in MOVED and plain:
    return [_moved(name, params, operands[0])]
  if name == "split" and plain:
    edges = np.cumsum(params["sizes"])[:-1]
    axis, (c,) = params["axis"], operands
    known = c.index is not None
    parts = np.split(c.value, edges, axis)
    places = [None] * len(parts) if c.index is None else np.split(c.index, edges, axis)
    return [
      Constant(part, place, None if known else (name, (c,)), c.learned, c.random)
      for part, place in zip(parts, places, strict=True)
    ]
  if name == "concatenate" and plain:
    known = all(c.index is not None for c in operands)
    axis = params["dimension"]
    index = np.concatenate([c.index for c in operands], axis) if known else None
    value = np.concatenate([c.value for c in operands], axis)
    return [Constant(value, index, None if known else made, learned, random)]
  if name in MEANINGS and plain and len(eqn.outvars) == 1:
    with np.errstate(all="ignore"):
      computed = MEANINGS[name](params, *(slim(c.value) for c in operands))
    out = eqn.outvars[0].aval
    value = np.broadcast_to(np.asarray(computed).astype(out.dtype), out.shape)
    return [Constant(value, None, made, learned, random)]
  return [Constant(value, None, made, learned, random) for value in _run(eqn, operands)]


def _converted(c: Constant, dtype: Any) -> Constant:
  if not isinstance(c.value, np.ndarray) or c.value.dtype == dtype:
    return c
  value = np.broadcast_to(slim(c.value).astype(dtype), c.value.shape)
  whole = np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.bool_)
  made = None if c.index is not None or whole else ("same", (c,))
  return Constant(value, None if whole else c.index, made, c.learned, c.random)


def _moved(name: str, params: Mapping[str, Any], c: Constant) -> Constant:
  move = MOVED[name]
  index = None if c.index is None else move(c.index, params)
  ordered = name in KEEP_ORDER or (sum(size > 1 for size in c.value.shape) <= 1 and name != "rev")
  kept = ordered and name != "slice"
  made = ("same" if kept else name, (c,)) if index is None else None
  return Constant(move(c.value, params), index, made, c.learned, c.random)


def _run(eqn: Any, operands: Sequence[Constant]) -> list[Any]:
  """The arrays that JAX computes."""
  with jax.default_matmul_precision("highest"):
    made = eqn.primitive.bind(*(_array(c.value) for c in operands), **eqn.params)
  arrays = made if eqn.primitive.multiple_results else [made]
  return [array if is_key(array) else np.asarray(array) for array in arrays]


def _array(value: Any) -> jax.Array:
  return value if is_key(value) else jnp.asarray(value)


def literal(value: Any, shape: Shape | None = None) -> Constant:
  """A constant that stands in the code."""
  array = value if is_key(value) else np.asarray(value)
  return Constant(array if shape is None else np.broadcast_to(array, shape))
