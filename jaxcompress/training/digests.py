"""Checksums of arrays in memory: what was read back is what was to be written, on whatever devices.

An array that lies whole on a device has the CRC-32 of its bytes, made on the host. One that is split
over devices is summed where it lies: its elements, each mixed with its place by a bijection, add up
modulo 2^32, so that one changed element always changes the sum, and any other split has the same.
"""

import zlib
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxcompress.training.processes import is_first

Checksums = dict[str, dict[str, int]]
WHOLE, SPLIT = "crc32", "sum"
UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}  # by bytes of an element


def checksums_of(arrays: Mapping[str, jax.Array]) -> Callable[[], Checksums]:
  """Takes what is needed of arrays that may be gone a moment later.

  Args:
    arrays: by name, on one device or on one mesh.

  Returns:
    A function that makes the checksums, in any thread; on the first process those of all arrays, on
    others none of the whole ones.

  Examples:
    >>> found = checksums_of({"x": jnp.arange(3, dtype=jnp.int32)})()
    >>> found == {"crc32": {"x": zlib.crc32(np.arange(3, dtype=np.int32).tobytes())}, "sum": {}}
    True
  """
  whole = {name: x for name, x in arrays.items() if x.is_fully_replicated and is_first()}
  split = {name: x for name, x in arrays.items() if not x.is_fully_replicated}
  sums = _split_sums(split) if split else None
  copies = _on_host(whole, own=True)

  def make() -> Checksums:
    found = {name: _crc32(copy) for name, copy in copies.items()}
    added = {} if sums is None else dict(zip(sorted(split), np.asarray(sums).tolist(), strict=True))
    return {WHOLE: found, SPLIT: added}

  return make


def changed(arrays: Mapping[str, jax.Array], noted: Checksums) -> str | None:
  """The first array that is not as noted, or that only one of both has; None: all are as noted.

  Called by all processes alike; each looks at what its own devices hold.
  """
  whole, split = noted[WHOLE], noted[SPLIT]
  if others := set(arrays) ^ {*whole, *split}:
    return min(others)
  summed = {name: arrays[name] for name in sorted(split)}
  sums = np.asarray(_split_sums(summed)).tolist() if summed else []
  copies = _on_host({name: _gathered(arrays[name]) for name in whole}, own=False)
  wrong = [name for name, value in zip(summed, sums, strict=True) if split[name] != value]
  wrong += [name for name, copy in copies.items() if whole[name] != _crc32(copy)]
  return min(wrong, default=None)


def _on_host(arrays: Mapping[str, jax.Array], *, own: bool) -> dict[str, np.ndarray]:
  """Copies of whole arrays, all on their way at once; a save finds them there."""
  parts = {name: x.addressable_shards[0].data for name, x in arrays.items()}
  for part in parts.values():
    part.copy_to_host_async()
  of_cpu = own and any(
    part.device.platform == "cpu" for part in parts.values()
  )  # no copy by itself
  return {name: np.array(part) if of_cpu else np.asarray(part) for name, part in parts.items()}


def _crc32(array: np.ndarray) -> int:
  return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _gathered(array: jax.Array) -> jax.Array:
  """An array, whole on every device."""
  if array.is_fully_replicated:
    return array
  assert isinstance(array.sharding, NamedSharding)
  return jax.device_put(array, NamedSharding(array.sharding.mesh, PartitionSpec()))


def _split_sums(arrays: dict[str, jax.Array]) -> jax.Array:
  """One sum for each array, in the order of their names; whole on every device."""
  sharding = next(iter(arrays.values())).sharding
  whole = None
  if isinstance(sharding, NamedSharding):
    whole = NamedSharding(sharding.mesh, PartitionSpec())
  return _summed(arrays, whole)


@partial(jax.jit, static_argnums=1)
def _summed(arrays: dict[str, jax.Array], whole: NamedSharding | None) -> jax.Array:
  found = jnp.stack([_sum(arrays[name]) for name in sorted(arrays)])
  return found if whole is None else jax.lax.with_sharding_constraint(found, whole)


def _sum(array: jax.Array) -> jax.Array:
  if array.dtype == bool:
    array = array.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(array, UNSIGNED[array.dtype.itemsize]).astype(jnp.uint32)
  place = jnp.zeros(bits.shape, jnp.uint32)
  for axis, size in enumerate(bits.shape):
    place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
  return jnp.sum(_mixed(bits ^ _mixed(place + np.uint32(1))), dtype=jnp.uint32)


def _mixed(x: jax.Array) -> jax.Array:
  """The finalizer of MurmurHash3, a bijection of 32 bits in which each changes about half of all."""
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
  return x ^ (x >> np.uint32(16))
