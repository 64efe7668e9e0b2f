"""A folder of images: with one subfolder for each class, or unlabelled for calibration."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.data import images, splits, walk
from jaxcompress.data.dataset import Dataset, Split
from jaxcompress.data.storage import EncodedImages, Listed, fits_memory

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
  inside a class folder and through links. Hidden names, folders that systems make
  (``.ipynb_checkpoints``, ``@eaDir``, ``__MACOSX``), files of other kinds, pipes and links to nothing
  are left out; the set's ``notes`` count them, and tell of images that are in two parts or classes.

  What is not there is split off: 20 % of each class to test and 10 % for validation, chosen by a hash
  of the seed and the file's name. With ``train`` and ``val`` alone, ``val`` is the test set, and
  validation is split off ``train``.

  Args:
    path: the folder.
    seed: of the splits.
    size: side of the images; by default the most frequent size if none is larger than 64 pixels
      (enlarged to 32 if it is below 28), else 224. Images of another size are scaled to cover it,
      and their middle is kept.
    limit: at most this many images in each part, with the classes' shares kept.
    in_memory: whether images are decoded now, or each time when they are needed; None: now, if they
      take at most half of the memory. Where they are not decoded now, only the beginning and the
      end of each file are looked at.

  Returns:
    A :class:`Dataset` of RGB images.

  Raises:
    ValueError: if the folder is missing or cannot be read, has fewer than two classes, a class has
      no or too few images or a name that cannot be written everywhere, or images are damaged, which
      names all of them.
  """
  root = pathlib.Path(path).expanduser()
  if not root.is_dir():
    what = "is a file" if root.is_file() else "does not exist"
    raise ValueError(f"data: the folder {path!r} {what}; give a folder with one folder per class.")
  left_out = walk.LeftOut()
  parts = _parts(root, left_out)
  folders = {part: _class_folders(place, left_out) for part, place in parts.items()}
  classes = _class_names(parts["train"], folders["train"], left_out)
  files = {
    part: _files(place, folders[part], classes, seed, left_out) for part, place in parts.items()
  }
  absent = _absent(files, classes)
  _check_counts(files, classes)
  files = splits.shared_out(files, lambda found: found.order, limit)
  pixels, repeated = _read(files, root, size, in_memory)
  loaded: Any = {part: Split(pixels[part], found.labels) for part, found in files.items()}
  skipped = (f"left out: {left_out.text()}",) if left_out.names else ()
  name = f"folder:{walk.printable(path)}"
  return Dataset(name=name, classes=classes, notes=(*skipped, *absent, *repeated), **loaded)


def calibration_images(
  path: str, *, size: int, crop: float = 1.0, limit: int = 1024, seed: int = 0
) -> np.ndarray:
  """Reads any images from a folder and the folders in it, whatever they are of.

  Args:
    path: the folder; PNG and JPEG files are read, hidden names and folders of systems are left out.
    size: side of the images.
    crop: share of the shorter side that the square in the middle takes, as in evaluation on
      ImageNet (0.875: resized to 256 pixels, of which 224 are kept).
    limit: at most this many images, chosen at random.
    seed: of the choice.

  Returns:
    (count, size, size, 3) uint8.

  Raises:
    ValueError: if the folder is missing or has no images, or images are damaged.

  Examples:
    >>> import tempfile
    >>> from PIL import Image
    >>> folder = tempfile.mkdtemp()
    >>> Image.new("RGB", (40, 30)).save(folder + "/any.png")
    >>> calibration_images(folder, size=16).shape
    (1, 16, 16, 3)
  """
  root = pathlib.Path(path).expanduser()
  if not root.is_dir():
    raise ValueError(f"calibration: {path!r} is no folder; give one with images in it.")
  found = walk.images_below(root, left_out := walk.LeftOut())
  if not found:
    raise ValueError(
      f"calibration: {path!r} has no images; put {', '.join(walk.SUFFIXES)} files in it{_beside(left_out)}."
    )
  order = np.random.default_rng(seed).permutation(len(found))
  chosen = [found[i] for i in np.sort(order[:limit])]
  side = round(size / crop)
  edge = (side - size) // 2
  whole = images.decode(chosen, (side, side))
  return np.ascontiguousarray(whole[:, edge : edge + size, edge : edge + size])


def _read(
  files: dict[str, Files], root: pathlib.Path, size: int | None, in_memory: bool | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
  """The images of each part, and lines on those that repeat."""
  paths = [path for found in files.values() for path in found.paths]
  facts, damage = images.examine(paths)
  sound = [fact for fact in facts if fact is not None]
  if not sound:
    images.refuse_damaged(paths, damage)
  shape = images.usual_size([fact.size for fact in sound]) if size is None else (size, size)
  if in_memory is None:
    in_memory = fits_memory(len(paths), shape)
  if in_memory:  # decoding finds all damage
    whole = images.decode(paths, shape)
    keys = splits.pixel_keys(whole)
  else:
    images.refuse_damaged(paths, damage)
    keys = splits.file_keys(paths, sound)
  pixels: dict[str, Any] = {}
  examples, start = {}, 0
  for part, found in files.items():
    here = slice(start, start := start + len(found.paths))
    names = [_name(path, root) for path in found.paths]
    examples[part] = list(zip(keys[here], found.labels.tolist(), names, strict=True))
    files_of_part = Listed([str(path) for path in found.paths])
    pixels[part] = whole[here] if in_memory else EncodedImages(files_of_part, shape)
  return pixels, splits.repeated_notes(examples)


def _name(path: pathlib.Path, root: pathlib.Path) -> str:
  return path.relative_to(root).as_posix()


def _parts(root: pathlib.Path, left_out: walk.LeftOut) -> dict[str, pathlib.Path]:
  """Where each part lies: the root alone, or its ``train`` folder and those beside it."""
  below = walk.subfolders(root, walk.LeftOut())
  named = {part: [f for f in below if f.name.lower() in names] for part, names in PARTS.items()}
  found = {part: places for part, places in named.items() if places}
  nothing_else = sum(map(len, found.values())) == len(below) > 1
  if "train" in found and (
    nothing_else or any(walk.subfolders(f, walk.LeftOut()) for f in found["train"])
  ):
    for part, places in found.items():
      if len(places) > 1:
        raise ValueError(
          f"data: the folder {str(root)!r} has {places[0].name!r} and {places[1].name!r}, which are"
          f" both {part} images; leave one of them."
        )
    for child in walk.subfolders(root, left_out):
      if [child] not in found.values():
        left_out.add("folders beside train", child.name)
    return {part: places[0] for part, places in found.items()}
  return {"train": root}  # "train" may also be a class: of trains


def _class_folders(path: pathlib.Path, left_out: walk.LeftOut) -> dict[str, pathlib.Path]:
  """The class folders of a part by the classes' names, sorted by them."""
  found = walk.subfolders(path, left_out)
  for child in found:
    if wrong := walk.fault(child.name):
      raise ValueError(
        f"data: the class folder {walk.printable(child.name)!r} in {str(path)!r} has a name that {wrong};"
        " rename it."
      )
  if pair := walk.look_alike(child.name for child in found):
    raise ValueError(
      f"data: the folder {str(path)!r} has the classes {pair[0]!a} and {pair[1]!a}, which look"
      " alike; rename one, or put their images together."
    )
  return dict(sorted((walk.normal(child.name), child) for child in found))


def _class_names(
  path: pathlib.Path, folders: dict[str, pathlib.Path], left_out: walk.LeftOut
) -> tuple[str, ...]:
  names = tuple(folders)
  if len(names) < 2:
    found = f"has one class, {names[0]!r}" if names else "has no class folders"
    raise ValueError(
      f"data: the folder {str(path)!r} {found}; it must have two or more folders, one per class, "
      f"with {', '.join(walk.SUFFIXES)} files in them{_beside(left_out)}."
    )
  return names


def _beside(left_out: walk.LeftOut) -> str:
  return f" (left out: {left_out.text()})" if left_out.names else ""


def _files(
  path: pathlib.Path,
  folders: dict[str, pathlib.Path],
  classes: Sequence[str],
  seed: int,
  left_out: walk.LeftOut,
) -> Files:
  """The images below a folder of class folders, sorted by name."""
  unknown = [name for name in folders if name not in classes]
  if unknown:
    raise ValueError(
      f"data: the folder {str(path)!r} has the class {unknown[0]!r}, which the training images have "
      f"not; they have {', '.join(classes)}."
    )
  if not folders:
    raise ValueError(
      f"data: the folder {str(path)!r} has no class folders{_beside(left_out)}; put one per class in it"
      " or delete it."
    )
  paths, labels = [], []
  for label, name in enumerate(classes):
    found = walk.images_below(folders[name], left_out) if name in folders else []
    if not found and name in folders:
      raise ValueError(
        f"data: the class folder {str(folders[name])!r} has no images; put {', '.join(walk.SUFFIXES)} "
        f"files in it or delete it{_beside(left_out)}."
      )
    paths += found
    labels += [label] * len(found)
  names = [walk.normal(_name(file, path)) for file in paths]
  return Files(paths, np.array(labels, np.int32), splits.name_order(names, seed))


def _absent(files: dict[str, Files], classes: Sequence[str]) -> tuple[str, ...]:
  """Lines on classes of which a part has no images."""
  notes = []
  for part, found in files.items():
    missing = [name for i, name in enumerate(classes) if not (found.labels == i).any()]
    if missing:
      shown = ", ".join(missing[:3]) + ", ..." * (len(missing) > 3)
      notes.append(f"{part} has no images of {len(missing)} classes ({shown})")
  return tuple(notes)


def _check_counts(files: dict[str, Files], classes: Sequence[str]) -> None:
  """Raises if a class has too few training images to give some to the parts that are missing."""
  need = 1 + len(PARTS) - len(files)
  counts = np.bincount(files["train"].labels, minlength=len(classes))
  if counts.min() < need:
    raise ValueError(
      f"data: the class {classes[int(counts.argmin())]!r} has {counts.min()} image(s); it needs {need} "
      "or more, one for each part."
    )
