"""Packages whose names are imported when they are first asked for.

The whole library takes seconds to import, and a prediction with a file needs a small part of it. A
package says what it exports as ever, by imports, below ``if TYPE_CHECKING``, where type checkers and
readers find them; this module reads them there.
"""

import ast
import importlib
import pathlib
import sys
from types import ModuleType
from typing import Any


class Package(ModuleType):
  """A package that imports what is asked of it."""

  def __getattr__(self, name: str) -> Any:
    place = self.__dict__["_places"].get(name)
    if place is None:
      raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(place), name)
    setattr(self, name, found)
    return found

  def __setattr__(self, name: str, value: Any) -> None:
    """Binds a name; importing ``data/load.py`` would bind ``data.load``, which is the function."""
    places = self.__dict__.get("_places", {})
    if isinstance(value, ModuleType) and value.__name__ == places.get(name):
      value = getattr(value, name)
    super().__setattr__(name, value)

  def __dir__(self) -> list[str]:
    return sorted({*super().__dir__(), *self.__dict__["_places"]})


def import_on_demand(package: str) -> None:
  """Lets a package import its names when they are first asked for.

  Args:
    package: ``__name__`` of the package, whose imports stand below ``if TYPE_CHECKING``.

  Examples:
    >>> import jaxcompress.data
    >>> "load" in dir(jaxcompress.data), jaxcompress.data.load.__module__
    (True, 'jaxcompress.data.load')
  """
  module = sys.modules[package]
  tree = ast.parse(pathlib.Path(str(module.__file__)).read_text(encoding="utf-8"))
  places = {
    alias.name: part.module
    for node in tree.body
    if isinstance(node, ast.If)
    for part in node.body
    if isinstance(part, ast.ImportFrom)
    for alias in part.names
  }
  module.__class__ = Package
  module.__dict__["_places"] = places
