"""How the program ends: one line on stderr, and an exit code."""

import os
import sys
import traceback

WRONG, INTERRUPTED, STOPPED, ALONE = 2, 130, 143, 3


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
  resumable = "compress" in sys.argv[1:2]
  together, lost = _of_several(error)
  if isinstance(error, ValueError):
    text, code = " ".join(str(error).split()), WRONG
  elif isinstance(error, KeyboardInterrupt):
    text, code = "stopped" + ("; go on with --resume" if resumable else ""), INTERRUPTED
  elif isinstance(error, EndError):
    text, code = str(error), error.code
  elif lost:
    text, code = f"{lost}; start all of them again with --resume", ALONE
  elif together:
    text, code = "".join(traceback.format_exception(error)), 1
  else:
    raise error
  print(f"jaxcompress: {text}", file=sys.stderr, flush=True)
  if not together:
    sys.exit(code)
  from jaxcompress.training import leave

  sys.stdout.flush()
  if not lost:
    leave()
  os._exit(code)  # threads that wait for other processes would keep this one for minutes


def _of_several(error: BaseException) -> tuple[bool, str]:
  """Whether this is one of several processes, and if another one is gone, words for it."""
  jax = sys.modules.get("jax")
  if jax is None or not jax.distributed.is_initialized():
    return False, ""
  if not isinstance(error, jax.errors.JaxRuntimeError):
    return True, ""
  from jaxcompress.training.variables import first_line

  me, count = jax.process_index(), jax.process_count()
  return True, f"process {me} of {count} lost another one ({first_line(error)})"
