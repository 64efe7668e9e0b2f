"""Forms in which weights are stored (all, those that are not zero, or a codebook), and their bytes."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxcompress.quantize.model import QuantizedModel

FORMS = {  # name: (whether zeros are left out, whether there is a codebook)
  "dense": (False, False),
  "sparse": (True, False),
  "clustered": (False, True),
  "sparse clustered": (True, True),
}


class Stored(NamedTuple):
  """The weights of a layer in one form, in the order of a .tflite file: outputs first, inputs last.

  So the inputs among which ``n`` of ``m`` stay lie side by side in the bitmap, whose bytes then take
  few of their 256 values.

  Attributes:
    present: bool (weights,), false where a weight is zero and left out; None: none is left out.
    flipped: bool (channels,), true where a channel is stored with the other sign; None: none is.
      A negative BatchNorm factor flips the signs of a channel's integers, and this gives them the
      codebook of the others.
    codebook: int8 (entries,), ascending; None: values are stored themselves.
    values: int8 (stored,) values, or uint8 indices into the codebook.
    bits: of a value or an index, 1 to 8.
  """

  present: np.ndarray | None
  flipped: np.ndarray | None
  codebook: np.ndarray | None
  values: np.ndarray
  bits: int

  @property
  def nbytes(self) -> int:
    """Bytes without gaps: a bit for each flag, a byte for each entry, ``bits`` for each value."""
    flags = sum(math.ceil(part.size / 8) for part in self[:2] if part is not None)
    entries = 0 if self.codebook is None else self.codebook.size
    return flags + entries + math.ceil(self.values.size * self.bits / 8)


def bits_of(weights: np.ndarray) -> int:
  """The fewest bits whose symmetric integers hold some weights: 1 for -1 and 1 alone, else 2 to 8.

  Args:
    weights: int8, any shape.

  Examples:
    >>> [bits_of(np.int8(codes)) for codes in ([-7, 3], [8], [0], [-1, 1])]
    [4, 5, 2, 1]
  """
  magnitudes = np.abs(weights.astype(np.int32))
  if magnitudes.size and np.all(magnitudes == 1):
    return 1
  return max(2, int(magnitudes.max(initial=1)).bit_length() + 1)


def store_weights(weights: np.ndarray, form: str) -> Stored:
  """Weights in one form.

  Args:
    weights: int8, output channels last, within -127 to 127.
    form: of :data:`FORMS`.

  Examples:
    >>> stored = store_weights(np.int8([[0, 5], [0, -90], [5, 0], [0, 0]]), "sparse clustered")
    >>> stored.present.tolist()
    [False, False, True, False, True, True, False, False]
    >>> stored.codebook.tolist(), stored.values.tolist(), stored.bits
    ([-90, 5], [1, 1, 0], 1)
  """
  sparse, clustered = FORMS[form]
  flipped = flipped_channels(weights) if clustered else None
  if flipped is not None:
    weights = np.where(flipped, -weights, weights)
  values = np.moveaxis(weights, -1, 0).reshape(-1)
  present = values != 0 if sparse else None
  values = values[present] if sparse else values
  if not clustered or not values.size:
    return Stored(present, None, None, values, bits_of(values))
  codebook, indices = np.unique(values, return_inverse=True)
  return Stored(present, flipped, codebook, indices.astype(np.uint8), index_bits(codebook.size))


def restore_weights(stored: Stored, shape: tuple[int, ...]) -> np.ndarray:
  """The weights that :func:`store_weights` was given, int8 of a shape.

  Raises:
    ValueError: if the parts do not fit the shape or each other.

  Examples:
    >>> w = np.int8([[0, 5], [0, -90], [5, 0]])
    >>> forms = [store_weights(w, form) for form in FORMS]
    >>> [restore_weights(stored, w.shape).tolist() == w.tolist() for stored in forms]
    [True, True, True, True]
  """
  values = stored.values
  if stored.codebook is not None:
    if values.max(initial=0) >= stored.codebook.size:
      raise ValueError(f"an index is beyond the codebook's {stored.codebook.size} entries")
    values = stored.codebook[values]
  if stored.present is not None:
    every = np.zeros(stored.present.shape, np.int8)
    every[stored.present] = values
    values = every
  weights = np.moveaxis(values.reshape(shape[-1], *shape[:-1]), 0, -1)
  return np.ascontiguousarray(
    weights if stored.flipped is None else np.where(stored.flipped, -weights, weights)
  )


def forms_of(weights: np.ndarray) -> Mapping[str, Stored]:
  """Weights in every form; see :data:`FORMS`.

  Examples:
    >>> w = np.int8([[0, 100, 0, 0, -100, 0, 0, 3]]).T
    >>> {form: stored.nbytes for form, stored in forms_of(w).items()}
    {'dense': 8, 'sparse': 4, 'clustered': 6, 'sparse clustered': 5}
  """
  return {form: store_weights(weights, form) for form in FORMS}


def index_bits(entries: int) -> int:
  """Bits of an index into a codebook.

  Examples:
    >>> [index_bits(entries) for entries in (1, 2, 31, 33)]
    [1, 1, 5, 6]
  """
  return max(1, (entries - 1).bit_length())


def flipped_channels(weights: np.ndarray) -> np.ndarray | None:
  """Channels with whose signs turned round all channels together have fewer values.

  Channels are taken in the order of their number of values, most first; each gets the sign that
  adds fewer values to those of the ones before.

  Args:
    weights: int8, output channels last.

  Returns:
    bool (channels,), or None where nothing is gained.

  Examples:
    >>> flipped_channels(np.int8([[3, -3], [7, -7], [0, 0]])).tolist()
    [False, True]
  """
  channels = weights.shape[-1]
  has = np.zeros((channels, 256), bool)  # value + 128
  has[np.arange(channels), weights.reshape(-1, channels).astype(np.int32) + 128] = True
  turned = np.roll(has[:, ::-1], 1, axis=1)  # 128 - value
  known, flipped = np.zeros(256, bool), np.zeros(channels, bool)
  for i in np.argsort(-has.sum(axis=1), kind="stable"):
    flipped[i] = (turned[i] & ~known).sum() < (has[i] & ~known).sum()
    known |= turned[i] if flipped[i] else has[i]
  return flipped if known.sum() < has.any(axis=0).sum() else None


def packed_bytes(weights: int, channels: int, bits: int) -> int:
  """Bytes of a layer whose weights lie side by side without gaps.

  ``ceil(weights * bits / 8) + 8 * channels``: the weights, and for each output channel a float32
  scale and an int32 bias. Runtimes for .tflite files keep weights of fewer than 8 bits in a byte
  each; what is counted here is what a packed store, or nearly what a compressed file, takes.

  Examples:
    >>> packed_bytes(432, 16, 8), packed_bytes(432, 16, 3)
    (560, 290)
  """
  return math.ceil(weights * bits / 8) + 8 * channels


def weight_bytes(weights: np.ndarray) -> int:
  """Bytes of a layer's integers in the smallest of four forms.

  Dense: the bits that the largest needs. Sparse: a bitmap, and those that are not zero. Clustered: a
  codebook, and indices into it. Sparse and clustered: all three. :func:`jaxcompress.export.packed`
  writes these, and deflates each part where that makes it smaller.

  Args:
    weights: int8, output channels last.

  Examples:
    >>> weight_bytes(np.int8([[100], [-100], [0], [3], [0], [0], [0], [0]]))  # a bitmap and 3 bytes
    4
    >>> weight_bytes(np.full((100, 1), 7, np.int8))  # 7, and a bit for each
    14
  """
  return min(stored.nbytes for stored in forms_of(weights).values())


def zero_share(quantized: QuantizedModel) -> float:
  """Returns the share of a model's weights that are zero, over all layers with a kernel.

  Args:
    quantized: from training or :func:`~jaxcompress.quantize.post_training`.

  Examples:
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize.integer.grid import Grid, Integers
    >>> node = Node("dense", "Dense", {"features": 1}, ("input",), ("dense",), ((1, 4),), ((1, 1),))
    >>> grids = dict.fromkeys(("input", "dense"), Grid(np.float32(0.1), 0))
    >>> weights = np.int8([[0], [9], [0], [0]])
    >>> layers = {"dense": Integers(weights, np.ones(1, np.float32), np.zeros(1, np.int32))}
    >>> zero_share(QuantizedModel(Graph((node,), (1, 4), "dense"), grids, layers))
    0.75
  """
  kernels = [layer.weights for layer in quantized.layers.values()]
  alive = sum(int(np.count_nonzero(kernel)) for kernel in kernels)
  return 1 - alive / max(1, sum(kernel.size for kernel in kernels))


def model_bytes(quantized: QuantizedModel) -> int:
  """Counts the bytes of a model's packed weights, scales and biases.

  Every layer is in the form that takes it least, see :func:`weight_bytes`, with a float32 scale and
  an int32 bias for each output channel.

  Args:
    quantized: from training or :func:`~jaxcompress.quantize.post_training`.

  Examples:
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize.integer.grid import Grid, Integers
    >>> shapes = ((1, 8),), ((1, 1),)
    >>> node = Node("dense", "Dense", {"features": 1}, ("input",), ("dense",), *shapes)
    >>> grid = Grid(np.float32(0.1), 0)
    >>> weights = np.int8([[0], [0], [0], [9], [0], [0], [-9], [0]])
    >>> layers = {"dense": Integers(weights, np.ones(1, np.float32), np.zeros(1, np.int32))}
    >>> grids = {"input": grid, "dense": grid}
    >>> model = QuantizedModel(Graph((node,), (1, 8), "dense"), grids, layers)
    >>> model_bytes(model), zero_share(model)  # a bitmap, 2 values of 5 bits, and 8
    (11, 0.75)
  """
  return sum(
    weight_bytes(layer.weights) + 8 * layer.bias.size for layer in quantized.layers.values()
  )
