"""The networks of a run, and saved networks that know what they are."""

import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress import data as datasets
from jaxcompress import models
from jaxcompress.models.layouts import SMALL_IMAGE
from jaxcompress.training.variables import load_variables, save_variables

MODEL_FILE = "model.json"
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
  """Writes variables and what they belong to; an earlier half-written folder is replaced."""
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
  (temporary / MODEL_FILE).write_text(json.dumps(facts, indent=2) + "\n")
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
    wanted: further options; see :func:`build`.

  Returns:
    ``(network, variables)``.

  Raises:
    ValueError: if it cannot be read or is another model than expected.
  """
  folder = pathlib.Path(folder)
  try:
    facts = json.loads((folder / MODEL_FILE).read_text())
    found = (facts["name"], facts["width"], tuple(facts["classes"]))
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"teacher_checkpoint: {folder} holds no readable {MODEL_FILE}; name the teacher folder that a"
      " run wrote, such as OUT/teacher."
    ) from error
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
  variables = load_variables(folder / "variables", network.summary.variables)
  return network, jax.tree.map(jax.numpy.asarray, variables)


def read(path: str | pathlib.Path) -> Saved:
  """Reads a network by itself: a folder of :func:`save`, or a file of ``models.save``.

  Args:
    path: such as ``OUT/student`` or ``student.safetensors``.

  Raises:
    ValueError: if it is neither, or cannot be read.
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
  return _saved(path, title, module, variables, models.read_metadata(path))


def _read_folder(folder: pathlib.Path) -> Saved:
  try:
    facts = json.loads((folder / MODEL_FILE).read_text())
    module, shape = models.from_config(facts["config"]), tuple(facts["image_shape"])
    summary = models.summarize(module, shape[0], shape[-1])
    title = Network(facts["name"], facts["width"], module, summary).title
  except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
    raise ValueError(
      f"model: {folder} holds no readable {MODEL_FILE}; name a folder that compress wrote, such as"
      " OUT/student or OUT/teacher."
    ) from error
  variables = load_variables(folder / "variables", summary.variables)
  variables = jax.tree.map(jax.numpy.asarray, variables)
  return _saved(folder, title, module, variables, facts)


def _saved(
  path: pathlib.Path, title: str, module: nn.Module, variables: Any, facts: Mapping[str, Any]
) -> Saved:
  def optional(name: str, read: Callable[[Any], Any]) -> Any:
    try:
      return None if facts.get(name) is None else read(facts[name])
    except (TypeError, ValueError) as error:
      raise ValueError(f"model: the {name} in {path} cannot be read ({error}).") from error

  return Saved(
    title,
    module,
    variables,
    optional("classes", lambda names: tuple(map(str, names))),
    optional("image_shape", lambda shape: tuple(map(int, shape))),
    optional("preprocess", datasets.Preprocess.from_metadata),
  )


def _title(name: str, width: float | None) -> str:
  """A network's name as a person writes it."""
  return name if width is None else f"{name} x{width:g}"
