"""Array functions of post-training quantization against values computed with torch and numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.nn import Folded, Graph, Node
from jaxcompress.ops import conv, depthwise_conv
from jaxcompress.quantize import levels
from jaxcompress.quantize.fake_quant import Levels, fake_quant, folded_train
from jaxcompress.quantize.ptq.adaround import as_they_are, regulariser, soft_rounding, soft_weights
from jaxcompress.quantize.ptq.calibrators import BINS, Seen, aciq, laplace_ratio, mse, percentile
from jaxcompress.quantize.ptq.correct import correct_with_moments
from jaxcompress.quantize.ptq.equalize import by_input, pair_scales, scale_inputs, triple_scales
from jaxcompress.quantize.ptq.moments import Moments, absorbed
from jaxcompress.quantize.ptq.weights import clipping_errors, mse_scales

EXACT = dict(rtol=1e-10, atol=1e-12)
CLOSE = dict(rtol=1e-4, atol=1e-5)
INT4 = Levels(-8, 7, True)


def node_of(kernel):
  """A convolution with a kernel of this shape."""
  depth, out = kernel.shape[2:]
  channels = out if depth == 1 else depth
  groups = "depthwise" if depth == 1 else 1
  attrs = {"kernel": kernel.shape[0], "groups": groups, "features": out}
  shapes = ((1, 4, 4, channels),), ((1, 4, 4, out),)
  return Node("conv", "ConvNorm", attrs, ("input",), ("conv",), *shapes)


def seen_of(x, nonnegative=False):
  low, high = (0.0 if nonnegative else x.min()), x.max()
  counts = np.histogram(x, BINS, (low, high))[0].astype(float)
  return Seen(float(low), float(high), (float(low), float(high)), counts, nonnegative)


@pytest.fixture
def ptq(golden):
  return golden("quantize/ptq_algos")


@pytest.fixture
def calibration(golden):
  return golden("quantize/calibration")


def largest(kernel):
  return np.abs(kernel).reshape(-1, kernel.shape[-1]).max(axis=0)


def test_equalization_of_a_pair(ptq):
  first, last = ptq["cle/W1"], ptq["cle/W3"]
  node = node_of(last)
  scale = pair_scales(largest(first), by_input(node, last))
  np.testing.assert_allclose(scale, ptq["cle/pair_s"], **EXACT)
  np.testing.assert_allclose(first / scale, ptq["cle/pair_W1"], **EXACT)
  np.testing.assert_allclose(ptq["cle/b1"] / scale, ptq["cle/pair_b1"], **EXACT)
  np.testing.assert_allclose(scale_inputs(node, last, scale), ptq["cle/pair_W3"], **EXACT)


def test_equalization_around_a_depthwise_layer(ptq):
  first, middle, last = (ptq[f"cle/{name}"] for name in ("W1", "W2dw", "W3"))
  s1, s2 = triple_scales(largest(first), largest(middle), by_input(node_of(last), last))
  np.testing.assert_allclose(s1, ptq["cle/triple_s1"], **EXACT)
  np.testing.assert_allclose(s2, ptq["cle/triple_s2"], **EXACT)
  np.testing.assert_allclose(first / s1, ptq["cle/triple_W1"], **EXACT)
  moved = scale_inputs(node_of(middle), middle, s1) / s2
  np.testing.assert_allclose(moved, ptq["cle/triple_W2dw"], **EXACT)
  np.testing.assert_allclose(scale_inputs(node_of(last), last, s2), ptq["cle/triple_W3"], **EXACT)
  np.testing.assert_allclose(ptq["cle/b2"] / s2, ptq["cle/triple_b2"], **EXACT)


def test_absorbed_bias(ptq):
  shift = absorbed(Moments(ptq["absorb/beta"], ptq["absorb/gamma"]))
  np.testing.assert_allclose(shift, ptq["absorb/c"], **EXACT)


def test_bias_correction(ptq):
  read = lambda name: ptq[f"biascorr/{name}"]  # noqa: E731
  mean, size = read("x").mean(axis=0), read("W").shape
  norm = Node("norm", "BatchNorm", {}, ("input",), ("norm",), ((1, size[0]),), ((1, size[0]),))
  dense = Node("dense", "Dense", {}, ("norm",), ("dense",), ((1, size[0]),), ((1, size[1]),))
  (layer,) = correct_with_moments(
    Graph((norm, dense), (1, size[0]), "dense"),
    {"dense": Folded(read("W"), np.ones(size[1]), read("b"))},
    {"dense": read("Wq")},
    {"norm": Moments(mean, np.ones(size[0]))},
  ).values()
  np.testing.assert_allclose(layer.bias, read("b_corrected"), **CLOSE)


def test_soft_rounding_and_its_gradient(ptq):
  read = lambda name: jnp.asarray(ptq[f"adaround/{name}"], jnp.float32)  # noqa: E731
  np.testing.assert_allclose(soft_rounding(read("V")), read("h"), **CLOSE)
  weights, pull = jax.vjp(lambda v: soft_weights(read("w"), read("s"), v, INT4), read("V"))
  np.testing.assert_allclose(weights, read("w_soft_int4"), **CLOSE)
  np.testing.assert_allclose(pull(read("g"))[0], read("dV"), **CLOSE)


def test_the_regulariser_and_its_gradient(ptq):
  v = jnp.asarray(ptq["adaround/V"], jnp.float32)
  value, slope = jax.value_and_grad(regulariser)(v, 4.0)
  np.testing.assert_allclose(value, ptq["adaround/reg_beta4"], rtol=1e-5)
  np.testing.assert_allclose(slope, ptq["adaround/dreg_dV"], **CLOSE)


def test_rounding_starts_where_nothing_changes(ptq):
  read = lambda name: jnp.asarray(ptq[f"adaround/{name}"], jnp.float32)  # noqa: E731
  start = as_they_are(read("w"), read("s"))
  np.testing.assert_allclose(start, read("V_init_nearest"), rtol=1e-3, atol=1e-4)
  wide = Levels(-1000, 1000, True)
  np.testing.assert_allclose(soft_weights(read("w"), read("s"), start, wide), read("w"), **CLOSE)


@pytest.mark.parametrize("share", [99.0, 99.9, 99.99])
def test_percentiles_up_to_the_width_of_a_bin_or_the_gap_to_the_next_value(calibration, share):
  for values, name in (
    (calibration["relu/x"], f"relu/percentile_{share}"),
    (np.abs(calibration["signed/x"]), f"signed/percentile_abs_{share}"),
  ):
    seen, wanted = seen_of(values, nonnegative=True), calibration[name]
    low, high = percentile(share).choose(seen)
    ordered = np.sort(values)
    at = np.searchsorted(ordered, wanted)
    width = 2 * seen.high / BINS
    assert low == 0
    assert ordered[at - 2] - width <= high <= ordered[at + 1] + width


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("kind", ["relu", "signed"])
def test_the_search_for_the_least_squared_error(calibration, kind, bits):
  to = Levels(0, 2**bits - 1, True) if kind == "relu" else levels(bits, symmetric=True, narrow=True)
  clips, errors = clipping_errors(calibration[f"{kind}/x"], to, np.arange(1, 101) / 100)
  np.testing.assert_allclose(clips, calibration[f"{kind}/mse_{bits}_grid"], rtol=1e-6)
  np.testing.assert_allclose(errors, calibration[f"{kind}/mse_{bits}_err"], rtol=1e-4)
  assert clips[np.argmin(errors)] == pytest.approx(calibration[f"{kind}/mse_{bits}_best"])


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_scales_of_weights_are_those_of_the_search(calibration, bits):
  x = calibration["signed/x"]
  to = levels(bits, symmetric=True, narrow=True)
  kernel = np.stack([x, 3 * x, 0 * x], axis=-1)
  scales = mse_scales(kernel, to)
  wanted = calibration[f"signed/mse_{bits}_best"] / to.high
  np.testing.assert_allclose(scales[:2], [wanted, 3 * wanted], rtol=1e-6)
  assert scales[2] == 1.0


def test_ranges_with_the_least_squared_error_from_a_histogram(calibration):
  low, high = mse(seen_of(calibration["relu/x"], nonnegative=True))
  assert low == 0
  assert high == pytest.approx(calibration["relu/mse_8_best"], rel=0.02)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_ratios_of_a_laplace_distribution(calibration, bits):
  assert laplace_ratio(bits) == pytest.approx(calibration[f"aciq_laplace_exact_ratio_{bits}"])


def test_analytical_clipping_from_a_histogram(calibration):
  x = calibration["signed/x"]
  low, high = aciq(seen_of(x))
  assert x.mean() - low == pytest.approx(calibration["signed/aciq_laplace_8_alpha"], rel=5e-3)
  assert high == pytest.approx(x.max())
  _, high = aciq(seen_of(calibration["relu/x"], nonnegative=True))
  assert high == pytest.approx(calibration["relu/aciq_laplace_half_8_alpha"], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["conv", "depthwise"])
def test_training_with_folded_normalization(golden, kind):
  file = golden("quantize/bnfold")
  read = lambda name: jnp.asarray(file[f"{kind}/{name}"], jnp.float32)  # noqa: E731
  groups = 8 if kind == "depthwise" else 1
  to = levels(8, symmetric=True, narrow=True)

  def forward(kernel, gamma, beta):
    return folded_train(
      read("x"),
      kernel,
      gamma,
      beta,
      read("var"),
      read("scale_w"),
      to=to,
      epsilon=float(file[f"{kind}/eps"]),
      groups=groups,
    )

  inputs = read("w"), read("gamma"), read("beta")
  y, pull, statistics = jax.vjp(forward, *inputs, has_aux=True)
  np.testing.assert_allclose(statistics.mean, read("batch_mean"), **CLOSE)
  np.testing.assert_allclose(statistics.variance, read("batch_var"), rtol=1e-4)
  np.testing.assert_allclose(y, read("y_train_correction"), rtol=1e-4, atol=1e-4)
  for slope, name in zip(pull(read("g")), ("dw", "dgamma", "dbeta"), strict=True):
    np.testing.assert_allclose(slope, read(name), rtol=1e-3, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("kind", ["conv", "depthwise"])
def test_evaluation_with_folded_and_rounded_weights(golden, kind):
  file = golden("quantize/bnfold")
  read = lambda name: jnp.asarray(file[f"{kind}/{name}"], jnp.float32)  # noqa: E731
  to = levels(8, symmetric=True, narrow=True)
  rounded = fake_quant(read("w_folded"), read("scale_w").reshape(1, 1, 1, -1), 0.0, to)
  np.testing.assert_allclose(rounded, read("wq"), **CLOSE)
  run = depthwise_conv if kind == "depthwise" else conv
  y = run(read("x"), rounded) + read("b_folded").reshape(1, 1, 1, -1)
  np.testing.assert_allclose(y, read("y_eval_q"), rtol=1e-4, atol=1e-4)
