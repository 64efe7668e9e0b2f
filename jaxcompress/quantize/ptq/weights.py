"""Scales of weights, one for each output channel."""

from collections.abc import Callable, Mapping

import numpy as np

from jaxcompress.nn import Folded
from jaxcompress.quantize.codes import round_kernel
from jaxcompress.quantize.fake_quant import Levels

POINTS = 100


def clipping_errors(
  x: np.ndarray, to: Levels, shares: np.ndarray, axis: tuple[int, ...] | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Mean squared error of rounding with clips at shares of the largest value.

  Args:
    x: any shape.
    to: integers around zero, or from zero; the clip is the largest one.
    shares: (candidates,) above 0, at most 1.
    axis: axes of one scale; None: all of them.

  Returns:
    ``(clips, errors)``, float64, each (candidates, ...) with the axes that are left.

  Examples:
    >>> clips, errors = clipping_errors(np.array([0.0, 0.5, 1.0]), Levels(-2, 2, True), np.ones(1))
    >>> clips.tolist(), errors.tolist()
    ([1.0], [0.0])
  """
  x = np.asarray(x, np.float64)
  largest = np.abs(x).max(axis=axis, keepdims=True)
  clips, errors = [], []
  for share in shares:
    scale = np.where(largest > 0, largest * share / to.high, 1.0)
    rounded = np.clip(np.rint(x / scale), to.low, to.high) * scale
    clips.append(np.squeeze(largest * share, axis=axis))
    errors.append(np.mean(np.square(x - rounded), axis=axis))
  return np.stack(clips), np.stack(errors)


def absmax_scales(kernel: np.ndarray, to: Levels) -> np.ndarray:
  """(out,) float32: the largest weight of each channel is the highest integer.

  A channel of zeros has scale 1.

  Examples:
    >>> absmax_scales(np.float32([[0.5, 0.0], [-12.7, 0.0]]), Levels(-127, 127, True)).tolist()
    [0.10000000149011612, 1.0]
  """
  largest = np.abs(kernel).reshape(-1, kernel.shape[-1]).max(axis=0)
  return finite_scales(largest / np.float32(to.high))


def mse_scales(kernel: np.ndarray, to: Levels) -> np.ndarray:
  """(out,) float32: the clip with the least squared error, of each channel.

  Examples:
    >>> kernel = np.concatenate([np.linspace(-1, 1, 99), [3.0]]).reshape(-1, 1)
    >>> bool(mse_scales(kernel, Levels(-7, 7, True))[0] < absmax_scales(kernel, Levels(-7, 7, True))[0])
    True
  """
  shares = np.linspace(1, 1 / POINTS, POINTS)  # of equal errors the widest clip is taken
  clips, errors = clipping_errors(kernel, to, shares, axis=tuple(range(kernel.ndim - 1)))
  best = np.take_along_axis(clips, np.argmin(errors, axis=0)[None], axis=0)[0]
  return finite_scales((best / to.high).astype(np.float32))


def finite_scales(scales: np.ndarray) -> np.ndarray:
  """Replaces scales that are too small to divide by with 1."""
  return np.where(scales > 1e-30, scales, 1.0).astype(np.float32)


SCALES: dict[str, Callable[[np.ndarray, Levels], np.ndarray]] = {
  "absmax": absmax_scales,
  "mse": mse_scales,
}


def choose_scales(
  folded: Mapping[str, Folded], to: Mapping[str, Levels], method: str
) -> dict[str, np.ndarray]:
  """Scales of every kernel, from the integers of each."""
  return {name: SCALES[method](layer.kernel, to[name]) for name, layer in folded.items()}


def rounded_weights(layer: Folded, scales: np.ndarray, to: Levels) -> np.ndarray:
  """What the device convolves with: the folded weights on their grid, float32."""
  codes = round_kernel(layer.kernel, scales, to)
  return layer._replace(kernel=codes * scales.astype(np.float32)).weights
