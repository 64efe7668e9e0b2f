"""Products of tensors on grids of integers, where products of floats would lose digits.

TPUs multiply float32 numbers as bfloat16, of 8 significant bits, and GPUs as TF32, of 11. A number on a
grid, some steps times a scale, has more. So there the steps are multiplied, up to 256 of which these
formats hold exactly; sums are taken in float32 or int32, and the scales multiply the sums.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.ops.dispatch import current, formulations, pick


class Grid(NamedTuple):
  """A grid of numbers: a whole number of steps from zero, at most 256.

  Attributes:
    scale: of a step; float32, a scalar, or of a kernel (1, ..., 1, out).
    zero: the code of zero where the codes are int8, a float32 scalar; None: steps from zero are int8.
  """

  scale: jax.Array
  zero: jax.Array | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Grids:
  """Grids of the arrays that a layer multiplies; compared by identity, as contexts are.

  Attributes:
    x: of the first array; None: it is not known.
    kernel: of the second; likewise.
    active: whether both are known and lie on their grids; bool or scalar bool array.
    dtype: that arrays are multiplied in where they do not, and in gradients.
  """

  x: Grid | None
  kernel: Grid | None
  active: bool | jax.Array = True
  dtype: Any = jnp.float32


_grids = jax.make_user_context(default_value=None)


@contextmanager
def on_grids(grids: Grids | None) -> Iterator[None]:
  """Makes the layer that is called inside multiply arrays on these grids; None: the grids are unknown."""
  with _grids(grids):
    yield


def multiply(function: Callable[..., jax.Array], x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Computes a layer that is linear in its input and in its kernel.

  Inside of :func:`on_grids` it is computed from the steps, and so are its gradients: those of
  ``function`` with respect to ``x`` and ``kernel``.

  Args:
    function: ``(x, kernel, *, result=None) -> y``, linear in both, the output's channels last;
      ``result`` is the dtype of sums and of ``y``, by default that of ``x``.
    x: (batch, ..., in), any float dtype; float32 inside of :func:`on_grids`.
    kernel: (..., out), any float dtype; it takes that of ``x``.

  Returns:
    ``y``, of the dtype of ``x``.

  Examples:
    >>> from jaxcompress.ops.standard import matmul
    >>> x, kernel = jnp.float32([[25.1, -0.1]]), jnp.float32([[1.27], [0.01]])
    >>> x_grid, kernel_grid = Grid(jnp.float32(0.1), jnp.float32(-124)), Grid(jnp.float32([[0.01]]))
    >>> with on_grids(Grids(x_grid, kernel_grid)), formulations(codes="int8"):
    ...   round(multiply(matmul, x, kernel).item(), 4)
    31.876
  """
  grids = _grids.value
  if grids is None:
    return function(x, kernel.astype(x.dtype))
  if grids.active is False:
    return _plain(function, grids.dtype, x, kernel)
  pair = jax.lax.stop_gradient((grids.x, grids.kernel))
  how = function, current(), jnp.dtype(grids.dtype)
  if grids.active is True:
    return _product(*how, x, kernel, pair)
  return _chosen(*how, x, kernel, pair, grids.active)


def _plain(function, dtype, x, kernel):
  return function(x.astype(dtype), kernel.astype(dtype)).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _product(function, names, dtype, x, kernel, pair):
  return _forward(function, names, dtype, x, kernel, pair)[0]


def _forward(function, names, dtype, x, kernel, pair):
  del names, dtype
  steps = tuple(steps_of(a, grid.scale) for a, grid in zip((x, kernel), pair, strict=True))
  kept = tuple(a.astype(jnp.bfloat16) for a in steps)
  taken = pick("codes")
  if taken == jnp.int8 and pair[1].zero is None:
    sums = _in_int8(function, *steps, pair[0].zero)
  else:
    operands = steps if taken == jnp.float32 else kept
    sums = function(*operands, result=jnp.float32)
  return sums * pair[0].scale * _beside(pair[1].scale, sums), (kept, pair)


def _in_int8(function, x, kernel, zero):
  """Exact in int32: ``f(q - z, k) = f(q, k) - z f(1, k)``, the latter of one example."""
  kernel = kernel.astype(jnp.int8)
  if zero is None:
    return function(x.astype(jnp.int8), kernel, result=jnp.int32).astype(jnp.float32)
  sums = function((x + zero).astype(jnp.int8), kernel, result=jnp.int32)
  of_ones = function(jnp.ones((1, *x.shape[1:]), jnp.int8), kernel, result=jnp.int32)
  return (sums - zero.astype(jnp.int32) * of_ones).astype(jnp.float32)


def _backward(function, names, dtype, saved, g):
  kept, (x_grid, kernel_grid) = saved
  with formulations(**names._asdict()):
    _, pull_back = jax.vjp(function, *(a.astype(dtype) for a in kept))
    by_x, _ = pull_back((g * _beside(kernel_grid.scale, g)).astype(dtype))
    _, by_kernel = pull_back(g.astype(dtype))
  return by_x.astype(g.dtype), by_kernel.astype(g.dtype) * x_grid.scale, None


_product.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _chosen(function, names, dtype, x, kernel, pair, active):
  return _forward_chosen(function, names, dtype, x, kernel, pair, active)[0]


def _forward_chosen(function, names, dtype, x, kernel, pair, active):
  """One product, of the steps or of the arrays.

  Branches would keep what both need, in memory, and devices would exchange the gradients of each branch and
  each layer by themselves. Units of int8 alone need one, in the forward pass.
  """
  kept = tuple(
    jnp.where(active, steps_of(a, grid.scale), a).astype(dtype)
    for a, grid in zip((x, kernel), pair, strict=True)
  )
  scales = tuple(Grid(jnp.where(active, grid.scale, 1.0)) for grid in pair)
  if pick("codes") == jnp.int8:
    y = jax.lax.cond(
      active,
      lambda *arrays: _forward(function, names, dtype, *arrays, pair)[0],
      lambda *arrays: _plain(function, dtype, *arrays),
      *(x, kernel),
    )
  else:
    y = function(*kept, result=jnp.float32)
    y = y * scales[0].scale * _beside(scales[1].scale, y)
  return y, (kept, scales)


def _backward_chosen(function, names, dtype, saved, g):
  return *_backward(function, names, dtype, saved, g), None


_chosen.defvjp(_forward_chosen, _backward_chosen)


def steps_of(x: jax.Array, scale: jax.Array) -> jax.Array:
  """Whole steps from zero of numbers on a grid, float32.

  Examples:
    >>> steps_of(jnp.float32([25.5, -0.3]), jnp.float32(0.1)).tolist()
    [255.0, -3.0]
  """
  return jnp.round(x * (1.0 / _beside(scale, x)))


def _beside(scale: jax.Array, x: jax.Array) -> jax.Array:
  """A scalar, or a scale for each channel in the rank of ``x``."""
  return scale if jnp.ndim(scale) == 0 else scale.reshape((1,) * (x.ndim - 1) + (-1,))
