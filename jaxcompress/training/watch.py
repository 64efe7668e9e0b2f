"""Watches training for a network that falls far behind its best accuracy or loss."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import jax

from jaxcompress.training.frozen import frozen_norms, slowed_layers
from jaxcompress.training.recipe import Recipe
from jaxcompress.training.state import CompressState

EXAMPLES, BATCHES = 256, 8  # that a mean is of, at least
SHARE = 0.5  # of its best, below which accuracy is far behind
TIMES = 5.0  # its best, above which a loss is
SPREADS = 6.0  # by which two means of accuracies differ by chance in no run
OTHERS = ("loss", "skipped", "sparsity")  # metrics that are no part of a loss


class Watch:
  """Looks at a run's training accuracy, or at its losses where there are no labels.

  It compares means over some batches with the best such mean before. Means begin anew where the
  network is another one: in a new stage, and when quantization starts. It tells only what lasts: what
  is still so a mean later, or at the end.

  Args:
    recipe: of the run.

  Examples:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jaxcompress import models
    >>> recipe = Recipe(student=models.resnet8(10), optimizer=optax.sgd(0.1))
    >>> watch = Watch(recipe)
    >>> for position in range(60):
    ...   watch.add(position, {"loss": 0.1, "accuracy": 0.9 if position < 30 else 0.1})
    >>> watch.look(60, batch_size=64, ends=True)
    'training accuracy fell from 90% to 10%'
  """

  def __init__(self, recipe: Recipe):
    self._recipe = recipe
    self._new: list[tuple[int, dict[str, Any]]] = []
    self._means = _Means()
    self._since: int | None = None
    self._told = False

  def add(self, position: int, metrics: Mapping[str, Any]) -> None:
    """Takes the metrics of the batch at a position, which may still be computed; waits for nothing."""
    if not self._told:
      names = ("accuracy",) if "accuracy" in metrics else tuple(filter(_is_part, metrics))
      self._new.append((position, {name: metrics[name] for name in names}))

  def look(self, position: int, *, batch_size: int, ends: bool) -> str | None:
    """Returns a message, once, if the accuracy fell or the loss rose; else None.

    Args:
      position: batches consumed.
      batch_size: of each.
      ends: whether the run ends here.
    """
    if self._told:
      return None
    batches, self._new = self._new, []
    size = max(BATCHES, math.ceil(EXAMPLES / batch_size))
    for (at, _), values in zip(batches, jax.device_get([m for _, m in batches]), strict=True):
      if self._begins_anew(at):
        self._means, self._since = _Means(), None
      self._means.take({name: float(value) for name, value in values.items()}, size)
    fall = self._means.fall(size * batch_size)
    if fall is None:
      self._since = None
      return None
    self._since = position if self._since is None else self._since
    if position - self._since < size and not ends:
      return None
    self._told = True
    return fall

  def _begins_anew(self, position: int) -> bool:
    plan = self._recipe.quantize
    starts = plan is not None and position == plan.start_step
    return starts or self._recipe.starts_stage(position)


class _Means:
  """Means of some metrics over as many batches, and the best of those that share none with the last."""

  def __init__(self):
    self.values: deque[dict[str, float]] = deque()
    self.means: deque[dict[str, float]] = deque()
    self.first: dict[str, float] = {}
    self.low: dict[str, float] = {}
    self.high: dict[str, float] = {}

  def take(self, values: dict[str, float], size: int) -> None:
    self.values.append(values)
    if len(self.values) > size:
      self.values.popleft()
    if len(self.values) < size:
      return
    self.means.append({name: sum(v[name] for v in self.values) / size for name in values})
    if len(self.means) > size:
      old = self.means.popleft()
      self.first = self.first or old
      self.low = {name: min(value, self.low.get(name, value)) for name, value in old.items()}
      self.high = {name: max(value, self.high.get(name, value)) for name, value in old.items()}

  def fall(self, examples: int) -> str | None:
    """How far the last batches are behind the best before; each mean is of so many examples."""
    if not self.first:
      return None
    now, best = self.means[-1], self.low
    if "accuracy" in now:
      top, current = self.high["accuracy"], now["accuracy"]
      spread = math.sqrt(2 * top * (1 - top) / examples)
      if current < SHARE * top and top - current > SPREADS * spread:
        return f"training accuracy fell from {top:.0%} to {current:.0%}"
      return None
    risen = (best[n] > 0 and now[n] > max(TIMES * best[n], self.first[n]) for n in now)
    if now and all(risen):
      return f"the loss rose from {sum(best.values()):.3g} to {sum(now.values()):.3g}"
    return None


def _is_part(name: str) -> bool:
  return name not in OTHERS and "weight/" not in name


def cause(state: CompressState) -> str:
  """Says why the accuracy may have fallen and which argument to change: frozen_rate, or the rate."""
  rate, step = state.recipe.frozen_rate, int(state.step)
  steps = [at for at in slowed_layers(state).values() if at < step]
  if not steps:
    return "the learning rate may be too high; lower it, or clip gradients"
  count = sum(at < step for at in frozen_norms(state).values())
  return (
    f"the statistics of {count} normalizations are frozen, the first from step {min(steps)} on, and what"
    f" moves before them has {rate:g} of the optimizer's learning rate; lower frozen_rate or the rate,"
    " or freeze later"
  )
