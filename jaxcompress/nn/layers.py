"""The leaf ops, the only modules that a model is built from: those with weights.

Each is a linen module with a name. Tracing, quantization, export and pruning intercept the calls
of :class:`LeafOp` and see nothing else of a model. The compute dtype is the dtype of the input;
parameters and statistics are float32.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp  # noqa: F401 - the examples use it
import numpy as np

from jaxcompress import ops
from jaxcompress.nn.activations import activate
from jaxcompress.nn.checks import (
  check_act,
  check_counts,
  check_floats,
  check_norm,
  is_whole,
  refuse,
  windows,
)
from jaxcompress.nn.epilogue import norm_act
from jaxcompress.nn.graph import Node, Operation, alike, mixed
from jaxcompress.nn.initial import ONES, ZEROS, Initial
from jaxcompress.nn.norm import Norm, careful_statistics
from jaxcompress.ops.codes import multiply
from jaxcompress.ops.padding import both, shortest
from jaxcompress.ops.standard import matmul

MOMENTS = "moments"
"""Collection in which normalizations leave the batch's own statistics, where it is mutable."""


class LeafOp(nn.Module):
  """Base of all leaf ops: arrays come as positional arguments, everything else by keyword.

  Attributes:
    operation: what else there is to know of it.

  Examples:
    >>> isinstance(ConvNorm(8), LeafOp), isinstance(nn.Conv(8, (3, 3)), LeafOp)
    (True, False)
  """

  operation: ClassVar[Operation]


def keep_shortest(layer: nn.Module, *fields: str) -> None:
  """Writes pairs of equal numbers as one, in a layer that is being made."""
  for field in fields:
    setattr(layer, field, shortest(getattr(layer, field)))


def _route_convolution(node: Node, channels: np.ndarray) -> tuple[tuple[np.ndarray, ...], ...]:
  if node.attrs["groups"] != "depthwise":
    return mixed(node, channels)
  return ((np.repeat(channels, node.output_shapes[0][-1] // len(channels)),),)


def _groups(node: Node) -> int:
  groups = node.attrs["groups"]
  return node.input_shapes[0][-1] if groups == "depthwise" else groups


def _convolution_kernel(node: Node) -> tuple[int, ...]:
  depth = node.input_shapes[0][-1] // _groups(node)
  return (*both(node.attrs["kernel"]), depth, node.attrs["features"])


def _evaluate_convolution(
  node: Node, weights: jax.Array, bias: jax.Array, x: jax.Array
) -> jax.Array:
  attrs: dict[str, Any] = {key: node.attrs[key] for key in ("stride", "padding")}
  attrs |= {"dilation": node.attrs.get("dilation", 1), "groups": _groups(node)}
  y = convolve(x, weights, **attrs)
  return y + bias.reshape(1, 1, 1, -1)


def with_features(node: Node, inputs: list[int], outputs: list[int]) -> Mapping[str, Any]:
  """The fields of a layer with other numbers of channels."""
  return {"features": outputs[0]}


class ConvNorm(LeafOp):
  """Convolution, then batch normalization or a bias, then an activation function.

  Attributes:
    features: output channels.
    kernel: side of a square kernel, or ``(height, width)``.
    stride: step in both directions, or ``(height, width)``.
    groups: number of groups, or ``"depthwise"`` for one per channel.
    padding: ``"SAME"`` (TensorFlow's), ``"SYMMETRIC"`` (``kernel // 2`` on every side, as in
      PyTorch models), ``"VALID"``, or explicit ``((top, bottom), (left, right))``.
    act: name of the activation function or None.
    norm: how to normalise, or None for no normalization.
    use_bias: whether the convolution adds a bias; None: only where nothing normalises it away.
    dilation: cells from one of the kernel's to the next, in both directions or ``(height, width)``.

  A pair of equal numbers is kept as one number.

  Parameters: ``kernel`` (height, width, in / groups, features); with normalization ``scale`` and
  ``bias`` (features,), and ``conv_bias`` where the convolution has a bias too; without it ``bias``.
  Statistics: ``mean`` and ``var`` (features,).

  Raises:
    ValueError: when called, if a field is out of range or does not fit the input, no window fits in
      the map, or the input is no map of floats. Every leaf op checks so, and names itself.

  Examples:
    >>> layer = ConvNorm(8, kernel=3, stride=2, act="relu6")
    >>> y, _ = layer.init_with_output(jax.random.key(0), jnp.ones((1, 8, 8, 3)), train=False)
    >>> y.shape
    (1, 4, 4, 8)
    >>> ConvNorm(8, kernel=(1, 7), dilation=(2, 2)).dilation
    2
  """

  features: int
  kernel: ops.Sides = 1
  stride: ops.Sides = 1
  groups: int | Literal["depthwise"] = 1
  padding: ops.Padding = "SAME"
  act: str | None = None
  norm: Norm | None = Norm()
  use_bias: bool | None = None
  dilation: ops.Sides = 1

  operation = Operation(
    route=_route_convolution,
    evaluate=_evaluate_convolution,
    kernel=_convolution_kernel,
    groups=_groups,
    macs=lambda node: math.prod((*node.output_shapes[0][1:-1], *_convolution_kernel(node))),
    takes_train=True,
    hosts=True,
    newer=("dilation",),
    resized=with_features,
  )

  def __post_init__(self) -> None:
    keep_shortest(self, "kernel", "stride", "dilation")
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    """``train``: whether the batch's statistics are used; a scalar array selects at run time."""
    windows(self, x)
    check_counts(self, "features")
    check_act(self, self.act)
    if self.norm is not None:
      check_norm(self, self.norm)
    channels = x.shape[-1]
    groups = channels if self.groups == "depthwise" else self.groups
    if not is_whole(groups, 1):
      refuse(self, f"groups must be a whole number of 1 or more or 'depthwise', got {groups!r}.")
    if channels % groups or self.features % groups:
      refuse(
        self,
        f"groups: {groups} must divide the input channels ({channels}) and features ({self.features}).",
      )
    shape = (*both(self.kernel), channels // groups, self.features)
    fan_out = math.prod(shape[:2]) * self.features / groups
    weight = self.param("kernel", Initial(deviation=(2.0 / fan_out) ** 0.5), shape)
    y = convolve(
      x,
      weight,
      stride=self.stride,
      padding=self.padding,
      dilation=self.dilation,
      groups=groups,
    )
    return complete(self, y, train)


def complete(layer: Any, y: jax.Array, train: bool | jax.Array) -> jax.Array:
  """The bias, the normalization and the activation function of a layer that convolved.

  To be called inside the call of a layer with ``features``, ``use_bias``, ``norm`` and ``act``.
  """
  if layer.use_bias or (layer.use_bias is None and layer.norm is None):
    bias = layer.param("bias" if layer.norm is None else "conv_bias", ZEROS, (layer.features,))
    y = y + bias.astype(y.dtype).reshape(1, 1, 1, -1)
  if layer.norm is None:
    return activate(layer.act, y)
  return normalise(layer, layer.norm, layer.act, y, train)


def normalise(
  layer: nn.Module, norm: Norm, act: str | None, y: jax.Array, train: bool | jax.Array
) -> jax.Array:
  """Batch normalization and activation, with the parameters and statistics of ``layer``.

  To be called inside the layer's own call. Where the collection :data:`MOMENTS` is mutable the batch's
  mean, the rest of it that float32 cannot hold, and the variance are left there, to all digits whatever
  the running statistics are.
  """
  features = (y.shape[-1],)
  scale = layer.param("scale", ZEROS if norm.zero else ONES, features)
  bias = layer.param("bias", ZEROS, features)
  mean = layer.variable("batch_stats", "mean", ZEROS, None, features)
  variance = layer.variable("batch_stats", "var", ONES, None, features)
  live = train and not layer.is_initializing() if isinstance(train, bool) else train
  centre = mean.value
  if layer.is_mutable_collection(MOMENTS) and not layer.is_initializing():
    centre, exact_variance, rest = careful_statistics(y)
    layer.put_variable(MOMENTS, "mean", centre)
    layer.put_variable(MOMENTS, "rest", rest)
    layer.put_variable(MOMENTS, "var", exact_variance)
  y, batch_mean, batch_variance = norm_act(
    y, scale, bias, centre, variance.value, live, norm.epsilon, act
  )
  if live is not False and layer.is_mutable_collection("batch_stats"):
    share = 1 - norm.momentum  # as a difference, so that frozen statistics stay to the bit
    for running, found in ((mean, batch_mean), (variance, batch_variance)):
      old = running.value.reshape((1,) * (found.ndim - running.value.ndim) + running.value.shape)
      running.value = old + share * (found - old)
  return y


def convolve(x: jax.Array, weight: jax.Array, **how: Any) -> jax.Array:
  """``ops.conv`` of a kernel that takes the input's dtype."""
  return multiply(partial(ops.conv, **how), x, weight)


def scale_channels(node: Node, weights: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
  """``x * weights + bias`` of each channel: how what :func:`pointwise` lowers is evaluated."""
  spread = (1,) * (x.ndim - 1) + (-1,)
  return x * weights.astype(x.dtype).reshape(spread) + bias.reshape(spread)


def pointwise_kernel(node: Node) -> tuple[int, ...]:
  """The shape of a kernel with one weight for each channel."""
  return 1, 1, 1, node.input_shapes[0][-1]


def pointwise(node: Node) -> Mapping[str, Any]:
  """The fields of the depthwise 1x1 convolution that a node is which scales channels."""
  return {"kernel": 1, "stride": 1, "padding": "VALID", "groups": "depthwise"}


class BatchNorm(LeafOp):
  """Batch normalization of a tensor that no convolution just made, then an activation function.

  For networks that normalise before they convolve, such as wide ResNets, and for vectors. On a device
  it is a depthwise 1x1 convolution with a bias; behind a dense layer, whose output nothing else reads, it
  becomes part of that layer's weights.

  Attributes:
    act: name of the activation function or None.
    norm: epsilon and momentum.

  Parameters: ``scale`` and ``bias`` (channels,); statistics: ``mean`` and ``var`` (channels,).

  Examples:
    >>> x, ones, zeros = jnp.array([2.0, -2.0]).reshape(1, 1, 1, 2), jnp.ones(2), jnp.zeros(2)
    >>> params, stats = {"scale": ones, "bias": zeros}, {"mean": zeros, "var": ones}
    >>> layer = BatchNorm(act="relu", norm=Norm(epsilon=0.0))
    >>> layer.apply({"params": params, "batch_stats": stats}, x, train=False).ravel().tolist()
    [2.0, 0.0]
  """

  act: str | None = None
  norm: Norm = Norm()

  operation = Operation(
    route=alike,
    evaluate=scale_channels,
    kernel=pointwise_kernel,
    groups=lambda node: node.input_shapes[0][-1],
    trained=False,
    takes_train=True,
    hosts=True,
    follows=lambda node: len(node.input_shapes[0]) == 2,
    lowered=pointwise,
  )

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    check_floats(self, x)
    check_norm(self, self.norm)
    check_act(self, self.act)
    return normalise(self, self.norm, self.act, x, train)


def reads_rows(node: Node) -> bool:
  """Whether a linear layer of a graph reads the last axis, as files of others have it, not all axes."""
  return len(node.output_shapes[0]) > 2


def _dense_kernel(node: Node) -> tuple[int, ...]:
  shape = node.input_shapes[0]
  return shape[-1] if reads_rows(node) else math.prod(shape[1:]), node.attrs["features"]


def _dense_macs(node: Node) -> int:
  return math.prod(node.output_shapes[0][1:-1]) * math.prod(_dense_kernel(node))


def _evaluate_dense(node: Node, weights: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
  flat = x if reads_rows(node) else x.reshape(x.shape[0], -1)
  return flat @ weights.astype(x.dtype) + bias.reshape((1,) * (flat.ndim - 1) + (-1,))


class Dense(LeafOp):
  """A linear layer on (batch, in); further axes of the input are flattened into one.

  Parameters: ``kernel`` (in, features) and ``bias`` (features,).

  Examples:
    >>> params = {"kernel": jnp.ones((12, 2)), "bias": jnp.array([0.0, 1.0])}
    >>> Dense(2).apply({"params": params}, jnp.ones((1, 2, 2, 3))).tolist()
    [[12.0, 13.0]]
  """

  features: int
  use_bias: bool = True

  operation = Operation(
    route=mixed,
    evaluate=_evaluate_dense,
    kernel=_dense_kernel,
    macs=_dense_macs,
    resized=with_features,
  )

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_counts(self, "features")
    check_floats(self, x)
    if x.ndim < 2 or 0 in x.shape[1:]:
      refuse(self, f"it reads shape {x.shape}, which must be (batch, ...) with values in it.")
    x = x.reshape(x.shape[0], -1)
    start = Initial(deviation=x.shape[-1] ** -0.5)
    weight = self.param("kernel", start, (x.shape[-1], self.features))
    y = multiply(matmul, x, weight)
    if self.use_bias:
      bias = self.param("bias", ZEROS, (self.features,))
      y = y + bias.astype(y.dtype).reshape(1, -1)
    return y
