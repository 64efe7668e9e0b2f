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
from jaxcompress.files.values import one_line, read_json, sealed_json
from jaxcompress.models.layouts import SMALL_IMAGE
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
  """

  name: str
  width: float | None
  module: nn.Module
  summary: models.Summary

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
  known = models.options_of(name) if name in models.MODELS else ()
  options = {option: value for option, value in wanted.items() if option in known}
  if "layout" in known:
    small = "short" if name in SHORT_LAYOUTS else "cifar"
    options["layout"] = small if image_shape[0] <= SMALL_IMAGE else "imagenet"
  if width is None and "width" in known:
    width = default
  if width is not None:
    options["width"] = width
  module = models.create(name, num_classes, **options)
  summary = models.summarize(module, image_shape[0], image_shape[-1])
  return Network(name, width, module, summary)


class Saved(NamedTuple):
  """A trained network and what its file says of it.

  Attributes:
    title: as a person writes it.
    module: the linen module.
    variables: its ``params`` and ``batch_stats``.
    classes: names in the order of the logits, or None if the file does not say.
    image_shape: (height, width, channels), or None.
    preprocess: maps pixels to what the network reads, or None.
  """

  title: str
  module: nn.Module
  variables: Any
  classes: tuple[str, ...] | None
  image_shape: tuple[int, ...] | None
  preprocess: datasets.Preprocess | None


def save(
  folder: pathlib.Path,
  network: Network,
  variables: Any,
  classes: tuple[str, ...],
  preprocess: datasets.Preprocess,
) -> None:
  """Writes variables and what they belong to; an earlier folder is replaced, whole or not."""
  temporary = folder.with_name(folder.name + ".partial")
  shutil.rmtree(temporary, ignore_errors=True)
  save_variables(temporary / "variables", variables)
  facts = {
    "name": network.name,
    "width": network.width,
    "config": models.to_config(network.module),
    "classes": list(classes),
    "image_shape": list(network.summary.graph.input_shape[1:]),
    "preprocess": preprocess.to_metadata(),
  }
  (temporary / MODEL_FILE).write_text(sealed_json(facts))
  shutil.rmtree(folder, ignore_errors=True)
  temporary.rename(folder)


def load(
  folder: str | pathlib.Path,
  classes: tuple[str, ...],
  image_shape: tuple[int, ...],
  *,
  name: str | None,
  width: float | None,
  wanted: Mapping[str, Any],
) -> tuple[Network, Any]:
  """Reads a network that :func:`save` wrote.

  Args:
    folder: such as ``OUT/teacher``.
    classes: of the data set; they must be the network's.
    image_shape: of the data set.
    name: model that is expected, or None for any.
    width: width that is expected, or None for any.
    wanted: further options for a file that does not name its own; see :func:`build`.

  Returns:
    ``(network, variables)``.

  Raises:
    ValueError: if it cannot be read, is damaged, or is another model than expected.
  """
  folder = pathlib.Path(folder)
  facts = _read_facts(folder, "teacher_checkpoint")
  found = (facts["name"], facts["width"], tuple(facts["classes"]))
  for option, expected, stored in (("teacher", name, found[0]), ("teacher_width", width, found[1])):
    if expected is not None and expected != stored:
      raise ValueError(
        f"{option}: {expected} was asked for, but {folder} holds {stored}; leave it out."
      )
  if found[2] != tuple(classes):
    raise ValueError(
      f"teacher_checkpoint: {folder} knows {len(found[2])} classes ({', '.join(found[2][:3])}, ...)"
      f" and the data has {len(classes)} ({', '.join(classes[:3])}, ...); they must be the same."
    )
  network = build(found[0], len(classes), image_shape, found[1], None, wanted)
  if facts.get("config") is not None:  # what it was trained with, whatever is wanted now
    module = models.from_config(facts["config"])
    summary = models.summarize(module, image_shape[0], image_shape[-1])
    network = network._replace(module=module, summary=summary)
  variables = load_variables(folder / "variables", network.summary.variables)
  return network, jax.tree.map(jax.numpy.asarray, variables)


class Images(NamedTuple):
  """The images that a saved network was trained on.

  Attributes:
    shape: (height, width, channels), or None if the file does not say.
    preprocess: maps pixels to what the network reads, or None.
  """

  shape: tuple[int, ...] | None
  preprocess: datasets.Preprocess | None


def images_of(folder: str | pathlib.Path) -> Images:
  """What a network that :func:`save` wrote says of its images.

  Raises:
    ValueError: if it cannot be read, or is damaged.
  """
  folder = pathlib.Path(folder)
  facts, what = (
    _read_facts(folder, "teacher_checkpoint"),
    f"teacher_checkpoint: {folder / MODEL_FILE}",
  )
  shape = _fact(facts, "image_shape", what, _image_shape)
  return Images(shape, _fact(facts, "preprocess", what, lambda values: _preprocess(values, shape)))


def read(path: str | pathlib.Path) -> Saved:
  """Reads a network by itself: a folder of :func:`save`, or a file of ``models.save``.

  Args:
    path: such as ``OUT/student`` or ``student.safetensors``.

  Raises:
    ValueError: if it is neither, is damaged, or cannot be read.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    return _read_folder(path)
  if not path.is_file():
    raise ValueError(
      f"model: {path} does not exist; name a .safetensors file of models.save, or a folder that"
      " compress wrote, such as OUT/student."
    )
  module, variables = models.load(path)
  name, _, options = models.describe(module)
  title = options.get("origin") or _title(name, options.get("width"))
  return _saved(f"model: {path}", title, module, variables, models.read_header(path))


def _read_folder(folder: pathlib.Path) -> Saved:
  facts, what = _read_facts(folder, "model"), f"model: {folder / MODEL_FILE}"
  shape = facts["image_shape"]
  if facts.get("config") is None:
    raise ValueError(f"{what} describes no network: it does not say config.")
  try:
    module = models.from_config(facts["config"])
    summary = models.summarize(module, shape[0], shape[-1])
  except Exception as error:  # a list of layers may say anything
    raise ValueError(f"{what} names a network that cannot be built ({one_line(error)}).") from error
  title = Network(facts["name"], facts["width"], module, summary).title
  variables = load_variables(folder / "variables", summary.variables)
  variables = jax.tree.map(jax.numpy.asarray, variables)
  return _saved(what, title, module, variables, facts)


def _read_facts(folder: pathlib.Path, option: str) -> dict[str, Any]:
  """What a folder's file says of its network.

  Raises:
    ValueError: if there is no such file, it is damaged, or it does not say what network it is.
  """
  path = folder / MODEL_FILE
  if not path.is_file():
    raise ValueError(
      f"{option}: {folder} holds no readable {MODEL_FILE}; name a folder that compress wrote, such"
      " as OUT/student or OUT/teacher."
    )
  what = f"{option}: {path}"
  facts = read_json(path, what)
  if not isinstance(facts, dict):
    raise ValueError(f"{what} describes no network: it holds no object.")
  for name in ("name", "width", "classes", "image_shape"):
    if name not in facts or (facts[name] is None and name != "width"):
      raise ValueError(f"{what} describes no network: it does not say {name}.")
  _fact(facts, "name", what, _name)
  _fact(facts, "width", what, lambda width: _title(facts["name"], width))
  logits = _fact(facts, "config", what, _logits)  # which the first versions did not write
  _fact(facts, "classes", what, lambda names: _classes(names, logits))
  _fact(facts, "image_shape", what, _image_shape)
  return facts


def _saved(
  what: str, title: str, module: nn.Module, variables: Any, facts: Mapping[str, Any]
) -> Saved:
  classes = _fact(facts, "classes", what, lambda names: _classes(names, module.num_classes))
  shape = _fact(facts, "image_shape", what, _image_shape)
  preprocess = _fact(facts, "preprocess", what, lambda values: _preprocess(values, shape))
  return Saved(title, module, variables, classes, shape, preprocess)


def _fact(facts: Mapping[str, Any], name: str, what: str, read: Callable[[Any], Any]) -> Any:
  """What is said under a name; None if nothing is."""
  try:
    return None if facts.get(name) is None else read(facts[name])
  except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
    raise ValueError(f"{what}: its {name} cannot be used ({one_line(error)}).") from error


def _name(name: Any) -> str:
  if not isinstance(name, str):
    raise ValueError(f"{name!r} must be a text")
  return name


def _logits(config: Any) -> int:
  if not isinstance(config, dict) or type(config.get("num_classes")) is not int:
    raise ValueError(f"{config!r:.40} must be an object with num_classes")
  return config["num_classes"]


def _classes(names: Any, logits: Any) -> tuple[str, ...]:
  """Names in the order of the logits."""
  if not isinstance(names, list):
    raise ValueError(f"{names!r} must be a list of names")
  if logits is not None and len(names) != logits:
    raise ValueError(f"{len(names)} names for {logits} logits; they must be as many")
  return tuple(map(str, names))


def _image_shape(shape: Any) -> tuple[int, ...]:
  """Height, width and channels."""
  sides = shape if isinstance(shape, list) else ()
  if len(sides) != 3 or not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in sides):
    raise ValueError(
      f"{shape!r} must be [height, width, channels], each a number from 1 to {LARGEST_SIDE}"
    )
  return tuple(sides)


def _preprocess(values: Any, shape: tuple[int, ...] | None) -> datasets.Preprocess:
  """Preprocessing that maps a black image to numbers."""
  found = datasets.Preprocess.from_metadata(values)
  channels = 3 if shape is None else shape[-1]
  if not np.isfinite(found(np.zeros((1, 1, 1, channels), np.uint8))).all():
    raise ValueError("black images become numbers that are not finite")
  return found


def _title(name: str, width: float | None) -> str:
  """A network's name as a person writes it."""
  return name if width is None else f"{name} x{width:g}"
