"""Quantization, in training and after it: plans, quantizers, and the integer model of both."""

from jaxcompress.quantize.analysis.analyze import analyze
from jaxcompress.quantize.analysis.budget import allocate_bits
from jaxcompress.quantize.analysis.findings import suggest
from jaxcompress.quantize.analysis.sensitivity import sensitivity
from jaxcompress.quantize.codes import assemble
from jaxcompress.quantize.config import (
  Quantization,
  binary,
  clustered,
  int4,
  int8,
  ternary,
  w4a8,
  w8a16,
)
from jaxcompress.quantize.fake_quant import fake_quant, levels
from jaxcompress.quantize.interop import to_qwix
from jaxcompress.quantize.model import QuantizedModel
from jaxcompress.quantize.ptq.algorithms import ALGORITHMS
from jaxcompress.quantize.ptq.apart import grids_apart
from jaxcompress.quantize.ptq.fine_tune import fine_tune
from jaxcompress.quantize.ptq.post_training import post_training
from jaxcompress.quantize.quantizers.around import freeze_oscillating, progressive, stochastic
from jaxcompress.quantize.quantizers.base import Quantizer
from jaxcompress.quantize.quantizers.binary import (
  binary_activations,
  bwn,
  rsign_activations,
  xnor,
  xnor_activations,
)
from jaxcompress.quantize.quantizers.clipped import dorefa, dorefa_activations, pact, wrpn
from jaxcompress.quantize.quantizers.cluster import cluster
from jaxcompress.quantize.quantizers.lsq import (
  ewgs,
  ewgs_activations,
  lsq,
  lsq_activations,
  lsq_plus,
  lsq_plus_activations,
)
from jaxcompress.quantize.quantizers.ternary import ttq, twn
from jaxcompress.quantize.quantizers.uniform import (
  absmax,
  ema_range,
  fixed_range,
  mean_range,
  minmax_range,
)
from jaxcompress.quantize.rules import Rule, first_last_8bit, squeeze_excite_16bit
from jaxcompress.quantize.storage import model_bytes, zero_share
from jaxcompress.quantize.transforms import QuantTransform, transform

__all__ = [
  "ALGORITHMS",
  "QuantTransform",
  "Quantization",
  "QuantizedModel",
  "Quantizer",
  "Rule",
  "absmax",
  "allocate_bits",
  "analyze",
  "assemble",
  "binary",
  "binary_activations",
  "bwn",
  "cluster",
  "clustered",
  "dorefa",
  "dorefa_activations",
  "ema_range",
  "ewgs",
  "ewgs_activations",
  "fake_quant",
  "fine_tune",
  "first_last_8bit",
  "fixed_range",
  "freeze_oscillating",
  "grids_apart",
  "int4",
  "int8",
  "levels",
  "lsq",
  "lsq_activations",
  "lsq_plus",
  "lsq_plus_activations",
  "mean_range",
  "minmax_range",
  "model_bytes",
  "pact",
  "post_training",
  "progressive",
  "rsign_activations",
  "sensitivity",
  "squeeze_excite_16bit",
  "stochastic",
  "suggest",
  "ternary",
  "to_qwix",
  "transform",
  "ttq",
  "twn",
  "w4a8",
  "w8a16",
  "wrpn",
  "xnor",
  "xnor_activations",
  "zero_share",
]
