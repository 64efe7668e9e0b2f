"""Labels of a batch, as classes and as soft targets."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.distill import labels


def hits(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Which examples are classified right: (batch,) float32, 1 or 0.

  Args:
    logits: (batch, classes).
    label: (batch,) integers.

  Raises:
    ValueError: if the labels have another shape.

  Examples:
    >>> hits(jnp.eye(2), jnp.array([0, 0])).tolist()
    [1.0, 0.0]
  """
  if label.shape != logits.shape[:1]:
    raise ValueError(f"batch: 'label' has shape {label.shape}; it must be {logits.shape[:1]}.")
  return (jnp.argmax(logits, -1) == label).astype(jnp.float32)


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
    return batch if label is None else {**batch, "label": labels.classes_of(label)}
  if jnp.shape(label)[1] == 1:
    raise ValueError(
      f"batch: 'label' has shape {jnp.shape(label)}; classes have shape {jnp.shape(label)[:1]}, and"
      " soft labels (batch, classes)."
    )
  if "target" in batch:
    raise ValueError("batch: 'label' is soft and there is a 'target' as well; give one of them.")
  target = labels.shares(label)
  likeliest = jnp.where(jnp.isnan(target[:, 0]), -1, jnp.argmax(target, -1))
  return {**batch, "target": target, "label": likeliest.astype(jnp.int32)}
