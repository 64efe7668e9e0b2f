"""One object that says how a picture becomes what a network reads."""

import dataclasses
import inspect
import pathlib
import typing
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from PIL import Image

from jaxcompress.arguments import check_range, check_type, check_whole, unknown
from jaxcompress.data import reading
from jaxcompress.data.preprocess import Preprocess

ResizeWay = Literal["cover", "squash", "letterbox", "pad"]
Filter = Literal["bicubic", "bilinear", "lanczos", "box", "hamming", "nearest"]
ImageFile = pathlib.Path | bytes | Image.Image
Size = tuple[int, int]  # height, width
ENTRY, PREPROCESS = "reader", "preprocess"  # of a file's metadata
LEAST_CROP = 0.1


@dataclasses.dataclass(frozen=True)
class ImageReader:
  """Settings of how a picture becomes an array; training, calibration, evaluation and devices share them.

  A photo is turned upright as its EXIF orientation says. Greyscale, palette, 16-bit and CMYK images
  become 8-bit RGB, transparent pixels white; of moving images the first one is taken.

  Attributes:
    size: (height, width) of the result, or the side of a square; None: left open, such as for
      :func:`~jaxcompress.data.load` to choose by the data.
    resize: ``"cover"``: scaled until it covers the size, and the middle is kept, as torchvision's
      ``Resize`` and ``CenterCrop`` do; ``"squash"``: its
      sides are scaled apart; ``"letterbox"``: scaled until it fits in, and the rest is ``fill``;
      ``"pad"``: likewise, but a smaller picture keeps its size, such as MNIST's 28 pixels in 32.
    crop: share of each side, from the middle, that is kept after it was scaled, as in evaluation on
      ImageNet (0.875: scaled to 256 pixels, of which 224 are kept).
    filter: how pixels are interpolated: a name of Pillow's.
    channels: 3: RGB; 1: grey.
    fill: level of what a letterbox or a pad leaves, 0 to 255; None: 128 for a letterbox, 0 for a pad.
    preprocess: maps the pixels to what the network reads.

  Raises:
    ValueError: if a value is out of range or unknown.

  Examples:
    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (40, 20), "red").save(file, "PNG")
    >>> reader = ImageReader(8, resize="letterbox")
    >>> pixels = reader(file.getvalue())
    >>> pixels.shape, pixels.dtype, pixels[0, 0].tolist(), pixels[4, 4].tolist()
    ((8, 8, 3), dtype('uint8'), [128, 128, 128], [255, 0, 0])
    >>> reader.preprocess(pixels[None]).shape
    (1, 8, 8, 3)
  """

  size: Any = None
  resize: ResizeWay = "cover"
  crop: float = 1.0
  filter: Filter = "bicubic"
  channels: int = 3
  fill: int | None = None
  preprocess: Preprocess = dataclasses.field(default_factory=Preprocess)

  def __post_init__(self):
    if self.size is not None:
      object.__setattr__(self, "size", _pair(self.size))
    for name, known in (("resize", ResizeWay), ("filter", Filter)):
      if getattr(self, name) not in typing.get_args(known):
        raise unknown(name, getattr(self, name), typing.get_args(known))
    check_range("crop", self.crop, 0, 1)
    if self.crop < LEAST_CROP:
      raise ValueError(f"crop: {self.crop} must be {LEAST_CROP} or more.")
    if self.channels not in (1, 3):
      raise ValueError(f"channels: {self.channels} must be 3 (RGB) or 1 (grey).")
    usual = 0 if self.resize == "pad" else 128
    fill = usual if self.fill is None else self.fill
    check_whole("fill", fill, 0)
    object.__setattr__(self, "fill", fill)
    if fill > 255:
      raise ValueError(f"fill: {self.fill} must be 0 to 255.")
    check_type("preprocess", self.preprocess, Preprocess, "a data.Preprocess")

  def __call__(self, source: ImageFile) -> np.ndarray:
    """Reads one image, a path, the bytes of a file or an image of Pillow's: (height, width, channels) uint8.

    Raises:
      ValueError: if the reader has no size, or pixels have more than 16 bits.
      OSError: if the image is damaged; Pillow raises almost anything.
    """
    return reading.read_pixels(source, **self._arguments())

  def at(self, size: int | Size) -> "ImageReader":
    """The same reader at a size."""
    return dataclasses.replace(self, size=size)

  def to_metadata(self) -> dict[str, Any]:
    """Two entries for a file's metadata: ``reader``, and ``preprocess`` as that of :class:`Preprocess`.

    Examples:
      >>> sorted(ImageReader(8).to_metadata())
      ['preprocess', 'reader']
    """
    return {ENTRY: self._arguments(), PREPROCESS: self.preprocess.to_metadata()}

  @classmethod
  def from_metadata(
    cls, metadata: Mapping[str, Any], size: int | Size | None = None
  ) -> "ImageReader":
    """The inverse of :meth:`to_metadata`; files that say nothing of it were read in the default way.

    Args:
      metadata: of a file.
      size: where the metadata has none.

    Raises:
      ValueError: if an entry cannot be used.

    Examples:
      >>> reader = ImageReader((8, 10), resize="squash", crop=0.9)
      >>> ImageReader.from_metadata(reader.to_metadata()) == reader
      True
      >>> ImageReader.from_metadata({}, size=32).size
      (32, 32)
    """
    said = metadata.get(ENTRY) or {}
    if not isinstance(said, Mapping):
      raise ValueError(f"metadata: {ENTRY} must be an object, got {said!r:.40}.")
    names = {field.name for field in dataclasses.fields(cls)} - {PREPROCESS}
    values: dict[str, Any] = {"size": size} | {n: said[n] for n in names & said.keys()}
    if metadata.get(PREPROCESS) is not None:
      values[PREPROCESS] = Preprocess.from_metadata(metadata[PREPROCESS])
    return cls(**values)

  @classmethod
  def of_source(cls, source: str) -> "ImageReader":
    """Returns the reader of the published weights of a PyTorch network.

    Args:
      source: as in :func:`jaxcompress.models.from_torch`.

    Raises:
      ValueError: if the source is unknown.

    Examples:
      >>> reader = ImageReader.of_source("torchvision/mobilenet_v2")
      >>> reader.size, reader.crop, reader.filter, reader.preprocess.scale
      ((224, 224), 0.875, 'bilinear', (58.395, 57.12, 57.375))
    """
    from jaxcompress.models import normalization_of

    known = normalization_of(source)
    center, scale = (
      tuple(round(255 * float(v), 6) for v in values) for values in (known.mean, known.std)
    )
    preprocess = Preprocess(center=center, scale=scale, per_image=False)
    return cls(
      known.size, crop=known.crop, filter=typing.cast(Filter, known.filter), preprocess=preprocess
    )

  def program(self) -> str:
    """Python functions ``read_pixels`` and ``normalized`` as text, with dicts of their arguments.

    ``normalized(read_pixels(file, **READER), **PREPROCESS)`` is what a network reads: float32, of
    shape (height, width, channels). The text needs numpy as ``np``, ``io``, and ``Image`` and
    ``ImageOps`` of Pillow.

    Examples:
      >>> import io
      >>> from PIL import Image, ImageOps
      >>> names = {"np": np, "io": io, "Image": Image, "ImageOps": ImageOps}
      >>> exec(ImageReader(8).program(), names)
      >>> sorted(names.keys() & {"read_pixels", "normalized", "READER", "PREPROCESS"})
      ['PREPROCESS', 'READER', 'normalized', 'read_pixels']
    """
    preprocess = {n: v for n, v in self.preprocess.to_metadata().items() if n != "formula"}
    constants = (
      f"READER = {self._arguments()!r}\nPREPROCESS = {preprocess!r}\n"
      f"WHITE = {reading.WHITE}  # in 16 bits\n"
    )
    functions = (reading.read_pixels, reading.flattened, reading.normalized)
    return "\n\n".join([constants, *(inspect.getsource(function) for function in functions)])

  def _arguments(self) -> dict[str, Any]:
    """Returns the keyword arguments of :func:`read_pixels`."""
    if self.size is None:
      raise ValueError("size: the reader has no size; give ImageReader(size), or reader.at(size).")
    names = [field.name for field in dataclasses.fields(self) if field.name != PREPROCESS]
    return {name: getattr(self, name) for name in names}


def _pair(size: Any) -> Size:
  sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
  if len(sides) != 2:
    raise ValueError(f"size: {size!r} must be a side in pixels, or (height, width).")
  for side in sides:
    check_whole("size", side, 1)
  return sides
