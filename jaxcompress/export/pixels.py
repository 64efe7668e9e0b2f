"""Files that read images as they are: uint8."""

import numpy as np

from jaxcompress.nn import INPUT
from jaxcompress.quantize import QuantizedModel

INPUTS = ("codes", "uint8")
PIXELS = np.arange(256)
SHIFT = 128  # between a pixel and its int8 code


def check_input(quantized: QuantizedModel, kind: str) -> None:
  """Checks that a file of a model can read a kind of input without losing a bit.

  For ``"uint8"`` all 256 pixels are quantized as the model does it, in images of one brightness and
  in one image that has them all: both give the pixel less 128 only if the preprocessing works pixel
  by pixel, is affine, and has the same numbers as the input's grid.

  Args:
    quantized: the model.
    kind: ``"codes"`` or ``"uint8"``.

  Raises:
    ValueError: if the kind is unknown, or the model's codes are not the pixels less 128.

  Examples:
    >>> from jaxcompress.data import Preprocess
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize import Grid
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grids = {"input": Grid(np.float32(1 / 64), 0), "pool": Grid(np.float32(0.1), 0)}
    >>> preprocess = Preprocess(center=128.0, scale=64.0, per_image=False)
    >>> graph = Graph((pool,), (1, 2, 2, 3), "pool")
    >>> check_input(QuantizedModel(graph, grids, {}, preprocess), "uint8")
  """
  if kind not in INPUTS:
    raise ValueError(f"input: {kind!r} is unknown; it must be one of {', '.join(INPUTS)}.")
  if kind == "codes":
    return
  grid, shape = quantized.grids[INPUT], quantized.graph.input_shape[1:]
  if grid.bits != 8 or quantized.preprocess is None or not _shifts(quantized, shape):
    raise ValueError(
      "input: 'uint8' needs codes that are the pixels less 128, and the model's, with input scale"
      f" {float(grid.scale):.6g} and zero point {int(grid.zero_point)}, are not; use preprocessing"
      " such as Preprocess(center=128, scale=64, per_image=False) and the grid of scale 1/64 and zero"
      " point 0, or input='codes'."
    )


def _shifts(quantized: QuantizedModel, shape: tuple[int, ...]) -> bool:
  flat = np.broadcast_to(PIXELS.reshape(-1, 1, 1, 1), (PIXELS.size, *shape))
  mixed = np.resize(PIXELS, (-(-PIXELS.size // int(np.prod(shape))), *shape))
  images = np.concatenate([flat, mixed]).astype(np.uint8)
  return bool(np.array_equal(quantized.quantize_input(images), images.astype(int) - SHIFT))
