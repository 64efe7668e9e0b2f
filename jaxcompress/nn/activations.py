"""Activation functions by name, with the gradients that other frameworks give at the kinks."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.ops.dispatch import shapes_alone


@jax.custom_jvp
def relu6(x: jax.Array) -> jax.Array:
  """``min(max(x, 0), 6)``; the gradient is 1 where 0 < x < 6 and 0 at both edges, as in PyTorch.

  Examples:
    >>> jax.grad(relu6)(6.0).item(), jax.grad(relu6)(3.0).item()
    (0.0, 1.0)
  """
  return jnp.minimum(jnp.maximum(x, 0), 6)


@relu6.defjvp
def _relu6_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  return relu6(x), jnp.where((x > 0) & (x < 6), dx, 0)


def hard_sigmoid(x: jax.Array) -> jax.Array:
  """``relu6(x + 3) / 6`` (Howard et al., MobileNetV3, 2019, section 5.2)."""
  return relu6(x + 3) / 6


def hard_swish(x: jax.Array) -> jax.Array:
  """``x * relu6(x + 3) / 6`` (Howard et al., MobileNetV3, 2019, section 5.2)."""
  return x * hard_sigmoid(x)


class ActivationFunction(NamedTuple):
  """Record of an activation function; its integers are quantize's.

  Attributes:
    run: elementwise, of floats.
    low: no value is below it.
    high: no value is above it.
    monotone: whether it never falls.
    fuses: whether every device computes it in the operation before it.
  """

  run: Callable[[jax.Array], jax.Array]
  low: float = -math.inf
  high: float = math.inf
  monotone: bool = True
  fuses: bool = False


ACTIVATIONS: Mapping[str | None, ActivationFunction] = {
  None: ActivationFunction(lambda x: x),
  "relu": ActivationFunction(jax.nn.relu, low=0.0, fuses=True),
  "relu6": ActivationFunction(relu6, low=0.0, high=6.0, fuses=True),
  "sigmoid": ActivationFunction(jax.nn.sigmoid, low=0.0, high=1.0),
  "hard_sigmoid": ActivationFunction(hard_sigmoid, low=0.0, high=1.0),
  "hard_swish": ActivationFunction(hard_swish, low=-0.375, monotone=False),
  "silu": ActivationFunction(jax.nn.silu, low=-0.27847, monotone=False),
  "tanh": ActivationFunction(jnp.tanh, low=-1.0, high=1.0),
  "gelu": ActivationFunction(partial(jax.nn.gelu, approximate=False), low=-0.17, monotone=False),
  "gelu_tanh": ActivationFunction(jax.nn.gelu, low=-0.1701, monotone=False),
  "elu": ActivationFunction(jax.nn.elu, low=-1.0),
  "selu": ActivationFunction(jax.nn.selu, low=-1.7581),
  "softplus": ActivationFunction(jax.nn.softplus, low=0.0),
  "squareplus": ActivationFunction(jax.nn.squareplus, low=0.0),
  "mish": ActivationFunction(jax.nn.mish, low=-0.30885, monotone=False),
  "log_sigmoid": ActivationFunction(jax.nn.log_sigmoid, high=0.0),
  "soft_sign": ActivationFunction(jax.nn.soft_sign, low=-1.0, high=1.0),
  "hard_tanh": ActivationFunction(jax.nn.hard_tanh, low=-1.0, high=1.0),
}
"""The activation functions by their names."""


def activate(name: str | None, x: jax.Array) -> jax.Array:
  """Applies an activation function by name.

  Raises:
    ValueError: if the name is unknown.

  Examples:
    >>> activate("relu6", jnp.array([-1.0, 3.0, 9.0])).tolist()
    [0.0, 3.0, 6.0]
  """
  if name not in ACTIVATIONS:
    choices = ", ".join(str(choice) for choice in ACTIVATIONS)
    raise ValueError(f"act: {name!r} is no activation function; it must be one of {choices}.")
  if shapes_alone():
    return jax.lax.neg(x)  # an array of its own, which has a name in a graph
  return ACTIVATIONS[name].run(x)
