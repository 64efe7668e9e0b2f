"""One run on several processes: how they find each other, what each is for, and how they end."""

import contextlib
import glob
import importlib.util
import os
from typing import Any, NamedTuple

import jax

from jaxcompress.training.processes import meet

AUTO = "auto"


class Together(NamedTuple):
  """How a process joins the others.

  Attributes:
    coordinator: ``HOST:PORT`` of the first process, or ``auto``: what Slurm, Open MPI, Kubernetes
      or the TPU's own environment says. None: alone, or ``auto`` on a TPU.
    num_processes: how many there are; 1 and nothing else: alone, on a TPU too.
    process_id: which this is, from 0.
    heartbeat: seconds without a sign of life after which a process counts as dead.

  Examples:
    >>> Together("10.0.0.1:1234", num_processes=2, process_id=0).heartbeat
    30
  """

  coordinator: str | None = None
  num_processes: int | None = None
  process_id: int | None = None
  heartbeat: int = 30


def join(together: Together) -> bool:
  """Joins the other processes of a run; to be called before anything touches a device.

  Returns:
    Whether there are others.

  Raises:
    ValueError: if options are missing or do not fit, or the others do not come.

  Examples:
    >>> join(Together())
    False
    >>> join(Together(coordinator="10.0.0.1:1234", num_processes=2))
    Traceback (most recent call last):
    ValueError: process_id: none is given; --coordinator needs --num-processes and --process-id.
  """
  coordinator, count, me, heartbeat = together
  alone = coordinator is None and me is None and count == 1
  if coordinator is None and not alone and (count is not None or me is not None):
    raise ValueError("coordinator: none is given; name HOST:PORT of process 0, or auto.")
  if alone or (coordinator is None and not _on_tpu()):
    return False
  options: dict[str, Any] = {}
  if coordinator is not None and coordinator != AUTO:
    if count is None or me is None:
      name = "num_processes" if count is None else "process_id"
      raise ValueError(
        f"{name}: none is given; --coordinator needs --num-processes and --process-id."
      )
    if not coordinator.rpartition(":")[2].isdigit() or ":" not in coordinator:
      raise ValueError(f"coordinator: {coordinator!r} must be HOST:PORT, such as 10.0.0.1:1234.")
    if count < 1 or not 0 <= me < count:
      raise ValueError(f"process_id: {me} must be 0 to {count - 1}, one for each process.")
    options = {"coordinator_address": coordinator, "num_processes": count, "process_id": me}
  if heartbeat < 1:
    raise ValueError(f"heartbeat: {heartbeat} must be at least 1 second.")
  # The training loop takes SIGTERM itself, see training.preemption.
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
      " --num-processes 1 to train alone."
    ) from error
  meet()
  return jax.process_count() > 1


def _on_tpu() -> bool:
  """Whether this machine has TPUs that JAX will use."""
  wanted = os.environ.get("JAX_PLATFORMS") or "tpu"
  devices = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
  return "tpu" in wanted and bool(devices) and importlib.util.find_spec("libtpu") is not None


def leave() -> None:
  """Takes leave of the others, who may be gone: at an error, before the process ends.

  Examples:
    >>> leave()  # alone, there is nobody to take leave of
  """
  with contextlib.suppress(Exception):
    jax.distributed.shutdown()
