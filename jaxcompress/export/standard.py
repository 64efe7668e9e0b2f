"""TFLite's own metadata: what tools for phones read of a file's pictures and labels.

A ``ModelMetadata`` flatbuffer lies in a buffer of the model under the name ``TFLITE_METADATA``; the
labels are a text, a name a line, in an archive behind the model, as the format has it.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.data import Preprocess
from jaxcompress.export.flatbuffer import SharingBuilder
from jaxcompress.export.metadata import LABELS, class_names, labels_text, own_version, preprocess_of

STANDARD = "TFLITE_METADATA"  # name of the buffer
IDENTIFIER = b"M001"
PARSER = "1.0.0"  # the oldest version that reads what is written here
DAY = (1980, 1, 1, 0, 0, 0)  # the first that archives know; files do not depend on the clock
UNIX = 3  # system that archives say made them
RGB, GREY = np.uint8(1), np.uint8(2)  # ColorSpaceType
IMAGE = np.uint8(2)  # of the union ContentProperties
NORMALIZATION = np.uint8(1)  # of the union ProcessUnitOptions
AXIS_LABELS = np.uint8(2)  # AssociatedFileType


class Table(NamedTuple):
  """A table of a flatbuffer.

  Attributes:
    fields: by place in the schema: texts, tables, lists of tables, float32 arrays, uint8, uint32.
  """

  fields: Mapping[int, Any]


class Ends(NamedTuple):
  """The input and outputs of a file.

  Attributes:
    input: its name.
    image_shape: (height, width, channels).
    outputs: shapes, the batch included, by name, in the order of the file.
  """

  input: str
  image_shape: tuple[int, ...]
  outputs: Mapping[str, Sequence[int]]


def standard_metadata(entry: Mapping[str, Any], ends: Ends) -> bytes | None:
  """The ``ModelMetadata`` of a file; None where nothing is known of its pictures or classes.

  Mean and standard deviation stand for every channel, or for each; a normalization of every picture
  by itself cannot be said by them, and so is told in words alone.

  Args:
    entry: the file's own metadata, of which ``classes`` and ``preprocess`` are taken.
    ends: of the file.

  References:
    `Its schema <https://github.com/tensorflow/tflite-support/blob/master/tensorflow_lite_support/metadata/metadata_schema.fbs>`_.
  """
  preprocess, classes = preprocess_of(entry), class_names(entry)
  if preprocess is None and classes is None:
    return None
  root = Table(
    {
      0: str(entry.get("model") or "image classifier"),
      1: f"written by jaxcompress {own_version()}",
      3: [
        Table(
          {
            2: [_input(ends, preprocess)],
            3: [_output(name, shape, classes) for name, shape in ends.outputs.items()],
          }
        )
      ],
      7: PARSER,
    }
  )
  builder = SharingBuilder(1024)
  builder.Finish(_write(builder, root), IDENTIFIER)
  return bytes(builder.Output())


def with_labels(content: bytes, entry: Mapping[str, Any], ends: Ends) -> bytes:
  """A file with its labels in an archive behind it, if an output has one number for each class."""
  classes = class_names(entry)
  if classes is None or not any(_is_scores(shape, classes) for shape in ends.outputs.values()):
    return content
  file = io.BytesIO(content)
  with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:  # readers map it, uncompressed
    info = zipfile.ZipInfo(LABELS, DAY)
    info.create_system = UNIX
    archive.writestr(info, labels_text(classes))
  return file.getvalue()


def _input(ends: Ends, preprocess: Preprocess | None) -> Table:
  height, width, channels = ends.image_shape
  size = Table({0: np.uint32(width), 1: np.uint32(height)})
  fields: dict[int, Any] = {0: ends.input, 1: f"picture of {height} x {width} pixels"}
  if channels in (1, 3):
    image = Table({0: RGB if channels == 3 else GREY, 1: size})
    fields[3] = Table({0: IMAGE, 1: image})
  if preprocess is not None:
    formula = preprocess.to_metadata()["formula"]
    fields[1] += f" x, 0 to 255; the network reads {formula}"
    if preprocess.per_image:
      fields[1] += "; no mean and standard deviation of all pictures can say that"
    else:
      mean, std = (
        np.atleast_1d(np.asarray(v, np.float32)) for v in (preprocess.center, preprocess.scale)
      )
      fields[4] = [Table({0: NORMALIZATION, 1: Table({0: mean, 1: std})})]
  return Table(fields)


def _output(name: str, shape: Sequence[int], classes: Sequence[str] | None) -> Table:
  fields: dict[int, Any] = {0: name}
  if classes is not None and _is_scores(shape, classes):
    fields[1] = "logits of the classes"
    fields[6] = [Table({0: LABELS, 1: "names of the classes", 2: AXIS_LABELS})]
  return Table(fields)


def _is_scores(shape: Sequence[int], classes: Sequence[str]) -> bool:
  return len(shape) == 2 and shape[-1] == len(classes)


def _write(builder: Any, value: Any) -> int:
  """Writes what lies outside of tables, and tables after what they point at; the place of it."""
  if isinstance(value, str):
    return builder.CreateString(value)
  if isinstance(value, np.ndarray):
    return builder.CreateNumpyVector(value)
  if isinstance(value, list):
    items = [_write(builder, item) for item in value]
    builder.StartVector(4, len(items), 4)
    for place in reversed(items):
      builder.PrependUOffsetTRelative(place)
    return builder.EndVector()
  numbers = {slot: v for slot, v in value.fields.items() if isinstance(v, np.uint8 | np.uint32)}
  places = {slot: _write(builder, v) for slot, v in value.fields.items() if slot not in numbers}
  builder.StartObject(max(value.fields) + 1)
  for slot, place in places.items():
    builder.PrependUOffsetTRelativeSlot(slot, place, 0)
  for slot, number in numbers.items():
    write = builder.PrependUint8Slot if number.itemsize == 1 else builder.PrependUint32Slot
    write(slot, int(number), 0)
  return builder.EndObject()
