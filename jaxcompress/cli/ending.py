"""The end of the program: one line on stderr, and an exit code."""

import atexit
import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from typing import Any

from jaxcompress.terminal import literal

WRONG, INTERRUPTED, STOPPED, ALONE = 2, 130, 143, 3
NUMBERS = {"int": "a whole number", "float": "a number"}
OPTIONS = {"size": "image_size", "budget_bytes": "budget", "num_classes": "classes"}
"""Options by the arguments that they become, where these have other names."""


class EndError(Exception):
  """An end that is no mistake of the user's.

  Attributes:
    code: the exit code.
  """

  def __init__(self, message: str, code: int):
    super().__init__(message)
    self.code = code


def end(error: BaseException) -> None:
  """Says what happened and ends the program, on one of several processes so that the others notice.

  Raises:
    SystemExit: where it runs alone.
  """
  together, lost = _of_several(error)
  if isinstance(error, ValueError) or hasattr(error, "format_message"):
    text, code = " ".join(filter(None, map(str.strip, _of_mistake(error).splitlines()))), WRONG
  elif isinstance(error, KeyboardInterrupt):
    text, code = "stopped", INTERRUPTED
  elif isinstance(error, EndError):
    text, code = str(error), error.code
  elif isinstance(error, OSError):
    text, code = of_system(error), WRONG
  elif lost:
    text, code = f"{lost}; start all of them again with --resume", ALONE
  elif together:
    text, code = "".join(traceback.format_exception(error)), 1
  else:
    raise error
  if code == INTERRUPTED:
    warnings.simplefilter("ignore")  # of coroutines of orbax that were left half done
    with contextlib.suppress(ValueError):  # this is not the main thread
      signal.signal(signal.SIGINT, lambda *_: os._exit(code))  # Ctrl-C again, while JAX cleans up
  _drop_what_cannot_be_printed()
  with contextlib.suppress(OSError):  # there is nowhere to say it
    whole = text if code == 1 else literal(text)
    print(f"jaxcompress: {whole}", file=sys.stderr, flush=True)
  if not together:
    sys.exit(code)
  from jaxcompress.training.processes import leave_processes

  if not lost:
    leave_processes()
  os._exit(code)  # threads that wait for other processes would keep this one for minutes


def leave_threads(code: object) -> None:
  """Ends a program that failed, where threads would keep it.

  Orbax's wait for many minutes for what a failed write will never say.

  Args:
    code: the exit code.
  """
  others = [one for one in threading.enumerate() if one is not threading.current_thread()]
  if code in (0, None) or all(one.daemon for one in others):
    return
  atexit._run_exitfuncs()
  os._exit(code if isinstance(code, int) else 1)


def _of_mistake(error: Any) -> str:
  """A mistake in the words of the command line, which spells options in its own way.

  Examples:
    >>> from jaxcompress.pipeline.checks import OptionError
    >>> _of_mistake(OptionError("out: a.jcz exists; add ", ".", force=True))
    'out: a.jcz exists; add --force.'
    >>> _of_mistake(OptionError("format: needs 4 bits; add ", ".", bits=4))
    'format: needs 4 bits; add --bits 4.'
    >>> _of_mistake(ValueError("budget_bytes: 9 cannot be met; allow more."))
    'budget: 9 cannot be met; allow more.'
  """
  if hasattr(error, "format_message"):  # of typer, which has a copy of click, or click
    command = "jaxcompress" if error.ctx is None else error.ctx.command_path
    message = (_of_number(error) or error.format_message()).rstrip(".")
    return f"{message}{'' if message.endswith('?') else '.'} See {command} --help."
  text = str(error)
  if hasattr(error, "spelled"):
    flag = f"--{error.name.replace('_', '-')}"
    text = error.spelled(flag if error.value is True else f"{flag} {error.value}")
  argument, colon, rest = text.partition(":")
  return OPTIONS.get(argument, argument) + colon + rest


def _of_number(error: Any) -> str | None:
  """Says of text that an option cannot read as a number what it takes; None of other mistakes.

  Newer releases of typer tell it as pydantic found it.
  """
  found = getattr(error.__cause__, "errors", None)
  if found is None:
    return None
  first, option = found()[0], max(error.param.opts, key=len)
  kind = first["type"].partition("_")[0]
  if kind not in NUMBERS:
    return None
  return f"{option} must be {NUMBERS[kind]}, got {first['input']}"


def of_system(error: OSError) -> str:
  """Says what the operating system refused.

  Examples:
    >>> of_system(FileNotFoundError(2, "No such file or directory", "a.png"))
    'a.png: No such file or directory'
    >>> of_system(OSError(28, "No space left on device"))
    'what is printed, or a file, cannot be written (No space left on device)'
  """
  if error.filename is not None:
    return f"{os.fsdecode(error.filename)}: {error.strerror}"
  if error.errno is None:
    return str(error) or type(error).__name__
  what = "what is printed, or a file, cannot be written"
  known = error.errno in (errno.ENOSPC, errno.EIO, errno.EPIPE, errno.EDQUOT)
  return f"{what} ({error.strerror})" if known else str(error.strerror)


def _drop_what_cannot_be_printed() -> None:
  """Empties the standard output; where it cannot be written, Python would fail on it once more."""
  try:
    sys.stdout.flush()
  except (OSError, ValueError, AttributeError):  # full, closed, or none
    with contextlib.suppress(OSError, ValueError, AttributeError):
      nowhere = os.open(os.devnull, os.O_WRONLY)
      os.dup2(nowhere, sys.stdout.fileno())
      os.close(nowhere)


def _of_several(error: BaseException) -> tuple[bool, str]:
  """Whether this is one of several processes, and if another one is gone, words for it."""
  jax = sys.modules.get("jax")
  if jax is None or not jax.distributed.is_initialized():
    return False, ""
  if not isinstance(error, jax.errors.JaxRuntimeError):
    return True, ""
  from jaxcompress.files.values import one_line

  me, count = jax.process_index(), jax.process_count()
  return True, f"process {me} of {count} lost another one ({one_line(error)})"
