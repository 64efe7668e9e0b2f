"""Checks of arguments, and how a message speaks of what was given instead."""

import dataclasses
import difflib
import inspect
import numbers
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any

FOR_EACH_IMAGE = (
  "label",
  "target",
  "weight",
  "index",
  "mask",
)  # what a batch has of each image, if it does
VIEW = "view"  # in a batch: of which view of its image each example is, (batch, views) bool
LONGEST = 60  # characters of a value that a message repeats
MODEL = "a linen module, such as models.resnet8(10)"


def shown(value: Any) -> str:
  """A value as a message names it: what was not called, its text, or only its type if that is long.

  Examples:
    >>> shown(3), shown(dict), shown(shown), shown("x" * 100)
    ('3', 'the class dict (not called)', 'the function shown (not called)', 'a str')
  """
  if inspect.isclass(value):
    return f"the class {value.__name__} (not called)"
  if inspect.isroutine(value):
    return f"the function {value.__name__} (not called)"
  text = repr(value)
  return text if len(text) <= LONGEST and "\n" not in text else f"a {type(value).__name__}"


def unknown(argument: str, value: Any, known: Iterable[str], listed: str = "") -> ValueError:
  """Returns the error for an unknown name; it suggests the nearest known one, then lists all.

  Args:
    argument: its name.
    value: what was given.
    known: the names.
    listed: what lists them where they are too many for a message that has a suggestion.

  Examples:
    >>> raise unknown("distill", "kdd", ["kd", "crd"])
    Traceback (most recent call last):
    ValueError: distill: 'kdd' is unknown; did you mean kd? It must be one of kd, crd.
    >>> raise unknown("distill", "zzz", ["kd", "crd"])
    Traceback (most recent call last):
    ValueError: distill: 'zzz' is unknown; it must be one of kd, crd.
    >>> raise unknown("model", "resnet9", ["resnet8", "vgg8"], "jaxcompress info")
    Traceback (most recent call last):
    ValueError: model: 'resnet9' is unknown; did you mean resnet8? All are listed by jaxcompress info.
  """
  known = list(known)
  near = difflib.get_close_matches(str(value), known, n=1)
  if near and listed:
    return ValueError(
      f"{argument}: {shown(value)} is unknown; did you mean {near[0]}? All are listed by {listed}."
    )
  start = f"did you mean {near[0]}? It" if near else "it"
  return ValueError(
    f"{argument}: {shown(value)} is unknown; {start} must be one of {', '.join(known)}."
  )


def counted(count: int, one: str, more: str | None = None) -> str:
  """A number with what it counts, as a sentence has it.

  Args:
    count: the number.
    one: what a single one is called.
    more: what several are called; None: with an s.

  Examples:
    >>> counted(1, "image"), counted(2_000, "image"), counted(0, "class", "classes")
    ('1 image', '2,000 images', '0 classes')
  """
  return f"{count:,} {one if count == 1 else more or one + 's'}"


def as_call(value: Any) -> str:
  """A dataclass as the call that makes it, without what is left at its default: its ``__repr__``.

  Examples:
    >>> Size = dataclasses.make_dataclass("Size", ["width", ("height", int, 3)], repr=False)
    >>> as_call(Size(2)), as_call(Size(2, 4))
    ('Size(width=2)', 'Size(width=2, height=4)')
  """
  given = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
  words = (f"{field.name}={found!r}" for field, found in given if found != field.default)
  return f"{type(value).__name__}({', '.join(words)})"


def check_type(argument: str, value: Any, kinds: type | UnionType, wanted: str) -> None:
  """Checks the type of an argument.

  Args:
    argument: its name.
    value: what was given.
    kinds: what it may be.
    wanted: the same as a person says it, with the way out.

  Raises:
    ValueError: if it is something else.

  Examples:
    >>> check_type("mesh", 3, dict, "a dict, such as {}")
    Traceback (most recent call last):
    ValueError: mesh must be a dict, such as {}, got 3.
  """
  if not isinstance(value, kinds):
    raise ValueError(f"{argument} must be {wanted}, got {shown(value)}.")


def check_whole(argument: str, value: Any, least: int) -> None:
  """Checks that an argument is a whole number, and large enough.

  Raises:
    ValueError: if it is not.

  Examples:
    >>> check_whole("log_every", 0, 1)
    Traceback (most recent call last):
    ValueError: log_every: 0 must be a whole number, at least 1.
  """
  whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  if not whole or value < least:
    raise ValueError(f"{argument}: {shown(value)} must be a whole number, at least {least}.")


def check_range(argument: str, value: Any, least: float, most: float) -> None:
  """Checks that an argument is a number between two others, or one of them.

  Raises:
    ValueError: if it is not.

  Examples:
    >>> check_range("probability", 1.5, 0, 1)
    Traceback (most recent call last):
    ValueError: probability: 1.5 must be a number from 0 to 1.
  """
  if not isinstance(value, numbers.Real) or not least <= float(value) <= most:
    wanted = f"of at least {least}" if most == float("inf") else f"from {least} to {most}"
    raise ValueError(f"{argument}: {shown(value)} must be a number {wanted}.")


def check_callable(argument: str, value: Any, wanted: str) -> None:
  """Checks that an argument can be called, or is None where that is wanted too.

  Args:
    argument: its name.
    value: what was given.
    wanted: what it is called with, and gives; it ends in ``or None`` if it may be None.

  Raises:
    ValueError: if it cannot.

  Examples:
    >>> check_callable("augment", "flip", "(rng, batch) -> batch")
    Traceback (most recent call last):
    ValueError: augment must be a function, (rng, batch) -> batch, got 'flip'.
  """
  if value is None and wanted.endswith("or None"):
    return
  if not callable(value) or inspect.isclass(value):
    raise ValueError(f"{argument} must be a function, {wanted}, got {shown(value)}.")


def check_fraction(argument: str, value: Any) -> None:
  """Checks that an argument is a number from 0 to below 1.

  Raises:
    ValueError: if it is not.

  Examples:
    >>> check_fraction("decay", "0.9")
    Traceback (most recent call last):
    ValueError: decay: '0.9' is out of range; it must be at least 0 and below 1.
  """
  if not _is_number(value) or not 0 <= float(value) < 1:
    raise ValueError(
      f"{argument}: {shown(value)} is out of range; it must be at least 0 and below 1."
    )


def check_key(argument: str, value: Any) -> None:
  """Checks that an argument is a random key, of the new kind or the old.

  Raises:
    ValueError: if it is not.

  Examples:
    >>> check_key("rng", 0)
    Traceback (most recent call last):
    ValueError: rng must be a key, such as jax.random.key(0), got 0.
  """
  kind = getattr(value, "dtype", None)
  import jax
  import jax.numpy as jnp

  typed = kind is not None and jax.dtypes.issubdtype(kind, jax.dtypes.prng_key)
  if not (typed and value.ndim == 0) and not (kind == jnp.uint32 and value.ndim == 1):
    raise ValueError(f"{argument} must be a key, such as jax.random.key(0), got {shown(value)}.")


def check_optimizer(optimizer: Any) -> None:
  """Checks that an argument is an optimizer: anything with ``init`` and ``update`` but a loss.

  Raises:
    ValueError: if it is not.

  Examples:
    >>> check_optimizer("adam")
    Traceback (most recent call last):
    ValueError: optimizer must be an optax transformation, such as optax.adam(1e-3), got 'adam'.
  """
  ready = all(callable(getattr(optimizer, name, None)) for name in ("init", "update"))
  if inspect.isclass(optimizer) or not ready or hasattr(optimizer, "check"):  # a loss has it
    wanted = "an optax transformation, such as optax.adam(1e-3)"
    raise ValueError(f"optimizer must be {wanted}, got {shown(optimizer)}.")


def _is_number(value: Any) -> bool:
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_share(argument: str, value: Any) -> None:
  """Checks that an argument is a number from 0 to below 1, or None.

  Raises:
    ValueError: if it is not.

  Examples:
    >>> check_share("ema", 1.0)
    Traceback (most recent call last):
    ValueError: ema: 1.0 must be in [0, 1), or None.
  """
  if value is None:
    return
  if not _is_number(value) or not 0 <= float(value) < 1:
    raise ValueError(f"{argument}: {shown(value)} must be in [0, 1), or None.")


def check_batches(batches: Any) -> None:
  """Checks that something is an iterable of batches, and not one batch.

  Raises:
    ValueError: if it is not.

  Examples:
    >>> import jax.numpy as jnp
    >>> check_batches({"image": jnp.zeros((2, 8, 8, 3))})
    Traceback (most recent call last):
    ValueError: batches must be an iterable of batches, got one batch; write [batch].
  """
  if isinstance(batches, Mapping):
    raise ValueError("batches must be an iterable of batches, got one batch; write [batch].")
  check_type("batches", batches, Iterable, "an iterable of batches, such as [batch]")


def check_batch(batch: Any) -> None:
  """Checks that a batch has images, some, and as many of all else that is known.

  Args:
    batch: of arrays, in memory or traced; under names of the user's own also of trees of arrays.

  Raises:
    ValueError: if it does not.

  Examples:
    >>> import jax.numpy as jnp
    >>> check_batch({"image": jnp.zeros((0, 8, 8, 3))})
    Traceback (most recent call last):
    ValueError: batch: 'image' has shape (0, 8, 8, 3); it must be (batch, height, width, channels), each at least 1.
  """
  import jax
  import jax.numpy as jnp

  check_type("batch", batch, Mapping, "a mapping with the images under 'image'")
  if "image" not in batch:
    raise ValueError(f"batch: it has {', '.join(map(str, batch)) or 'nothing'}, but no 'image'.")
  for name, values in batch.items():
    parts = [values] if name in ("image", *FOR_EACH_IMAGE) else jax.tree.leaves(values)
    if not all(hasattr(part, "shape") for part in parts):
      raise ValueError(f"batch: '{name}' must be an array, got {shown(values)}; use np.asarray.")
  shape = jnp.shape(batch["image"])
  if len(shape) != 4 or 0 in shape:
    raise ValueError(
      f"batch: 'image' has shape {shape}; it must be (batch, height, width, channels), each at"
      " least 1."
    )
  for name in FOR_EACH_IMAGE:
    found = jnp.shape(batch[name]) if name in batch else shape
    if found[:1] != shape[:1]:
      raise ValueError(
        f"batch: '{name}' has shape {found}, and there are {shape[0]} images; give one for each."
      )
