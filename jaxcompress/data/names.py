"""Names of classes and files: which can be written everywhere, and how others are shown."""

import unicodedata
from collections.abc import Iterable


def printable(text: str) -> str:
  r"""Text in which bytes that are no UTF-8, and what cannot be seen, are written as escapes.

  Examples:
    >>> print(printable("caf\udce9\n"))
    caf\xe9\n
  """
  text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
  return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def normal(name: str) -> str:
  r"""A name with composed accents: systems write the same one in two ways.

  Examples:
    >>> normal("cafe\u0301") == "caf\u00e9"
    True
  """
  return unicodedata.normalize("NFC", name)


def fault(name: object) -> str | None:
  r"""Why a class cannot have this name in files, terminals and reports; None: it can.

  Examples:
    >>> fault("stop sign"), fault("stop\nsign"), fault("caf\udce9")
    (None, 'has control characters', 'is not UTF-8')
    >>> fault(" "), fault(3)
    ('is blank', 'is no text')
  """
  if not isinstance(name, str):
    return "is no text"
  if not name.strip():
    return "is blank"
  try:
    name.encode()
  except UnicodeEncodeError:
    return "is not UTF-8"
  if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
    return "has control characters"
  return None


def look_alike(names: Iterable[str]) -> tuple[str, str] | None:
  r"""Two names that differ only in how accents are written or in spaces at the ends.

  Examples:
    >>> look_alike(["cat", "dog", "cat "])
    ('cat', 'cat ')
    >>> look_alike(["cat", "Cat", "c at"])
  """
  known: dict[str, str] = {}
  for name in names:
    plain = normal(name).strip()
    if plain in known:
      return known[plain], name
    known[plain] = name
  return None
