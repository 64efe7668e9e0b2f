"""CIFAR-10 and CIFAR-100 from their own files: ``cifar:PATH``."""

import contextlib
import pathlib
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.data.dataset import Dataset
from jaxcompress.data.plain_pickle import bytes_of, read_plain
from jaxcompress.data.reader import ImageReader
from jaxcompress.data.walk import printable
from jaxcompress.data.whole import Content, Part, as_published
from jaxcompress.files.values import one_line

SIDE = 32
PIXELS = 3 * SIDE * SIDE
TEST_SHARE = 5  # times as many images are to train on
LARGEST = 1 << 29  # bytes of a file in an archive


class Form(NamedTuple):
  """One of the ways in which the sets are published.

  Attributes:
    title: of the set.
    archive: as it is downloaded.
    folder: that is in it.
    train: names of its files.
    test: name of the file.
    meta: that of the file with the classes' names.
    labels: the key of the labels, and in ``meta`` of their names, in pickles; None: binary records.
    before: bytes of labels in a record, of which the last one counts.
  """

  title: str
  archive: str
  folder: str
  train: tuple[str, ...]
  test: str
  meta: str
  labels: tuple[str, str] | None = None
  before: int = 1


FORMS = (
  Form(
    "CIFAR-10",
    "cifar-10-python.tar.gz",
    "cifar-10-batches-py",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    labels=("labels", "label_names"),
  ),
  Form(
    "CIFAR-10",
    "cifar-10-binary.tar.gz",
    "cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test="test_batch.bin",
    meta="batches.meta.txt",
  ),
  Form(
    "CIFAR-100",
    "cifar-100-python.tar.gz",
    "cifar-100-python",
    train=("train",),
    test="test",
    meta="meta",
    labels=("fine_labels", "fine_label_names"),
  ),
  Form(
    "CIFAR-100",
    "cifar-100-binary.tar.gz",
    "cifar-100-binary",
    train=("train.bin",),
    test="test.bin",
    meta="fine_label_names.txt",
    before=2,
  ),
)


def cifar(
  path: str,
  *,
  seed: int = 0,
  reader: ImageReader = ImageReader(),  # noqa: B008  # frozen
  limit: int | None = None,
  in_memory: bool | None = None,
  strict: bool = False,
) -> Dataset:
  """CIFAR-10 or CIFAR-100 as its authors publish it: 50,000 photos to train on and 10,000 to test.

  Both the version for Python (pickles, read without calling anything that they name) and the binary
  one, unpacked or as downloaded. 10 % of each class of the training images are for validation; nothing
  is left out. CIFAR-100 has its 100 fine classes. Images are mirrored in training.

  Args:
    path: ``cifar-10-python.tar.gz``, ``cifar-100-binary.tar.gz`` and so on; the folder that is in it, or
      one with either in it.
    seed: of the validation images.
    reader: how pictures become images; without a size they have 32 pixels.
    limit: at most this many images in each part, with the classes' shares kept.
    in_memory: whether images are kept, or the files' pixels, of which each is made when it is needed.
    strict: whether images that are in several classes or parts are an error; else they are told.

  Returns:
    A :class:`Dataset`.

  Raises:
    ValueError: if there is no such set, or a file is missing, damaged or cut off, which it names.

  References:
    Krizhevsky, `Learning Multiple Layers of Features from Tiny Images
    <https://www.cs.toronto.edu/~kriz/cifar.html>`_, 2009.
  """
  return as_published(
    f"cifar:{printable(path)}",
    read_cifar,
    path,
    seed=seed,
    reader=reader,
    limit=limit,
    in_memory=in_memory,
    strict=strict,
    flip=True,
  )


def read_cifar(path: str) -> Content:
  """Both parts of the set at a path, and the names of its classes.

  Raises:
    ValueError: naming the file that is missing, damaged or cut off.
  """
  place = _place(pathlib.Path(path).expanduser())
  files = _of_archive(place) if place.is_file() else _of_folder(place)
  forms = [form for form in FORMS if form.meta in files]
  if not forms:
    raise _absent(place)
  form, titles = forms[0], sorted({form.title for form in forms})
  if len(titles) > 1:
    raise ValueError(f"data: {str(place)!r} has {' and '.join(titles)}; give an archive of one.")
  for name in (*form.train, form.test):
    if name not in files:
      raise ValueError(f"data: {str(place)!r} has no {name}, which is of {form.folder}; add it.")
  with _guarded(place, form.meta):
    classes = _classes(files[form.meta], form)
  batches = {}
  for name in (*form.train, form.test):
    with _guarded(place, name):
      batches[name] = _batch(files.pop(name), form, len(classes))
  wanted = len(batches[form.test].labels) * TEST_SHARE // len(form.train)
  for name in form.train:
    if len(batches[name].labels) != wanted:
      raise ValueError(
        f"data: {name} in {str(place)!r} has {len(batches[name].labels):,} images and {form.test}"
        f" {len(batches[form.test].labels):,}, beside which it must have {wanted:,}: one is cut off; download them again."
      )
  train = zip(*(batches[name] for name in form.train), strict=True)
  joined = Part(*(np.concatenate(values) for values in train))
  return Content({"train": joined, "test": batches[form.test]}, classes)


def _place(path: pathlib.Path) -> pathlib.Path:
  """The archive, or the folder with the files."""
  if path.is_file():
    return path
  found: dict[str, pathlib.Path] = {}
  for form in FORMS:
    here = [path, path / form.folder, path / form.archive]
    fitting = (place for place in here if (place / form.meta).is_file() or place is here[2])
    if place := next((place for place in fitting if place.exists()), None):
      found.setdefault(form.title, place)
  if len(found) > 1:
    raise ValueError(f"data: {str(path)!r} has {' and '.join(found)}; name the folder of one.")
  if not found:
    raise _absent(path)
  return next(iter(found.values()))


def _absent(path: pathlib.Path) -> ValueError:
  archives = ", ".join(form.archive for form in FORMS)
  lacks = "has no CIFAR in it" if path.exists() else "does not exist"
  return ValueError(
    f"data: {str(path)!r} {lacks}; give {archives} (https://www.cs.toronto.edu/~kriz/cifar.html), or the"
    " folder that is in it."
  )


def _of_folder(place: pathlib.Path) -> dict[str, bytes]:
  """The files of a folder that are of the first form in it."""
  form = next(form for form in FORMS if (place / form.meta).is_file())
  found = {}
  for name in (form.meta, form.test, *form.train):
    if (place / name).is_file():
      with _guarded(place, name):
        found[name] = (place / name).read_bytes()
  return found


def _of_archive(place: pathlib.Path) -> dict[str, bytes]:
  """The files of an archive that are of any form, in memory: nothing is unpacked."""
  names = {name for form in FORMS for name in (form.meta, form.test, *form.train)}
  found: dict[str, bytes] = {}
  twice = []
  try:
    with tarfile.open(place) as archive:
      for member in archive:
        name = pathlib.PurePosixPath(member.name).name
        if member.isfile() and name in names and member.size <= LARGEST:
          content = archive.extractfile(member)
          twice += [name] * (name in found)
          found[name] = b"" if content is None else content.read()
  except Exception as error:  # damaged archives raise almost anything
    raise ValueError(
      f"data: the archive {str(place)!r} cannot be read ({one_line(error)}); download it again."
    ) from error
  if twice:
    raise ValueError(
      f"data: the archive {str(place)!r} has {twice[0]} twice; leave only one of them in it."
    )
  return found


def _classes(content: bytes, form: Form) -> tuple[str, ...]:
  """Names of the classes."""
  labels = form.labels
  names = content.split() if labels is None else _entry(read_plain(content), labels[1])
  if not isinstance(names, list) or not names:
    raise ValueError("it names no classes")
  return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)


def _batch(content: bytes, form: Form, classes: int) -> Part:
  """Pixels and labels of a file."""
  if form.labels is None:
    size = form.before + PIXELS
    if len(content) % size:
      raise ValueError(f"it ends within a record of {size:,} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    labels, pixels = records[:, form.before - 1].astype(np.int32), records[:, form.before :]
  else:
    batch = read_plain(content)
    pixels, said = bytes_of(_entry(batch, "data")), _entry(batch, form.labels[0])
    if not isinstance(said, list) or not all(type(label) is int for label in said):
      raise ValueError("its labels are no whole numbers")
    if pixels.shape != (len(said), PIXELS):
      raise ValueError(f"it has pixels of shape {pixels.shape} and {len(said):,} labels")
    labels = np.array(said, np.int64)
  if not len(labels):
    raise ValueError("it has no images")
  if not 0 <= labels.min() <= labels.max() < classes:
    raise ValueError(f"its labels are {labels.min()} to {labels.max()}, for {classes} classes")
  images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
  return Part(np.ascontiguousarray(images), labels.astype(np.int32))


def _entry(found: Any, key: str) -> Any:
  """The value under a key of a dict of Python 2 or 3."""
  for name in (key, key.encode()):
    if isinstance(found, dict) and name in found:
      return found[name]
  raise ValueError(f"it has no {key}")


@contextlib.contextmanager
def _guarded(place: pathlib.Path, name: str) -> Iterator[None]:
  """Names the file of which something is wrong."""
  try:
    yield
  except (OSError, OverflowError, ValueError) as error:
    raise ValueError(
      f"data: {name} in {str(place)!r} cannot be used ({one_line(error)}); download it again."
    ) from error
