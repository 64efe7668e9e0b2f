"""Several augmentations of the same images in one batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Views:
  """Augments each image in several ways: the whole batch in the first, then in the second, ...

  Labels, places in the training set and everything else are repeated, so the batch is as many times
  larger, and a loss that averages over examples averages over views as well.

  Attributes:
    transforms: each ``(rng, batch) -> batch`` that keeps the batch's form; they get keys of their own.

  Raises:
    ValueError: if there are none, or one cannot be called.

  Examples:
    >>> from jaxcompress.data import Augment, RandAugment, chain
    >>> weak = Augment(crop=4, flip=True)
    >>> augment = Views((weak, chain(weak, RandAugment())))
    >>> batch = {"image": jnp.zeros((2, 8, 8, 3), jnp.uint8), "label": jnp.array([4, 7])}
    >>> augment(jax.random.key(0), batch)["label"].tolist()
    [4, 7, 4, 7]
  """

  transforms: tuple[Callable[..., Any], ...]

  def __post_init__(self):
    if not isinstance(self.transforms, tuple) or not self.transforms:
      raise ValueError(f"transforms: {self.transforms!r} must be a tuple of at least one.")
    for i, transform in enumerate(self.transforms):
      if not callable(transform):
        raise ValueError(
          f"transforms: item {i} is {transform!r}; it must be (rng, batch) -> batch."
        )

  def __call__(self, rng: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The views of a batch, one after another."""
    keys = jax.random.split(rng, len(self.transforms))
    views = [view(key, batch) for view, key in zip(self.transforms, keys, strict=True)]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *views)
