"""The best state of a phase by validation images, kept on disk beside its checkpoints."""

import pathlib
import warnings
from collections.abc import Callable
from typing import Any

from jaxcompress import training

Rank = tuple[float, float]
Judge = Callable[[training.CompressState], Rank]


class Best:
  """Keeps the state that ranks highest of those that it is shown, the first of equals.

  A run that was killed goes on from a checkpoint, and is shown states of after it once more. They
  are what they were, so that it ends with the same best state, and after the same step.

  Args:
    folder: where it lies.
    judge: the rank of a state: the share of validation images that are right, and, where equal, the
      negative of the mean loss.
    patience: after how many steps without a better state training is to end, or None.
    warn: told where a damaged file is passed over.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    judge: Judge,
    *,
    patience: int | None = None,
    warn: Callable[[str], None] = warnings.warn,
  ):
    self._checkpoints = training.Checkpoints(folder, keep=1, warn=warn)
    self._judge, self._patience = judge, patience
    self._rank: Rank | None = None

  def look(self, position: int, state: training.CompressState) -> tuple[Rank, bool]:
    """Judges a state and keeps it if it is better.

    Args:
      position: its step.
      state: any of the phase.

    Returns:
      Its rank, and whether patience is at an end.
    """
    rank, kept = self._judge(state), self._checkpoints.latest()
    if kept is not None and self._rank is None:  # of before a kill
      self._rank = self._judge(self.state(state))
    if self._rank is None or rank > self._rank:
      self._checkpoints.save(position, trimmed(state), force=True)
      self._checkpoints.wait()
      kept, self._rank = position, rank
    assert kept is not None
    return rank, self._patience is not None and position - kept >= self._patience

  def state(self, like: training.CompressState) -> training.CompressState:
    """The best state, without what only training needs.

    Args:
      like: any state of the phase.
    """
    return self._checkpoints.restore(trimmed(like))

  @property
  def position(self) -> int | None:
    """Its step, or None before the first."""
    return self._checkpoints.latest()

  def __enter__(self) -> "Best":
    return self

  def __exit__(self, *error: Any) -> None:
    self._checkpoints.__exit__(*error)


def trimmed(state: training.CompressState) -> training.CompressState:
  """A state without what only training needs: teachers, losses and the optimizer."""
  return state.replace(teachers=(), loss_params=(), loss_state=(), opt_state=())
