"""A progress bar on the standard error, where somebody watches."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import Progress, TaskID, TimeElapsedColumn

from jaxcompress.terminal import progress


class Meter:
  """Shows how far one method is; silent without a bar."""

  def __init__(self, bar: Progress | None):
    self._bar = bar
    self._task = TaskID(0) if bar is None else bar.add_task("post-training", total=None)

  def start(self, name: str, total: int) -> None:
    """A method begins, with about so many ticks."""
    if self._bar is not None:
      self._bar.reset(self._task, total=total, description=name)

  def tick(self) -> None:
    """One batch or layer is done."""
    if self._bar is not None:
      self._bar.advance(self._task)


@contextlib.contextmanager
def meter(show: bool) -> Iterator[Meter]:
  """A :class:`Meter` whose bar disappears at the end; silent unless a terminal shows it."""
  console = Console(stderr=True)
  if not (show and console.is_interactive):
    yield Meter(None)
    return
  with progress(console, TimeElapsedColumn, transient=True) as bar:
    yield Meter(bar)
