"""Labels: each example's class, or its shares of several."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.distill.base import Batch, on_host

TOLERANCE = 0.01  # of the sum of an example's shares, which bfloat16 rounds


def expected(values: jax.Array, batch: Batch) -> jax.Array:
  """Picks the label's of values that each class has, or takes the mean by soft labels.

  Args:
    values: (batch, classes).
    batch: with ``target`` (batch, classes), shares of the classes, which come first, or ``label``
      (batch,) integers.

  Returns:
    (batch,); NaN where a label is of no class, or shares are negative or do not sum to 1. A class
    without a share costs nothing, whatever its value.

  Raises:
    ValueError: if there are no labels, or their shape or dtype is wrong.

  Examples:
    >>> values = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> expected(values, {"label": jnp.array([1, -1])}).tolist()
    [2.0, nan]
    >>> expected(values, {"target": jnp.array([[0.5, 0.5], [3.0, 0.0]])}).tolist()
    [1.5, nan]
  """
  check_labels(values.shape, batch)
  if "target" in batch:
    return expectation(shares(batch["target"]), values)
  return of_class(values, batch["label"])


def check_labels(shape: tuple[int, ...], batch: Batch) -> None:
  """Checks that a batch has labels for logits of a shape; of their values see :func:`expected`.

  Args:
    shape: (batch, classes).
    batch: what :func:`expected` gets.

  Raises:
    ValueError: if there are no labels, or their shape or dtype is wrong.

  Examples:
    >>> check_labels((2, 5), {"label": jnp.zeros((2, 1), int)})
    Traceback (most recent call last):
    ValueError: batch: 'label' has shape (2, 1); it must be (2,). Soft labels go in 'target'.
  """
  if "target" in batch:
    if jnp.shape(batch["target"]) != shape:
      raise ValueError(
        f"batch: 'target' has shape {jnp.shape(batch['target'])}; soft labels must have that of the"
        f" logits, {shape}."
      )
    return
  if "label" not in batch:
    raise ValueError(f"batch: it has {', '.join(batch) or 'nothing'}, but no 'label' or 'target'.")
  if jnp.shape(batch["label"]) != shape[:-1]:
    raise ValueError(
      f"batch: 'label' has shape {jnp.shape(batch['label'])}; it must be {shape[:-1]}. Soft labels"
      " go in 'target'."
    )
  classes_of(batch["label"])


def classes_of(label: Any) -> jax.Array:
  """Classes as int32, of any integers.

  Raises:
    ValueError: if they are floats or bools.

  Examples:
    >>> classes_of(np.uint8([3, 255])).tolist()
    [3, 255]
  """
  if not jnp.issubdtype(jnp.result_type(label), jnp.integer):
    raise ValueError(
      f"batch: 'label' is {jnp.result_type(label)} of shape {jnp.shape(label)}; classes must be"
      " integers, such as int32, and soft labels have shape (batch, classes)."
    )
  return jnp.asarray(label).astype(jnp.int32)


def shares(target: Any) -> jax.Array:
  """Soft labels in float32; NaN in the rows that are not distributions.

  Args:
    target: (batch, classes) of any dtype.

  Examples:
    >>> shares(jnp.array([[0.5, 0.5], [1.5, -0.5]])).tolist()
    [[0.5, 0.5], [nan, nan]]
  """
  target = jnp.asarray(target).astype(jnp.float32)
  return jnp.where(_are_shares(target)[..., None], target, jnp.nan)


def check_soft_labels(batch: Batch) -> None:
  """The ``check`` of losses that read labels: soft ones must be shares, others fit in int32.

  Args:
    batch: with ``label`` (batch, classes) or ``target``; a label of no class is left alone, with which
      data say that an example has none.

  Raises:
    ValueError: if a share is negative or NaN, a row does not sum to 1, or a label wraps in int32.

  Examples:
    >>> check_soft_labels({"label": np.float32([[0.0, 1.0], [1.5, 1.5]])})
    Traceback (most recent call last):
    ValueError: batch: row 1 of 'label' sums to 3; soft labels must be 0 or more and sum to 1.
  """
  for name in ("label", "target"):
    values = on_host(batch[name]) if name in batch else None
    if values is not None and np.issubdtype(values.dtype, np.integer):
      _check_range(name, values)
    if values is None or values.ndim != 2 or values.shape[1] == 1:
      continue  # what shapes say wrong, init says
    values = values.astype(np.float32)
    if wrong := np.flatnonzero(~_are_shares(values)).tolist():
      row = values[wrong[0]]
      found = f"has {row.min():.3g}" if row.min() < 0 else f"sums to {row.sum():.3g}"
      raise ValueError(
        f"batch: row {wrong[0]} of '{name}' {found}; soft labels must be 0 or more and sum to 1."
      )


def check_classes(check: Callable[[Batch], None], batch: Batch, classes: int) -> None:
  """Checks that labels are of the classes that there are, where a loss reads them as classes.

  Such a loss's ``check`` refuses rows without any share; others do not look.

  Args:
    check: of a loss.
    batch: with ``label`` (batch,) integers, or those of the pixels of maps; soft labels, and arrays
      that are traced or elsewhere, are left alone.
    classes: that the student has.

  Raises:
    ValueError: if a label is of none, with which the loss would be NaN.

  Examples:
    >>> check_classes(check_soft_labels, {"label": np.array([3, 46])}, 10)
    Traceback (most recent call last):
    ValueError: label: 46 is out of range; the student has 10 classes, so labels must be 0 to 9; give it 47 classes, or number labels from 0.
  """
  label = on_host(batch["label"]) if "label" in batch and "target" not in batch else None
  if label is None or label.ndim == 2 or not np.issubdtype(label.dtype, np.integer):
    return
  least, most = int(label.min(initial=0)), int(label.max(initial=0))
  if 0 <= least <= most < classes:
    return
  try:
    check({**batch, "label": jnp.zeros((len(label), max(2, classes)))})
  except ValueError:
    remedy = f"give it {most + 1} classes, or number" if most >= classes else "number"
    raise ValueError(
      f"label: {most if most >= classes else least} is out of range; the student has {classes} classes, so labels must be 0"
      f" to {classes - 1}; {remedy} labels from 0."
    ) from None


def of_class(x: jax.Array, label: jax.Array) -> jax.Array:
  """The entry of each label on the last axis; NaN where there is no such class.

  Examples:
    >>> of_class(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, -1])).tolist()
    [2.0, nan]
  """
  label = classes_of(label)
  label = jnp.where(label < 0, x.shape[-1], label)  # negative ones would count from the end
  return jnp.take_along_axis(x, label[..., None], axis=-1)[..., 0]


def likeliest(batch: Batch) -> jax.Array:
  """Each example's class, for losses that know one alone.

  Args:
    batch: what :func:`expected` gets.

  Returns:
    (batch,) int32: the ``label``, or the first of the largest shares of ``target``; -1, which is of
    no class, where those are no distribution.

  Examples:
    >>> likeliest({"target": jnp.array([[0.2, 0.8], [3.0, 0.0]])}).tolist()
    [1, -1]
  """
  if "target" not in batch:
    return classes_of(batch["label"])
  target = jnp.asarray(batch["target"])
  return jnp.where(_are_shares(target), jnp.argmax(target, axis=-1), -1).astype(jnp.int32)


def expectation(p: jax.Array, x: jax.Array) -> jax.Array:
  """``sum_c p_c x_c`` over the last axis, where an impossible class costs nothing.

  Examples:
    >>> expectation(jnp.array([0.0, 1.0]), jnp.array([-jnp.inf, 2.0])).item()
    2.0
  """
  return jnp.sum(jnp.where(p == 0, 0.0, p * x), axis=-1)


def _check_range(name: str, values: np.ndarray) -> None:
  least, most = values.min(initial=0), values.max(initial=0)
  if most >= 2**31 or least < -(2**31):
    raise ValueError(
      f"batch: '{name}' has {most if most >= 2**31 else least}, which int32 does not hold; classes are"
      " numbered from 0."
    )


def _are_shares(target: Any) -> Any:
  """Which rows are shares of classes, of either library's arrays; a comparison with NaN is false."""
  return (abs(target.sum(-1) - 1) <= TOLERANCE) & (target >= 0).all(-1)
