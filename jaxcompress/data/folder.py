"""A folder of images: with one subfolder for each class, or unlabelled for calibration."""

import pathlib
import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcompress.arguments import counted
from jaxcompress.data import copies, images, sound, walk
from jaxcompress.data.dataset import Dataset
from jaxcompress.data.gather import NAMED, Below, Files, below, gathered
from jaxcompress.data.groups import grouped
from jaxcompress.data.reader import ImageReader

PARTS = {  # in lower case
  "train": ("train", "training"),
  "validation": ("val", "valid", "validation", "eval", "evaluation", "dev"),
  "test": ("test", "testing"),
}
ENDING = re.compile("[-_ ]?(set|data|images|split)$")  # of "test_set"


def folder(
  path: str,
  *,
  seed: int = 0,
  reader: ImageReader = ImageReader(),  # noqa: B008  # frozen
  limit: int | None = None,
  in_memory: bool | None = None,
  group_by: str | None = None,
  strict: bool = False,
) -> Dataset:
  """Images from a folder: ``path/cat/1.png``, or ``path/train/cat/1.png`` beside ``path/test``.

  Classes are the names of the class folders, sorted. JPEG, PNG, WebP, BMP, GIF, TIFF and portable
  pixmap files are read, and AVIF where Pillow does, also from folders inside a class folder and
  through links; what a file is, its content says, not its name. Hidden names, folders that systems
  make (``.ipynb_checkpoints``, ``@eaDir``, ``__MACOSX``), files of other kinds, pipes and links to
  nothing are left out; the set's ``notes`` count them.

  Damaged files are left out too, and so are copies (equal pixels) that are in several classes, since
  which one is right cannot be known, and images of the folder's own train part that are in its
  validation or test part, or of its validation part that are in its test part; the notes count them,
  and ``skipped`` names all. Other copies stay together in one part.

  Parts are called ``train`` or ``training``; ``val``, ``valid``, ``validation``, ``eval`` or ``dev``;
  ``test`` or ``testing``, in any case, also with an ending such as ``_set``. What is not there is split
  off: 20 % of each class to test and 10 % for validation, chosen by a hash of the seed and the file's
  name. With ``train`` and ``val`` alone, ``val`` is the test set, and validation is split off ``train``.

  Args:
    path: the folder.
    seed: of the splits.
    reader: how pictures become images; without a size the most frequent one is taken if none is
      larger than 64 pixels (enlarged to 32 if it is below 28), else 224.
    limit: at most this many images in each part, with the classes' shares kept.
    in_memory: whether images are decoded now, or each time when they are needed; None: now, if they
      take at most half of the memory. Where they are not kept, each file is decoded once all the same,
      so that none turns out to be damaged in training; this is remembered until the file changes.
    group_by: a regular expression on names below the part, such as ``cat/burst3_1.jpg``: images in
      which it finds the same text (of its first group, or else of all that it finds) stay in one part,
      and the shares are kept as well as that allows. An image in which it finds nothing is alone.
    strict: whether it is an error, which names them all, where images would be left out because they
      are damaged or copies.

  Returns:
    A :class:`Dataset` of RGB images.

  Raises:
    ValueError: if the folder is missing or cannot be read, has fewer than two classes, a class has
      no or too few images or a name that cannot be written everywhere, ``group_by`` is no pattern or
      finds nothing, or ``strict`` and images would be left out (:class:`DamagedError`).
  """
  root, left_out = _existing(path), walk.LeftOut()
  parts = _parts(root, left_out)
  folders = {part: _class_folders(place, left_out) for part, place in parts.items()}
  classes = _class_names(parts["train"], folders["train"], left_out)
  found = {part: _files(place, folders[part], classes, left_out) for part, place in parts.items()}
  names = {
    part: [path.relative_to(parts[part]).as_posix() for path in paths]
    for part, (paths, _) in found.items()
  }
  grouping = grouped(names, group_by, seed)
  files = {
    part: Files(
      paths,
      np.array(labels, np.int32),
      grouping.order[part],
      grouping.groups[part],
      np.arange(len(paths)),
    )
    for part, (paths, labels) in found.items()
  }
  skipped = (f"left out: {left_out.text()}",) if left_out.names else ()
  return Dataset(
    **gathered(
      f"folder:{walk.printable(path)}",
      classes,
      files,
      root,
      reader=reader,
      limit=limit,
      in_memory=in_memory,
      strict=strict,
      notes=(*skipped, *_doubts(parts, folders), *grouping.notes),
    )
  )


class Labelled(NamedTuple):
  """Image files with their classes.

  Attributes:
    paths: of the files, sorted by class and name.
    labels: (count,) int64, positions in ``classes``.
    parts: the parts that there are, such as ``train``, with the positions of their files.
    classes: names, sorted.
    root: the folder.
    notes: lines on what was noticed, such as files that were left out.
  """

  paths: list[pathlib.Path]
  labels: np.ndarray
  parts: dict[str, np.ndarray]
  classes: tuple[str, ...]
  root: pathlib.Path
  notes: tuple[str, ...]

  def copies(self, reader: ImageReader) -> dict[int, copies.Skipped]:
    """Finds the images that a run leaves out: copies in several classes or in a later part, by position.

    Args:
      reader: of the network; copies are equal in its pixels.
    """
    seen = sound.decodable(self.paths, reader, self.root)
    keys = [key or str(i) for i, key in enumerate(seen.keys)]  # damaged ones are no copies
    name = Below(self.paths, self.root).__getitem__
    torn = copies.torn(keys, self.labels, name)
    left = {
      part: self.parts[part][[i not in torn for i in self.parts[part].tolist()]]
      for part in PARTS
      if part in self.parts
    }
    return {**torn, **copies.crossing(left, keys, np.arange(len(keys)), name)}


def labelled_files(path: str) -> Labelled:
  """All image files of a folder of class folders, or of its parts together, each with its class.

  Nothing is split off, and none is left out but for what is no image, so any number of classes and
  images will do.

  Args:
    path: the folder, as for :func:`folder`.

  Raises:
    ValueError: if the folder is missing or cannot be read, or there are no images in class folders.

  Examples:
    >>> import tempfile
    >>> from PIL import Image
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> (root / "cat").mkdir()
    >>> Image.new("RGB", (40, 30)).save(root / "cat" / "1.png")
    >>> found = labelled_files(str(root))
    >>> found.classes, found.labels.tolist(), found.paths[0].name
    (('cat',), [0], '1.png')
  """
  root, left_out = _existing(path), walk.LeftOut()
  files: dict[str, list[tuple[pathlib.Path, str]]] = {}
  for part, place in _parts(root, left_out).items():
    for name, child in _class_folders(place, left_out).items():
      found = walk.images_below(child, left_out)
      files.setdefault(name, []).extend((file, part) for file in found)
  classes = tuple(sorted(name for name, found in files.items() if found))
  if not classes:
    raise ValueError(
      f"data: the folder {path!r} has no images in class folders; put some ({walk.COMMON}) in one for"
      f" each class{_beside(left_out)}."
    )
  paths = [file for name in classes for file, _ in files[name]]
  part_of = np.array([part for name in classes for _, part in files[name]])
  parts = {part: np.flatnonzero(part_of == part) for part in np.unique(part_of).tolist()}
  labels = np.repeat(np.arange(len(classes)), [len(files[name]) for name in classes])
  notes = (f"left out: {left_out.text()}",) if left_out.names else ()
  return Labelled(paths, labels, parts, classes, root, notes)


def calibration_images(
  path: str, reader: ImageReader, *, limit: int = 1024, seed: int = 0
) -> np.ndarray:
  """Reads any images from a folder and the folders in it, whatever they are of.

  Damaged ones are left out, with a warning that names them.

  Args:
    path: the folder; hidden names, folders of systems and files that are no images are left out.
    reader: how pictures become images; it has a size.
    limit: at most this many images, chosen at random.
    seed: of the choice.

  Returns:
    (count, height, width, channels) uint8.

  Raises:
    ValueError: if the folder is missing or has no images, or all are damaged.

  Examples:
    >>> import tempfile
    >>> from PIL import Image
    >>> folder = tempfile.mkdtemp()
    >>> Image.new("RGB", (40, 30)).save(folder + "/any.png")
    >>> calibration_images(folder, ImageReader(16)).shape
    (1, 16, 16, 3)
  """
  root = pathlib.Path(path).expanduser()
  if not root.is_dir():
    raise ValueError(f"calibration: {path!r} is no folder; give one with images in it.")
  found = walk.images_below(root, left_out := walk.LeftOut())
  if not found:
    raise ValueError(
      f"calibration: {path!r} has no images; put some ({walk.COMMON}) in it{_beside(left_out)}."
    )
  order = np.random.default_rng(seed).permutation(len(found))
  chosen = [found[i] for i in np.sort(order[:limit])]
  pixels, damage = images.decode_sound(chosen, reader)
  if len(damage) == len(chosen):
    images.refuse_damaged(chosen, damage)
  if damage:
    names = ", ".join(f"{below(chosen[i], root)} ({damage[i]})" for i in sorted(damage)[:NAMED])
    more = ", ..." * (len(damage) > NAMED)
    count = counted(len(damage), "damaged image is", "damaged images are")
    warnings.warn(f"calibration: {count} left out: {walk.printable(names)}{more}", stacklevel=2)
  return pixels[[i not in damage for i in range(len(chosen))]] if damage else pixels


def _existing(path: str) -> pathlib.Path:
  root = pathlib.Path(path).expanduser()
  if not root.is_dir():
    what = "is a file" if root.is_file() else "does not exist"
    raise ValueError(f"data: the folder {path!r} {what}; give a folder with one folder per class.")
  return root


def _parts(root: pathlib.Path, left_out: walk.LeftOut) -> dict[str, pathlib.Path]:
  """Where each part lies: the root alone, or its ``train`` folder and those beside it."""
  below = walk.subfolders(root, walk.LeftOut())
  named = {part: [f for f in below if _plain(f.name) in names] for part, names in PARTS.items()}
  found = {part: places for part, places in named.items() if places}
  nothing_else = sum(map(len, found.values())) == len(below) > 1
  if "train" in found and (
    nothing_else or any(walk.subfolders(f, walk.LeftOut()) for f in found["train"])
  ):
    for part, places in found.items():
      if len(places) > 1:
        raise ValueError(
          f"data: the folder {str(root)!r} has {places[0].name!r} and {places[1].name!r}, which are"
          f" both {part} images; leave one of them, or put their images together."
        )
    for child in walk.subfolders(root, left_out):
      if [child] not in found.values():
        left_out.add("folders beside train", child.name)
    return {part: places[0] for part, places in found.items()}
  if found and nothing_else and "train" not in found and _all_split(below):
    raise ValueError(
      f"data: the folder {str(root)!r} has {' and '.join(repr(f.name) for f in below)} but no 'train'; name"
      " the folder of training images so."
    )
  return {"train": root}  # "train" may also be a class: of trains


def _plain(name: str) -> str:
  """The name of a part without its ending: ``test`` of ``Test_set``."""
  return ENDING.sub("", name.lower())


def _all_split(folders: Sequence[pathlib.Path]) -> bool:
  """Whether all of several folders have the same two or more folders in them."""
  inner = [{child.name for child in walk.subfolders(f, walk.LeftOut())} for f in folders]
  return len(inner) > 1 and len(inner[0]) > 1 and all(names == inner[0] for names in inner)


def _doubts(
  parts: dict[str, pathlib.Path], folders: dict[str, dict[str, pathlib.Path]]
) -> tuple[str, ...]:
  """Lines on what may be meant otherwise than it was taken."""
  if "validation" in parts and "test" not in parts:
    name = walk.printable(parts["validation"].name)
    return (f"{name} is the test set, as there is no other; validation is split off train",)
  found = list(folders["train"].values())
  if len(parts) == 1 and _all_split(found):
    names = walk.printable(", ".join(folder.name for folder in found[:3]))
    return (
      f"the classes are {names}, which all have the same folders in them; if those are the classes, name the"
      " folders of the parts train, val and test",
    )
  return ()


def _wrapped(path: pathlib.Path, folders: dict[str, pathlib.Path]) -> str:
  """Where classes may be if a folder has only one in it."""
  for child in folders.values():
    if len(walk.subfolders(child, walk.LeftOut())) > 1:
      return f"; if {walk.printable(child.name)!r} has the classes in it, give {str(child)!r}"
  return ""


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
      f"with images ({walk.COMMON}) in them{_wrapped(path, folders)}{_beside(left_out)}."
    )
  return names


def _beside(left_out: walk.LeftOut) -> str:
  return f" (left out: {left_out.text()})" if left_out.names else ""


def _files(
  path: pathlib.Path,
  folders: dict[str, pathlib.Path],
  classes: Sequence[str],
  left_out: walk.LeftOut,
) -> tuple[list[pathlib.Path], list[int]]:
  """The images below a folder of class folders, sorted by name, and their labels."""
  unknown = [name for name in folders if name not in classes]
  if unknown:
    raise ValueError(
      f"data: the folder {str(path)!r} has the class {unknown[0]!r}, which the training images do not have; they have {', '.join(classes)}."
    )
  if not folders:
    raise ValueError(
      f"data: the folder {str(path)!r} has no class folders{_beside(left_out)}; put one per class in it"
      " or delete it."
    )
  paths: list[pathlib.Path] = []
  labels: list[int] = []
  for label, name in enumerate(classes):
    found = walk.images_below(folders[name], left_out) if name in folders else []
    if not found and name in folders:
      raise ValueError(
        f"data: the class folder {str(folders[name])!r} has no images; put some ({walk.COMMON}) in"
        f" it or delete it{_beside(left_out)}."
      )
    paths += found
    labels += [label] * len(found)
  return paths, labels
