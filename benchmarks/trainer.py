"""Networks trained and judged on a data set, alike in all benchmarks of accuracy."""

import argparse
import functools

import jax
import numpy as np
from rich.console import Console
from shared import words

from jaxcompress import data as datasets
from jaxcompress import distill, training

BATCH, EVAL_BATCH = 64, 250


class Trainer:
  """A data set, by default the built-in glyphs, and what is done with networks on it."""

  def __init__(self, console: Console, limit: int | None = None, name: str = "glyphs"):
    self.data, self.console = datasets.load(name, limit=limit), console
    self.preprocess = datasets.Preprocess()

  def batch_at(self, position: int, seed: int = 0):
    return datasets.batch_at(self.data.train, BATCH, seed=seed, position=position)

  def recipe(self, model, optimizer, **parts) -> training.Recipe:
    """How a network is trained, with augmentation."""
    augment = datasets.Augment(crop=2, flip=bool(self.data.flip))
    own = {"augment": augment, "preprocess": self.preprocess}
    own |= {"frozen_rate": 1.0}  # schedules here are low where statistics are frozen
    return training.Recipe(student=model, optimizer=optimizer, **(own | parts))

  def train(
    self, recipe, steps: int, *, seed: int = 0, start=None, given=(), batch_at=None, **options
  ):
    """The state after training.

    Args:
      recipe: how.
      steps: batches.
      seed: of the order of the data and of all that is drawn.
      start: variables to begin with; None: fresh ones.
      given: variables of the teachers.
      batch_at: the batch at a position; None: of the data set, in the seed's order.
      **options: of ``training.fit``.
    """
    batch_at = batch_at or functools.partial(self.batch_at, seed=seed)
    state = training.init_state(
      recipe,
      jax.random.key(seed),
      batch_at(0),
      student_variables=start,
      teacher_variables=given,
    )
    return training.fit(state, batch_at, steps=steps, console=self.console, **options)

  def top1(self, model, variables) -> float:
    """The share of the test images that a float network classifies rightly."""
    batches = datasets.eval_batches(self.data.test, EVAL_BATCH)
    return training.evaluate(model, variables, batches, preprocess=self.preprocess)["top1"]

  def integer_top1(self, quantized) -> float:
    """Likewise of an integer network, in exact evaluation."""
    logits = quantized.integers(self.data.test.images)
    return float(np.mean(logits.argmax(-1) == self.data.test.labels))


def parse_loss(name: str, weights: str = "", **options):
  """A loss beside cross-entropy, which SimKD goes without unless told; each image is all of its views.

  Args:
    name: of the loss.
    weights: what follows the name, such as ``":2,labels:1"``; by default the usual ones.
    **options: of ``distill.parse``.
  """
  if distill.DISTILLERS[name].views > 1:
    options[name] = {"views": 1}
  if name == "simkd" and not weights:
    weights = ",labels:1"
  return distill.parse(name + weights, **options)


def add_losses(parser) -> None:
  """An option that names losses; by default all."""

  def known(text):
    for name in (chosen := words(text)):
      if name not in distill.DISTILLERS:
        there = ", ".join(distill.DISTILLERS)
        raise argparse.ArgumentTypeError(f"{name} is unknown; there are {there}")
    return chosen

  parser.add_argument("--methods", type=known, default=list(distill.DISTILLERS))
