"""What contrastive representation distillation trains and carries along."""

from typing import NamedTuple

import jax
from jax.sharding import Mesh, PartitionSpec

from jaxcompress.distill import banks
from jaxcompress.distill.base import keep_where
from jaxcompress.distill.layers import Linear
from jaxcompress.distill.strata import shares


class CRDParams(NamedTuple):
  """What :func:`crd` trains: a linear layer, ``kernel`` (features, dim) and ``bias`` (dim,), each.

  Attributes:
    student: embeds the student's pooled features.
    teacher: embeds the teacher's pooled features.
  """

  student: Linear
  teacher: Linear


class Overwritten(NamedTuple):
  """What an update of the banks replaced, between ``update`` and ``keep_where``.

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
  """What :func:`crd` carries along.

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
    write = banks.write_rows
    if mesh is not None and shares(mesh, self.student_bank.shape):
      split, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
      write = jax.shard_map(
        lambda bank, index, rows, keep: banks.write_rows(bank, index[0], rows[0], keep),
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
    if not shares(mesh, self.student_bank.shape):
      return whole
    split = PartitionSpec(mesh.axis_names)
    return whole._replace(student_bank=split, teacher_bank=split)
