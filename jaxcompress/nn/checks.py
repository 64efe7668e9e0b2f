"""Refuses what leaf ops are called with, in a sentence that names layer, rule and value."""

import math
import numbers
from typing import Any, NoReturn

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn.activations import ACTIVATIONS
from jaxcompress.nn.norm import Norm
from jaxcompress.ops.padding import Pads, both, output_size, resolve_padding, spans


def refuse(layer: nn.Module, message: str) -> NoReturn:
  """Raises a ValueError that begins with the layer's name and op."""
  name, op = "/".join(layer.path), type(layer).__name__
  raise ValueError(f"layer {name!r} ({op}): {message}" if name else f"{op}: {message}")


def is_whole(value: Any, least: int) -> bool:
  """Whether a value is a whole number that is large enough; True and False are not numbers.

  Examples:
    >>> is_whole(3, 1), is_whole(np.int64(0), 1), is_whole(True, 1), is_whole((3, 1), 1)
    (True, False, False, False)
  """
  return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= least


def is_number(value: Any) -> bool:
  """Whether a value is a finite real number; True and False are not numbers.

  Examples:
    >>> is_number(0.5), is_number(np.float32(2)), is_number(True), is_number(math.inf), is_number("1")
    (True, True, False, False, False)
  """
  return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def check_counts(layer: nn.Module, *fields: str) -> None:
  """Fields of the layer must be whole numbers of 1 or more."""
  for field in fields:
    value = getattr(layer, field)
    if not is_whole(value, 1):
      refuse(layer, f"{field} must be one whole number of 1 or more, got {value!r}.")


def check_sides(layer: nn.Module, *fields: str) -> None:
  """Fields of the layer must be whole numbers of 1 or more, for both directions or in pairs."""
  for field in fields:
    value = getattr(layer, field)
    sides = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    if not all(is_whole(side, 1) for side in sides):
      refuse(
        layer,
        f"{field} must be a whole number of 1 or more for both directions, or (height, width), got"
        f" {value!r}.",
      )


def check_act(layer: nn.Module, act: Any) -> None:
  """Checks that it is the name of an activation function or None."""
  if act is not None and (not isinstance(act, str) or act not in ACTIVATIONS):
    choices = ", ".join(str(choice) for choice in ACTIVATIONS)
    refuse(layer, f"act: {act!r} is no activation function; it must be one of {choices}.")


def check_norm(layer: nn.Module, norm: Any) -> None:
  """Checks that it is a :class:`Norm` with valid numbers."""
  if not isinstance(norm, Norm):
    refuse(layer, f"norm must be a jaxcompress.nn.Norm, got {norm!r}.")
  for field, most in (("epsilon", math.inf), ("momentum", 1.0)):
    value = getattr(norm, field)
    if not isinstance(value, numbers.Real) or not 0 <= float(value) <= most or math.isinf(value):
      bound = "not negative" if math.isinf(most) else "0 to 1"
      refuse(layer, f"norm: {field} must be a number, {bound}, got {value!r}.")


def check_floats(layer: nn.Module, x: jax.Array) -> None:
  """The input must be floats: weights take its dtype, and integers would cut them off."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    refuse(
      layer,
      f"it reads {x.dtype}, which must be floats; map images to them first, as"
      " jaxcompress.data.Preprocess does.",
    )


def check_map(layer: nn.Module, x: jax.Array) -> None:
  """The input must be (batch, height, width, channels), float, with cells in it."""
  if x.ndim != 4:
    refuse(layer, f"it reads shape {x.shape}, which must be (batch, height, width, channels).")
  check_floats(layer, x)
  if 0 in x.shape[1:]:
    refuse(layer, f"it reads a map without cells, {x.shape[1:]}; give larger images.")


def windows(layer: Any, x: jax.Array) -> Pads:
  """The padding of a layer with ``kernel``, ``stride`` and ``padding`` on its input, as numbers.

  The kernel may have a ``dilation``.

  Raises:
    ValueError: if one of them is odd, or no window fits in the map.
  """
  dilation = getattr(layer, "dilation", 1)
  check_sides(layer, "kernel", "stride", *(["dilation"] if hasattr(layer, "dilation") else []))
  check_map(layer, x)
  size, kernel = x.shape[1:3], both(layer.kernel)
  try:
    pads = resolve_padding(layer.padding, size, kernel, layer.stride, dilation)
  except ValueError as error:
    refuse(layer, str(error))
  if 0 in output_size(size, kernel, layer.stride, pads, dilation):
    height, width = spans(kernel, dilation)
    refuse(
      layer,
      f"the image is too small: windows of {height} x {width} do not fit in a map of {size[0]} x"
      f" {size[1]}; give larger images, a smaller kernel or more padding.",
    )
  return pads
