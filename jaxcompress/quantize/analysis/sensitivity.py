"""The cost of fewer bits in one layer's weights, for every layer and number of bits."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import INPUT, Folded, fold
from jaxcompress.nn.select import Layer, Selector, layers_of, select
from jaxcompress.quantize.analysis.switched import (
  Plan,
  Switches,
  errors_of_passes,
  numbers_of,
  run,
)
from jaxcompress.quantize.fake_quant import levels
from jaxcompress.quantize.ptq.images import Preprocess, read_images, read_labels
from jaxcompress.quantize.ptq.weights import SCALES, rounded_weights
from jaxcompress.quantize.sites import find_sites
from jaxcompress.quantize.storage import packed_bytes
from jaxcompress.terminal import meter

MEASURES = ("kl", "loss")


class LayerSensitivity(NamedTuple):
  """One layer.

  Attributes:
    name: of the layer.
    weights: how many it has.
    channels: of its output.
    costs: by number of bits, what the measure says.
    bytes: by number of bits, as :func:`~jaxcompress.quantize.storage.packed_bytes` counts.
    kinds: by which a selector knows it.
  """

  name: str
  weights: int
  channels: int
  costs: tuple[float, ...]
  bytes: tuple[int, ...]
  kinds: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Sensitivity:
  """The cost of each layer at each number of bits.

  Attributes:
    measure: ``"kl"`` or ``"loss"``.
    bits: numbers of bits, to which the rows' columns belong.
    layers: rows in the order in which the layers run.
    fixed_bytes: of what was not rounded, with 8 bits, such as normalizations without a convolution.
    images: number of images.
  """

  measure: str
  bits: tuple[int, ...]
  layers: tuple[LayerSensitivity, ...]
  fixed_bytes: int
  images: int

  def bytes_at(self, bits: int) -> int:
    """Bytes of the network if every layer has the same number of bits.

    Raises:
      ValueError: if that number was not measured.
    """
    if bits not in self.bits:
      raise ValueError(f"bits: {bits} was not measured; {', '.join(map(str, self.bits))} were.")
    column = self.bits.index(bits)
    return self.fixed_bytes + sum(layer.bytes[column] for layer in self.layers)


def sensitivity(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: Any,
  *,
  bits: Sequence[int] = (8, 4, 3, 2),
  layers: Selector | None = None,
  labels: Any = None,
  measure: str = "kl",
  scales: str = "mse",
  preprocess: Preprocess | None = None,
  batch_size: int = 32,
  progress: bool = True,
) -> Sensitivity:
  """Measures how much the outputs change if the weights of one layer at a time are quantized.

  All activations and the other layers stay in float, so that a number tells of one layer's weights
  alone. One program is compiled for all layers and numbers of bits; memory is bounded by one batch
  and the weights at every number of bits.

  Args:
    model: a linen module made of the leaf ops.
    variables: its ``params`` and ``batch_stats``.
    images: (N, height, width, channels), float; or whatever numbers ``preprocess`` takes.
    bits: numbers of bits, each 2 to 8.
    layers: that are rounded, a selector (:mod:`jaxcompress.nn.select`); None: all with a kernel. The
      others count as bytes of 8 bits.
    labels: (N,) integers; needed for ``"loss"``, of logits (batch, classes).
    measure: ``"kl"``: mean ``KL(float || rounded)`` of the class probabilities in nats, and of
      outputs without classes half the noise as a share of the signal;
      ``"loss"``: how much the mean cross-entropy rises, which may be below zero.
    scales: of the weights: ``"mse"`` or ``"absmax"``, per output channel.
    preprocess: maps images to what the network reads.
    batch_size: images at once.
    progress: whether a bar is shown on the standard error, if that is a terminal.

  Returns:
    A :class:`Sensitivity`.

  Raises:
    ValueError: if an argument is out of range, or the images do not fit the model.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    >>> found = sensitivity(model, variables, images, bits=(8, 2))
    >>> found.layers[0].name, found.layers[0].bytes
    ('stem', (560, 236))

  References:
    Dong et al., `HAWQ <https://arxiv.org/abs/1905.03696>`_, 2019, asks the same of second
    derivatives; here every answer is measured. Cai et al., `ZeroQ
    <https://arxiv.org/abs/2001.00281>`_, 2020, section 3.3, measures the divergence.
  """
  _check(bits, measure, scales, labels)
  bits = tuple(bits)
  graph, batches = read_images(model, variables, images, preprocess, batch_size)
  sites, count = find_sites(graph), len(batches.images)
  zeros = np.zeros(count, np.int64)  # not read
  labels = zeros if labels is None else read_labels(labels, count, graph)
  folded = fold(sites.graph, jax.device_get(variables))
  known = {name: layer for name, layer in layers_of(sites.graph).items() if name in sites.kernels}
  chosen = select(layers, known)
  place = {name: i for i, name in enumerate(chosen)}
  owner = tuple(
    (name, place.get(name, 0)) for name in (INPUT, *(n.name for n in sites.graph.nodes))
  )
  plan = Plan(sites.graph, chosen, owner)
  rounded = [{name: _rounded(folded[name], n, scales) for name in chosen} for n in bits]
  numbers = numbers_of(folded, rounded, {}, {})
  switches = _every_layer(len(chosen), len(bits))
  totals = np.zeros(1 + len(chosen) * len(bits))
  with meter(progress) as (start, tick, _):
    start("sensitivity", batches.count)
    for i, (x, weight) in enumerate(batches.with_tick(tick)):
      own = labels[i * batches.size : (i + 1) * batches.size]
      own = np.pad(own, (0, batches.size - len(own)))
      totals += np.asarray(_costs(plan, measure, numbers, switches, x, own, weight))
  costs = (totals[1:] - totals[0]).reshape(-1, len(bits)) / count
  return Sensitivity(
    measure,
    bits,
    tuple(_row(name, folded[name], costs[i], bits, known[name]) for name, i in place.items()),
    sum(_bytes(layer, 8) for name, layer in folded.items() if name not in place),
    count,
  )


def _check(bits: Sequence[int], measure: str, scales: str, labels: Any) -> None:
  if not bits or len(set(bits)) < len(bits) or not all(2 <= n <= 8 for n in bits):
    raise ValueError(f"bits: {tuple(bits)} must be different numbers of 2 to 8, at least one.")
  if measure not in MEASURES:
    raise ValueError(f"measure: {measure!r} is unknown; it must be one of {', '.join(MEASURES)}.")
  if scales not in SCALES:
    raise ValueError(f"scales: {scales!r} is unknown; it must be one of {', '.join(SCALES)}.")
  if measure == "loss" and labels is None:
    raise ValueError(
      "labels: they are missing, and measure='loss' needs them; give labels, or take 'kl'."
    )


def _rounded(layer: Folded, bits: int, scales: str) -> tuple[np.ndarray, np.ndarray]:
  """Weights of so many bits, with the scales of the folded kernel, and the bias as it is."""
  to = levels(bits, symmetric=True, narrow=True)
  plain = Folded(layer.weights, np.ones_like(layer.factor), layer.bias)
  return rounded_weights(plain, SCALES[scales](plain.kernel, to), to), layer.bias


def _every_layer(layers: int, widths: int) -> Switches:
  """The float network, and then each layer alone with each of its widths."""
  weights = np.eye(layers, dtype=np.int32)[:, None] * np.arange(1, widths + 1)[None, :, None]
  weights = np.concatenate([np.zeros((1, layers)), weights.reshape(-1, layers)])
  return Switches(weights.astype(np.int32), np.zeros(weights.shape, bool))


@partial(jax.jit, static_argnums=(0, 1))
def _costs(plan, measure, numbers, switches, x, labels, weight):
  """(passes,) the measure, summed over images."""
  made = jax.lax.map(lambda one: run(plan, numbers, Switches(*one), x), tuple(switches))
  if measure == "kl":
    return errors_of_passes(plan.graph, made, weight)[..., 2].sum(-1)
  log_p = jax.nn.log_softmax(made[0])
  return -jnp.take_along_axis(log_p, labels[None, :, None], axis=-1)[..., 0] @ weight


def _row(
  name: str, layer: Folded, costs: np.ndarray, bits: tuple[int, ...], known: Layer
) -> LayerSensitivity:
  return LayerSensitivity(
    name,
    layer.kernel.size,
    layer.kernel.shape[-1],
    tuple(map(float, costs)),
    tuple(_bytes(layer, n) for n in bits),
    tuple(sorted(known.kinds)),
  )


def _bytes(layer: Folded, bits: int) -> int:
  return packed_bytes(layer.kernel.size, layer.kernel.shape[-1], bits)
