"""Statistics of tensors from BatchNorm alone, without images: means after a ReLU, high biases."""

import math
from collections.abc import Mapping
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.nn import Graph, Node
from jaxcompress.nn.activations import ACTIVATIONS
from jaxcompress.nn.graph import parameters
from jaxcompress.nn.operations import FOLLOWERS
from jaxcompress.nn.structure import OPERATIONS

SIGMAS = 3.0  # how far below its mean a channel counts as never reaching
_erf = np.vectorize(math.erf)


class Moments(NamedTuple):
  """A normal distribution for each channel.

  Attributes:
    mean: (channels,) float64.
    deviation: (channels,) float64, at least zero.
  """

  mean: np.ndarray
  deviation: np.ndarray


def moments_of(graph: Graph, variables: Mapping[str, Any]) -> dict[str, Moments]:
  """``N(beta, gamma**2)``: what layers with BatchNorm compute before their activation, by name.

  Constants behind a normalization, which became part of it, move and scale what it computes.
  """
  moments: dict[str, Moments] = {}
  for host in graph.nodes:
    for node in (host, *host.attrs.get(FOLLOWERS, ())):
      params, stats = (
        parameters(variables.get(kind, {}), node.name) for kind in ("params", "batch_stats")
      )
      constants, known = OPERATIONS[node.op].constants, moments.get(host.name)
      if node.attrs.get("norm") is not None:
        beta, gamma = (np.asarray(params[key], np.float64) for key in ("bias", "scale"))
        moments[host.name] = Moments(beta, np.abs(gamma))
      elif constants is not None and known is not None:
        scale, bias = constants(node, params, stats)
        moments[host.name] = Moments(known.mean * scale + bias, known.deviation * np.abs(scale))
  return moments


def absorbed(moments: Moments) -> np.ndarray:
  """``c = max(0, beta - 3 gamma)``: how far a rectified channel stays above zero, nearly always.

  Examples:
    >>> absorbed(Moments(np.array([1.0, 5.0]), np.array([1.0, 1.0]))).tolist()
    [0.0, 2.0]

  References:
    Nagel et al., `Data-Free Quantization Through Weight Equalization and Bias Correction
    <https://arxiv.org/abs/1906.04721>`_, 2019, section 4.1.3.
  """
  return np.maximum(0.0, moments.mean - SIGMAS * moments.deviation)


def clipped_mean(moments: Moments, high: float = math.inf) -> np.ndarray:
  """Mean of a normal variable clipped to 0 and ``high``.

  With ``a = -m / d`` and ``b = (high - m) / d`` it is
  ``d (p(a) - p(b)) + m (P(b) - P(a)) + high (1 - P(b))``, with density ``p`` and distribution
  ``P`` of the standard normal.

  Examples:
    >>> round(float(clipped_mean(Moments(np.zeros(1), np.ones(1)))[0]), 4)  # 1 / sqrt(2 pi)
    0.3989

  References:
    Nagel et al., 2019, appendix C.
  """
  mean = moments.mean
  deviation = np.maximum(moments.deviation, 1e-12)

  def density(x):
    return np.exp(-np.square(np.minimum(np.abs(x), 40.0)) / 2) / math.sqrt(2 * math.pi)

  def below(x):
    return (1 + _erf(x / math.sqrt(2))) / 2

  low_edge = -mean / deviation
  total = deviation * density(low_edge) + mean * (1 - below(low_edge))
  if math.isfinite(high):
    edge = (high - mean) / deviation
    total = total - deviation * density(edge) - (mean - high) * (1 - below(edge))
  return total


def tensor_means(graph: Graph, moments: Mapping[str, Moments]) -> dict[str, np.ndarray]:
  """(channels,) expected values of the tensors of a graph, as far as BatchNorm tells.

  Args:
    graph: with fused activations.
    moments: of the outputs of layers with BatchNorm, before the activation.
  """
  means: dict[str, np.ndarray] = {}
  for node in graph.nodes:
    outputs = _node_means(node, moments.get(node.name), [means.get(name) for name in node.inputs])
    means.update(zip(node.outputs, outputs, strict=False))
  return means


def _node_means(
  node: Node, own: Moments | None, inputs: list[np.ndarray | None]
) -> tuple[np.ndarray, ...]:
  """Means of a node's outputs; nothing where they are not known."""
  act = node.attrs.get("act")
  if own is not None:
    if act is None:
      return (own.mean,)
    return (clipped_mean(own, ACTIVATIONS[act].high),) if ACTIVATIONS[act].fuses else ()
  known = [mean for mean in inputs if mean is not None]
  linear = OPERATIONS[node.op].linear
  if (
    act is not None
    or len(known) < len(inputs)
    or not (linear(node) if callable(linear) else linear)
  ):
    return ()
  return tuple(reduce(np.add, sources) for sources in OPERATIONS[node.op].route(node, *known))
