"""Image files of every kind as RGB arrays."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxcompress.data import ImageReader, images

GREY = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def read(image: Image.Image, size=(4, 4), kind="PNG", **options) -> np.ndarray:
  return images.decode([encoded(image, kind, **options)], ImageReader(size))[0]


def test_colour_and_greyscale_png_are_exact():
  colour = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
  np.testing.assert_array_equal(read(Image.fromarray(colour), (4, 6)), colour)
  np.testing.assert_array_equal(read(Image.fromarray(GREY)), np.stack([GREY] * 3, -1))


def test_black_and_white_and_palette_images_get_their_colours():
  expected = np.where(GREY[..., None] >= 128, 255, 0) * np.ones(3)
  np.testing.assert_array_equal(read(Image.fromarray(GREY >= 128)), expected)
  palette = Image.fromarray((GREY >= 128).astype(np.uint8))
  palette.putpalette([10, 20, 30, 40, 50, 60])
  np.testing.assert_array_equal(read(palette)[0, 0], [10, 20, 30])
  np.testing.assert_array_equal(read(palette)[3, 3], [40, 50, 60])


def test_sixteen_bit_greyscale_is_scaled_not_cut_off():
  deep = Image.fromarray(GREY.astype(np.uint16) * 257)
  np.testing.assert_array_equal(read(deep)[..., 0], GREY)


def test_more_than_sixteen_bits_are_refused_and_not_cut_off():
  grid = np.arange(16).reshape(4, 4)
  for pixels in (grid.astype(np.float32), (grid * 70000).astype(np.int32), -grid.astype(np.int32)):
    with pytest.raises(
      ValueError, match=r"number 0 cannot be read \(its pixels have more than 16 bits"
    ):
      read(Image.fromarray(pixels), kind="TIFF")
  np.testing.assert_array_equal(
    read(Image.fromarray((grid * 16 * 257).astype(np.int32)), kind="TIFF")[..., 1], GREY
  )


def test_the_transparent_level_of_a_sixteen_bit_image_becomes_white():
  out = read(Image.fromarray(GREY.astype(np.uint16) * 257), transparency=int(GREY[1, 2]) * 257)
  np.testing.assert_array_equal(out[..., 0], np.where(GREY[1, 2] == GREY, 255, GREY))


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_of_moving_images_the_first_is_taken(kind):
  frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
  moving = read(frames[0], kind=kind, save_all=True, append_images=frames[1:])
  np.testing.assert_array_equal(moving, np.broadcast_to([255, 0, 0], (4, 4, 3)))


def test_a_turned_photo_is_not_decoded_too_small():
  tall = np.zeros((2048, 512, 3), np.uint8)
  tall[:, ::4] = tall[:, 1::4] = 255
  exif = Image.Exif()
  exif[0x0112] = 6
  stored = Image.fromarray(np.rot90(tall).copy())
  assert read(stored, (32, 256), "JPEG", exif=exif, quality=95).std() > 50


def test_transparent_pixels_become_white():
  colour = np.zeros((4, 4, 4), np.uint8)
  colour[..., 0], colour[:2, :, 3] = 200, 255
  out = read(Image.fromarray(colour))
  np.testing.assert_array_equal(out[0, 0], [200, 0, 0])
  np.testing.assert_array_equal(out[3, 3], [255, 255, 255])
  np.testing.assert_array_equal(read(Image.fromarray(np.stack([GREY, GREY], -1)))[0, 0], 255)
  palette = Image.fromarray((GREY >= 128).astype(np.uint8))
  palette.putpalette([10, 20, 30, 40, 50, 60])
  out = read(palette, transparency=0)
  np.testing.assert_array_equal(out[0, 0], [255, 255, 255])
  np.testing.assert_array_equal(out[3, 3], [40, 50, 60])


def test_cmyk_jpeg_becomes_rgb():
  red = Image.new("RGB", (4, 4), (250, 10, 10)).convert("CMYK")
  np.testing.assert_allclose(read(red, kind="JPEG", quality=95)[1, 1], [250, 10, 10], atol=12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(orientation):
  upright = np.zeros((32, 32, 3), np.uint8)
  upright[:16, :16] = 255  # bright at the top left
  turns = {  # what was stored so that the orientation's turn restores it
    1: upright,
    2: upright[:, ::-1],
    3: upright[::-1, ::-1],
    4: upright[::-1],
    5: upright.transpose(1, 0, 2),
    6: np.rot90(upright, 1),
    7: upright[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(upright, -1),
  }
  exif = Image.Exif()
  exif[0x0112] = orientation
  stored = Image.fromarray(np.ascontiguousarray(turns[orientation]))
  out = read(stored, (32, 32), "JPEG", exif=exif, quality=95)
  np.testing.assert_allclose(out, upright, atol=40)


def test_the_size_of_a_turned_photo_is_the_upright_one():
  exif = Image.Exif()
  exif[0x0112] = 6
  photo = encoded(Image.new("RGB", (60, 30)), "JPEG", exif=exif)
  assert images.common_size([photo]) == (60, 30)


def test_other_sizes_are_scaled_and_cut_to_the_middle():
  wide = np.zeros((10, 30, 3), np.uint8)
  wide[:, 10:20] = 100
  np.testing.assert_allclose(read(Image.fromarray(wide), (5, 5))[:, 1:4], 100, atol=3)
  photo = np.full((600, 900, 3), 77, np.uint8)
  assert np.abs(read(Image.fromarray(photo), (32, 32), "JPEG").astype(int) - 77).max() <= 2


def test_the_usual_size_is_that_of_most_small_images_or_224():
  def blank(*size):
    return encoded(Image.new("L", size))

  assert images.common_size([blank(28, 28), blank(8, 8), blank(28, 28)]) == (28, 28)
  assert images.common_size([blank(60, 30)]) == (30, 60)
  assert images.common_size([blank(64, 64), blank(28, 65)]) == (224, 224)


def test_tiny_images_are_enlarged():
  tiny = encoded(Image.new("L", (8, 8), 99))
  assert images.common_size([tiny]) == (32, 32)
  assert images.common_size([encoded(Image.new("L", (16, 8)))]) == (32, 64)
  assert images.common_size([encoded(Image.new("L", (60, 1)))]) == (32, 224)
  np.testing.assert_array_equal(images.decode([tiny], ImageReader(32)), 99)


def damaged_files() -> dict[str, bytes]:
  photo = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
  png, jpeg = encoded(Image.fromarray(photo)), encoded(Image.fromarray(photo), "JPEG")
  return {
    "empty": b"",
    "text": b"<html>404</html>",
    "half png": png[: len(png) // 2],
    "half jpeg": jpeg[: len(jpeg) // 2],
    "broken png": png[:100] + bytes(50) + png[150:],
    "header": png[:20],
  }


@pytest.mark.parametrize("kind", damaged_files())
def test_a_damaged_image_is_named_in_one_line(kind, tmp_path):
  path = pathlib.Path(tmp_path / "broken.png")
  path.write_bytes(damaged_files()[kind])
  with pytest.raises(ValueError, match=r"data: the image .*broken\.png' cannot be read") as caught:
    images.decode([path], ImageReader(8))
  assert "\n" not in str(caught.value)


def test_more_images_than_fit_in_memory_are_refused():
  with pytest.raises(ValueError, match=r"size: 1,000,000,000 images of 224 x 224 pixels take"):
    images.require_memory(10**9, (224, 224))
