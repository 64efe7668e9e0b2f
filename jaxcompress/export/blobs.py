"""A layer's weights as one run of bytes: bitmap, signs, codebook and values, in the smallest form."""

import math
from typing import NamedTuple

import numpy as np

from jaxcompress.export.packing import (
  pack_bits,
  pack_unsigned,
  restore,
  shrink,
  unpack_bits,
  unpack_unsigned,
)
from jaxcompress.quantize.storage import Stored, forms_of, restore_weights


class Blob(NamedTuple):
  """What is where in a layer's bytes; the parts follow each other in this order.

  Each but the codebook is deflated where that makes it smaller, which shows in its size.

  Attributes:
    bits: of a value, or of an index into the codebook.
    bitmap: bytes of the bits that tell which weights are not zero; 0: all are stored.
    signs: bytes of the bits that tell which channels have the other sign; 0: none has.
    codebook: bytes of int8 entries; 0: values are stored themselves.
    values: bytes of the values, or of the indices.
  """

  bits: int
  bitmap: int
  signs: int
  codebook: int
  values: int


def pack_weights(weights: np.ndarray) -> tuple[Blob, np.ndarray]:
  """Weights in the fewest bytes that one of four forms takes.

  Args:
    weights: int8, output channels last, within -127 to 127.

  Returns:
    ``(blob, data)``; data is (bytes,) uint8.

  Examples:
    >>> weights = np.int8([[0, 100, 0, 0, -100, 0, 0, 3]]).T
    >>> blob, data = pack_weights(weights)
    >>> blob, data.tolist()
    (Blob(bits=8, bitmap=1, signs=0, codebook=0, values=3), [146, 100, 156, 3])
    >>> unpack_weights(blob, data, (8, 1)).ravel().tolist()
    [0, 100, 0, 0, -100, 0, 0, 3]
  """
  packed = [_pack(stored) for stored in forms_of(weights).values()]
  return min(packed, key=lambda pair: pair[1].size)


def _pack(stored: Stored) -> tuple[Blob, np.ndarray]:
  pack = pack_bits if stored.codebook is None else pack_unsigned
  parts = (
    _flags(stored.present),
    _flags(stored.flipped),
    np.zeros(0, np.uint8) if stored.codebook is None else stored.codebook.view(np.uint8),
    shrink(pack(stored.values, stored.bits)),
  )
  return Blob(stored.bits, *(part.size for part in parts)), np.concatenate(parts)


def _flags(flags: np.ndarray | None) -> np.ndarray:
  return np.zeros(0, np.uint8) if flags is None else shrink(pack_unsigned(flags, 1))


def unpack_weights(blob: Blob, data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """What :func:`pack_weights` was given, int8 of a shape.

  Raises:
    ValueError: if the data does not fit the blob, or the blob the shape.
    zlib.error: if the data is damaged.
  """
  if data.dtype != np.uint8 or data.shape != (sum(blob[1:]),) or min(blob) < 0:
    raise ValueError(f"{data.dtype} {data.shape} are not the parts of {blob}")
  count, channels = int(np.prod(shape, dtype=object)), shape[-1]
  bitmap, signs, codebook, values = np.split(data, np.cumsum(blob[1:-1]))
  present = _read_flags(bitmap, count)
  flipped = _read_flags(signs, channels)
  stored = count if present is None else int(present.sum())
  packed = restore(values, math.ceil(stored * blob.bits / 8))
  unpack = unpack_unsigned if codebook.size else unpack_bits
  return restore_weights(
    Stored(
      present,
      flipped,
      codebook.view(np.int8) if codebook.size else None,
      unpack(packed, stored, blob.bits),
      blob.bits,
    ),
    shape,
  )


def _read_flags(part: np.ndarray, count: int) -> np.ndarray | None:
  if not part.size:
    return None
  return unpack_unsigned(restore(part, -(-count // 8)), count, 1).view(bool)
