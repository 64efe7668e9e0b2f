"""The README of a folder of C: what the network takes, and how it is used."""

import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcompress.data.reader import ImageReader
from jaxcompress.export.c99.compiling import CORES, Sections, compile_objects
from jaxcompress.export.c99.manifest import Calls, Sizes
from jaxcompress.export.c99.pictures import CHECKED, PIXEL_KINDS, reads_pixels, scored_output
from jaxcompress.export.c99.templates import fill
from jaxcompress.export.interpreters import End
from jaxcompress.export.metadata import own_version
from jaxcompress.files.extras import MissingExtraError
from jaxcompress.quantize import QuantizedModel

PROCESSOR = "cortex-m4"  # whose code is measured
MOST_LETTERS = 16 << 20  # of sources, which have about four for each byte of flash
RESIZED = {
  "cover": "scaled until it covers that size, and its middle kept",
  "squash": "its sides scaled apart",
  "letterbox": "scaled until it fits in, the rest of level {fill}",
  "pad": "in the middle, scaled only if it is larger, the rest of level {fill}",
}


def readme(
  quantized: QuantizedModel,
  name: str,
  folder: str,
  calls: Calls,
  sizes: Sizes,
  ends: tuple[End, tuple[End, ...]],
  metadata: Mapping[str, Any],
  sources: Mapping[str, str],
) -> str:
  """The text, in Markdown.

  Args:
    quantized: the network.
    name: with which all names in C begin.
    folder: its name.
    calls: how the network is called.
    sizes: what it takes.
    ends: what it reads and gives.
    metadata: how pictures are read, and names of classes.
    sources: texts of C by name, that are compiled for a Cortex-M4 where its compiler is there.
  """
  source, outputs = ends
  pixels, scored = reads_pixels(quantized), scored_output(quantized)
  kind = PIXEL_KINDS.get(source.shape[-1]) if pixels else None
  program = code_sizes(sources)
  return fill(
    "README.md",
    name=name,
    folder=folder,
    version=own_version(),
    flash=_flash(sizes, program),
    ram=_ram(sizes, program),
    macs=f"{sizes.macs:,}",
    input=_end(source),
    outputs="; ".join(map(_end, outputs)),
    use=_use(name, calls, source, outputs, pixels=pixels, scored=scored),
    run_rules=_rules(calls),
    pictures=_pictures(name, source, metadata, pixels=pixels),
    example=f"picture.{kind[0].lower()}" if kind else "--integers FILE",
    example_words=""
    if kind
    else f", of a file of {_bytes(source):,} bytes: the integers of an image",
    images=CHECKED,
  )


def code_sizes(sources: Mapping[str, str]) -> Sections | None:
  """Sizes of the network's own objects for a Cortex-M4, with -O2; None where its compiler is missing.

  Nor are networks measured that no microcontroller holds.
  """
  if sum(map(len, sources.values())) > MOST_LETTERS:
    return None
  with tempfile.TemporaryDirectory() as place:
    for path, text in sources.items():
      pathlib.Path(place, path).write_text(text)
    files = [pathlib.Path(place, path) for path in sources if path.endswith(".c")]
    try:
      return compile_objects(files, pathlib.Path(place), (*CORES[PROCESSOR], "-std=c99", "-O2"))
    except MissingExtraError:
      return None


def _flash(sizes: Sizes, program: Sections | None) -> str:
  weights = f"{sizes.weights:,} bytes of weights and other arrays of numbers"
  if program is None:
    return f"{weights}; the code of a few KB was not measured"
  code = program.text + program.data - sizes.weights
  return (
    f"{program.text + program.data:,} bytes on a Cortex-M4: {weights}, {code:,} of code and tables"
    " (GCC, -O2)"
  )


def _ram(sizes: Sizes, program: Sections | None) -> str:
  words = f"{sizes.ram:,} bytes, the input and the outputs included, as `ram` bounds them"
  more = 0 if program is None else program.bss + program.data - sizes.ram
  return f"{words}; {f'{more:,} bytes of alignment; ' if more > 0 else ''}and some stack"


def _bytes(end: End) -> int:
  size = 1 if end.dtype == "int8" else 2
  for length in end.shape:
    size *= length
  return size


def _end(end: End) -> str:
  shape = " x ".join(map(str, end.shape[1:]))
  return (
    f"`{end.name}`: {shape} {end.dtype}, real = {end.scale:.9g} x (integer {-end.zero_point:+d})"
  )


def _use(
  name: str,
  calls: Calls,
  source: End,
  outputs: Sequence[End],
  *,
  pixels: bool,
  scored: int | None,
) -> str:
  lines = [f'#include "{calls.header}"']
  if pixels or scored is not None:
    lines.append(f'#include "{name}_picture.h"')
  lines.append("")
  kind = f"{source.dtype}_t"
  if pixels:
    lines.append(
      f"{name}_read_pixels(pixels);  /* uint8_t pixels[{name.upper()}_ROWS * ...], or */"
    )
  lines.append(f"{kind} *input = {calls.input};  /* {_bytes(source):,} bytes to be written */")
  lines.append(f"{calls.run};")
  for end, call in zip(outputs, calls.outputs, strict=True):
    lines.append(f"const {end.dtype}_t *{_identifier(end.name)} = {call};")
  if scored is not None:
    lines += [f"float scores[{name.upper()}_CLASSES];", f"{name}_scores(scores);"]
  return "\n".join(lines)


def _identifier(text: str) -> str:
  return "".join(c if c.isalnum() and c.isascii() else "_" for c in f"out_{text}")


def _rules(calls: Calls) -> str:
  return (
    f"`{calls.run}` may overwrite the input, so write it anew for every image. Outputs stay until the next\n"
    "input is written. All memory is one array, so one thread at a time may use the network."
  )


def _pictures(name: str, source: End, metadata: Mapping[str, Any], *, pixels: bool) -> str:
  _, rows, columns, channels = source.shape
  if not pixels:
    return (
      "How pictures become integers is not known here: quantize with `preprocess=data.Preprocess(...)`, or"
      f"\nwrite `integer = round(real / {source.scale:.9g}) {source.zero_point:+d}` to the input yourself,"
      " halves away from zero."
    )
  colour = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
  text = (
    f"`{name}_read_pixels` takes {rows} rows of {columns} pixels ({colour}, 0 to 255), from the top left, and makes\n"
    "of them the very integers that exact evaluation makes."
  )
  if "preprocess" in metadata:
    text += f" It normalizes them:\n\n    {_formula(metadata['preprocess'])}"
  if metadata.get("reader") is not None:
    reader = ImageReader.from_metadata(metadata)
    how = RESIZED[reader.resize].format(fill=reader.fill)
    crop = "" if reader.crop == 1 else f", of which {reader.crop:g} of each side is kept"
    text += (
      f"\n\nIn training a picture was turned upright and brought to that size by a {reader.filter} filter:\n{how}"
      f"{crop}. A camera should do nearly the same."
    )
  return text


def _formula(preprocess: Mapping[str, Any]) -> str:
  values = ", ".join(
    f"{key} = {preprocess[key]}" for key in ("center", "scale", "epsilon") if key in preprocess
  )
  return f"{preprocess.get('formula', '')}\n    {values}"
