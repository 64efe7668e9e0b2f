"""Teachers of anybody's: a linen module, an NNX module or a function, with its Endpoints."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_callable
from jaxcompress.distill.of_nnx import run_nnx, split_nnx, variables_for
from jaxcompress.nn import Endpoints
from jaxcompress.nn.foreign import FUNCTION, NNX, described, flag_for, kind_of, takes_train
from jaxcompress.nn.graph import LOGITS
from jaxcompress.nn.outputs import as_endpoints
from jaxcompress.nn.tracing import intercept

TEACHER = "a linen or NNX module, or a function apply(variables, images) -> logits"


class Names(NamedTuple):
  """Names of the layers and outputs that become a network's Endpoints; see :func:`adapter`."""

  logits: str | None = None
  pooled: str | None = None
  maps: tuple[str, ...] = ()
  preact: tuple[str, ...] = ()

  @property
  def all(self) -> tuple[str, ...]:
    """All names that are given."""
    return (*filter(None, (self.logits, self.pooled)), *self.maps, *self.preact)


UNNAMED = Names()


class Adapter(nn.Module):
  """A linen module that returns Endpoints; see :func:`adapter`."""

  adapted: nn.Module
  pooled: str | None = None
  maps: tuple[str, ...] = ()
  preact: tuple[str, ...] = ()
  logits: str | None = None
  preprocess: Callable[[Any], Any] | None = None

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
      result = self.adapted(_read(self.preprocess, x), **flag_for(self.adapted, train))
    outputs.pop("", None)  # the model itself
    names = Names(self.logits, self.pooled, self.maps, self.preact)
    return to_endpoints(result, names, outputs)


@dataclasses.dataclass(frozen=True)
class Function:
  """A function as a teacher; see :func:`adapter`."""

  function: Callable[[Any, Any], Any]
  names: Names = UNNAMED
  preprocess: Callable[[Any], Any] | None = None

  @property
  def title(self) -> str:
    """A name that tells it from another one with the same variables."""
    maker = getattr(self.function, "__qualname__", type(self.function).__qualname__)
    return f"{maker} {tuple(self.names)}"

  def apply(self, variables: Any, images: jax.Array, *, train: bool = False) -> Endpoints:
    """Its outputs; the flag is for modules that train and must be False."""
    _check_rests(train)
    return to_endpoints(self.function(variables, _read(self.preprocess, images)), self.names)


@dataclasses.dataclass(frozen=True)
class NnxTeacher:
  """An NNX module as a teacher; see :func:`adapter`."""

  parts: Any
  names: Names = UNNAMED
  preprocess: Callable[[Any], Any] | None = None

  @property
  def title(self) -> str:
    """A name that tells it from another one with the same variables."""
    return f"{self.parts.name} {tuple(self.names)}"

  @property
  def variables(self) -> dict[str, Any]:
    """The module's own: ``params`` and ``state`` by path, as ``apply`` takes them."""
    return self.parts.variables

  def variables_of(self, given: Any) -> dict[str, Any]:
    """Variables in the form of :attr:`variables`, from the state of such a module.

    Args:
      given: an ``nnx.State``, as a dict too, or what is in the form already.

    Raises:
      ValueError: if an array is missing or has another shape.
    """
    return variables_for(self.parts, given)

  def apply(self, variables: Any, images: jax.Array, *, train: bool = False) -> Endpoints:
    """The module's outputs in evaluation; the flag must be False."""
    _check_rests(train)
    images = _read(self.preprocess, images)
    result, layers = run_nnx(self.parts, variables, images, self.names.all)
    return to_endpoints(result, self.names, layers)


OURS = (Adapter, Function, NnxTeacher)


def adapter(
  model: Any,
  *,
  pooled: str | None = None,
  maps: Sequence[str] = (),
  preact: Sequence[str] = (),
  logits: str | None = None,
  preprocess: Callable[[Any], Any] | None = None,
) -> Any:
  """Makes a teacher that returns :class:`~jaxcompress.nn.Endpoints` of any network.

  It need not be made of leaf ops, and nothing is traced but its outputs. The outputs of its layers are
  captured by path; of a layer that is called several times, the last. It gets ``train`` under the
  name that it knows: ``train``, ``training``, ``is_training``, or ``deterministic``,
  ``use_running_average``, ``eval_mode`` for its opposite.

  - A **linen module**: the variables are its own, name by name. Layers are named as in
    ``capture_intermediates``.
  - An **NNX module**: it is left as it is; a copy in evaluation mode is what runs. Its own state is
    taken where no ``teacher_variables`` are given; they may be an ``nnx.State`` of such a module.
    Layers are named by their attributes, such as ``blocks/0/conv``.
  - A **function** ``apply(variables, images)`` with variables of any form, such as Haiku's
    ``lambda variables, images: net.apply(variables, None, images)``. It returns logits, ``Endpoints``,
    a dict with ``logits`` and, as it likes, ``pooled``, ``maps`` and ``preact``, or any tree of
    arrays, of which the names say what they are: ``"head/scores"`` in dicts, ``"1"`` in tuples.

  Args:
    model: one of these three.
    pooled: name of the layer or output with the penultimate features, such as ``pool`` or
      ``encoder/norm``; a map (batch, height, width, channels) is averaged over its pixels.
    maps: names of the layers or outputs that are feature maps, (batch, height, width, channels).
    preact: names of those before their last activation.
    logits: name of the layer or output with the logits, if the model returns something else.
    preprocess: maps pixels to what this teacher reads, if that is not what the student reads; it gets
      the images after ``augment``, as they are before the recipe's ``preprocess``.

  Returns:
    A teacher, called as ``apply(variables, images, train=False)``; of a linen module a linen module.

  Raises:
    ValueError: if the model is of another kind, or a list is a text; when called, if there is no layer
      or output of a name (the error lists all), or the logits have another rank.

  Examples:
    >>> model = nn.Sequential([nn.Conv(4, (3, 3)), lambda x: x.mean((1, 2)), nn.Dense(10)])
    >>> teacher = adapter(model, maps=["layers_0"], pooled="layers_0")
    >>> images = jnp.ones((2, 8, 8, 3))
    >>> variables = model.init(jax.random.key(0), images)  # the model's own
    >>> endpoints = teacher.apply(variables, images, train=False)
    >>> endpoints.logits.shape, endpoints.pooled.shape, endpoints.maps[0].shape
    ((2, 10), (2, 4), (2, 8, 8, 4))
    >>> teacher = adapter(lambda w, x: {"scores": x.mean((1, 2)) @ w, "map": x}, maps=["map"])
    >>> teacher.apply(jnp.ones((3, 10)), images).logits.shape
    (2, 10)
  """
  for name, paths in (("maps", maps), ("preact", preact)):
    if isinstance(paths, str):
      raise ValueError(f"{name}: {paths!r} must be a list of paths; write [{paths!r}].")
  check_callable("preprocess", preprocess, "images -> images, or None")
  names = Names(logits, pooled, tuple(maps), tuple(preact))
  kind = kind_of(model)
  if isinstance(model, nn.Module):
    return Adapter(model, names.pooled, names.maps, names.preact, logits, preprocess)
  if kind is NNX:
    return NnxTeacher(split_nnx(model), names, preprocess)
  if kind is FUNCTION:
    _check_takes_two(model)
    return Function(model, names, preprocess)
  way = "" if kind is None else f"; {kind.teacher}"
  raise ValueError(f"model must be {TEACHER}, got {described(model)}{way}.")


def as_teacher(argument: str, model: Any) -> Any:
  """A network as a teacher: as it is if it can be told that it does not train, else adapted.

  Args:
    argument: its name, for messages.
    model: as for :func:`adapter`, or what that made.

  Raises:
    ValueError: if it is no such network.

  Examples:
    >>> as_teacher("model", nn.Dense(3))
    Adapter(...
  """
  if isinstance(model, OURS) or (isinstance(model, nn.Module) and takes_train(model)):
    return model
  try:
    return adapter(model)
  except ValueError as error:
    raise ValueError(f"{argument}{str(error).removeprefix('model')}") from error


def own_variables(teacher: Any) -> Any:
  """The variables that a teacher brings along, or None."""
  return teacher.variables if isinstance(teacher, NnxTeacher) else None


def reads_pixels(teacher: Any) -> bool:
  """Whether a teacher has a ``preprocess`` of its own."""
  return isinstance(teacher, OURS) and teacher.preprocess is not None


def to_endpoints(
  result: Any,
  names: Names = UNNAMED,
  layers: Mapping[str, Any] | None = None,
  *,
  any_shape: bool = False,
) -> Endpoints:
  """Converts the result of a teacher to :class:`~jaxcompress.nn.Endpoints`.

  Args:
    result: logits, ``Endpoints``, a dict of their fields, or any tree of arrays.
    names: of layers and outputs.
    layers: outputs of layers by path.
    any_shape: whether a network may give no (batch, classes), or several; its logits are then those of
      :func:`~jaxcompress.nn.outputs.as_endpoints`.

  Raises:
    ValueError: if there is no layer or output of a name, or it is not clear which the logits are.

  Examples:
    >>> to_endpoints({"logits": jnp.ones((1, 3)), "maps": [jnp.ones((1, 2, 2, 4))]}).maps[0].shape
    (1, 2, 2, 4)
  """
  layers = layers or {}
  if isinstance(result, Mapping) and LOGITS in result and set(result) <= set(Endpoints._fields):
    lists = {key: tuple(result[key]) for key in ("maps", "preact") if key in result}
    ends = Endpoints(**{**result, **lists})
    outputs = dict(result)
  else:
    ends = as_endpoints(result)
    outputs = dict(ends.outputs)

  def find(argument: str, name: str) -> Any:
    found = layers[name] if name in layers else outputs.get(name)
    if found is None and name in layers:
      raise ValueError(f"{argument}: the model does not call its layer {name!r}; name another one.")
    if found is None:
      known = [f"its {what} are {', '.join(of)}" for what, of in _named(layers, outputs) if of]
      what = "layer" if layers else "output"
      raise ValueError(
        f"{argument}: {name!r} is no {what} of the model; {'; '.join(known) or 'it has no names'}."
      )
    if not hasattr(found, "ndim"):
      raise ValueError(f"{argument}: {name!r} returns a {type(found).__name__}, which is no array.")
    if found.ndim > 4:
      raise ValueError(
        f"{argument}: {name!r} has shape {found.shape}; it must be (batch, height, width, channels) at"
        " most."
      )
    return found

  if names.logits is not None:
    logits = find("logits", names.logits)
    any_shape = any_shape or (names.logits in outputs and logits.ndim > 2)
  else:
    any_shape = any_shape or isinstance(result, Endpoints)
    logits = ends.logits if any_shape else _logits(ends, outputs)
  if not any_shape and getattr(logits, "ndim", None) != 2:
    found = getattr(logits, "shape", type(logits).__name__)
    raise ValueError(
      f"logits: the model's output is {found}; it must be (batch, classes), or name a layer or an"
      " output with logits=. A teacher of maps or boxes returns them in a dict, of which logits="
      " names one, or nn.Endpoints(logits, outputs={...})."
    )
  maps, preact = (
    tuple(find(argument, name) for name in given) or kept
    for argument, given, kept in (
      ("maps", names.maps, ends.maps),
      ("preact", names.preact, ends.preact),
    )
  )
  pooled = ends.pooled if names.pooled is None else _averaged(find("pooled", names.pooled))
  return Endpoints(logits, pooled, maps, preact, ends.outputs)


def _logits(ends: Endpoints, outputs: Mapping[str, Any]) -> Any:
  """The logits where nobody named them: those of that name, or the only matrix."""
  if not outputs or LOGITS in outputs:
    return ends.logits
  matrices = [name for name, array in outputs.items() if getattr(array, "ndim", None) == 2]
  if len(matrices) == 1:
    return outputs[matrices[0]]
  shapes = (f"{name} {tuple(jnp.shape(array))}" for name, array in outputs.items())
  raise ValueError(
    f"logits: the model returns {', '.join(shapes)}; name the one with (batch, classes), such as"
    f" logits={(matrices or list(outputs))[0]!r}."
  )


def _named(layers: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
  return ("layers", layers), ("outputs", outputs)


def _averaged(x: jax.Array) -> jax.Array:
  return jnp.mean(x, axis=tuple(range(1, x.ndim - 1))) if x.ndim > 2 else x


def _read(preprocess: Callable[[Any], Any] | None, images: Any) -> Any:
  return images if preprocess is None else preprocess(images)


def _check_rests(train: Any) -> None:
  if train is not False:
    raise ValueError("train must be False: a teacher that is no linen module is not trained.")


def _check_takes_two(function: Callable[..., Any]) -> None:
  try:
    signature = inspect.signature(function)
  except (TypeError, ValueError):  # of what was not written in Python
    return
  try:
    signature.bind(None, None)
  except TypeError as error:
    raise ValueError(
      f"model: the function {getattr(function, '__name__', '')} takes {signature}; it must take"
      " (variables, images)."
    ) from error
