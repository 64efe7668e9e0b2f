"""Between a step and its networks: images, labels, outputs, cached teachers."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.distill.adapters import OURS, reads_pixels, to_endpoints
from jaxcompress.distill.labels import classes_of, shares
from jaxcompress.nn import Endpoints
from jaxcompress.nn.variables import blames

PIXELS = "pixels of teachers"
SAW = " saw "  # in the name of a batch's entry, before an augmentation


@dataclasses.dataclass(frozen=True)
class CachedTeacher:
  """Stands for a network among ``Recipe.teachers``; its variables are ``{}``.

  Its logits are ``batch["teacher_logits"]`` (batch, classes) and, where a loss wants them, its pooled
  features ``batch["teacher_pooled"]`` (batch, features), of any float dtype. Losses that read maps or
  the teacher's parameters need the network itself. An entry named by :func:`seen_through` says which
  augmentation the teacher saw; batches of :class:`~jaxcompress.data.TeacherCache` have one, and a
  recipe with another augmentation is refused.

  Attributes:
    prefix: of the two names, for several teachers.

  Examples:
    >>> batch = {"teacher_logits": jnp.ones((2, 3), jnp.bfloat16)}
    >>> CachedTeacher().from_batch(batch).logits.dtype.name
    'float32'
  """

  prefix: str = "teacher"

  def from_batch(
    self, batch: Mapping[str, Any], augment: Callable[..., Any] | None = None
  ) -> Endpoints:
    """The outputs for a batch.

    Args:
      batch: with the outputs.
      augment: what the student sees its images through.

    Raises:
      ValueError: if the batch has no logits of it, or of images seen through something else.
    """
    if f"{self.prefix}_logits" not in batch:
      raise ValueError(
        f"batch: it has {', '.join(batch)}, but no '{self.prefix}_logits'; take batches from"
        " TeacherCache.batch_at, or give the recipe the network itself."
      )
    marks = [name for name in batch if name.startswith(f"{self.prefix}{SAW}")]
    if marks and marks != [seen_through(augment, self.prefix)]:
      seen = marks[0].removeprefix(f"{self.prefix}{SAW}")
      raise ValueError(
        f"augment: the recipe's is {augment!r}, but the cached teacher saw its images through {seen};"
        " give the recipe that very augmentation, or cache the teacher again with the recipe's."
      )
    pooled = batch.get(f"{self.prefix}_pooled")
    return Endpoints(
      logits=jnp.asarray(batch[f"{self.prefix}_logits"], jnp.float32),
      pooled=None if pooled is None else jnp.asarray(pooled, jnp.float32),
    )


def seen_through(augment: Any, prefix: str = "teacher") -> str:
  """Name of a batch's entry that says through which augmentation a cached teacher saw the images.

  The name alone says it, since a jitted step knows names when it is compiled, but no values.

  Examples:
    >>> seen_through(None)
    'teacher saw None'
  """
  return f"{prefix}{SAW}{augment!r}"


def run_teachers(
  teachers: tuple[Any, ...],
  variables: tuple[Any, ...],
  batch: Mapping[str, jax.Array],
  augment: Callable[..., Any] | None,
) -> tuple[Endpoints, ...]:
  """Runs the teachers on a batch; a :class:`CachedTeacher` has been run before.

  Those with a ``preprocess`` of their own read ``batch[PIXELS]``, the others ``batch["image"]``.
  """
  endpoints = []
  for i, (teacher, own) in enumerate(zip(teachers, variables, strict=True)):
    if isinstance(teacher, CachedTeacher):
      endpoints.append(teacher.from_batch(batch, augment))
      continue
    with blames(f"teacher_variables[{i}]"):
      images = batch[PIXELS if reads_pixels(teacher) else "image"]
      result = teacher.apply(own, images, train=False)
      # what is adapted says which its logits are; a network of ours gives what a student may
      endpoints.append(to_endpoints(result, any_shape=not isinstance(teacher, OURS)))
  return tuple(endpoints)


def with_pixels(
  teachers: tuple[Any, ...], batch: Mapping[str, Any], pixels: jax.Array
) -> Mapping[str, Any]:
  """A batch for teachers, with the images before preprocessing where one of them reads these."""
  return {**batch, PIXELS: pixels} if any(map(reads_pixels, teachers)) else batch


def to_network_input(preprocess: Callable[[Any], Any] | None, images: jax.Array) -> jax.Array:
  """Images as the networks read them."""
  if preprocess is not None:
    return preprocess(images)
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f"batch: images are {images.dtype} and the recipe has no preprocess; give it one, or pass"
      " float images."
    )
  return images


def hits(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Which examples are classified right: (batch,) float32, 1 or 0; of maps the share of their pixels.

  Args:
    logits: (batch, classes), or (batch, height, width, classes).
    label: integers of the same shape without the classes.

  Raises:
    ValueError: if the labels have another shape.

  Examples:
    >>> hits(jnp.eye(2), jnp.array([0, 0])).tolist()
    [1.0, 0.0]
  """
  if label.shape != logits.shape[:-1]:
    raise ValueError(
      f"batch: 'label' has shape {label.shape}; it must be {logits.shape[:-1]}, a class for each of"
      f" the logits {logits.shape}. Give what is no class another name."
    )
  return per_example((jnp.argmax(logits, -1) == label).astype(jnp.float32))


def per_example(values: jax.Array) -> jax.Array:
  """The mean of each example's numbers, (batch,).

  Examples:
    >>> per_example(jnp.array([[1.0, 3.0], [5.0, 5.0]])).tolist(), per_example(jnp.ones(2)).tolist()
    ([2.0, 5.0], [1.0, 1.0])
  """
  return jnp.mean(values, axis=tuple(range(1, values.ndim))) if values.ndim > 1 else values


def split_labels(batch: Mapping[str, Any]) -> dict[str, Any]:
  """Soft labels moved to ``target``, their likeliest class left in ``label``.

  So every loss and metric reads the same two entries, wherever soft labels came from. Classes become
  int32. A row of soft labels with a negative number, or one that does not sum to 1, becomes NaN, and
  of no class: a loss that reads it is NaN, and the step leaves the batch out.

  Args:
    batch: with ``label``, (batch,) integers or (batch, classes) of any dtype whose rows sum to 1.

  Raises:
    ValueError: if soft labels come both as ``label`` and as ``target``, there is one class, or
      ``label`` (batch,) is no integer.

  Examples:
    >>> batch = split_labels({"label": jnp.array([[0.3, 0.7]])})
    >>> batch["label"].tolist(), [round(p, 3) for p in batch["target"][0].tolist()]
    ([1], [0.3, 0.7])
  """
  batch = dict(batch)
  label = batch.get("label")
  if label is None or jnp.ndim(label) != 2:
    return batch if label is None else {**batch, "label": classes_of(label)}
  if jnp.shape(label)[1] == 1:
    raise ValueError(
      f"batch: 'label' has shape {jnp.shape(label)}; classes have shape {jnp.shape(label)[:1]}, and"
      " soft labels (batch, classes)."
    )
  if "target" in batch:
    raise ValueError("batch: 'label' is soft and there is a 'target' as well; give one of them.")
  target = shares(label)
  likeliest = jnp.where(jnp.isnan(target[:, 0]), -1, jnp.argmax(target, -1))
  return {**batch, "target": target, "label": likeliest.astype(jnp.int32)}
