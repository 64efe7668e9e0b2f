"""The leaf op that multiplies by constants and adds some."""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp  # noqa: F401 - the examples use it
import numpy as np

from jaxcompress.nn.activations import activate
from jaxcompress.nn.checks import check_act, check_floats, is_number, refuse
from jaxcompress.nn.graph import Node, Operation, alike
from jaxcompress.nn.initial import Initial
from jaxcompress.nn.layers import LeafOp, pointwise, pointwise_kernel, scale_channels

KINDS = ("trained", "scalar", "fixed")
Constant = float | Literal["trained", "scalar", "fixed"]


def _constants(
  node: Node, params: Mapping[str, Any], stats: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
  """(channels,) float64 scale and bias of a node."""

  def read(name: str) -> np.ndarray:
    value = node.attrs[name]
    if value in KINDS:
      value = (stats if value == "fixed" else params)[name]
    return np.array(np.broadcast_to(value, node.output_shapes[0][-1:]), np.float64)

  return read("scale"), read("bias")


class Affine(LeafOp):
  """``x * scale + bias`` with constants, then an activation function.

  On a device it is a depthwise 1x1 convolution. Behind a layer with weights and without an activation
  function, whose output nothing else reads, it becomes part of these weights and costs nothing; a number
  alone, such as ``1 / 255`` for pixels, becomes part of the weights that read it as well.
  Constants of each cell, such as those of positions, are an ``Affine`` of a vector between two ``Reshape`` s.

  Attributes:
    scale: a number; or ``"trained"``, a parameter for each channel, ``"scalar"``, one parameter for all
      of them, or ``"fixed"``, a constant for each channel.
    bias: likewise.
    act: name of the activation function or None.
    start: that scales which are no numbers begin as.

  Parameters: ``scale`` and ``bias``, those that are trained: (channels,), or () of a scalar.
  Statistics: those that are fixed: (channels,). Biases begin as zeros.

  Examples:
    >>> Affine(scale=1 / 127.5, bias=-1.0).apply({}, jnp.array([[0.0, 255.0]])).tolist()
    [[-1.0, 1.0]]
    >>> gamma = {"params": {"scale": jnp.array([0.5, 2.0])}}
    >>> Affine("trained").apply(gamma, jnp.ones((1, 2))).tolist()
    [[0.5, 2.0]]

  References:
    Touvron et al., `Going deeper with Image Transformers <https://arxiv.org/abs/2103.17239>`_, 2021,
    section 2, for scales of layers that are trained.
  """

  scale: Constant = 1.0
  bias: Constant = 0.0
  act: str | None = None
  start: float = 1.0

  operation = Operation(
    route=alike,
    evaluate=scale_channels,
    kernel=pointwise_kernel,
    constants=_constants,
    groups=lambda node: node.input_shapes[0][-1],
    trained=False,
    hosts=True,
    follows=lambda node: True,
    lowered=pointwise,
  )

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_floats(self, x)
    check_act(self, self.act)
    scale, bias = (
      self._constant(name, first, x) for name, first in (("scale", self.start), ("bias", 0.0))
    )
    return activate(self.act, x * scale + bias)

  def _constant(self, name: str, first: float, x: jax.Array) -> Any:
    """A number, or an array of the rank of ``x``."""
    value = getattr(self, name)
    if is_number(value):
      return float(value)
    if not isinstance(value, str) or value not in KINDS:
      words = ", ".join(map(repr, KINDS))
      refuse(self, f"{name}: {value!r} is no constant; it must be a finite number or {words}.")
    if not is_number(first):
      refuse(self, f"start: {first!r} is no finite number, which scales begin as.")
    start, shape = Initial(first), () if value == "scalar" else x.shape[-1:]
    if value == "fixed":
      array = self.variable("batch_stats", name, start, None, shape).value
    else:
      array = self.param(name, start, shape)
    return array.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
