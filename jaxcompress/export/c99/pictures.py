"""C around a network: from pixels to its integers, from its integers to scores, and a check of both."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxcompress.data import Preprocess
from jaxcompress.export.c99.manifest import KERNELS, Calls, ends_of
from jaxcompress.export.c99.templates import fill, lines_of
from jaxcompress.export.interpreters import End
from jaxcompress.export.metadata import class_names
from jaxcompress.export.pixels import is_shift, pixel_codes
from jaxcompress.nn import INPUT
from jaxcompress.nn.graph import LOGITS
from jaxcompress.nn.outputs import last_function
from jaxcompress.quantize import QuantizedModel

CHECKED = 2  # images of noise
PIXEL_KINDS = {1: ("PGM", "5"), 3: ("PPM", "6")}  # files of pictures by channels
PIXELS_DECLARED = """
/* Sets the input from the pixels of a picture, 0 to 255, row by row from the top left{colours}.{place} */
void {name}_read_pixels(const uint8_t *pixels);
"""
IN_PLACE = """
 * They may lie in the input itself: (const uint8_t *){input}."""
SCORES_DECLARED = """
#define {upper}_CLASSES {classes}

/* Names of the classes, in the order of the output. */
extern const char *const {name}_classes[{upper}_CLASSES];

/* {what} of each class, after a run. */
void {name}_scores(float *scores);
"""
SOFTMAX = """  const float per_code = {scale};
  float sum = 0.0f;
  int32_t most = codes[0];
  for (i = 1; i < {count}; i++) most = codes[i] > most ? codes[i] : most;
  for (i = 0; i < {count}; i++) {{
    scores[i] = expf(per_code * (float)(codes[i] - most));
    sum += scores[i];
  }}
  for (i = 0; i < {count}; i++) scores[i] /= sum;"""
LINEAR = "  for (i = 0; i < {count}; i++) scores[i] = {scale} * (float)(codes[i] - {zero});"
HASH = """    {{
      const {type} *found = {output};
      for (i = 0; i < {count}; i++) hash = hashed(hash, found[i], {bytes});
    }}"""


def reads_pixels(quantized: QuantizedModel) -> bool:
  """Whether C can make the integers of a model's input from pixels."""
  return isinstance(quantized.preprocess, Preprocess) or pixel_codes(quantized) is not None


def scored_output(quantized: QuantizedModel) -> int | None:
  """The place of the output that has a score of each class; None if there is none."""
  flat = [
    i for i, (_, t) in enumerate(quantized.graph.outputs) if len(quantized.graph.shape(t)) == 2
  ]
  named = [i for i in flat if quantized.graph.outputs[i][0] == LOGITS]
  return named[0] if named else flat[0] if len(flat) == 1 else None


def picture_files(
  quantized: QuantizedModel, name: str, calls: Calls, metadata: Mapping[str, Any]
) -> dict[str, str]:
  """``NAME_picture.h`` and ``NAME_picture.c``: pixels and classes.

  Args:
    quantized: the network.
    name: with which all names in C begin.
    calls: how the network is called.
    metadata: with the names of the classes, if they are known.
  """
  quantized = quantized.with_kernels(KERNELS)
  source, outputs = ends_of(quantized)
  _, rows, columns, channels = source.shape
  upper, declared, defined = name.upper(), "", ""
  if reads_pixels(quantized):
    colours = {1: "", 3: ", red, green and blue of each"}.get(channels, ", all channels of each")
    place = IN_PLACE.format(input=calls.input) if source.dtype == "int8" else ""
    declared += PIXELS_DECLARED.format(name=name, colours=colours, place=place)
    defined += _pixels(quantized, name, calls, source)
  if (scored := scored_output(quantized)) is not None:
    end = outputs[scored]
    how = last_function(quantized.graph, quantized.graph.outputs[scored][1])
    count = end.shape[-1]
    names = class_names(metadata) or []
    names = names if len(names) == count else list(map(str, range(count)))
    what = "Probability" if how == LOGITS else "Score"
    declared += SCORES_DECLARED.format(name=name, upper=upper, classes=count, what=what)
    form = SOFTMAX if how == LOGITS else LINEAR
    defined += fill(
      "scores.c",
      name=name,
      NAME=upper,
      classes=",\n".join(f"    {c_string(text)}" for text in names),
      type=f"{end.dtype}_t",
      output=calls.outputs[scored],
      softmax=form.format(count=count, scale=c_float(end.scale), zero=end.zero_point),
    )
  header = fill(
    "picture.h",
    NAME=upper,
    rows=rows,
    columns=columns,
    channels=channels,
    declarations=declared,
  )
  includes = f'#include "{name}_picture.h"\n\n#include <math.h>\n\n#include "{calls.header}"\n'
  return {f"{name}_picture.h": header, f"{name}_picture.c": includes + defined}


def _pixels(quantized: QuantizedModel, name: str, calls: Calls, source: End) -> str:
  """The function that reads pixels."""
  count, channels = int(np.prod(source.shape)), source.shape[-1]
  values: dict[str, Any] = {"name": name, "input": calls.input, "count": count}
  values |= {"channels": channels, "type": f"{source.dtype}_t"}
  table = pixel_codes(quantized)
  if table is not None and source.dtype == "int8" and is_shift(table):
    return fill("pixels_shift.c", **values)
  if table is not None:
    alike = bool((table == table[:, :1]).all())
    table = table[:, 0] if alike else table.T.ravel()
    return fill(
      "pixels_table.c",
      sizes=table.size,
      codes=lines_of(table.tolist()),
      place="pixels[i]" if alike else f"256 * (i % {channels}) + pixels[i]",
      **values,
    )
  preprocess, grid = quantized.preprocess, quantized.grids[INPUT]
  assert isinstance(preprocess, Preprocess)
  limits = np.iinfo(grid.dtype)

  def of_channels(value: Any) -> str:
    numbers = np.broadcast_to(np.asarray(value, np.float32), (channels,))
    return ", ".join(map(c_float, numbers))

  return fill(
    "pixels_image.c",
    center=of_channels(preprocess.center),
    scale=of_channels(preprocess.scale),
    epsilon=repr(float(preprocess.epsilon)),
    step=c_float(grid.scale),
    low=limits.min - grid.zero_point,
    high=limits.max - grid.zero_point,
    zero_point=grid.zero_point,
    cells=count // channels,
    **values,
  )


def check_files(quantized: QuantizedModel, name: str, calls: Calls) -> dict[str, str]:
  """``NAME_check.h`` and ``NAME_check.c``: hashes of the outputs of exact evaluation for noise."""
  source, outputs = ends_of(quantized)
  bits = 8 if source.dtype == "int8" else 15  # of noise
  low = -(1 << (bits - 1))
  found = quantized.with_kernels(KERNELS).outputs(noise(CHECKED, source, bits))
  arrays = [found[end.name] for end in outputs]
  expected = [hash_of(array[i] for array in arrays) for i in range(CHECKED)]
  hashes = [
    HASH.format(
      type=f"{end.dtype}_t",
      output=call,
      count=int(np.prod(end.shape)),
      bytes=np.dtype(end.dtype).itemsize,
    )
    for end, call in zip(outputs, calls.outputs, strict=True)
  ]
  values = {"name": name, "NAME": name.upper(), "images": CHECKED, "header": calls.header}
  return {
    f"{name}_check.h": fill("check.h", **values),
    f"{name}_check.c": fill(
      "check.c",
      expected=", ".join(f"0x{value:08x}u" for value in expected),
      type=f"{source.dtype}_t",
      input=calls.input,
      run=calls.run,
      count=int(np.prod(source.shape)),
      unused=32 - bits,
      low=f"- {-low}",
      hashes="\n".join(hashes),
      **values,
    ),
  }


def noise(count: int, end: End, bits: int) -> np.ndarray:
  """Integers that look random, the same in C: (count, ...).

  Examples:
    >>> noise(1, End("input", (1, 1, 1, 3), "int8"), 8).ravel().tolist()
    [-47, -80, 5]
  """
  shape = (count, *end.shape[1:])
  x = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint32)
  x ^= x >> np.uint32(16)
  x *= np.uint32(0x85EBCA6B)
  x ^= x >> np.uint32(13)
  x *= np.uint32(0xC2B2AE35)
  x ^= x >> np.uint32(16)
  codes = (x >> np.uint32(32 - bits)).astype(np.int32) - (1 << (bits - 1))
  return codes.astype(end.dtype).reshape(shape)


def hash_of(arrays: Iterable[np.ndarray]) -> int:
  """FNV-1a of the bytes of integers, each from its lowest to its highest, 32 bits.

  Examples:
    >>> hex(hash_of([np.frombuffer(b"a", np.int8)]))
    '0xe40c292c'
  """
  found = 2166136261
  for array in arrays:
    for byte in array.astype(array.dtype.newbyteorder("<")).tobytes():
      found = ((found ^ byte) * 16777619) & 0xFFFFFFFF
  return found


def c_float(value: Any) -> str:
  """A float32 as C has it, exactly.

  Examples:
    >>> c_float(np.float32(0.1)), c_float(64)
    ('0.100000001f', '64.0f')
  """
  text = format(np.float32(value), ".9g")
  return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def c_string(text: str) -> str:
  r"""A text as a string of C, in UTF-8.

  Examples:
    >>> print(c_string('a "b" ?'))
    "a \"b\" \077"
  """
  plain = {byte for byte in range(32, 127)} - set(b'"\\?')
  parts = (chr(b) if b in plain else f"\\{b:03o}" for b in text.encode("utf-8", "replace"))
  return '"' + "".join({"\\042": '\\"', "\\134": "\\\\"}.get(part, part) for part in parts) + '"'
