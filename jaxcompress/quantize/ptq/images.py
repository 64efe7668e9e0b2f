"""Images for calibration: checked once, then handed out in batches of one size."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.files.values import one_line
from jaxcompress.nn import Graph, trace
from jaxcompress.nn.foreign import check_model

Preprocess = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
  """Images as the network reads them, a batch at a time.

  Attributes:
    images: (N, height, width, channels), what ``preprocess`` takes.
    preprocess: maps images to what the network reads, or None.
    size: images in each batch; the last one is filled up with its own first image.
    tick: called after every batch.
  """

  images: np.ndarray
  preprocess: Preprocess | None
  size: int
  tick: Callable[[], None] = lambda: None

  def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields float32 (size, height, width, channels) and how much each image counts, 1 or 0."""
    for start in range(0, len(self.images), self.size):
      x = network_input(self.images[start : start + self.size], self.preprocess)
      missing = self.size - len(x)
      weight = np.repeat(np.array([1, 0], np.float32), [len(x), missing])
      yield np.concatenate([x, np.repeat(x[:1], missing, axis=0)]), weight
      self.tick()

  @property
  def count(self) -> int:
    """Number of batches."""
    return -(-len(self.images) // self.size)

  def with_tick(self, tick: Callable[[], None]) -> "Batches":
    """The same images, of which every batch is told."""
    return dataclasses.replace(self, tick=tick)

  def at(self, which: slice | np.ndarray) -> "Batches":
    """Some of the images alone."""
    return dataclasses.replace(self, images=self.images[which])


def network_input(images: np.ndarray, preprocess: Preprocess | None) -> np.ndarray:
  """Images as the network reads them, float32.

  Raises:
    ValueError: if a value is not finite.
  """
  x = np.asarray(images if preprocess is None else preprocess(images), np.float32)
  if not np.isfinite(x).all():
    raise ValueError("images: some values are not finite numbers; clean them before calibration.")
  return x


def read_images(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: Any,
  preprocess: Preprocess | None,
  batch_size: int,
) -> tuple[Graph, Batches]:
  """Checks images, and traces the model on one of them.

  Returns:
    ``(graph, batches)``; batches are no larger than the number of images.

  Raises:
    ValueError: if there are no images, or their shape or dtype does not fit, or the batch size is
      not positive.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> graph, batches = read_images(model, variables, np.ones((2, 8, 8, 3)), None, 32)
    >>> graph.input_shape, batches.size
    ((1, 8, 8, 3), 2)
  """
  check_model("model", model)
  images = np.asarray(images)
  if images.ndim != 4 or 0 in images.shape[1:]:
    raise ValueError(f"images: shape {images.shape} must be (N, height, width, channels).")
  if not len(images):
    raise ValueError("images must not be empty; a handful is enough, such as 32.")
  if preprocess is None and not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f"images: {images.dtype} is no float, and there is no preprocess; pass what the network"
      " reads, or preprocess=."
    )
  if preprocess is not None and not jnp.issubdtype(images.dtype, jnp.number):
    raise ValueError(f"images: {images.dtype} are no numbers; pass pixels.")
  if batch_size < 1:
    raise ValueError(f"batch_size: {batch_size} must be at least 1.")
  shape = network_input(images[:1], preprocess).shape
  try:
    graph = trace(model, variables, jax.ShapeDtypeStruct(shape, jnp.float32))
  except TypeError as error:
    raise ValueError(
      f"images: the network would read {shape[1:]}, which does not fit the model: {one_line(error)}."
    ) from error
  return graph, Batches(images, preprocess, min(batch_size, len(images)))


def read_labels(labels: Any, count: int, graph: Graph) -> np.ndarray:
  """Checks labels of images, and gives them as an array of integers.

  Raises:
    ValueError: if their number, dtype or values do not fit, or the model gives no (batch, classes).

  Examples:
    >>> from jaxcompress import models
    >>> read_labels([1, 0], 2, models.summarize(models.resnet8(10)).graph).tolist()
    [1, 0]
  """
  labels, shape = np.asarray(labels), graph.shape(graph.output)
  if len(shape) != 2:
    raise ValueError(
      f"labels: they are classes of images, but the model gives {graph.outputs[0][0]!r} of shape"
      f" {('batch', *shape[1:])}; leave them out, so that it is compared with the float model."
    )
  classes = shape[1]
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
