"""Model files for edge runtimes, and their verification in those runtimes."""

from jaxcompress.export.contents import read_metadata
from jaxcompress.export.lint import Finding, lint
from jaxcompress.export.measure import arena, benchmark, vela
from jaxcompress.export.onnx import onnx, onnx_float
from jaxcompress.export.packed import load_packed, packed
from jaxcompress.export.pixels import pixel_range, read_pixels
from jaxcompress.export.runtime import Runtime, Verification, verify
from jaxcompress.export.stablehlo import load_stablehlo, stablehlo, stablehlo_float
from jaxcompress.export.targets import TARGETS
from jaxcompress.export.tflite import tflite, tflite_float, unpack

__all__ = [
  "TARGETS",
  "Finding",
  "Runtime",
  "Verification",
  "arena",
  "benchmark",
  "lint",
  "load_packed",
  "load_stablehlo",
  "onnx",
  "onnx_float",
  "packed",
  "pixel_range",
  "read_metadata",
  "read_pixels",
  "stablehlo",
  "stablehlo_float",
  "tflite",
  "tflite_float",
  "unpack",
  "vela",
  "verify",
]
