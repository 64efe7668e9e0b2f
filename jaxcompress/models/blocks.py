"""Rows of the architectures' tables, and blocks that several of them share."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcompress import ops
from jaxcompress.nn import (
  Activation,
  Add,
  ConvNorm,
  Dense,
  Endpoints,
  GlobalAvgPool,
  Multiply,
  Norm,
)
from jaxcompress.nn.activations import ACTIVATIONS

HARD = "hard_sigmoid"
SYMMETRIC = "SYMMETRIC"  # padding, as PyTorch's


class Row(NamedTuple):
  """Blocks of one shape in an architecture's table.

  Attributes:
    features: channels at the end, at width 1.
    stride: of the first of them.
    repeats: how many there are.
    expanded: channels inside, at width 1.
    kernel: side of the depthwise kernel.
    squeeze: whether there is a squeeze-excite.
    act: name of the activation function.
  """

  features: int
  stride: int = 1
  repeats: int = 1
  expanded: int = 0
  kernel: int = 3
  squeeze: bool = False
  act: str = "relu"


class Expansion(NamedTuple):
  """Inverted residuals of one shape, whose channels inside are a multiple of those that come in.

  Attributes:
    features: channels at the end, at width 1.
    expand: the multiple.
    stride: of the first of them.
    repeats: how many there are.
    kernel: side of the depthwise kernel.
  """

  features: int
  expand: int
  stride: int = 1
  repeats: int = 1
  kernel: int = 3


class Architecture(NamedTuple):
  """A network's table.

  Attributes:
    stem: channels of the first convolution, at width 1.
    stages: rows, :class:`Row` or the like, of each stage.
    head: channels of the last layer before the classifier.
  """

  stem: int
  stages: tuple[tuple[Any, ...], ...]
  head: int


class Block(NamedTuple):
  """One block of a network.

  Attributes:
    name: of its module.
    row: of the table, whose stride is that in the ImageNet layout.
    stride: in the layout that was asked for.
    last: whether it is the last of its stage.
    ends: whether it is the last of its resolution, in the ImageNet layout: where networks give a
      feature map, so that maps are those of the same blocks in every layout.
  """

  name: str
  row: Any
  stride: int
  last: bool
  ends: bool


def unroll(stages: Sequence[Sequence[Any]], strides: Sequence[int]) -> Iterator[Block]:
  """The blocks of a table, one after the other.

  Args:
    stages: rows, :class:`Row` or the like; only the first of a stage may halve the resolution.
    strides: of each stage, in the layout that was asked for.

  Examples:
    >>> stages = ((Row(8),), (Row(16, stride=2, repeats=2),), (Row(24, stride=2),))
    >>> for block in unroll(stages, (1, 1, 2)):
    ...   print(block.name, block.row.stride, block.stride, block.last, block.ends)
    stage0_block0 1 1 True False
    stage1_block0 2 1 False False
    stage1_block1 1 1 True True
    stage2_block0 2 2 True True
  """
  halving = [stage[0].stride > 1 for stage in stages]
  for i, (stage, stride) in enumerate(zip(stages, strides, strict=True)):
    rows = [
      row._replace(stride=1 if j else row.stride) for row in stage for j in range(row.repeats)
    ]
    ends = any(halving[: i + 1]) and (i + 1 == len(stages) or halving[i + 1])
    for j, row in enumerate(rows):
      last = j + 1 == len(rows)
      yield Block(f"stage{i}_block{j}", row, 1 if j else stride, last, last and ends)


def classified(
  x: jax.Array,
  num_classes: int,
  maps: Sequence[jax.Array],
  preact: Sequence[jax.Array] | None = None,
  *,
  use_bias: bool = True,
) -> Endpoints:
  """Averages the last map over its pixels and classifies it.

  Call it inside a compact method; the modules are ``pool`` and ``classifier``.

  Args:
    x: the last map.
    num_classes: size of the logits.
    maps: for the endpoints.
    preact: for the endpoints; None: the maps, of blocks that end linearly.
    use_bias: of the classifier.
  """
  pooled = GlobalAvgPool(name="pool")(x)
  logits = Dense(num_classes, use_bias, name="classifier")(pooled)
  return Endpoints(logits, pooled, tuple(maps), tuple(maps if preact is None else preact))


def classified_by_head(
  x: jax.Array,
  features: int,
  num_classes: int,
  maps: Sequence[jax.Array],
  preact: Sequence[jax.Array] | None = None,
  *,
  train: bool | jax.Array,
  **fields: Any,
) -> Endpoints:
  """As :func:`classified`, with a pointwise convolution, ``head``, behind the average."""
  x = GlobalAvgPool(keepdims=True, name="pool")(x)
  x = convolved(x, features, name="head", train=train, **fields)
  logits = Dense(num_classes, name="classifier")(x)
  pooled = x.reshape(x.shape[0], -1)
  return Endpoints(logits, pooled, tuple(maps), tuple(maps if preact is None else preact))


class SqueezeExcite(nn.Module):
  """Channel attention: global average, two pointwise convolutions with biases, a gate.

  Attributes:
    reduced: channels between the two convolutions.
    act: name of the activation function between them.
    gate: name of the one behind them.

  References:
    Hu et al., `Squeeze-and-Excitation Networks <https://arxiv.org/abs/1709.01507>`_, 2018; the
    hard gate is that of Howard et al., `Searching for MobileNetV3
    <https://arxiv.org/abs/1905.02244>`_, 2019, section 5.3.
  """

  reduced: int
  act: str = "relu"
  gate: str = HARD

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    y = GlobalAvgPool(keepdims=True, name="pool")(x)
    y = convolved(y, self.reduced, act=self.act, norm=None, name="reduce", train=train)
    if self.gate == HARD:  # every device has it inside the layer
      y = ConvNorm(x.shape[-1], act=HARD, norm=None, name="expand")(y, train=train)
    else:
      y = convolved(y, x.shape[-1], act=self.gate, norm=None, name="expand", train=train)
    return Multiply(name="scale")(x, y)


def activated(
  x: jax.Array, features: int, *, act: str, name: str, train: bool | jax.Array, **fields: Any
) -> tuple[jax.Array, jax.Array]:
  """A :class:`~jaxcompress.nn.ConvNorm` whose output is wanted before and after its activation.

  Call it inside a compact method; the activation is a module of its own, ``{name}_act``.
  """
  before = ConvNorm(features, name=name, **fields)(x, train=train)
  return before, Activation(act, name=f"{name}_act")(before)


def convolved(
  x: jax.Array, features: int, *, act: str | None, name: str, train: bool | jax.Array, **fields: Any
) -> jax.Array:
  """A :class:`~jaxcompress.nn.ConvNorm` with its activation: inside it where devices fuse them."""
  if act is not None and not ACTIVATIONS[act].fuses:
    return activated(x, features, act=act, name=name, train=train, **fields)[1]
  return ConvNorm(features, act=act, name=name, **fields)(x, train=train)


class InvertedResidual(nn.Module):
  """Expansion, depthwise, squeeze-excite, linear projection, and a residual where shapes allow.

  Attributes:
    features: channels at the end.
    expanded: channels inside; as many as come in: there is no expansion.
    stride: of the depthwise convolution.
    padding: of the depthwise convolution.
    norm: BatchNorm's epsilon and momentum.
    kernel: side of the depthwise kernel.
    squeezed: channels between the convolutions of the squeeze-excite; 0: it is left out.
    act: name of the activation function.
    gates: names of the squeeze-excite's activation function and of its gate.
    residual: whether there may be one.
    zero_residual: whether the residual branch starts at zero.
    always_expand: whether there is an expansion to as many channels, too.

  References:
    Sandler et al., `MobileNetV2 <https://arxiv.org/abs/1801.04381>`_, 2018, table 1.
  """

  features: int
  expanded: int
  stride: int
  padding: ops.Padding
  norm: Norm | None
  kernel: int = 3
  squeezed: int = 0
  act: str = "relu6"
  gates: tuple[str, str] = ("relu", HARD)
  residual: bool = True
  zero_residual: bool = False
  always_expand: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    options: dict[str, Any] = {"act": self.act, "norm": self.norm, "train": train}
    residual = self.residual and self.stride == 1 and x.shape[-1] == self.features
    y = x
    if self.expanded != x.shape[-1] or self.always_expand:
      y = convolved(y, self.expanded, name="expand", **options)
    step: dict[str, Any] = {"kernel": self.kernel, "stride": self.stride, "padding": self.padding}
    y = convolved(y, self.expanded, groups="depthwise", name="depthwise", **step, **options)
    if self.squeezed:
      y = SqueezeExcite(self.squeezed, *self.gates, name="se")(y, train=train)
    norm = self.norm and self.norm._replace(zero=residual and self.zero_residual)
    y = ConvNorm(self.features, norm=norm, name="project")(y, train=train)  # linear bottleneck
    return Add(name="add")(x, y) if residual else y
