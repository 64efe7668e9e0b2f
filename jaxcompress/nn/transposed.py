"""The leaf op of transposed convolutions."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp  # noqa: F401 - the examples use it

from jaxcompress import ops
from jaxcompress.nn.checks import (
  check_act,
  check_counts,
  check_map,
  check_norm,
  check_sides,
  refuse,
)
from jaxcompress.nn.graph import Node, Operation, mixed
from jaxcompress.nn.initial import Initial
from jaxcompress.nn.layers import LeafOp, complete, keep_shortest, with_features
from jaxcompress.nn.norm import Norm
from jaxcompress.ops.codes import multiply
from jaxcompress.ops.padding import both
from jaxcompress.ops.transposed import conv_transpose, resolve_transposed, transposed_size


def _kernel(node: Node) -> tuple[int, ...]:
  return (*both(node.attrs["kernel"]), node.input_shapes[0][-1], node.attrs["features"])


def _evaluate(node: Node, weights: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
  stride, padding = node.attrs["stride"], node.attrs["padding"]
  y = conv_transpose(x, weights.astype(x.dtype), stride=stride, padding=padding)
  return y + bias.reshape(1, 1, 1, -1)


class ConvTranspose(LeafOp):
  """Transposed convolution, then batch normalization or a bias, then an activation function.

  What ``flax.linen.ConvTranspose`` computes with the same kernel (without ``transpose_kernel``).

  Attributes:
    features: output channels.
    kernel: side of the square kernel, or (height, width).
    stride: how far the cells of the input are spread, in both directions or (height, width).
    padding: ``"SAME"``, ``"VALID"`` or explicit ``((top, bottom), (left, right))``, as Flax and
      ``lax.conv_transpose`` mean them; see :func:`jaxcompress.ops.transposed.resolve_transposed`.
    act: name of the activation function or None.
    norm: how to normalise, or None for no normalization.
    use_bias: whether the convolution adds a bias; None: only where nothing normalises it away.

  Parameters: ``kernel`` (height, width, in, features); the others, and statistics, are those of
  :class:`ConvNorm`.

  Raises:
    ValueError: when called, if a field is out of range or does not fit the input, or the input is no
      map of floats.

  Examples:
    >>> layer = ConvTranspose(8, kernel=4, stride=2, act="relu")
    >>> y, _ = layer.init_with_output(jax.random.key(0), jnp.ones((1, 8, 8, 3)), train=False)
    >>> y.shape
    (1, 16, 16, 8)
  """

  features: int
  kernel: int | tuple[int, int] = 2
  stride: int | tuple[int, int] = 1
  padding: ops.Padding = "SAME"
  act: str | None = None
  norm: Norm | None = Norm()
  use_bias: bool | None = None

  operation = Operation(
    route=mixed,
    evaluate=_evaluate,
    kernel=_kernel,
    macs=lambda node: math.prod((*node.input_shapes[0][1:-1], *_kernel(node))),
    takes_train=True,
    hosts=True,
    spreads=True,
    resized=with_features,
  )

  def __post_init__(self) -> None:
    keep_shortest(self, "kernel", "stride")
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    """``train``: whether the batch's statistics are used; a scalar array selects at run time."""
    check_map(self, x)
    check_counts(self, "features")
    check_act(self, self.act)
    if self.norm is not None:
      check_norm(self, self.norm)
    check_sides(self, "kernel", "stride")
    kernel, stride = both(self.kernel), both(self.stride)
    try:
      pads = resolve_transposed(self.padding, kernel, stride)
    except ValueError as error:
      refuse(self, str(error))
    if min(transposed_size(x.shape[1:3], kernel, stride, pads)) < 1:
      refuse(self, f"padding: {self.padding!r} cuts off all of the output; pad more.")
    start = Initial(deviation=(2.0 / (math.prod(kernel) * self.features)) ** 0.5)
    weight = self.param("kernel", start, (*kernel, x.shape[-1], self.features))
    y = multiply(partial(conv_transpose, stride=stride, padding=pads), x, weight)
    return complete(self, y, train)
