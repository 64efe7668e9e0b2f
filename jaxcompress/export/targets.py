"""What devices and their tools ask of a model file: tables of requirements, each with its reason."""

from collections.abc import Mapping

from jaxcompress.export.operators import (
  EDGE_TPU_OPERATORS,
  ETHOS_OPERATORS,
  TENSORRT_OPERATORS,
  TFLM_OPERATORS,
  XNNPACK_OPERATORS,
)
from jaxcompress.export.requirements import (
  ACTIVATION_BITS,
  CONSTANT,
  INTEGER_FILE,
  SLIDING,
  STATIC,
  WARNING,
  WEIGHTED,
  Requirement,
  Target,
)

XNNPACK = Target(
  "LiteRT with XNNPACK",
  ".tflite",
  (
    *INTEGER_FILE,
    Requirement(
      "version",
      {"CONV_2D": 6, "FULLY_CONNECTED": 11},
      "older runtimes refuse newer versions of an operator; write the lowest that holds it",
      WARNING,
    ),
    Requirement(
      "weight-types", ("INT4", "INT8"), "other weights have no kernel", operators=WEIGHTED
    ),
    Requirement(
      "weight-types",
      ("INT8",),
      "weights of 4 bits run on slow kernels outside XNNPACK; unpack them to int8",
      WARNING,
      ("CONV_2D", "DEPTHWISE_CONV_2D"),
    ),
    Requirement(
      "operator",
      XNNPACK_OPERATORS,
      "XNNPACK leaves it to LiteRT's own kernels: the same integers, but slower",
      WARNING,
    ),
    Requirement(
      "activation-types",
      ("FLOAT32", "INT8", "UINT8"),
      "XNNPACK has 8-bit kernels only and leaves the rest to LiteRT's own: slower",
      WARNING,
    ),
    Requirement(
      "activation-types",
      ("FLOAT32", "INT8"),
      "XNNPACK leaves the shift of unsigned codes to LiteRT's own kernel: the same integers",
      WARNING,
      ("QUANTIZE",),
    ),
    Requirement(
      "fan-in", 5, "XNNPACK joins at most five tensors at once", WARNING, ("CONCATENATION",)
    ),
    Requirement("fan-out", 4, "XNNPACK splits into at most four parts", WARNING, ("SPLIT",)),
    Requirement(
      "unit-steps", None, "XNNPACK slices with steps of one", WARNING, ("STRIDED_SLICE",)
    ),
    Requirement(
      "scale-ratio",
      (0, 2**8),
      "XNNPACK leaves a sum with so coarse an input to LiteRT's own kernel, which overflows",
      operators=("ADD",),
    ),
    Requirement(
      "scale-ratio",
      (2**-10, 2**8),
      "XNNPACK leaves a sum with so fine an input to LiteRT's own kernel, which rounds differently",
      WARNING,
      ("ADD",),
    ),
  ),
)
TFLM = Target(
  "TensorFlow Lite for Microcontrollers",
  ".tflite",
  (
    *INTEGER_FILE,
    STATIC,
    Requirement("operator", TFLM_OPERATORS, "the runtime has no kernel for it"),
    Requirement(
      "activation-types",
      ("FLOAT32", "INT8", "INT16", "UINT8"),
      "other types can be neither computed with nor converted",
    ),
    Requirement(
      "activation-types",
      ("INT8", "INT16"),
      "the kernels of layers and pools are those of int8 and int16",
      operators=(*WEIGHTED, *SLIDING[1:], "ADD", "MEAN", "MUL"),
    ),
    Requirement(
      "weight-types", ("INT8",), "dense weights of 4 bits are refused", operators=WEIGHTED[2:]
    ),
    Requirement(
      "weight-types", ("INT4", "INT8"), "other weights have no kernel", operators=WEIGHTED
    ),
    Requirement(
      "per-channel",
      WEIGHTED[:2],
      "older versions of the runtime read the first scale of dense weights for all outputs",
      WARNING,
    ),
  ),
  dense_per_tensor=True,
  dense_int4=False,
)
ETHOS_U = Target(
  "Arm Ethos-U55 and Ethos-U65",
  ".tflite",
  (
    *INTEGER_FILE,
    STATIC,
    CONSTANT,
    Requirement(
      "operator", ETHOS_OPERATORS, "the NPU has no such operator, so the CPU computes it"
    ),
    Requirement("activation-types", ("INT8", "UINT8", "INT16"), ACTIVATION_BITS),
    Requirement(
      "weight-types", ("INT8", "UINT8"), "the NPU decodes weights of 8 bits", operators=WEIGHTED
    ),
    Requirement("bias-types", ("INT32", "INT64"), "the NPU adds biases of 32 bits or more"),
    Requirement(
      "per-channel", WEIGHTED, "only convolutions and dense layers have a scale per channel"
    ),
    Requirement(
      "stride",
      3,
      "the NPU moves a depthwise window by at most three cells",
      operators=("DEPTHWISE_CONV_2D",),
    ),
    Requirement(
      "free-stride",
      3,
      "the NPU moves a window by more than three cells only without padding and dilation",
      operators=SLIDING,
    ),
    Requirement("window", 256, "a window is at most 256 cells high", operators=SLIDING[1:]),
    Requirement(
      "padded-window", 8, "an average with padding is over at most 8x8", operators=SLIDING[1:2]
    ),
    Requirement(
      "weight-sum",
      65536 * 127,
      "the sum of a channel's absolute weights must fit the accumulator",
      operators=WEIGHTED,
    ),
    Requirement("batch", 1, "the NPU takes the mean of one image at a time", operators=("MEAN",)),
  ),
)
EDGE_TPU = Target(
  "Coral Edge TPU",
  ".tflite",
  (
    *INTEGER_FILE,
    STATIC,
    CONSTANT,
    Requirement(
      "operator",
      EDGE_TPU_OPERATORS,
      "the device has no such operator, and what follows it too runs on the CPU",
    ),
    Requirement(
      "version",
      {"CONV_2D": 5, "FULLY_CONNECTED": 9},
      "the compiler, last released in 2022, refuses newer versions of an operator",
    ),
    Requirement("activation-types", ("INT8", "UINT8"), "the device computes with 8-bit integers"),
    Requirement(
      "weight-types",
      ("INT8", "UINT8"),
      "the device computes with 8-bit integers",
      operators=WEIGHTED,
    ),
    Requirement(
      "per-channel",
      WEIGHTED[:2],
      "the compiler is older than dense weights with a scale for each output",
    ),
    Requirement(
      "unit-steps", None, "the device slices with steps of one", operators=("STRIDED_SLICE",)
    ),
    Requirement("batch", 1, "the device takes one image at a time", operators=("MEAN",)),
  ),
  dense_per_tensor=True,
)
SYMMETRIC_REASON = "TensorRT quantizes symmetrically: int8 with zero point 0, for activations too"
TENSORRT = Target(
  "NVIDIA TensorRT",
  ".onnx",
  (
    Requirement("operator", TENSORRT_OPERATORS, "TensorRT has no int8 path through it", WARNING),
    Requirement(
      "codes",
      ("INT8",),
      SYMMETRIC_REASON,
      operators=("QuantizeLinear", "DequantizeLinear"),
    ),
    Requirement(
      "zero-point", 0, SYMMETRIC_REASON, operators=("QuantizeLinear", "DequantizeLinear")
    ),
    Requirement(
      "quantized-inputs",
      None,
      "without a DequantizeLinear before its inputs the layer runs in float",
      operators=("Conv", "Gemm", "MatMul"),
    ),
    Requirement(
      "residual",
      None,
      "the sum of a residual is int8 only if both of its inputs are quantized",
      operators=("Add",),
    ),
    Requirement(
      "static-shape",
      None,
      "a free size needs an optimization profile when the engine is built",
      WARNING,
    ),
  ),
)

TARGETS: Mapping[str, Target] = {
  "xnnpack": XNNPACK,
  "tflm": TFLM,
  "ethos-u": ETHOS_U,
  "edgetpu": EDGE_TPU,
  "tensorrt": TENSORRT,
}
"""Profiles of devices and their compilers, by name."""


def find_target(name: str) -> Target:
  """The target of a name.

  Raises:
    ValueError: if there is none.

  Examples:
    >>> find_target("edgetpu").title
    'Coral Edge TPU'
  """
  if name not in TARGETS:
    raise ValueError(f"target: {name!r} is unknown; it must be one of {', '.join(TARGETS)}.")
  return TARGETS[name]
