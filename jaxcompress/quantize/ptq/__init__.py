"""Post-training quantization: calibration, equalization, correction, learned rounding, the search."""

from jaxcompress.quantize.ptq.drive import Trial, post_training, search
from jaxcompress.quantize.ptq.histograms import CALIBRATORS, Calibrator
from jaxcompress.quantize.ptq.observe import calibrate, grids_apart
from jaxcompress.quantize.ptq.recipes import METHODS, Method

__all__ = [
  "CALIBRATORS",
  "METHODS",
  "Calibrator",
  "Method",
  "Trial",
  "calibrate",
  "grids_apart",
  "post_training",
  "search",
]
