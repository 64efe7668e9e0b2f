"""Errors for the parts of a network that cannot be imported, with the way out."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import errors

from jaxcompress.models.imported.values import Origin
from jaxcompress.nn.variables import NOT_FOUND, reason_of

MOST = 20  # problems that an error lists


class Problem(NamedTuple):
  """One operation that is not taken over.

  Attributes:
    layer: that it belongs to or follows, or nothing.
    operation: what it is, in words.
    line: file and line in the user's code, or nothing.
    hint: what to write in its place, or nothing.
  """

  layer: str
  operation: str
  line: str
  hint: str


class NotImportable(ValueError):
  """A network has parts that no leaf op computes; each is listed with its layer and line.

  Attributes:
    problems: all of them.
  """

  def __init__(self, problems: Sequence[Problem]):
    self.problems = tuple(problems)
    count = len(self.problems)
    lines = [
      f"model: {count} part{'s' if count > 1 else ''} of it cannot be imported; nothing was changed."
    ]
    for problem in self.problems[:MOST]:
      where = f"layer {problem.layer!r}: " if problem.layer else ""
      line = f" (at {problem.line})" if problem.line else ""
      hint = f" {problem.hint[:1].upper()}{problem.hint[1:]}." if problem.hint else ""
      lines.append(f"- {where}{problem.operation}{line}.{hint}")
    if count > MOST:
      lines.append(f"- and {count - MOST} more")
    super().__init__("\n".join(lines))


class Unreadable(Exception):
  """Raised by the reader of one operation; the import goes on behind it."""

  def __init__(self, operation: str, hint: str = ""):
    super().__init__(operation)
    self.operation, self.hint = operation, hint


EVALUATE = (
  "pass a function that evaluates: train=False, deterministic=True, use_running_average=True,"
  " is_training=False, or module.eval() as from_nnx does"
)


@contextmanager
def evaluating(shape: tuple[int, ...]) -> Iterator[None]:
  """Says what to pass where a Flax module trains, or does not find its variables.

  Args:
    shape: of the images that it is given.
  """
  try:
    yield
  except (errors.ModifyScopeVariableError, errors.InvalidRngError) as error:
    raise ValueError(f"apply: it trains ({reason_of(error)}); {EVALUATE}.") from error
  except errors.ScopeParamShapeError as error:
    raise ValueError(
      f"images: shape {shape} does not fit the variables; pass images (batch, height, width, channels)"
      f" of the size that the network was made for ({reason_of(error)})."
    ) from error
  except NOT_FOUND as error:
    raise ValueError(
      "variables: they are not those of the network; pass all collections, as model.init returns them,"
      f' such as {{"params": ..., "batch_stats": ...}} ({reason_of(error)}).'
    ) from error


WORDS: Mapping[str, tuple[str, str]] = {
  "while": (
    "a loop (lax.while_loop or fori_loop)",
    "write its passes one after another, or lax.scan",
  ),
  "scan": ("a loop (lax.scan) over parts of the images", "write its passes one after another"),
  "cond": ("a branch that depends on the images", "compute both and multiply"),
  "sort": ("sorting (also top_k and median)", "do it behind the network"),
  "top_k": ("the largest values (top_k)", "do it behind the network"),
  "argmax": ("argmax", "return the logits and take it behind the network"),
  "argmin": ("argmin", "return the logits and take it behind the network"),
  "cumsum": ("a cumulative sum", ""),
  "cumprod": ("a cumulative product", ""),
  "fft": ("a Fourier transform", ""),
  "rev": ("turning an axis round", "turn the kernel that follows instead"),
  "gather": ("indexing by numbers that slices do not have", "use slices with constant bounds"),
  "scatter": ("writing into a part of an array (.at[].set)", "concatenate the parts"),
  "scatter-add": ("adding to a part of an array (.at[].add)", "concatenate the parts"),
  "dynamic_update_slice": ("writing into a part of an array", "concatenate the parts"),
  "pure_callback": ("a callback into Python", "write it in JAX"),
  "io_callback": ("a callback into Python", "write it in JAX"),
  "stack": ("stacking along an axis of its own (jnp.stack)", "concatenate channels, or add"),
  "custom_root": ("a solver", ""),
  "reduce_prod": ("a product over an axis", ""),
  "pallas_call": ("a Pallas kernel", "pass the function that it stands for"),
  "psum": ("a sum over devices (psum)", "pass the function of one device"),
  "all_gather": ("gathering from devices", "pass the function of one device"),
  "pmean": ("a mean over devices", "pass the function of one device"),
}
"""Primitives that nothing reads, by name: words for them, and a way out."""


def in_words(name: str) -> tuple[str, str]:
  """Returns a primitive's name in words, and a replacement for it."""
  return WORDS.get(name, (f"the operation {name!r}", ""))


def is_of_jax(name: Any) -> bool:
  """Whether a compiled function is one of JAX's own, by its name."""
  if not isinstance(name, str):
    return False
  return name.startswith("_") or any(hasattr(place, name) for place in (jax.nn, jnp, jax.lax))


LIBRARIES = ("jax", "jaxlib", "flax", "haiku", "equinox", "optax", "chex", "jmp", "keras")
FRAMEWORKS = (os.path.dirname(__file__), *(f"{os.sep}{name}{os.sep}" for name in LIBRARIES))


def origin_of(eqn: Any) -> Origin:
  """Where an operation stands: the innermost line that is no framework's, if JAX notes lines."""
  info = eqn.source_info
  scopes = str(getattr(info, "name_stack", "")).split("/")
  module = "/".join(part for part in scopes if "(" not in part and "->" not in part)
  return Origin(_line(info), module)


def _line(info: Any) -> str:
  try:
    from jax._src import source_info_util

    frames = list(source_info_util.user_frames(info.traceback))
  except Exception:  # a private module, which any version may change
    return ""
  if not frames:
    return ""
  own = (f for f in frames if not any(part in f.file_name for part in FRAMEWORKS))
  frame = next(own, frames[0])
  return f"{frame.file_name}:{frame.start_line}"
