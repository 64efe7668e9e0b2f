"""Model files for edge runtimes, and their verification in those runtimes."""

from typing import TYPE_CHECKING

from jaxcompress.on_demand import import_on_demand

if TYPE_CHECKING:
  from jaxcompress.export.c99 import c
  from jaxcompress.export.certificate import Certificate, read_certificate, write_certificate
  from jaxcompress.export.certifying import certify
  from jaxcompress.export.checking import Check, check
  from jaxcompress.export.contents import read_metadata
  from jaxcompress.export.faults.dump import dump
  from jaxcompress.export.faults.locate import locate
  from jaxcompress.export.faults.result import Located
  from jaxcompress.export.foreign.explain import explain
  from jaxcompress.export.foreign.reading import from_tflite
  from jaxcompress.export.lint import Finding, lint
  from jaxcompress.export.measure import arena, benchmark, vela
  from jaxcompress.export.onnx import onnx, onnx_float
  from jaxcompress.export.packed import load_packed, packed
  from jaxcompress.export.pixels import pixel_range, read_pixels
  from jaxcompress.export.runtime import Runtime
  from jaxcompress.export.stablehlo import load_stablehlo, stablehlo, stablehlo_float
  from jaxcompress.export.targets import TARGETS
  from jaxcompress.export.tflite import tflite, tflite_float, unpack
  from jaxcompress.export.verification import Verification, verify

__all__ = [
  "TARGETS",
  "Certificate",
  "Check",
  "Finding",
  "Located",
  "Runtime",
  "Verification",
  "arena",
  "benchmark",
  "c",
  "certify",
  "check",
  "dump",
  "explain",
  "from_tflite",
  "lint",
  "load_packed",
  "load_stablehlo",
  "locate",
  "onnx",
  "onnx_float",
  "packed",
  "pixel_range",
  "read_certificate",
  "read_metadata",
  "read_pixels",
  "stablehlo",
  "stablehlo_float",
  "tflite",
  "tflite_float",
  "unpack",
  "vela",
  "verify",
  "write_certificate",
]

import_on_demand(__name__)
