"""Files as TensorFlow's converter spells them, written by hand, since TensorFlow is no dependency."""

import numpy as np
import pytest

from jaxcompress import export
from jaxcompress.export.flatbuffer import ModelFile
from jaxcompress.nn import INPUT


class Spelling:
  """A .tflite file in the making, with random integers, whose operators are named one by one."""

  def __init__(self, path, shape=(1, 8, 8, 4), bits=8, grid=(0.05, 3)):
    self.path, self.file, self.rng, self.bits = path, ModelFile(), np.random.default_rng(0), bits
    self.shape_of = {}
    self.source = self.last = self.tensor(shape, grid)

  @property
  def dtype(self):
    return np.int8 if self.bits == 8 else np.int16

  def tensor(self, shape, grid=(0.05, 3), dtype=None):
    """A new activation tensor; floats have no grid."""
    scale = (
      None if grid is None else self.file.quantization(grid[0], grid[1] if self.bits == 8 else 0)
    )
    dtype = dtype or (np.float32 if grid is None else self.dtype)
    found = self.file.tensor(f"t{len(self.shape_of)}", shape, dtype, scale)
    self.shape_of[found] = shape
    return found

  def numbers(self, values):
    return self.file.constant(np.asarray(values, np.int32))

  def constant(self, shape, grid=(0.03, -5)):
    """Random codes on a grid."""
    codes = self.rng.integers(-100, 100, shape).astype(self.dtype)
    return self.file.constant(codes, self.file.quantization(*grid))

  def weights(self, shape, axis=0, scales=None, zero_point=0):
    """Random int8 weights with a scale for each channel, or the scales that are given."""
    data = self.rng.integers(-127, 128, shape).astype(np.int8)
    scales = self.rng.uniform(0.0005, 0.003, shape[axis]) if scales is None else scales
    quantization = self.file.quantization(scales, zero_point, axis)
    return self.file.tensor(f"w{self.rng.integers(10**9)}", shape, np.int8, quantization, data)

  def bias(self, count, scales=None):
    """Random biases with a scale for each channel, or the scales that are given."""
    data = self.rng.integers(-3000, 3000, count).astype(np.int32 if self.bits == 8 else np.int64)
    scales = np.linspace(1e-4, 2e-4, count) if scales is None else scales
    return self.file.constant(data, self.file.quantization(scales, 0))

  def add(self, code, inputs, shape, grid=(0.05, 3), version=1, options=None, **fields):
    """An operator whose output is the last tensor."""
    self.last = self.tensor(shape, grid)
    self.file.operator(code, version, inputs, [self.last], options, **fields)
    return self.last

  def write(self, outputs=None):
    self.path.write_bytes(self.file.to_bytes({"x": self.source}, outputs or {"y": self.last}))
    return self.path


@pytest.fixture
def spelling(tmp_path):
  """``spelling(...)`` begins a file."""
  return lambda **options: Spelling(tmp_path / "foreign.tflite", **options)


@pytest.fixture
def codes_equal():
  """Reads a file, runs it in LiteRT's two kinds of kernels and TFLite-Micro, and compares all codes."""

  def check(path, runtimes=("xnnpack", "reference", "tflm"), count=4, kernels="xnnpack"):
    model = export.from_tflite(path, kernels=kernels)
    grid, shape = model.grids[INPUT], model.graph.input_shape[1:]
    steps = np.random.default_rng(1).integers(grid.low, grid.high + 1, (count, *shape))
    images = (steps * np.float64(grid.scale)).astype(np.float32)
    for runtime in runtimes:
      found = export.verify(path, model.with_kernels(runtime), images)
      assert found.bit_equal == 1.0, runtime
    return model

  return check
