"""Every check of the linter, on operators at the limit and just beyond it."""

import numpy as np
import pytest

from jaxcompress.export.contents import Operator, Tensor
from jaxcompress.export.requirements import CHECKS

SAME, VALID = 0, 1


def tensor(shape=(1, 8, 8, 4), kind="INT8", scale=0.5, zero_point=0, **fields):
  scales, zero_points = np.atleast_1d(np.float32(scale)), np.atleast_1d(np.int64(zero_point))
  return Tensor("t", kind, tuple(shape), scales=scales, zero_points=zero_points, **fields)


def constant(values, **fields):
  values = np.asarray(values)
  place = {"values": values, "is_constant": True, "is_inline": True, **fields}
  return tensor(values.shape, place.pop("kind", str(values.dtype).upper()), **place)


MAP = tensor()


def operator(name, inputs=(MAP,), outputs=(MAP,), **options):
  return Operator(name, 1, tuple(inputs), tuple(outputs), options)


def layer(name="CONV_2D", weights=None, bias="INT32"):
  weights = np.ones((4, 3, 3, 4), np.int8) if weights is None else weights
  return operator(name, [tensor(), constant(weights), tensor((4,), bias)])


def moving(name, stride, size, padding, out, weights=None, dilation=1):
  inputs = [tensor((1, size, size, 4))]
  inputs += [] if weights is None else [constant(weights)]
  window = {} if weights is not None else {"filterHeight": 3, "filterWidth": 3}
  steps = {"strideH": stride, "strideW": stride, "padding": padding}
  steps |= {"dilationHFactor": dilation, "dilationWFactor": dilation}
  return operator(name, inputs, [tensor((1, out, out, 4))], **window, **steps)


KERNEL = np.ones((4, 3, 3, 4), np.int8)


def spread(padding, strides, side):
  """A transposed 3x3 convolution that makes a square."""
  inputs = [constant(np.int32([1, side, side, 4])), constant(KERNEL), tensor()]
  height, width = strides
  fields = {"padding": padding, "strideH": height, "strideW": width}
  return operator("TRANSPOSE_CONV", inputs, [tensor((1, side, side, 4))], **fields)


CASES = {  # check: limit, what obeys it, what breaks it
  "operator": (("MEAN",), operator("MEAN"), operator("SUM")),
  "version": (
    {"MEAN": 2},
    operator("MEAN")._replace(version=2),
    operator("MEAN")._replace(version=3),
  ),
  "integer": (
    None,
    operator("QUANTIZE", [tensor(kind="FLOAT32")]),
    operator("ADD", [tensor(kind="FLOAT32")]),
  ),
  "activation-types": (
    ("INT8",),
    operator("MEAN", [tensor(), constant(np.int32([1]))]),
    operator("MEAN", [tensor(kind="INT16")]),
  ),
  "weight-types": (("INT8",), layer(), layer(weights=np.ones((4, 3, 3, 4), np.int16))),
  "weight-range": (
    (-127, 127),
    layer(weights=-127 * KERNEL),
    layer(weights=-127 * KERNEL - KERNEL),
  ),
  "weight-zero-point": (
    0,
    layer(),
    operator("CONV_2D", [tensor(), constant(KERNEL, zero_point=[0, 0, 1, 0])]),
  ),
  "bias-types": (("INT32", "INT64"), layer(bias="INT64"), layer(bias="INT16")),
  "per-channel": (
    ("CONV_2D",),
    operator("CONV_2D", [constant(KERNEL, scale=[1, 2])]),
    operator("FULLY_CONNECTED", [constant(KERNEL, scale=[1, 2])]),
  ),
  "constant": (
    {"PAD": (1,)},
    operator("PAD", [tensor(), constant(np.int32([1]))]),
    operator("PAD", [tensor(), tensor()]),
  ),
  "inline": (
    None,
    operator("PAD", [tensor(), constant(KERNEL)]),
    operator("PAD", [tensor(), constant(KERNEL, is_inline=False)]),
  ),
  "static-shape": (None, operator("MEAN"), operator("MEAN", [tensor((-1, 8, 8, 4))])),
  "batch": (1, operator("MEAN"), operator("MEAN", [tensor((2, 8, 8, 4))])),
  "stride": (3, operator("CONV_2D", strideW=3), operator("CONV_2D", strideW=4)),
  "free-stride": (
    3,
    moving("MAX_POOL_2D", 4, 32, SAME, 8),  # the last window ends with the map
    moving("MAX_POOL_2D", 4, 33, SAME, 9),
  ),
  "window": (
    256,
    operator("MAX_POOL_2D", filterHeight=256),
    operator("MAX_POOL_2D", filterHeight=257),
  ),
  "padded-window": (
    8,
    operator("AVERAGE_POOL_2D", filterWidth=9, padding=VALID),
    operator("AVERAGE_POOL_2D", filterWidth=9, padding=SAME),
  ),
  "weight-sum": (36, layer(weights=-KERNEL), layer(weights=-2 * KERNEL)),
  "row": (
    511,
    operator("SOFTMAX", [tensor((1, 511))]),
    operator("SOFTMAX", [tensor((1, 512))]),
  ),
  "fan-in": (
    5,
    operator("CONCATENATION", [tensor()] * 5),
    operator("CONCATENATION", [tensor()] * 6),
  ),
  "fan-out": (4, operator("SPLIT", (), [tensor()] * 4), operator("SPLIT", (), [tensor()] * 5)),
  "unit-steps": (
    None,
    operator("STRIDED_SLICE", [tensor()] * 3 + [constant(np.int32([1, 1]))]),
    operator("STRIDED_SLICE", [tensor()] * 3 + [constant(np.int32([1, 2]))]),
  ),
  "scale-ratio": (
    (2**-10, 2**8),
    operator("ADD", [tensor(scale=2**-11), tensor(scale=127)]),
    operator("ADD", [tensor(), tensor(scale=128)]),
  ),
  "same-grid": (
    None,
    operator("MAX_POOL_2D"),
    operator("MAX_POOL_2D", outputs=[tensor(zero_point=1)]),
  ),
  "codes": (
    ("INT8",),
    operator("DequantizeLinear", [constant(np.ones(4, np.int8))]),
    operator("QuantizeLinear", outputs=[tensor(kind="UINT8")]),
  ),
  "zero-point": (
    0,
    operator("QuantizeLinear", [tensor(), tensor()]),
    operator("QuantizeLinear", [tensor(), tensor(), constant(np.int8(3))]),
  ),
  "transposed": (
    ((2, 2),),
    spread(VALID, (2, 2), 17),
    spread(VALID, (2, 2), 18),
  ),
  "enlargement": (
    {"whole": (1, 2, 4), "half": (2,)},
    operator("RESIZE_BILINEAR", outputs=[tensor((1, 32, 32, 4))]),
    operator("RESIZE_BILINEAR", outputs=[tensor((1, 32, 32, 4))], halfPixelCenters=True),
  ),
  "quantized-inputs": (
    None,
    operator("Conv", [tensor(maker="DequantizeLinear")] * 2),
    operator("Conv", [tensor(maker="DequantizeLinear"), constant(KERNEL)]),
  ),
  "residual": (
    None,
    operator("Add", [tensor(maker="DequantizeLinear"), constant(KERNEL)]),
    operator("Add", [tensor(maker="DequantizeLinear"), tensor(maker="Conv")]),
  ),
}


def test_there_is_a_case_for_every_check():
  assert CASES.keys() == CHECKS.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_check_passes_at_its_limit_and_says_what_is_beyond_it(name):
  limit, obeying, breaking = CASES[name]
  assert CHECKS[name](obeying, limit) is None
  wrong = CHECKS[name](breaking, limit)
  assert wrong and len(wrong) < 40 and "\n" not in wrong


def test_a_transposed_convolution_moves_by_known_steps_and_makes_known_sizes():
  check, limit = CHECKS["transposed"], ((1, 1), (2, 2))
  assert check(spread(SAME, (2, 2), 16), limit) is None
  assert check(spread(SAME, (2, 2), 15), limit) == "output 15x15"
  assert check(spread(VALID, (1, 1), 10), limit) is None
  assert check(spread(SAME, (1, 2), 16), limit) == "stride 1x2"


def test_corners_are_aligned_where_sides_less_one_are_enlarged():
  check, limit = CHECKS["enlargement"], {"whole": (2,), "half": (2,)}
  for side, flag, found in ((15, True, None), (16, True, "from 8x8 to 16x16"), (16, False, None)):
    made = operator("RESIZE_BILINEAR", outputs=[tensor((1, side, side, 4))], alignCorners=flag)
    assert check(made, limit) == found


def test_a_window_moves_freely_only_without_dilation():
  check = CHECKS["free-stride"]
  assert check(moving("CONV_2D", 4, 33, VALID, 8, KERNEL), 3) is None
  assert check(moving("CONV_2D", 4, 33, VALID, 8, KERNEL, dilation=2), 3) == "stride 4"
  assert check(moving("CONV_2D", 4, 33, SAME, 9, KERNEL), 3) == "stride 4"
