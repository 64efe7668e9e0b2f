"""Images for calibration: checked once, then handed out in batches of one size."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import Graph, trace

Preprocess = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
  """Images as the network reads them, a batch at a time.

  Attributes:
    images: (N, height, width, channels), what ``preprocess`` takes.
    preprocess: maps images to what the network reads, or None.
    size: images in each batch; the last one is filled up with its own first image.
  """

  images: np.ndarray
  preprocess: Preprocess | None
  size: int

  def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields float32 (size, height, width, channels) and how much each image counts, 1 or 0."""
    for start in range(0, len(self.images), self.size):
      x = network_input(self.images[start : start + self.size], self.preprocess)
      missing = self.size - len(x)
      weight = np.repeat(np.array([1, 0], np.float32), [len(x), missing])
      yield np.concatenate([x, np.repeat(x[:1], missing, axis=0)]), weight

  @property
  def count(self) -> int:
    """Number of batches."""
    return -(-len(self.images) // self.size)

  def take(self, count: int) -> "Batches":
    """The first images alone."""
    return dataclasses.replace(self, images=self.images[:count])


def network_input(images: np.ndarray, preprocess: Preprocess | None) -> np.ndarray:
  """Images as the network reads them, float32.

  Raises:
    ValueError: if a value is not finite.
  """
  x = np.asarray(images if preprocess is None else preprocess(images), np.float32)
  if not np.isfinite(x).all():
    raise ValueError("images: some values are not finite numbers; clean them before calibration.")
  return x


def check_images(images: Any, preprocess: Preprocess | None) -> np.ndarray:
  """The images as an array.

  Raises:
    ValueError: if there are none, or their shape or dtype does not fit.

  Examples:
    >>> check_images(np.zeros((2, 8, 8, 3), np.float32), None).shape
    (2, 8, 8, 3)
  """
  images = np.asarray(images)
  if images.ndim != 4 or 0 in images.shape[1:]:
    raise ValueError(f"images: shape {images.shape} must be (N, height, width, channels).")
  if not len(images):
    raise ValueError("images: there are none; a handful is enough, such as 32.")
  if preprocess is None and not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f"images: {images.dtype} is no float, and there is no preprocess; pass what the network"
      " reads, or preprocess=."
    )
  if preprocess is not None and not jnp.issubdtype(images.dtype, jnp.number):
    raise ValueError(f"images: {images.dtype} are no numbers; pass pixels.")
  return images


def check_labels(labels: Any, count: int, classes: int) -> np.ndarray:
  """The labels as an array of integers.

  Raises:
    ValueError: if their number, dtype or values do not fit.

  Examples:
    >>> check_labels([1, 0], 2, 10).tolist()
    [1, 0]
  """
  labels = np.asarray(labels)
  if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(
      f"labels: {labels.dtype} of shape {labels.shape} must be integers ({count},), one for each"
      " image."
    )
  if labels.min() < 0 or labels.max() >= classes:
    raise ValueError(
      f"labels: {labels.min()} to {labels.max()} must be 0 to {classes - 1}, positions in the"
      f" model's {classes} logits."
    )
  return labels


def trace_on(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  preprocess: Preprocess | None,
) -> Graph:
  """The model's graph for one of the images.

  Raises:
    ValueError: if the images do not fit the model.
  """
  shape = network_input(images[:1], preprocess).shape
  try:
    return trace(model, variables, jax.ShapeDtypeStruct(shape, jnp.float32))
  except (flax.errors.FlaxError, TypeError) as error:
    reason = str(error).split(" (https")[0]
    raise ValueError(
      f"images: the network would read {shape[1:]}, which does not fit the model or its"
      f" variables: {reason}"
    ) from error
