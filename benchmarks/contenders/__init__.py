"""The same MobileNetV2 training step in several frameworks, for ``benchmarks/peers.py``.

:data:`CONTENDERS` names functions from a :class:`Setting` to a :class:`Step`. Their modules are imported
in processes of their own, so that no framework sees another's threads or settings.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

CLASSES = 100
RATE, MOMENTUM = 0.05, 0.9
KD_TEMPERATURE, KD_WEIGHT = 4.0, 0.9
TEACHER_WIDTH = 1.0


OURS = "jaxcompress"
TORCH = {"PyTorch, eager": "pytorch.eager", "PyTorch, compiled": "pytorch.compiled"}
CONTENDERS = {
  "float": {
    OURS: "ours.train",
    "Flax nn.Conv": "plain_flax.train",
    "Keras 3 on JAX": "keras3.train",
    **TORCH,
  },
  "int8": {
    OURS: "ours.int8",
    "jaxcompress, LSQ": "ours.lsq",
    "Flax nn.Conv, rounded by hand": "plain_flax.train",
    "qwix, OdmlQatProvider": "plain_flax.qwix_odml",
    **TORCH,
  },
  "distill": {
    OURS: "ours.distill",
    "jaxcompress, student and teacher apart": "ours.apart",
    "Flax nn.Conv": "plain_flax.train",
    **TORCH,
  },
}
"""By task and name, a module and its function."""


class Setting(NamedTuple):
  """A training task, and its sizes.

  Attributes:
    task: ``float``, ``int8`` (quantization-aware) or ``distill`` (from a teacher of width 1).
    size: side of the images, pixels.
    batch: images.
    width: of the student.
    dtype: of activations, ``float32`` or ``bfloat16``; parameters are float32.
  """

  task: str
  size: int
  batch: int
  width: float
  dtype: str


class Step(NamedTuple):
  """A contender at the start.

  Attributes:
    run: one step; returns when it is done.
    parameters: the student's, which must be alike for all.
  """

  run: Callable[[], None]
  parameters: int


def batch_of(setting: Setting) -> dict[str, np.ndarray]:
  """Random images, (batch, size, size, 3) float32, and labels, (batch,) int32."""
  rng = np.random.default_rng(0)
  shape = (setting.batch, setting.size, setting.size, 3)
  images, labels = rng.normal(size=shape), rng.integers(0, CLASSES, setting.batch)
  return {"image": images.astype(np.float32), "label": labels.astype(np.int32)}


class Block(NamedTuple):
  """An inverted residual: channels inside, stride of its depthwise layer, channels that leave it."""

  inner: int
  expands: bool
  stride: int
  features: int


class Rows(NamedTuple):
  """A MobileNetV2: channels and stride of the first layer, blocks, channels of the last one."""

  stem: int
  stride: int
  blocks: tuple[Block, ...]
  head: int


STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
STRIDES = {32: (1, 1, 1, 2, 2, 1, 2, 1), 224: (2, 1, 2, 2, 2, 1, 2, 1)}


def rows_of(width: float, size: int) -> Rows:
  """Rows of the paper's table 2; for 32 px without the first two halvings."""
  stride, *strides = STRIDES[size]
  stem = channels = rounded(32 * width)
  blocks = []
  for (expand, features, repeats), first in zip(STAGES, strides, strict=True):
    for i in range(repeats):
      out = rounded(features * width)
      blocks.append(Block(channels * expand, expand > 1, first if i == 0 else 1, out))
      channels = out
  return Rows(stem, stride, tuple(blocks), rounded(1280 * max(1.0, width)))


def rounded(channels: float) -> int:
  """A multiple of 8, never below 90 %."""
  near = max(8, int(channels + 4) // 8 * 8)
  return near + 8 if near < 0.9 * channels else near
