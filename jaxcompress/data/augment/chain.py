"""Transforms of batches one after another."""

import dataclasses
from collections.abc import Callable, Mapping

import jax

Transform = Callable[[jax.Array, Mapping[str, jax.Array]], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Chain:
  """What :func:`chain` returns; equal chains are equal, so a step compiles once for them."""

  transforms: tuple[Transform, ...]

  def __call__(self, rng: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Applies all of them, each with a key of its own."""
    for place, transform in enumerate(self.transforms):
      batch = transform(jax.random.fold_in(rng, place), batch)
    return dict(batch)


def chain(*transforms: Transform) -> Chain:
  """Transforms one after another, for ``Recipe(augment=...)``.

  Args:
    *transforms: each ``(rng, batch) -> batch``.

  Returns:
    A transform.

  Raises:
    ValueError: if one cannot be called.

  Examples:
    >>> import jax.numpy as jnp
    >>> from jaxcompress.data import Augment, RandomErasing
    >>> augment = chain(Augment(crop=4, flip=True), RandomErasing())
    >>> augment(jax.random.key(0), {"image": jnp.zeros((2, 8, 8, 3), jnp.uint8)})["image"].shape
    (2, 8, 8, 3)
  """
  for i, transform in enumerate(transforms):
    if not callable(transform):
      raise ValueError(f"transforms: item {i} is {transform!r}; it must be (rng, batch) -> batch.")
  return Chain(transforms)
