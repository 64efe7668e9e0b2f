"""Faults that are planted in layers of a simulated device are located in them, and explained by their rule."""

import numpy as np
import pytest

from jaxcompress import export
from tests.export.faults.simulated import NETWORKS, Layer

pytestmark = pytest.mark.usefixtures("optimized")


def half_up(x):
  return np.floor(x + 0.5)


def half_away(x):
  return np.sign(x) * np.floor(np.abs(x) + 0.5)


def multiplier(factor):
  """Mantissas of 31 bits and how far they are shifted to the right."""
  mantissa, exponent = np.frexp(factor)
  return np.array([int(m * 2**31 + 0.5) for m in mantissa], object), 31 - exponent


def fixed(layer, twice):
  """A fixed-point product of Python's integers, rounded once or twice."""
  q31, shift = multiplier(layer.factor)
  total = (layer.sums() + layer.bias).astype(object)
  if not twice:
    return ((total * q31 + (1 << (shift.astype(object) - 1))) >> shift.astype(object)).astype(int)
  high = ((total * q31 + (1 << 30)) >> 31).astype(np.int64)
  right = shift - 31
  magnitude = (np.abs(high) + np.where(right > 0, 1 << np.maximum(right - 1, 0), 0)) >> right
  return np.sign(high) * magnitude


def wrap(values, bits):
  return (values + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def scaled(rounding):
  return lambda layer: layer.finish(rounding((layer.sums() + layer.bias) * layer.factor))


def in_float32(layer):
  factor = np.float32(layer.source.scale) * layer.scales / np.float32(layer.output.scale)
  return layer.finish(np.rint((layer.sums() + layer.bias).astype(np.float32) * factor))


def of_sums(change):
  """A layer whose accumulators, the bias among them, are changed, and rounded as XNNPACK does."""

  def fault(layer):
    factor = np.float32(layer.source.scale) * layer.scales / np.float32(layer.output.scale)
    total = change(layer.sums() + layer.bias)
    return layer.finish(np.rint(total.astype(np.float32) * factor))

  return fault


def with_parts(**parts):
  """A layer some of whose parts are other ones, by functions of the layer."""

  def fault(layer):
    for name, of in parts.items():
      setattr(layer, name, of(layer))
    return in_float32(layer)

  return fault


def clamped_before_zero_point(layer):
  factor = np.float32(layer.source.scale) * layer.scales / np.float32(layer.output.scale)
  steps = np.rint((layer.sums() + layer.bias).astype(np.float32) * factor)
  return layer.finish(np.clip(steps, -128, 127))


def clamped_before_bias(layer):
  factor = np.float32(layer.source.scale) * layer.scales / np.float32(layer.output.scale)
  steps, bias = (np.rint(np.float32(v) * factor) for v in (layer.sums(), layer.bias))
  low, high = (end - layer.output.zero_point for end in layer.ends(layer.act))
  return np.clip(np.clip(steps, low, high) + bias, low, high) + layer.output.zero_point


def wrapped_output(layer):
  factor = np.float32(layer.source.scale) * layer.scales / np.float32(layer.output.scale)
  steps = np.rint((layer.sums() + layer.bias).astype(np.float32) * factor)
  codes = wrap(steps + layer.output.zero_point, 8)
  return np.clip(codes, *layer.ends(layer.act))


def from_code_zero(layer):
  factor = np.float32(layer.source.scale) * layer.scales / np.float32(layer.output.scale)
  steps = np.rint((layer.sums() + layer.bias).astype(np.float32) * factor)
  return np.clip(steps + layer.output.zero_point, 0, layer.ends(layer.act)[1])


def as_ohwi(layer):
  """Memory in the order outputs, rows, columns, inputs, read as rows, columns, inputs, outputs."""
  return layer.weights.transpose(3, 0, 1, 2).reshape(layer.weights.shape)


LAYERS = {  # fault: (network, layer, how, rule)
  "half up": ("tied inverted", "head", scaled(half_up), "rounding half up"),
  "half away": ("tied inverted", "head", scaled(half_away), "rounding half away from zero"),
  "truncation": ("inverted", "expand", scaled(np.trunc), "truncation"),
  "down": ("excited", "project", scaled(np.floor), "rounding down"),
  "double rounding": (
    *("inverted", "head"),
    lambda layer: layer.finish(fixed(layer, twice=True)),
    "double rounding",
  ),
  "bias missing": (
    *("inverted", "depthwise"),
    with_parts(bias=lambda layer: 0 * layer.bias),
    "bias missing",
  ),
  "clamped before the zero point": (
    *("inverted", "project"),
    clamped_before_zero_point,
    "clamped before the zero point was added",
  ),
  "clamped before the bias": (
    *("residual", "one"),
    clamped_before_bias,
    "clamped before the bias was added",
  ),
  "no activation": (
    *("inverted", "depthwise"),
    with_parts(act=lambda layer: None),
    "activation not applied",
  ),
  "relu for relu6": (
    *("inverted", "expand"),
    with_parts(act=lambda layer: "relu"),
    "another activation function",
  ),
  "from code 0": ("residual", "stem", from_code_zero, "activation between other bounds"),
  "one scale": (
    *("shuffled", "branch"),
    with_parts(scales=lambda layer: np.full_like(layer.scales, layer.scales[0])),
    "one scale in place of one for each channel",
  ),
  "16 bits": (
    *("residual", "two"),
    of_sums(lambda total: wrap(total, 16)),
    "accumulator wraps around",
  ),
  "saturating at 16 bits": (
    *("residual", "one"),
    of_sums(lambda total: np.clip(total, -(2**15), 2**15 - 1)),
    "accumulator saturates",
  ),
  "padding of 0": (
    *("inverted", "depthwise"),
    with_parts(pad=lambda layer: 0),
    "padding with 0 in place of the zero point",
  ),
  "other side": (
    *("residual", "one"),
    with_parts(pads=lambda layer: tuple(pair[::-1] for pair in layer.pads)),
    "padding on other sides",
  ),
  "order of weights": (
    *("residual", "two"),
    with_parts(weights=as_ohwi),
    "weights in another order",
  ),
  "wrapping output": (
    *("inverted", "project"),
    wrapped_output,
    "output wraps around in place of saturating",
  ),
  "input's zero point": (
    *("residual", "shortcut"),
    with_parts(zero=lambda layer: 0),
    "input's zero point ignored",
  ),
  "input's zero point, in padding too": (
    *("inverted", "depthwise"),
    with_parts(zero=lambda layer: 0, pad=lambda layer: layer.source.zero_point),
    "input's zero point ignored",
  ),
  "linear": (
    *("shuffled", "classifier"),
    with_parts(weights=lambda layer: layer.weights.T.reshape(layer.weights.shape)),
    "weights in another order",
  ),
}


def rules(found):
  return {one.rule for one in found.explanation}


@pytest.mark.slow
@pytest.mark.parametrize("fault", LAYERS)
def test_a_fault_of_a_layer_is_located_and_explained(fault, device):
  network, layer, how, rule = LAYERS[fault]
  made = device(network)
  written = how(Layer(made, layer))
  found = export.locate(made.quantized, made.dump(layer, written))
  assert found.layer == layer and rule in rules(found), str(found)
  steps = written - made.sound[made.node(layer).output]
  assert found.share == np.mean(steps != 0) and found.most_steps == np.abs(steps).max()
  assert found.mean == pytest.approx(steps.mean())
  assert steps[(found.image, *found.where)] != 0
  assert (found.also, found.among) == ((), (layer,))


def test_the_simulated_layers_are_exact_without_a_fault(device):
  for name in NETWORKS:
    made = device(name)
    for node in made.quantized.graph.nodes:
      if node.op in ("ConvNorm", "Dense") and node.attrs.get("act") != "hard_sigmoid":
        layer = Layer(made, node.name)
        np.testing.assert_array_equal(in_float32(layer), made.sound[node.output])
