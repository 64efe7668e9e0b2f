"""Options of quantization after training, checked when they are made."""

import dataclasses
import pathlib

from jaxcompress import quantize
from jaxcompress.pipeline.checks import (
  OptionError,
  check_between,
  check_choice,
  check_types,
  parse_size,
)
from jaxcompress.pipeline.formats import (
  FORMATS,
  check_target,
  check_trained,
  format_of,
  kernels_for,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
  """The options of :func:`~jaxcompress.pipeline.quantize_model`.

  Attributes:
    model: a file of ``models.save`` or a folder that ``compress`` wrote; with ``torch`` the
      checkpoint.
    torch: source of a PyTorch checkpoint as in :func:`jaxcompress.models.from_torch`, such as
      ``"timm/mobilenetv3_small_100"``, or None.
    calibration: with ``torch``, a folder of images, which need no labels.
    data: likewise, as :func:`jaxcompress.data.load` takes it; without ``torch``.
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
    also: further files of the same network.
    formats: of all these files, by name; none: those that their suffixes name.
    ram: size such as ``"64KB"`` of the memory that folders of C may take, or None.
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
  torch: str | None = None
  calibration: str | None = None
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
  formats: tuple[str, ...] = ()
  target: str | None = None
  ram: str | None = None
  force: bool = False
  seed: int = 0

  def __post_init__(self):
    check_types(self)
    check_choice("method", self.method, ("auto", *quantize.ALGORITHMS))
    check_between("bits", self.bits, 2, 8)
    if self.bits is not None and self.budget is not None:
      raise ValueError(f"bits: {self.bits} and a budget are given; the budget decides the bits.")
    if self.max_drop is not None and not 0 <= self.max_drop <= 1:
      raise ValueError(
        f"max_drop must be a fraction between 0 and 1, such as 0.01, got {self.max_drop}."
      )
    for name, value in (("images", self.images), ("image_size", self.image_size)):
      if value is not None and value < 1:
        raise ValueError(f"{name}: {value} must be at least 1.")
    if self.torch is not None and self.calibration is None:
      raise ValueError("calibration: it is missing; a checkpoint of PyTorch needs images.")
    for name, asked in (("budget", self.budget), ("analyze", self.analyze or None)):
      if asked is not None and self.torch is not None:
        raise ValueError(
          f"{name}: {asked} needs labelled images; save the model and quantize that."
        )
    if self.torch is None:
      check_trained(self.model)
    formats = self.kinds
    check_target(self.target, formats)
    if "tflite-int4" in formats and self.budget is None and (self.bits or 8) > 4:
      raise OptionError(
        f"format: 'tflite-int4' needs weights of 4 bits at most, and they get {self.bits or 8}; add ",
        ".",
        bits=4,
      )
    if all(FORMATS[name].is_float for name in formats):
      raise ValueError(
        f"out: {self.out} holds float numbers, so nothing would be quantized; name an integer file."
      )
    _ = self.runtime, self.budget_bytes, self.ram_bytes

  @property
  def budget_bytes(self) -> int | None:
    """The budget in bytes."""
    return None if self.budget is None else parse_size(self.budget)

  @property
  def ram_bytes(self) -> int | None:
    """The memory for C in bytes."""
    return None if self.ram is None else parse_size(self.ram, "ram")

  @property
  def runtime(self) -> str:
    """The kernels whose arithmetic it is."""
    return kernels_for(self.out, self.kinds[0], self.kernels)

  @property
  def models(self) -> list[pathlib.Path]:
    """The files that hold the network."""
    return [pathlib.Path(path) for path in (self.out, *self.also)]

  @property
  def kinds(self) -> tuple[str, ...]:
    """The formats of these files."""
    return self.formats or tuple(map(format_of, self.models))

  @property
  def files(self) -> dict[str, pathlib.Path]:
    """Files that are written, by what they are."""
    model = pathlib.Path(self.out)
    files = {"model": model}
    if self.analyze:
      files["analysis"] = model.with_suffix(".analysis.json")
      files["analysis_plot"] = model.with_suffix(".analysis.png")
    if self.budget is not None:
      files["candidates_plot"] = model.with_suffix(".candidates.png")
    return files
