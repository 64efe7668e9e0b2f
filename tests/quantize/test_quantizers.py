"""Ranges, quantizers, and BatchNorm folding through them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.nn import ConvNorm, Norm
from jaxcompress.quantize import absmax, ema_range, int8
from jaxcompress.quantize.fake_quant import debiased


@pytest.mark.parametrize("decay", [0.9, 0.99])
@pytest.mark.parametrize(("debias", "key"), [(False, "first_init"), (True, "zero_debias")])
def test_moving_ranges_are_the_golden_ones(golden, decay, debias, key):
  arrays = golden("quantize/ema")
  quantizer = ema_range(decay=decay, debias=debias)
  _, state = quantizer.init(arrays["x"][0])
  step = jax.jit(lambda state, x: quantizer.apply((), state, x, train=jnp.bool_(True))[1])
  for x, expected in zip(arrays["x"], arrays[f"{decay}/{key}_minmax"], strict=True):
    state = step(state, x)
    seen = debiased(state, decay) if debias else state
    np.testing.assert_allclose([seen.low, seen.high], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["conv", "depthwise"])
def test_fake_quantized_kernels_followed_by_batch_norm_equal_the_golden_layer(golden, kind):
  arrays = {k.split("/")[1]: v for k, v in golden("quantize/bnfold").items() if k.startswith(kind)}
  layer = ConvNorm(
    8,
    kernel=3,
    groups="depthwise" if kind == "depthwise" else 1,
    norm=Norm(epsilon=float(arrays["eps"])),
    padding="SYMMETRIC",
  )
  params = {"kernel": arrays["w"], "scale": arrays["gamma"], "bias": arrays["beta"]}
  stats = {"mean": arrays["mean"], "var": arrays["var"]}
  y = layer.apply({"params": params, "batch_stats": stats}, arrays["x"], train=False)
  np.testing.assert_allclose(y, arrays["y_bn_eval"], rtol=1e-4, atol=1e-5)
  live = layer.apply(
    {"params": params, "batch_stats": stats}, arrays["x"], train=True, mutable=["batch_stats"]
  )[1]["batch_stats"]
  np.testing.assert_allclose(
    live["mean"], 0.9 * arrays["mean"] + 0.1 * arrays["batch_mean"], rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: int8(9), "bits: 9 is out of range"),
    (lambda: int8(1), "bits: 1 is out of range"),
    (lambda: int8(4.0), "bits: 4.0 is out of range; it must be 2 to 8, and whole"),
    (lambda: int8("4"), "bits: '4' is out of range"),
    (lambda: absmax(7.5), "bits: 7.5 is out of range; it must be 2 to 16, and whole"),
    (lambda: absmax(True), "bits: True is out of range"),
    (lambda: ema_range(8.0), "bits: 8.0 is out of range"),
    (lambda: int8(start_step=-1), "start_step: -1"),
    (lambda: ema_range(decay=1.0), "decay: 1.0"),
  ],
)
def test_mistakes_name_the_argument_and_the_value(make, message):
  with pytest.raises(ValueError, match=message):
    make()
