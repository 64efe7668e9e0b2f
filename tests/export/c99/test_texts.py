"""The texts of a network in C."""

import re

import numpy as np
import pytest

from jaxcompress.export.c99.header import float_text
from jaxcompress.export.c99.texts import Constants, check_name, write_texts
from jaxcompress.nn import Graph, Node
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid


def quantized_mean(channels=3, scale=0.1):
  shapes = ((1, 2, 2, channels),), ((1, channels),)
  pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
  grids = {"input": Grid(np.float32(scale), 3), "pool": Grid(np.float32(0.5), -7)}
  return QuantizedModel(Graph((pool,), shapes[0][0], "pool"), grids, {})


def test_a_header_says_what_integers_stand_for():
  texts = write_texts(quantized_mean(), name="net")
  header = texts.files["net.h"]
  found = dict(re.findall(r"#define (\w+) (\S+)$", header, re.MULTILINE))
  assert found == {
    "NET_ARENA_BYTES": str(texts.sizes.arena),
    "NET_INPUT_SIZE": "12",
    "NET_INPUT_SCALE": "0.1f",
    "NET_INPUT_ZERO_POINT": "3",
    "NET_OUTPUT_0_SIZE": "3",
    "NET_OUTPUT_0_SCALE": "0.5f",
    "NET_OUTPUT_0_ZERO_POINT": "-7",
  }


@pytest.mark.parametrize("seed", range(50))
def test_scales_are_written_to_the_last_bit(seed):
  value = np.float32(10 ** np.random.default_rng(seed).uniform(-30, 10))
  text = float_text(value)
  assert np.float32(text) == value
  assert re.search(r"[.e]", text)


def test_only_functions_that_are_called_are_written():
  files = write_texts(quantized_mean(), name="net").files
  assert "net_mean(" in files["net_kernels.c"]
  assert not re.search(r"convolution|jaxcompress_", "".join(files.values()))


def test_equal_constants_are_written_once():
  constants = Constants()
  names = [constants.add(np.array(v, np.int8)) for v in ([1, -128], [1, -128], [2, 3])]
  names.append(constants.add(np.array([1, -(2**31)], np.int32)))
  assert names == ["data_0", "data_0", "data_1", "data_2"]
  assert constants.bytes == 2 + 2 + 8
  assert "(-2147483647 - 1)" in constants.texts[-1]


@pytest.mark.parametrize("name", ["", "2d", "a-b", "_a", "a b", "é"])
def test_a_name_that_c_does_not_have_is_refused(name):
  with pytest.raises(ValueError, match="must be a name in C"):
    check_name(name)
