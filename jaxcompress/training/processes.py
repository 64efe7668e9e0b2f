"""One run on several processes: how they meet and part, what they say, and SIGTERM for all of them."""

import collections
import contextlib
import functools
import glob
import hashlib
import importlib.util
import itertools
import json
import os
import pathlib
import platform
import signal
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcompress.arguments import check_whole
from jaxcompress.training.sharding import make_mesh, shard_batch

AUTO = "auto"
_waits = itertools.count()
_here = {"processes": 1}  # a fact about this process's surroundings, told once
LONGEST_WAIT = 24 * 3600  # seconds; a process that dies ends the wait much sooner
LAG = 2  # steps between asking the other processes and reading their answer, so that none waits
PAUSE, MOST_STEPS = 1.0, 100  # seconds between two questions, and steps if those are quick


def join_processes(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  heartbeat: int = 30,
) -> bool:
  """Joins the other processes of a run; to be called before anything touches a device.

  Args:
    coordinator: ``HOST:PORT`` of the first process, or ``auto``: what Slurm, Open MPI, Kubernetes
      or the TPU's own environment says. None: alone, or ``auto`` on a TPU.
    num_processes: how many there are; 1 and nothing else: alone, on a TPU too.
    process_id: which this is, from 0.
    heartbeat: seconds without a sign of life after which a process counts as dead.

  Returns:
    Whether there are others.

  Raises:
    ValueError: if options are missing or do not fit, or the others do not come.

  Examples:
    >>> join_processes()
    False
    >>> join_processes("10.0.0.1:1234", num_processes=2)
    Traceback (most recent call last):
    ValueError: process_id: it is missing; a coordinator needs num_processes and process_id.
  """
  check_whole("heartbeat", heartbeat, 1)
  count, me = num_processes, process_id
  alone = coordinator is None and me is None and count == 1
  if coordinator is None and not alone and (count is not None or me is not None):
    raise ValueError("coordinator: it is missing; name HOST:PORT of process 0, or auto.")
  if alone or (coordinator is None and not _on_tpu()):
    return False
  options: dict[str, Any] = {}
  if coordinator is not None and coordinator != AUTO:
    if count is None or me is None:
      name = "num_processes" if count is None else "process_id"
      raise ValueError(f"{name}: it is missing; a coordinator needs num_processes and process_id.")
    if not coordinator.rpartition(":")[2].isdigit() or ":" not in coordinator:
      raise ValueError(f"coordinator: {coordinator!r} must be HOST:PORT, such as 10.0.0.1:1234.")
    if count < 1 or not 0 <= me < count:
      raise ValueError(f"process_id: {me} must be 0 to {count - 1}, one for each process.")
    options = {"coordinator_address": coordinator, "num_processes": count, "process_id": me}
  # The training loop takes SIGTERM itself, see Preemption.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      **options,
      cluster_detection_method="deactivate" if options else None,
      heartbeat_timeout_seconds=heartbeat,
      shutdown_timeout_seconds=heartbeat,
    )
  except (RuntimeError, ValueError) as error:  # JAX says which address, or what was not found
    raise ValueError(
      f"coordinator: {coordinator or AUTO} does not work ({error}); name HOST:PORT of process 0, or"
      " num_processes 1 to train alone."
    ) from error
  meet()
  _count_here()
  return jax.process_count() > 1


def _on_tpu() -> bool:
  """Whether this machine has TPUs that JAX will use."""
  wanted = os.environ.get("JAX_PLATFORMS") or "tpu"
  devices = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
  return "tpu" in wanted and bool(devices) and importlib.util.find_spec("libtpu") is not None


def processes_here() -> int:
  """How many processes of the run share this machine and its memory, as :func:`join_processes` found.

  Examples:
    >>> processes_here()
    1
  """
  return _here["processes"]


def _count_here() -> None:
  """Counts the processes on this machine; all call it together."""
  boot = pathlib.Path("/proc/sys/kernel/random/boot_id")  # the same in all of its containers
  name = boot.read_text() if boot.exists() else f"{uuid.getnode()} {platform.node()}"
  mine = np.frombuffer(hashlib.blake2b(name.encode(), digest_size=8).digest(), np.uint32)
  every = multihost_utils.process_allgather(mine).reshape(-1, mine.size)
  _here["processes"] = max(1, int((every == mine).all(axis=1).sum()))


def leave_processes() -> None:
  """Takes leave of the others, who may be gone: at an error, before the process ends.

  Examples:
    >>> leave_processes()  # alone, there is nobody to take leave of
  """
  with contextlib.suppress(Exception):
    jax.distributed.shutdown()


def is_first() -> bool:
  """Whether this process is the one that writes what is written once."""
  return jax.process_index() == 0


def shared(value: Any) -> Any:
  """Gives what the first process has to all of them.

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


class PreemptedError(Exception):
  """A run was asked to stop; its state is saved.

  Attributes:
    position: batches consumed.
  """

  def __init__(self, position: int):
    super().__init__(f"stopped by SIGTERM after {position} batches, which are saved")
    self.position = position


class Asked(NamedTuple):
  """The answer that all processes act by after a step.

  Attributes:
    stop: whether any was sent SIGTERM.
    save: whether the first one's clock says that it is time.
  """

  stop: bool
  save: bool


class Preemption:
  """Agreement of all processes on whether one was sent SIGTERM, and whether it is time to save.

  As a context it takes the signal, which otherwise ends a process at once. JAX's own service for
  this waits for a step number to come, and numbers start anew with each phase of a run.

  Several processes ask each other about once a second, between two steps on the devices, and read the
  answers steps later, so that none waits; after so many steps as the first one has measured.

  Args:
    mesh: the devices of all processes, or None for this process alone.
    late: whether it is time to save, on this process's clock.

  Examples:
    >>> with Preemption(None) as preemption:
    ...   before = preemption.asked(1)
    ...   signal.raise_signal(signal.SIGTERM)
    ...   before, preemption.asked(2)
    (Asked(stop=False, save=False), Asked(stop=True, save=False))
  """

  def __init__(self, mesh: Mesh | None, late: Callable[[], bool] = lambda: False):
    self._mesh = mesh if jax.process_count() > 1 else None
    self._late = late
    self._stop = False
    self._answers: collections.deque[tuple[int, jax.Array]] = collections.deque()
    self._next = self._saved = 0
    self._steps = 1  # until the next question
    self._last: tuple[int, float] | None = None
    self._restore = contextlib.ExitStack()

  def asked(self, position: int) -> Asked:
    """Asks all processes whether to stop; every one calls it after every step."""
    if self._mesh is None:
      return Asked(self._stop, self._late())
    if position >= self._next:
      self._ask(self._mesh, position)
      self._next = position + self._steps
    stop = save = False
    while self._answers and position - self._answers[0][0] >= LAG:
      at, answer = self._answers.popleft()
      stopping, saving, steps = np.asarray(answer).tolist()
      stop, save = stop or bool(stopping), save or (bool(saving) and at >= self._saved)
      self._steps = max(steps, 1)
    if save:
      self._saved = position  # what was asked before is done
    return Asked(stop, save)

  def _ask(self, mesh: Mesh, position: int) -> None:
    """Starts to find out what others say: SIGTERM, the time to save, and when to ask again."""
    now, steps = time.monotonic(), 1
    if self._last is not None and now > self._last[1]:
      rate = (position - self._last[0]) / (now - self._last[1])
      steps = min(max(1, round(rate * PAUSE)), MOST_STEPS)
    self._last = position, now
    says = (self._stop, is_first() and self._late(), steps if is_first() else 0)
    rows = np.tile(np.array(says, np.int32), (len(mesh.local_devices), 1))
    self._answers.append((position, _most(mesh)(shard_batch({"says": rows}, mesh)["says"])))

  def __enter__(self) -> "Preemption":
    if threading.current_thread() is threading.main_thread():
      before = signal.signal(signal.SIGTERM, self._take)
      # a handler that is not Python's is None and cannot be put back
      self._restore.callback(signal.signal, signal.SIGTERM, before or signal.SIG_DFL)
    return self

  def __exit__(self, *_: object) -> None:
    self._restore.close()

  def _take(self, *_: object) -> None:
    self._stop = True


@functools.lru_cache(maxsize=1)
def _most(mesh: Mesh) -> Any:
  whole = NamedSharding(mesh, PartitionSpec())
  return jax.jit(lambda says: jnp.max(says, axis=0), out_shardings=whole)
