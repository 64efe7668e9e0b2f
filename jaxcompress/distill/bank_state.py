"""The state of the loss with memory banks, and its layout on devices."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jaxcompress.distill.banks import STRATA, is_shared, strata_of, write_rows
from jaxcompress.distill.base import keep_where
from jaxcompress.distill.layers import Layer


class CRDParams(NamedTuple):
  """Parameters of :func:`crd`: a linear layer, ``kernel`` (features, dim) and ``bias`` (dim,), each.

  Attributes:
    student: embeds the student's pooled features.
    teacher: embeds the teacher's pooled features.
  """

  student: Layer
  teacher: Layer


class Overwritten(NamedTuple):
  """Rows that an update of the banks replaced, between ``update`` and ``keep_where``.

  It is of the size of the batch that ``update`` gets; where devices share the banks, it has a first
  axis more, the devices. ``update`` does not read the one that it gets, of whatever size, and
  ``keep_where`` puts it back, so that from step to step a state keeps its form.

  Attributes:
    index: rows of the banks, all strata counted through, (batch,) int32.
    student_rows: rows of the student's bank, (batch, dim) float32.
    teacher_rows: rows of the teacher's bank, (batch, dim) float32.
  """

  index: jax.Array  # type: ignore[assignment]  # tuple.index is not needed
  student_rows: jax.Array
  teacher_rows: jax.Array


class CRDState(NamedTuple):
  """State of :func:`crd`.

  Attributes:
    student_bank: the last embedding of every example by the student, (n, dim) float32; with
      strata (strata, ceil(n / strata), dim), example ``i`` in row ``i // strata`` of stratum
      ``i % strata``.
    teacher_bank: the same by the teacher.
    student_log_z: log of the constant that normalises scores of student embeddings, () float32;
      set by the first update.
    teacher_log_z: the same for teacher embeddings, () float32.
    count: updates so far, () int32.
    seed: negatives are drawn from it and ``count``, unless ``update`` gets an ``rng``; () uint32,
      so that checkpoints see plain numbers.
    overwritten: what an update replaced, to take it back at the cost of a batch.
  """

  student_bank: jax.Array
  teacher_bank: jax.Array
  student_log_z: jax.Array
  teacher_log_z: jax.Array
  count: jax.Array  # type: ignore[assignment]  # tuple.count is not needed
  seed: jax.Array
  overwritten: Overwritten

  def keep_where(self, keep: jax.Array, old: "CRDState", mesh: Mesh | None = None) -> "CRDState":
    """Takes an update back unless ``keep``, without a second copy of the banks.

    Args:
      keep: () bool.
      old: the state before the update; its banks are not read.
      mesh: the devices that share the banks, if ``update`` got one.
    """
    write = write_rows
    if mesh is not None and is_shared(mesh, self.student_bank.shape):
      split, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
      write = jax.shard_map(
        lambda bank, index, rows, keep: write_rows(bank, index[0], rows[0], keep),
        mesh=mesh,
        in_specs=(split, split, split, whole),
        out_specs=split,
      )
    index, student_rows, teacher_rows = self.overwritten
    numbers = {
      name: keep_where(keep, getattr(self, name), getattr(old, name))
      for name in ("student_log_z", "teacher_log_z", "count")
    }
    return self._replace(
      student_bank=write(self.student_bank, index, student_rows, ~keep),
      teacher_bank=write(self.teacher_bank, index, teacher_rows, ~keep),
      overwritten=old.overwritten,
      **numbers,
    )

  def partition(self, mesh: Mesh) -> "CRDState":
    """How it lies on a mesh: a tree of ``PartitionSpec``, of which only the banks' are split."""
    whole = jax.tree.map(lambda _: PartitionSpec(), self)
    if not is_shared(mesh, self.student_bank.shape):
      return whole
    split = PartitionSpec(mesh.axis_names)
    return whole._replace(student_bank=split, teacher_bank=split)

  def cut_for(self, mesh: Mesh) -> "CRDState":
    """Cuts the banks into a number of strata that the mesh's devices share evenly.

    It is the least one that the strata there are divide as well (64, if the banks are whole), so that the
    draw stays the same when a run goes on with fewer devices; if that leaves a stratum without two
    examples, as many as there are devices. Small banks that are whole stay so on every device. Arrays
    may be ``jax.ShapeDtypeStruct`` s.
    """
    shape = self.student_bank.shape
    least = math.prod(shape[:-1]) + 1 - strata_of(shape)  # without padding
    small = len(shape) == 2 and least < 2 * STRATA
    if mesh.size == 1 or is_shared(mesh, shape) or small or least < 2 * mesh.size:
      return self
    strata = math.lcm(mesh.size, STRATA if len(shape) == 2 else shape[0])
    if least < 2 * strata:
      strata = mesh.size
    banks = (self.student_bank, self.teacher_bank)
    if isinstance(self.student_bank, jax.ShapeDtypeStruct):
      student, teacher = (jax.eval_shape(lambda x: cut(x, strata), bank) for bank in banks)
    else:
      student, teacher = (_cut(bank, strata) for bank in banks)
    return self._replace(student_bank=student, teacher_bank=teacher)

  def shaped(self, bank_shape: tuple[int, ...]) -> "CRDState":
    """The form of this state with banks that are cut otherwise: shapes alone."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self)
    bank = jax.ShapeDtypeStruct(bank_shape, self.student_bank.dtype)
    return shapes._replace(student_bank=bank, teacher_bank=bank)

  def holds_alike(self, bank_shape: tuple[int, ...]) -> bool:
    """Whether banks of that shape can be of as many examples."""
    return hold_alike(self.student_bank.shape, bank_shape)


def cut(bank: jax.Array, strata: int) -> jax.Array:
  """A bank in another number of strata; rows that pad the largest ones may come along.

  Args:
    bank: (n, dim), or (strata, rows, dim).
    strata: of the result.

  Examples:
    >>> cut(jnp.arange(5.0).reshape(5, 1), 2)[..., 0].tolist()  # the even ones, and the odd ones
    [[0.0, 2.0, 4.0], [1.0, 3.0, 0.0]]
    >>> cut(cut(jnp.arange(6.0).reshape(6, 1), 2), 3)[..., 0].tolist()
    [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
  """
  dim = bank.shape[-1]
  in_order = bank if bank.ndim == 2 else bank.swapaxes(0, 1).reshape(-1, dim)
  if strata == 1:
    return in_order
  rows = math.ceil(len(in_order) / strata)
  padded = jnp.pad(in_order, ((0, strata * rows - len(in_order)), (0, 0)))
  return padded.reshape(rows, strata, dim).swapaxes(0, 1)


def hold_alike(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
  """Whether two shapes can be those of one bank, cut into some strata and into others.

  Examples:
    >>> hold_alike((100, 8), (64, 2, 8)), hold_alike((100, 8), (64, 2, 4))
    (True, False)
  """
  if a[-1] != b[-1] or not {len(a), len(b)} <= {2, 3}:
    return False
  sizes = [math.prod(shape[:-1]) for shape in (a, b)]
  padding = 2 * max(STRATA, *map(strata_of, (a, b)))  # of two cuts or so
  return a == b if len(a) == len(b) == 2 else abs(sizes[0] - sizes[1]) <= padding


_cut = jax.jit(cut, static_argnums=1)
