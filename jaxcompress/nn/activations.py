"""Activation functions by name, with the gradients that other frameworks give at the kinks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcompress.nn.shapes import shapes_alone


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


ACTIVATIONS: dict[str | None, Callable[[jax.Array], jax.Array]] = {
  None: lambda x: x,
  "relu": jax.nn.relu,
  "relu6": relu6,
  "hard_sigmoid": hard_sigmoid,
  "hard_swish": hard_swish,
}
MONOTONE = (None, "relu", "relu6", "hard_sigmoid")


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
  return ACTIVATIONS[name](x)
