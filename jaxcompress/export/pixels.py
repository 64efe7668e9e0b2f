"""Files that read images as they are: uint8."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from jaxcompress.data import Preprocess
from jaxcompress.nn import INPUT, ConvNorm
from jaxcompress.nn.foreign import check_model
from jaxcompress.quantize import QuantizedModel

INPUT_KINDS = ("codes", "uint8", "float32")
PIXELS = np.arange(256)
SHIFT = 128  # between a pixel and its int8 code
PIXELS_OF_NETWORK = Preprocess(center=float(SHIFT), scale=64.0, per_image=False)


class PixelNetwork(nn.Module):
  """A network behind a normalization of its own: on the device a depthwise 1x1 convolution.

  Attributes:
    network: that reads normalised images.
  """

  network: nn.Module

  @nn.compact
  def __call__(self, x, *, train):
    options = {"kernel": 1, "groups": "depthwise", "norm": None}
    x = ConvNorm(x.shape[-1], name="normalize", **options)(x, train=train)
    return self.network(x, train=train)


class PixelModel(NamedTuple):
  """A network that reads pixels, from :func:`read_pixels`.

  Attributes:
    model: the network behind its normalization.
    variables: of both.
    preprocess: of pixels, alike for all channels.
  """

  model: nn.Module
  variables: dict[str, Any]
  preprocess: Preprocess


def read_pixels(
  model: nn.Module, variables: Mapping[str, Any], preprocess: Preprocess
) -> PixelModel:
  """The same network, with the normalization of its preprocessing as a first layer.

  An integer file has one scale and one zero point for all channels of its input, so it can read
  pixels only if preprocessing treats all channels alike. Normalization per channel cannot go into
  the first convolution: that pads with zeros, which are each channel's mean, and a file pads all
  channels with one code. So it becomes a layer, ``y = x * 64 / scale + (128 - center) / scale`` of
  ``x = (pixel - 128) / 64``, whose weights are exact in any number of bits; the float network
  computes the same. It takes the place of the ``"first"`` layer of rules.

  Args:
    model: a linen module that reads normalised images.
    variables: its ``params`` and ``batch_stats``.
    preprocess: that was trained with; each image's own brightness and contrast
      (``per_image=True``) is no such layer.

  Returns:
    A :class:`PixelModel`. Quantize it with ``preprocess=`` and
    ``input_range=pixel_range(preprocess)``, then write it with ``tflite(..., input="uint8")``.

  Raises:
    ValueError: if ``quantized`` is not a quantized model, or the preprocessing is per image.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> import jax
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> rgb = Preprocess(center=(124.0, 116.0, 104.0), scale=(58.0, 57.0, 57.0), per_image=False)
    >>> pixel_range(read_pixels(model, variables, rgb).preprocess)
    (-2.0, 1.984375)
  """
  check_model("model", model, trains=True)
  _check_affine(preprocess)
  values = (preprocess.center, preprocess.scale)
  channels = max((len(value) for value in values if isinstance(value, tuple)), default=3)
  center, scale = (np.broadcast_to(np.asarray(value, np.float64), (channels,)) for value in values)
  whole = PIXELS_OF_NETWORK
  layer = {
    "kernel": (whole.scale / scale).reshape(1, 1, 1, channels).astype(np.float32),
    "bias": ((whole.center - center) / scale).astype(np.float32),
  }
  inner = {kind: {"network": tree} for kind, tree in variables.items()}
  inner["params"] = {**inner["params"], "normalize": layer}
  return PixelModel(PixelNetwork(model), inner, whole)


def pixel_range(preprocess: Preprocess) -> tuple[float, float]:
  """Returns the range of a network's input with which each code equals the pixel minus 128.

  For ``post_training(..., input_range=)``, and for training as
  ``Rule(match="input", activations=quantize.fixed_range(*pixel_range(preprocess)))``.

  Args:
    preprocess: of the images.

  Raises:
    ValueError: if there is none: the preprocessing is per image or per channel, or its center is no
      whole pixel from 0 to 255.

  Examples:
    >>> pixel_range(Preprocess(center=100.0, scale=50.0, per_image=False))
    (-2.0, 3.1)
  """
  _check_affine(preprocess)
  center, scale = preprocess.center, preprocess.scale
  if isinstance(center, tuple) or isinstance(scale, tuple):
    raise ValueError(
      "preprocess: an integer file has one scale and one zero point for all channels, and these have"
      f" center {center} and scale {scale}; put them into the network with export.read_pixels."
    )
  if center not in PIXELS:
    raise ValueError(
      f"preprocess: center {center} must be a whole pixel, 0 to 255, since a zero point is an"
      " integer; round it, or put it into the network with export.read_pixels."
    )
  return float((0 - center) / scale), float((255 - center) / scale)


def _check_affine(preprocess: Preprocess) -> None:
  if preprocess.per_image:
    raise ValueError(
      "preprocess: it brings every image to the same brightness and contrast, which depends on the"
      " whole image; a file that reads pixels needs Preprocess(..., per_image=False)."
    )


def check_input(quantized: QuantizedModel, kind: str) -> np.ndarray | None:
  """Checks that a file of a model can read a kind of input without losing a bit.

  For ``"uint8"`` all 256 pixels are quantized as the model does it, in images of one brightness and
  in one image that has them all: both give the same codes only if the preprocessing works pixel by
  pixel.

  Args:
    quantized: the model.
    kind: ``"codes"``, ``"uint8"`` or ``"float32"``.

  Returns:
    For ``"uint8"`` the code of every pixel in every channel, (256, channels) int8; otherwise None.

  Raises:
    ValueError: if the kind is unknown, codes depend on other pixels of the image, or images would
      become 16-bit integers.

  Examples:
    >>> from jaxcompress.data import Preprocess
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grids = {"input": Grid(np.float32(1 / 64), 0), "pool": Grid(np.float32(0.1), 0)}
    >>> preprocess = Preprocess(center=128.0, scale=64.0, per_image=False)
    >>> graph = Graph((pool,), (1, 2, 2, 3), "pool")
    >>> check_input(QuantizedModel(graph, grids, {}, preprocess), "uint8")[[0, 255], 0].tolist()
    [-128, 127]
  """
  if kind not in INPUT_KINDS:
    raise ValueError(f"input: {kind!r} is unknown; it must be one of {', '.join(INPUT_KINDS)}.")
  if kind == "codes":
    return None
  if quantized.grids[INPUT].bits != 8:
    raise ValueError(
      f"input: {kind!r} needs an input of 8 bits, and the model's has 16; use input='codes', or"
      " Rule(match='input', activations=ema_range(8))."
    )
  if kind == "float32":
    return None
  codes = pixel_codes(quantized)
  if codes is None:
    raise ValueError(
      "input: 'uint8' needs preprocessing that maps each pixel by itself, and the model's does not;"
      " use a Preprocess(..., per_image=False), or input='codes'."
    )
  return codes


def pixel_codes(quantized: QuantizedModel) -> np.ndarray | None:
  """The code of every pixel in every channel, (256, channels); None if it depends on other pixels.

  All 256 pixels are quantized in images of one brightness and in one image that has them all.
  """
  if quantized.preprocess is None:
    return None
  shape = quantized.graph.input_shape[1:]
  ones = (1,) * len(shape)
  flat = np.broadcast_to(PIXELS.reshape(-1, *ones), (PIXELS.size, *shape))
  mixed = np.resize(PIXELS, (-(-PIXELS.size // int(np.prod(shape))), *shape))
  images = np.concatenate([flat, mixed]).astype(np.uint8)
  codes = quantized.quantize_input(images)
  table = codes[: PIXELS.size].reshape(PIXELS.size, -1, shape[-1])[:, 0]
  expected = table[images, np.arange(shape[-1])]
  return table if np.array_equal(codes, expected) else None


def is_shift(table: np.ndarray) -> bool:
  """Whether each code equals the pixel minus 128, in every channel."""
  return bool((table == (PIXELS - SHIFT)[:, None]).all())
