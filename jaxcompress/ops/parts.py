"""Batches of which each device holds a part, and what is reduced on each of them before they exchange it.

A compiler that splits a program over devices gives every reduction of a batch an exchange of its own.
Reduced to one row for each device first, many of them are exchanged together.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcompress.ops.sums import extremes


class Parts(NamedTuple):
  """The parts of a batch on devices.

  Attributes:
    mesh: the devices; each holds as many examples, one after the other.
    apart: whether each part is normalised by its own statistics.
  """

  mesh: Mesh
  apart: bool = False


_parts = jax.make_user_context(default_value=None)


@contextmanager
def in_parts(parts: Parts | None) -> Iterator[None]:
  """Makes operations that are traced inside reduce a batch part by part first; None: a batch is one part.

  Examples:
    >>> with in_parts(Parts(jax.make_mesh((1,), ("data",)))):
    ...   part_count(jnp.ones((4, 2)))
    1
  """
  with _parts(parts):
    yield


def part_count(x: jax.Array) -> int:
  """Returns the number of parts of a batch on devices; 1 where they do not share it evenly."""
  parts = _parts.value
  if parts is None or x.ndim == 0 or x.shape[0] % parts.mesh.size:
    return 1
  return parts.mesh.size


def normalised_apart(x: jax.Array) -> int:
  """Returns the number of parts of a batch that have statistics of their own."""
  return part_count(x) if _parts.value is not None and _parts.value.apart else 1


def on_devices(x: jax.Array) -> jax.Array:
  """An array whose first axis are the parts, each on its device."""
  mesh = _parts.value.mesh
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))


def parted(x: jax.Array, count: int) -> jax.Array:
  """A batch as (parts, examples of each, ...)."""
  return on_devices(x.reshape(count, x.shape[0] // count, *x.shape[1:]))


def by_part(reduce: Callable[[jax.Array], tuple[jax.Array, ...]], x: jax.Array) -> jax.Array:
  """Applies ``reduce`` to each part of a batch; returns (parts, results, ...)."""
  count = part_count(x)
  if count == 1:
    return jnp.stack(reduce(x))[None]
  return on_devices(jax.vmap(lambda part: jnp.stack(reduce(part)))(parted(x, count)))


def part_extremes(x: jax.Array) -> jax.Array:
  """The ends of a batch's range on each device, (parts, 2): the smallest value negated, and the largest.

  So both are found, and exchanged, as maxima.

  Examples:
    >>> part_extremes(jnp.array([[-2.0, 3.0], [0.5, 0.0]])).tolist()
    [[2.0, 3.0]]
  """

  def ends(x):
    low, high = extremes(x)
    return -low, high

  return by_part(ends, x)
