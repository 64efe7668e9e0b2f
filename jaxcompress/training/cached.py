"""Teachers whose outputs come with the batch, computed once and read from then on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxcompress.nn import Endpoints


@dataclasses.dataclass(frozen=True)
class CachedTeacher:
  """Stands for a network among ``Recipe.teachers``; its variables are ``{}``.

  Its logits are ``batch["teacher_logits"]`` (batch, classes) and, where a loss wants them, its pooled
  features ``batch["teacher_pooled"]`` (batch, features), of any float dtype. Losses that read maps or
  the teacher's parameters need the network itself.

  Attributes:
    prefix: of the two names, for several teachers.

  Examples:
    >>> batch = {"teacher_logits": jnp.ones((2, 3), jnp.bfloat16)}
    >>> CachedTeacher().from_batch(batch).logits.dtype.name
    'float32'
  """

  prefix: str = "teacher"

  def from_batch(self, batch: Mapping[str, Any]) -> Endpoints:
    """The outputs for a batch.

    Raises:
      ValueError: if the batch has no logits of it.
    """
    if f"{self.prefix}_logits" not in batch:
      raise ValueError(
        f"batch: it has {', '.join(batch)}, but no '{self.prefix}_logits'; take batches from"
        " TeacherCache.batch_at, or give the recipe the network itself."
      )
    pooled = batch.get(f"{self.prefix}_pooled")
    return Endpoints(
      logits=jnp.asarray(batch[f"{self.prefix}_logits"], jnp.float32),
      pooled=None if pooled is None else jnp.asarray(pooled, jnp.float32),
    )
