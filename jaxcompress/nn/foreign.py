"""Models that are not made of leaf ops: what they are, and which importer takes them.

Other libraries are recognised by the names of classes alone, so none of them is imported.
"""

import inspect
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress.arguments import MODEL, shown

TRAINS = ("train", "training", "is_training")  # how networks call the flag
RESTS = ("deterministic", "use_running_average", "eval_mode")  # its opposite
OWN = "jaxcompress.models"
MOST_NAMED = 3  # layers in a message
GRAPH = "a graph, such as models.summarize(model).graph"
GO_ON = "and go on with its .model and .variables"
ONNX = "to teach, it is exported to ONNX and read by data.OnnxTeacher"


class Kind(NamedTuple):
  """A kind of models of others.

  Attributes:
    what: as a person says it.
    way: what to do with it where a model made of leaf ops is wanted.
    teacher: what to do with it where a teacher is wanted and the model cannot teach as it is.
  """

  what: str
  way: str
  teacher: str = ""


def _by_function(what: str, apply: str, where: str = "") -> Kind:
  """A kind that is imported, and taught by, as a function."""
  where = f"{where} and " if where else ""
  return Kind(
    what,
    f"import it with models.from_jax(apply, variables, images), {GO_ON}, where {where}apply = {apply}",
    f"give the function {apply}{f', with {where[:-5]}' if where else ''}",
  )


LINEN = Kind(
  "a linen module", f"import it with models.from_linen(model, variables, images), {GO_ON}"
)
NNX = Kind("an NNX module", f"import it with models.from_nnx(module, images), {GO_ON}")
HAIKU = _by_function(
  "a Haiku transformed pair",
  "lambda variables, images: net.apply(variables, None, images)",
)
HAIKU_STATEFUL = _by_function(
  "a Haiku transformed pair",
  "lambda variables, images: net.apply(*variables, None, images)[0]",
  "variables = (params, state)",
)
HAIKU_MODULE = Kind(
  "a Haiku module",
  "transform it first, with hk.transform_with_state, and import that with"
  " models.from_jax(apply, variables, images)",
  "transform it first, with hk.transform_with_state",
)
EQUINOX = _by_function(
  "an Equinox module",
  "lambda variables, images: jax.vmap(eqx.combine(variables, static))(images)",
  "variables, static = eqx.partition(eqx.nn.inference_mode(model), eqx.is_array)",
)
KERAS = _by_function(
  "a Keras model",
  "lambda variables, images: model.stateless_call(*variables, images)[0]",
  "variables = (model.trainable_variables, model.non_trainable_variables) on the JAX backend",
)
TORCH = Kind(
  "a torch module", f"load its checkpoint with models.from_torch(source, path); {ONNX}", ONNX
)
PAIR = _by_function(
  "a pair of functions",
  "its second function, apply(variables, images) -> logits",
)
FUNCTION = Kind(
  "a function",
  "of a function apply(variables, images) -> logits make a model with"
  f" models.from_jax(apply, variables, images), {GO_ON}",
)
CACHED = Kind(
  "a teacher that is no JAX",
  "it can teach alone",
  "cache its outputs with data.cache_teacher, and give the recipe CachedTeacher()",
)
FILE = Kind(
  "an .onnx file",
  "it can teach alone, by data.OnnxTeacher",
  "read it by data.OnnxTeacher, cache its outputs with data.cache_teacher, and give the recipe"
  " CachedTeacher()",
)
IMPORTED = Kind("an imported network", GO_ON.removeprefix("and "), GO_ON.removeprefix("and "))
ORIGINS: tuple[tuple[str, str, Kind], ...] = (  # of a class or one that it is made from
  ("flax.linen", "Module", LINEN),
  ("flax.nnx", "Module", NNX),
  ("haiku", "TransformedWithState", HAIKU_STATEFUL),
  ("haiku", "Transformed", HAIKU),
  ("haiku", "Module", HAIKU_MODULE),
  ("equinox", "Module", EQUINOX),
  ("keras", "Model", KERAS),
  ("torch", "Module", TORCH),
  ("jaxcompress.models", "Imported", IMPORTED),
  ("jaxcompress.data", "OnnxTeacher", CACHED),
  ("jaxcompress.data", "StoredTeacher", CACHED),
)


def kind_of(value: Any) -> Kind | None:
  """Returns the kind of model of a value; None if it is not a model.

  A class that was not called is not a model either, nor is a function of this package that makes one.

  Examples:
    >>> kind_of(nn.Dense(3)).what, kind_of(lambda variables, images: images).what, kind_of({})
    ('a linen module', 'a function', None)
  """
  own = inspect.isroutine(value) and (value.__module__ or "").startswith(OWN)
  if inspect.isclass(value) or own:
    return None
  for maker in type(value).__mro__:
    library, _, _ = maker.__module__.partition("._")
    for origin, name, kind in ORIGINS:
      if maker.__name__ == name and f"{library}.".startswith(f"{origin}."):
        return kind
  if isinstance(value, str | os.PathLike):
    return FILE if os.fspath(value).endswith(".onnx") else None
  if isinstance(value, tuple) and len(value) == 2 and all(map(callable, value)):
    return PAIR
  return FUNCTION if callable(value) else None


def check_model(argument: str, value: Any, wanted: str = MODEL, *, trains: bool = False) -> None:
  """Checks that an argument is a linen module; of another kind of model it says the importer.

  Args:
    argument: its name.
    value: what was given.
    wanted: what it must be, as a person says it.
    trains: whether it must also be one that can be told whether it trains.

  Raises:
    ValueError: if it is not.

  Examples:
    >>> check_model("student", lambda variables, images: images)
    Traceback (most recent call last):
    ValueError: student must be a linen module, such as models.resnet8(10), got the function ...
  """
  kind = kind_of(value)
  if not isinstance(value, nn.Module):
    raise ValueError(f"{argument} must be {wanted}, got {described(value)}{way_of(kind)}.")
  if trains and not takes_train(value):
    raise ValueError(f"{argument}: {without_train(value)}.")


def check_made(argument: str, value: Any, kind: type, wanted: str) -> None:
  """Checks that an argument is what is made of a model; of a model of others it says the importer.

  Args:
    argument: its name.
    value: what was given.
    kind: what it must be.
    wanted: the same as a person says it, with the way to make one.

  Raises:
    ValueError: if it is something else.

  Examples:
    >>> check_made("graph", nn.Dense(3), dict, "a graph, such as models.summarize(model).graph")
    Traceback (most recent call last):
    ValueError: graph must be a graph, such as models.summarize(model).graph, got a linen module, Dense.
  """
  if isinstance(value, kind):
    return
  found = kind_of(value)
  way = way_of(None if found is LINEN else found)
  raise ValueError(f"{argument} must be {wanted}, got {described(value)}{way}.")


def described(value: Any) -> str:
  """Describes a wrong argument for an error message.

  Examples:
    >>> described(nn.Dense(3)), described(print), described("a")
    ('a linen module, Dense', 'the function print (not called)', "'a'")
  """
  kind = kind_of(value)
  if kind in (None, FILE) or inspect.isroutine(value):
    return shown(value)
  return f"{kind.what}, {type(value).__name__}"


def way_of(kind: Kind | None) -> str:
  """The way out as the end of a message, with the semicolon before it."""
  return "" if kind is None else f"; {kind.way}"


def takes_train(model: nn.Module) -> bool:
  """Whether a module's call can be given ``train``.

  Examples:
    >>> from jaxcompress import models
    >>> takes_train(models.resnet8(10)), takes_train(nn.Dense(3))
    (True, False)
  """
  known = inspect.signature(type(model).__call__).parameters
  return "train" in known or any(one.kind is one.VAR_KEYWORD for one in known.values())


def without_train(model: nn.Module) -> str:
  """Says that a module cannot be told whether it trains, and what to do about it."""
  return (
    f"the call of {type(model).__name__} takes no train; write __call__(self, x, *, train), or"
    f" {LINEN.way}"
  )


def flag_for(model: Any, train: Any) -> dict[str, Any]:
  """The argument that tells a model whether it trains, under the name that it knows; {} if none.

  Args:
    model: its call is looked at.
    train: whether it trains, also traced.

  Examples:
    >>> flag_for(nn.BatchNorm(), False), flag_for(nn.Dense(3), False)
    ({'use_running_average': True}, {})
  """
  known = inspect.signature(type(model).__call__).parameters
  for name in TRAINS:
    if name in known:
      return {name: train}
  for name in RESTS:
    if name in known:
      return {name: not train if isinstance(train, bool) else jax.numpy.logical_not(train)}
  return {}


def title(module: nn.Module) -> str:
  """A layer as messages name it: its class and path.

  Examples:
    >>> class Network(nn.Module):
    ...   def setup(self):
    ...     self.head = nn.Dense(3)
    >>> title(Network().bind({}).head)
    "nn.Dense 'head'"
  """
  kind = type(module)
  library = "nn." if kind.__module__.startswith("flax.linen") else ""
  return f"{library}{kind.__name__} {'/'.join(module.path)!r}"


class Strangers:
  """Layers of a network that are no leaf ops, as its calls are seen one within another.

  Attributes:
    titles: of the innermost ones whose outputs no leaf op made, in the order of their calls.
  """

  def __init__(self):
    self.titles: list[str] = []
    self._calls = 0

  def enter(self) -> int:
    """Notes that a module is called; what it returns is for :meth:`leave`."""
    self._calls += 1
    return self._calls

  def leave(self, call: int, module: nn.Module, arrays: Iterable[Any]) -> None:
    """Notes a layer that has made arrays, where no other call was within its own."""
    if call == self._calls and module.path and any(True for _ in arrays):
      self.titles.append(title(module))

  def blame(self, reader: str, earlier: Sequence[str]) -> str:
    """The message that an array is read which no leaf op made.

    Args:
      reader: who reads it, as ``"'add' (Add) reads"``.
      earlier: leaf ops that were called before, the last one last.
    """
    start = f"model: {reader} an array that no leaf op of jaxcompress.nn made"
    if not self.titles:
      place = f"after {earlier[-1]}" if earlier else "from the images"
      return (
        f"{start}: it is computed {place} by jax.numpy, lax or an operator; put a leaf op in its place,"
        f" such as Add, Multiply, Concat or Activation, or {LINEN.way}."
      )
    names = list(dict.fromkeys(self.titles))
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    are = "are not leaf operations" if len(names) > 1 else "is not a leaf operation"
    return f"{start}: {', '.join(names[:MOST_NAMED])}{more} {are}; {LINEN.way}."
