"""The run behind ``jaxcompress export``: one network in several formats beside each other."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console

from jaxcompress.export.packed import SUFFIX, read_packed
from jaxcompress.nn import INPUT
from jaxcompress.pipeline.formats import (
  FORMATS,
  check_free,
  check_target,
  require_formats,
  without_suffix,
  write_all,
)
from jaxcompress.pipeline.quantize_options import QuantizeOptions
from jaxcompress.pipeline.quantizing import describe_file, quantize_model
from jaxcompress.quantize import QuantizedModel

VERIFIED = 8  # random images that the files of a packed network are run on
MOST_NUMBERS = 1 << 24  # in these images together, but for the first


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
  """The options of ``jaxcompress export``.

  Attributes:
    model: a packed file (.jcz), or what ``quantize`` reads.
    formats: names of the formats that are written.
    out: the files without their suffixes; None: beside the model.
    force: whether files that exist are replaced.
    target: a device whose rules the files obey, or None.
    quantize: options of :class:`QuantizeOptions` for a model that is not quantized yet.

  Raises:
    ValueError: if options of quantization, or formats of float networks, are given for a model that
      is quantized.

  Examples:
    >>> [path.name for path in ExportOptions(model="a/net_0.5.jcz", formats=("onnx",)).paths]
    ['net_0.5.onnx']
  """

  model: str
  formats: tuple[str, ...] = ("tflite",)
  out: str | None = None
  force: bool = False
  target: str | None = None
  quantize: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.is_packed and self.quantize:
      name = next(iter(self.quantize))
      raise ValueError(
        f"{name}: {self.quantize[name]} is given, but {self.model} is quantized already; leave it"
        " out."
      )
    for option, path in (("model", self.model), ("out", self.out)):
      if path is not None and not pathlib.Path(path).name:
        raise ValueError(f"{option}: {path!r} is no name of a file; give one, such as OUT/student.")
    check_target(self.target, self.formats)
    floats = [name for name in self.formats if FORMATS[name].is_float]
    if self.is_packed and floats:
      raise ValueError(
        f"format: {floats[0]!r} holds the float network, and {self.model} is quantized; give the"
        " trained model."
      )

  @property
  def is_packed(self) -> bool:
    """Whether the model is a packed file, by its suffix."""
    return pathlib.Path(self.model).suffix.lower() == SUFFIX

  @property
  def paths(self) -> list[pathlib.Path]:
    """The files that are written."""
    base = without_suffix(pathlib.Path(self.out or self.model))
    name = base.stem if base.suffix.lower() == ".safetensors" else base.name
    return [base.parent / (name + FORMATS[one].suffix) for one in self.formats]


def export_model(options: ExportOptions, *, console: Console | None = None) -> list[pathlib.Path]:
  """Writes a network in several formats; one that is not quantized yet is quantized first.

  Args:
    options: what to do.
    console: what was written and found goes here.

  Returns:
    The files.

  Raises:
    ValueError: if the model cannot be read, a file exists, a format cannot hold the network, or
      as :func:`~jaxcompress.pipeline.quantize_model`; nothing is written then.

  Examples:
    ``jaxcompress export OUT/student --format tflite,onnx`` runs it, on what a compress run left in
    OUT.
  """
  console, paths = console or Console(stderr=True), options.paths
  if options.is_packed:
    require_formats(paths)
    check_free(paths, force=options.force)
    model, metadata = read_packed(options.model)
    write_all(model, paths, metadata, target=options.target)
    images = _random_images(model)
    for path in paths:
      describe_file(model, path, images, console)
    return paths
  settings = QuantizeOptions(
    model=options.model,
    out=str(paths[0]),
    also=options.formats[1:],
    force=options.force,
    target=options.target,
    **options.quantize,
  )
  quantize_model(settings, console=console)
  return paths


def _random_images(model: QuantizedModel) -> np.ndarray:
  """What the network reads, on every code of its input's grid alike."""
  grid = model.grids[INPUT]
  shape = model.graph.input_shape[1:]
  count = max(1, min(VERIFIED, MOST_NUMBERS // math.prod(shape)))
  rng = np.random.default_rng(0)
  steps = rng.integers(grid.low, grid.high, (count, *shape), endpoint=True)
  return steps.astype(np.float32) * grid.scale
