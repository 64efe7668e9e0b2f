"""Mistakes of devices in reading pictures: resizing, order, normalization, and rounding to codes."""

import dataclasses
import itertools
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from jaxcompress.codes import to_codes
from jaxcompress.data import ImageReader, Preprocess
from jaxcompress.data.preprocess import PIXELS, Pixel
from jaxcompress.data.reader import Filter, ResizeWay
from jaxcompress.export.faults.layouts import TURNS
from jaxcompress.export.faults.rounding import ROUNDINGS, wrapped
from jaxcompress.export.faults.search import Explanation
from jaxcompress.nn import INPUT
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid

CROPS = (1.0, 0.875)
FROM_UINT8 = 128


class Way(NamedTuple):
  """One way to do a step on the way from pictures to codes.

  Attributes:
    rule: in words; empty for what the model does.
    detail: in which way.
    of: the step.
  """

  rule: str
  detail: str
  of: Callable[[Any], Any]


def read_images(
  quantized: QuantizedModel, images: Any, reader: ImageReader | None
) -> tuple[np.ndarray, Sequence[Any] | None, ImageReader | None]:
  """Arrays as they are; pictures as a reader reads them.

  Returns:
    ``(arrays, pictures, reader)``; the last two are None where arrays were given.

  Raises:
    ValueError: if there are none, or pictures without a reader.
  """
  if len(images) == 0:
    raise ValueError("images must not be empty; give at least one, or leave them out.")
  if hasattr(images, "dtype"):
    return np.asarray(images), None, None
  pictures = list(images)
  if all(hasattr(picture, "dtype") for picture in pictures):
    return np.stack(pictures), None, None
  if reader is None and isinstance(quantized.preprocess, Preprocess):
    height, width, channels = quantized.graph.input_shape[1:]
    reader = ImageReader((height, width), channels=channels, preprocess=quantized.preprocess)
  if reader is None:
    raise ValueError(
      "images: they are pictures, and the model does not say how it reads them; give reader, an"
      " ImageReader, or arrays."
    )
  try:
    return np.stack([reader(picture) for picture in pictures]), pictures, reader
  except OSError as error:
    raise ValueError(f"images: a picture cannot be read ({error}).") from error


def with_reader(quantized: QuantizedModel, reader: ImageReader | None) -> QuantizedModel:
  """A model without preprocessing, with that of a reader."""
  if quantized.preprocess is None and reader is not None:
    return dataclasses.replace(quantized, preprocess=reader.preprocess)
  return quantized


def search_input(
  quantized: QuantizedModel,
  theirs: np.ndarray,
  images: np.ndarray,
  pictures: Sequence[Any] | None,
  reader: ImageReader | None,
  image: int,
) -> tuple[Explanation, ...]:
  """Searches for the preprocessing that gives the input codes that a device printed.

  Args:
    quantized: the model.
    theirs: codes of the device, (images, height, width, channels).
    images: what the model takes, as many.
    pictures: that they were read from; None: they were given as arrays.
    reader: of the pictures.
    image: of the first difference.

  Returns:
    Single steps that explain all codes; where there are none, pairs of steps.
  """
  steps = [
    tuple(_arrangements(pictures is not None)),
    tuple(_normalizations(quantized.preprocess)),
    tuple(_codings(quantized.grids[INPUT], quantized.kernels)),
  ]
  readings = tuple(_readings(reader)) if pictures is not None and reader is not None else ()
  here = slice(image, image + 1)
  found = []
  for count in (1, 2):
    for first, *ways in _combinations((readings, *steps), count):
      for part in (here, slice(None)):
        given = images[part] if first is None else None
        if first is not None:
          assert pictures is not None
          given = _stacked(first.of, pictures[part])
        if given is None or not _gives(ways, given, theirs[part]):
          break
      else:
        changed = [way for way in (first, *ways) if way is not None and way.rule]
        found.append(_joined(changed))
    if found:
      break
  found += _of_batch(theirs, quantized.quantize_input(images))
  return tuple(found)


def _combinations(steps: Sequence[Sequence[Way]], count: int) -> Iterator[list[Way | None]]:
  """Ways of every step, so many of which are not the model's."""
  own = [next((way for way in ways if not way.rule), None) for ways in steps]
  for places in itertools.combinations(range(len(steps)), count):
    others = [[way for way in steps[place] if way.rule] for place in places]
    for chosen in itertools.product(*others):
      ways = list(own)
      for place, way in zip(places, chosen, strict=True):
        ways[place] = way
      yield ways


def _joined(ways: Sequence[Way]) -> Explanation:
  rule = " and ".join(way.rule for way in ways)
  details = [way.detail for way in ways if way.detail]
  return Explanation(rule, ", ".join(details), INPUT)


def _gives(ways: Sequence[Way | None], given: np.ndarray, theirs: np.ndarray) -> bool:
  value: Any = given
  try:
    with np.errstate(all="ignore"):
      for way in ways:
        assert way is not None
        value = way.of(value)
  except ValueError:
    return False
  return bool(np.array_equal(value, theirs))


def _stacked(read: Callable[[Any], np.ndarray], pictures: Sequence[Any]) -> np.ndarray | None:
  try:
    return np.stack([read(picture) for picture in pictures])
  except (OSError, ValueError):
    return None


def _readings(reader: ImageReader) -> Iterator[Way]:
  """Pictures resized in other ways."""
  for resize in typing.get_args(ResizeWay):
    for filter in typing.get_args(Filter):
      for crop in dict.fromkeys((reader.crop, *CROPS)):
        other = dataclasses.replace(reader, resize=resize, filter=filter, crop=crop)
        if other != reader:
          changed = [
            f"{name} {getattr(other, name)} in place of {getattr(reader, name)}"
            for name in ("resize", "filter", "crop")
            if getattr(other, name) != getattr(reader, name)
          ]
          yield Way("pictures resized in another way", ", ".join(changed), other)
  yield Way("JPEG decoded at its full size", "", lambda file: reader(_decoded(file, upright=True)))
  yield Way("EXIF orientation ignored", "", lambda file: reader(_decoded(file, upright=False)))


def _decoded(file: Any, *, upright: bool) -> Image.Image:
  """A picture as it lies in a file, without what says how it is turned."""
  import io

  if isinstance(file, Image.Image):
    image = file
  else:
    image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
  image = ImageOps.exif_transpose(image) if upright else image
  return Image.fromarray(np.asarray(image)) if image.mode in ("RGB", "L") else image


def _arrangements(of_pictures: bool) -> Iterator[Way]:
  yield Way("", "", lambda images: images)
  for turn in TURNS:

    def of(images: np.ndarray, turned: Callable[[np.ndarray], np.ndarray] = turn.of) -> np.ndarray:
      return turned(images)

    rule = "channels in reverse order" if "reverse" in turn.rule else turn.rule
    yield Way(f"images {rule}" if rule == turn.rule else rule, turn.detail, of)


def _normalizations(preprocess: Any) -> Iterator[Way]:
  """Pixels normalized in other ways, where the model's is known."""
  yield Way("", "", lambda images: np.asarray(_read_by(preprocess, images), np.float32))
  if not isinstance(preprocess, Preprocess):
    return
  p = preprocess
  others: dict[str, Preprocess] = {
    f"pixels read as {name}": other for name, other in PIXELS.items() if name != "0..255"
  }
  others["normalization missing"] = PIXELS["0..255"]
  plain = dataclasses.replace(p, per_image=False)
  others["pixels not centred"] = dataclasses.replace(p, center=0.0)
  others["pixels not scaled"] = dataclasses.replace(p, scale=1.0)
  others["every image's mean and contrast kept" if p.per_image else "every image normalized"] = (
    dataclasses.replace(p, per_image=not p.per_image)
  )
  others["pixels divided by 255 first"] = dataclasses.replace(
    plain, center=_times(p.center, 255.0), scale=_times(p.scale, 255.0)
  )
  if isinstance(p.center, tuple) or isinstance(p.scale, tuple):
    others["means and deviations of the channels in reverse order"] = dataclasses.replace(
      p, center=_backwards(p.center), scale=_backwards(p.scale)
    )
  for words, other in others.items():
    if other != p:
      rule = (
        "normalization missing" if words.startswith("normalization") else "another normalization"
      )
      detail = "" if rule == words else words
      yield Way(rule, detail, partial(_read_by, other))


def _times(value: Pixel, factor: float) -> Pixel:
  return tuple(factor * v for v in value) if isinstance(value, tuple) else factor * value


def _backwards(value: Pixel) -> Pixel:
  return value[::-1] if isinstance(value, tuple) else value


def _read_by(preprocess: Any, images: np.ndarray) -> np.ndarray:
  return images if preprocess is None else np.asarray(preprocess(images), np.float32)


def _codings(grid: Grid, kernels: str) -> Iterator[Way]:
  """Numbers rounded to codes in other ways."""
  zero, dtype = int(grid.zero_point), grid.dtype
  limits = np.iinfo(dtype)

  def usual(values: np.ndarray) -> np.ndarray:
    return to_codes(values, grid.scale, zero, dtype, kernels).astype(np.int64)

  def coded(rounding: Any, scaled: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: np.clip(
      rounding(scaled(np.asarray(values, np.float32))) + zero, limits.min, limits.max
    )

  yield Way("", "", usual)
  ways: Mapping[str, Any] = {
    "a product with float32(1 / scale)": lambda x: x * (np.float32(1) / np.float32(grid.scale)),
    "a quotient": lambda x: x / np.float32(grid.scale),
  }
  for name, rounding in ROUNDINGS.items():
    for words, scaled in ways.items():
      rule = "truncation" if name == "truncation" else f"rounding {name}"
      yield Way(f"input codes by {rule}", words, coded(rounding, scaled))
  moves = {"zero point off by 128": (128, -128), "zero point ignored": (-zero,) if zero else ()}
  for rule, amounts in moves.items():
    for move in amounts:

      def moved(values: np.ndarray, move: int = move) -> np.ndarray:
        steps = np.rint(values / np.float32(grid.scale)) + zero + move
        return np.clip(steps, limits.min, limits.max)

      yield Way(rule, f"{move:+}, saturated" if "128" in rule else "", moved)
  if grid.bits == 8:
    yield Way(
      "zero point off by 128",
      "bytes of uint8 read as int8",
      lambda values: wrapped(usual(values) + FROM_UINT8, 8),
    )
    yield Way(
      "numbers taken for codes",
      "no scale and no zero point",
      lambda values: np.clip(np.rint(values), limits.min, limits.max),
    )
    yield Way("numbers taken for codes", "bytes", lambda values: wrapped(np.rint(values), 8))
    yield Way(
      "numbers taken for codes",
      "less 128",
      lambda values: np.clip(np.rint(values) - FROM_UINT8, limits.min, limits.max),
    )


def _of_batch(theirs: np.ndarray, ours: np.ndarray) -> list[Explanation]:
  """Whether images are in another order."""
  places = {array.tobytes(): i for i, array in enumerate(ours)}
  order = [places.get(array.tobytes()) for array in theirs]
  if None in order or len(theirs) == 1:
    return []
  detail = ", ".join(f"{i} is {at}" for i, at in enumerate(order) if i != at)
  return [Explanation("images in another order", detail, INPUT)]
