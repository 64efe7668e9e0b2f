"""A folder of photographs for transfer: crops of six pictures that packages bring, as six classes.

Each picture is cut into tiles with gaps between them; training crops come from some and test crops
from the others, so that no pixel is in both. Crops that show next to nothing, such as sky, are drawn
anew.
"""

import importlib.util
import pathlib

import numpy as np
from PIL import Image

PICTURES = {  # class: package and place in it
  "astronaut": ("skimage", "data/astronaut.png"),
  "cat": ("skimage", "data/chelsea.png"),
  "coffee": ("skimage", "data/coffee.png"),
  "flower": ("sklearn", "datasets/images/flower.jpg"),
  "motorcycle": ("skimage", "data/motorcycle_left.png"),
  "pagoda": ("sklearn", "datasets/images/china.jpg"),
}
TEST = 1, 3, 0, 2  # column of each row's test tile, of four by four tiles
GAP = 4  # pixels between tiles
SCALES = 0.6, 1.0  # of a crop: shares of the shorter side of its tile
PLAIN = 25  # least standard deviation of a crop's brightness, of 255
TRIES = 1000


def place(package: str, path: str) -> pathlib.Path:
  """A file of an installed package, which is not imported."""
  spec = importlib.util.find_spec(package)
  if spec is None or not spec.submodule_search_locations:
    raise SystemExit(f"{package} is not installed; pip install 'jaxcompress[test]' brings it.")
  return pathlib.Path(spec.submodule_search_locations[0]) / path


def write_photographs(
  folder: pathlib.Path, *, train: int = 42, test: int = 12, side: int = 128, seed: int = 0
) -> pathlib.Path:
  """Writes ``folder/{train,test}/CLASS/N.png``: crops of random places and scales.

  Args:
    folder: where.
    train: crops of each class.
    test: likewise.
    side: of the files, in pixels.
    seed: of places and scales.
  """
  rng = np.random.default_rng(seed)
  tiles = [(column, row) for row in range(len(TEST)) for column in range(len(TEST))]
  for name, where in PICTURES.items():
    image = Image.open(place(*where)).convert("RGB")
    size = np.array(image.size) / len(TEST)
    for split, count in (("train", train), ("test", test)):
      ours = [tile for tile in tiles if (TEST[tile[1]] == tile[0]) == (split == "test")]
      here = folder / split / name
      here.mkdir(parents=True, exist_ok=True)
      for i in range(count):
        crop = _crop(image, size * ours[i % len(ours)] + GAP / 2, size - GAP, side, rng)
        crop.save(here / f"{i:03}.png")
  return folder


def _crop(image, start, size, side, rng):
  """A crop of a tile that is not plain, or the last of many tries."""
  for _ in range(TRIES):
    edge = rng.uniform(*SCALES) * size.min()
    left, top = start + rng.uniform(0, size - edge)
    box = tuple(map(int, (left, top, left + edge, top + edge)))
    crop = image.resize((side, side), Image.Resampling.BICUBIC, box)
    if np.std(crop.convert("L")) >= PLAIN:
      break
  return crop
