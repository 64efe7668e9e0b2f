"""The C sources of the functions that a network calls."""

import pathlib
import re
from collections.abc import Iterable

SOURCES = pathlib.Path(__file__).parent / "sources"
PREFIX = "jaxcompress_"  # of all names in the sources
WIDE = "_16"  # ends the names of functions of 16-bit integers
PROTOTYPE = (
  "void {}(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y);"
)
INCLUDED = re.compile(r'^#include "(\w+\.[ch])"\n', re.MULTILINE)
DEFINED = re.compile(rf"\b({PREFIX}\w+)\([^;{{]*\) *\{{")


def kernels_header(functions: Iterable[str], structs: Iterable[str], prefix: str) -> str:
  """The header of some functions: what all share, structures of their constants, and prototypes.

  Args:
    functions: names, without a prefix.
    structs: likewise.
    prefix: of all names.
  """
  texts: dict[str, str] = {}
  for name in ("arithmetic", *sorted(set(structs))):
    _collect(f"{name}.h", texts)
  prototypes = "\n".join(PROTOTYPE.format(PREFIX + name) for name in sorted(set(functions)))
  return "\n".join([*texts.values(), prototypes + "\n"]).replace(PREFIX, prefix)


def kernels_source(functions: Iterable[str], prefix: str) -> str:
  """The definitions of some functions, and of what they call."""
  texts: dict[str, str] = {}
  for function in sorted(set(functions)):
    _collect(f"{function}.c", texts)
  return "\n".join(texts.values()).replace(PREFIX, prefix)


def _collect(file: str, texts: dict[str, str]) -> None:
  """Adds the text of a file, behind those that it includes, to texts by name."""
  if file in texts:
    return
  text = read_source(file)
  for included in INCLUDED.findall(text):
    _collect(included, texts)
  texts[file] = INCLUDED.sub("", text).lstrip("\n")


def read_source(file: str) -> str:
  """The text of a file; where functions of int16 have none, that of those of int8 with another type."""
  if (SOURCES / file).is_file():
    return (SOURCES / file).read_text()
  text = (SOURCES / file.replace(WIDE, "")).read_text()
  for name in set(DEFINED.findall(text)):
    text = re.sub(rf"\b{name}\b", name + WIDE, text)
  return text.replace("int8_t", "int16_t").replace("INT8_", "INT16_")
