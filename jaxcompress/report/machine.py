"""Facts of the machine and the installation, for the report's last table."""

import datetime
import os
import platform
from importlib import metadata
from typing import Any

import jax

PACKAGES = ("flax", "optax", "numpy", "ai-edge-litert")


def environment() -> dict[str, Any]:
  """Fields of :class:`~jaxcompress.report.Run` that do not depend on the run's settings.

  Returns:
    ``version``, ``jax_version``, ``device``, ``date`` (UTC) and ``packages``.

  Examples:
    >>> sorted(environment())
    ['date', 'device', 'jax_version', 'packages', 'version']
  """
  installed = {name: version for name in PACKAGES if (version := _version(name))}
  return {
    "version": _version("jaxcompress") or "",
    "jax_version": jax.__version__,
    "device": _device(),
    "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    "packages": {"python": platform.python_version(), **installed},
  }


def _device() -> str:
  devices = jax.devices()
  kind = devices[0].device_kind
  number = f"{len(devices)} x " if len(devices) > 1 else ""
  return f"{number}{kind}, {platform.machine()}, {_cores()} CPU cores"


def _cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _version(package: str) -> str | None:
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return None
