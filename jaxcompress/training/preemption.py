"""SIGTERM, which schedulers send before they take a machine away, agreed on by all processes."""

import collections
import functools
import signal
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcompress.training.mesh import shard_batch

LAG = 2  # steps between asking the other processes and reading their answer, so that none waits


class PreemptedError(Exception):
  """A run was asked to stop; its state is saved.

  Attributes:
    position: batches consumed.
  """

  def __init__(self, position: int):
    super().__init__(f"stopped by SIGTERM after {position} batches, which are saved")
    self.position = position


class Preemption:
  """Whether any process was sent SIGTERM: the same answer at the same step everywhere.

  As a context it takes the signal, which otherwise ends a process at once. JAX's own service for
  this waits for a step number to come, and numbers start anew with each phase of a run.

  Args:
    mesh: the devices of all processes, or None for this process alone.

  Examples:
    >>> with Preemption(None) as preemption:
    ...   before = preemption.reached()
    ...   signal.raise_signal(signal.SIGTERM)
    ...   before, preemption.reached()
    (False, True)
  """

  def __init__(self, mesh: Mesh | None):
    self._mesh = mesh if jax.process_count() > 1 else None
    self._asked = False
    self._answers: collections.deque[jax.Array] = collections.deque()
    self._taken = False
    self._before: Any = None

  def reached(self) -> bool:
    """To be called after every step, by all processes."""
    if self._mesh is None:
      return self._asked
    flags = np.full(len(self._mesh.local_devices), self._asked)
    self._answers.append(_any(self._mesh)(shard_batch({"asked": flags}, self._mesh)["asked"]))
    if len(self._answers) <= LAG:
      return False
    return bool(np.asarray(self._answers.popleft()))

  def __enter__(self) -> "Preemption":
    if threading.current_thread() is threading.main_thread():
      self._before = signal.signal(signal.SIGTERM, self._ask)
      self._taken = True
    return self

  def __exit__(self, *_: object) -> None:
    if self._taken:  # a handler that is not Python's is None and cannot be put back
      signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

  def _ask(self, *_: object) -> None:
    self._asked = True


@functools.lru_cache(maxsize=1)
def _any(mesh: Mesh) -> Any:
  return jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))
