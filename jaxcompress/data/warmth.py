"""Files read whole and in turn before their examples are needed, so that the system's cache has them."""

import contextlib
import threading
from collections.abc import Iterator

import numpy as np

from jaxcompress.data.order import ByShards, Shards

BLOCK = 2**22  # bytes read at once


class Warmth:
  """A thread that reads the files of the next batches, a window ahead of the batch that is asked for.

  It keeps nothing: what is read stays in the cache of the operating system, from which all processes of
  the machine then read single examples. What cannot be read is passed over, as it will be told where it is
  needed.

  Args:
    shards: where the examples lie.
    by: their order.
    batch_size: of all processes together.
    seed: of the order.
    rows: which of each batch's examples are wanted; None: all.
    stop: positions end here.
  """

  def __init__(
    self,
    shards: Shards,
    by: ByShards,
    batch_size: int,
    seed: int,
    rows: np.ndarray | None,
    stop: int,
  ):
    self._shards, self._by, self._rows = shards, by, rows
    self._batch_size, self._seed, self._stop = batch_size, seed, stop
    self._turn = threading.Condition()
    self._position = 0
    self._thread: threading.Thread | None = None
    self._ends = threading.Event()
    self._file = np.empty(len(shards.examples), np.int32)
    self._file[shards.examples] = np.repeat(np.arange(len(shards.sizes)), shards.sizes)
    window = by.window * len(shards.examples) / len(shards.sizes)
    self.ahead = 1 + int(window * by.groups / batch_size)  # batches of a window of each group
    self._kept = 3 * by.window * by.groups

  def reach(self, position: int) -> None:
    """Says which batch is asked for, and has the files of those after it read."""
    with self._turn:
      self._position = position
      self._turn.notify()
    if self._thread is None:
      self._ends = threading.Event()
      self._thread = threading.Thread(target=self._read, args=(position, self._ends), daemon=True)
      self._thread.start()

  def close(self) -> None:
    """Ends the thread; a new one begins where it is asked for."""
    with self._turn:
      self._ends.set()
      self._turn.notify()
    if self._thread is not None:
      self._thread.join()
      self._thread = None

  def files(self, position: int) -> Iterator[str]:
    """The files that a batch reads, in the order in which it does."""
    index = self._by.indices(self._shards, self._batch_size, seed=self._seed, position=position)
    wanted = index if self._rows is None else index[self._rows]
    for number in dict.fromkeys(self._file[wanted].tolist()):
      yield self._shards.files[number]

  def _read(self, position: int, ends: threading.Event) -> None:
    recent: dict[str, None] = {}  # of a window and more, that are not read again
    for at in range(position, self._stop):
      with self._turn:
        while not ends.is_set() and at > self._position + self.ahead:
          self._turn.wait()
      for name in self.files(at):
        if name not in recent and not ends.is_set():
          _pass_through(name, ends)
        recent.pop(name, None)
        recent[name] = None
      for name in list(recent)[: -self._kept]:
        del recent[name]
      if ends.is_set():
        return


def _pass_through(name: str, ends: threading.Event) -> None:
  """Reads a file from its beginning to its end."""
  with contextlib.suppress(OSError), open(name, "rb", buffering=0) as file:
    while not ends.is_set() and file.read(BLOCK):
      pass
