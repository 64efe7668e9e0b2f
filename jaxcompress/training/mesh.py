"""Meshes of devices, and batches on them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


class Placement(NamedTuple):
  """How a run lies on devices; the static part of a sharded state.

  Attributes:
    mesh: the devices; batches and memory banks are split over all its axes.
    shard_teachers: whether the teachers' kernels are split too.
  """

  mesh: Mesh
  shard_teachers: bool = False


def make_mesh(
  devices: int | Sequence[jax.Device] | None = None, *, axes: str | tuple[str, ...] = AXIS
) -> Mesh:
  """A mesh of one axis over devices, for data parallel training.

  Its axes are of type ``Auto``: the compiler places what is in between (``jax.make_mesh`` itself
  makes ``Explicit`` ones, under which indexing a sharded array is an error).

  Args:
    devices: which; a number takes the first so many; None: all devices of all processes.
    axes: name of the axis.

  Returns:
    A :class:`jax.sharding.Mesh` of shape (devices,).

  Raises:
    ValueError: if there are not so many devices, or ``axes`` is not one name.

  Examples:
    >>> mesh = make_mesh(1)
    >>> dict(mesh.shape), mesh.axis_types[0].name
    ({'data': 1}, 'Auto')
  """
  names = (axes,) if isinstance(axes, str) else tuple(axes)
  if len(names) != 1:
    raise ValueError(f"axes: {axes!r} must be one name; build other meshes with jax.make_mesh.")
  if devices is None:
    devices = jax.devices()
  elif isinstance(devices, int):
    if not 1 <= devices <= len(jax.devices()):
      raise ValueError(
        f"devices: {devices} asked for and there are {len(jax.devices())}; on a CPU,"
        f" XLA_FLAGS=--xla_force_host_platform_device_count={devices} makes more."
      )
    devices = jax.devices()[:devices]
  if not len(devices):
    raise ValueError("devices: there are none; give at least one, or None for all.")
  return jax.make_mesh((len(devices),), names, axis_types=(AxisType.Auto,), devices=list(devices))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """How a batch lies on a mesh: its first axis is split over all devices.

  Examples:
    >>> batch_sharding(make_mesh(1)).spec
    P('data',)
  """
  return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def shard_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
  """A global batch from what each process has of it.

  With one process that is the whole batch. With several, each calls this with its own examples, as
  many as every other; nothing is sent between processes.

  Args:
    batch: arrays (examples of this process, ...); scalars are the same everywhere.
    mesh: the devices, of all processes.

  Returns:
    Arrays (examples of all processes, ...), split over the mesh by :func:`batch_sharding`.

  Raises:
    ValueError: if this process's devices cannot share its examples evenly.

  Examples:
    >>> batch = shard_batch({"image": np.zeros((4, 8, 8, 3)), "label": np.zeros(4)}, make_mesh(1))
    >>> batch["image"].shape
    (4, 8, 8, 3)
  """
  split, whole = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
  local = len(mesh.local_devices)
  placed = {}
  for name, values in batch.items():
    values = values if isinstance(values, jax.Array) else np.asarray(values)
    if values.ndim and len(values) % local:
      raise ValueError(
        f"batch: '{name}' has {len(values)} examples, which {local} devices of this process cannot"
        f" share; make it a multiple of {local}."
      )
    sharding = split if values.ndim else whole
    placed[name] = jax.make_array_from_process_local_data(sharding, np.asarray(values))
  return placed


def process_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
  """Which examples of a global batch are this process's, in the order of :func:`shard_batch`.

  Raises:
    ValueError: if the devices cannot share the batch evenly.

  Examples:
    >>> process_rows(make_mesh(1), 4).tolist()
    [0, 1, 2, 3]
  """
  if batch_size % mesh.size:
    more = batch_size + -batch_size % mesh.size
    raise ValueError(
      f"batch_size: {batch_size} images cannot be shared by {mesh.size} devices; make it a multiple"
      f" of {mesh.size}, such as {more}."
    )
  places = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
  rows = np.arange(batch_size)
  return np.unique(np.concatenate([rows[place] for place in places.values()]))
