"""Memory banks: a vector for every training example, contrasted with and renewed each step.

Banks are cut into strata, so that devices can share them and never send them. Example ``i`` is row
``i // S`` of stratum ``i % S``. As many negatives are drawn from each stratum, by a key of the
stratum's own, so the draw is the same whichever device holds which strata. What devices exchange is
the batch's embeddings and their gradients, whatever the banks' size. Banks can be cut anew, so that any
number of devices can share them: their rows move, and later draws are others.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxcompress.distill.layers import EXACT
from jaxcompress.nn.checks import is_whole

Formulation = Literal["auto", "dense", "gather"]
FORMULATIONS = ("auto", "dense", "gather")
ROWS_AT_ONCE = 16384  # that "gather" fetches: 8 MB of 128 numbers each
STRATA = 64  # where that divides the negatives; devices that do not divide it cut the banks anew


def init_bank(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Rows before they are first written: U(-1, 1) / sqrt(dim / 3), not normalised.

  Returns:
    An array of that shape, (..., dim) float32.

  Examples:
    >>> init_bank(jax.random.key(0), (10, 4)).shape
    (10, 4)
  """
  bound = 1 / math.sqrt(shape[-1] / 3)
  return jax.random.uniform(rng, shape, jnp.float32, -bound, bound)


def draw_contrast(rng: jax.Array, index: jax.Array, examples: int, negatives: int) -> jax.Array:
  """Each example's own place, then places of others, uniform with replacement.

  Args:
    rng: a key.
    index: (batch,) int32.
    examples: rows of the bank.
    negatives: others per example.

  Returns:
    (batch, 1 + negatives) int32; column 0 is ``index``, which occurs nowhere else in its row.

  Examples:
    >>> draw_contrast(jax.random.key(0), jnp.array([0, 1]), 2, 3).tolist()
    [[0, 1, 1, 1], [1, 0, 0, 0]]
  """
  own = index.reshape(-1, 1)
  others = below(examples - 1, rng, (index.shape[0], negatives))
  return jnp.concatenate([own, others + (others >= own)], axis=1)


def below(bound: int | jax.Array, rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Numbers from 0 to ``bound - 1``: 32 random bits each, modulo ``bound``.

  Their shares differ by at most ``bound / 2^32``; ``jax.random.randint`` draws twice as many bits
  to be nearer, which was a fifth of the time of CRD's loss on a CPU.

  Args:
    bound: broadcasts against ``shape``, int32, at least 1.
    rng: a key.
    shape: of the result.

  Returns:
    ``shape``, int32.

  Examples:
    >>> below(1, jax.random.key(0), (3,)).tolist()
    [0, 0, 0]
  """
  bits = jax.random.bits(rng, shape, jnp.uint32)
  return (bits % jnp.asarray(bound, jnp.uint32)).astype(jnp.int32)


def scores(
  vectors: jax.Array, bank: jax.Array, ids: jax.Array, formulation: Formulation = "auto"
) -> jax.Array:
  """Inner products of each vector with its own choice of rows, in float32.

  ``dense`` multiplies with the whole bank and picks: (batch, n) numbers. ``gather`` fetches the
  rows, of a few examples at a time and again for the gradient, so that (batch, K, dim) never exists.

  Args:
    vectors: (batch, dim).
    bank: (n, dim); no gradient reaches it.
    ids: (batch, K) int32, in range.
    formulation: ``auto`` takes ``dense`` up to n = batch * K.

  Returns:
    (batch, K) float32.

  Examples:
    >>> bank, ids = jnp.arange(8.0).reshape(4, 2), jnp.array([[3, 0]])
    >>> scores(jnp.ones((1, 2)), bank, ids).tolist()
    [[13.0, 1.0]]
  """
  bank = jax.lax.stop_gradient(bank)
  if is_dense(formulation, bank.shape[0], ids.size):
    products = jax.lax.dot_general(vectors, bank, (((1,), (1,)), ((), ())), precision=EXACT)
    return jnp.take_along_axis(products, ids, axis=1, mode="clip")

  @jax.checkpoint
  def of_one(vector_and_ids):
    vector, chosen = vector_and_ids
    return jnp.dot(bank.at[chosen].get(mode="clip"), vector, precision=EXACT)

  together = max(1, min(len(ids), ROWS_AT_ONCE // ids.shape[1]))
  return jax.lax.map(of_one, (vectors, ids), batch_size=together)


def is_dense(formulation: Formulation, rows: int, wanted: int) -> bool:
  """Whether ``wanted`` scores are picked from a product with all of a bank's rows.

  Examples:
    >>> is_dense("auto", 100, 100), is_dense("auto", 101, 100)
    (True, False)
  """
  return formulation == "dense" or (formulation == "auto" and rows <= wanted)


def write_rows(bank: jax.Array, index: jax.Array, rows: jax.Array, keep: jax.Array) -> jax.Array:
  """Replaces rows; where a place occurs twice in the batch, its last row wins on every backend.

  ``keep`` has a second use. XLA may write in place only once nothing reads the old bank any more.
  If ``keep`` depends on the results of all reads, that order is a dependency of the data, and a
  donated bank is never copied.

  Args:
    bank: (n, dim), or (strata, rows, dim), whose strata are counted through.
    index: (batch,) int32; beyond the end nothing is written, but such places must differ.
    rows: (batch, dim).
    keep: () bool, or (batch,), where a place in doubt is kept or dropped in all its occurrences;
      nothing is written where false.

  Returns:
    The bank.

  Examples:
    >>> rows = jnp.array([[1.0], [2.0], [3.0]])
    >>> write_rows(jnp.zeros((3, 1)), jnp.array([2, 0, 2]), rows, jnp.array(True)).ravel().tolist()
    [2.0, 0.0, 3.0]
  """
  place = jnp.arange(index.shape[0], dtype=index.dtype)
  later = place.reshape(1, -1) > place.reshape(-1, 1)
  repeated = jnp.any((index.reshape(-1, 1) == index.reshape(1, -1)) & later, axis=1)
  flat = bank.reshape(-1, bank.shape[-1])
  outside = flat.shape[0] + place  # each its own, so that indices stay unique
  target = jnp.where(keep & ~repeated, index, outside)
  return flat.at[target].set(rows, mode="drop", unique_indices=True).reshape(bank.shape)


def choose_strata(strata: int | None, examples: int, negatives: int) -> int:
  """How many strata there are: as asked for, else :data:`STRATA`, or 1 if the draw is too small.

  Raises:
    ValueError: if the draw cannot be cut into so many.

  Examples:
    >>> choose_strata(8, 100, 64), choose_strata(None, 50_000, 16384), choose_strata(None, 100, 64)
    (8, 64, 1)
  """
  if strata is None:
    return STRATA if negatives % STRATA == 0 and examples >= 2 * STRATA else 1
  if not is_whole(strata, 1) or negatives % strata or (strata > 1 and 2 * strata > examples):
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
    own_rng = jax.random.fold_in(rng, stratum)
    rows = below(size - own, own_rng, (len(index), negatives))
    return rows + (own & (rows >= row))

  return jax.vmap(of_one, out_axes=1)(strata)


def share_out(
  rng: jax.Array, strata: jax.Array, count: int, negatives: int, batch: int
) -> jax.Array:
  """Which of ``ceil(negatives / count)`` draws from each stratum count, so that all are ``negatives``.

  Each example leaves the last draw out in some strata that follow one another, from a random one on,
  so that every stratum gives as many on average.

  Args:
    rng: of the draw; the same whichever strata are asked for.
    strata: (some,) int32, which strata.
    count: strata there are.
    negatives: for each example.
    batch: examples.

  Returns:
    (batch, some, ceil(negatives / count)) bool.

  Examples:
    >>> counted = share_out(jax.random.key(0), jnp.arange(3), 3, 4, 5)
    >>> counted.shape, counted.sum((1, 2)).tolist()
    ((5, 3, 2), [4, 4, 4, 4, 4])
  """
  turn = below(count, jax.random.fold_in(rng, count), (batch, 1))
  more = (strata.reshape(1, -1) + turn) % count < (negatives % count or count)
  each = math.ceil(negatives / count)
  return more[:, :, None] | (jnp.arange(each) < each - 1).reshape(1, 1, -1)


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
    """Gives each device a value of its own of what all have alike."""
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


def is_shared(mesh: Mesh | None, bank_shape: tuple[int, ...]) -> bool:
  """Whether a bank is split over a mesh: over several devices, with as many strata on each.

  Examples:
    >>> is_shared(None, (64, 10, 4))
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


def strata_of(bank_shape: tuple[int, ...]) -> int:
  """How many strata a whole bank has.

  Examples:
    >>> strata_of((10, 4)), strata_of((4, 3, 2))
    (1, 4)
  """
  return 1 if len(bank_shape) == 2 else bank_shape[0]


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
