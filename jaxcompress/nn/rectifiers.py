"""Rectifiers with a slope below zero."""

import flax.linen as nn
import jax
import jax.numpy as jnp  # noqa: F401 - the examples use it

from jaxcompress.nn.affine import Affine, Constant
from jaxcompress.nn.checks import is_number, refuse
from jaxcompress.nn.elementwise import Activation, Add
from jaxcompress.nn.graph import Operation, alike
from jaxcompress.nn.layers import LeafOp


class LeakyRelu(LeafOp):
  """``x`` where it is at least 0, elsewhere ``slope * x``; the gradient at 0 is 1, as JAX's.

  Attributes:
    slope: above 0 and at most 1.

  Raises:
    ValueError: when called, if the slope is not a finite number above 0 and at most 1.

  Examples:
    >>> LeakyRelu(0.5).apply({}, jnp.array([-2.0, 0.0, 3.0])).tolist()
    [-1.0, 0.0, 3.0]

  References:
    Maas et al., Rectifier Nonlinearities Improve Neural Network Acoustic Models, 2013.
  """

  slope: float = 0.01

  operation = Operation(route=alike, homogeneous=True)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    slope = self.slope
    if not is_number(slope) or not 0 < slope <= 1:
      refuse(self, f"slope: {slope!r} must be above 0 and at most 1; for 0 use Activation('relu').")
    return jax.nn.leaky_relu(x, float(slope))


class PRelu(nn.Module):
  """``x`` where it is above 0, elsewhere ``slope * x`` with a trained slope for each channel.

  It is no leaf op but a few of them, ``relu(x) - slope * relu(-x)``, which every device runs fast and
  alike, in 8 and in 16 bits. The gradient at 0 is 0, that of both rectifiers.

  Attributes:
    slope: that every channel begins with.
    shared: whether all channels have one slope.

  Parameters: ``slope/scale``: (channels,), or () of a shared one.

  Examples:
    >>> slopes = {"params": {"slope": {"scale": jnp.array([0.5, 0.1])}}}
    >>> PRelu().apply(slopes, jnp.array([[-2.0, 3.0], [4.0, -1.0]])).tolist()
    [[-1.0, 3.0], [4.0, -0.10000000149011612]]

  References:
    He et al., `Delving Deep into Rectifiers <https://arxiv.org/abs/1502.01852>`_, 2015, section 2.1.
  """

  slope: float = 0.25
  shared: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if not is_number(self.slope):
      refuse(self, f"slope: {self.slope!r} is no finite number, which slopes begin as.")
    below = Affine(-1.0, act="relu", name="flipped")(x)
    kind: Constant = "scalar" if self.shared else "trained"
    below = Affine(kind, start=self.slope, name="slope")(below)
    return Add(name="sum")(Activation("relu", name="above")(x), Affine(-1.0, name="sign")(below))
