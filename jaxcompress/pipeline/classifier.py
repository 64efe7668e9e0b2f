"""A network in a file, of any kind, as what tells classes apart in pictures."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxcompress.arguments import check_type, unknown
from jaxcompress.data import images, walk
from jaxcompress.data.dataset import Dataset
from jaxcompress.data.parts import PARTS, Split
from jaxcompress.data.preprocess import PIXELS
from jaxcompress.data.reader import ENTRY, PREPROCESS, ImageReader, ResizeWay
from jaxcompress.data.storage import in_chunks
from jaxcompress.files.values import one_line
from jaxcompress.pipeline.opened import Opened, open_network
from jaxcompress.report.classes import ranked
from jaxcompress.report.evaluation import Evaluation
from jaxcompress.report.predictions import Prediction

BATCH = 64  # images in memory at once
SHOWN = 3  # classes in a message
SPLITS = (*PARTS, "all")
HOW_SCORED = {
  "logits": "softmax of the logits",
  "softmax": "the network's own, which ends in a softmax",
  "sigmoid": "the network's own, which ends in a sigmoid: of each class by itself",
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Classifier:
  """Predicts and evaluates with a model file, which reads pictures as it was trained to.

  A .tflite file runs in LiteRT and an .onnx file in onnxruntime; a .jcz file is evaluated exactly, and
  a network in float is compiled. Everything that is needed stands in the files that jaxcompress writes.

  Attributes:
    path: of the file.
    classes: their names, in the order of the logits; numbers where the file does not name them.
    is_named: whether the file, or who opened it, names the classes.
    reader: how a picture becomes what the network reads.
    ends_in: ``"softmax"`` or ``"sigmoid"`` where that is the network's last operation, else
      ``"logits"``.

  Examples:
    >>> import tempfile
    >>> import jax
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(2)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> metadata = {"classes": ["cat", "dog"], **ImageReader(8).to_metadata()}
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> path = models.save(path, model, variables, metadata=metadata)
    >>> classifier = Classifier.open(path)
    >>> (prediction,) = classifier.predict(np.zeros((1, 8, 8, 3), np.uint8), top=2)
    >>> sorted(prediction.classes), round(sum(prediction.scores), 4)
    (['cat', 'dog'], 1.0)
  """

  path: pathlib.Path
  classes: tuple[str, ...]
  is_named: bool
  reader: ImageReader
  _opened: Opened

  def __repr__(self) -> str:
    return f"Classifier({str(self.path)!r}, {len(self.classes)} classes, {self.reader.size})"

  @classmethod
  def open(
    cls,
    path: str | os.PathLike,
    *,
    reader: ImageReader | None = None,
    pixels: str | None = None,
    resize: ResizeWay | None = None,
    image_size: int | None = None,
    classes: Sequence[str] | None = None,
  ) -> "Classifier":
    """Opens a file, or the folder of a run.

    Args:
      path: a .tflite, .onnx or .jcz file; a .safetensors file of ``models.save``; the folder of a
        run, whose ``student.tflite`` is opened; or ``OUT/student`` and ``OUT/teacher``, its networks
        in float.
      reader: how pictures are read, whatever the file says; None: as it says.
      pixels: for a file that does not say how it reads pixels, such as one of others: ``"imagenet"``,
        ``"0..1"``, ``"-1..1"`` or ``"0..255"``. Files that read bytes need none.
      resize: likewise, how pictures come to its size; None: ``"cover"``.
      image_size: likewise, side of the images in pixels, where it reads any.
      classes: for a file that does not name them; None: as it says, or else numbers.

    Raises:
      MissingExtraError: if the file's runtime is not installed.
      ValueError: if there is no such file, it is damaged or of another kind, or says too little, or
        something else than what is given here.
    """
    opened = open_network(path)
    found = _read_as(opened, reader, pixels, resize, image_size)
    names = _names(opened, classes)
    numbers = tuple(map(str, range(opened.classes)))
    return cls(opened.path, names or numbers, names is not None, found, opened)

  @property
  def ends_in(self) -> str:
    return self._opened.ends_in

  @property
  def how_scored(self) -> str:
    """The meaning of the scores, in words."""
    return HOW_SCORED[self.ends_in]

  def logits(self, pictures: Any) -> np.ndarray:
    """Computes the network's outputs for pictures: (count, classes) float32.

    Of an integer file these are the numbers that its integers stand for, bit for bit those of exact
    evaluation.

    Args:
      pictures: as for :meth:`predict`.

    Raises:
      DamagedError: if some cannot be read.
      ValueError: as :meth:`predict`.
    """
    pictures = pictures if isinstance(pictures, np.ndarray) else _listed(pictures)
    found, errors = self.logits_and_errors(pictures)
    if errors:
      named = [pathlib.Path(p) if isinstance(p, str | os.PathLike) else b"" for p in pictures]
      images.refuse_damaged(named, errors)
    return found

  def logits_and_errors(self, pictures: Any) -> tuple[np.ndarray, dict[int, str]]:
    """As :meth:`logits`, but of the pictures that can be read; and why others cannot, by position."""
    parts = [np.zeros((0, len(self.classes)), np.float32)]
    errors: dict[int, str] = {}
    start = 0
    for sources, pixels, damage in self._batches(pictures):
      parts.append(self._outputs(pixels[[i for i in range(len(sources)) if i not in damage]]))
      errors |= {start + i: reason for i, reason in damage.items()}
      start += len(sources)
    return np.concatenate(parts), errors

  def predict(self, pictures: Any, *, top: int = 1) -> list[Prediction]:
    """The most probable classes of pictures.

    Args:
      pictures: paths of image files, images of Pillow's, or the bytes of files, in any mix; or an
        array of pixels, (count, height, width, channels) uint8 of the size that the network reads.
      top: how many classes of each.

    Returns:
      A :class:`Prediction` for each picture, in order. Of one that cannot be read it has an ``error``
      in place of classes.

    Raises:
      ValueError: if ``top`` is no positive number, or an array is of another shape or type.
    """
    return [one for batch in self.predictions(pictures, top=top) for one in batch]

  def predictions(self, pictures: Any, *, top: int = 1) -> Iterator[list[Prediction]]:
    """As :meth:`predict`, in batches: of pictures that do not fit in memory, or to show progress."""
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
      raise ValueError(f"top: {top!r} must be a whole number, at least 1.")
    start = 0
    for sources, pixels, damage in self._batches(pictures):
      sound = [i for i in range(len(sources)) if i not in damage]
      logits = self._outputs(pixels[sound])
      rows = dict(
        zip(sound, zip(self.scores(logits), ranked(logits, top), strict=True), strict=True)
      )
      found = []
      for i, source in enumerate(sources):
        name = str(source) if isinstance(source, pathlib.Path) else start + i
        if i in damage:
          found.append(Prediction(name, error=damage[i]))
          continue
        scores, order = rows[i]
        names = tuple(self.classes[k] for k in order)
        found.append(Prediction(name, names, tuple(map(float, scores[order]))))
      start += len(sources)
      yield found

  def scores(self, logits: np.ndarray) -> np.ndarray:
    """Probabilities of the classes: the softmax of logits, or what the network gives if it ends in one.

    Args:
      logits: (count, classes) float32.

    Returns:
      (count, classes) float64.
    """
    x = np.asarray(logits, np.float64)
    if self.ends_in != "logits":
      return x
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)

  def evaluate(
    self, data: Any, split: str = "test", *, classes: Sequence[str] | None = None
  ) -> Evaluation:
    """Evaluates the network on labelled images.

    Classes of the data are found among the network's by their names: they may be some of them, in
    any order. The network chooses among all of its own.

    Args:
      data: a :class:`~jaxcompress.data.Dataset` that was loaded with ``reader=classifier.reader``, or
        a :class:`~jaxcompress.data.Split` of one.
      split: of a data set: ``"test"``, ``"validation"``, ``"train"`` or ``"all"``.
      classes: of a split, which does not name them: those of its data set.

    Raises:
      ValueError: if there are no images, images were read in another way, or the network does not
        know a class.
    """
    parts = _parts(data, split)
    names = getattr(data, "classes", classes)
    if names is None:
      raise ValueError(
        "classes: a split has no class names; give classes=data.classes, or the data set."
      )
    self._check_reader(data)
    places = self.places_of(names)
    labels = places[np.concatenate([part.labels for part in parts])]
    if not len(labels):
      raise ValueError(f"data: {split} has no images; name another split.")
    chunks = (chunk for part in parts for chunk in in_chunks(part.images))
    logits = np.concatenate([self.logits(chunk) for chunk in chunks])
    return Evaluation.of(self.classes, logits, labels)

  def places_of(self, names: Sequence[str]) -> np.ndarray:
    """Where classes of data stand among the network's.

    Returns:
      (names,) positions.

    Raises:
      ValueError: if the network does not know one.
    """
    ours = [walk.normal(name) for name in self.classes]
    known = {name: place for place, name in enumerate(ours)}
    twice = [name for name in names if ours.count(walk.normal(name)) > 1]
    if twice:
      raise ValueError(
        f"data: {walk.printable(twice[0])!r} names several classes of {self.path}; give classes that"
        " differ."
      )
    missing = [name for name in names if walk.normal(name) not in known]
    if missing and not self.is_named and len(names) == len(self.classes):
      return np.arange(len(names))  # as they stand, as in training
    if missing:
      listed, theirs = (
        ", ".join(map(walk.printable, some[:SHOWN])) + (", ..." if len(some) > SHOWN else "")
        for some in (missing, self.classes)
      )
      raise ValueError(
        f"data: {len(missing)} of {len(names)} classes ({listed}) are not among the {len(self.classes)}"
        f" of {self.path} ({theirs}); rename them, or leave their images out."
      )
    return np.array([known[walk.normal(name)] for name in names], np.int64)

  def _check_reader(self, data: Any) -> None:
    theirs = getattr(data, "reader", None)
    if theirs is not None and _way(theirs) != _way(self.reader):
      raise ValueError(
        f"data: its images were read as {_way(theirs)} and {self.path} reads {_way(self.reader)}; load"
        " it with reader=classifier.reader."
      )

  def _outputs(self, pixels: np.ndarray) -> np.ndarray:
    if not len(pixels):
      return np.zeros((0, len(self.classes)), np.float32)
    found = self._opened.outputs(pixels, self.reader.preprocess)
    if not np.isfinite(found).all():
      raise ValueError(f"model: {self.path} gives numbers that are not finite.")
    return found

  def _batches(self, pictures: Any) -> Iterator[tuple[Sequence[Any], np.ndarray, images.Damage]]:
    """Pictures, their pixels and what is wrong with some, a batch at a time."""
    if isinstance(pictures, np.ndarray):
      height, width = self.reader.size
      wanted = (height, width, self.reader.channels)
      if pictures.dtype != np.uint8 or pictures.shape[1:] != wanted:
        raise ValueError(
          f"pictures: {pictures.dtype} of shape {pictures.shape} must be uint8 (count, {height},"
          f" {width}, {wanted[-1]}), the pixels that {self.path} reads."
        )
      for start in range(0, len(pictures), BATCH):
        part = pictures[start : start + BATCH]
        yield range(start, start + len(part)), part, {}
      return
    pictures = _listed(pictures)
    for start in range(0, len(pictures), BATCH):
      sources = [
        pathlib.Path(one) if isinstance(one, str | os.PathLike) else one
        for one in pictures[start : start + BATCH]
      ]
      yield sources, *images.decode_sound(sources, self.reader)


def _listed(pictures: Any) -> list[Any]:
  """Returns the list of pictures; raises for a single picture."""
  if isinstance(pictures, str | bytes | os.PathLike | Image.Image):
    raise ValueError("pictures must be a list, got a single one; write [picture].")
  return list(pictures)


def _read_as(
  opened: Opened, reader: ImageReader | None, pixels: Any, resize: Any, size: Any
) -> ImageReader:
  """How pictures become what a network reads: as its file says, or as was given."""
  height, width, channels = opened.image_shape
  metadata, what = opened.metadata, f"model: {opened.path}"
  if channels not in (1, 3):
    raise ValueError(f"{what} reads {channels} channels; pictures have 3, or 1 if they are grey.")
  if reader is None:
    if metadata.get(PREPROCESS) is not None:
      for name, value in (("pixels", pixels), ("resize", resize), ("image_size", size)):
        if value is not None:
          raise ValueError(
            f"{name}: {value} is given, and {opened.path} has its own; leave it out."
          )
    elif pixels is None and not opened.takes_pixels:
      raise _mended_by(
        f"{what} does not state how pixels are normalized; add ",
        f", or one of {', '.join(list(PIXELS)[1:])}, as it was trained.",
        pixels=next(iter(PIXELS)),
      )
    try:
      reader = ImageReader.from_metadata(metadata)
    except (TypeError, ValueError) as error:
      raise ValueError(f"{what} has metadata that cannot be used ({one_line(error)}).") from error
    if metadata.get(PREPROCESS) is None:
      way = PIXELS["0..255" if pixels is None else _known(pixels)]
      reader = dataclasses.replace(reader, preprocess=way)
    if resize is not None:
      reader = dataclasses.replace(reader, resize=resize, fill=None)
    if size is not None:
      reader = reader.at(size)
    if metadata.get(ENTRY) is None:
      reader = dataclasses.replace(reader, channels=channels)
  elif (pixels, resize, size) != (None, None, None):
    raise ValueError(
      "reader: it decides how pictures are read; leave out pixels, resize and image_size."
    )
  if reader.size is None and (height, width) == (1, 1):  # how sizes are told that are left open
    raise _mended_by(
      f"{what} reads images of any size; add ", ", as it was trained.", image_size=224
    )
  if (height, width) != (1, 1) and reader.size not in (None, (height, width)):
    raise ValueError(
      f"{what} reads images of {height} x {width} pixels, and the reader makes {reader.size}."
    )
  if reader.channels != channels:
    raise ValueError(f"{what} reads {channels} channels, and the reader makes {reader.channels}.")
  return reader.at((height, width)) if reader.size is None else reader


def _mended_by(before: str, after: str, **option: Any) -> ValueError:
  """The error of a file that an option says more of."""
  from jaxcompress.pipeline.checks import OptionError  # with all that options know

  return OptionError(before, after, **option)


def _known(pixels: str) -> str:
  if pixels not in PIXELS:
    raise ValueError(f"pixels: {pixels!r} is unknown; it must be one of {', '.join(PIXELS)}.")
  return pixels


def _names(opened: Opened, given: Sequence[str] | None) -> tuple[str, ...] | None:
  """The classes as they were given, or as the file names them."""
  said = opened.metadata.get("classes") if given is None else given
  if said is None:
    return None
  if isinstance(said, str) or not all(isinstance(name, str) for name in said):
    raise ValueError(f"classes: {said!r:.60} must be a list of names.")
  if len(said) != opened.classes:
    raise ValueError(
      f"classes: there are {len(said)} names, and {opened.path} gives {opened.classes} scores; they"
      " must be as many."
    )
  return tuple(said)


def _parts(data: Any, split: str) -> list[Any]:
  """The splits that are asked for; one that is given is taken as it is."""
  if isinstance(data, Split):
    return [data]
  check_type("data", data, Dataset | Split, "a data.Dataset, or a data.Split of one")
  if split not in SPLITS:
    raise unknown("split", split, SPLITS)
  return [getattr(data, name) for name in (PARTS if split == "all" else (split,))]


def _way(reader: ImageReader) -> dict[str, Any]:
  """How pictures become pixels; the rest is the network's."""
  return reader.to_metadata()[ENTRY]
