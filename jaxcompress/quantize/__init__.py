"""Integers: grids, quantizers, the transforms that apply them, and exact evaluation."""

from jaxcompress.quantize.activations import ActivationPass, Exact, quantize_activations
from jaxcompress.quantize.analysis import (
  Allocation,
  Analysis,
  LayerAnalysis,
  LayerSensitivity,
  Sensitivity,
  Suggestion,
  allocate_bits,
  analyze,
  choose_bits,
  sensitivity,
  suggest,
  suggested_rules,
)
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
from jaxcompress.quantize.exact import exact_values
from jaxcompress.quantize.fake_quant import (
  Levels,
  Range,
  affine,
  fake_quant,
  folded_train,
  levels,
  to_integers,
)
from jaxcompress.quantize.integer import Grid, Integers
from jaxcompress.quantize.interop import activation_to_qwix, to_qwix
from jaxcompress.quantize.kernels import quantize_kernels
from jaxcompress.quantize.model import Move, QuantizedModel
from jaxcompress.quantize.ptq import (
  METHODS,
  Trial,
  calibrate,
  grids_apart,
  post_training,
  search,
)
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
from jaxcompress.quantize.sites import (
  Assigned,
  Sites,
  assign,
  find_sites,
  tensor_bits,
)
from jaxcompress.quantize.storage import (
  bits_of,
  model_bytes,
  packed_bytes,
  weight_bytes,
  zero_share,
)
from jaxcompress.quantize.trained import Codes, convert, trained_codes
from jaxcompress.quantize.variables import QuantVariables, init_quantizers

__all__ = [
  "METHODS",
  "ActivationPass",
  "Allocation",
  "Analysis",
  "Assigned",
  "Codes",
  "Exact",
  "Grid",
  "Integers",
  "LayerAnalysis",
  "LayerSensitivity",
  "Levels",
  "Move",
  "QuantVariables",
  "Quantization",
  "QuantizedModel",
  "Quantizer",
  "Range",
  "Rule",
  "Sensitivity",
  "Sites",
  "Suggestion",
  "Trial",
  "absmax",
  "activation_to_qwix",
  "affine",
  "allocate_bits",
  "analyze",
  "assemble",
  "assign",
  "binary",
  "binary_activations",
  "bits_of",
  "bwn",
  "calibrate",
  "choose_bits",
  "cluster",
  "clustered",
  "convert",
  "dorefa",
  "dorefa_activations",
  "ema_range",
  "ewgs",
  "ewgs_activations",
  "exact_values",
  "fake_quant",
  "find_sites",
  "first_last_8bit",
  "fixed_range",
  "folded_train",
  "freeze_oscillating",
  "grids_apart",
  "init_quantizers",
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
  "packed_bytes",
  "pact",
  "post_training",
  "progressive",
  "quantize_activations",
  "quantize_kernels",
  "rsign_activations",
  "search",
  "sensitivity",
  "squeeze_excite_16bit",
  "stochastic",
  "suggest",
  "suggested_rules",
  "tensor_bits",
  "ternary",
  "to_integers",
  "to_qwix",
  "trained_codes",
  "ttq",
  "twn",
  "w4a8",
  "w8a16",
  "weight_bytes",
  "wrpn",
  "xnor",
  "xnor_activations",
  "zero_share",
]
