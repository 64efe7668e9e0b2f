"""A teacher's outputs on disk, computed once for every example and a few augmentations of it."""

import dataclasses
import hashlib
import itertools
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.arguments import check_whole
from jaxcompress.data.augment.basic import Transform
from jaxcompress.data.batches import Batch, batch_at, eval_batches
from jaxcompress.data.onnx_teacher import OnnxTeacher
from jaxcompress.data.parts import Split
from jaxcompress.data.storage import in_chunks
from jaxcompress.data.stored_teacher import StoredTeacher
from jaxcompress.distill.adapters import as_teacher, own_variables, reads_pixels, to_endpoints
from jaxcompress.files.checksums import FOLDER_FILE, find_damage, write_checksums
from jaxcompress.files.places import check_local
from jaxcompress.files.values import read_json, sealed_json
from jaxcompress.files.writing import write_atomically
from jaxcompress.nn.graph import LOGITS
from jaxcompress.training.networks import seen_through

FACTS = "cache.json"  # written last: without it, the other files are half-written
NAMES = (LOGITS, "pooled")
BYTES = 2  # of a bfloat16
ALIKE = 0.02  # of the mean magnitude, by which outputs of one teacher may differ between machines
TINY = 1e-6


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
    pooled: (cycles, examples, features), likewise; None where the teacher has none.
    augment: through which the teacher saw the images; None: as they are.
  """

  split: Split
  logits: np.ndarray
  pooled: np.ndarray | None
  augment: PerExample | None = None

  def __repr__(self) -> str:
    features = "" if self.pooled is None else f", {self.pooled.shape[-1]} features"
    cycles, _, classes = self.logits.shape
    return f"TeacherCache({self.split}, {cycles} cycles, {classes} classes{features})"

  def batch_at(self, batch_size: int, *, seed: int, position: int) -> Batch:
    """The training batch at a position, with the teacher's outputs for it.

    Returns:
      As :func:`~jaxcompress.data.batch_at`, with ``cycle`` (batch,) int32, ``teacher_logits`` and, if
      there are any, ``teacher_pooled``, bfloat16, and an entry (batch,) bool whose name tells the recipe's step which
      augmentation the teacher saw. An example's cycle is its epoch modulo the number of cycles.
    """
    batch = batch_at(self.split, batch_size, seed=seed, position=position)
    return self.with_outputs(batch, batch_size, position=position)

  def with_outputs(
    self, batch: Batch, batch_size: int, *, position: int, rows: np.ndarray | None = None
  ) -> Batch:
    """A training batch at a position that was read already, with the teacher's outputs for it.

    Args:
      batch: as :func:`~jaxcompress.data.batch_at` or :class:`~jaxcompress.data.Stream` gives it.
      batch_size: examples in a batch, of all processes together.
      position: number of the batch.
      rows: which of the batch's examples it has; None: all.
    """
    place = position * batch_size + (np.arange(batch_size) if rows is None else rows)
    cycle = (place // len(self.split) % len(self.logits)).astype(np.int32)
    stored = {name: getattr(self, name) for name in NAMES}
    found = {
      f"teacher_{name}": array[cycle, batch["index"]]
      for name, array in stored.items()
      if array is not None
    }
    mark = {seen_through(self.augment): np.ones(len(place), bool)}
    return {**batch, "cycle": cycle, **found, **mark}


def cache_teacher(
  folder: str | pathlib.Path,
  model: Any,
  variables: Any,
  split: Split,
  *,
  augment: PerExample | None,
  preprocess: Callable[[Any], Any] | None = None,
  cycles: int = 1,
  batch_size: int = 250,
) -> TeacherCache:
  """Opens a teacher's outputs, or computes them where they are not, not all there, or damaged.

  Those that are opened are compared with what the teacher gives for the first batch. With it the
  teacher's pass is paid once for each example and cycle, whatever the number of epochs;
  the student then sees ``cycles`` augmentations of every image, again and again. Give the recipe
  ``teachers=(CachedTeacher(),)``, the same ``augment``, ``teacher_variables=({},)``, and batches of
  :meth:`TeacherCache.batch_at`; a recipe that augments otherwise is refused.

  Args:
    folder: where they lie; 2 bytes for each class and feature, example and cycle.
    model: the teacher: any that a recipe takes, an :class:`OnnxTeacher` or a :class:`StoredTeacher`.
    variables: its variables; None for the last two, and where an NNX module brings its own.
    split: the examples.
    augment: what the student will see its images through too, or None for images as they are.
    preprocess: maps images to what the teacher reads; the student's may be another. None: an .onnx
      file's own, if it says one.
    cycles: augmentations of each example.
    batch_size: examples at once.

  Returns:
    A :class:`TeacherCache`.

  Raises:
    ValueError: if a number is not positive, ``augment`` is no :class:`PerExample`, the teacher cannot
      be run, its outputs are not finite or those of some images are missing, or the folder holds
      outputs of another teacher, other examples, another augmentation or preprocessing, or other files.

  Examples:
    >>> import tempfile
    >>> from jaxcompress.data import Augment
    >>> from jaxcompress.nn import Endpoints
    >>> def teacher(variables, images):
    ...   pooled = jnp.mean(images, (1, 2))
    ...   return Endpoints(logits=2 * pooled, pooled=pooled)
    >>> split = Split(np.full((4, 8, 8, 3), 5, np.uint8), np.arange(4, dtype=np.int32))
    >>> augment = PerExample(Augment(crop=0, flip=True))
    >>> cache = cache_teacher(tempfile.mkdtemp() + "/cache", teacher, {}, split, augment=augment)
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
  check_local("folder", folder, "its files are mapped into memory")
  folder = pathlib.Path(folder)
  run = _runner(model, variables, split, augment, preprocess, cycles, batch_size)
  facts = {
    "cycles": cycles,
    "examples": len(split),
    "augment": repr(augment),
    "preprocess": getattr(preprocess, "__qualname__", repr(preprocess)),
    "teacher": run.teacher,
    "images": _digest(itertools.chain(in_chunks(split.images), [split.labels])),
  }
  stored = _whole(folder)
  is_there = stored is not None
  if stored is not None:
    differing = [name for name, value in facts.items() if stored.get(name) != value]
    if differing:
      raise ValueError(
        f"folder: {folder} was made with another {differing[0]}; name another folder, or delete it."
      )
  else:
    stored = _compute(folder, run.outputs(), facts)
  logits, pooled = (
    np.memmap(folder / name, np.uint16, "r", shape=tuple(stored[name])).view(jnp.bfloat16)
    if name in stored
    else None
    for name in NAMES
  )
  assert logits is not None  # every teacher has some
  if is_there:
    _check_same(folder, {LOGITS: logits} | ({} if pooled is None else {NAMES[1]: pooled}), run)
  return TeacherCache(split, logits, pooled, augment)


def _whole(folder: pathlib.Path) -> dict[str, Any] | None:
  """Reads what a folder says about itself; None where files are missing or damaged."""
  try:
    stored = read_json(folder / FACTS, str(folder / FACTS))
    shapes = {name: stored[name] for name in NAMES if name in stored or name == LOGITS}
    sizes = {name: BYTES * int(np.prod(shape, dtype=object)) for name, shape in shapes.items()}
    if any((folder / name).stat().st_size != size for name, size in sizes.items()):
      return None
    stored["augment"] = stored["augment"].replace("Chain(", "Composed(")  # as it was called before
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return None
  return None if find_damage(folder) else stored


class Piece(NamedTuple):
  """Outputs of some examples in a cycle."""

  cycle: int
  places: np.ndarray
  arrays: Mapping[str, np.ndarray]


class _Runner(NamedTuple):
  """Identity of a teacher, and its outputs."""

  teacher: str
  outputs: Callable[[], Iterable[Piece]]


def _runner(
  model: Any,
  variables: Any,
  split: Split,
  augment: PerExample | None,
  preprocess: Callable[[Any], Any] | None,
  cycles: int,
  batch_size: int,
) -> _Runner:
  """How a teacher of any kind is run."""
  if isinstance(model, OnnxTeacher | StoredTeacher) and variables not in (None, {}):
    raise ValueError("variables: an ONNX file and stored outputs have no variables; give None.")
  if isinstance(model, StoredTeacher):
    for argument, asked in (
      ("augment", augment is not None),
      ("preprocess", preprocess is not None),
      ("cycles", cycles != 1),
    ):
      if asked:
        raise ValueError(f"{argument}: stored outputs are of images as they are; leave it out.")
    return _Runner(model.fingerprint, lambda: (Piece(0, *rows) for rows in model.rows(split)))
  if isinstance(model, OnnxTeacher):
    preprocess = model.preprocess if preprocess is None else preprocess
    if preprocess is None and model.dtype != np.uint8:
      raise ValueError(
        f"preprocess: {model.path} reads floats and does not state how pixels are normalized; give"
        " preprocess, such as data.Preprocess(center=127.5, scale=127.5, per_image=False)."
      )
    teacher = model.fingerprint

    def one(batch):
      found = model(_seen(augment, preprocess, batch))
      return {name: x for name, x in zip(NAMES, found, strict=False) if x is not None}
  else:
    network = as_teacher("model", model)
    own = own_variables(network) if variables is None else variables
    if own is None:
      raise ValueError(
        "variables: they are missing, and the teacher holds no variables; give its own."
      )
    teacher = _digest(jax.tree.leaves(jax.device_get(own)))
    if not isinstance(network, nn.Module):  # whose function and layers may differ
      teacher += f" {network.title}"

    def one(batch):
      return jax.device_get(_outputs(network, augment, preprocess, own, batch))

  def outputs():
    for cycle in range(cycles):
      for batch in eval_batches(split, batch_size):
        mask = batch["mask"]
        batch["cycle"] = np.full(batch_size, cycle, np.int32)
        yield Piece(cycle, batch["index"][mask], {n: x[mask] for n, x in one(batch).items()})

  return _Runner(teacher, outputs)


@partial(jax.jit, static_argnums=(0, 1))
def _seen(augment, preprocess, batch):
  """Images as a teacher reads them."""
  images = batch["image"] if augment is None else augment(jax.random.key(0), batch)["image"]
  return images if preprocess is None else preprocess(images)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _outputs(model, augment, preprocess, variables, batch):
  images = _seen(augment, None if reads_pixels(model) else preprocess, batch)
  found = to_endpoints(model.apply(variables, images, train=False))
  outputs = {name: getattr(found, name) for name in NAMES}
  return {name: x.astype(jnp.bfloat16) for name, x in outputs.items() if x is not None}


def _compute(folder: pathlib.Path, outputs: Iterable[Piece], facts: Any) -> dict[str, Any]:
  """Writes all outputs, and last of all what they are."""
  if folder.exists():
    _check_own(folder)
    shutil.rmtree(folder)
  folder.mkdir(parents=True)
  files: dict[str, np.memmap] = {}
  for cycle, index, arrays in outputs:
    for name, found in arrays.items():
      if name not in files:
        shape = (facts["cycles"], facts["examples"], found.shape[-1])
        files[name] = np.memmap(folder / name, np.uint16, "w+", shape=shape)
      _check_outputs(name, found, index, files[name].shape[-1])
      files[name][cycle, index] = found.astype(jnp.bfloat16).view(np.uint16)
    if missing := [name for name in files if name not in arrays]:
      raise ValueError(f"model: it has {missing[0]!r} of some images and not of image {index[0]}.")
  for file in files.values():
    file.flush()
  stored = {**facts, **{name: list(file.shape) for name, file in files.items()}}
  write_checksums(folder, [folder / name for name in files])
  write_atomically(folder / FACTS, sealed_json(stored))
  return stored


def _check_outputs(name: str, found: np.ndarray, index: np.ndarray, width: int) -> None:
  if found.shape != (len(index), width):
    raise ValueError(
      f"model: its {name} of image {index[0]} have shape {found.shape[1:]} and those of others"
      f" {(width,)}; all must be alike."
    )
  finite = np.isfinite(found).all(axis=-1)
  if not finite.all():
    raise ValueError(
      f"model: its {name} of image {index[np.argmin(finite)]} are not finite numbers."
    )


def _check_same(folder: pathlib.Path, stored: Mapping[str, np.ndarray], run: _Runner) -> None:
  """Raises if a teacher gives other outputs than are stored, as with other layers or pixels."""
  cycle, places, arrays = next(iter(run.outputs()))
  for name in stored.keys() | arrays.keys():
    if name in stored and name in arrays:
      was, now = (np.float64(x) for x in (stored[name][cycle, places], arrays[name]))
      if was.shape == now.shape and np.abs(now - was).mean() <= ALIKE * np.abs(was).mean() + TINY:
        continue
    raise ValueError(
      f"folder: {folder} holds other {name} of image {places[0]} and those after it than this teacher"
      " gives; its layers, preprocess or augment are others. Name another folder, or delete it."
    )


def _check_own(folder: pathlib.Path) -> None:
  """Raises if a folder that would be emptied holds something else than outputs of a teacher."""
  known = (*NAMES, FACTS, f"{FACTS}.partial", FOLDER_FILE)
  others = sorted(path.name for path in folder.iterdir() if path.name not in known)
  if others:
    raise ValueError(
      f"folder: {folder} holds {others[0]!r}, which is no output of a teacher; name another folder."
    )


def _digest(arrays: Iterable[Any]) -> str:
  """Returns a hash of the bytes of arrays."""
  found = hashlib.blake2b(digest_size=16)
  for array in arrays:
    found.update(np.ascontiguousarray(array).data.cast("B"))
  return found.hexdigest()
