"""Batches made ready by a thread of its own, while the devices compute and the main thread waits."""

import collections
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from jaxcompress.arguments import check_callable, check_whole


class Ahead:
  """A function of the position, called ahead of need by another thread.

  In a loop of one's own it reads the next batches and sends them to the devices while a step runs, as
  :func:`~jaxcompress.training.fit` does. Results come in order and are those of the function; an error
  comes where its position is asked for. Asking for another position than the next starts anew there.
  One thread makes all calls, one after the other.

  Args:
    make: position -> anything, such as a batch on a mesh; a pure function.
    stop: positions end here; what lies beyond is not called for.
    depth: how many positions are ready, or on their way, beside the one that is asked for; 0: none, and
      no thread.

  Raises:
    ValueError: if ``make`` cannot be called or a number is negative.

  Examples:
    >>> with Ahead(lambda position: 10 * position, stop=3) as batch_at:
    ...   [batch_at(0), batch_at(1), batch_at(2)]
    [0, 10, 20]
  """

  def __init__(self, make: Callable[[int], Any], *, stop: int, depth: int = 2):
    check_callable("make", make, "position -> batch")
    check_whole("stop", stop, 0)
    check_whole("depth", depth, 0)
    self._make, self._stop, self._depth = make, stop, depth
    self._waiting: collections.deque[tuple[int, Future[Any]]] = collections.deque()
    self._pool = ThreadPoolExecutor(1, "ahead") if depth else None

  def __call__(self, position: int) -> Any:
    """Returns the function's value at a position."""
    if self._pool is None:
      return self._make(position)
    if self._waiting and self._waiting[0][0] != position:
      self._forget()
    if not self._waiting:
      self._send(self._pool, position)
    _, found = self._waiting.popleft()
    begin = self._waiting[-1][0] + 1 if self._waiting else position + 1
    for later in range(begin, min(position + 1 + self._depth, self._stop)):
      self._send(self._pool, later)
    return found.result()

  def close(self) -> None:
    """Ends the thread, after the call that it is at."""
    self._forget()
    if self._pool is not None:
      self._pool.shutdown(wait=True)

  def __enter__(self) -> "Ahead":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _send(self, pool: ThreadPoolExecutor, position: int) -> None:
    self._waiting.append((position, pool.submit(self._make, position)))

  def _forget(self) -> None:
    for _, found in self._waiting:
      found.cancel()
    self._waiting.clear()
