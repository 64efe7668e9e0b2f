"""Model files of every kind classify pictures as exact evaluation does."""

import io

import flatbuffers
import flax.linen as nn
import jax
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from PIL import Image
from sklearn import metrics

from jaxcompress import data, export, models, pipeline, quantize
from jaxcompress.nn import Dense, GlobalAvgPool, Softmax, init_variables
from jaxcompress.pipeline import evaluating
from jaxcompress.pipeline.networks import TrainedNetwork, network_of, save_network

CLASSES = ("cat", "dog", "éclair", "fox", "gnu", "hen", "ibis")
READER = data.ImageReader(32, resize="letterbox", fill=7)
SHAPE = (32, 32, 3)
NUMBERS = np.random.default_rng(0)
PIXELS = NUMBERS.integers(0, 256, (48, *SHAPE), np.uint8)
FILES = {
  "plain.tflite": "xnnpack",
  "reference.tflite": "reference",
  "tflm.tflite": "tflm",
  "float.tflite": "xnnpack",
  "plain.onnx": "onnxruntime",
  "plain.jcz": "xnnpack",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def network():
  model = models.resnet8(len(CLASSES))
  return model, init_variables(model, jax.random.key(0), SHAPE)


@pytest.fixture(scope="module")
def quantized(network, folder):
  """The integers of a network, written to files of every kind, and its floats."""
  model, variables = network
  found = quantize.post_training(
    model, variables, PIXELS, preprocess=READER.preprocess, method="minmax"
  )
  metadata = {"classes": list(CLASSES), **READER.to_metadata()}
  export.tflite(found, folder / "plain.tflite", metadata=metadata)
  for kernels in ("reference", "tflm"):
    other = found.with_kernels(kernels)
    export.tflite(other, folder / f"{kernels}.tflite", metadata=metadata)
  export.tflite(found, folder / "float.tflite", metadata=metadata, input="float32")
  export.onnx(found, folder / "plain.onnx", metadata=metadata)
  export.packed(found, folder / "plain.jcz", metadata=metadata)
  models.save(folder / "plain.safetensors", model, variables, metadata=metadata)
  trained = TrainedNetwork(network_of("resnet8", None, model, SHAPE), variables)
  save_network(folder / "student", trained, CLASSES, READER)
  return found


def encoded(image, kind="PNG", **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


@pytest.fixture(scope="module")
def awkward():
  """Pictures of several modes, sizes and orientations, as the bytes of files."""
  wide = Image.fromarray(NUMBERS.integers(0, 256, (37, 61, 3), np.uint8))
  exif = Image.Exif()
  found = [encoded(wide), encoded(wide.convert("P")), encoded(wide.convert("L"))]
  found += [encoded(wide.convert("LA")), encoded(wide.convert("CMYK"), "TIFF")]
  found.append(encoded(Image.fromarray(NUMBERS.integers(0, 65536, (9, 40), np.uint16))))
  found.append(encoded(Image.fromarray(NUMBERS.integers(0, 256, (50, 20, 4), np.uint8))))
  for orientation in range(1, 9):
    exif[0x0112] = orientation
    found.append(encoded(wide, "JPEG", exif=exif))
  return found


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_logits_are_those_of_exact_evaluation_bit_for_bit(name, quantized, folder, awkward):
  classifier = pipeline.Classifier.open(folder / name)
  exact = quantized.with_kernels(FILES[name])
  assert classifier.classes == CLASSES
  assert classifier.reader == READER
  np.testing.assert_array_equal(classifier.logits(PIXELS), exact(PIXELS))
  pixels = np.stack([READER(file) for file in awkward])
  codes = exact.integers(pixels)
  grid = exact.grids[exact.graph.output]
  found = classifier.logits(awkward)
  np.testing.assert_array_equal(np.rint(found / grid.scale) + grid.zero_point, codes)
  np.testing.assert_array_equal(found, exact(pixels))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain.safetensors", "student"])
def test_networks_in_float_give_what_they_compute(name, network, quantized, folder):
  model, variables = network
  found = pipeline.Classifier.open(folder / name)
  wanted = model.apply(variables, READER.preprocess(PIXELS), train=False).logits
  np.testing.assert_allclose(found.logits(PIXELS), wanted, atol=1e-4)
  assert found.classes == CLASSES


def test_files_that_read_bytes_are_fed_pixels_as_they_are(network, folder):
  way = data.Preprocess(center=128.0, scale=64.0, per_image=False)
  found = quantize.post_training(
    *network, PIXELS, preprocess=way, method="minmax", input_range=export.pixel_range(way)
  )
  reader = data.ImageReader(32, preprocess=way)
  path = export.tflite(found, folder / "bytes.tflite", metadata=reader.to_metadata(), input="uint8")
  classifier = pipeline.Classifier.open(path)
  np.testing.assert_array_equal(classifier.logits(PIXELS), found(PIXELS))
  assert classifier.classes == tuple(map(str, range(len(CLASSES))))


def test_paths_bytes_and_images_of_pillow_are_one(quantized, folder, awkward, tmp_path):
  classifier = pipeline.Classifier.open(folder / "plain.tflite")
  (tmp_path / "a.png").write_bytes(awkward[1])
  opened = Image.open(tmp_path / "a.png")
  found = classifier.predict(
    [str(tmp_path / "a.png"), tmp_path / "a.png", awkward[1], opened], top=3
  )
  assert len({(one.classes, one.scores) for one in found}) == 1
  assert [one.image for one in found] == [*[str(tmp_path / "a.png")] * 2, 2, 3]
  logits = np.float64(classifier.logits(awkward[1:2]))[0]
  shares = np.exp(logits) / np.exp(logits).sum()
  best = np.argsort(-shares, kind="stable")[:3]
  assert found[0].classes == tuple(CLASSES[i] for i in best)
  np.testing.assert_allclose(found[0].scores, shares[best])
  assert found[0].label == CLASSES[best[0]]


def test_damaged_pictures_are_told_and_the_others_classified(quantized, folder, awkward):
  classifier = pipeline.Classifier.open(folder / "plain.tflite")
  many = [awkward[0]] * 70 + [b"", b"no image", awkward[0][:200], awkward[0]]
  found = classifier.predict(many)
  assert [i for i, one in enumerate(found) if one.error] == [70, 71, 72]
  assert found[-1].label == found[0].label
  assert found[-1].image == 73
  with pytest.raises(ValueError, match=r"70 cannot be read .it is empty.; look at error"):
    _ = found[70].label
  with pytest.raises(data.DamagedError, match="3 images, number 70"):
    classifier.logits(many)


@pytest.mark.slow
def test_a_grey_network_reads_colours_as_grey(tmp_path):
  model = models.resnet8(2)
  shape = (16, 16, 1)
  variables = init_variables(model, jax.random.key(1), shape)
  grey = data.ImageReader(16, channels=1)
  pixels = NUMBERS.integers(0, 256, (16, *shape), np.uint8)
  found = quantize.post_training(
    model, variables, pixels, preprocess=grey.preprocess, method="minmax"
  )
  picture = encoded(Image.fromarray(NUMBERS.integers(0, 256, (20, 30, 3), np.uint8)))
  earlier = {"preprocess": grey.preprocess.to_metadata()}  # files of earlier versions say no more
  for metadata in (grey.to_metadata(), earlier):
    classifier = pipeline.Classifier.open(
      export.tflite(found, tmp_path / "grey.tflite", metadata=metadata)
    )
    wanted = found(np.stack([grey(picture)]))
    np.testing.assert_array_equal(classifier.logits([picture]), wanted)


def split_of(names, count=40):
  labels = NUMBERS.integers(0, len(names), count).astype(np.int32)
  return data.Split(NUMBERS.integers(0, 256, (count, *SHAPE), np.uint8), labels)


def set_of(names, reader=READER):
  parts = {part: split_of(names) for part in ("train", "validation", "test")}
  return data.Dataset(name="x", classes=names, reader=reader, **parts)


@pytest.mark.parametrize("names", [CLASSES, CLASSES[::-1], ("fox", "cat"), ("e\u0301clair", "hen")])
def test_classes_of_data_are_found_by_name(names, quantized, folder):
  classifier = pipeline.Classifier.open(folder / "plain.tflite")
  found = set_of(names)
  evaluation = classifier.evaluate(found)
  logits = quantized(found.test.images)
  ours = [CLASSES.index(name.replace("e\u0301", "é")) for name in names]
  true = np.array(ours)[found.test.labels]
  every = list(range(len(CLASSES)))
  predicted = logits.argmax(axis=1)
  assert evaluation.top1 == pytest.approx(metrics.accuracy_score(true, predicted))
  np.testing.assert_array_equal(
    evaluation.confusion, metrics.confusion_matrix(true, predicted, labels=every)
  )
  recall = metrics.recall_score(true, predicted, average=None, labels=every, zero_division=np.nan)
  np.testing.assert_allclose(np.array([f.recall for f in evaluation.figures], float), recall)
  assert evaluation.top5 is not None and evaluation.top5 >= evaluation.top1
  whole = classifier.evaluate(found, "all")
  assert whole.images == 120
  alone = classifier.evaluate(found.test, classes=found.classes)
  np.testing.assert_array_equal(alone.confusion, evaluation.confusion)


def test_the_data_of_a_run_from_python_have_to_be_given(quantized, folder, monkeypatch):
  classifier = pipeline.Classifier.open(folder / "plain.tflite")
  options = pipeline.CompressOptions(data="python:stripes@8b46")
  monkeypatch.setattr(evaluating, "run_of", lambda path: options)
  with pytest.raises(ValueError, match=r"had a Dataset from Python; evaluate there with .* data="):
    evaluating.evaluate_on(classifier)


def test_what_cannot_be_evaluated_is_refused(quantized, folder):
  classifier = pipeline.Classifier.open(folder / "plain.tflite")
  with pytest.raises(ValueError, match=r"1 of 2 classes .zebra. are not among the 7 of"):
    classifier.evaluate(set_of(("cat", "zebra")))
  with pytest.raises(ValueError, match=r"load it with reader=classifier.reader"):
    classifier.evaluate(set_of(CLASSES, data.ImageReader(32)))
  with pytest.raises(ValueError, match=r"give classes=data.classes"):
    classifier.evaluate(split_of(CLASSES))
  with pytest.raises(ValueError, match="split: 'tests' is unknown; did you mean test"):
    classifier.evaluate(set_of(CLASSES), "tests")
  with pytest.raises(ValueError, match="pictures must be a list, got a single one"):
    classifier.predict("a.jpg")
  with pytest.raises(ValueError, match=r"must be uint8 .count, 32, 32, 3."):
    classifier.predict(PIXELS[:, :16])
  with pytest.raises(ValueError, match="top: 0 must be"):
    classifier.predict([], top=0)
  assert classifier.predict([]) == []


class Ending(nn.Module):
  """Classes of an image's mean colour, in probabilities."""

  @nn.compact
  def __call__(self, x, *, train):
    return Softmax(name="softmax")(Dense(5, name="head")(GlobalAvgPool(name="pool")(x)))


@pytest.mark.parametrize("suffix", [".tflite", ".onnx", ".jcz"])
def test_a_network_that_ends_in_a_softmax_gives_its_own_scores(suffix, tmp_path):
  model, reader = Ending(), data.ImageReader(8)
  variables = init_variables(model, jax.random.key(0), (8, 8, 3))
  pixels = NUMBERS.integers(0, 256, (30, 8, 8, 3), np.uint8)
  found = quantize.post_training(
    model, variables, pixels, preprocess=reader.preprocess, method="minmax"
  )
  write = {".tflite": export.tflite, ".onnx": export.onnx, ".jcz": export.packed}[suffix]
  path = write(found, tmp_path / f"a{suffix}", metadata=reader.to_metadata())
  classifier = pipeline.Classifier.open(path)
  assert classifier.ends_in == "softmax"
  (one,) = classifier.predict(pixels[:1], top=5)
  kernels = "onnxruntime" if suffix == ".onnx" else "xnnpack"
  wanted = np.sort(found.with_kernels(kernels)(pixels[:1])[0])[::-1]
  np.testing.assert_array_equal(one.scores, wanted)


def foreign_onnx(path, last, size=(8, 8)):
  """A network of others: the mean of each colour, in PyTorch's layout, by a matrix."""
  helper = onnx.helper
  weights = NUMBERS.normal(size=(3, 4)).astype(np.float32)
  nodes = [
    helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
    helper.make_node("Flatten", ["mean"], ["flat"]),
    helper.make_node("MatMul", ["flat", "w"], ["y" if last is None else "scores"]),
  ]
  nodes += [] if last is None else [helper.make_node(last, ["scores"], ["y"])]
  kind = onnx.TensorProto.FLOAT
  graph = helper.make_graph(
    nodes,
    "graph",
    [helper.make_tensor_value_info("x", kind, ["batch", 3, *size])],
    [helper.make_tensor_value_info("y", kind, ["batch", 4])],
    [onnx.numpy_helper.from_array(weights, "w")],
  )
  opset = [helper.make_opsetid("", 17)]
  onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
  return weights


@pytest.mark.parametrize("last", [None, "Softmax", "Sigmoid"])
def test_onnx_files_of_others_are_read_as_is_said(last, tmp_path):
  path = tmp_path / "net.onnx"
  weights = foreign_onnx(path, last)
  with pytest.raises(
    ValueError, match=r"does not state how pixels .* add pixels='imagenet', or one"
  ):
    pipeline.Classifier.open(path)
  classifier = pipeline.Classifier.open(path, pixels="imagenet", classes=list("abcd"))
  pixels = NUMBERS.integers(0, 256, (3, 8, 8, 3), np.uint8)
  mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
  logits = ((pixels / 255).mean((1, 2)) - mean) / deviation @ weights
  shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  shares = 1 / (1 + np.exp(-logits)) if last == "Sigmoid" else shares
  found = classifier.predict(pixels, top=4)
  np.testing.assert_allclose([one.scores for one in found], -np.sort(-shares), rtol=1e-4)
  assert [one.label for one in found] == ["abcd"[i] for i in logits.argmax(-1)]
  assert classifier.ends_in == {"Softmax": "softmax", "Sigmoid": "sigmoid", None: "logits"}[last]


def test_onnx_files_for_any_size_are_given_one(tmp_path):
  path = tmp_path / "net.onnx"
  foreign_onnx(path, None, ("height", "width"))
  with pytest.raises(ValueError, match="reads images of any size; add image_size=224"):
    pipeline.Classifier.open(path, pixels="0..1")
  found = pipeline.Classifier.open(path, pixels="0..1", image_size=12)
  assert found.reader.size == (12, 12)
  assert found.predict(np.zeros((1, 12, 12, 3), np.uint8))[0].score == pytest.approx(0.25)


def without_metadata(path, out):
  """A .tflite file as other programs write it."""
  model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
  model.metadata = None
  builder = flatbuffers.Builder()
  builder.Finish(model.Pack(builder), b"TFL3")
  out.write_bytes(bytes(builder.Output()))
  return out


def test_tflite_files_of_others_are_read_as_is_said(quantized, network, folder, tmp_path):
  path = without_metadata(folder / "plain.tflite", tmp_path / "net.tflite")
  with pytest.raises(ValueError, match="does not state how pixels"):
    pipeline.Classifier.open(path)
  way = data.Preprocess(127.5, 127.5, per_image=False)
  found = pipeline.Classifier.open(path, pixels="-1..1", resize="squash")
  wanted = quantize.QuantizedModel(quantized.graph, quantized.grids, quantized.layers, way)
  np.testing.assert_array_equal(found.logits(PIXELS), wanted(PIXELS))
  assert (found.reader.resize, found.is_named) == ("squash", False)
  own = pipeline.Classifier.open(path, reader=READER, classes=CLASSES)
  np.testing.assert_array_equal(own.logits(PIXELS), quantized(PIXELS))


def test_tflite_files_of_others_that_read_bytes_need_nothing_said(network, tmp_path):
  way = data.Preprocess(center=128.0, scale=64.0, per_image=False)
  found = quantize.post_training(
    *network, PIXELS, preprocess=way, method="minmax", input_range=export.pixel_range(way)
  )
  ours = export.tflite(found, tmp_path / "ours.tflite", input="uint8")
  path = without_metadata(ours, tmp_path / "theirs.tflite")
  np.testing.assert_array_equal(pipeline.Classifier.open(path).logits(PIXELS), found(PIXELS))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"pixels": "imagenet"}, "pixels: imagenet is given, .* has its own; leave it out"),
    ({"resize": "squash"}, "resize: squash is given"),
    ({"classes": ["a", "b"]}, "classes: there are 2 names, and .* gives 7 scores"),
    ({"reader": data.ImageReader(16)}, "reads images of 32 x 32 pixels, and the reader makes"),
    ({"reader": data.ImageReader(32, channels=1)}, "reads 3 channels, and the reader makes 1"),
  ],
)
def test_what_contradicts_the_file_is_refused(options, message, quantized, folder):
  with pytest.raises(ValueError, match=message):
    pipeline.Classifier.open(folder / "plain.tflite", **options)


def test_what_is_no_model_is_refused(tmp_path):
  for name, message in (
    ("none.tflite", "does not exist; give a .tflite"),
    ("a.txt", "a.txt cannot be run; it must end in"),
    ("bad.tflite", "is no .tflite file"),
    ("bad.onnx", "parts that do not fit|does not run"),
    ("bad.jcz", "no packed file"),
    ("bad.safetensors", "no readable safetensors"),
  ):
    if name != "none.tflite":
      (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=message):
      pipeline.Classifier.open(tmp_path / name)
  with pytest.raises(ValueError, match=r"model: .* holds no readable model.json"):
    pipeline.Classifier.open(tmp_path)
