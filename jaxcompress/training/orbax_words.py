"""Orbax's own words, kept off the log and off the error output where ours say what has happened."""

import contextlib
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import orbax.checkpoint as ocp

from jaxcompress.files.values import one_line

T = TypeVar("T")
QUIET_SECONDS = 0.2  # without a word, after which no read is under way any more


@contextlib.contextmanager
def is_quiet() -> Iterator[None]:
  """Keeps what orbax warns of while it saves for us off the log: how long a save has waited, and so on.

  Records of other threads, of other packages, and errors are logged as ever.
  """
  thread, place = threading.get_ident(), os.path.dirname(ocp.__file__)

  def passes(record: logging.LogRecord) -> bool:
    ours = record.thread == thread and record.pathname.startswith(place)
    return not ours or record.levelno >= logging.ERROR

  logger = logging.getLogger("absl")
  logger.addFilter(passes)
  try:
    yield
  finally:
    logger.removeFilter(passes)


def tried(read: Callable[[], T]) -> tuple[T | None, str | None]:
  """Reads by orbax, or says in one line why that cannot be.

  Where one array cannot be read it closes the event loop at once, and each of the others that are being
  read would print that it finds none: those are waited for here.
  """
  before, last = sys.unraisablehook, time.monotonic()

  def hook(told: "sys.UnraisableHookArgs") -> None:
    nonlocal last
    if isinstance(told.exc_value, RuntimeError) and str(told.exc_value) == "Event loop is closed":
      last = time.monotonic()
    else:
      before(told)

  sys.unraisablehook = hook
  try:
    try:
      return read(), None
    except Exception as error:
      reason = one_line(error)
    gc.collect()  # ends what the error held
    last = time.monotonic()
    while time.monotonic() - last < QUIET_SECONDS:
      time.sleep(QUIET_SECONDS / 10)
    return None, reason
  finally:
    sys.unraisablehook = before
