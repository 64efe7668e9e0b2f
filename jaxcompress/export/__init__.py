"""Model files for edge runtimes, and their verification in those runtimes."""

from jaxcompress.export.contents import Operator, Tensor, read_metadata, read_operators
from jaxcompress.export.files import MissingExtraError, require_edge
from jaxcompress.export.latency import Latency, benchmark
from jaxcompress.export.lint import Finding, lint
from jaxcompress.export.micro import arena
from jaxcompress.export.onnx import onnx, onnx_float
from jaxcompress.export.packed import load_packed, packed, unpack
from jaxcompress.export.pixels import PixelModel, pixel_range, read_pixels
from jaxcompress.export.rules import Rule, Target
from jaxcompress.export.runtime import Runtime
from jaxcompress.export.stablehlo import load_stablehlo, stablehlo, stablehlo_float
from jaxcompress.export.targets import TARGETS
from jaxcompress.export.tflite import tflite, tflite_float
from jaxcompress.export.vela import CpuOperator, VelaReport, vela
from jaxcompress.export.verify import Verification, verify

__all__ = [
  "TARGETS",
  "CpuOperator",
  "Finding",
  "Latency",
  "MissingExtraError",
  "Operator",
  "PixelModel",
  "Rule",
  "Runtime",
  "Target",
  "Tensor",
  "VelaReport",
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
  "read_operators",
  "read_pixels",
  "require_edge",
  "stablehlo",
  "stablehlo_float",
  "tflite",
  "tflite_float",
  "unpack",
  "vela",
  "verify",
]
