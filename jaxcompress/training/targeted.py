"""Programs of a training state, made for the devices on which it lies."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from jaxcompress.ops.dispatch import ALIASES, traced_for
from jaxcompress.ops.dispatch import backend as present_backend
from jaxcompress.training.state import CompressState


class Targeted:
  """A jitted function of a state and more, whose operations are computed as its devices do best.

  Those are the devices of the state's mesh, else those that its arrays, or the shardings of its
  shapes, are committed to, whichever the host has; :func:`~jaxcompress.ops.dispatch.traced_for`
  overrides it. So a program for a TPU pod can be compiled on a machine without one.

  Args:
    function: ``(state, ...)``.
    **options: of ``jax.jit``.

  Examples:
    >>> import jax.numpy as jnp
    >>> Targeted(lambda x: 2 * x)(jnp.ones(2)).tolist()  # what is no state lies anywhere
    [2.0, 2.0]
  """

  def __init__(self, function: Callable[..., Any], **options: Any):
    functools.update_wrapper(self, function)
    self.jitted = jax.jit(function, **options)

  def __call__(self, state: CompressState, *rest: Any) -> Any:
    with made_for(state):
      return self.jitted(state, *rest)

  def lower(self, state: CompressState, *rest: Any) -> jax.stages.Lowered:
    """As ``jax.jit(function).lower``; takes shapes, too."""
    with made_for(state):
      return self.jitted.lower(state, *rest)

  def trace(self, state: CompressState, *rest: Any) -> jax.stages.Traced:
    """As ``jax.jit(function).trace``; takes shapes, too."""
    with made_for(state):
      return self.jitted.trace(state, *rest)

  def eval_shape(self, state: CompressState, *rest: Any) -> Any:
    """As ``jax.jit(function).eval_shape``."""
    with made_for(state):
      return self.jitted.eval_shape(state, *rest)

  def __getattr__(self, name: str) -> Any:
    """All else is the jitted function's."""
    if name == "jitted":  # of an object that is only being made
      raise AttributeError(name)
    return getattr(self.jitted, name)


@contextmanager
def made_for(state: CompressState) -> Iterator[None]:
  """Makes functions that are traced inside fit the devices of a state."""
  name = _platform(state)
  if name is None or name == present_backend():  # one context less is one program less
    yield
  else:
    with traced_for(name, unless_named=True):
      yield


def _platform(state: CompressState) -> str | None:
  """The platform of a state's devices; None where nothing says it."""
  placement = getattr(state, "placement", None)
  if placement is not None:
    devices = iter(placement.mesh.devices.flat)
  else:
    step = getattr(state, "step", None)
    sharding = None if isinstance(step, jax.core.Tracer) else getattr(step, "sharding", None)
    if sharding is None or not getattr(step, "committed", True):
      return None
    devices = iter(sharding.device_set)
  name = next(devices).platform
  return ALIASES.get(name, name)
