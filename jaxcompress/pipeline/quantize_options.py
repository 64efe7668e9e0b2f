"""What ``jaxcompress quantize`` was asked to do."""

import dataclasses
import pathlib
import re

from jaxcompress import quantize
from jaxcompress.pipeline.formats import (
  FORMATS,
  check_target,
  format_of,
  kernels_for,
  without_suffix,
)

UNITS = {"": 1, "k": 1000, "m": 1000**2, "ki": 1024, "mi": 1024**2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
  """The options of ``jaxcompress quantize``.

  Attributes:
    model: a file of ``models.save`` or a folder that ``compress`` wrote.
    data: ``glyphs``, ``digits``, ``tfds:NAME`` or ``folder:PATH``.
    method: ``auto`` or a method of post-training quantization.
    bits: of the weights, 2 to 8; None: 8.
    max_drop: the largest loss of top-1 that is accepted, as a share, or None.
    budget: size such as ``"300KB"`` that packed weights, scales and biases may take, or None.
    images: of the training images for calibration and for the choice of the method.
    kernels: the runtime whose arithmetic it is; None: the usual one of the file.
    image_size: side in pixels; None: what the model's file says, else the data's own.
    analyze: whether the layers are analysed.
    out: the file; its suffix says of which kind: .tflite, .int4.tflite, .onnx, .stablehlo or .jcz
      (packed).
    also: names of formats that are written beside it.
    target: a device whose rules the files obey, or None; for ``"tensorrt"`` the zero points of
      activations are 0.
    force: whether files that exist are replaced.
    seed: of the data and the choice of images.

  Raises:
    ValueError: if an option is out of range, or two do not fit together.

  Examples:
    >>> QuantizeOptions(model="student.safetensors", budget="300KB").budget_bytes
    300000
  """

  model: str
  data: str = "glyphs"
  method: str = "auto"
  bits: int | None = None
  max_drop: float | None = None
  budget: str | None = None
  images: int = 1024
  kernels: str | None = None
  image_size: int | None = None
  analyze: bool = False
  out: str = "model.tflite"
  also: tuple[str, ...] = ()
  target: str | None = None
  force: bool = False
  seed: int = 0

  def __post_init__(self):
    if self.method not in ("auto", *quantize.METHODS):
      methods = ", ".join(("auto", *quantize.METHODS))
      raise ValueError(f"method: {self.method!r} is unknown; it must be one of {methods}.")
    if self.bits is not None and not 2 <= self.bits <= 8:
      raise ValueError(f"bits: {self.bits} is out of range; it must be 2 to 8.")
    if self.bits is not None and self.budget is not None:
      raise ValueError(f"bits: {self.bits} and a budget are given; the budget decides the bits.")
    if self.max_drop is not None and not 0 <= self.max_drop <= 1:
      raise ValueError(f"max_drop: {self.max_drop} is no share; it must be 0 to 1, such as 0.01.")
    if self.images < 1:
      raise ValueError(f"images: {self.images} must be at least 1.")
    if self.image_size is not None and self.image_size < 1:
      raise ValueError(f"image_size: {self.image_size} must be at least 1.")
    formats = (format_of(self.out), *self.also)
    check_target(self.target, formats)
    if "tflite-int4" in formats and self.budget is None and (self.bits or 8) > 4:
      raise ValueError(
        f"format: 'tflite-int4' needs weights of 4 bits at most, and they get {self.bits or 8}; add"
        " --bits 4."
      )
    if FORMATS[formats[0]].is_float and len(formats) == sum(FORMATS[n].is_float for n in formats):
      raise ValueError(
        f"out: {self.out} holds float numbers, so nothing would be quantized; name an integer file."
      )
    _ = self.runtime
    _ = self.budget_bytes

  @property
  def budget_bytes(self) -> int | None:
    """The budget in bytes."""
    return None if self.budget is None else parse_size(self.budget)

  @property
  def runtime(self) -> str:
    """The kernels whose arithmetic it is."""
    return kernels_for(self.out, self.kernels)

  @property
  def models(self) -> list[pathlib.Path]:
    """The files that hold the network."""
    out = pathlib.Path(self.out)
    base = without_suffix(out)
    others = [base.with_name(base.name + FORMATS[name].suffix) for name in self.also]
    return list(dict.fromkeys([out, *others]))

  @property
  def files(self) -> dict[str, pathlib.Path]:
    """What is written, by what it is."""
    model = pathlib.Path(self.out)
    files = {"model": model}
    if self.analyze:
      files["analysis"] = model.with_suffix(".analysis.json")
      files["analysis_plot"] = model.with_suffix(".analysis.png")
    if self.budget is not None:
      files["candidates_plot"] = model.with_suffix(".candidates.png")
    return files


def parse_size(size: str, name: str = "budget") -> int:
  """Bytes of a size as people write it: kB and MB are decimal, KiB and MiB binary.

  Raises:
    ValueError: if it is none.

  Examples:
    >>> parse_size("300KB"), parse_size("1.5 MB"), parse_size("64KiB"), parse_size("5000")
    (300000, 1500000, 65536, 5000)
  """
  match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(|k|m|ki|mi)b?\s*", size.lower())
  if match is None or float(match[1]) == 0:
    raise ValueError(f"{name}: {size!r} is no size; write it as 300KB, 1.5MB or a number of bytes.")
  return int(float(match[1]) * UNITS[match[2]])


def parse_count(count: str, name: str) -> int:
  """A number as people write it: 10M, 2.5k, 1G, or in full.

  Raises:
    ValueError: if it is none.

  Examples:
    >>> parse_count("10M", "max_macs"), parse_count("1500", "max_macs")
    (10000000, 1500)
  """
  match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)\s*", count.lower())
  if match is None or float(match[1]) == 0:
    raise ValueError(f"{name}: {count!r} is no number; write it as 10M, 500k or in full.")
  return int(float(match[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[match[2]])
