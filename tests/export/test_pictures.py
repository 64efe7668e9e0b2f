"""From a picture's file to logits: exact evaluation, prediction, the printed program, metadata by hand."""

import dataclasses
import io
import math
import subprocess
import sys

import flax.linen as nn
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from jaxcompress import export
from jaxcompress.data import ImageReader, Preprocess
from jaxcompress.data.images import decode
from jaxcompress.export.runtime import Runtime, device_outputs
from jaxcompress.nn import INPUT, ConvNorm, Dense
from jaxcompress.pipeline import Classifier
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.report import program
from tests.data.pictures import KINDS, encode

SIZE = (20, 24)
CLASSES = ("ant", "bee", "crow", "dog", "eel")
SIDES = (1, 2, 7, 24, 33, 61, 200)
NORMALIZATIONS = {
  "per image": Preprocess(),
  "fixed": Preprocess(center=127.5, scale=57.3, per_image=False),
  "per channel": Preprocess((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), per_image=False),
  "per channel and image": Preprocess((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, stride=2, act="relu", name="stem")(x, train=train)
    x = ConvNorm(2, kernel=5, stride=5, name="cells")(x, train=train)  # every pixel tells
    return Dense(5, name="classifier")(x)


@pytest.fixture(scope="module")
def pictures():
  """200 files of every kind, turned in every way, of sides from 1 to 200."""
  rng, kinds = np.random.default_rng(0), sorted(KINDS)
  sides = rng.choice(SIDES, (200, 2))
  return [
    encode(kinds[i % len(kinds)], int(w), int(h), 1 + i % 8, i) for i, (w, h) in enumerate(sides)
  ]


@pytest.fixture(params=sorted(NORMALIZATIONS))
def reader(request):
  resize = {"fixed": "squash", "per channel": "letterbox"}.get(request.param, "cover")
  return ImageReader(SIZE, resize, 0.875, preprocess=NORMALIZATIONS[request.param])


@pytest.fixture
def quantized(networks, reader):
  plain = networks.random_quantized(Net(), (*SIZE, 3))
  grids = {**plain.grids, INPUT: Grid(np.float32(0.0187), -3)}  # of which many values are halves
  return dataclasses.replace(plain, grids=grids, preprocess=reader.preprocess)


def printed(path, reader) -> dict:
  """Names of the printed program, which is given no picture."""
  names = {}
  text = program(str(path), reader, CLASSES)
  exec(compile(text.replace("sys.argv[1:]", "[]"), "classify.py", "exec"), names)
  return names


def by_hand(facts: dict, interpreter: Interpreter, picture: bytes) -> np.ndarray:
  """Logits by what the metadata say, in plain Python where the program has numpy's sums."""
  said, spec = facts["preprocess"], facts["reader"]
  x = ImageReader(**spec)(picture).astype(
    np.float32
  )  # what ``reader`` says is tested in test_reader
  x = (x - np.asarray(said["center"], np.float32)) / np.asarray(said["scale"], np.float32)
  if said["per_image"]:
    means = [
      math.fsum(channel.ravel().tolist()) / channel.size for channel in np.moveaxis(x, -1, 0)
    ]
    x = x - np.asarray(means, np.float32)
    square = math.fsum((x * x).ravel().tolist()) / x.size
    x = x / np.float32(math.sqrt(square) + said["epsilon"])
  (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
  grid = facts["input"]
  codes = np.rint(x * np.float32(1 / grid["scale"])).astype(np.int64) + grid["zero_point"]
  interpreter.set_tensor(source["index"], np.clip(codes, -128, 127).astype(np.int8)[None])
  interpreter.invoke()
  codes, grid = interpreter.get_tensor(target["index"])[0], facts["output"]
  return (codes.astype(np.float32) - grid["zero_point"]) * np.float32(grid["scale"])


@pytest.mark.slow
def test_all_ways_from_200_pictures_give_the_same_logits(quantized, reader, pictures, tmp_path):
  metadata = {"classes": list(CLASSES), **reader.to_metadata()}
  path = export.tflite(quantized, tmp_path / "net.tflite", metadata=metadata)
  exact = quantized(decode(pictures, reader))
  assert len(np.unique(exact, axis=0)) > 100
  names = printed(path, reader)
  inputs = [
    names["normalized"](names["read_pixels"](io.BytesIO(picture), **names["READER"]), **names["PREPROCESS"])
    for picture in pictures
  ]  # fmt: skip
  program_logits = np.concatenate([names["network"](x[None]) for x in inputs])
  np.testing.assert_array_equal(program_logits, exact)
  np.testing.assert_array_equal(Classifier.open(path).logits(pictures), exact)
  facts, interpreter = export.read_metadata(path), Interpreter(str(path))
  interpreter.allocate_tensors()
  np.testing.assert_array_equal([by_hand(facts, interpreter, one) for one in pictures], exact)
  onnx = export.onnx(quantized, tmp_path / "net.onnx", metadata=metadata)
  network = printed(onnx, reader)["network"]
  logits = np.concatenate([network(x[None]) for x in inputs])
  np.testing.assert_array_equal(
    logits, quantized.with_kernels("onnxruntime")(decode(pictures, reader))
  )


@pytest.mark.parametrize("reader", ["fixed", "per channel"], indirect=True)
def test_a_file_that_reads_pixels_gives_the_same_logits(quantized, reader, pictures, tmp_path):
  path = export.tflite(quantized, tmp_path / "net.tflite", input="uint8", output="uint8")
  pixels = decode(pictures, reader)
  (found,) = device_outputs(Runtime(path), pixels).values()
  np.testing.assert_array_equal(found.astype(int) - 128, quantized.integers(pixels))


@pytest.mark.parametrize("reader", ["per channel"], indirect=True)
def test_the_program_prints_the_class_and_the_score_of_each_picture(
  quantized, reader, pictures, tmp_path
):
  path = export.tflite(quantized, tmp_path / "net.tflite")
  (tmp_path / "classify.py").write_text(program(path.name, reader, CLASSES))
  for i in range(3):
    (tmp_path / f"{i}.picture").write_bytes(pictures[i])
  (tmp_path / "cut.picture").write_bytes(pictures[0][:20])
  names = ["0.picture", "cut.picture", "gone.picture", "1.picture", "2.picture"]
  command = [sys.executable, "classify.py", *names]
  done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
  said = [line.split(": cannot be read (") for line in done.stderr.splitlines()]
  damaged = [name for name, *reason in said if reason]
  assert (done.returncode, damaged) == (1, ["cut.picture", "gone.picture"])
  logits = quantized(decode(pictures[:3], reader)).astype(np.float64)
  scores = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  assert done.stdout.splitlines() == [
    f"{i}.picture: {CLASSES[row.argmax()]}, {row.max():.1%}" for i, row in enumerate(scores)
  ]


def test_a_jax_array_is_evaluated_as_a_host_computes_it(quantized, pictures, reader):
  import jax.numpy as jnp

  images = decode(pictures[:20], reader)
  np.testing.assert_array_equal(
    quantized.quantize_input(jnp.asarray(images)), quantized.quantize_input(images)
  )


def test_pictures_of_pillow_are_read_as_their_files(reader, pictures):
  for picture in pictures[:24]:
    if "jpeg" in Image.open(io.BytesIO(picture)).format.lower():
      continue  # files of large JPEGs are decoded at a fraction of their size
    image = Image.open(io.BytesIO(picture))
    np.testing.assert_array_equal(reader(image), reader(picture))
