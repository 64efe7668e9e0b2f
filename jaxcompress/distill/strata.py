"""Memory banks cut into strata, so that devices can share them and never send them.

Example ``i`` is row ``i // S`` of stratum ``i % S``. As many negatives are drawn from each stratum,
by a key of the stratum's own, so the draw is the same whichever device holds which strata. What
devices exchange is the batch's embeddings and their gradients, whatever the banks' size.
"""

import math
from numbers import Integral
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxcompress.distill.banks import below

STRATA = 64  # where that divides the negatives; so many devices can share the banks


def choose_strata(examples: int, negatives: int) -> int:
  """Strata where none are asked for: :data:`STRATA`, or 1 if the draw is too small to be cut.

  Examples:
    >>> choose_strata(50_000, 16384), choose_strata(50_000, 100), choose_strata(100, 64)
    (64, 1, 1)
  """
  return STRATA if negatives % STRATA == 0 and examples >= 2 * STRATA else 1


def checked_strata(strata: int | None, examples: int, negatives: int) -> int:
  """How many strata there are: as asked for, or :func:`choose_strata`'s.

  Raises:
    ValueError: if the draw cannot be cut into so many.

  Examples:
    >>> checked_strata(8, 100, 64), checked_strata(None, 50_000, 16384)
    (8, 64)
  """
  if strata is None:
    return choose_strata(examples, negatives)
  whole = isinstance(strata, Integral) and not isinstance(strata, bool)
  if not whole or strata < 1 or negatives % strata or (strata > 1 and 2 * strata > examples):
    raise ValueError(
      f"strata: {strata!r} must be a whole number that divides negatives ({negatives}), and at most"
      f" half of num_examples ({examples})."
    )
  return int(strata)


def draw_rows(
  rng: jax.Array, index: jax.Array, strata: jax.Array, count: int, examples: int, negatives: int
) -> jax.Array:
  """Rows of others, uniform within each stratum, with replacement.

  Args:
    rng: a key; each stratum draws from a fold of it.
    index: (batch,) int32, the examples' own places in the training set.
    strata: (some,) int32, which strata to draw from.
    count: strata there are.
    examples: ``n``, at least two in each stratum.
    negatives: per example and stratum.

  Returns:
    (batch, some, negatives) int32, rows within their strata; never an example's own.

  Examples:
    >>> rows = draw_rows(jax.random.key(0), jnp.array([0, 2]), jnp.arange(2), 2, 4, 2)
    >>> rows[:, 0].tolist()  # of the even examples 0 and 2, the other one
    [[1, 1], [0, 0]]
  """
  row = (index // count).reshape(-1, 1)

  def of_one(stratum):
    own = (index % count == stratum).reshape(-1, 1)
    size = (examples - 1 - stratum) // count + 1
    key = jax.random.fold_in(rng, stratum)
    rows = below(size - own, key, (len(index), negatives))
    return rows + (own & (rows >= row))

  return jax.vmap(of_one, out_axes=1)(strata)


class Devices(NamedTuple):
  """The devices that share banks, as seen by one of them; without axes there is one.

  Attributes:
    axes: names of the mesh's axes, inside ``shard_map``.
  """

  axes: tuple[str, ...] = ()

  def gather(self, x: jax.Array) -> jax.Array:
    """The shares of all devices, along the first axis."""
    return jax.lax.all_gather(x, self.axes, tiled=True) if self.axes else x

  def of_each(self, x: jax.Array) -> jax.Array:
    """What all devices have alike, as a value of each."""
    return jax.lax.pcast(x, self.axes, to="varying") if self.axes else x

  def add(self, x: jax.Array) -> jax.Array:
    """The sum over devices."""
    return jax.lax.psum(x, self.axes) if self.axes else x

  def add_and_share(self, x: jax.Array) -> jax.Array:
    """The sum over devices, of which each gets its share of the first axis."""
    return jax.lax.psum_scatter(x, self.axes, tiled=True) if self.axes else x

  def largest(self, x: jax.Array) -> jax.Array:
    """The maximum over devices."""
    return jax.lax.pmax(x, self.axes) if self.axes else x

  def first(self, share: int) -> jax.Array | int:
    """Where this device's share of the strata begins."""
    return jax.lax.axis_index(self.axes) * share if self.axes else 0

  def log_sum_exp(self, x: jax.Array) -> jax.Array:
    """Log of the exponentials of each number, summed over devices."""
    top = self.largest(x)
    return jnp.log(self.add(jnp.exp(x - top))) + top


def shares(mesh: Mesh | None, bank_shape: tuple[int, ...]) -> bool:
  """Whether a bank is split over a mesh: over several devices, with as many strata on each.

  Examples:
    >>> shares(None, (64, 10, 4))
    False
  """
  if mesh is None or mesh.size == 1 or len(bank_shape) == 2:
    return False
  return bank_shape[0] % mesh.size == 0


def padded_shape(examples: int, strata: int, dim: int) -> tuple[int, ...]:
  """A bank's shape: (n, dim), or (strata, rows, dim) with rows for the largest stratum.

  Examples:
    >>> padded_shape(10, 1, 4), padded_shape(10, 4, 2)
    ((10, 4), (4, 3, 2))
  """
  return (examples, dim) if strata == 1 else (strata, math.ceil(examples / strata), dim)


def places_in(
  bank_shape: tuple[int, ...], index: jax.Array, strata: int, devices: Devices
) -> tuple[jax.Array, jax.Array]:
  """Where examples are in a device's share of a bank.

  Args:
    bank_shape: of the share.
    index: any shape, int32, the examples' places in the training set.
    strata: of the whole bank.
    devices: who shares it.

  Returns:
    Rows of the share, its strata counted through, and whether they are there; as ``index``. Where
    they are not, the rows are beyond its end and differ.

  Examples:
    >>> places, there = places_in((2, 3, 4), jnp.array([0, 5]), 2, Devices())
    >>> places.tolist(), there.tolist()
    ([0, 5], [True, True])
  """
  if len(bank_shape) == 2:
    return index, jnp.ones(index.shape, bool)
  share, size, _ = bank_shape
  stratum = index % strata - devices.first(share)
  there = (stratum >= 0) & (stratum < share)
  outside = share * size + jnp.arange(index.size, dtype=index.dtype).reshape(index.shape)
  return jnp.where(there, stratum * size + index // strata, outside), there
