"""The leaf op that tells the cells of a map apart: sines and cosines of their places, projected."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn.checks import check_counts, check_floats, is_number, is_whole, refuse
from jaxcompress.nn.graph import Node, Operation, alike, all_channels
from jaxcompress.nn.initial import ZEROS, Initial
from jaxcompress.nn.layers import LeafOp, pointwise, pointwise_kernel, scale_channels
from jaxcompress.ops.standard import matmul

TINY = 1e-6  # added to the sides


def fourier_codes(size: tuple[int, int], frequencies: int, temperature: float) -> np.ndarray:
  """Sines and cosines of the rows and columns of a map, (height * width, 2 * frequencies) float32.

  Rows come first. Of each pair of neighbours one is a sine, the other a cosine, of the place divided by
  a power of the temperature; places go from 0 to two pi.

  Examples:
    >>> fourier_codes((1, 2), 2, 10000.0).round(3).tolist()
    [[-0.0, 1.0, 0.0, -1.0], [-0.0, 1.0, -0.0, 1.0]]
  """
  order = np.arange(frequencies)
  powers = temperature ** (order // 2 * 2 / frequencies)

  def along(side: int) -> np.ndarray:
    places = np.arange(1, side + 1) / (side + TINY) * 2 * math.pi
    angles = places[:, None] / powers
    return np.where(order % 2, np.cos(angles), np.sin(angles))

  height, width = size
  rows = np.repeat(along(height), width, axis=0)
  return np.concatenate([rows, np.tile(along(width), (height, 1))], axis=1).astype(np.float32)


def _codes(fields: Mapping[str, Any]) -> np.ndarray:
  return fourier_codes(tuple(fields["size"]), fields["frequencies"], fields["temperature"])


def _constants(
  node: Node, params: Mapping[str, Any], stats: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
  """Ones, and what is added to each value of the map, float64."""
  projection, bias = (np.asarray(params[name], np.float64) for name in ("projection", "bias"))
  added = (_codes(node.attrs).astype(np.float64) @ projection[0, 0] + bias).ravel()
  return np.ones_like(added), added


class FourierPositions(LeafOp):
  """Adds a linear function of sines and cosines of its row and column to each cell of a map.

  It reads and makes vectors, the values of a map in their order, so that it stands between two
  :class:`Reshape` s. On a device it is an addition of constants, as that of an :class:`Affine`, of which
  files hold 9 bytes for each value of the map.

  Attributes:
    size: height and width of the map.
    frequencies: sines and cosines of a row, and as many of a column.
    temperature: of which the wavelengths are powers.

  Parameters: ``projection`` (1, 1, 2 * frequencies, channels), as the kernel of a pointwise convolution,
  and ``bias`` (channels,).

  Raises:
    ValueError: when called, if a field is out of range, or the input is no vectors of such maps.

  Examples:
    >>> ones = {"projection": jnp.ones((1, 1, 2, 1)), "bias": jnp.zeros(1)}
    >>> layer = FourierPositions((1, 2), frequencies=1)
    >>> layer.apply({"params": ones}, jnp.ones((1, 2))).round(2).tolist()
    [[1.0, 1.0]]

  References:
    Vaswani et al., `Attention Is All You Need <https://arxiv.org/abs/1706.03762>`_, 2017, section 3.5;
    Ali et al., `XCiT: Cross-Covariance Image Transformers <https://arxiv.org/abs/2106.09681>`_, 2021,
    appendix A, for maps.
  """

  size: tuple[int, int]
  frequencies: int = 32
  temperature: float = 10000.0

  operation = Operation(
    route=alike,
    evaluate=scale_channels,
    kernel=pointwise_kernel,
    constants=_constants,
    groups=lambda node: node.input_shapes[0][-1],
    trained=False,
    whole=True,
    resized=all_channels,
    lowered=pointwise,
  )

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_floats(self, x)
    check_counts(self, "frequencies")
    size = self.size
    if (
      not isinstance(size, list | tuple) or len(size) != 2 or not all(is_whole(n, 1) for n in size)
    ):
      refuse(self, f"size must be two whole numbers of 1 or more, (height, width), got {size!r}.")
    if not is_number(self.temperature) or self.temperature <= 0:
      refuse(self, f"temperature must be a finite number above zero, got {self.temperature!r}.")
    cells = math.prod(size)
    if x.ndim != 2 or x.shape[-1] % cells:
      refuse(
        self,
        f"it reads shape {x.shape}, which must be (batch, values) of maps of {size[0]} x {size[1]}"
        " cells; a Reshape makes vectors of them.",
      )
    codes = jnp.asarray(_codes({name: getattr(self, name) for name in FIELDS}), x.dtype)
    start = Initial(deviation=codes.shape[1] ** -0.5)
    channels = x.shape[-1] // cells
    projection = self.param("projection", start, (1, 1, codes.shape[1], channels))
    bias = self.param("bias", ZEROS, (channels,))
    added = matmul(codes, projection[0, 0].astype(x.dtype)) + bias.astype(x.dtype).reshape(1, -1)
    return x + added.reshape(1, -1)


FIELDS = ("size", "frequencies", "temperature")
