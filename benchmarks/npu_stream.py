"""Reads what Vela tells an Ethos-U to compute, and compares its numbers with TFLite-Micro's."""

import collections
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from ethosu import mlw_codec

from jaxcompress.export.contents import read_operators
from jaxcompress.nn import kernel_shape
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer import reference

CUSTOM, STREAM = "CUSTOM", "COP1"
ROUNDINGS = ("double", "truncate", "natural")
OPERATIONS = {0x2: "convolution", 0x3: "depthwise", 0x5: "pool", 0x6: "elementwise"}
DMA = 0x10
# registers with a word of their own
SRC, DST, LENGTH = 0x30, 0x31, 0x32
WEIGHT_BASE, WEIGHT_LENGTH, SCALE_BASE, SCALE_LENGTH = 0x20, 0x21, 0x22, 0x23
# registers within the command's word
SRC_REGION, DST_REGION, WEIGHT_REGION, SCALE_REGION = 0x130, 0x131, 0x128, 0x129
OUTPUT_PRECISION = 0x114
PER_CHANNEL = 0x100  # a bit of the output's precision that is not set
RECORD = 10  # bytes of a channel: 40 bits of bias, 32 of factor, 6 of shift
Channel = tuple[int, int, int]


class Operation(NamedTuple):
  """An operation in the NPU's command stream.

  Attributes:
    kind: of :data:`OPERATIONS`.
    rounding: of :data:`ROUNDINGS`.
    channels: bias, factor and shift of each; none where one factor is for all.
    weights: as they are compressed.
  """

  kind: str
  rounding: str
  channels: tuple[Channel, ...]
  weights: bytes


def compiled(path: pathlib.Path, accelerator: str) -> pathlib.Path:
  """The file that Vela makes of one."""
  options = ["--accelerator-config", accelerator, "--output-dir", str(path.parent / "out")]
  command = [sys.executable, "-m", "ethosu.vela", str(path), *options]
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  return path.parent / "out" / f"{path.stem}_vela.tflite"


def operations(path: pathlib.Path) -> Iterator[Operation]:
  """Yields the NPU operations of a compiled file, in order."""
  for operator in read_operators(path):
    if operator.name != CUSTOM:
      continue
    stream, constants, scratch = operator.inputs[:3]
    memory = {0: np.array(constants.values), 1: np.zeros(scratch.shape, np.uint8)}
    yield from _carried_out(_commands(stream.values.tobytes()), memory)


def _commands(content: bytes) -> np.ndarray:
  """The words of the NPU's own commands, behind those of its driver."""
  words = np.frombuffer(content[: len(content) // 4 * 4], "<u4")
  if content[:4] != STREAM.encode():
    raise ValueError(f"stream: it begins with {content[:4]!r} and not with {STREAM!r}.")
  place = 1
  while place < len(words):
    action = words[place] & 0xFF
    if action == 2:
      length = int(words[place] >> 16) | int(words[place] >> 8 & 0xFF) << 16
      return words[place + 1 : place + 1 + length]
    place += 3 if action == 1 else 1
  raise ValueError("stream: it has no commands.")


def _carried_out(words: np.ndarray, memory: dict[int, np.ndarray]) -> Iterator[Operation]:
  """Follows registers and copies of memory, and tells what is computed."""
  own: dict[int, int] = collections.defaultdict(int)
  wide: dict[int, int] = collections.defaultdict(int)
  place = 0
  while place < len(words):
    word = int(words[place])
    code, value = word & 0x3FF, word >> 16
    if word & 0x4000:
      wide[code] = int(words[place + 1]) | (value & 0xFF) << 32
      place += 2
      continue
    place += 1
    if code == DMA:
      start, to, size = wide[SRC], wide[DST], wide[LENGTH]
      memory[own[DST_REGION]][to : to + size] = memory[own[SRC_REGION]][start : start + size]
    elif code in OPERATIONS:
      precision = own[OUTPUT_PRECISION]
      channels: tuple[Channel, ...] = ()
      weights = b""
      if OPERATIONS[code] in ("convolution", "depthwise") and not precision & PER_CHANNEL:
        start = wide[SCALE_BASE]
        data = memory[own[SCALE_REGION]][start : start + wide[SCALE_LENGTH]]
        channels = tuple(map(_channel, data[: len(data) // RECORD * RECORD].reshape(-1, RECORD)))
        start = wide[WEIGHT_BASE]
        weights = memory[own[WEIGHT_REGION]][start : start + wide[WEIGHT_LENGTH]].tobytes()
      yield Operation(OPERATIONS[code], ROUNDINGS[precision >> 14 & 3], channels, weights)
    else:
      own[code] = value


def _channel(record: np.ndarray) -> Channel:
  data = record.tobytes()
  bias = int.from_bytes(data[:5], "little", signed=True)
  return bias, int.from_bytes(data[5:9], "little"), data[9] & 0x3F


def expected(quantized: QuantizedModel) -> dict[str, list[Channel]]:
  """Bias, factor and shift of every channel of each layer, as TFLite-Micro has them."""
  found = {}
  for node in quantized.graph.nodes:
    if kernel_shape(node) is None:
      continue
    layer, grids = quantized.layers[node.name], quantized.grids
    reach = np.zeros(len(layer.scales))
    factor = reference.convolution(grids[node.inputs[0]], layer.scales, grids[node.output], reach)
    shift = 31 + factor.right - factor.left
    columns = (layer.bias, factor.q31, shift)
    found[node.name] = [tuple(map(int, row)) for row in zip(*columns, strict=True)]
  return found


def weights_of(quantized: QuantizedModel) -> collections.Counter:
  """How often each weight occurs that is not zero."""
  found: collections.Counter = collections.Counter()
  for node in quantized.graph.nodes:
    if kernel_shape(node) is not None:
      found.update(quantized.layers[node.name].weights.ravel().tolist())
  del found[0]
  return found


def compare(quantized: QuantizedModel, path: pathlib.Path, accelerator: str) -> tuple[str, ...]:
  """A row: what of a network's numbers the NPU gets as TFLite-Micro has them."""
  own = {channel for channels in expected(quantized).values() for channel in channels}
  wanted = [channel for channels in expected(quantized).values() for channel in channels]
  done = list(operations(compiled(path, accelerator)))
  ours = [one for one in done if own & set(one.channels)]  # the others are means and the like
  given = {channel for one in ours for channel in one.channels}
  weights: collections.Counter = collections.Counter()
  for data in {one.weights for one in ours}:  # what is computed in stripes has them several times
    weights.update(mlw_codec.decode(bytearray(data)))
  del weights[0]  # which fill blocks
  known = weights_of(quantized)
  roundings = collections.Counter((one.kind, one.rounding) for one in done)
  return (
    f"{sum(channel in given for channel in wanted):,} of {len(wanted):,}",
    f"{(weights & known).total():,} of {known.total():,}",
    f"{(weights - known).total():,}",
    ", ".join(f"{count} {kind} {mode}" for (kind, mode), count in sorted(roundings.items())),
  )
