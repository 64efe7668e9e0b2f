"""The Python that runs a model file on pictures, reading and preprocessing included."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcompress.data import ImageReader
from jaxcompress.report.results import Results

PROGRAM = '''\
"""Prints the class of each picture, and its score: python classify.py PICTURE...

Exit code 1: some could not be read, which are named; the others are classified.
"""

import io
import sys

import numpy as np
{runtime}
from PIL import Image, ImageOps

CLASSES = {classes}
{reader}
{network}

damaged = 0
for name in sys.argv[1:]:
  try:
    pixels = read_pixels(name, **READER)
  except Exception as error:  # damaged files raise almost anything
    print(f"{{name}}: cannot be read ({{error or type(error).__name__}})", file=sys.stderr)
    damaged += 1
    continue
  logits = network(normalized(pixels, **PREPROCESS)[None])[0]
  scores = np.exp(logits - logits.max())
  best = logits.argmax()
  print(f"{{name}}: {{CLASSES[best]}}, {{scores[best] / scores.sum():.1%}}")
if damaged:
  sys.exit(1)
'''

LITERT = '''\
def network(x):
  """Logits of float32 images: they are rounded to the integers that the file reads."""
  scale, zero_point = source["quantization"]
  limits = np.iinfo(source["dtype"])
  codes = np.rint(x * (np.float32(1) / np.float32(scale))) + np.float32(zero_point)
  model.set_tensor(source["index"], codes.clip(limits.min, limits.max).astype(source["dtype"]))
  model.invoke()
  scale, zero_point = target["quantization"]
  return (model.get_tensor(target["index"]).astype(np.float32) - zero_point) * np.float32(scale)


model = Interpreter({file}, num_threads=2)
model.allocate_tensors()
source, target = model.get_input_details()[0], model.get_output_details()[0]'''

ONNX = '''\
def network(x):
  """Logits of float32 images: the file rounds them to integers."""
  return model.run(None, {{model.get_inputs()[0].name: x.transpose(0, 3, 1, 2)}})[0]


options = SessionOptions()
options.add_session_config_entry("session.x64quantprecision", "1")  # exact on older processors, too
model = InferenceSession({file}, options, providers=["CPUExecutionProvider"])'''

RUNTIMES: Mapping[str, tuple[str, str]] = {
  ".tflite": ("from ai_edge_litert.interpreter import Interpreter", LITERT),
  ".onnx": ("from onnxruntime import InferenceSession, SessionOptions", ONNX),
}


def program(file: str, reader: ImageReader, classes: Sequence[str]) -> str:
  """A program that prints the class of pictures by a model file, with nothing of jaxcompress.

  It takes names of pictures, reads them as the network was trained, and rounds what the network reads
  as exact evaluation does; so it gives the same logits, bit for bit.

  Args:
    file: name of an integer .tflite file that reads codes, as :func:`jaxcompress.export.tflite`
      writes it unless it is told otherwise, or of an .onnx file.
    reader: how a picture becomes what the network reads.
    classes: names of the classes.

  Returns:
    Python source. It needs numpy, Pillow, and ai_edge_litert or onnxruntime.

  Raises:
    ValueError: if the file is of another kind.

  Examples:
    >>> print(program("cats.onnx", ImageReader(224), ("cat", "dog")).splitlines()[12])
    CLASSES = ["cat", "dog"]
  """
  suffix = pathlib.PurePath(file).suffix.lower()
  if suffix not in RUNTIMES:
    raise ValueError(f"file: {file} must end in {' or '.join(RUNTIMES)}.")
  runtime, network = RUNTIMES[suffix]
  return PROGRAM.format(
    runtime=runtime,
    classes=_names(classes),
    reader=reader.program().rstrip("\n"),
    network="\n\n" + network.format(file=_string(file)),
  )


def device_program(results: Results) -> str:
  """The :func:`program` of a run's .tflite file.

  Args:
    results: of the run; ``reader`` and ``preprocess`` are as
      :meth:`jaxcompress.data.ImageReader.to_metadata` gives them.

  Returns:
    Python source.

  Examples:
    >>> from jaxcompress.report.results import COMPARED, Entry, Run
    >>> entries = dict.fromkeys(COMPARED, Entry("resnet8", 0.9, 77_850, 12_501_632, 80_000))
    >>> results = Results(Run("digits", ("odd", "even"), (8, 8, 3), 1000, 200), entries)
    >>> print(device_program(results).splitlines()[12])
    CLASSES = ["odd", "even"]
  """
  height, width, channels = results.run.image_shape
  said: dict[str, Any] = {"reader": {"channels": channels, **results.reader}}
  if results.preprocess:
    said["preprocess"] = results.preprocess
  reader = ImageReader.from_metadata(said, (height, width))
  file = results.entries["int8"].file or "student.tflite"
  return program(file, reader, results.run.classes)


def _names(names: Sequence[str]) -> str:
  """A Python list, in lines of about 90 characters."""
  lines, line = [], ""
  for name in map(_string, names):
    if line and len(line) + len(name) > 88:
      lines.append(line.rstrip())
      line = ""
    line += f"{name}, "
  lines.append(line.rstrip(", "))
  return f"[{lines[0]}]" if len(lines) == 1 else "[\n  " + "\n  ".join(lines) + ",\n]"


def _string(text: str) -> str:
  """A double-quoted Python string; JSON's escapes are Python's."""
  return json.dumps(text, ensure_ascii=False)
