"""The C sources of a network: its constants, its memory, and what calls its functions."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.export.c99.budget import fit
from jaxcompress.export.c99.emit import emit
from jaxcompress.export.c99.emitted import Emitted, Tensor
from jaxcompress.export.c99.header import header_text
from jaxcompress.export.c99.kernels import kernels_header, kernels_source
from jaxcompress.export.c99.manifest import Calls, Sizes
from jaxcompress.export.c99.plan import Plan
from jaxcompress.export.c99.walk import walk_text
from jaxcompress.nn.operations import count_macs
from jaxcompress.quantize import QuantizedModel

IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
LONGEST_NAME = 63  # letters
HEADERS = (  # of C and of Arduino, whose place a file of the same name would take
  *(
    "assert",
    "complex",
    "ctype",
    "errno",
    "fenv",
    "float",
    "inttypes",
    "iso646",
    "limits",
    "locale",
  ),
  *(
    "math",
    "setjmp",
    "signal",
    "stdalign",
    "stdarg",
    "stdatomic",
    "stdbool",
    "stddef",
    "stdint",
    "stdio",
  ),
  *("stdlib", "stdnoreturn", "string", "tgmath", "threads", "time", "uchar", "wchar", "wctype"),
  *("arduino", "features", "malloc", "memory", "newlib", "strings", "unistd"),
)
TARGETS = (  # of Make and CMake, and folders that lie beside the program
  *("all", "check", "clean", "cmakefiles", "depend", "edit_cache", "examples", "help", "install"),
  *("makefile", "package", "package_source", "preinstall", "rebuild_cache", "src", "test"),
)
WIDTH = 110  # of lines
GUARD = "#ifndef {0}\n#define {0}\n\n{1}\n#endif\n"


class Texts(NamedTuple):
  """A network in C.

  Attributes:
    files: texts by name.
    calls: how it is called.
    sizes: what it takes.
  """

  files: Mapping[str, str]
  calls: Calls
  sizes: Sizes


def write_texts(
  quantized: QuantizedModel, *, name: str = "model", weights: str = "int8", ram: int | None = None
) -> Texts:
  """Writes a network in C.

  Args:
    quantized: any.
    name: with which all names in C begin.
    weights: as for :func:`~jaxcompress.export.c99.emit.emit`.
    ram: as for :func:`~jaxcompress.export.c99.budget.fit`.

  Raises:
    ValueError: if the name is not valid in C; as for :func:`~jaxcompress.export.c99.emit.emit` and
      :func:`~jaxcompress.export.c99.budget.fit`.
  """
  check_name(name)
  network, layout = fit(emit(quantized, weights), ram)
  constants = Constants()
  called = [
    (i, emitted)
    for i, emitted in enumerate(network.operations)
    if not layout.left_out[i]  # a view needs no call, no constants and no function
  ]
  structs = [_structure(i, emitted, name, constants) for i, emitted in called]
  prefix = f"{name}_"
  ends = {f"{name}_input": network.input}
  ends |= {f"{name}_output_{i}": tensor for i, (_, tensor) in enumerate(network.outputs)}
  source = [
    f'#include "{name}.h"\n#include "{name}_kernels.h"\n',
    *constants.texts,
    *structs,
    f"static union {{\n  int8_t bytes[{layout.arena}];\n  int32_t aligned;\n}} arena;\n",
    walk_text(network, layout, prefix),
    *(_pointer(function, network.tensors[tensor], layout) for function, tensor in ends.items()),
    f"void {name}_run(void) {{\n  walk();\n}}\n",
  ]
  functions = [emitted.function for _, emitted in called]
  kinds = [emitted.params.struct for _, emitted in called if emitted.params]
  files = {
    f"{name}.h": header_text(quantized, network, name, layout.arena, constants.content()),
    f"{name}.c": "\n".join(source),
    f"{name}_kernels.h": GUARD.format(
      f"{name.upper()}_KERNELS_H", kernels_header(functions, kinds, prefix)
    ),
    f"{name}_kernels.c": f'#include "{name}_kernels.h"\n\n' + kernels_source(functions, prefix),
  }
  outputs = tuple(f"{name}_output_{i}()" for i in range(len(network.outputs)))
  calls = Calls(f"{name}.h", f"{name}_input()", f"{name}_run()", outputs)
  macs = count_macs(quantized.graph) + layout.more
  return Texts(files, calls, Sizes(constants.bytes, layout.arena, macs, layout.counters))


def check_name(name: str) -> None:
  """Checks that names in C can begin with a name.

  Raises:
    ValueError: if they cannot, or a file or target of that name means something else.
  """
  if not isinstance(name, str) or not IDENTIFIER.fullmatch(name) or len(name) > LONGEST_NAME:
    raise ValueError(
      f"name: {name!r} must be a name in C: a letter, then letters, digits and underscores, at most"
      f" {LONGEST_NAME} in all."
    )
  if name.lower() in (*HEADERS, *TARGETS):
    what = (
      f"a header of C is called {name}.h"
      if name.lower() in HEADERS
      else "Make or CMake have it for something else"
    )
    raise ValueError(
      f"name: {name!r} cannot be used, since {what}; give another, such as '{name}_net'."
    )


class Constants:
  """Arrays that C holds, each once.

  Attributes:
    texts: their definitions.
    bytes: of all of them.
  """

  def __init__(self):
    self.texts: list[str] = []
    self.bytes = 0
    self._names: dict[tuple[str, bytes], str] = {}

  def content(self) -> bytes:
    """All arrays, one after the other."""
    return b"".join(content for _, content in self._names)

  def add(self, array: np.ndarray) -> str:
    """The name of an array."""
    key = array.dtype.name, array.tobytes()
    if key not in self._names:
      name = self._names[key] = f"data_{len(self._names)}"
      self.texts.append(
        f"static const {array.dtype.name}_t {name}[] = {{\n{_numbers(array)}\n}};\n"
      )
      self.bytes += array.nbytes
    return self._names[key]


def _numbers(array: np.ndarray) -> str:
  """Numbers of an array in lines."""
  lines, line = [], "  "
  low = np.iinfo(array.dtype).min if array.dtype.itemsize > 2 else None
  for value in array.ravel().tolist():
    text = f"({value + 1} - 1)," if value == low else f"{value},"
    if len(line) + len(text) > WIDTH:
      lines.append(line)
      line = "  "
    line += text
  return "\n".join([*lines, line])


def _structure(i: int, emitted: Emitted, name: str, constants: Constants) -> str:
  if emitted.params is None:
    return ""
  fields = _value(emitted.params.fields, constants)
  return f"static const struct {name}_{emitted.params.struct}_params params_{i} = {fields};\n"


def _value(value: Any, constants: Constants) -> str:
  if value is None:
    return "NULL"
  if isinstance(value, np.ndarray):
    return constants.add(value)
  if isinstance(value, tuple):
    return "{" + ", ".join(_value(part, constants) for part in value) + "}"
  if isinstance(value, Mapping):
    fields = (f".{field} = {_value(part, constants)}" for field, part in value.items())
    return "{" + ", ".join(fields) + "}"
  return str(int(value))


def _pointer(function: str, tensor: Tensor, layout: Plan) -> str:
  """The function that gives the place of an input or output."""
  kind = f"{tensor.dtype.name}_t *"
  if not function.endswith("_input"):
    kind = f"const {kind}"
  place = f"({kind})(arena.bytes + {layout.kept[tensor.name].first})"
  return f"{kind}{function}(void) {{\n  return {place};\n}}\n"
