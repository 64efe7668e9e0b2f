"""Integers of weights and activations by layer, and scales of weights for each output channel."""

from collections.abc import Callable, Mapping

import numpy as np

from jaxcompress.nn import Folded, kernel_shape
from jaxcompress.quantize.codes import round_kernel
from jaxcompress.quantize.config import Quantization
from jaxcompress.quantize.fake_quant import Levels, activation_levels, levels
from jaxcompress.quantize.integer.grid import HIGHEST
from jaxcompress.quantize.quantizers.base import Quantizer
from jaxcompress.quantize.sites import Sites, assign

BITS = {activation_levels(bits): bits for bits in (*range(2, 9), 16)}  # of activations
WITHOUT_KERNEL = levels(8, symmetric=True, narrow=True)  # a normalization on its own: exact ones
POINTS = 100  # candidates of a search for a scale


def layer_levels(sites: Sites, plan: Quantization) -> tuple[dict[str, Levels], dict[str, int]]:
  """Finds the integers of the weights by layer, and the bits of activations by tensor.

  Args:
    sites: of a traced graph.
    plan: of its quantizers only the integers count.

  Returns:
    ``(levels, bits)``: :class:`~jaxcompress.quantize.fake_quant.Levels` of every node that has a
    kernel, by name; 2 to 8, or 16, by tensor.

  Raises:
    ValueError: if a rule matches no layer, or asks for what integer files do not hold: a layer in
      float, asymmetric weights or more than 8 bits, activations of other widths than 2 to 8 and 16.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.quantize import Rule, absmax, int8
    >>> from jaxcompress.quantize.sites import find_sites
    >>> sites = find_sites(models.summarize(models.resnet8(), 32).graph)
    >>> plan = int8(rules=(Rule(match="stage2", weights=absmax(4)),))
    >>> to, _ = layer_levels(sites, plan)
    >>> to["stem"].high, to["stage2_block0/conv1"].high
    (127, 7)
  """
  assigned = assign(plan, sites)
  weights = {
    node.name: _integers_of(node.name, assigned.weights.get(node.name))
    if node.name in sites.kernels
    else WITHOUT_KERNEL
    for node in sites.graph.nodes
    if kernel_shape(node) is not None
  }
  activations = {
    tensor: assigned.gates[tensor].bits
    if tensor in assigned.gates
    else _bits_of(tensor, assigned.activations.get(key), tensor in sites.rounded)
    for tensor, key in sites.keys
  }
  return weights, activations


def _bits_of(tensor: str, quantizer: Quantizer | None, rounded: bool) -> int:
  if not rounded:
    return 8
  if quantizer is None:
    raise ValueError(
      f"rules: the activations of {tensor!r} stay in float, which integer files do not hold; leave"
      " activations= out of the rule."
    )
  if quantizer.levels not in BITS:
    raise ValueError(
      f"rules: the activations of {tensor!r} have {quantizer.levels}; post-training quantization gives"
      " them 2 to 8 bits, or 16, as by activations=ema_range(16)."
    )
  return BITS[quantizer.levels]


def _integers_of(name: str, quantizer: Quantizer | None) -> Levels:
  if quantizer is None:
    raise ValueError(
      f"rules: the weights of {name!r} stay in float, which integer files do not hold; give them a"
      " quantizer."
    )
  to = quantizer.levels
  if to.low != -to.high or to.high > HIGHEST:
    raise ValueError(
      f"rules: the weights of {name!r} have {to}; they must be symmetric and have at most 8 bits,"
      " as those of quantize.absmax(bits)."
    )
  return to


def clipping_errors(
  x: np.ndarray, to: Levels, shares: np.ndarray, axis: tuple[int, ...] | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Measures the mean squared error of rounding with clips at shares of the largest value.

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
  """The weights that a device convolves with: the folded ones on their grid, float32."""
  codes = round_kernel(layer.kernel, scales, to)
  return layer._replace(kernel=codes * scales.astype(np.float32)).weights
