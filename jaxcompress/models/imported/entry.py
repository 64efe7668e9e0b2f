"""Networks of other libraries as networks of leaf ops: what users call."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from jaxcompress.models.imported import (
  attention,
  axes,
  combined,
  elementwise,
  layered,
  pieces,
  pooling,
  structural,
  views,
  weighted,
)
from jaxcompress.models.imported.arguments import check_apply, check_kind, shape_of
from jaxcompress.models.imported.assembly import assemble
from jaxcompress.models.imported.checking import MOST_IN_HALF, check, random_images, shaken
from jaxcompress.models.imported.grouping import Grouping
from jaxcompress.models.imported.naming import module_of
from jaxcompress.models.imported.problems import NotImportable, evaluating
from jaxcompress.models.imported.reading import Reader, trace
from jaxcompress.models.imported.restoring import Key, Restoring
from jaxcompress.models.imported.results import ends_of
from jaxcompress.models.imported.values import Leaves, Op, Origin, Tensor, is_static, leaves_in
from jaxcompress.models.imported.weights import Weight
from jaxcompress.nn.foreign import LINEN, NNX, flag_for
from jaxcompress.nn.replay import Replay
from jaxcompress.nn.tracing import intercept
from jaxcompress.ops.dispatch import ANYWHERE, traced_for

if TYPE_CHECKING:
  from flax import nnx

READERS = {
  **axes.READERS,
  **elementwise.READERS,
  **weighted.READERS,
  **pooling.READERS,
  **pieces.READERS,
}
"""Readers by the name of JAX's primitive."""
GROUPS = {**combined.GROUPS, **layered.GROUPS, **structural.GROUPS, **attention.GROUPS}
"""Makers of leaf operations by the kind of operation that was read."""
BATCH = 2
LARGEST_BATCH = 8  # with which the given one is taken, for functions of that batch alone


class Imported(NamedTuple):
  """A network that was made of another library's.

  Attributes:
    model: made of leaf ops; called as ``model.apply(variables, images, train=False)``.
    variables: ``{"params", "batch_stats"}``, float32, without the collections that the network lacks.
    restore: ``(variables) -> tree``: trained variables of ``model`` in the original's own pytree, which
      keeps structure and dtypes; leaves that the network does not read stay as they were. It raises
      ``ValueError`` where shapes differ, as after ``prune.remove_channels``, and where arrays that are one
      in the original were trained apart.
    unused: paths of the original's leaves that the network does not read.
    difference: between both networks' logits on random images, as a share of the largest.
  """

  model: Replay
  variables: dict[str, Any]
  restore: Callable[[Mapping[str, Any]], Any]
  unused: tuple[str, ...]
  difference: float

  def __repr__(self) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(self.variables))
    unused = f", {len(self.unused)} unused" if self.unused else ""
    return f"Imported({self.model}, {count:,} numbers{unused}, difference={self.difference:.1e})"


def from_jax(
  apply: Callable[[Any, jax.Array], jax.Array],
  variables: Any,
  images: Any,
  *,
  momentum: float | Mapping[str, float] = 0.9,
  maps: Sequence[str] = (),
  layout: str = "NHWC",
  origin: str = "",
) -> Imported:
  """Makes a network of leaf ops of any function of images.

  The function is traced, what depends on the variables alone is computed, and the rest is recognised:
  convolutions with their normalizations, activation functions by what they compute, and so on. Both
  networks are then run on random images.

  Args:
    apply: ``(variables, images) -> logits`` (batch, classes), in inference: without dropout, and with
      running statistics. A tuple or dict of arrays makes several outputs, which are named by their place
      in it; arrays in it that do not depend on the images are left out.
    variables: a pytree of arrays; leaves that are not arrays, such as functions, stay as they are.
    images: an array or a ``ShapeDtypeStruct`` (batch, height, width, channels), of which the shape is
      taken; the network reads images of this size. The function is traced with a batch of 2, or with
      this one if it is from 2 to 8, as a function that is written for one batch needs it.
    momentum: share of the old running statistics that normalizations keep at each step of training, or
      one for each module's path; inference does not show it.
    maps: names of layers, or paths of modules, whose outputs become feature maps for losses.
    layout: of the images that ``apply`` reads: ``"NHWC"`` or ``"NCHW"``; the imported network reads NHWC.
    origin: what it is, as a person writes it.

  Returns:
    An :class:`Imported` network.

  Raises:
    NotImportable: a ``ValueError`` that lists all that no leaf op computes, each with its layer and line,
      and what to do.
    ValueError: if an argument does not fit, or the networks' logits differ.

  Examples:
    >>> def apply(variables, x):
    ...   x = jax.lax.conv_general_dilated(
    ...     x, variables["conv"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ...   )
    ...   return jax.nn.relu(x).mean((1, 2)) @ variables["classifier"]
    >>> variables = {"conv": jnp.ones((3, 3, 3, 4)), "classifier": jnp.eye(4, 10)}
    >>> imported = from_jax(apply, variables, jnp.ones((1, 8, 8, 3)))
    >>> [(layer.name, layer.op) for layer in imported.model.layers]
    [('conv', 'ConvNorm'), ('pool', 'GlobalAvgPool'), ('classifier', 'Dense')]
    >>> imported.restore(imported.variables)["conv"].shape
    (3, 3, 3, 4)
  """
  check_apply(apply)
  if layout not in LAYOUTS:
    raise ValueError(f"layout: {layout!r} must be one of {', '.join(LAYOUTS)}.")
  if isinstance(maps, str):
    raise ValueError(f"maps: {maps!r} must be a list of names; write [{maps!r}].")
  shape = shape_of(images)
  floats = jnp.issubdtype(images.dtype, jnp.floating)
  dtype = jax.dtypes.canonicalize_dtype(images.dtype) if floats else jnp.float32
  batch = shape[0] if BATCH <= shape[0] <= LARGEST_BATCH else BATCH
  spec = jax.ShapeDtypeStruct((batch, *shape[1:]), dtype)
  size = tuple(spec.shape[layout.index(role)] for role in views.ROLES)
  if any(map(is_static, jax.tree.leaves(variables))):
    arrays = jax.tree.map(lambda leaf: None if is_static(leaf) else leaf, variables)
    inner = from_jax(
      lambda some, x: apply(_completed(some, variables), x),
      arrays,
      images,
      momentum=momentum,
      maps=maps,
      layout=layout,
      origin=origin,
    )
    return inner._replace(restore=lambda trained: _completed(inner.restore(trained), variables))
  leaves = Leaves(variables)
  # of what the network has of jaxcompress.nn, XLA's own convolutions are traced, which are read as such
  with evaluating(shape), jax.default_matmul_precision("highest"), traced_for(ANYWHERE):
    closed, output = trace(apply, variables, spec)
  reader = Reader(READERS, leaves)
  start = Op("input", (), size, {}, Origin())
  arguments: list[Any] = [*leaves.constants(), Tensor(start, views.straight(size, layout))]
  found = reader.closed(closed, arguments)
  logits, outputs = ends_of(found, output, reader)
  ends = [end.op for end in (logits, *outputs.values())]
  grouping = Grouping(GROUPS, ends, leaves, _momentum(momentum), reader.report)
  if reader.problems:
    raise NotImportable(reader.problems)
  made = assemble(grouping, start, logits, outputs, leaves.paths, origin)
  _warn_of_copies(made.weights, leaves)
  arrays = _variables({key: weight.value for key, weight in made.weights.items()})
  model = _with_maps(made.model, maps)
  half = next((name for name in MOST_IN_HALF if name in reader.dtypes), None)
  order = np.argsort([views.ROLES.index(role) for role in layout]).tolist()
  pairs = [(variables, arrays)]
  if (other := shaken(leaves, made.weights)) is not None:
    pairs.append((other[0], _variables(other[1])))
  traced = jax.extend.core.jaxpr_as_fun(closed)
  difference = check(
    lambda variables, images: traced(*jax.tree.leaves(variables), images),
    model,
    pairs,
    random_images(spec.shape, dtype),
    lambda x: jnp.transpose(x, order),
    half,
    {"": logits, **outputs},
  )
  epsilons = {
    layer.name: layer.fields["norm"].epsilon
    for layer in model.layers
    if layer.fields.get("norm") is not None
  }
  restore = Restoring(leaves, made.weights, epsilons)
  return Imported(model, arrays, restore, _unused(made.weights, leaves), difference)


LAYOUTS = ("NHWC", "NCHW")


def from_linen(
  model: nn.Module,
  variables: Any,
  images: Any,
  *,
  momentum: float | None = None,
  maps: Sequence[str] = (),
  layout: str = "NHWC",
) -> Imported:
  """Makes a network of leaf ops of a linen module; see :func:`from_jax`.

  The module is called with its flag for training off, under the name that it knows: ``train``,
  ``training``, ``is_training``, or ``deterministic``, ``use_running_average``, ``eval_mode`` on.

  Args:
    model: a linen module; ``model(images)`` gives logits (batch, classes).
    variables: its variables.
    images: as for :func:`from_jax`.
    momentum: of normalizations; None: each one's own.
    maps: as for :func:`from_jax`.
    layout: as for :func:`from_jax`.

  Returns:
    An :class:`Imported` network.

  Raises:
    ValueError: as :func:`from_jax`.

  Examples:
    >>> model = nn.Sequential([nn.Conv(4, (3, 3)), nn.silu, lambda x: x.mean((1, 2)), nn.Dense(10)])
    >>> images = jnp.ones((1, 8, 8, 3))
    >>> imported = from_linen(model, model.init(jax.random.key(0), images), images)
    >>> imported.model.apply(imported.variables, images, train=False).logits.shape
    (1, 10)
  """
  check_kind("model", model, LINEN, "a linen module")
  flag = flag_for(model, False)
  momenta: dict[str, float] = {}

  def look(following, args, kwargs, context):
    module = context.module
    if isinstance(module, nn.BatchNorm):
      momenta["/".join(module.path)] = module.momentum
    return following(*args, **kwargs)

  def apply(variables, images):
    with intercept(look):  # fills the momenta while it is traced
      return model.apply(variables, images, **flag)

  return from_jax(
    apply,
    variables,
    images,
    momentum=momenta if momentum is None else momentum,
    maps=maps,
    layout=layout,
    origin=type(model).__name__,
  )


def from_nnx(
  module: "nnx.Module",
  images: Any,
  *,
  momentum: float | None = None,
  maps: Sequence[str] = (),
  layout: str = "NHWC",
) -> Imported:
  """Makes a network of leaf ops of an NNX module, which stays as it is; see :func:`from_jax`.

  A copy of the module is set to evaluate. Trained variables go back by
  ``nnx.update(module, imported.restore(variables))``.

  Args:
    module: an NNX module; ``module(images)`` gives logits (batch, classes).
    images: as for :func:`from_jax`.
    momentum: of normalizations; None: each one's own.
    maps: as for :func:`from_jax`.
    layout: as for :func:`from_jax`.

  Returns:
    An :class:`Imported` network.

  Raises:
    ValueError: as :func:`from_jax`.

  Examples:
    >>> from flax import nnx
    >>> class Network(nnx.Module):
    ...   def __init__(self, rngs):
    ...     self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
    ...     self.norm = nnx.BatchNorm(4, rngs=rngs)
    ...     self.head = nnx.Linear(4, 10, rngs=rngs)
    ...   def __call__(self, x):
    ...     return self.head(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))
    >>> module = Network(nnx.Rngs(0))
    >>> imported = from_nnx(module, jnp.ones((1, 8, 8, 3)))
    >>> nnx.update(module, imported.restore(imported.variables))
    >>> [layer.name for layer in imported.model.layers]
    ['conv', 'pool', 'head']
  """
  check_kind("module", module, NNX, "an NNX module")
  from flax import nnx  # takes a fifth of a second, which networks without it need not wait for

  copy = nnx.merge(*nnx.split(module))
  copy.eval()
  definition, state = nnx.split(copy)
  momenta = {
    "/".join(map(str, path)): part.momentum
    for path, part in nnx.iter_graph(copy)
    if isinstance(part, nnx.BatchNorm)
  }
  return from_jax(
    lambda variables, images: nnx.merge(definition, variables)(images),
    state,
    images,
    momentum=momenta if momentum is None else momentum,
    maps=maps,
    layout=layout,
    origin=type(module).__name__,
  )


def _completed(arrays: Any, variables: Any) -> Any:
  """A pytree with what is no array in its place, such as functions of an Equinox module."""
  choose = lambda array, leaf: leaf if array is None else array  # noqa: E731
  return jax.tree.map(choose, arrays, variables, is_leaf=lambda leaf: leaf is None)


def _momentum(momentum: float | Mapping[str, float]) -> Callable[[str | None], float]:
  """The momentum of the normalization whose variance has a path."""
  if not isinstance(momentum, Mapping):
    if not 0 <= momentum <= 1:
      raise ValueError(f"momentum: {momentum!r} must be from 0 to 1.")
    return lambda path: float(momentum)
  by = {"/".join(module_of(f"{path}/var")): value for path, value in momentum.items()}

  def of(path: str | None) -> float:
    return float(by.get("/".join(module_of(path)), 0.9)) if path else 0.9

  return of


def _variables(arrays: Mapping[Key, np.ndarray]) -> dict[str, Any]:
  """Arrays by collection, layer and name, as linen nests them."""
  tree: dict[str, Any] = {"params": {}, "batch_stats": {}}
  for (collection, layer, name), array in arrays.items():
    place = tree[collection]
    for part in layer.split("/"):
      place = place.setdefault(part, {})
    place[name] = array
  return jax.device_put({collection: part for collection, part in tree.items() if part})


def _with_maps(model: Replay, maps: Sequence[str]) -> Replay:
  """The model with the outputs of some layers, or of modules, as feature maps."""
  if not maps:
    return model
  names = [layer.name for layer in model.layers]
  found: list[Any] = []
  for wanted in maps:
    inside = [name for name in names if name == wanted or name.startswith(f"{wanted}/")]
    if not inside:
      raise ValueError(f"maps: {wanted!r} is no layer; its layers are {', '.join(names)}.")
    found.append(inside[-1])
  ends = tuple(found)
  return model.clone(ends=model.ends._replace(maps=ends))


def _warn_of_copies(weights: Mapping[tuple[str, str, str], Weight], leaves: Leaves) -> None:
  """Says which leaves stand for several arrays."""
  users: dict[int, list[str]] = {}
  for (_, layer, name), weight in weights.items():
    if weight.source is not None and weight.source.places.size:
      users.setdefault(int(weight.source.places.flat[0]), []).append(f"{layer}/{name}")
  shared = {place: names for place, names in users.items() if len(names) > 1}
  if shared:
    listed = "; ".join(
      f"{leaves.paths[leaves.number_of(place)]} for {' and '.join(names)}"
      for place, names in shared.items()
    )
    warnings.warn(
      "the network calls a layer more than once, which is imported as copies that are trained apart;"
      f" what they learned does not go back by restore: {listed}.",
      UserWarning,
      stacklevel=3,
    )


def _unused(weights: Mapping[tuple[str, str, str], Weight], leaves: Leaves) -> tuple[str, ...]:
  """Paths of the leaves that no array of the network comes from."""
  used: set[int] = set()
  for weight in weights.values():
    used |= weight.read
    if weight.source is not None:
      used |= set(leaves_in(leaves.starts, weight.source.places)) | weight.source.fixed
  return tuple(path for number, path in enumerate(leaves.paths) if number not in used)
