"""The networks of a run, and saved networks that know what they are."""

import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxcompress import data as datasets
from jaxcompress import models
from jaxcompress.data.reader import ENTRY, PREPROCESS
from jaxcompress.files.records import from_plain
from jaxcompress.files.values import one_line, read_json, sealed_json
from jaxcompress.models.files import from_config, to_config
from jaxcompress.models.layouts import SMALL_IMAGE
from jaxcompress.models.registry import FAMILIES, describe
from jaxcompress.training.variables import load_variables, save_variables

MODEL_FILE = "model.json"
LARGEST_SIDE = 1 << 14  # of images, in pixels
SHORT_LAYOUTS = ("mobilenet_v1", "mobilenet_v2")


class Network(NamedTuple):
  """A model and how it was asked for.

  Attributes:
    name: in the registry.
    width: multiplier, or None where the model has none.
    module: the linen module.
    summary: its graph and sizes at the run's image size.
    preprocess: how it reads the pixels of the run's images, if that is not the run's way.
  """

  name: str
  width: float | None
  module: nn.Module
  summary: models.Summary
  preprocess: datasets.Preprocess | None = None

  @property
  def title(self) -> str:
    """As a person writes it."""
    return _title(self.name, self.width)


def build(
  name: str,
  num_classes: int,
  image_shape: tuple[int, ...],
  width: float | None,
  default: float | None,
  wanted: Mapping[str, Any],
) -> Network:
  """A network for the run's images.

  Small images get the short layout where there is one, which learns most in a few minutes.

  Args:
    name: in the registry.
    num_classes: size of the logits.
    image_shape: (height, width, channels).
    width: multiplier; None takes the default where the model has a width.
    default: width where none is given; None: the model's own.
    wanted: further options, each for the networks that have it.

  Raises:
    ValueError: if the name is unknown, or a width is given to a model without one.
  """
  known = models.options_of(name) if name in (models.MODELS | FAMILIES) else ()
  options = {option: value for option, value in wanted.items() if option in known}
  if "layout" in known:
    small = "short" if name in SHORT_LAYOUTS else "cifar"
    options["layout"] = small if image_shape[0] <= SMALL_IMAGE else "imagenet"
  if width is None and "width" in known:
    width = default
  if width is not None:
    options["width"] = width
  return network_of(name, width, models.create(name, num_classes, **options), image_shape)


class TrainedNetwork(NamedTuple):
  """A network and its variables."""

  network: Network
  variables: Any


class Facts(NamedTuple):
  """Facts of a network in a file; None where it says nothing.

  Attributes:
    name: in the registry.
    width: multiplier.
    config: of :func:`jaxcompress.models.files.to_config`; the first versions did not write it.
    classes: names in the order of the logits.
    image_shape: (height, width, channels) of the images that it was trained on.
    reader: how pictures become what the network reads.
  """

  name: str | None = None
  width: float | None = None
  config: dict[str, Any] | None = None
  classes: tuple[str, ...] | None = None
  image_shape: tuple[int, ...] | None = None
  reader: datasets.ImageReader | None = None


class SavedNetwork(NamedTuple):
  """A trained network and what its file says of it.

  Attributes:
    title: as a person writes it.
    module: the linen module.
    variables: its ``params`` and ``batch_stats``.
    classes: as in :class:`Facts`.
    image_shape: likewise.
    reader: likewise.
  """

  title: str
  module: nn.Module
  variables: Any
  classes: tuple[str, ...] | None
  image_shape: tuple[int, ...] | None
  reader: datasets.ImageReader | None


def save_network(
  folder: pathlib.Path,
  trained: TrainedNetwork,
  classes: tuple[str, ...],
  reader: datasets.ImageReader,
) -> None:
  """Writes variables and what they belong to; an earlier folder is replaced, whole or not."""
  temporary = folder.with_name(folder.name + ".partial")
  shutil.rmtree(temporary, ignore_errors=True)
  network = trained.network
  save_variables(temporary / "variables", trained.variables)
  facts = {
    "name": network.name,
    "width": network.width,
    "config": to_config(network.module),
    "classes": list(classes),
    "image_shape": list(network.summary.graph.input_shape[1:]),
    **reader.to_metadata(),
  }
  (temporary / MODEL_FILE).write_text(sealed_json(facts))
  shutil.rmtree(folder, ignore_errors=True)
  temporary.rename(folder)


def read_network(
  path: str | pathlib.Path, *, argument: str = "model", wanted: Mapping[str, Any] | None = None
) -> SavedNetwork:
  """Reads a network by itself: a folder of :func:`save_network`, or a file of ``models.save``.

  Args:
    path: such as ``OUT/student`` or ``student.safetensors``.
    argument: that names it, for messages.
    wanted: options for a folder of the first versions, which does not name its own (see
      :func:`build`); None: it is refused.

  Raises:
    ValueError: if it is neither, is damaged, or cannot be read.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    facts, what = read_facts(path, argument), f"{argument}: {path / MODEL_FILE}"
    assert facts.name is not None and facts.classes is not None  # as was checked
    assert facts.image_shape is not None
    if facts.config is not None:
      network = _rebuilt(facts, facts.image_shape, what)
    elif wanted is not None:
      count = len(facts.classes)
      network = build(facts.name, count, facts.image_shape, facts.width, None, wanted)
    else:
      raise ValueError(f"{what} does not describe a network: it lacks config.")
    return SavedNetwork(network.title, network.module, _load(path, network), *facts[3:])
  if not path.is_file():
    raise ValueError(
      f"{argument}: {path} does not exist; name a .safetensors file of models.save, or a folder that"
      " compress wrote, such as OUT/student."
    )
  try:
    module, variables = models.load(path)
    header = models.read_header(path)
  except ValueError as error:
    raise ValueError(f"{argument}: {str(error).removeprefix('path: ')}") from error
  name, _, options = describe(module)
  title = options.get("origin") or _title(name, options.get("width"))
  said = {**header, "config": {"num_classes": module.num_classes}}
  facts = _facts({name: said[name] for name in SAID & said.keys()}, f"{argument}: {path}")
  return SavedNetwork(title, module, variables, *facts[3:])


def read_facts(folder: str | pathlib.Path, option: str = "model") -> Facts:
  """Reads the facts of a network in a folder of :func:`save_network`.

  Args:
    folder: such as ``OUT/teacher``.
    option: that names it, for messages.

  Raises:
    ValueError: if there is no such folder, it is damaged, or it does not say what network it is.
  """
  folder = pathlib.Path(folder)
  path = folder / MODEL_FILE
  if not path.is_file():
    raise ValueError(
      f"{option}: {folder} holds no readable {MODEL_FILE}; name a folder that compress wrote, such"
      " as OUT/student or OUT/teacher."
    )
  what = f"{option}: {path}"
  said = read_json(path, what)
  if not isinstance(said, dict):
    raise ValueError(f"{what} does not describe a network: it is not a JSON object.")
  for name in ("name", "classes", "image_shape"):
    if said.get(name) is None:
      raise ValueError(f"{what} does not describe a network: it lacks {name}.")
  return _facts(said, what)


def network_of(
  name: str, width: float | None, module: nn.Module, image_shape: tuple[int, ...]
) -> Network:
  """A network at an image size, traced."""
  return Network(name, width, module, models.summarize(module, image_shape[0], image_shape[-1]))


def _rebuilt(facts: Facts, image_shape: tuple[int, ...], what: str) -> Network:
  """The network of a file that says all of it."""
  try:
    module = from_config(facts.config or {})
    return network_of(facts.name or "", facts.width, module, image_shape)
  except Exception as error:  # a list of layers may say anything
    raise ValueError(f"{what} names a network that cannot be built ({one_line(error)}).") from error


def _load(folder: pathlib.Path, network: Network) -> Any:
  variables = load_variables(folder / "variables", network.summary.variables)
  return jax.tree.map(jax.numpy.asarray, variables)


def _facts(said: Mapping[str, Any], what: str) -> Facts:
  """Checks what a file says; ``what`` begins messages."""
  facts = Facts()
  if said.get(PREPROCESS) is not None:  # the first versions wrote no more of how pictures are read
    said = {**said, ENTRY: {name: said.get(name) for name in (ENTRY, PREPROCESS)}}
  for name, read in READERS.items():
    try:
      if said.get(name) is not None:
        facts = facts._replace(**{name: read(said[name], facts)})
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
      raise ValueError(f"{what}: its {name} cannot be used ({one_line(error)}).") from error
  return facts


def _name(name: Any, _: Facts) -> str:
  if not isinstance(name, str):
    raise ValueError(f"{name!r} must be a text")
  return name


def _config(config: Any, _: Facts) -> dict[str, Any]:
  if not isinstance(config, dict) or type(config.get("num_classes")) is not int:
    raise ValueError(f"{config!r:.40} must be an object with num_classes")
  return config


def _classes(names: Any, facts: Facts) -> tuple[str, ...]:
  if not isinstance(names, list):
    raise ValueError(f"{names!r} must be a list of names")
  if facts.config is not None and len(names) != facts.config["num_classes"]:
    raise ValueError(
      f"{len(names)} names for {facts.config['num_classes']} logits; they must be as many"
    )
  return tuple(map(str, names))


def _image_shape(shape: Any, _: Facts) -> tuple[int, ...]:
  sides = shape if isinstance(shape, list) else ()
  if len(sides) != 3 or not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in sides):
    raise ValueError(
      f"{shape!r} must be [height, width, channels], each a number from 1 to {LARGEST_SIDE}"
    )
  return tuple(sides)


def _reader(said: Any, facts: Facts) -> datasets.ImageReader:
  """A reader that maps a black image to numbers."""
  shape = facts.image_shape
  size = None if shape is None else (shape[0], shape[1])
  found = datasets.ImageReader.from_metadata(said, size)
  channels = 3 if shape is None else shape[-1]
  if not np.isfinite(found.preprocess(np.zeros((1, 1, 1, channels), np.uint8))).all():
    raise ValueError("black images become numbers that are not finite")
  return found


READERS: Mapping[str, Callable[[Any, Facts], Any]] = {  # in an order in which each is checked
  "name": _name,
  "width": lambda width, _: from_plain(float, width),
  "config": _config,
  "classes": _classes,
  "image_shape": _image_shape,
  ENTRY: _reader,
}
SAID = frozenset({*READERS, PREPROCESS})


def _title(name: str, width: float | None) -> str:
  """A network's name as a person writes it."""
  return name if width is None else f"{name} x{width:g}"
