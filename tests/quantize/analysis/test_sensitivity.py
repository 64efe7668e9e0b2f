"""Sensitivities against one layer that is rounded by hand."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxcompress.nn import BatchNorm, Dense, GlobalAvgPool, fold, init_variables
from jaxcompress.quantize import allocate_bits, post_training, sensitivity
from jaxcompress.quantize.analysis.budget import choose_bits
from jaxcompress.quantize.fake_quant import Levels
from jaxcompress.quantize.ptq.weights import mse_scales
from jaxcompress.quantize.storage import packed_bytes


@pytest.fixture(scope="module")
def found(case):
  return sensitivity(case.model, case.variables, case.images, bits=(8, 3, 2), batch_size=10)


def logits_with(case, name, bits):
  """Logits in float64 whose layer ``name`` has rounded weights: the kernel is changed, not the graph."""
  high = 2 ** (bits - 1) - 1
  layer = fold(case.graph, case.variables)[name]
  scales = mse_scales(layer.weights, Levels(-high, high, True))
  codes = np.clip(np.rint(layer.weights / scales), -high, high)
  kernel = (codes * scales / layer.factor).astype(np.float32)
  params = {**case.variables["params"], name: {**case.variables["params"][name], "kernel": kernel}}
  return np.float64(
    case.model.apply({**case.variables, "params": params}, case.images, train=False)
  )


def log_softmax(logits):
  logits = np.float64(logits)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize(("name", "bits"), [("stem", 2), ("branch", 3), ("dense", 2)])
def test_a_cost_is_the_divergence_with_that_layer_rounded_by_hand(case, found, name, bits):
  log_p = log_softmax(case.model.apply(case.variables, case.images, train=False))
  log_q = log_softmax(logits_with(case, name, bits))
  expected = np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1))
  row = next(layer for layer in found.layers if layer.name == name)
  assert row.costs[found.bits.index(bits)] == pytest.approx(expected, rel=0.01)


def test_with_labels_a_cost_is_the_rise_of_the_loss(case):
  labels = np.arange(24) % 5
  found = sensitivity(
    case.model, case.variables, case.images, bits=(2,), labels=labels, measure="loss", batch_size=10
  )
  rows = np.arange(24)
  before = -log_softmax(case.model.apply(case.variables, case.images, train=False))[rows, labels]
  after = -log_softmax(logits_with(case, "branch", 2))[rows, labels]
  row = next(layer for layer in found.layers if layer.name == "branch")
  assert row.costs[0] == pytest.approx(after.mean() - before.mean(), rel=0.01)


def test_rows_are_the_layers_with_kernels_and_their_packed_bytes(case, found):
  assert [layer.name for layer in found.layers] == ["stem", "depthwise", "branch", "dense"]
  assert found.layers[0].bytes == tuple(27 * 8 * n // 8 + 8 * 8 for n in (8, 3, 2))
  assert found.bytes_at(8) == sum(layer.bytes[0] for layer in found.layers) + found.fixed_bytes
  assert found.fixed_bytes == 0
  assert all(
    a < b for layer in found.layers for a, b in zip(layer.costs, layer.costs[1:], strict=False)
  )
  with pytest.raises(ValueError, match="bits: 5 was not measured; 8, 3, 2 were"):
    found.bytes_at(5)


class Normed(nn.Module):
  """A normalization that no convolution precedes."""

  @nn.compact
  def __call__(self, x, *, train):
    x = BatchNorm(act="relu", name="norm")(x, train=train)
    return Dense(2, name="dense")(GlobalAvgPool(name="pool")(x))


def test_a_normalization_on_its_own_keeps_8_bits_and_counts(case):
  variables = init_variables(Normed(), jax.random.key(0), (8, 8, 3))
  found = sensitivity(Normed(), variables, case.images[:4], bits=(2,))
  assert [layer.name for layer in found.layers] == ["dense"]
  assert found.fixed_bytes == 3 + 3 * 8
  assert found.bytes_at(2) == 3 + 3 * 8 + 2 + 2 * 8  # 6 weights of 2 bits, 2 channels


def test_an_allocation_is_carried_out_after_training(case, found):
  budget = (found.bytes_at(8) + found.bytes_at(2)) // 2
  chosen = choose_bits(found, budget)
  model = post_training(
    case.model, case.variables, case.images, method="mse", rules=allocate_bits(found, budget)
  )
  size = sum(
    packed_bytes(layer.weights.size, len(layer.scales), chosen.bits[name])
    for name, layer in model.layers.items()
  )
  assert size == chosen.bytes <= budget
  for name, layer in model.layers.items():
    high = 2 ** (chosen.bits[name] - 1) - 1
    assert high / 2 < np.abs(layer.weights.astype(int)).max() <= high
  assert len(set(chosen.bits.values())) > 1


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"bits": ()}, r"bits: \(\) must be different numbers of 2 to 8"),
    ({"bits": (8, 8)}, r"bits: \(8, 8\) must be different"),
    ({"bits": (9,)}, r"bits: \(9,\) must be different numbers of 2 to 8"),
    ({"measure": "hessian"}, "measure: 'hessian' is unknown; it must be one of kl, loss"),
    ({"measure": "loss"}, "labels: they are missing, and measure='loss' needs them"),
    ({"labels": np.zeros(3, int)}, "labels: int64 of shape"),
    ({"scales": "max"}, "scales: 'max' is unknown; it must be one of absmax, mse"),
    ({"batch_size": 0}, "batch_size: 0"),
  ],
)
def test_arguments_that_do_not_fit_are_refused(case, options, message):
  with pytest.raises(ValueError, match=message):
    sensitivity(case.model, case.variables, case.images, **options)


def test_only_chosen_layers_are_rounded_and_only_theirs_are_the_bits(case, found):
  some = sensitivity(
    case.model, case.variables, case.images, bits=(8, 3, 2), layers="!first|last", batch_size=10
  )
  rows = {layer.name: layer for layer in found.layers}
  assert [layer.name for layer in some.layers] == ["depthwise", "branch"]
  for layer in some.layers:
    assert layer.bytes == rows[layer.name].bytes
    np.testing.assert_allclose(layer.costs, rows[layer.name].costs, rtol=1e-4)
  assert some.bytes_at(8) == found.bytes_at(8)
  least = found.bytes_at(8) - sum(row.bytes[0] - row.bytes[2] for row in some.layers)
  of_some, of_all = choose_bits(some, least), choose_bits(found, least, layers="!first|last")
  assert of_some.bits == {"depthwise": 2, "branch": 2}
  assert of_all.bits == {"stem": 8, "depthwise": 2, "branch": 2, "dense": 8}
  assert of_some.bytes == of_all.bytes == least
  for call in (
    lambda: choose_bits(some, least - 1),
    lambda: choose_bits(found, least - 1, layers="!first|last"),
  ):
    with pytest.raises(ValueError, match="which is the least"):
      call()
