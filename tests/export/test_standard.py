"""TFLite's own metadata, read by a parser of flatbuffers that knows nothing of ours, and by zipfile."""

import dataclasses
import struct
import zipfile

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from jaxcompress import export
from jaxcompress.data import ImageReader, Preprocess
from jaxcompress.nn import Graph, Node
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid

FIXED = Preprocess(center=(124.0, 116.0, 104.5), scale=(58.0, 57.0, 57.5), per_image=False)
CLASSES = ["ant", "bee", "crow"]


class Flat:
  """A table of a flatbuffer, by the format's definition."""

  def __init__(self, data: bytes, place: int):
    self.data, self.place = data, place
    self.vtable = place - self._number("<i", place)

  def _number(self, kind: str, place: int):
    return struct.unpack_from(kind, self.data, place)[0]

  def _field(self, slot: int) -> int | None:
    if 4 + 2 * slot >= self._number("<H", self.vtable):
      return None
    offset = self._number("<H", self.vtable + 4 + 2 * slot)
    return self.place + offset if offset else None

  def number(self, slot: int, kind: str):
    place = self._field(slot)
    return 0 if place is None else self._number(kind, place)

  def _follow(self, slot: int) -> int | None:
    place = self._field(slot)
    return None if place is None else place + self._number("<I", place)

  def text(self, slot: int) -> str:
    place = self._follow(slot)
    size = self._number("<I", place)
    return self.data[place + 4 : place + 4 + size].decode()

  def table(self, slot: int) -> "Flat":
    return Flat(self.data, self._follow(slot))

  def tables(self, slot: int) -> list["Flat"]:
    place = self._follow(slot)
    if place is None:
      return []
    items = [place + 4 + 4 * i for i in range(self._number("<I", place))]
    return [Flat(self.data, item + self._number("<I", item)) for item in items]

  def array(self, slot: int, dtype) -> np.ndarray:
    place = self._follow(slot)
    return np.frombuffer(self.data, dtype, self._number("<I", place), place + 4)


def root(data: bytes, identifier: bytes) -> Flat:
  assert data[4:8] == identifier
  return Flat(data, struct.unpack_from("<I", data)[0])


def standard_of(path) -> Flat | None:
  """The ``ModelMetadata`` of a .tflite file: Model has buffers in place 4 and metadata in 6."""
  model = root(path.read_bytes(), b"TFL3")
  for entry in model.tables(6):
    if entry.text(0) == "TFLITE_METADATA":
      buffer = model.tables(4)[entry.number(1, "<I")]
      return root(buffer.array(0, np.uint8).tobytes(), b"M001")
  return None


def pool(*outputs: str, preprocess=FIXED, channels: int = 3, size: int = 2) -> QuantizedModel:
  shapes = ((1, size, size + 1, channels),), ((1, channels),)
  nodes = tuple(
    Node(name, "GlobalAvgPool", {"keepdims": False}, ("input",), (name,), *shapes)
    for name in outputs
  )
  grids = dict.fromkeys(("input", *outputs), Grid(np.float32(0.03), 3))
  graph = Graph(nodes, shapes[0][0], tuple((name, name) for name in outputs))
  return QuantizedModel(graph, grids, {}, preprocess)


def write(quantized, folder, **metadata):
  return export.tflite(quantized, folder / "a.tflite", metadata=metadata)


def test_the_input_is_a_picture_with_its_mean_and_deviation(tmp_path):
  path = write(pool("logits"), tmp_path, classes=CLASSES, model="birds")
  found = standard_of(path)
  assert (found.text(0), found.text(7)) == ("birds", "1.0.0")
  (graph,) = found.tables(3)
  (image,) = graph.tables(2)
  content, (unit,) = image.table(3), image.tables(4)
  assert image.text(0) == "image" and content.number(0, "<B") == 2  # ImageProperties
  properties = content.table(1)
  assert properties.number(0, "<b") == 1  # RGB
  size = properties.table(1)
  assert (size.number(0, "<I"), size.number(1, "<I")) == (3, 2)  # width, height
  assert unit.number(0, "<B") == 1  # NormalizationOptions
  options = unit.table(1)
  np.testing.assert_array_equal(options.array(0, np.float32), [124, 116, 104.5])
  np.testing.assert_array_equal(options.array(1, np.float32), [58, 57, 57.5])


def test_every_output_that_scores_the_classes_has_their_labels_in_the_archive(tmp_path):
  path = write(pool("logits", "others"), tmp_path, classes=CLASSES)
  (graph,) = standard_of(path).tables(3)
  assert [output.text(0) for output in graph.tables(3)] == ["logits", "others"]
  for output in graph.tables(3):
    (file,) = output.tables(6)
    assert (file.text(0), file.number(2, "<b")) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS
  with zipfile.ZipFile(path) as archive:
    assert archive.testzip() is None
    assert archive.read("labels.txt") == b"ant\nbee\ncrow\n"
    assert archive.getinfo("labels.txt").compress_type == zipfile.ZIP_STORED


def test_a_normalization_of_each_picture_is_told_in_words_alone(tmp_path):
  path = write(pool("logits", preprocess=Preprocess()), tmp_path, classes=CLASSES)
  (image,) = standard_of(path).tables(3)[0].tables(2)
  assert image.tables(4) == []
  assert "root mean square" in image.text(1) and "no mean and standard deviation" in image.text(1)


def test_grey_pictures_are_told_so(tmp_path):
  grey = Preprocess(center=128.0, scale=64.0, per_image=False)
  path = write(pool("logits", preprocess=grey, channels=1), tmp_path)
  (image,) = standard_of(path).tables(3)[0].tables(2)
  assert image.table(3).table(1).number(0, "<b") == 2
  np.testing.assert_array_equal(image.tables(4)[0].table(1).array(0, np.float32), [128])


def test_files_of_which_nothing_is_known_have_none(tmp_path):
  path = write(pool("logits", preprocess=None), tmp_path)
  assert standard_of(path) is None and not zipfile.is_zipfile(path)


def test_labels_that_fit_no_output_are_left_out(tmp_path):
  path = write(pool("logits"), tmp_path, classes=["a", "b"])
  (output,) = standard_of(path).tables(3)[0].tables(3)
  assert output.tables(6) == [] and not zipfile.is_zipfile(path)


def test_the_models_own_preprocess_is_written_by_every_writer(tmp_path):
  reader = ImageReader((2, 3), resize="letterbox")
  said = {"classes": CLASSES, **reader.to_metadata()}  # the reader has another preprocess
  quantized = pool("logits")
  for write_file, suffix in (
    (export.tflite, "tflite"),
    (export.onnx, "onnx"),
    (export.packed, "jcz"),
  ):
    found = export.read_metadata(write_file(quantized, tmp_path / f"a.{suffix}", metadata=said))
    assert ImageReader.from_metadata(found) == dataclasses.replace(reader, preprocess=FIXED)
    assert found["classes"] == CLASSES
  alone = export.read_metadata(export.tflite(quantized, tmp_path / "b.tflite"))
  assert Preprocess.from_metadata(alone["preprocess"]) == FIXED and "reader" not in alone
  again = export.unpack(tmp_path / "a.jcz", tmp_path / "c.tflite")
  assert again.read_bytes() == (tmp_path / "a.tflite").read_bytes()


def test_runtimes_the_linter_and_checksums_take_the_archive_at_the_end(tmp_path):
  quantized = pool("logits")
  path = write(quantized, tmp_path, classes=CLASSES)
  images = np.random.default_rng(0).integers(0, 256, (3, 2, 3, 3)).astype(np.uint8)
  assert export.verify(path, quantized, images).bit_equal == 1.0
  assert export.lint(path, "xnnpack") == ()
  interpreter = Interpreter(str(path))
  interpreter.allocate_tensors()
  content = bytearray(path.read_bytes())
  content[content.rindex(b"crow")] ^= 1
  path.write_bytes(content)
  with pytest.raises(ValueError, match="damaged"):
    export.read_metadata(path)
