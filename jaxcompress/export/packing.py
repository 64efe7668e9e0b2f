"""Arrays in as few bytes as they need: integers side by side, deflated byte planes, and layers' weights.

A layer's weights are one run of bytes, in the smallest of four forms: bitmap, signs, codebook and
values.
"""

import math
import zlib
from typing import NamedTuple

import numpy as np

from jaxcompress.files.values import MOST_BYTES
from jaxcompress.quantize.storage import Stored, forms_of, restore_weights

LEVEL = 9  # of deflate
STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY)


def pack_bits(codes: np.ndarray, bits: int) -> np.ndarray:
  """Integers side by side without gaps, the lowest bit first; 1 bit holds -1 and 1.

  Args:
    codes: int8, any shape, that :func:`~jaxcompress.quantize.storage.bits_of` finds to need so many bits.
    bits: 1 to 8; of two's complement from 2 on.

  Returns:
    (ceil(size * bits / 8),) uint8.

  Examples:
    >>> pack_bits(np.int8([-1, 1, 1]), 1).tolist(), pack_bits(np.int8([1, -2, 3]), 4).tolist()
    ([6], [225, 3])
  """
  return pack_unsigned(codes > 0 if bits == 1 else codes, bits)


def unpack_bits(data: np.ndarray, count: int, bits: int) -> np.ndarray:
  """Undoes :func:`pack_bits`: (count,) int8.

  Raises:
    ValueError: if the bits or the size do not fit.

  Examples:
    >>> unpack_bits(np.uint8([225, 3]), 3, 4).tolist()
    [1, -2, 3]
  """
  low = unpack_unsigned(data, count, bits)
  if bits == 1:
    return 2 * low.view(np.int8) - 1
  unused = 8 - bits
  return (low << unused).view(np.int8) >> unused


def pack_unsigned(codes: np.ndarray, bits: int) -> np.ndarray:
  """The lowest bits of bytes side by side without gaps, the lowest bit first.

  Args:
    codes: uint8, int8 or bool, any shape.
    bits: 1 to 8.

  Returns:
    (ceil(size * bits / 8),) uint8.

  Examples:
    >>> pack_unsigned(np.uint8([1, 5, 2]), 3).tolist(), pack_unsigned(np.bool_([0, 1]), 1).tolist()
    ([169, 0], [2])
  """
  flat = np.ascontiguousarray(codes).reshape(-1, 1).view(np.uint8)
  lowest = np.unpackbits(flat, axis=1, count=bits, bitorder="little")
  return np.packbits(lowest, bitorder="little")


def unpack_unsigned(data: np.ndarray, count: int, bits: int) -> np.ndarray:
  """Undoes :func:`pack_unsigned`: (count,) uint8.

  Raises:
    ValueError: if the bits or the size do not fit.
  """
  if bits not in range(1, 9) or data.dtype != np.uint8 or data.shape != (-(-count * bits // 8),):
    raise ValueError(f"{data.dtype} {data.shape} cannot hold {count} integers of {bits} bits")
  found = np.unpackbits(data, count=count * bits, bitorder="little")
  return np.packbits(found.reshape(count, bits), axis=1, bitorder="little").reshape(-1)


def deflate(array: np.ndarray) -> np.ndarray:
  """An array's bytes, first those of every number's lowest place, and so on, deflated.

  Bytes of one place are alike in numbers of like size, so they shrink where whole numbers do not.

  Args:
    array: any shape and type.

  Returns:
    (bytes,) uint8.

  Examples:
    >>> few = deflate(np.arange(1000))
    >>> few.size < 1000, inflate(few, np.int64, 1000)[-1]
    (True, np.int64(999))
  """
  flat = np.ascontiguousarray(array).reshape(-1)
  planes = flat.view(np.uint8).reshape(-1, flat.itemsize).T
  content = planes.tobytes()
  return np.frombuffer(min((_compress(content, s) for s in STRATEGIES), key=len), np.uint8)


def _compress(content: bytes, strategy: int) -> bytes:
  writer = zlib.compressobj(LEVEL, strategy=strategy)
  return writer.compress(content) + writer.flush()


def inflate(
  data: np.ndarray, dtype: type, count: int | None = None, *, most: int = MOST_BYTES
) -> np.ndarray:
  """Undoes :func:`deflate`, flat.

  Args:
    data: (bytes,) uint8.
    dtype: of the numbers.
    count: how many they are; None: as many as there are.
    most: bytes that they may have if no count is given.

  Raises:
    ValueError: if they are not so many, or too many.
    zlib.error: if the data is damaged.
  """
  size = np.dtype(dtype).itemsize
  reader = zlib.decompressobj()
  content = reader.decompress(data.tobytes(), 1 + (most if count is None else count * size))
  if count is None and len(content) > most:
    raise ValueError(f"more than {most:,} bytes when inflated")
  if not reader.eof or len(content) % size or count not in (None, len(content) // size):
    raise ValueError(f"{len(content)} bytes are not {count} numbers of {np.dtype(dtype)}")
  planes = np.frombuffer(content, np.uint8).reshape(size, -1)
  return np.ascontiguousarray(planes.T).reshape(-1).view(dtype)


def shrink(data: np.ndarray) -> np.ndarray:
  """Bytes deflated, or as they are where that does not make them fewer.

  Trained weights are mostly small, which takes about a fifth off packed ones of 2 to 4 bits.

  Args:
    data: (bytes,) uint8.

  Examples:
    >>> shrink(np.zeros(1000, np.uint8)).size < 20, shrink(np.uint8([7])).tolist()
    (True, [7])
  """
  deflated = deflate(data)
  return deflated if deflated.size < data.size else data


def restore(data: np.ndarray, size: int) -> np.ndarray:
  """Undoes :func:`shrink`: (size,) uint8.

  Raises:
    ValueError: if it has another size.
    zlib.error: if the data is damaged.
  """
  return data if data.size == size else inflate(data, np.uint8, size)


def zigzag(values: np.ndarray) -> np.ndarray:
  """int64 as uint64 that are small where magnitudes are: 0, -1, 1, -2, ... become 0, 1, 2, 3, ...

  Examples:
    >>> zigzag(np.int64([0, -1, 1, -2])).tolist()
    [0, 1, 2, 3]
  """
  return ((values << 1) ^ (values >> 63)).view(np.uint64)


def unzigzag(values: np.ndarray) -> np.ndarray:
  """Undoes :func:`zigzag`: int64.

  Examples:
    >>> unzigzag(zigzag(np.int64([-(2**63), 5]))).tolist()
    [-9223372036854775808, 5]
  """
  return (values >> np.uint64(1)).view(np.int64) ^ -(values & np.uint64(1)).view(np.int64)


class Blob(NamedTuple):
  """The parts of a layer's bytes, which follow each other in this order.

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
  """Undoes :func:`pack_weights`: int8 of a shape.

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
