"""What an integer model is worth beside the float one."""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from jaxcompress.nn.execute import execute
from jaxcompress.quantize.model import QuantizedModel
from jaxcompress.quantize.ptq.inputs import Batches
from jaxcompress.quantize.ptq.recipes import Network


class Judge(NamedTuple):
  """Measures integer models on held-out images.

  Attributes:
    images: as the integer model takes them.
    logits: (N, classes) of the float model.
    wanted: (N,) the labels, or what the float model decides.
    reference: share of ``wanted`` that the float model gets.
  """

  images: np.ndarray
  logits: np.ndarray
  wanted: np.ndarray
  reference: float

  @classmethod
  def of(
    cls, network: Network, batches: Batches, labels: np.ndarray | None, held_out: np.ndarray
  ) -> "Judge":
    """The judge for a float network and the held-out part of its images."""
    logits = np.concatenate(
      [
        np.asarray(_logits(network.sites.graph, network.layers, x))[weight > 0]
        for x, weight in batches
      ]
    )
    decided = logits.argmax(axis=-1)
    wanted = decided if labels is None else labels[held_out]
    return cls(batches.images, logits, wanted, float(np.mean(decided == wanted)))

  def __call__(self, quantized: QuantizedModel) -> tuple[float, float]:
    """``(score, sqnr)`` of an integer model."""
    logits = quantized(self.images)
    score = float(np.mean(logits.argmax(axis=-1) == self.wanted))
    return score, decibels(self.logits, logits)


def decibels(signal: np.ndarray, approximation: np.ndarray) -> float:
  """``10 log10(sum s**2 / sum (s - a)**2)``.

  Examples:
    >>> round(decibels(np.ones(4), np.full(4, 0.9)), 6)
    20.0
  """
  signal = np.asarray(signal, np.float64)
  noise = np.square(signal - approximation).sum()
  power = np.square(signal).sum()
  if noise == 0:
    return float("inf")
  return float(10 * np.log10(max(power, 1e-300) / noise))


@partial(jax.jit, static_argnums=0)
def _logits(graph, layers, x):
  return execute(graph, layers, x)
