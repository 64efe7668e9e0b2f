"""Quantizers: named groups of pure functions, for weights and for activations."""

from jaxcompress.quantize.quantizers.base import (
  Anchor,
  Kind,
  Learned,
  Quantizer,
  Rounding,
  check_quantizer,
)
from jaxcompress.quantize.quantizers.binary import (
  approx_sign,
  binary_activations,
  bwn,
  bwn_weights,
  clip_sign,
  rprelu,
  rsign,
  rsign_activations,
  xnor,
  xnor_activations,
)
from jaxcompress.quantize.quantizers.cluster import (
  Centroids,
  cluster,
  cluster_weights,
  find_centroids,
)
from jaxcompress.quantize.quantizers.dorefa import (
  dorefa,
  dorefa_activations,
  dorefa_clip,
  dorefa_gradient,
  dorefa_weights,
  quantize_gradient,
  wrpn,
  wrpn_weights,
)
from jaxcompress.quantize.quantizers.ewgs import ewgs, ewgs_activations, ewgs_quantize, ewgs_round
from jaxcompress.quantize.quantizers.lsq import (
  lsq,
  lsq_activations,
  lsq_plus,
  lsq_plus_activations,
  lsq_plus_quantize,
  lsq_quantize,
)
from jaxcompress.quantize.quantizers.oscillation import Oscillation, freeze_oscillating
from jaxcompress.quantize.quantizers.pact import pact, pact_clip
from jaxcompress.quantize.quantizers.progressive import Progress, progressive
from jaxcompress.quantize.quantizers.stochastic import (
  stochastic,
  stochastic_fake_quant,
  stochastic_round,
)
from jaxcompress.quantize.quantizers.ternary import ttq, ttq_weights, twn, twn_weights
from jaxcompress.quantize.quantizers.uniform import (
  absmax,
  ema_range,
  fixed_range,
  mean_range,
  minmax_range,
)

__all__ = [
  "Anchor",
  "Centroids",
  "Kind",
  "Learned",
  "Oscillation",
  "Progress",
  "Quantizer",
  "Rounding",
  "absmax",
  "approx_sign",
  "binary_activations",
  "bwn",
  "bwn_weights",
  "check_quantizer",
  "clip_sign",
  "cluster",
  "cluster_weights",
  "dorefa",
  "dorefa_activations",
  "dorefa_clip",
  "dorefa_gradient",
  "dorefa_weights",
  "ema_range",
  "ewgs",
  "ewgs_activations",
  "ewgs_quantize",
  "ewgs_round",
  "find_centroids",
  "fixed_range",
  "freeze_oscillating",
  "lsq",
  "lsq_activations",
  "lsq_plus",
  "lsq_plus_activations",
  "lsq_plus_quantize",
  "lsq_quantize",
  "mean_range",
  "minmax_range",
  "pact",
  "pact_clip",
  "progressive",
  "quantize_gradient",
  "rprelu",
  "rsign",
  "rsign_activations",
  "stochastic",
  "stochastic_fake_quant",
  "stochastic_round",
  "ttq",
  "ttq_weights",
  "twn",
  "twn_weights",
  "wrpn",
  "wrpn_weights",
  "xnor",
  "xnor_activations",
]
