"""Operators in the ways in which TensorFlow's converter writes them, and ours does not, are bit-equal."""

import shutil

import numpy as np
import pytest

from jaxcompress import export

SLIDE = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
VALID, SAME = 1, 0


def conv(file, source, shape, weights, **fields):
  fields = {"padding": VALID, **SLIDE, **fields}
  inputs = [source, weights, file.bias(shape[-1])]
  return file.add("CONV_2D", inputs, shape, (0.04, -10), 3, **fields)


def test_zeros_around_a_map_by_an_operator_of_their_own(spelling, codes_equal):
  file = spelling()
  padded = file.add(
    "PAD", [file.source, file.numbers([[0, 0], [0, 1], [0, 1], [0, 0]])], (1, 9, 9, 4), version=2
  )
  conv(
    file,
    padded,
    (1, 4, 4, 6),
    file.weights((6, 3, 3, 4)),
    strideH=2,
    strideW=2,
    fusedActivationFunction=3,
  )
  (node,) = codes_equal(file.write()).graph.nodes
  assert node.attrs["padding"] == ((0, 1), (0, 1))  # which costs nothing in C


def test_one_scale_for_all_weights(spelling, codes_equal):
  file = spelling()
  inputs = [file.source, file.weights((6, 1, 1, 4), scales=0.002), file.bias(6, scales=1e-4)]
  file.add("CONV_2D", inputs, (1, 8, 8, 6), (0.04, -10), 3, padding=VALID, **SLIDE)
  mean = file.add(
    "MEAN",
    [file.last, file.numbers([1, 2])],
    (1, 6),
    (0.03, 5),
    2,
    "ReducerOptions",
    keepDims=False,
  )
  file.add(
    "FULLY_CONNECTED",
    [mean, file.weights((5, 6), scales=0.004), file.bias(5, scales=1e-4)],
    (1, 5),
    (0.06, 7),
    4,
  )
  codes_equal(file.write())


def test_a_dense_layer_without_a_bias_on_what_a_reshape_flattens(spelling, codes_equal):
  file = spelling()
  flat = file.add("RESHAPE", [file.source, file.numbers([-1, 256])], (1, 256), newShape=[-1, 256])
  file.add("FULLY_CONNECTED", [flat, file.weights((5, 256)), -1], (1, 5), (0.5, 7), 4)
  codes_equal(file.write())


def test_a_dense_layer_of_rows(spelling, codes_equal):
  file = spelling(shape=(1, 6, 4))
  inputs = [file.source, file.weights((8, 4)), file.bias(8)]
  rows = file.add("FULLY_CONNECTED", inputs, (1, 6, 8), (0.04, -9), 5, keepNumDims=True)
  inputs = [rows, file.weights((3, 8)), file.bias(3)]
  flat = file.add("FULLY_CONNECTED", inputs, (6, 3), (0.05, 4), 5)
  shape = file.numbers([1, 18])
  file.add("RESHAPE", [flat, shape], (1, 18), (0.05, 4), newShape=[1, 18])
  model = codes_equal(file.write())
  assert [node.output_shapes[0] for node in model.graph.nodes] == [(1, 6, 8), (1, 6, 3), (1, 18)]


@pytest.mark.parametrize("code", ["ADD", "SUB", "MUL"])
@pytest.mark.parametrize("shape", [(), (4,), (1, 8, 1, 4)])
def test_a_constant_beside_a_tensor(code, shape, spelling, codes_equal):
  file = spelling()
  file.add(
    code, [file.source, file.constant(shape)], (1, 8, 8, 4), (0.04, 9), 2, fusedActivationFunction=1
  )
  codes_equal(file.write())


def test_a_vector_beside_a_map(spelling, codes_equal):
  file = spelling()
  mean = file.add(
    "MEAN",
    [file.source, file.numbers([1, 2])],
    (1, 4),
    (0.03, 5),
    2,
    "ReducerOptions",
    keepDims=False,
  )
  file.add("MUL", [file.source, mean], (1, 8, 8, 4), (0.06, -3), 2)
  codes_equal(file.write())


@pytest.mark.parametrize("scale", [0.05, 0.031, 0.11, 0.0004])
@pytest.mark.parametrize("code", ["QUANTIZE", "RELU", "RELU6"])
def test_operators_that_only_round(code, scale, spelling, codes_equal):
  file = spelling()
  file.add(code, [file.source], (1, 8, 8, 4), (scale, -7), 1 if code == "QUANTIZE" else 2)
  codes_equal(file.write())


@pytest.mark.parametrize(
  ("shape", "order"),
  [
    ((1, 8, 8, 2, 2), (0, 1, 2, 4, 3)),  # a channel shuffle
    ((1, 4, 2, 4, 2, 4), (0, 1, 3, 2, 4, 5)),  # cells of blocks become channels
    ((1, 8, 8, 4), (0, 2, 1, 3)),
    ((1, 8, 8, 4), (0, 3, 1, 2)),
    ((8, 2, 4, 4), (3, 1, 0, 2)),
  ],
)
def test_transposes(shape, order, spelling, codes_equal):
  file = spelling()
  wide = file.add("RESHAPE", [file.source, file.numbers(shape)], shape, newShape=list(shape))
  turned = tuple(shape[axis] for axis in order)
  file.add("TRANSPOSE", [wide, file.numbers(order)], turned, version=2)
  file.add("RESHAPE", [file.last, file.numbers([1, 16, 16])], (1, 16, 16), newShape=[1, 16, 16])
  file.add("LOGISTIC", [file.last], (1, 16, 16), (1 / 256, -128), 2)
  runtimes = ("xnnpack", "reference", "tflm")[
    : 2 if len(shape) > 5 else 3
  ]  # TFLite-Micro has 5 axes
  codes_equal(file.write(), runtimes)


def test_parts_of_any_axis_and_their_joining(spelling, codes_equal):
  file = spelling()
  axis, halves = file.numbers(1), [file.tensor((1, 4, 8, 4)) for _ in range(2)]
  file.file.operator("SPLIT", 2, [axis, file.source], halves, numSplits=2)
  wide = file.add("CONCATENATION", [halves[1], halves[0]], (1, 4, 16, 4), version=2, axis=2)
  cut = file.add(
    "SLICE",
    [wide, file.numbers([0, 1, 2, 0]), file.numbers([1, 3, -1, 4])],
    (1, 3, 14, 4),
    version=2,
  )
  row = file.add(
    "STRIDED_SLICE",
    [cut, *map(file.numbers, ([0, 2, 0, 1], [1, 3, 14, 4], [1, 1, 1, 1]))],
    (1, 14, 3),
    version=2,
    shrinkAxisMask=0b0010,
  )
  file.add("PAD", [row, file.numbers([[0, 0], [0, 0], [2, 1]])], (1, 14, 6), version=2)
  codes_equal(file.write())


@pytest.mark.parametrize("pad", [0, 2])
def test_a_dilated_convolution_between_batches(pad, spelling, codes_equal):
  file, side = spelling(), 4 + pad
  block, pads, crops = map(file.numbers, ([2, 2], [[pad, pad]] * 2, [[0, 0]] * 2))
  file.add("SPACE_TO_BATCH_ND", [file.source, block, pads], (4, side, side, 4), version=2)
  conv(file, file.last, (4, side - 2, side - 2, 6), file.weights((6, 3, 3, 4)))
  made = (1, 2 * side - 4, 2 * side - 4, 6)
  file.add("BATCH_TO_SPACE_ND", [file.last, block, crops], made, (0.04, -10), 2)
  path = file.write()
  (node,) = codes_equal(path, ("xnnpack", "reference", "tflm")[: 2 if pad else 3]).graph.nodes
  assert node.attrs["dilation"] == 2 and node.attrs["padding"] == ((pad, pad), (pad, pad))
  # TFLite-Micro leaves the number that it pads with uninitialized
  assert ("tflm" in export.explain(path).operators[0].refused) == (pad > 0)


def test_depthwise_with_several_outputs_of_a_channel(spelling, codes_equal):
  file = spelling()
  fields = {"padding": SAME, **SLIDE, "strideH": 2, "strideW": 2, "depthMultiplier": 2}
  inputs = [file.source, file.weights((1, 3, 3, 8), axis=3), file.bias(8)]
  file.add("DEPTHWISE_CONV_2D", inputs, (1, 4, 4, 8), (0.04, -10), 3, **fields)
  codes_equal(file.write())


@pytest.mark.slow
def test_sixteen_bits(spelling, codes_equal):
  file = spelling(bits=16, grid=(0.0002, 0))
  conv(file, file.source, (1, 8, 8, 6), file.weights((6, 1, 1, 4)))
  mean = file.add(
    "MEAN",
    [file.last, file.numbers([1, 2])],
    (1, 6),
    (0.0001, 0),
    3,
    "ReducerOptions",
    keepDims=False,
  )
  path = file.write()
  codes_equal(path)
  inputs = [mean, file.weights((5, 6)), file.bias(5)]
  file.add("FULLY_CONNECTED", inputs, (1, 5), (0.0002, 0), 7)
  codes_equal(file.write(), ("tflm",), kernels="tflm")
  with pytest.raises(
    ValueError, match=r"FULLY_CONNECTED of 't3': LiteRT rounds .*; pass kernels='tflm'"
  ):
    export.from_tflite(path)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_ends_of_other_types(kind, spelling, tmp_path):
  file = spelling()
  core, ends = file.source, (0.05, 131) if kind == np.uint8 else None
  file.source = file.tensor((1, 8, 8, 4), ends, kind)
  file.file.operator("QUANTIZE", 1, [file.source], [core])
  conv(file, core, (1, 8, 8, 3), file.weights((3, 1, 1, 4)))
  output = file.tensor((1, 8, 8, 3), (0.04, 118) if kind == np.uint8 else None, kind)
  file.file.operator("QUANTIZE" if kind == np.uint8 else "DEQUANTIZE", 2, [file.last], [output])
  path = file.write({"scores": output})
  model = export.from_tflite(path)
  images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 4)).astype(kind)
  if kind == np.float32:
    images = (images - 131) * np.float32(0.05)
  for kernels in ("xnnpack", "reference", "tflm"):
    assert export.verify(path, model.with_kernels(kernels), images).bit_equal == 1.0
  again = export.tflite(
    model, tmp_path / "again.tflite", input="codes" if kind == np.float32 else "uint8"
  )
  assert export.verify(again, model, images).bit_equal == 1.0


@pytest.mark.slow
def test_what_was_read_is_written_in_every_form(spelling, tmp_path):
  file = spelling()
  file.add("MUL", [file.source, file.constant((4,))], (1, 8, 8, 4), (0.04, 9), 2)
  finish(file)
  model = export.from_tflite(file.write())
  images = np.random.default_rng(0).normal(0, 4, (6, 8, 8, 4)).astype(np.float32)
  again = export.tflite(model, tmp_path / "again.tflite")
  for kernels in ("xnnpack", "reference", "tflm"):
    assert export.verify(again, model.with_kernels(kernels), images).bit_equal == 1.0
  packed = export.load_packed(export.packed(model, tmp_path / "again.jcz"))
  assert np.array_equal(packed.integers(images), model.integers(images))
  with pytest.raises(ValueError, match="Constant, which has no"):
    export.onnx(model, tmp_path / "again.onnx")
  if shutil.which("cc"):
    folder = export.c(model, tmp_path / "again_c")
    assert export.verify(folder, model, images).bit_equal == 1.0


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_what_was_read_is_c(spelling, tmp_path):
  file = spelling()
  file.last = file.source
  finish(file)
  model = export.from_tflite(file.write())
  images = np.random.default_rng(0).normal(0, 4, (6, 8, 8, 4)).astype(np.float32)
  folder = export.c(model, tmp_path / "again_c")
  assert export.verify(folder, model, images).bit_equal == 1.0
  with pytest.raises(ValueError, match="linear layer of rows, which has no ONNX operator"):
    export.onnx(model, tmp_path / "again.onnx")


def finish(file):
  """Changes of the grid, a rectifier and a linear layer of rows."""
  file.add("QUANTIZE", [file.last], (1, 8, 8, 4), (0.05, 3))
  file.add("RELU6", [file.last], (1, 8, 8, 4), (0.03, -7), 2)
  inputs = [file.last, file.weights((3, 4)), file.bias(3)]
  file.add("FULLY_CONNECTED", inputs, (1, 8, 8, 3), (0.05, 4), 5, keepNumDims=True)
