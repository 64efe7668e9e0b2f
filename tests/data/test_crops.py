"""Random boxes of the original pictures: torchvision's distribution, Pillow's pixels, pure functions."""

import io
import math
import random

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin
from scipy import stats

from jaxcompress import data
from jaxcompress.data import CropOnRead, ImageReader
from jaxcompress.data.crops import box_rng

SIZES = [(375, 500), (500, 375), (64, 64), (40, 200)]  # of the last, few boxes fit
DRAWN = 4000


def params_of(height, width, scale, ratio, rng):
  """torchvision.transforms.RandomResizedCrop.get_params, 0.20, with Python's random numbers."""
  area, logs = height * width, [math.log(bound) for bound in ratio]
  for _ in range(10):
    target, shape = area * rng.uniform(*scale), math.exp(rng.uniform(*logs))
    w, h = round(math.sqrt(target * shape)), round(math.sqrt(target / shape))
    if 0 < w <= width and 0 < h <= height:
      return rng.randint(0, height - h), rng.randint(0, width - w), h, w
  if width / height < min(ratio):
    w, h = width, round(width / min(ratio))
  elif width / height > max(ratio):
    h, w = height, round(height * max(ratio))
  else:
    w, h = width, height
  return (height - h) // 2, (width - w) // 2, h, w


def facts(boxes, size):
  """Numbers of boxes whose distributions are compared."""
  top, left, height, width = np.array(boxes, float).T
  return {
    "height": height,
    "width": width,
    "top": top,
    "left": left,
    "area": height * width / math.prod(size),
    "ratio": width / height,
    "middle": left + width / 2,
  }


@pytest.mark.parametrize("size", SIZES)
def test_boxes_are_distributed_as_torchvisions(size):
  crop, theirs = CropOnRead(), random.Random(1)
  drawn = [crop.box(size, box_rng(0, place)) for place in range(DRAWN)]
  expected = [params_of(*size, crop.scale, crop.ratio, theirs) for _ in range(DRAWN)]
  for (name, ours), reference in zip(
    facts(drawn, size).items(), facts(expected, size).values(), strict=True
  ):
    assert stats.ks_2samp(ours, reference).pvalue > 1e-3, name


@pytest.mark.parametrize("size", SIZES)
def test_boxes_are_distributed_as_those_of_the_torchvision_that_is_installed(size):
  transforms = pytest.importorskip("torchvision.transforms")
  import torch

  torch.manual_seed(0)
  crop, picture = CropOnRead(), Image.new("RGB", size[::-1])
  params = transforms.RandomResizedCrop.get_params
  expected = [params(picture, list(crop.scale), list(crop.ratio)) for _ in range(DRAWN)]
  drawn = [crop.box(size, box_rng(0, place)) for place in range(DRAWN)]
  for (name, ours), reference in zip(
    facts(drawn, size).items(), facts(expected, size).values(), strict=True
  ):
    assert stats.ks_2samp(ours, reference).pvalue > 1e-3, name


@hypothesis.settings(deadline=None)
@hypothesis.given(
  size=st.tuples(st.integers(1, 900), st.integers(1, 900)),
  scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple),
  ratio=st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)).map(sorted).map(tuple),
  place=st.integers(0, 2**40),
)
def test_every_box_lies_in_its_picture_and_depends_on_the_place_alone(size, scale, ratio, place):
  crop = CropOnRead(scale=scale, ratio=ratio)
  box = crop.box(size, box_rng(7, place))
  assert box == crop.box(size, box_rng(7, place))
  assert box.height >= 1 <= box.width
  assert 0 <= box.top <= size[0] - box.height and 0 <= box.left <= size[1] - box.width


def picture(height, width, seed=0):
  coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
  return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def saved(image, kind, **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_box_is_cut_from_the_original_and_scaled_as_pillow_does(channels):
  """Which is what torchvision does to a PIL image."""
  image, crop = picture(200, 304), CropOnRead()
  reader = ImageReader(48, filter="bilinear", channels=channels)
  for place in range(12):
    top, left, height, width = crop.box((200, 304), box_rng(3, place))
    cut = image.crop((left, top, left + width, top + height))
    mode = "RGB" if channels == 3 else "L"
    expected = cut.convert(mode).resize((48, 48), Image.Resampling.BILINEAR)
    for source in (image, saved(image, "PNG")):
      found = crop(source, reader, box_rng(3, place))
      np.testing.assert_array_equal(found, np.asarray(expected).reshape(48, 48, channels))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_large_jpegs_are_decoded_at_a_fraction_and_turned_ones_are_upright(
  orientation, monkeypatch
):
  drafts, draft = [], JpegImagePlugin.JpegImageFile.draft

  def noted(self, mode, size):
    drafts.append(draft(self, mode, size))
    return drafts[-1]

  monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", noted)
  image = picture(800, 1200)
  exif = Image.Exif()
  exif[0x0112] = orientation
  source = saved(image, "JPEG", quality=95, exif=exif)
  upright = {1: None, 3: 180, 6: -90, 8: 90}[orientation]
  seen = image if upright is None else image.rotate(upright, expand=True)
  reader, crop = ImageReader(32, filter="bilinear"), CropOnRead(scale=(0.5, 1.0))
  for place in range(4):
    found = crop(source, reader, box_rng(0, place)).astype(int)
    expected = crop(seen, reader, box_rng(0, place))
    assert np.abs(found - expected).mean() < 2.5
  assert len(drafts) == 4 and all(found is not None for found in drafts)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """Two classes of photos of several shapes, left on disk and in memory."""
  root = tmp_path_factory.mktemp("photos")
  for kind in range(2):
    (root / str(kind)).mkdir()
    for i in range(14):
      image = picture(80 + 8 * i, 160 - 8 * kind, seed=(kind, i))
      (root / str(kind) / f"{i}.jpg").write_bytes(saved(image, "JPEG"))
  return [data.load(f"folder:{root}", size=32, in_memory=memory).train for memory in (False, True)]


def test_a_batch_of_boxes_is_the_same_whoever_reads_it(photos):
  disk, _ = photos
  options = {"seed": 5, "crop": CropOnRead()}
  whole = data.batch_at(disk, 8, position=3, **options)
  halves = [
    data.batch_at(disk, 8, position=3, rows=rows, **options) for rows in np.split(np.arange(8), 2)
  ]
  np.testing.assert_array_equal(np.concatenate([half["image"] for half in halves]), whole["image"])
  with data.Stream(disk, 8, stop=5, workers=0, rows=np.arange(2, 6), **options) as batch_at:
    np.testing.assert_array_equal(batch_at(3)["image"], whole["image"][2:6])
  later = data.batch_at(disk, len(disk), position=1, **options)
  sooner = data.batch_at(disk, len(disk), position=0, **options)
  same = [np.flatnonzero(sooner["index"] == i)[0] for i in later["index"]]
  assert (sooner["image"][same] != later["image"]).any((1, 2, 3)).all()  # new boxes each epoch


def test_evaluation_reads_pictures_whole(photos):
  disk, memory = photos
  batches = [next(iter(data.eval_batches(split, 8)))["image"] for split in (disk, memory)]
  np.testing.assert_array_equal(*batches)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda disk, memory: CropOnRead(scale=(0.5, 0.2)), "scale: .* must be ascending shares"),
    (lambda disk, memory: CropOnRead(ratio=(0, 1)), "ratio: .* must be ascending and positive"),
    (
      lambda disk, memory: data.batch_at(memory, 2, seed=0, position=0, crop=CropOnRead()),
      "crop: .* are in memory, at one size.* in_memory=False",
    ),
    (
      lambda disk, memory: data.Stream(disk, 2, seed=0, stop=1, crop=0.5),
      "crop must be a data.CropOnRead",
    ),
    (
      lambda disk, memory: CropOnRead()(picture(8, 8), ImageReader(), box_rng(0, 0)),
      "size must be",
    ),
  ],
)
def test_mistakes_name_the_argument_and_the_way_out(make, message, photos):
  with pytest.raises(ValueError, match=message):
    make(*photos)
