"""A teacher's outputs on disk, computed once for every example and a few augmentations of it."""

import dataclasses
import hashlib
import pathlib
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.arguments import check_whole
from jaxcompress.data.augment.basic import Transform
from jaxcompress.data.batches import Batch, batch_at, eval_batches
from jaxcompress.data.dataset import Split
from jaxcompress.files.checksums import FOLDER_FILE, find_damage, write_checksums
from jaxcompress.files.values import read_json, sealed_json
from jaxcompress.files.writing import write_atomically
from jaxcompress.training.networks import seen_through

FACTS = "cache.json"  # written last: without it, the other files are half-written
NAMES = ("logits", "pooled")
BYTES = 2  # of a bfloat16


@dataclasses.dataclass(frozen=True)
class PerExample:
  """An augmentation that depends on the example and its cycle alone, not on the step.

  The key of an example is ``seed`` with ``batch["index"]`` and ``batch["cycle"]`` folded in, so what
  a teacher saw once is what the student sees whenever that cycle comes round.

  Attributes:
    augment: ``(rng, batch) -> batch``; it must not mix examples.
    seed: of all keys.

  Examples:
    >>> from jaxcompress.data import Augment
    >>> image = jnp.arange(64, dtype=jnp.uint8).reshape(1, 8, 8, 1).repeat(2, axis=0)
    >>> batch = {"image": image, "index": jnp.array([7, 7]), "cycle": jnp.array([0, 0])}
    >>> out = PerExample(Augment(crop=3))(jax.random.key(0), batch)["image"]
    >>> bool(jnp.all(out[0] == out[1]))
    True
  """

  augment: Transform
  seed: int = 0

  def __call__(self, rng: jax.Array, batch: Any) -> dict[str, Any]:
    """Augments ``image``; the key of the step is not used."""
    del rng

    def one(image, index, cycle):
      key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), index), cycle)
      alone = {"image": image[None], "label": jnp.zeros(1, jnp.int32)}
      out = self.augment(key, alone)
      if "target" in out:
        raise ValueError(
          f"augment: {self.augment} mixes examples, which cannot be cached; leave mixing out."
        )
      return out["image"][0]

    images = jax.vmap(one)(*(jnp.asarray(batch[name]) for name in ("image", "index", "cycle")))
    return {**batch, "image": images}


@dataclasses.dataclass(frozen=True, eq=False)
class TeacherCache:
  """Outputs of a teacher; see :func:`cache_teacher`.

  Attributes:
    split: the examples.
    logits: (cycles, examples, classes) bfloat16, mapped from disk.
    pooled: (cycles, examples, features), likewise.
    augment: through which the teacher saw the images; None: as they are.
  """

  split: Split
  logits: np.ndarray
  pooled: np.ndarray
  augment: PerExample | None = None

  def batch_at(self, batch_size: int, *, seed: int, position: int) -> Batch:
    """The training batch at a position, with the teacher's outputs for it.

    Returns:
      As :func:`~jaxcompress.data.batch_at`, with ``cycle`` (batch,) int32, ``teacher_logits`` and
      ``teacher_pooled``, bfloat16, and an entry (batch,) bool whose name tells the recipe's step which
      augmentation the teacher saw. An example's cycle is its epoch modulo the number of cycles.
    """
    batch = batch_at(self.split, batch_size, seed=seed, position=position)
    place = position * batch_size + np.arange(batch_size)
    cycle = (place // len(self.split) % len(self.logits)).astype(np.int32)
    found = {f"teacher_{n}": getattr(self, n)[cycle, batch["index"]] for n in NAMES}
    mark = {seen_through(self.augment): np.ones(batch_size, bool)}
    return {**batch, "cycle": cycle, **found, **mark}


def cache_teacher(
  folder: str | pathlib.Path,
  model: nn.Module,
  variables: Any,
  split: Split,
  *,
  augment: PerExample | None,
  preprocess: Callable[[Any], Any] | None = None,
  cycles: int = 1,
  batch_size: int = 250,
) -> TeacherCache:
  """Opens a teacher's outputs, or computes them where they are not, not all there, or damaged.

  With it the teacher's pass is paid once for each example and cycle, whatever the number of epochs;
  the student then sees ``cycles`` augmentations of every image, again and again. Give the recipe
  ``teachers=(CachedTeacher(),)``, the same ``augment``, ``teacher_variables=({},)``, and batches of
  :meth:`TeacherCache.batch_at`; a recipe that augments otherwise is refused.

  Args:
    folder: where they lie; 2 bytes for each class and feature, example and cycle.
    model: the teacher.
    variables: its variables.
    split: the examples.
    augment: what the student will see its images through too, or None for images as they are.
    preprocess: maps images to what the teacher reads; the student's may be another.
    cycles: augmentations of each example.
    batch_size: examples at once.

  Returns:
    A :class:`TeacherCache`.

  Raises:
    ValueError: if a number is not positive, ``augment`` is no :class:`PerExample`, or the folder holds
      outputs of another teacher, other examples or another augmentation, or other files.

  Examples:
    >>> import tempfile
    >>> from jaxcompress.data import Augment
    >>> from jaxcompress.nn import Endpoints
    >>> class Teacher(nn.Module):
    ...   def __call__(self, x, *, train):
    ...     pooled = jnp.mean(x, (1, 2))
    ...     return Endpoints(logits=2 * pooled, pooled=pooled)
    >>> split = Split(np.full((4, 8, 8, 3), 5, np.uint8), np.arange(4, dtype=np.int32))
    >>> augment = PerExample(Augment(crop=0, flip=True))
    >>> cache = cache_teacher(tempfile.mkdtemp() + "/cache", Teacher(), {}, split, augment=augment)
    >>> batch = cache.batch_at(2, seed=0, position=0)
    >>> batch["teacher_logits"].tolist()
    [[10.0, 10.0, 10.0], [10.0, 10.0, 10.0]]
  """
  check_whole("cycles", cycles, 1)
  check_whole("batch_size", batch_size, 1)
  if augment is not None and not isinstance(augment, PerExample):
    raise ValueError(
      f"augment must be a PerExample, so that the student sees the same, or None, got {augment!r};"
      f" write PerExample({augment!r})."
    )
  folder = pathlib.Path(folder)
  facts = {
    "cycles": cycles,
    "examples": len(split),
    "augment": repr(augment),
    "preprocess": getattr(preprocess, "__qualname__", repr(preprocess)),
    "teacher": _digest(jax.tree.leaves(jax.device_get(variables))),
    "images": _digest([split.images, split.labels]),
  }
  stored = _whole(folder)
  if stored is not None:
    differing = [name for name, value in facts.items() if stored.get(name) != value]
    if differing:
      raise ValueError(
        f"folder: {folder} was made with another {differing[0]}; name another folder, or delete it."
      )
  else:
    outputs = partial(_outputs, model, augment, preprocess, variables)
    stored = _compute(folder, outputs, split, facts, batch_size)
  logits, pooled = (
    np.memmap(folder / name, np.uint16, "r", shape=tuple(stored[name])).view(jnp.bfloat16)
    for name in NAMES
  )
  return TeacherCache(split, logits, pooled, augment)


def _whole(folder: pathlib.Path) -> dict[str, Any] | None:
  """Reads what a folder says about itself; None where files are missing or damaged."""
  try:
    stored = read_json(folder / FACTS, str(folder / FACTS))
    sizes = {name: BYTES * int(np.prod(stored[name], dtype=object)) for name in NAMES}
    if any((folder / name).stat().st_size != size for name, size in sizes.items()):
      return None
    stored["augment"] = stored["augment"].replace("Chain(", "Composed(")  # as it was called before
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return None
  return None if find_damage(folder) else stored


@partial(jax.jit, static_argnums=(0, 1, 2))
def _outputs(model, augment, preprocess, variables, batch):
  images = batch["image"] if augment is None else augment(jax.random.key(0), batch)["image"]
  found = model.apply(variables, images if preprocess is None else preprocess(images), train=False)
  return tuple(getattr(found, name).astype(jnp.bfloat16) for name in NAMES)


def _compute(
  folder: pathlib.Path, outputs: Callable[[Any], Any], split: Split, facts: Any, batch_size: int
) -> dict[str, Any]:
  """Writes all outputs, and last of all what they are."""
  if folder.exists():
    _check_own(folder)
    shutil.rmtree(folder)
  folder.mkdir(parents=True)
  files: dict[str, np.memmap] = {}
  for cycle in range(facts["cycles"]):
    for batch in eval_batches(split, batch_size):
      index = batch["index"][batch["mask"]]
      batch["cycle"] = np.full(batch_size, cycle, np.int32)
      for name, found in zip(NAMES, outputs(batch), strict=True):
        if name not in files:
          shape = (facts["cycles"], len(split), found.shape[-1])
          files[name] = np.memmap(folder / name, np.uint16, "w+", shape=shape)
        files[name][cycle, index] = np.asarray(found).view(np.uint16)[: len(index)]
  for file in files.values():
    file.flush()
  stored = {**facts, **{name: list(file.shape) for name, file in files.items()}}
  write_checksums(folder, [folder / name for name in NAMES])
  write_atomically(folder / FACTS, sealed_json(stored))
  return stored


def _check_own(folder: pathlib.Path) -> None:
  """Raises if a folder that would be emptied holds something else than outputs of a teacher."""
  known = (*NAMES, FACTS, f"{FACTS}.partial", FOLDER_FILE)
  others = sorted(path.name for path in folder.iterdir() if path.name not in known)
  if others:
    raise ValueError(
      f"folder: {folder} holds {others[0]!r}, which is no output of a teacher; name another folder."
    )


def _digest(arrays: list[Any]) -> str:
  """Of the bytes of arrays."""
  found = hashlib.blake2b(digest_size=16)
  for array in arrays:
    found.update(np.ascontiguousarray(array).data.cast("B"))
  return found.hexdigest()
