"""A folder of images with one subfolder for each class."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcompress.data import images
from jaxcompress.data.dataset import Dataset, Split
from jaxcompress.data.encoded import FileStore, brought_to, fits_memory
from jaxcompress.data.mirror import keeps_label
from jaxcompress.data.splits import at_most, name_order, three_way

SUFFIXES = (".png", ".jpg", ".jpeg")
PARTS = {
  "train": ("train", "training"),
  "validation": ("val", "valid", "validation"),
  "test": ("test", "testing"),
}


class Files(NamedTuple):
  """Image files with their labels, and keys for splits that depend on each name alone."""

  paths: list[pathlib.Path]
  labels: np.ndarray
  order: np.ndarray

  def pick(self, chosen: np.ndarray) -> "Files":
    """The files at some positions."""
    return Files([self.paths[i] for i in chosen], self.labels[chosen], self.order[chosen])


def folder(
  path: str,
  *,
  seed: int = 0,
  size: int | None = None,
  limit: int | None = None,
  in_memory: bool | None = None,
) -> Dataset:
  """Images from a folder: ``path/cat/1.png``, or ``path/train/cat/1.png`` beside ``path/test``.

  Classes are the names of the class folders, sorted. PNG and JPEG files are read, also from folders
  inside a class folder; names that begin with a dot are left alone. What is not there is split off:
  20 % of each class to test and 10 % for validation, chosen by a hash of the seed and the file's
  name. With ``train`` and ``val`` alone, ``val`` is the test set, and validation is split off
  ``train``.

  Args:
    path: the folder.
    seed: of the splits.
    size: side of the images; by default the most frequent size if none is larger than 64 pixels
      (enlarged to 32 if it is below 28), else 224. Images of another size are scaled to cover it,
      and their middle is kept.
    limit: at most this many images in each part, with the classes' shares kept.
    in_memory: whether images are decoded now, or each time when they are needed; None: now, if they
      take at most half of the memory.

  Returns:
    A :class:`Dataset` of RGB images.

  Raises:
    ValueError: if the folder is missing, has fewer than two classes, a class has no or too few
      images, or an image is damaged.
  """
  root = pathlib.Path(path).expanduser()
  if not root.is_dir():
    what = "is a file" if root.is_file() else "does not exist"
    raise ValueError(f"data: the folder {path!r} {what}; give a folder with one folder per class.")
  parts = _parts(root)
  classes = _class_names(parts["train"])
  files = {part: _files(place, classes, seed) for part, place in parts.items()}
  files = _complete(files, classes)
  files = {
    part: found.pick(at_most(found.labels, found.order, limit)) for part, found in files.items()
  }
  if size is None:
    shape = images.common_size([path for found in files.values() for path in found.paths])
  else:
    shape = (size, size)
  if in_memory is None:
    in_memory = fits_memory(sum(len(found.paths) for found in files.values()), shape)
  splits = {
    part: Split(brought_to(FileStore(tuple(map(str, found.paths))), shape, in_memory), found.labels)
    for part, found in files.items()
  }
  flip = keeps_label(splits["train"].images, classes)
  return Dataset(name=f"folder:{path}", classes=classes, flip=flip, **splits)


def _parts(root: pathlib.Path) -> dict[str, pathlib.Path]:
  """Where each part lies: the root alone, or its ``train`` folder and those beside it."""
  below = {child.name.lower(): child for child in _folders(root)}
  found = {part: below[name] for part, names in PARTS.items() for name in names if name in below}
  nothing_else = len(found) == len(below) > 1
  if "train" in found and (nothing_else or _folders(found["train"])):
    return found
  return {"train": root}  # "train" may also be a class: of trains


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
  try:
    children = sorted(path.iterdir())
  except OSError as error:
    raise ValueError(
      f"data: the folder {str(path)!r} cannot be read ({error.strerror})."
    ) from error
  return [child for child in children if child.is_dir() and not child.name.startswith(".")]


def _class_names(path: pathlib.Path) -> tuple[str, ...]:
  names = tuple(child.name for child in _folders(path))
  if len(names) < 2:
    found = f"has one class, {names[0]!r}" if names else "has no class folders"
    raise ValueError(
      f"data: the folder {str(path)!r} {found}; it must have two or more folders, one per class, "
      f"with {', '.join(SUFFIXES)} files in them."
    )
  return names


def _files(path: pathlib.Path, classes: Sequence[str], seed: int) -> Files:
  """The images below a folder of class folders, sorted by name."""
  unknown = [child.name for child in _folders(path) if child.name not in classes]
  if unknown:
    raise ValueError(
      f"data: the folder {str(path)!r} has the class {unknown[0]!r}, which the training images have "
      f"not; they have {', '.join(classes)}."
    )
  paths, labels = [], []
  for label, name in enumerate(classes):
    found = images_below(path / name)
    if not found and (path / name).is_dir():
      raise ValueError(
        f"data: the class folder {str(path / name)!r} has no images; put {', '.join(SUFFIXES)} "
        "files in it or delete it."
      )
    paths += found
    labels += [label] * len(found)
  names = [file.relative_to(path).as_posix() for file in paths]
  return Files(paths, np.array(labels, np.int32), name_order(names, seed))


def images_below(path: pathlib.Path) -> list[pathlib.Path]:
  """The image files in a folder and the folders in it, sorted by name."""
  return sorted(
    pathlib.Path(place, name)
    for place, _, names in os.walk(path)
    for name in names
    if name.lower().endswith(SUFFIXES) and not name.startswith(".")
  )


def _complete(files: dict[str, Files], classes: Sequence[str]) -> dict[str, Files]:
  """All three parts; what is missing is split off the training images."""
  if "test" not in files and "validation" in files:
    files = {"train": files["train"], "test": files["validation"]}
  if len(files) == len(PARTS):
    return files
  whole = files["train"]
  need = 2 if "test" in files else 3
  counts = np.bincount(whole.labels, minlength=len(classes))
  if counts.min() < need:
    raise ValueError(
      f"data: the class {classes[int(counts.argmin())]!r} has {counts.min()} image(s); it needs {need} "
      "or more, one for each part."
    )
  train, validation, test = three_way(whole.labels, whole.order, "test" in files)
  taken = files["test"] if "test" in files else whole.pick(test)
  return {"train": whole.pick(train), "validation": whole.pick(validation), "test": taken}
