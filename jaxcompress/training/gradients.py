"""Gradients of a step: at once, or one microbatch after the other."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.nn import Endpoints

Losses = list[jax.Array]


class Found(NamedTuple):
  """What a step needs of its passes.

  Attributes:
    gradients: of the sum of all losses, in the form of the trained tree.
    parts: the gradients of each loss, where there are several.
    carry: what the network's passes leave: running statistics and the quantizers' state.
    aux: what the losses give beside.
  """

  gradients: Any
  parts: tuple[Any, ...]
  carry: Any
  aux: Any


def at_once(
  network: Callable[..., tuple[Endpoints, Any]],
  criterion: Callable[[Any, Endpoints], tuple[Losses, Any]],
  trained: Any,
  carry: Any,
  images: jax.Array,
  count: int,
) -> Found:
  """Gradients from one pass.

  Args:
    network: ``(trained, carry, images, i) -> (endpoints, carry)``; ``i`` is the microbatch, here 0.
    criterion: ``(trained, endpoints) -> (losses, aux)``.
    trained: the tree to differentiate by.
    carry: running statistics and the quantizers' state.
    images: as the network reads them, (batch, height, width, channels).
    count: how many losses.
  """

  def objective(trained):
    endpoints, after = network(trained, carry, images, 0)
    losses, aux = criterion(trained, endpoints)
    return losses, (after, aux)

  if count == 1:
    gradients, (after, aux) = jax.grad(lambda tree: _first(objective(tree)), has_aux=True)(trained)
    return Found(gradients, (), after, aux)
  _, pullback, (after, aux) = jax.vjp(objective, trained, has_aux=True)
  parts = tuple(pullback(slopes)[0] for slopes in _one_each(count))
  return Found(jax.tree.map(lambda *of_each: sum(of_each), *parts), parts, after, aux)


def in_turn(
  network: Callable[..., tuple[Endpoints, Any]],
  criterion: Callable[[Any, Endpoints], tuple[Losses, Any]],
  trained: Any,
  carry: Any,
  images: jax.Array,
  count: int,
  microbatches: int,
) -> Found:
  """The same gradients with the memory of a microbatch, for any loss, at the cost of another pass.

  First all microbatches pass the network, and only endpoints are kept. The losses see those of the
  whole batch, so even losses that compare examples, and memory banks, are what they are at once.
  Then each microbatch passes again, and its gradient is that of its endpoints times the network's.

  Arguments as for :func:`at_once`, and ``microbatches``, which divides the batch. The network sees
  each microbatch alone: BatchNorm normalises by its statistics, and ``carry`` moves on with each.

  References:
    Gao et al., `Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup
    <https://arxiv.org/abs/2101.06983>`_, 2021, section 3.2, for networks without BatchNorm.
  """
  numbers, images = jnp.arange(microbatches), split(images, microbatches)

  def look(carry, given):
    endpoints, carry = network(trained, carry, *given)
    return carry, endpoints

  _, endpoints = jax.lax.scan(look, carry, (images, numbers))
  endpoints = jax.tree.map(join, endpoints)
  _, by_loss, aux = jax.vjp(criterion, trained, endpoints, has_aux=True)
  direct, slopes = zip(*(by_loss(one) for one in _one_each(count)), strict=True)

  def gradients_of(after, given):
    images, i, slopes = given
    carry, sums = after
    _, pullback, carry = jax.vjp(
      lambda trained: network(trained, carry, images, i), trained, has_aux=True
    )
    found = tuple(pullback(slope)[0] for slope in slopes)
    return (carry, jax.tree.map(jnp.add, sums, found)), None

  slopes = jax.tree.map(lambda x: split(x, microbatches), slopes)
  (carry, parts), _ = jax.lax.scan(gradients_of, (carry, direct), (images, numbers, slopes))
  if count == 1:
    return Found(parts[0], (), carry, aux)
  return Found(jax.tree.map(lambda *of_each: sum(of_each), *parts), parts, carry, aux)


def split(x: jax.Array, parts: int) -> jax.Array:
  """A batch in parts, every ``parts``-th example in one: what devices hold of a batch stays there.

  Examples:
    >>> split(jnp.arange(6), 2).tolist()
    [[0, 2, 4], [1, 3, 5]]
  """
  return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)


def join(x: jax.Array) -> jax.Array:
  """The inverse of :func:`split`.

  Examples:
    >>> join(split(jnp.arange(6), 2)).tolist()
    [0, 1, 2, 3, 4, 5]
  """
  return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])


def _one_each(count: int) -> list[Losses]:
  """Slopes that pick each of the losses in turn."""
  eye = jnp.eye(count, dtype=jnp.float32)
  return [[eye[i, j] for j in range(count)] for i in range(count)]


def _first(found: tuple[Losses, Any]) -> tuple[jax.Array, Any]:
  (loss,), aux = found
  return loss, aux
