"""Models in one safetensors file: arrays by path, and in its header how to build the network."""

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import safetensors
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save as to_bytes

from jaxcompress.files.checksums import UNSEALED, check_seal, seal
from jaxcompress.files.values import (
  SEAL,
  as_tuples,
  check_depth,
  check_format,
  one_line,
  parse_json,
  without_seal,
)
from jaxcompress.files.writing import write_atomically
from jaxcompress.models.registry import create, describe, summarize
from jaxcompress.nn import Endpoints, Norm
from jaxcompress.nn.foreign import check_model

HEADER = "jaxcompress"  # key of the configuration in the file's metadata
FORMAT = 1
MOST_LAYERS = 4096  # more take minutes to trace
MOST_NAMED = 8  # arrays that do not fit
COLOUR, GREY = 3, 1  # channels of images


def save(
  path: str | os.PathLike,
  model: nn.Module,
  variables: Mapping[str, Any],
  *,
  metadata: Mapping[str, Any] | None = None,
) -> pathlib.Path:
  """Writes a model and its variables to one file, which :func:`load` reads.

  The file holds a checksum, so that a damaged one is refused.

  Args:
    path: of the file, by custom ``.safetensors``; an earlier file is replaced in one step.
    model: one of ``jaxcompress.models``; its name and options go into the header.
    variables: its ``params`` and ``batch_stats``.
    metadata: JSON values to keep with it, for :func:`read_header`, such as those of
      :meth:`jaxcompress.data.Dataset.to_metadata`: ``classes``, ``image_shape``, ``reader`` and
      ``preprocess``, which the commands read.

  Returns:
    The path.

  Raises:
    ValueError: if the model is not of this package, the variables are not its own, or the
      metadata is no JSON.

  Examples:
    >>> import tempfile
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(num_classes=10)
    >>> variables = init_variables(model, jax.random.key(0), (32, 32, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = save(folder + "/student.safetensors", model, variables, metadata={"seed": 0})
    ...   same_model, same_variables = load(path)
    ...   metadata = read_header(path)
    >>> same_model == model, metadata
    (True, {'seed': 0})
  """
  path = pathlib.Path(path)
  config = to_config(model)
  try:
    check_depth(metadata)
    header = json.dumps(
      {SEAL: UNSEALED, **config, "metadata": dict(metadata or {})}, allow_nan=False
    )
  except (TypeError, ValueError) as error:
    raise ValueError(f"metadata: it is no JSON ({error}); give plain values.") from error
  arrays = {key: np.asarray(array) for key, array in _flat(variables).items()}
  _check_arrays("variables", f"the model {config['model']}", model, arrays)
  whole = {key: np.asarray(array, order="C") for key, array in arrays.items()}
  return write_atomically(path, seal(to_bytes(whole, {HEADER: header})))


def load(path: str | os.PathLike) -> tuple[nn.Module, dict[str, Any]]:
  """Reads a model that :func:`save` wrote.

  Args:
    path: of the file.

  Returns:
    ``(model, variables)``.

  Raises:
    ValueError: if the file cannot be read, is damaged, was not written by :func:`save` or by a later
      version, or its arrays are not those of its model. Checkpoints of PyTorch are
      :func:`from_torch`'s.

  Examples:
    >>> import tempfile
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (32, 32, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   same_model, same_variables = load(save(folder + "/a.safetensors", model, variables))
    >>> same_model == model, same_variables["params"]["classifier"]["kernel"].shape
    (True, (64, 10))
  """
  header, arrays = _read(path)
  model = _build(path, header)
  _check_arrays("path", str(path), model, arrays)
  variables = unflatten_dict({tuple(key.split("/")): a for key, a in arrays.items()})
  return model, jax.device_put(variables)


def read_header(path: str | os.PathLike) -> dict[str, Any]:
  """Reads what :func:`save` was given to keep with a model; empty if nothing.

  Args:
    path: of the file.

  Raises:
    ValueError: if the file cannot be read, is damaged, or was not written by :func:`save`.

  Examples:
    >>> import tempfile
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(2)
    >>> variables = init_variables(model, jax.random.key(0), (32, 32, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = save(folder + "/a.safetensors", model, variables, metadata={"classes": ["a", "b"]})
    ...   read_header(path)
    {'classes': ['a', 'b']}
  """
  header, _ = _read(path, arrays=False)
  try:
    return dict(header.get("metadata", {}))
  except (TypeError, ValueError) as error:
    raise ValueError(f"path: {path} has a damaged header ({one_line(error)}).") from error


def is_saved(path: str | os.PathLike) -> bool:
  """Whether a file is one of :func:`save`, sound or not; others are checkpoints, or nothing that is read.

  Examples:
    >>> is_saved(__file__)
    False
  """
  try:
    with safetensors.safe_open(path, "numpy") as file:
      return HEADER in (file.metadata() or {})
  except Exception:  # the reader raises its own kinds
    return False


def _read(
  path: str | os.PathLike, *, arrays: bool = True
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """The header of a file that :func:`save` wrote, and its arrays if they are wanted."""
  try:
    content = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise ValueError(f"path: {path} is no readable safetensors file ({error}).") from error
  is_sealed = check_seal(content, f"path: {path}")
  try:
    with safetensors.safe_open(path, "numpy") as file:
      header = (file.metadata() or {}).get(HEADER)
      names = file.keys() if header and arrays else ()
      found = {key: file.get_tensor(key) for key in names}
  except Exception as error:  # the reader raises its own kinds
    raise ValueError(
      f"path: {path} is no readable safetensors file ({one_line(error)})."
    ) from error
  if header is None:
    raise ValueError(
      f"path: {path} says no model in its header; checkpoints of PyTorch are read by"
      " models.from_torch(source, path)."
    )
  try:
    values = without_seal(parse_json(header), is_sealed)
  except ValueError as error:
    raise ValueError(f"path: {path} has a damaged header ({one_line(error)}).") from error
  if not isinstance(values, dict):
    raise ValueError(f"path: {path} has a header that is no object.")
  check_format(values.get("format", FORMAT), FORMAT, f"path: {path}")
  return values, found


def to_config(model: nn.Module) -> dict[str, Any]:
  """Describes a model of this package, as JSON holds it; :func:`from_config` builds it again.

  Raises:
    ValueError: if it is no model of this package.

  Examples:
    >>> from jaxcompress import models
    >>> from_config(to_config(models.resnet8(10))) == models.resnet8(10)
    True
  """
  check_model("model", model)
  name, num_classes, options = describe(model)
  return {"format": FORMAT, "model": name, "num_classes": num_classes, "options": _plain(options)}


def from_config(config: Mapping[str, Any]) -> nn.Module:
  """Builds the model that :func:`to_config` described.

  Raises:
    ValueError: if there is no such model, or a later version described it.

  Examples:
    >>> from jaxcompress import models
    >>> model = from_config({"model": "mobilenet_v2", "num_classes": 10, "options": {"width": 0.5}})
    >>> model == models.mobilenet_v2(10, width=0.5)
    True
  """
  try:
    check_format(config.get("format", FORMAT), FORMAT, "config: it")
    options = {name: as_tuples(value) for name, value in config["options"].items()}
    _check_size(options)
    if "norm" in options:
      options["norm"] = Norm(*options["norm"])
    return create(config["model"], config["num_classes"], **options)
  except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"config: no model is built of it ({type(error).__name__}: {one_line(error)})."
    ) from error


def _check_size(options: Mapping[str, Any]) -> None:
  """Raises if a network has more layers than can be traced."""
  count = max(options.get("depth", 0), len(options.get("layers", ())))
  if count > MOST_LAYERS:
    raise ValueError(f"it has {count} layers; at most {MOST_LAYERS} are read")


def _build(path: str | os.PathLike, header: Mapping[str, Any]) -> nn.Module:
  try:
    model = from_config(header)
    summarize(model)
    return model
  except Exception as error:  # a list of layers may say anything
    raise ValueError(
      f"path: {path} names a model that cannot be built ({one_line(error)})."
    ) from error


def _plain(value: Any) -> Any:
  """A value of options in the types that JSON has."""
  if isinstance(value, Mapping):
    return {name: _plain(part) for name, part in value.items()}
  if isinstance(value, Endpoints) and not value.outputs:
    value = value[:-1]  # as earlier versions read it
  return list(map(_plain, value)) if isinstance(value, tuple) else value


def _flat(variables: Mapping[str, Any]) -> dict[str, Any]:
  return flatten_dict(variables, sep="/")


def _misfits(model: nn.Module, arrays: Mapping[str, Any], channels: int) -> list[str]:
  """Names the arrays that are not those of a network for images of so many channels, and why."""
  wanted = _flat(summarize(model, channels=channels).variables)
  problems = [f"{key} is missing" for key in wanted if key not in arrays]
  problems += [f"{key} is unknown" for key in arrays if key not in wanted]
  return problems + [
    f"{key} is {arrays[key].dtype} {arrays[key].shape}, not {leaf.dtype} {leaf.shape}"
    for key, leaf in wanted.items()
    if key in arrays and (arrays[key].shape, arrays[key].dtype) != (leaf.shape, leaf.dtype)
  ]


def _check_arrays(argument: str, what: str, model: nn.Module, arrays: Mapping[str, Any]) -> None:
  problems = _misfits(model, arrays, COLOUR)
  if problems:
    with contextlib.suppress(ValueError):  # of a network that takes no grey images
      problems = min(problems, _misfits(model, arrays, GREY), key=len)
  if problems:
    more = f", and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
    named = ", ".join(problems[:MOST_NAMED])
    raise ValueError(f"{argument}: the arrays of {what} do not fit: {named}{more}.")
