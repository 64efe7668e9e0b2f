"""C computes the integers of exact evaluation, operation by operation."""

import numpy as np
import pytest

from jaxcompress.export.c99.emit import EMITTERS
from jaxcompress.nn import Graph, Node
from jaxcompress.nn.structure import OPERATIONS
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid
from tests.export.test_bit_equal_ops import MIXED, NARROW, OPS, ROOTS, STORED, Lambda

pytestmark = pytest.mark.usefixtures("programs_forgotten")
IMAGES = 4
WIDE = [
  name for name in OPS if name not in (*STORED, *ROOTS, *NARROW) and not name.startswith("bilinear")
]


def test_every_operation_has_a_c_function():
  assert set(EMITTERS) == set(OPERATIONS)


def computed(folder, in_c, networks, cases, weights="int8"):
  """Outputs of C and of exact evaluation of quantized networks, by the names of both."""
  models = [quantized.with_kernels("tflm") for quantized in cases.values()]
  codes = [q.quantize_input(networks.images_for(q, IMAGES, i)) for i, q in enumerate(models)]
  made = in_c(folder, models, codes, weights)
  expected = [model.outputs(each) for model, each in zip(models, codes, strict=True)]
  return {name: (one, other) for name, one, other in zip(cases, made, expected, strict=True)}


@pytest.fixture(scope="module")
def narrow(in_c, networks, tmp_path_factory):
  """Of all ops with 8 bits."""
  cases = {
    name: networks.random_quantized(Lambda(function), shape, seed)
    for seed, (name, (function, shape)) in enumerate(OPS.items())
  }
  return computed(tmp_path_factory.mktemp("narrow"), in_c, networks, cases)


@pytest.fixture(scope="module")
def wide(in_c, networks, tmp_path_factory):
  """Of all ops that have 16 bits."""
  cases = {}
  for name in WIDE:
    function, shape = OPS[name]
    quantized = networks.random_quantized(Lambda(function), shape)
    bits = dict.fromkeys(quantized.grids, 16)
    if name in MIXED:
      drawn = np.random.default_rng(MIXED[name]).choice([8, 16], len(bits))
      bits = dict(zip(bits, drawn, strict=True))
    cases[name] = networks.with_widths(quantized, bits.get)
  return computed(tmp_path_factory.mktemp("wide"), in_c, networks, cases)


def check(found, name):
  made, expected = found[name]
  assert set(made) == set(expected)
  for output, integers in expected.items():
    assert made[output].dtype == integers.dtype
    np.testing.assert_array_equal(made[output], integers)


@pytest.mark.slow
def test_hardly_any_op_saturates(narrow, wide):
  """So that the tests below compare something."""
  for found in (narrow, wide):
    varied = [len(np.unique(next(iter(made.values())))) > 1 for made, _ in found.values()]
    assert np.mean(varied) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
def test_an_op_is_bit_equal(name, narrow):
  check(narrow, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE)
def test_an_op_with_16_bit_activations_is_bit_equal(name, wide):
  check(wide, name)


@pytest.mark.slow
def test_an_array_that_flash_holds_is_bit_equal(in_c, tmp_path):
  shape = (1, 3, 2, 4)
  codes = tuple(range(-12, 12))
  cases, images = [], []
  for bits, kind in ((8, np.int8), (16, np.int16)):
    nodes = (
      Node("held", "Constant", {"codes": codes}, (), ("held",), (), (shape,)),
      Node("op", "Maximum", {}, ("input", "held"), ("op",), (shape, shape), (shape,)),
    )
    grids = dict.fromkeys(("input", "held", "op"), Grid(np.float32(0.5), 0, bits))
    cases.append(QuantizedModel(Graph(nodes, shape, "op"), grids, {}, kernels="tflm"))
    images.append(np.random.default_rng(0).integers(-20, 20, (5, *shape[1:])).astype(kind))
  found = in_c(tmp_path, cases, images)
  for made, quantized, each in zip(found, cases, images, strict=True):
    expected = np.maximum(each, np.reshape(codes, shape)).astype(each.dtype)
    np.testing.assert_array_equal(made["logits"], expected)
    np.testing.assert_array_equal(quantized.run(each), expected)
