"""The way back: trained arrays of the layers into the user's own pytree."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.arguments import shown
from jaxcompress.models.imported.values import Leaves, is_key, leaves_in, take
from jaxcompress.models.imported.weights import MISSING, Source, Weight
from jaxcompress.nn.graph import parameters

Key = tuple[str, str, str]
AGREE = {2: 2e-2, 4: 1e-4, 8: 1e-4}  # by bytes of a leaf: how near a number is to what was trained


@dataclasses.dataclass(frozen=True)
class Restoring:
  """Maps the variables of the imported network back to those of the original.

  Attributes:
    leaves: the user's variables.
    weights: arrays of the network by collection, layer and name, as they were made.
    epsilons: of the layers that normalize.
  """

  leaves: Leaves
  weights: Mapping[Key, Weight]
  epsilons: Mapping[str, float]

  def __repr__(self) -> str:
    return f"restore(variables) of {len(self.leaves.paths)} leaves"

  def __call__(self, variables: Mapping[str, Any]) -> Any:
    """See :meth:`Imported.restore`."""
    if not isinstance(variables, Mapping):
      raise ValueError(
        f"variables must be a mapping with {' and '.join(repr(part) for part in self._collections())},"
        f" such as state.variables, got {shown(variables)}."
      )
    trained = {key: _array(variables, key, weight) for key, weight in self.weights.items()}
    moved = {
      key: array for key, array in trained.items() if not _same(array, self.weights[key].value)
    }
    moved = dict(self._absorbed(moved, trained))
    values = [leaf if is_key(leaf) else np.array(leaf) for leaf in self.leaves.values]
    written: set[int] = set()
    for key, array in moved.items():
      source = self._source(key)
      numbers = (array.astype(np.float64) - source.offset) / source.factor
      written |= _write(values, self.leaves.starts, source.places, numbers)
    self._check(trained, moved, values, written)
    fresh = [
      _like(original, value) if number in written else original
      for number, (value, original) in enumerate(zip(values, self.leaves.originals, strict=True))
    ]
    return jax.tree.unflatten(self.leaves.treedef, fresh)

  def _collections(self) -> list[str]:
    return sorted({collection for collection, _, _ in self.weights}, reverse=True)

  def _source(self, key: Key) -> Source:
    weight = self.weights[key]
    if weight.source is None or np.any(weight.source.factor == 0):
      why = weight.why if weight.source is None else "was multiplied by zero"
      raise ValueError(
        f"variables: {'/'.join(key)} was trained, but it {why}, so there is no leaf to write it to;"
        f" keep layer {key[1]!r} as it is in training, or deploy the imported model itself."
      )
    return weight.source

  def _absorbed(
    self, moved: Mapping[Key, np.ndarray], trained: Mapping[Key, np.ndarray]
  ) -> Iterator[tuple[Key, np.ndarray]]:
    """Scales and biases that the original's normalization lacks are taken up by its statistics."""
    layers = {key[1] for key in moved if key[1] in self.epsilons and self._lacks(key)}
    for key, array in moved.items():
      if key[1] not in layers:
        yield key, array
    for layer in sorted(layers):
      scale, bias = (
        trained["params", layer, name].astype(np.float64) for name in ("scale", "bias")
      )
      mean, var = (
        trained["batch_stats", layer, name].astype(np.float64) for name in ("mean", "var")
      )
      inverse = 1 / np.sqrt(var + self.epsilons[layer])
      if self._lacks(("params", layer, "bias")):
        if np.any((bias != 0) & (scale == 0)):
          raise ValueError(f"variables: the scale of {layer!r} is zero; it cannot be taken up.")
        mean = mean - np.where(bias == 0, 0, bias / np.where(scale == 0, 1, scale * inverse))
      if self._lacks(("params", layer, "scale")):
        if np.any(scale <= 0):
          raise ValueError(
            f"variables: the scale of {layer!r} has values of 0 or below, and the original has no"
            " scale to take them; keep it above 0 in training."
          )
        epsilon = self.epsilons[layer]
        var = (var + epsilon) / scale**2 - epsilon
      yield ("batch_stats", layer, "mean"), mean
      yield ("batch_stats", layer, "var"), var
      for key in (key for key in moved if key[1] == layer and key[0] == "params"):
        if not self._lacks(key):
          yield key, moved[key]

  def _lacks(self, key: Key) -> bool:
    weight = self.weights.get(key)
    return (
      key[0] == "params"
      and key[2] in ("scale", "bias")
      and weight is not None
      and weight.source is None
      and weight.why == MISSING
    )

  def _check(self, trained, moved, values, written) -> None:
    """All arrays must follow from the leaves as they are now."""
    for key, weight in self.weights.items():
      if weight.source is None:
        continue
      touched = written & set(leaves_in(self.leaves.starts, weight.source.places))
      if not touched and not written & weight.source.fixed:
        continue
      found = take(values, self.leaves.starts, weight.source.places)
      found = found * weight.source.factor + weight.source.offset
      wanted = np.asarray(moved.get(key, trained[key]), np.float64)
      if key not in moved and self._was_absorbed(key, moved):
        continue
      number = min(touched or written & weight.source.fixed)
      bound = AGREE.get(np.asarray(values[number]).dtype.itemsize, 1e-4)
      scale = np.max(np.abs(wanted), initial=1e-6)
      if np.any(np.abs(found - wanted) > bound * scale):
        others = sorted(
          {
            "/".join(k)
            for k, w in self.weights.items()
            if k != key
            and w.source is not None
            and number in leaves_in(self.leaves.starts, w.source.places)
          }
        )
        with_others = f" and {', '.join(others)}" if others else ""
        raise ValueError(
          f"variables: leaf {self.leaves.paths[number]!r} stands for {'/'.join(key)}{with_others},"
          " which were trained apart; the original has one array for them. Deploy the imported model"
          " itself, or keep those layers as they were in training."
        )

  def _was_absorbed(self, key: Key, moved: Mapping[Key, np.ndarray]) -> bool:
    return key[0] == "batch_stats" and key in moved


def _like(original: Any, value: np.ndarray) -> Any:
  """An array of the kind that the original is, which keeps float64 in numpy's."""
  return value if isinstance(original, np.ndarray) else jnp.asarray(value)


def _array(variables: Mapping[str, Any], key: Key, weight: Weight) -> np.ndarray:
  """One trained array; it must have the shape that it had."""
  collection, layer, name = key
  if collection not in variables:
    raise ValueError(
      f"variables: {collection!r} is missing; give"
      ' {"params": state.params, "batch_stats": state.batch_stats}.'
    )
  entry = parameters(variables[collection], layer)
  if name not in entry:
    raise ValueError(f"variables: {'/'.join(key)} is missing; give those of the imported model.")
  array = np.asarray(entry[name])
  if array.shape != weight.value.shape:
    raise ValueError(
      f"variables: {'/'.join(key)} has shape {array.shape}, and the original {weight.value.shape};"
      " a network whose channels were removed does not fit in it: deploy the smaller model itself."
    )
  return array


def _same(array: np.ndarray, value: np.ndarray) -> bool:
  return np.array_equal(array, value, equal_nan=True)


def _write(
  values: list[Any], starts: np.ndarray, index: np.ndarray, numbers: np.ndarray
) -> set[int]:
  """Writes numbers to their places; which leaves were changed."""
  numbers = np.broadcast_to(numbers, index.shape)
  found = leaves_in(starts, index)
  for number in found:
    here = (index >= starts[number]) & (index < starts[number + 1])
    leaf = values[number]
    leaf.reshape(-1)[index[here] - starts[number]] = numbers[here].astype(leaf.dtype)
  return set(found)
