"""Meshes of devices, and where each array of a run and of its batches lies on them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxcompress.ops.parts import Parts
from jaxcompress.training.state import CompressState, Placement

AXIS = "data"


def make_mesh(
  devices: int | Sequence[jax.Device] | None = None, *, axes: str | tuple[str, ...] = AXIS
) -> Mesh:
  """Makes a mesh of one axis over devices, for data-parallel training.

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
    raise ValueError("devices must not be empty; give at least one, or None for all.")
  return jax.make_mesh((len(devices),), names, axis_types=(AxisType.Auto,), devices=list(devices))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """How a batch lies on a mesh: its first axis is split over all devices.

  Examples:
    >>> batch_sharding(make_mesh(1)).spec
    P('data',)
  """
  return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def shard_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
  """Makes a global batch from the part of each process.

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

  def place(values, sharding):
    return jax.make_array_from_process_local_data(sharding, np.asarray(values))

  return _split(batch, mesh, len(mesh.local_devices), "devices of this process", place)


def _split(
  batch: Mapping[str, Any], mesh: Mesh, count: int, devices: str, place: Callable[..., jax.Array]
) -> dict[str, jax.Array]:
  """Each array placed: examples split over the mesh, scalars whole."""
  for name, values in batch.items():
    for part in jax.tree.leaves(values):
      if np.ndim(part) and len(part) % count:
        raise ValueError(
          f"batch: '{name}' has {len(part)} examples, which {count} {devices} cannot share; make it"
          f" a multiple of {count}."
        )
  split, whole = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
  return jax.tree.map(lambda x: place(x, split if np.ndim(x) else whole), dict(batch))


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


def shard(state: CompressState, mesh: Mesh, *, shard_teachers: bool = False) -> CompressState:
  """Places the state on a mesh: the same steps then run on all its devices at once.

  Batches are split, and BatchNorm's statistics, ranges and losses are those of the whole batch, as
  on one device (but see ``Recipe.batch_norm``). The student, what it trains and the optimizer lie on every
  device; memory banks are split by their strata (see :func:`~jaxcompress.distill.crd`), and cut
  anew where the devices do not divide these.

  Args:
    state: of this process or already on devices; with several processes, each gives the same. A
      state of ``jax.ShapeDtypeStruct`` s, as ``jax.eval_shape`` makes them, gets its shardings.
    mesh: from :func:`make_mesh`, or any other whose axes are of type ``Auto``.
    shard_teachers: whether the teachers' kernels are split over the devices as well, each along its
      longest axis that can be; a step then gathers them one after the other. Saves memory where
      teachers are large, and costs their size in communication at every step.

  Returns:
    A :class:`~jaxcompress.training.CompressState`; the given one stays usable.

  Raises:
    ValueError: if an axis of the mesh is not of type ``Auto``.

  Examples:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jaxcompress import models
    >>> from jaxcompress.training import Recipe, init_state, make_mesh, train_step
    >>> recipe = Recipe(student=models.resnet8(10), optimizer=optax.sgd(0.1))
    >>> batch = {"image": jnp.zeros((2, 8, 8, 3)), "label": jnp.zeros(2, int)}
    >>> state = shard(init_state(recipe, jax.random.key(0), batch), make_mesh(1))
    >>> dict(state.placement.mesh.shape)
    {'data': 1}
  """
  if any(kind != AxisType.Auto for kind in mesh.axis_types):
    raise ValueError(
      f"mesh: its axes are {', '.join(kind.name for kind in mesh.axis_types)} and must be Auto; take"
      " training.make_mesh, or pass axis_types to jax.make_mesh."
    )
  cut = _of_losses(lambda one: _cut_for(one, mesh), lambda leaf: leaf, state.loss_state)
  state = state.replace(placement=Placement(mesh, shard_teachers), loss_state=cut)
  return jax.tree.map(_place, state, shardings(state))


def cut_anew(state: CompressState) -> CompressState:
  """A state on its mesh, with memory banks cut for it where they were cut for other devices."""
  if state.placement is None:
    return state
  mesh = state.placement.mesh
  cut = _of_losses(lambda one: _cut_for(one, mesh), lambda leaf: leaf, state.loss_state)
  pairs = zip(jax.tree.leaves(cut), jax.tree.leaves(state.loss_state), strict=True)
  return (
    state
    if all(a is b for a, b in pairs)
    else shard(state, mesh, shard_teachers=state.placement.shard_teachers)
  )


def shardings(state: CompressState) -> CompressState:
  """The sharding of every array of a state that has a placement, in the state's own form.

  Args:
    state: a sharded state, or one of shapes.

  Returns:
    A tree of :class:`jax.sharding.NamedSharding`.

  Examples:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jaxcompress import models
    >>> from jaxcompress.training import Recipe, init_state, make_mesh
    >>> recipe = Recipe(student=models.resnet8(10), optimizer=optax.sgd(0.1))
    >>> batch = {"image": jnp.zeros((2, 8, 8, 3)), "label": jnp.zeros(2, int)}
    >>> state = shard(init_state(recipe, jax.random.key(0), batch), make_mesh(1))
    >>> shardings(state).params["classifier"]["kernel"].is_fully_replicated
    True
  """
  if state.placement is None:
    raise ValueError("state: it has no placement; training.shard gives it one.")
  mesh, shard_teachers = state.placement
  whole = PartitionSpec()

  specs = jax.tree.map(lambda _: whole, state)
  loss_state = _of_losses(lambda one: one.partition(mesh), lambda _: whole, state.loss_state)
  specs = specs.replace(loss_state=loss_state)
  if shard_teachers:
    specs = specs.replace(teachers=jax.tree.map(lambda x: _longest(x.shape, mesh), state.teachers))
  return jax.tree.map(
    lambda spec: NamedSharding(mesh, spec),
    specs,
    is_leaf=lambda spec: isinstance(spec, PartitionSpec),
  )


def _of_losses(change: Callable[[Any], Any], keep: Callable[[Any], Any], loss_state: Any) -> Any:
  """The states of losses, of which those that can be split are changed as a whole."""

  def of_one(tree):
    return change(tree) if hasattr(tree, "partition") else keep(tree)

  return jax.tree.map(of_one, loss_state, is_leaf=lambda tree: hasattr(tree, "partition"))


def _cut_for(loss_state: Any, mesh: Mesh) -> Any:
  """A loss's state in as many pieces as its devices can share, if it can be cut anew."""
  return loss_state.cut_for(mesh) if hasattr(loss_state, "cut_for") else loss_state


def _longest(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
  """A kernel split along its longest axis that divides; vectors are whole."""
  axes = [i for i, size in enumerate(shape) if size % mesh.size == 0]
  if len(shape) < 2 or not axes:
    return PartitionSpec()
  axis = max(axes, key=lambda i: shape[i])
  return PartitionSpec(*[None] * axis, mesh.axis_names)


def _place(leaf: Any, sharding: NamedSharding) -> Any:
  """A copy on the mesh, made without a word between processes."""
  if isinstance(leaf, jax.ShapeDtypeStruct):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    bits = _place(jax.random.key_data(leaf), sharding)
    return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))
  if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
    return jax.device_put(leaf, sharding)
  values = np.array(leaf)
  return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def replicated(tree: Any, mesh: Mesh) -> Any:
  """Arrays of this process, the same on every other, whole on each device of a mesh.

  Examples:
    >>> from jaxcompress.training import make_mesh
    >>> replicated({"bias": np.zeros(3)}, make_mesh(1))["bias"].is_fully_replicated
    True
  """
  return jax.tree.map(lambda leaf: _place(leaf, NamedSharding(mesh, PartitionSpec())), tree)


def on_one_device(tree: Any) -> Any:
  """Arrays that lie whole on every device of a mesh, on this process's first one alone."""
  return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def constrained(state: CompressState) -> CompressState:
  """Inside a jitted function: the state's arrays where they belong; without a placement, as it is."""
  if state.placement is None:
    return state
  return jax.tree.map(jax.lax.with_sharding_constraint, state, shardings(state))


def gathered_teachers(state: CompressState) -> tuple[Any, ...]:
  """Inside a jitted function: the teachers' variables, whole on every device.

  Said here, or the compiler might split the teachers' activations by channels instead.
  """
  if state.placement is None or not state.placement.shard_teachers:
    return state.teachers
  whole = NamedSharding(state.placement.mesh, PartitionSpec())
  return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, whole), state.teachers)


def split_batch(state: CompressState, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Inside a jitted function: a batch split over the state's devices.

  Raises:
    ValueError: if the devices cannot share the examples evenly.
  """
  if state.placement is None:
    return dict(batch)
  mesh = state.placement.mesh
  return _split(batch, mesh, mesh.size, "devices", jax.lax.with_sharding_constraint)


def parts_of(state: CompressState) -> Parts | None:
  """How a step's batch lies on the state's devices, and whether it is normalised apart on each."""
  if state.placement is None or state.placement.mesh.size == 1:
    return None
  return Parts(state.placement.mesh, apart=state.recipe.batch_norm == "local")


def shares_threads(mesh: Mesh | None) -> bool:
  """Whether devices are threads of one CPU: several steps in flight could wait for each other."""
  if mesh is None or len(mesh.local_devices) == 1:
    return False
  return mesh.local_devices[0].platform == "cpu"
