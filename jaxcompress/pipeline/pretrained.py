"""Networks that a run starts from: weights of others, or of earlier runs, with a head for its classes."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxcompress import data as datasets
from jaxcompress import models
from jaxcompress.arguments import unknown
from jaxcompress.files.values import one_line
from jaxcompress.models.checkpoints.sources import find_source, is_source
from jaxcompress.models.checkpoints.weights import read_weights
from jaxcompress.models.files import is_saved
from jaxcompress.models.heads import permute_classes
from jaxcompress.models.registry import LISTED, describe
from jaxcompress.pipeline.networks import (
  MODEL_FILE,
  Network,
  SavedNetwork,
  network_of,
  read_network,
)
from jaxcompress.report import text

Role = Literal["student", "teacher"]
LIKELY = 0.5  # share of images, of the way from chance to 1, from which on a head knows the classes
MOST_LISTED = 240  # characters of what does not fit
LOOKED_AT = 256  # images


class Start(NamedTuple):
  """A network with weights from which a run starts.

  Attributes:
    network: with as many logits as the data has classes.
    variables: its own; of a new head those of a fresh model.
    new_head: whether the head is new; else the weights are of a network that knows these classes.
    reader: how pictures were read where the weights were trained, or None where nobody knows.
  """

  network: Network
  variables: Any
  new_head: bool
  reader: datasets.ImageReader | None


def open_start(
  name: str | None,
  weights: str,
  classes: tuple[str, ...],
  image_shape: tuple[int, ...],
  *,
  seed: int = 0,
  role: Role = "student",
) -> Start:
  """Reads weights for a data set.

  Args:
    name: source of a PyTorch checkpoint as in :func:`jaxcompress.models.from_torch`, or a model of this
      package; None: what the weights are of.
    weights: a checkpoint of PyTorch's, a file of ``models.save``, or a folder that a run wrote.
    classes: of the data.
    image_shape: of the data.
    seed: of a new head.
    role: the folder of a run has both; and it begins messages.

  Raises:
    ValueError: if the file cannot be read, is damaged, or is of another network.
  """
  saved = read_weights_for(name, weights, role=role)
  return start_of(saved, classes, image_shape, role=role, seed=seed)


def read_weights_for(
  name: str | None,
  weights: str,
  *,
  role: Role,
  width: float | None = None,
  wanted: Mapping[str, Any] | None = None,
) -> SavedNetwork:
  """Reads a network with weights, whatever holds them.

  Args:
    name: as for :func:`open_start`.
    weights: likewise.
    role: likewise.
    width: that the network must have, or None.
    wanted: options of networks in folders of the first versions, which do not name them all.

  Returns:
    The network as it was trained; its classes are None where nobody says them.

  Raises:
    ValueError: if the weights cannot be read, are damaged, or are of another network.
  """
  path, argument = pathlib.Path(weights), f"{role}_weights"
  if path.is_dir():
    path = _within_run(path, role)
    saved = read_network(path, argument=argument, wanted=wanted)
  elif is_saved(path):
    saved = read_network(path, argument=argument)
  else:
    saved = _of_torch(name, path, argument)
  return _as_asked(saved, name, width, path, role)


def start_of(
  saved: SavedNetwork,
  classes: tuple[str, ...],
  image_shape: tuple[int, ...],
  *,
  role: Role,
  seed: int = 0,
) -> Start:
  """A network for a data set: with its head if that knows the classes, in whatever order, or a new one.

  Args:
    saved: the network.
    classes: of the data.
    image_shape: of the data.
    role: begins messages.
    seed: of a new head.

  Raises:
    ValueError: if the network is no classifier, or images of that size do not fit it.
  """
  module, variables, order = saved.module, saved.variables, _order(saved.classes, classes)
  try:
    if order is None:
      key = jax.random.key(seed)
      module, variables = models.with_classes(module, variables, len(classes), key)
    elif order != sorted(order):
      variables = permute_classes(module, variables, order)
  except ValueError as error:
    problem = str(error).removeprefix("module: ")
    raise ValueError(f"{role}_weights: {saved.title} cannot be taken: {problem}") from error
  network = _at(saved, module, variables, image_shape)
  return Start(network, variables, order is None, saved.reader)


def with_found_classes(saved: SavedNetwork, data: datasets.Dataset) -> SavedNetwork:
  """The network with the data's classes, if its head has as many, names none, and is right by them.

  A network that was fine-tuned elsewhere says nothing of its classes, which are the data's in their
  order if most images are classified right, half the way from chance to all at least.

  Args:
    saved: any network; one that names its classes stays as it is.
    data: of the run, of which at most 256 training images are looked at.

  Raises:
    ValueError: if images of the data's size do not fit the network.
  """
  count = len(data.classes)
  if saved.classes is not None or getattr(saved.module, "num_classes", None) != count:
    return saved
  _at(saved, saved.module, saved.variables, data.image_shape)  # or it says why it cannot run
  preprocess = data.reader.preprocess if saved.reader is None else saved.reader.preprocess
  chosen = np.random.default_rng(0).permutation(len(data.train))[:LOOKED_AT]
  images, labels = data.train.images[np.sort(chosen)], data.train.labels[np.sort(chosen)]
  module: Any = saved.module
  apply = jax.jit(lambda v, x: module.apply(v, preprocess(x), train=False).logits)
  logits = [apply(saved.variables, images[i : i + 32]) for i in range(0, len(images), 32)]
  right = float(np.mean(np.argmax(np.concatenate(logits), -1) == labels))
  chance = 1 / count
  knows = right >= chance + LIKELY * (1 - chance)
  return saved._replace(classes=data.classes) if knows else saved


def _within_run(folder: pathlib.Path, role: Role) -> pathlib.Path:
  """The folder of a network: itself, or the one that a run's folder has for it."""
  inner = folder / role
  if (folder / MODEL_FILE).is_file() or not (inner / MODEL_FILE).is_file():
    return folder
  return inner


def _as_asked(
  saved: SavedNetwork, name: str | None, width: float | None, path: pathlib.Path, role: Role
) -> SavedNetwork:
  """The network, if it is what was asked for."""
  kind, _, options = describe(saved.module)
  if name is not None and name not in (kind, saved.title):
    same = is_source(name) and find_source(name).make(saved.module.num_classes) == saved.module
    if not same:
      raise ValueError(
        f"{role}: {name} was asked for, but {path} holds {saved.title}; leave it out."
      )
  if width is not None and width != options.get("width"):
    option = "width" if role == "student" else "teacher_width"
    held = options.get("width")
    what = saved.title if held is None else f"one of {held:g}"
    raise ValueError(f"{option}: {width:g} was asked for, but {path} holds {what}; leave it out.")
  return saved


def _of_torch(name: str | None, path: pathlib.Path, argument: str) -> SavedNetwork:
  """A checkpoint of PyTorch's, of a source that is named or told by its arrays."""
  if name is not None and not is_source(name) and name not in models.MODELS:
    raise unknown(argument.partition("_")[0], name, models.MODELS, LISTED)
  if name is not None and is_source(name):
    find_source(name, argument.partition("_")[0])
  try:
    arrays = read_weights(path)
  except ValueError as error:
    raise ValueError(f"{argument}: {str(error).removeprefix('weights: ')}") from error
  source = (
    name if name is not None and is_source(name) else _found_source(name, path, arrays, argument)
  )
  try:
    module, variables = models.from_torch(source, arrays)
  except ValueError as error:
    raise _other(source, path, arrays, argument, error) from error
  try:
    reader = datasets.ImageReader.of_source(source)
  except ValueError:  # nobody knows
    reader = None
  return SavedNetwork(source, module, variables, None, None, reader)


def _found_source(
  name: str | None, path: pathlib.Path, arrays: Mapping[str, np.ndarray], argument: str
) -> str:
  """The source of a checkpoint by its arrays.

  Raises:
    ValueError: if there is none, or there are several whose networks or normalizations differ.
  """
  found, role = models.sources_of(arrays, name), argument.partition("_")[0]
  if not found:
    known = ", ".join(s for s in models.SOURCES if name is None or _architecture(s) == name)
    raise ValueError(
      f"{argument}: {path} has the arrays of no {name or 'network that is known'}; those that are read,"
      f" to be named as {role}: {known or 'none of this model'}."
    )
  first, *others = found
  if any(_meaning(other) != _meaning(first) for other in others):
    raise ValueError(
      f"{argument}: {path} may be of {' or '.join(found)}, which have the same arrays; name the one as"
      f" {role}."
    )
  return first


def _architecture(source: str) -> str:
  found = find_source(source)
  return describe(found.make(found.num_classes)).name


def _meaning(source: str) -> Any:
  """Returns the values that are equal for two sources with the same scores."""
  found, known = find_source(source), models.normalization_of(source)
  return found.make(found.num_classes), known.mean, known.std, known.size


def _other(
  source: str, path: pathlib.Path, arrays: Any, argument: str, error: ValueError
) -> ValueError:
  """Returns the error for a checkpoint that is not of ``source``; it names the source that fits."""
  found = models.sources_of(arrays)
  if found:
    role = argument.partition("_")[0]
    return ValueError(
      f"{argument}: {path} is not of {source}, but has the arrays of {' and '.join(found)}; name that as"
      f" {role}."
    )
  why = str(error).partition("; ")[2] or str(error)
  why = why if len(why) <= MOST_LISTED else f"{why[:MOST_LISTED]}..."
  return ValueError(f"{argument}: {path} is not of {source}, nor of any other source; {why}")


def _order(known: Sequence[str] | None, classes: Sequence[str]) -> list[int] | None:
  """Where a head has each class of the data; None if it does not know just these.

  Examples:
    >>> _order(("cat", "dog"), ("dog", "cat")), _order(None, ("dog",)), _order(("a", "b"), ("a",))
    ([1, 0], None, None)
  """
  if known is None or sorted(known) != sorted(classes) or len(set(known)) < len(known):
    return None
  return [tuple(known).index(name) for name in classes]


def _at(
  saved: SavedNetwork, module: nn.Module, variables: Any, image_shape: tuple[int, ...]
) -> Network:
  """The network at the size of the run's images.

  Raises:
    ValueError: if it cannot read them.
  """
  kind, _, options = describe(saved.module)
  width = options.get("width") if saved.title.startswith(kind) else None
  name = saved.title if width is None else kind
  problem = "its layers would have other shapes"
  try:
    network = network_of(name, width, module, image_shape)
    if _shapes(network.summary.variables) == _shapes(variables):
      return network
  except Exception as error:  # a list of layers may not run at another size
    problem = one_line(error)
  raise ValueError(
    f"image_size: {saved.title} cannot read images of {text.shape(tuple(image_shape))} ({problem}); leave"
    " image_size out."
  )


def _shapes(variables: Any) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(variables)
  return {jax.tree_util.keystr(path): tuple(np.shape(leaf)) for path, leaf in leaves}
