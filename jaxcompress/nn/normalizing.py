"""Normalization by the channels of each cell: by their root mean square, and LayerNorm."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress.nn.affine import Affine, Constant
from jaxcompress.nn.channels import ChannelMean
from jaxcompress.nn.checks import check_floats, is_number, refuse
from jaxcompress.nn.elementwise import Subtract
from jaxcompress.nn.graph import Operation, alike, all_channels
from jaxcompress.nn.layers import LeafOp


class RmsNorm(LeafOp):
  """Divides the channels of each cell by the root of their mean square: ``x / sqrt(mean(x**2) + e)``.

  Attributes:
    epsilon: added to the mean square.

  Raises:
    ValueError: when called, if epsilon is no finite number of zero or more.

  Examples:
    >>> RmsNorm(epsilon=0.0).apply({}, jnp.array([[3.0, -4.0, 0.0, 0.0]])).tolist()
    [[1.2000000476837158, -1.600000023841858, 0.0, 0.0]]

  References:
    Zhang and Sennrich, `Root Mean Square Layer Normalization <https://arxiv.org/abs/1910.07467>`_,
    2019, equation 4.
  """

  epsilon: float = 1e-6

  operation = Operation(route=alike, whole=True, resized=all_channels)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_floats(self, x)
    if not is_number(self.epsilon) or self.epsilon < 0:
      refuse(self, f"epsilon must be a finite number of zero or more, got {self.epsilon!r}.")
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(square + float(self.epsilon))).astype(x.dtype)


class LayerNorm(nn.Module):
  """Normalization of the channels of each cell by their mean and variance, as Flax's ``LayerNorm``.

  It is made of leaf ops: ``mean``, a :class:`ChannelMean`; ``center``, a :class:`Subtract`; ``rms``, a
  :class:`RmsNorm`; and ``affine``, an :class:`Affine` with what is trained. Each of their outputs has a
  grid of its own, so that large means cost the differences no steps.

  Attributes:
    epsilon: added to the variance.
    use_scale: whether channels have factors, which are trained.
    use_bias: whether they have biases, which are trained.

  Parameters: ``scale`` and ``bias`` (channels,) of ``affine``.

  Examples:
    >>> x = jnp.array([[1.0, 3.0]])
    >>> variables = LayerNorm().init(jax.random.key(0), x)
    >>> LayerNorm(epsilon=0.0).apply(variables, x).tolist()
    [[-1.0, 1.0]]

  References:
    Ba et al., `Layer Normalization <https://arxiv.org/abs/1607.06450>`_, 2016, equation 3.
  """

  epsilon: float = 1e-6
  use_scale: bool = True
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    centered = Subtract(name="center")(x, ChannelMean(name="mean")(x))
    y = RmsNorm(self.epsilon, name="rms")(centered)
    if not self.use_scale and not self.use_bias:
      return y
    scale: Constant = "trained" if self.use_scale else 1.0
    bias: Constant = "trained" if self.use_bias else 0.0
    return Affine(scale, bias, name="affine")(y)
