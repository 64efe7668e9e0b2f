"""The Python that runs a model file on one image, preprocessing included."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcompress.report.results import Results

SNIPPET = """\
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

CLASSES = {classes}

{preprocess}

model = Interpreter({file}, num_threads=2)
model.allocate_tensors()
source, target = model.get_input_details()[0], model.get_output_details()[0]
scale, zero_point = source["quantization"]

image = Image.open("image.png").convert({mode}).resize({size})
x = preprocess(np.asarray(image).reshape{shape})
x = np.rint(x * np.float32(1 / scale)) + zero_point
model.set_tensor(source["index"], np.clip(x, -128, 127).astype(np.int8)[None])
model.invoke()
logits = model.get_tensor(target["index"])[0]
print(CLASSES[logits.argmax()])
"""


def device_program(results: Results) -> str:
  """A program that classifies ``image.png`` with the run's .tflite and nothing of jaxcompress.

  ``results.preprocess`` holds either ``python``, the source of ``preprocess(image)``, or the
  fields that :func:`preprocess_source` takes.

  Args:
    results: of the run.

  Returns:
    Python source.

  Examples:
    >>> from jaxcompress.report.results import COMPARED, Entry, Run
    >>> entries = dict.fromkeys(COMPARED, Entry("resnet8", 0.9, 77_850, 12_501_632, 80_000))
    >>> results = Results(Run("digits", ("odd", "even"), (8, 8, 3), 1000, 200), entries)
    >>> print(device_program(results).splitlines()[4])
    CLASSES = ["odd", "even"]
  """
  height, width, channels = results.run.image_shape
  return SNIPPET.format(
    classes=_names(results.run.classes),
    preprocess=results.preprocess.get("python") or preprocess_source(results.preprocess),
    file=_string(results.entries["int8"].file or "student.tflite"),
    mode=_string("L" if channels == 1 else "RGB"),
    size=(width, height),
    shape=(height, width, channels),
  )


def preprocess_source(fields: Mapping[str, Any]) -> str:
  """Source of ``preprocess(image)``: uint8 (height, width, channels) to the model's float input.

  Args:
    fields: as from :meth:`jaxcompress.data.Preprocess.to_metadata`: ``center`` and ``scale``
      (numbers or one per channel) for ``(x - center) / scale``; ``per_image``: whether each
      channel's mean over the image is then taken off, and the result divided by its root mean
      square plus ``epsilon``.

  Examples:
    >>> print(preprocess_source({"center": 127.5, "scale": 64.0}))
    def preprocess(image):
      return (image.astype(np.float32) - np.float32(127.5)) / np.float32(64.0)
  """
  x = "image.astype(np.float32)"
  center, scale = _constant(fields.get("center", 0)), _constant(fields.get("scale", 1))
  if center != _constant(0):
    x = f"({x} - {center})"
  if scale != _constant(1):
    x = f"{x} / {scale}"
  if not fields.get("per_image"):
    return f"def preprocess(image):\n  return {x}"
  epsilon = _constant(fields.get("epsilon", 0.0))
  return (
    f"def preprocess(image):\n  x = {x}\n"
    "  x = x - x.mean((0, 1))  # of this image, per channel\n"
    f"  return x / (np.sqrt(np.square(x).mean()) + {epsilon})"
  )


def _constant(value: float | Sequence[float]) -> str:
  if isinstance(value, Sequence):
    return f"np.float32({[float(v) for v in value]})"
  return f"np.float32({float(value)})"


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
