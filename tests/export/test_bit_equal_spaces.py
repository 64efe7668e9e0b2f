"""Layers that change height and width are bit-equal whatever their geometry, or refused."""

import flax.linen as nn
import numpy as np
import pytest

from jaxcompress import export
from jaxcompress.nn import ConvTranspose, Graph, Node
from jaxcompress.ops.transposed import resolve_transposed, transposed_size
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.runtimes import KERNELS_16

pytestmark = pytest.mark.usefixtures("optimized")


def resizing(size, to, method="bilinear", sampling="half_pixel", channels=3, grid=None):
  """A quantized network of one Resize."""
  grid = grid or Grid(np.float32(0.05), -7)
  shapes = ((1, *size, channels),), ((1, *to, channels),)
  fields = {"size": to, "method": method, "sampling": sampling}
  node = Node("op", "Resize", fields, ("input",), ("op",), *shapes)
  return QuantizedModel(Graph((node,), shapes[0][0], "op"), {"input": grid, "op": grid}, {})


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_resizing_of_any_size_is_bit_equal(seed, kernels, networks, check):
  rng = np.random.default_rng(seed)
  height, width, rows, columns = (int(n) for n in rng.integers(1, 24, 4))
  if seed % 2:
    rows, columns = height * int(rng.integers(1, 5)), width * int(rng.integers(1, 5))
  sampling = ("half_pixel", "asymmetric", "align_corners")[seed % 3]
  grid = Grid(np.float32(0.03), int(rng.integers(-128, 128)))
  quantized = resizing((height, width), (rows, columns), sampling=sampling, grid=grid)
  assert check(quantized, images=8, seed=seed, kernels=kernels).bit_equal == 1.0
  sampling = ("half_pixel", "asymmetric")[seed % 2]
  quantized = resizing((height, width), (rows, columns), "nearest", sampling, grid=grid)
  assert check(quantized, images=8, seed=seed, kernels=kernels).bit_equal == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_resizing_of_16_bits_is_bit_equal_where_runtimes_have_it(seed, check):
  rng = np.random.default_rng(seed)
  size, to = (tuple(int(n) for n in rng.integers(1, 16, 2)) for _ in range(2))
  quantized = resizing(size, to, grid=Grid(np.float32(0.001), 0, 16))
  for kernels in KERNELS_16:
    if kernels != "tflm":
      assert check(quantized, images=8, seed=seed, kernels=kernels).bit_equal == 1.0


class Transposed(nn.Module):
  layer: ConvTranspose

  @nn.compact
  def __call__(self, x, *, train):
    return self.layer.copy(name="op")(x, train=train)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_transposed_convolutions_of_any_geometry_are_bit_equal(seed, kernels, networks, check):
  rng = np.random.default_rng(seed)
  size = tuple(int(n) for n in rng.integers(2, 9, 2))
  kernel, stride = (tuple(int(n) for n in rng.integers(1, most, 2)) for most in (6, 4))
  padding = ("SAME", "VALID")[seed % 2]
  if seed > 3:
    ends = zip(kernel, stride, strict=True)
    padding = tuple((int(rng.integers(k)), int(rng.integers(k + s - 1))) for k, s in ends)
  assert min(transposed_size(size, kernel, stride, resolve_transposed(padding, kernel, stride))) > 0
  act = (None, "relu", "relu6")[seed % 3]
  layer = ConvTranspose(5, kernel=kernel, stride=stride, padding=padding, act=act)
  quantized = networks.random_quantized(Transposed(layer), (*size, 7), seed)
  result = check(quantized, images=8, seed=seed, kernels=kernels)
  assert (result.bit_equal, result.left_out) == (1.0, ())


def test_runtimes_weigh_cells_differently(networks):
  """So that the tests above tell their arithmetics apart."""
  quantized = resizing((7, 5), (12, 11))
  images = networks.images_for(quantized, 20)
  made = [
    quantized.with_kernels(name).integers(images) for name in ("xnnpack", "tflm", "onnxruntime")
  ]
  for one, other in ((0, 1), (1, 2), (0, 2)):
    assert 0 < np.mean(made[one] != made[other]) < 0.3
    assert np.abs(made[one].astype(int) - made[other]).max() <= 2


def test_positions_that_reference_kernels_round_beyond_the_map_are_refused():
  quantized = resizing((8, 8), (8, 201), sampling="asymmetric")
  with pytest.raises(ValueError, match=r"layer 'op': size: .* from 8 to 201 cells read beyond"):
    quantized.with_kernels("reference")


def test_shares_that_float_does_not_hold_are_refused():
  quantized = resizing((251, 241), (263, 271), channels=1)
  with pytest.raises(ValueError, match=r"layer 'op': size: .* resize by a whole number"):
    quantized.with_kernels("onnxruntime")


def test_cells_that_tflite_does_not_copy_are_refused(tmp_path):
  quantized = resizing((2, 2), (41, 41), "nearest")
  with pytest.raises(ValueError, match="layer 'op' resizes 2 x 2 cells to 41 x 41"):
    export.tflite(quantized, tmp_path / "net.tflite")
  path = export.onnx(quantized.with_kernels("onnxruntime"), tmp_path / "net.onnx")
  images = np.random.default_rng(0).normal(size=(4, 2, 2, 3)).astype(np.float32)
  assert export.verify(path, quantized.with_kernels("onnxruntime"), images).bit_equal == 1.0
