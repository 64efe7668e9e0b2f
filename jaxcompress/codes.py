"""Quantization of a network's input to the codes of a file's input, as each runtime does it.

Exact evaluation, training with integers and the prediction with a file share these functions. They
need NumPy alone, so that a prediction need not wait for JAX.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def by_product(values: Any, scale: Any) -> Any:
  """XNNPACK's steps of a grid, not rounded yet: a product with ``float32(1 / s)``.

  Examples:
    >>> by_product(np.float32([1.0]), np.float32(0.5)).tolist()
    [2.0]
  """
  return values * (np.float32(1) / scale)


def by_quotient(values: Any, scale: Any) -> Any:
  """onnxruntime's steps of a grid, not rounded yet: a quotient.

  Examples:
    >>> by_quotient(np.float32([1.0]), np.float32(0.5)).tolist()
    [2.0]
  """
  return values / scale


def away_from_zero(values: Any, scale: Any) -> Any:
  """Steps as LiteRT's reference kernels and TFLite-Micro compute them: a quotient, halves away from zero.

  Examples:
    >>> away_from_zero(np.float32([0.25, -0.75]), np.float32(0.5)).tolist()
    [1.0, -2.0]
  """
  return half_away(values / scale)


def half_away(x: Any) -> Any:
  """Rounds to the nearest integer, halves away from zero.

  Examples:
    >>> half_away(np.float32([0.5, -0.5, 1.4])).tolist()
    [1.0, -1.0, 1.0]
  """
  jax = sys.modules.get("jax")
  xp = jax.numpy if jax is not None and isinstance(x, jax.Array) else np
  whole = xp.trunc(x)
  return whole + xp.sign(x) * (xp.abs(x - whole) >= 0.5)


INPUT_STEPS: Mapping[str, Callable[[Any, Any], Any]] = {
  "xnnpack": by_product,
  "xnnpack-int4": by_product,
  "xnnpack-arm64": by_product,
  "xnnpack-int4-arm64": by_product,
  "reference": away_from_zero,
  "tflm": away_from_zero,
  "onnxruntime": by_quotient,
  "onnxruntime-arm64": by_quotient,
}
"""``(values, scale) -> steps``, to be rounded half to even, by the runtime's kernels."""


def to_codes(
  values: np.ndarray, scale: Any, zero_point: int, dtype: Any, kernels: str = "xnnpack"
) -> np.ndarray:
  """``z + round_half_even(clip(v * float32(1 / s)))`` and alike: the integer input of a device.

  Args:
    values: float32, what the network reads.
    scale: float32, of the input.
    zero_point: of the input.
    dtype: integers of the input.
    kernels: a name of :data:`INPUT_STEPS`.

  Returns:
    Integers of the same shape.

  Raises:
    ValueError: if a value is not a number.

  Examples:
    >>> to_codes(np.float32([-1, 0, 0.26, 99]), np.float32(0.5), 3, np.int8).tolist()
    [1, 3, 4, 127]
  """
  steps = INPUT_STEPS[kernels](values, np.float32(scale))
  if np.isnan(steps).any():
    raise ValueError("images: some values are not numbers; clean them before evaluation.")
  limits = np.iinfo(dtype)
  rounded = np.rint(np.clip(steps, limits.min - zero_point, limits.max - zero_point))
  return (rounded + zero_point).astype(dtype)
