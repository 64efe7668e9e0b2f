"""Teachers whose outputs come with the batch, computed once and read from then on."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxcompress.nn import Endpoints

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
