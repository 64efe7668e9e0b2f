"""What the processes of a run say to each other outside the jitted step."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from jaxcompress.training.mesh import make_mesh, shard_batch

_waits = itertools.count()
LONGEST_WAIT = 24 * 3600  # seconds; a process that dies ends the wait much sooner


def is_first() -> bool:
  """Whether this process is the one that writes what is written once."""
  return jax.process_index() == 0


def shared(value: Any) -> Any:
  """What the first process gives, on all of them.

  Args:
    value: any JSON value.

  Examples:
    >>> shared({"folder": "out"})
    {'folder': 'out'}
  """
  if jax.process_count() == 1:
    return value
  text = (
    np.frombuffer(json.dumps(value).encode(), np.uint8) if is_first() else np.zeros(0, np.uint8)
  )
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
  padded = np.resize(text, length) if is_first() else np.zeros(length, np.uint8)
  return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))))


def all_agree(flag: bool) -> bool:
  """Whether the flag is true on every process."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.asarray(flag)).all())


def wait_for_all(name: str) -> None:
  """Returns when every process has come here, as often; the devices are not used for it.

  So a process may work for minutes on its own, while a collective of the others would time out.
  """
  if jax.process_count() > 1:
    ocp.multihost.sync_global_processes(
      f"jaxcompress {name} {next(_waits)}",
      timeout=LONGEST_WAIT,
      processes=set(range(jax.process_count())),
    )


def meet() -> None:
  """Connects the devices of all processes, as soon as all are here.

  On CPUs their first words must come within 30 seconds of each other, which they would not if they
  were those of the first step: one process reads its data or compiles faster than another.
  """
  mesh = make_mesh()
  here = shard_batch({"here": np.ones(len(mesh.local_devices), np.int32)}, mesh)["here"]
  whole = NamedSharding(mesh, PartitionSpec())
  count = jax.jit(jnp.sum, out_shardings=whole).lower(here).compile()
  wait_for_all("meet")
  jax.block_until_ready(count(here))


def once(act: Callable[[], Any]) -> None:
  """Acts on the first process, while the others wait."""
  if is_first():
    act()
  wait_for_all("once")


def only_here() -> ocp.options.MultiprocessingOptions:
  """Options with which orbax reads or writes on this process without the others."""
  me = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
  )
