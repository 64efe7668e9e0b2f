"""One reader of pictures: its program, training's decoder and the reader itself give the same pixels."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from jaxcompress.data import ImageReader, Preprocess
from jaxcompress.data.images import decode
from jaxcompress.data.storage import EncodedImages, Listed
from tests.data.pictures import KINDS, encode, pictures


def readers() -> st.SearchStrategy[ImageReader]:
  """Any reader of small images."""
  numbers = st.floats(0, 255)
  scales = st.floats(1, 255)
  return st.builds(
    ImageReader,
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    resize=st.sampled_from(["cover", "squash", "letterbox", "pad"]),
    crop=st.sampled_from([1.0, 0.95, 0.875, 0.5, 0.1]),
    filter=st.sampled_from(["bicubic", "bilinear", "lanczos", "box", "hamming", "nearest"]),
    channels=st.sampled_from([1, 3]),
    fill=st.integers(0, 255),
    preprocess=st.builds(
      Preprocess, center=numbers, scale=scales, per_image=st.booleans(), epsilon=st.floats(0.01, 1)
    ),
  )


def program_of(reader: ImageReader) -> dict:
  """Names of the printed text, run with what it says it needs."""
  names = {"np": np, "io": io, "Image": Image, "ImageOps": ImageOps}
  exec(reader.program(), names)
  return names


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(pictures(), readers())
def test_the_program_reads_any_picture_as_training_does(picture, reader):
  names = program_of(reader)
  printed = names["read_pixels"](picture, **names["READER"])
  stored = EncodedImages(Listed([picture]), reader)
  assert printed.dtype == np.uint8 and printed.shape == (*reader.size, reader.channels)
  np.testing.assert_array_equal(printed, decode([picture], reader)[0])
  np.testing.assert_array_equal(printed, stored[0])
  np.testing.assert_array_equal(
    names["normalized"](printed, **names["PREPROCESS"]), reader.preprocess(printed[None])[0]
  )


@settings(max_examples=50, deadline=None)
@given(readers())
def test_metadata_say_all_of_a_reader(reader):
  again = ImageReader.from_metadata(json.loads(json.dumps(reader.to_metadata())))
  assert again == reader


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_orientation_turns_every_kind_of_file_that_says_it(kind):
  reader = ImageReader((12, 20), resize="squash", filter="nearest")
  upright = reader(encode(kind, 20, 12))
  turned = ImageReader((20, 12), resize="squash", filter="nearest")(encode(kind, 20, 12, 6))
  says = KINDS[kind][0] in ("JPEG", "PNG", "WEBP", "TIFF")
  if says:
    np.testing.assert_array_equal(turned, np.rot90(upright, -1))
  else:
    assert turned.shape == (20, 12, 3)


def test_a_letterbox_keeps_a_line_of_a_picture_that_is_a_thousand_times_as_long():
  for width, height in ((1000, 1), (1, 1000)):
    pixels = ImageReader(8, resize="letterbox", fill=7)(encode("png", width, height))
    assert (pixels == 7).all(-1).sum() == 56


@settings(deadline=None)
@given(pictures(), st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 3]))
def test_a_pad_keeps_what_is_smaller_and_fits_what_is_larger(picture, height, width, channels):
  options = {"channels": channels, "fill": 7}
  wide, high = ImageOps.exif_transpose(Image.open(io.BytesIO(picture))).size
  padded = ImageReader((height, width), resize="pad", **options)(picture).copy()
  if high > height or wide > width:
    boxed = ImageReader((height, width), resize="letterbox", **options)(picture)
    np.testing.assert_array_equal(padded, boxed)
  else:
    top, left = (height - high) // 2, (width - wide) // 2
    own = ImageReader((high, wide), **options)(picture)
    np.testing.assert_array_equal(padded[top : top + high, left : left + wide], own)
    padded[top : top + high, left : left + wide] = 7
    assert (padded == 7).all()


def test_what_is_left_is_grey_in_a_letterbox_and_black_in_a_pad_unless_said():
  for way, fill in (("letterbox", 128), ("pad", 0)):
    reader = ImageReader(32, resize=way, channels=1)
    assert reader.fill == fill
    assert reader(encode("png", 28, 20))[0, 0, 0] == fill
  assert ImageReader(32, resize="pad", fill=9).fill == 9


def test_every_16th_bit_is_rounded_and_not_cut():
  levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
  file = io.BytesIO()
  Image.fromarray(levels).save(file, "PNG")
  pixels = ImageReader(256, channels=1)(file.getvalue())[..., 0]
  np.testing.assert_array_equal(pixels, np.rint(levels / 65535 * 255))


@pytest.mark.parametrize("shape", [(300, 451), (451, 300), (640, 427), (97, 1000)])
@pytest.mark.parametrize(("size", "first"), [(224, 256), (224, 232), (96, 101)])
def test_covering_is_resizing_the_shorter_side_and_then_keeping_the_middle(shape, size, first):
  width, height = shape
  picture = encode("png", width, height)
  image = Image.open(io.BytesIO(picture)).convert("RGB")
  whole = (first, first * height // width) if width < height else (first * width // height, first)
  scaled = image.resize(whole, Image.Resampling.BILINEAR)
  left, top = (round((side - size) / 2) for side in whole)
  expected = np.asarray(scaled.crop((left, top, left + size, top + size)))
  pixels = ImageReader(size, crop=size / first, filter="bilinear")(picture)
  assert np.abs(pixels.astype(int) - expected).max() <= 1  # Pillow's box has 24 bits
