"""Calibrators: from what was seen of a tensor to the range that it is rounded in."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxcompress.quantize.fake_quant import levels

BINS = 2048
POINTS = 100  # candidates of a search
Bounds = tuple[float, float]


class Seen(NamedTuple):
  """The values that calibration saw of the tensors that share a grid.

  Attributes:
    low: smallest value.
    high: largest value.
    average: moving average over batches of the smallest and the largest value.
    counts: (BINS,) float64, how many values lie in each equal part of ``low`` to ``high``; None
      where nobody needs it.
    nonnegative: whether no value can be below zero.
    bits: of the integers.
  """

  low: float
  high: float
  average: Bounds
  counts: np.ndarray | None = None
  nonnegative: bool = False
  bits: int = 8

  @property
  def histogram(self) -> np.ndarray:
    """The counts, where they are needed."""
    if self.counts is None:
      raise ValueError(
        "counts: they were not taken; set counts=True in a calibrator that reads them."
      )
    return self.counts

  @property
  def centers(self) -> np.ndarray:
    """(BINS,) the middle of each part."""
    edges = np.linspace(self.low, self.high, BINS + 1)
    return (edges[1:] + edges[:-1]) / 2


class Calibrator(NamedTuple):
  """A way to choose ranges.

  Attributes:
    choose: ``(seen) -> (low, high)``.
    counts: whether it reads histograms, which takes a second pass over the images.
  """

  choose: Callable[[Seen], Bounds]
  counts: bool = True


def percentile(share: float = 99.99) -> Calibrator:
  """Leaves out the same share of the values at both ends, or at the top of a rectified tensor.

  Args:
    share: in percent, above 50 and at most 100.

  Raises:
    ValueError: if ``share`` is out of range.
  """
  if not 50 < share <= 100:
    raise ValueError(f"share: {share} is out of range; it must be above 50 and at most 100.")

  def choose(seen: Seen) -> Bounds:
    edges = np.linspace(seen.low, seen.high, BINS + 1)
    counts = seen.histogram
    below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    low = seen.low if seen.nonnegative else np.interp(1 - share / 100, below, edges)
    return float(low), float(np.interp(share / 100, below, edges))

  return Calibrator(choose)


def mse(seen: Seen) -> Bounds:
  """The range with the least squared error: both ends are shrunk together, then each alone."""
  low, high = min(seen.low, 0.0), max(seen.high, 0.0)
  shares = np.linspace(1, 1 / POINTS, POINTS)  # of equal errors the widest range is taken
  ones = np.ones(POINTS)
  for lows, highs in ((shares, shares), (ones, shares), (shares, ones)):
    best = int(np.argmin(_rounding_errors(seen, low * lows, high * highs)))
    low, high = float(low * lows[best]), float(high * highs[best])
  return low, high


def _rounding_errors(seen: Seen, low: np.ndarray, high: np.ndarray) -> np.ndarray:
  """Mean squared error of rounding what was seen to its bits, for each of several ranges."""
  to = levels(seen.bits, symmetric=False)
  scale = (high - low) / (to.high - to.low)
  scale = np.where(scale > 1e-30, scale, 1.0)[:, None]
  zero = np.clip(np.rint(to.low - low[:, None] / scale), to.low, to.high)
  x, weight = seen.centers[None], seen.histogram / max(seen.histogram.sum(), 1.0)
  rounded = (np.clip(np.rint(x / scale) + zero, to.low, to.high) - zero) * scale
  return np.square(rounded - x) @ weight


def kl(seen: Seen) -> Bounds:
  """The range whose rounded histogram is closest to the whole one in Kullback-Leibler divergence.

  Both ends are shrunk alike. Values outside count at the edge, and the bin of zero is
  replaced by its neighbours' mean, since rectified tensors have a spike there.

  References:
    Migacz, `8-bit Inference with TensorRT
    <https://on-demand.gputechconf.com/gtc/2017/presentation/s7310-8-bit-inference-with-tensorrt.pdf>`_,
    2017.
  """
  counts, edges = _without_spike(seen), np.linspace(seen.low, seen.high, BINS + 1)
  best, bounds = math.inf, (seen.low, seen.high)
  for share in np.linspace(1, 0.1, POINTS):
    first, end = np.searchsorted(edges, [seen.low * share, seen.high * share])
    first, end = max(int(first) - (seen.low < 0), 0), min(int(end), BINS)
    if end - first < 2**seen.bits - 2:
      break
    distance = _divergence(counts, first, end, 2**seen.bits)
    if distance < best:
      best, bounds = distance, (float(edges[first]), float(edges[end]))
  return bounds


def _without_spike(seen: Seen) -> np.ndarray:
  counts = seen.histogram.copy()
  if seen.low <= 0 <= seen.high and seen.high > seen.low:
    at = min(int(BINS * -seen.low / (seen.high - seen.low)), BINS - 1)
    around = [counts[i] for i in (at - 1, at + 1) if 0 <= i < BINS]
    counts[at] = np.mean(around)
  return counts


def _divergence(counts: np.ndarray, first: int, end: int, count: int) -> float:
  """KL of ``counts`` clipped to bins ``first`` to ``end`` from the same rounded to ``count`` levels."""
  inside = counts[first:end]
  clipped = inside.copy()
  clipped[0] += counts[:first].sum()
  clipped[-1] += counts[end:].sum()
  level = np.arange(end - first) * count // (end - first)
  alive = inside > 0
  total, number = (np.bincount(level, values, count) for values in (inside, alive.astype(float)))
  rounded = np.where(alive, (total / np.maximum(number, 1))[level], 0.0)
  if not clipped.sum() or not rounded.sum():
    return math.inf
  p, q = clipped / clipped.sum(), rounded / rounded.sum()
  floor = 1e-9  # an edge that holds clipped values only
  where = p > 0
  return float(np.sum(p[where] * np.log(p[where] / np.maximum(q[where], floor))))


def aciq(seen: Seen) -> Bounds:
  """The best range of a Laplace distribution with the same mean distance from its mean.

  References:
    Banner et al., `Post training 4-bit quantization of convolutional networks for rapid-deployment
    <https://arxiv.org/abs/1810.05723>`_, 2018, section 3.
  """
  x, weight = seen.centers, seen.histogram / max(seen.histogram.sum(), 1.0)
  mean = float(x @ weight)
  reach = laplace_ratio(seen.bits + seen.nonnegative) * float(np.abs(x - mean) @ weight)
  if seen.nonnegative:
    return seen.low, min(seen.high, reach)
  return max(seen.low, mean - reach), min(seen.high, mean + reach)


def laplace_ratio(bits: int) -> float:
  """``a / b`` that minimises ``2 b**2 exp(-a / b) + a**2 / (3 * 4**bits)``, by Newton's method.

  The half of a Laplace distribution that a rectifier leaves takes the ratio of one bit more: the
  same steps cover one side alone.

  Examples:
    >>> round(laplace_ratio(4), 2)
    5.03
  """
  ratio, power = float(bits), 3.0 * 4.0**bits
  for _ in range(100):
    slope = 2 * ratio / power - 2 * math.exp(-ratio)
    ratio -= slope / (2 / power + 2 * math.exp(-ratio))
  return ratio


CALIBRATORS: dict[str, Calibrator] = {
  "minmax": Calibrator(lambda seen: (seen.low, seen.high), counts=False),
  "ema": Calibrator(lambda seen: seen.average, counts=False),  # Jacob et al., 2018, section 3.1
  "percentile": percentile(),
  "mse": Calibrator(mse),
  "kl": Calibrator(kl),
  "aciq": Calibrator(aciq),
}


def calibrator(ranges: str | Calibrator) -> Calibrator:
  """Finds a calibrator by its name.

  Raises:
    ValueError: if the name is unknown.

  Examples:
    >>> calibrator("mse").counts
    True
  """
  if isinstance(ranges, Calibrator):
    return ranges
  if ranges not in CALIBRATORS:
    raise ValueError(
      f"ranges: {ranges!r} is unknown; it must be one of {', '.join(CALIBRATORS)}, or a Calibrator."
    )
  return CALIBRATORS[ranges]
