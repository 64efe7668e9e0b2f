"""Networks of others as teachers: their layers' outputs, by path, as Endpoints."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress.nn import Endpoints
from jaxcompress.nn.tracing import intercept

TRAINS = ("train", "training", "is_training")  # how networks call the flag
RESTS = ("deterministic", "use_running_average", "eval_mode")  # its opposite


class Adapter(nn.Module):
  """A network that returns Endpoints; see :func:`adapter`."""

  adapted: nn.Module
  pooled: str | None = None
  maps: tuple[str, ...] = ()
  preact: tuple[str, ...] = ()
  logits: str | None = None

  def setup(self) -> None:
    nn.share_scope(self, self.adapted)  # variables have the model's own names

  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> Endpoints:
    outputs: dict[str, Any] = {}
    depth = len(self.scope.path) if self.scope is not None else 0

    def record(following, args, kwargs, context):
      output = following(*args, **kwargs)
      if context.method_name == "__call__":
        names = context.module.scope.path[depth:]
        names = names[1:] if names[:1] == ("adapted",) else names  # of layers given as arguments
        outputs["/".join(names)] = output
      return output

    with intercept(record):
      result = self.adapted(x, **_flag(self.adapted, train))
    outputs.pop("", None)  # the model itself
    logits = result if self.logits is None else _find("logits", self.logits, outputs)
    if isinstance(logits, Endpoints):
      logits = logits.logits
    if not isinstance(logits, jax.Array) or logits.ndim != 2:
      found = getattr(logits, "shape", type(logits).__name__)
      raise ValueError(
        f"logits: the model's output is {found}; it must be (batch, classes), or name a layer."
      )
    return Endpoints(
      logits,
      None if self.pooled is None else _averaged(_find("pooled", self.pooled, outputs)),
      tuple(_find("maps", path, outputs) for path in self.maps),
      tuple(_find("preact", path, outputs) for path in self.preact),
    )


def adapter(
  model: nn.Module,
  *,
  pooled: str | None = None,
  maps: Sequence[str] = (),
  preact: Sequence[str] = (),
  logits: str | None = None,
) -> Adapter:
  """Makes a linen module that returns :class:`~jaxcompress.nn.Endpoints` of any other.

  The outputs of its layers are captured as ``capture_intermediates`` would, by path; of a layer
  that is called several times, the last. The variables are the model's own, name by name, so
  trained ones fit. The model gets ``train`` under the name that it knows: ``train``,
  ``training``, ``is_training``, or ``deterministic``, ``use_running_average``, ``eval_mode`` for
  its opposite.

  Args:
    model: a linen module; ``model(images)`` gives logits (batch, classes).
    pooled: path of the layer with the penultimate features, such as ``pool`` or ``encoder/norm``; a
      map (batch, height, width, channels) is averaged over its pixels.
    maps: paths of the layers whose outputs are feature maps.
    preact: paths of those before their last activation.
    logits: path of the layer with the logits, if the model returns something else.

  Returns:
    A linen module, called as ``apply(variables, images, train=False)``.

  Raises:
    ValueError: if a list is a text; when called, if there is no layer of a path (the error lists
      all), or the logits have another rank.

  Examples:
    >>> model = nn.Sequential([nn.Conv(4, (3, 3)), lambda x: x.mean((1, 2)), nn.Dense(10)])
    >>> teacher = adapter(model, maps=["layers_0"], pooled="layers_0")
    >>> images = jnp.ones((2, 8, 8, 3))
    >>> variables = model.init(jax.random.key(0), images)  # the model's own
    >>> endpoints = teacher.apply(variables, images, train=False)
    >>> endpoints.logits.shape, endpoints.pooled.shape, endpoints.maps[0].shape
    ((2, 10), (2, 4), (2, 8, 8, 4))
  """
  for name, paths in (("maps", maps), ("preact", preact)):
    if isinstance(paths, str):
      raise ValueError(f"{name}: {paths!r} must be a list of paths; write [{paths!r}].")
  return Adapter(model, pooled, tuple(maps), tuple(preact), logits)


def _flag(model: nn.Module, train: bool | jax.Array) -> dict[str, Any]:
  """The argument that tells a model whether it trains, if it has one."""
  known = inspect.signature(type(model).__call__).parameters
  for name in TRAINS:
    if name in known:
      return {name: train}
  for name in RESTS:
    if name in known:
      return {name: not train if isinstance(train, bool) else jnp.logical_not(train)}
  return {}


def _find(argument: str, path: str, outputs: Mapping[str, Any]) -> Any:
  if path not in outputs:
    raise ValueError(
      f"{argument}: {path!r} is no layer of the model; its layers are {', '.join(outputs)}."
    )
  return outputs[path]


def _averaged(x: jax.Array) -> jax.Array:
  return jnp.mean(x, axis=tuple(range(1, x.ndim - 1))) if x.ndim > 2 else x
