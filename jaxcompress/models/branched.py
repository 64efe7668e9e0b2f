"""Blocks that train as a sum of branches and run as one convolution; how a network's become that."""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress.models.blocks import SYMMETRIC, SqueezeExcite
from jaxcompress.nn import Activation, Add, BatchNorm, ConvNorm, Norm
from jaxcompress.nn.branches import fold_branches as fold_graph
from jaxcompress.nn.foreign import check_model
from jaxcompress.nn.initial import check_image_shape
from jaxcompress.nn.replay import Replay, replay
from jaxcompress.nn.tracing import trace_endpoints
from jaxcompress.nn.variables import check_variables


class Branched(nn.Module):
  """A sum of convolutions, a pointwise one beside larger kernels, and the normalized input; then ReLU.

  Attributes:
    features: channels at the end.
    kernel: side of the kernel.
    stride: of all branches.
    groups: of all branches.
    convolutions: how many with that kernel there are.
    identity: whether the input may be a branch; it is where it has as many channels.
    squeezed: channels between the convolutions of a squeeze-excite before the ReLU; 0: none.
    norm: BatchNorm's epsilon and momentum.

  References:
    Ding et al., `RepVGG: Making VGG-style ConvNets Great Again <https://arxiv.org/abs/2101.03697>`_,
    2021, section 3.2; Vasu et al., `MobileOne: An Improved One millisecond Mobile Backbone
    <https://arxiv.org/abs/2206.04040>`_, 2022, section 3.2.
  """

  features: int
  norm: Norm
  kernel: int = 3
  stride: int = 1
  groups: int | Literal["depthwise"] = 1
  convolutions: int = 1
  identity: bool = True
  squeezed: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool | jax.Array) -> jax.Array:
    kernels = {f"conv{i}": self.kernel for i in range(self.convolutions)}
    if self.kernel > 1:
      kernels["pointwise"] = 1
    options: dict[str, Any] = {"stride": self.stride, "groups": self.groups, "norm": self.norm}
    terms = [
      ConvNorm(self.features, kernel=k, padding=SYMMETRIC, name=name, **options)(x, train=train)
      for name, k in kernels.items()
    ]
    if self.identity and x.shape[-1] == self.features:
      terms.append(BatchNorm(norm=self.norm, name="identity")(x, train=train))
    y, *others = terms
    for i, term in enumerate(others, 1):
      y = Add(name="sum" if i == len(others) else f"sum{i}")(y, term)
    if self.squeezed:
      y = SqueezeExcite(self.squeezed, gate="sigmoid", name="se")(y, train=train)
    return Activation("relu", name="act")(y)


def fold_branches(
  model: nn.Module,
  variables: Mapping[str, Any],
  *,
  image_shape: tuple[int, int, int] | None = None,
) -> tuple[Replay, dict[str, Any]]:
  """The network with every sum of linear branches as one convolution, as it runs on a device.

  RepVGG, MobileOne and RepViT train with several convolutions of one tensor, whose sum is itself a
  convolution. Fold them after training and before :func:`~jaxcompress.quantize.post_training`, or
  before quantized training, so that the integers are those of the one convolution. Any network of leaf
  ops will do, see :func:`jaxcompress.nn.branches.fold_branches` for what is folded.

  Args:
    model: a linen module made of leaf ops.
    variables: its ``params`` and ``batch_stats``.
    image_shape: (height, width, channels) for which the network is built; None: its own ``image_size``.

  Returns:
    ``(model, variables)``: it computes the same in evaluation, up to float32's rounding, and is made of
    the same leaf ops, so it is trained, traced, quantized, exported and saved like any other.

  Raises:
    ValueError: if the model is not made of leaf ops, the variables are not arrays or of another network,
      or ``image_shape`` is not three whole numbers of 1 or more, or not what the network reads.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.mobileone_s1(10, layout="cifar")
    >>> variables = init_variables(model, jax.random.key(0), (32, 32, 3))
    >>> folded, few = models.fold_branches(model, variables)
    >>> models.summarize(model).parameters, models.summarize(folded).parameters
    (3557002, 3498730)

  References:
    Ding et al., `RepVGG: Making VGG-style ConvNets Great Again <https://arxiv.org/abs/2101.03697>`_,
    2021, section 3.3.
  """
  check_model("model", model)
  check_variables("variables", variables)
  if image_shape is None:
    size = getattr(model, "image_size", 224)
    image_shape = size if isinstance(size, tuple) else (size, size, 3)
  check_image_shape(image_shape)
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.float32), variables)
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  graph, ends = trace_endpoints(model, shapes, image)
  folded, arrays = fold_graph(graph, jax.device_get(dict(variables)), jax.tree.leaves(ends))
  origin = getattr(model, "origin", "") or type(model).__name__
  return replay(folded, ends, f"{origin}, folded"), jax.device_put(arrays)
