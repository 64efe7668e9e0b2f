"""Arrays of images and labels in a file: ``npz:FILE``."""

import pathlib

import numpy as np

from jaxcompress.data import walk
from jaxcompress.data.dataset import Dataset
from jaxcompress.data.reader import ImageReader

WORDS = {  # of which names of arrays in a file are made
  "images": ("x", "images", "image", "imgs", "data", "pixels"),
  "labels": ("y", "labels", "label", "targets", "target"),
  "train": ("train", "training"),
  "validation": ("val", "valid", "validation", "dev"),
  "test": ("test", "testing"),
}
CLASSES = ("classes", "class_names", "label_names", "labels_names", "names")


def archive(
  path: str,
  *,
  seed: int = 0,
  reader: ImageReader = ImageReader(),  # noqa: B008  # frozen
  limit: int | None = None,
  in_memory: bool | None = None,
  strict: bool = False,
) -> Dataset:
  """Images and labels from a file of ``numpy.savez``, such as Keras' and MedMNIST's.

  Arrays are called ``x`` or ``images`` and ``y`` or ``labels``, with ``train``, ``val`` or ``test``
  before or after where there are parts: ``x_train``, ``y_train``, ``x_test``, ``y_test``;
  ``train_images``, ``train_labels``, ... ``classes``, ``class_names`` or ``label_names`` may hold the
  classes' names. What may be in them, and what happens to it, is as with
  :meth:`~jaxcompress.data.Dataset.from_arrays`; grey images become RGB.

  Args:
    path: the file.
    seed: of the splits.
    reader: how pictures become images; without a size they keep their own.
    limit: at most this many images in each part, with the classes' shares kept.
    in_memory: whether images of another size are kept; the arrays are read as a whole in any case.
    strict: whether it is an error where images would be left out.

  Returns:
    A :class:`Dataset` of RGB images.

  Raises:
    ValueError: if the file cannot be read, its arrays have other names or hold something else.

  Examples:
    >>> import tempfile
    >>> file = tempfile.mkdtemp() + "/set.npz"
    >>> images = np.arange(6, dtype=np.uint8).repeat(64).reshape(6, 8, 8)
    >>> np.savez(file, images=images, labels=np.arange(6) % 2, classes=["cat", "dog"])
    >>> archive(file).train.images.shape
    (2, 8, 8, 3)
  """
  arrays = _arrays(path)
  classes = next((arrays.pop(name) for name in CLASSES if name in arrays), None)
  found: dict[str, dict[str, np.ndarray]] = {}
  for name, values in arrays.items():
    part, role = _role(name)
    if part is None or role is None:
      continue
    if role in found.setdefault(part, {}):
      raise ValueError(
        f"data: the file {path!r} has two arrays of {part} {role}; leave one of them."
      )
    found[part][role] = values
  if "train" not in found or any(len(roles) < 2 for roles in found.values()):
    raise ValueError(
      f"data: the file {path!r} has the arrays {walk.printable(', '.join(arrays)) or 'none'}; it must have"
      " images and labels, or x_train, y_train, x_test and y_test."
    )
  pairs = {part: (roles["images"], roles["labels"]) for part, roles in found.items()}
  try:
    return Dataset.from_arrays(
      *pairs["train"],
      classes=None if classes is None else classes.tolist(),
      validation=pairs.get("validation"),
      test=pairs.get("test"),
      name=f"npz:{walk.printable(path)}",
      seed=seed,
      reader=reader,
      limit=limit,
      in_memory=in_memory,
      strict=strict,
    )
  except ValueError as error:
    if str(error).startswith(("images", "labels")):
      raise ValueError(f"data: the file {path!r}: {error}") from error
    raise


def _arrays(path: str) -> dict[str, np.ndarray]:
  """All arrays of a file."""
  file = pathlib.Path(path).expanduser()
  try:
    with file.open("rb") as opened:  # NumPy leaves files of its own open where they are damaged
      arrays = np.load(opened, allow_pickle=False)
      if isinstance(arrays, np.ndarray):
        raise ValueError("it is a single array")
      return {name: arrays[name] for name in arrays}
  except MemoryError as error:
    raise ValueError(f"data: the file {path!r} does not fit in memory; use a folder.") from error
  except Exception as error:  # damaged archives raise almost anything
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    text = " ".join(str(reason).split()) or type(error).__name__
    if "pickle" in text.lower():
      text = "it holds Python objects, or is no such file"
    raise ValueError(
      f"data: the file {path!r} cannot be read ({text.rstrip('.')}); it must be one of numpy.savez with"
      " arrays of numbers and text."
    ) from error


def _role(name: str) -> tuple[str | None, str | None]:
  """The part and the role that the name of an array says."""
  words = name.lower().replace("-", "_").split("_")
  said = [next((kind for kind, known in WORDS.items() if word in known), None) for word in words]
  if None in said:
    return None, None
  roles = [kind for kind in said if kind in ("images", "labels")]
  parts = [kind for kind in said if kind not in roles]
  return (parts or ["train"])[0], roles[0] if len(roles) == 1 and len(parts) < 2 else None
