"""Awkward pictures: every kind that Pillow writes, of odd sizes, turned, transparent, deep."""

import io

import numpy as np
from hypothesis import strategies as st
from PIL import Image

ORIENTATION = 0x0112  # of EXIF
KINDS: dict[str, tuple[str, str, dict]] = {
  "jpeg": ("JPEG", "RGB", {"quality": 90}),
  "jpeg progressive": ("JPEG", "RGB", {"progressive": True}),
  "jpeg grey": ("JPEG", "L", {}),
  "jpeg cmyk": ("JPEG", "CMYK", {}),
  "png": ("PNG", "RGB", {}),
  "png grey": ("PNG", "L", {}),
  "png grey alpha": ("PNG", "LA", {}),
  "png alpha": ("PNG", "RGBA", {}),
  "png bits": ("PNG", "1", {}),
  "png 16 bits": ("PNG", "I;16", {}),
  "png 16 bits clear": ("PNG", "I;16", {"transparency": 300}),
  "png clear": ("PNG", "RGB", {"transparency": (0, 0, 0)}),
  "png palette": ("PNG", "P", {}),
  "png palette clear": ("PNG", "P", {"transparency": 3}),
  "png palette alpha": ("PNG", "P", {"transparency": bytes(range(0, 250, 25))}),
  "webp": ("WEBP", "RGB", {}),
  "webp alpha": ("WEBP", "RGBA", {"lossless": True}),
  "gif": ("GIF", "P", {}),
  "gif clear": ("GIF", "P", {"transparency": 2}),
  "tiff": ("TIFF", "RGB", {}),
  "tiff 16 bits": ("TIFF", "I;16", {}),
  "tiff cmyk": ("TIFF", "CMYK", {}),
  "bmp": ("BMP", "RGB", {}),
  "bmp grey": ("BMP", "L", {}),
}


def encode(kind: str, width: int, height: int, orientation: int = 1, seed: int = 0) -> bytes:
  """A file of a picture: noise on a slope, so that no two pixels are alike."""
  format, mode, options = KINDS[kind]
  rng = np.random.default_rng(seed)
  slope = np.linspace(0, 155, width)[None, :, None] * np.linspace(0.2, 1, height)[:, None, None]
  pixels = (slope + rng.integers(0, 100, (height, width, 4))).astype(np.uint8)
  if mode == "I;16":
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257 + pixels[..., 1])
  elif mode == "P":
    image = Image.fromarray(pixels[..., :3]).quantize(16)
  elif mode == "LA":
    image = Image.merge("LA", [Image.fromarray(pixels[..., i]) for i in (0, 3)])
  elif mode in ("1", "L"):
    image = Image.fromarray(pixels[..., 0]).convert(mode)
  else:
    image = Image.fromarray(np.ascontiguousarray(pixels[..., : len(mode)]), mode=None)
    if mode == "CMYK":
      image = Image.merge("CMYK", image.split())
  exif = Image.Exif()
  exif[ORIENTATION] = orientation
  given = {"exif": exif} if format in ("JPEG", "PNG", "WEBP", "TIFF") else {}
  file = io.BytesIO()
  image.save(file, format, **options, **given)
  return file.getvalue()


def sizes() -> st.SearchStrategy[int]:
  """Sides in pixels."""
  return st.one_of(st.sampled_from([1, 2, 3, 97, 200]), st.integers(1, 40))


def pictures() -> st.SearchStrategy[bytes]:
  """Any picture."""
  return st.builds(
    encode, st.sampled_from(sorted(KINDS)), sizes(), sizes(), st.integers(1, 8), st.integers(0, 9)
  )
