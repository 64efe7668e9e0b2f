"""A network in evaluation, in float64 with numpy alone: each operation by its definition."""

import math

import jax
import numpy as np

from jaxcompress.nn import INPUT
from jaxcompress.nn.graph import parameters
from jaxcompress.nn.operations import by_groups
from jaxcompress.nn.structure import OPERATIONS
from jaxcompress.ops.padding import both, resolve_padding
from jaxcompress.prune.removal import kept_classes
from jaxcompress.prune.routes import find_routes, is_birth, name_depthwise

ERF = np.vectorize(math.erf)
ACTS = {
  None: lambda x: x,
  "relu": lambda x: np.maximum(x, 0),
  "relu6": lambda x: np.clip(x, 0, 6),
  "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
  "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
  "sigmoid": lambda x: np.exp(-np.logaddexp(0, -x)),
  "silu": lambda x: x * np.exp(-np.logaddexp(0, -x)),
  "gelu": lambda x: x * (1 + ERF(x / 2**0.5)) / 2,
}


def logits(graph, variables, x):
  """Of a traced graph."""
  tensors = {INPUT: np.asarray(x, np.float64)}
  last = {tensor: node.name for node in graph.nodes for tensor in node.inputs}
  for node in graph.nodes:
    params, stats = (
      {
        k: np.asarray(v, np.float64)
        for k, v in parameters(variables.get(part, {}), node.name).items()
      }
      for part in ("params", "batch_stats")
    )
    outputs = _run(node, params, stats, *(tensors[name] for name in node.inputs))
    for name in node.inputs:
      if last[name] == node.name:
        tensors.pop(name, None)
    tensors |= zip(node.outputs, outputs if isinstance(outputs, tuple) else (outputs,), strict=True)
  return tensors[graph.output]


def _run(node, params, stats, x, *others):
  attrs = node.attrs
  if node.op == "Concat":
    return np.concatenate((x, *others), -1)
  if node.op == "Add":
    return x + others[0]
  if node.op == "Multiply":
    return x * others[0]
  if node.op == "Subtract":
    return x - others[0]
  if node.op == "Affine":
    scale, bias = (params.get(name, attrs[name]) for name in ("scale", "bias"))
    return x * scale + bias
  if node.op == "ChannelMean":
    return x.mean(-1, keepdims=True)
  if node.op == "RmsNorm":
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + attrs["epsilon"])
  if node.op == "MatMul":
    return x @ (np.swapaxes(others[0], 1, 2) if attrs["transpose_second"] else others[0])
  if node.op == "Softmax":
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
  if node.op == "Reshape":
    return x.reshape(len(x), *attrs["shape"])
  if node.op in ("SpaceToDepth", "DepthToSpace"):
    return _BLOCKS[node.op](x, attrs["block"])
  if node.op == "Split":
    return tuple(np.split(x, np.cumsum(attrs["sizes"])[:-1], -1))
  if node.op == "ChannelShuffle":
    y = x.reshape(*x.shape[:-1], attrs["groups"], -1)
    return np.swapaxes(y, -1, -2).reshape(x.shape)
  if node.op == "GlobalAvgPool":
    return x.mean((1, 2), keepdims=attrs["keepdims"])
  if node.op == "Resize":  # nearest cells, asymmetric
    rows, columns = (
      np.arange(size) * side // size
      for size, side in zip(both(attrs["size"]), x.shape[1:3], strict=True)
    )
    return x[:, rows][:, :, columns]
  if node.op == "Reshape":
    return x.reshape(len(x), *attrs["shape"])
  if node.op == "Subtract":
    return x - others[0]
  if node.op == "ChannelMean":
    return x.mean(-1, keepdims=True)
  if node.op == "RmsNorm":
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + attrs["epsilon"])
  if node.op == "FourierPositions":
    _, added = OPERATIONS[node.op].constants(node, params, stats)
    return x + added
  if node.op == "MatMul":
    return x @ (np.swapaxes(others[0], -1, -2) if attrs["transpose_second"] else others[0])
  if node.op == "Softmax":
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
  if node.op == "Affine":
    scale, bias = (params.get(name, attrs[name]) for name in ("scale", "bias"))
    return ACTS[attrs["act"]](x * scale + bias)
  if node.op == "Activation":
    return ACTS[attrs["act"]](x)
  if node.op == "Dense":
    return x.reshape(len(x), -1) @ params["kernel"] + params.get("bias", 0.0)
  if node.op == "MaxPool":
    return _windows(x, attrs, -np.inf).max((3, 4))
  if node.op == "AvgPool":
    total = _windows(x, attrs, 0.0).sum((3, 4))
    ones = _windows(np.ones_like(x), attrs, 0.0).sum((3, 4))
    return total / (np.prod(both(attrs["kernel"])) if attrs["count_padding"] else ones)
  if node.op == "ConvNorm":
    y = _convolve(x, params["kernel"], attrs)
    y = y + params.get("conv_bias", 0.0)
    if attrs["norm"] is None:
      return ACTS[attrs["act"]](y + params.get("bias", 0.0))
    x = y
  scale = params["scale"] / np.sqrt(stats["var"] + attrs["norm"].epsilon)
  return ACTS[attrs["act"]]((x - stats["mean"]) * scale + params["bias"])


def _in_depth(x, side):
  images, height, width, channels = x.shape
  x = x.reshape(images, height // side, side, width // side, side, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(images, height // side, width // side, -1)


def _in_space(x, side):
  images, height, width, channels = x.shape
  x = x.reshape(images, height, width, side, side, channels // side**2)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(images, height * side, width * side, -1)


_BLOCKS = {"SpaceToDepth": _in_depth, "DepthToSpace": _in_space}


def _windows(x, attrs, fill):
  """(batch, height, width, kh, kw, channels)"""
  kernel, (down, right) = both(attrs["kernel"]), both(attrs["stride"])
  dilation = both(attrs.get("dilation", 1))
  pads = resolve_padding(attrs["padding"], x.shape[1:3], kernel, (down, right), dilation)
  x = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
  sides = [(k - 1) * step + 1 for k, step in zip(kernel, dilation, strict=True)]
  found = np.lib.stride_tricks.sliding_window_view(x, sides, (1, 2))[:, ::down, ::right]
  return np.moveaxis(found[..., :: dilation[0], :: dilation[1]], 3, -1)


def _convolve(x, kernel, attrs):
  channels, (height, width, depth, features) = x.shape[-1], kernel.shape
  windows = _windows(x, attrs, 0.0)
  if depth == 1:  # depthwise
    kernel = kernel.reshape(height, width, channels, -1)
    y = np.einsum("nhwabc,abcm->nhwcm", windows, kernel, optimize=True)
    return y.reshape(*y.shape[:3], features)
  groups = channels // depth
  parts = (
    np.split(windows, groups, -1),
    np.split(kernel, groups, -1),
  )
  return np.concatenate(
    [
      w.reshape(*w.shape[:3], -1) @ block.reshape(-1, block.shape[-1])
      for w, block in zip(*parts, strict=True)
    ],
    -1,
  )


def mask_channels(graph, variables, keep):
  """Variables in which all weights, scales and biases of removed channels are zero, and what reads them."""
  graph = name_depthwise(graph)
  routes = find_routes(graph)
  kept = kept_classes(graph, routes, keep.masks)
  params = jax.tree.map(np.array, jax.device_get(variables.get("params", {})))
  for node in graph.nodes:
    for name, array in parameters(params, node.name).items():
      gone = ~kept[routes.ids[node.output]]
      if array.shape[-1:] == gone.shape:
        array[..., gone] = 0.0
      if name == "kernel" and is_birth(node):
        grouped = by_groups(node, array)
        inputs = kept[routes.ids[node.inputs[0]]]
        grouped[:, ~inputs.reshape(grouped.shape[2], -1).T] = 0.0
  return {**variables, "params": jax.device_put(params)}
