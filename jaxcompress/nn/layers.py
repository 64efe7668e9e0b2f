"""The leaf ops: the only modules that a model is built from.

Each is a linen module with a name. Tracing, quantization, export and pruning intercept the calls
of :class:`LeafOp` and see nothing else of a model. The compute dtype is the dtype of the input;
parameters and statistics are float32.
"""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress import ops
from jaxcompress.nn.activations import activate
from jaxcompress.nn.epilogue import norm_act
from jaxcompress.nn.initial import ONES, ZEROS, Initial
from jaxcompress.nn.norm import Norm


class LeafOp(nn.Module):
  """Base of all leaf ops: arrays come as positional arguments, everything else by keyword.

  Examples:
    >>> isinstance(ConvNorm(8), LeafOp), isinstance(nn.Conv(8, (3, 3)), LeafOp)
    (True, False)
  """


class ConvNorm(LeafOp):
  """Convolution, then batch normalization or a bias, then an activation function.

  Attributes:
    features: output channels.
    kernel: side of the square kernel.
    stride: step in both directions.
    groups: number of groups, or ``"depthwise"`` for one per channel.
    padding: ``"SAME"`` (TensorFlow's), ``"SYMMETRIC"`` (``kernel // 2`` on every side, as in
      PyTorch models), ``"VALID"``, or explicit ``((top, bottom), (left, right))``.
    act: name of the activation function or None.
    norm: how to normalise, or None for no normalization.
    use_bias: whether the convolution adds a bias; None: only where nothing normalises it away.

  Parameters: ``kernel`` (kernel, kernel, in / groups, features); with normalization ``scale`` and
  ``bias`` (features,), and ``conv_bias`` where the convolution has a bias too; without it ``bias``.
  Statistics: ``mean`` and ``var`` (features,).

  Examples:
    >>> layer = ConvNorm(8, kernel=3, stride=2, act="relu6")
    >>> y, _ = layer.init_with_output(jax.random.key(0), jnp.ones((1, 8, 8, 3)), train=False)
    >>> y.shape
    (1, 4, 4, 8)
  """

  features: int
  kernel: int = 1
  stride: int = 1
  groups: int | Literal["depthwise"] = 1
  padding: ops.Padding = "SAME"
  act: str | None = None
  norm: Norm | None = Norm()
  use_bias: bool | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    """``train``: whether the batch's statistics are used; a scalar array selects at run time."""
    channels = x.shape[-1]
    groups = channels if self.groups == "depthwise" else self.groups
    if channels % groups or self.features % groups:
      raise ValueError(
        f"groups: {groups} must divide the input channels ({channels}) and features ({self.features})."
      )
    shape = (self.kernel, self.kernel, channels // groups, self.features)
    fan_out = self.kernel**2 * self.features / groups
    weight = self.param("kernel", Initial(deviation=(2.0 / fan_out) ** 0.5), shape)
    y = convolve(x, weight, stride=self.stride, padding=self.padding, groups=groups)
    if self.use_bias or (self.use_bias is None and self.norm is None):
      bias = self.param("bias" if self.norm is None else "conv_bias", ZEROS, (self.features,))
      y = y + bias.astype(y.dtype).reshape(1, 1, 1, -1)
    if self.norm is None:
      return activate(self.act, y)
    return normalise(self, self.norm, self.act, y, train)


def normalise(
  layer: nn.Module, norm: Norm, act: str | None, y: jax.Array, train: bool | jax.Array
) -> jax.Array:
  """Batch normalization and activation, with the parameters and statistics of ``layer``.

  To be called inside the layer's own call.
  """
  features = (y.shape[-1],)
  scale = layer.param("scale", ZEROS if norm.zero else ONES, features)
  bias = layer.param("bias", ZEROS, features)
  mean = layer.variable("batch_stats", "mean", ZEROS, None, features)
  variance = layer.variable("batch_stats", "var", ONES, None, features)
  live = train and not layer.is_initializing() if isinstance(train, bool) else train
  y, batch_mean, batch_variance = norm_act(
    y, scale, bias, mean.value, variance.value, live, norm.epsilon, act
  )
  if live is not False and layer.is_mutable_collection("batch_stats"):
    share = 1 - norm.momentum  # as a difference, so that frozen statistics stay to the bit
    mean.value += share * (batch_mean - mean.value)
    variance.value += share * (batch_variance - variance.value)
  return y


def convolve(
  x: jax.Array,
  weight: jax.Array,
  *,
  stride: int = 1,
  padding: ops.Padding = "SAME",
  groups: int = 1,
) -> jax.Array:
  """The convolution of ``ops`` that fits the kernel's shape; ``weight`` takes the input's dtype."""
  weight = weight.astype(x.dtype)
  height, width, depth, features = weight.shape
  if depth == 1 and groups == x.shape[-1] == features and groups > 1:
    return ops.depthwise_conv(x, weight, stride=stride, padding=padding)
  if height == width == groups == 1 and padding in ("SAME", "SYMMETRIC", "VALID"):
    return ops.pointwise_conv(x, weight, stride=stride)
  return ops.conv(x, weight, stride=stride, padding=padding, groups=groups)


class BatchNorm(LeafOp):
  """Batch normalization of a tensor that no convolution just made, then an activation function.

  For networks that normalise before they convolve, such as wide ResNets. On a device it is a
  depthwise 1x1 convolution with a bias.

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

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    return normalise(self, self.norm, self.act, x, train)


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

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = x.reshape(x.shape[0], -1)
    start = Initial(deviation=x.shape[-1] ** -0.5)
    weight = self.param("kernel", start, (x.shape[-1], self.features))
    y = x @ weight.astype(x.dtype)
    if self.use_bias:
      bias = self.param("bias", ZEROS, (self.features,))
      y = y + bias.astype(y.dtype).reshape(1, -1)
    return y


class Add(LeafOp):
  """Elementwise sum of two arrays of one shape.

  Examples:
    >>> Add().apply({}, jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0]])).tolist()
    [[4.0, 6.0]]
  """

  @nn.compact
  def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
    return x + y


class Multiply(LeafOp):
  """Elementwise product; the second factor may be (batch, 1, 1, channels), as in squeeze-excite.

  Examples:
    >>> x, gate = jnp.ones((1, 2, 2, 2)), jnp.array([0.5, 2.0]).reshape(1, 1, 1, 2)
    >>> Multiply().apply({}, x, gate)[0, 0].tolist()
    [[0.5, 2.0], [0.5, 2.0]]
  """

  @nn.compact
  def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
    return x * y


class Concat(LeafOp):
  """Concatenation on the channel axis.

  Examples:
    >>> Concat().apply({}, jnp.ones((1, 2, 2, 3)), jnp.ones((1, 2, 2, 5))).shape
    (1, 2, 2, 8)
  """

  @nn.compact
  def __call__(self, *xs: jax.Array) -> jax.Array:
    return jnp.concatenate(xs, axis=-1)


class Split(LeafOp):
  """Splits the channels into consecutive parts of the given sizes.

  Examples:
    >>> first, second = Split((1, 2)).apply({}, jnp.array([[1.0, 2.0, 3.0]]))
    >>> first.tolist(), second.tolist()
    ([[1.0]], [[2.0, 3.0]])
  """

  sizes: Sequence[int]

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
    if sum(self.sizes) != x.shape[-1]:
      raise ValueError(f"sizes: {tuple(self.sizes)} must add up to the {x.shape[-1]} channels.")
    edges = [sum(self.sizes[:i]) for i in range(1, len(self.sizes))]
    return tuple(jnp.split(x, edges, axis=-1))


class ChannelShuffle(LeafOp):
  """Transposes (groups, channels / groups) on the channel axis (Zhang et al., ShuffleNet, 2017).

  Examples:
    >>> ChannelShuffle(groups=2).apply({}, jnp.arange(6.0).reshape(1, 6)).tolist()
    [[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]]
  """

  groups: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if x.shape[-1] % self.groups:
      raise ValueError(f"groups: {self.groups} must divide the {x.shape[-1]} channels.")
    y = x.reshape(*x.shape[:-1], self.groups, -1)
    return jnp.swapaxes(y, -1, -2).reshape(x.shape)


class _Pool(LeafOp):
  """A square pooling window; padding as in :class:`ConvNorm`."""

  kernel: int
  stride: int
  padding: ops.Padding = "SAME"

  def _window(self, x: jax.Array, init: float, combine) -> jax.Array:
    pads = ops.resolve_padding(self.padding, x.shape[1:3], self.kernel, self.stride)
    window, strides = (1, self.kernel, self.kernel, 1), (1, self.stride, self.stride, 1)
    return jax.lax.reduce_window(x, init, combine, window, strides, ((0, 0), *pads, (0, 0)))


class MaxPool(_Pool):
  """Largest value of each window; padded cells never win.

  Examples:
    >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    >>> MaxPool(kernel=2, stride=2).apply({}, x).item()
    4.0
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return self._window(x, -jnp.inf, jax.lax.max)


class AvgPool(_Pool):
  """Mean of each window.

  Attributes:
    count_padding: whether padded cells count as zeros (PyTorch's default) or not at all (TFLite).

  Examples:
    >>> x = jnp.ones((1, 2, 2, 1))
    >>> AvgPool(kernel=3, stride=2).apply({}, x).item()
    1.0
    >>> round(AvgPool(kernel=3, stride=2, count_padding=True).apply({}, x).item(), 3)  # 4 / 9
    0.444
  """

  count_padding: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    total = self._window(x, 0.0, jax.lax.add)
    if self.count_padding:
      return total / self.kernel**2
    return total / self._window(jnp.ones_like(x[:1, :, :, :1]), 0.0, jax.lax.add)


class GlobalAvgPool(LeafOp):
  """Mean over height and width: (batch, height, width, channels) to (batch, channels).

  Attributes:
    keepdims: keep height and width as axes of length one.

  Examples:
    >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    >>> GlobalAvgPool().apply({}, x).tolist()
    [[2.5]]
    >>> GlobalAvgPool(keepdims=True).apply({}, x).shape
    (1, 1, 1, 1)
  """

  keepdims: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return jnp.mean(x, axis=(1, 2), keepdims=self.keepdims)


class Activation(LeafOp):
  """An activation function on its own, by name.

  Examples:
    >>> Activation("relu6").apply({}, jnp.array([-1.0, 3.0, 9.0])).tolist()
    [0.0, 3.0, 6.0]
  """

  act: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return activate(self.act, x)
