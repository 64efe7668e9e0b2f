"""What devices and their tools ask of a model file: tables of rules, each with its reason."""

from collections.abc import Mapping

from jaxcompress.export.operators import (
  EDGE_TPU_OPERATORS,
  ETHOS_OPERATORS,
  TENSORRT_OPERATORS,
  TFLM_OPERATORS,
  XNNPACK_OPERATORS,
)
from jaxcompress.export.rules import (
  ACTIVATION_BITS,
  CONSTANT,
  INTEGER_FILE,
  SLIDING,
  STATIC,
  WARNING,
  WEIGHTED,
  Rule,
  Target,
)

XNNPACK = Target(
  "LiteRT with XNNPACK",
  ".tflite",
  (
    *INTEGER_FILE,
    Rule(
      "version",
      {"CONV_2D": 6, "FULLY_CONNECTED": 11},
      "older runtimes refuse newer versions of an operator; write the lowest that holds it",
      WARNING,
    ),
    Rule("weight-types", ("INT4", "INT8"), "other weights have no kernel", operators=WEIGHTED),
    Rule(
      "weight-types",
      ("INT8",),
      "weights of 4 bits run on slow kernels outside XNNPACK; unpack them to int8",
      WARNING,
      ("CONV_2D", "DEPTHWISE_CONV_2D"),
    ),
    Rule(
      "operator",
      XNNPACK_OPERATORS,
      "XNNPACK leaves it to LiteRT's own kernels: the same integers, but slower",
      WARNING,
    ),
    Rule(
      "activation-types",
      ("FLOAT32", "INT8", "UINT8"),
      "XNNPACK has 8-bit kernels only and leaves the rest to LiteRT's own: slower",
      WARNING,
    ),
    Rule(
      "activation-types",
      ("FLOAT32", "INT8"),
      "XNNPACK leaves the shift of unsigned codes to LiteRT's own kernel: the same integers",
      WARNING,
      ("QUANTIZE",),
    ),
    Rule("fan-in", 5, "XNNPACK joins at most five tensors at once", WARNING, ("CONCATENATION",)),
    Rule("fan-out", 4, "XNNPACK splits into at most four parts", WARNING, ("SPLIT",)),
    Rule("unit-steps", None, "XNNPACK slices with steps of one", WARNING, ("STRIDED_SLICE",)),
    Rule(
      "scale-ratio",
      (0, 2**8),
      "XNNPACK leaves a sum with so coarse an input to LiteRT's own kernel, which overflows",
      operators=("ADD",),
    ),
    Rule(
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
    Rule("operator", TFLM_OPERATORS, "the runtime has no kernel for it"),
    Rule(
      "activation-types",
      ("FLOAT32", "INT8", "INT16", "UINT8"),
      "other types can be neither computed with nor converted",
    ),
    Rule(
      "activation-types",
      ("INT8", "INT16"),
      "the kernels of layers and pools are those of int8 and int16",
      operators=(*WEIGHTED, *SLIDING[1:], "ADD", "MEAN", "MUL"),
    ),
    Rule("weight-types", ("INT8",), "dense weights of 4 bits are refused", operators=WEIGHTED[2:]),
    Rule("weight-types", ("INT4", "INT8"), "other weights have no kernel", operators=WEIGHTED),
    Rule(
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
    Rule("operator", ETHOS_OPERATORS, "the NPU has no such operator, so the CPU computes it"),
    Rule("activation-types", ("INT8", "UINT8", "INT16"), ACTIVATION_BITS),
    Rule(
      "weight-types", ("INT8", "UINT8"), "the NPU decodes weights of 8 bits", operators=WEIGHTED
    ),
    Rule("bias-types", ("INT32", "INT64"), "the NPU adds biases of 32 bits or more"),
    Rule("per-channel", WEIGHTED, "only convolutions and dense layers have a scale per channel"),
    Rule(
      "stride",
      3,
      "the NPU moves a depthwise window by at most three cells",
      operators=("DEPTHWISE_CONV_2D",),
    ),
    Rule(
      "free-stride",
      3,
      "the NPU moves a window by more than three cells only without padding and dilation",
      operators=SLIDING,
    ),
    Rule("window", 256, "a window is at most 256 cells high", operators=SLIDING[1:]),
    Rule("padded-window", 8, "an average with padding is over at most 8x8", operators=SLIDING[1:2]),
    Rule(
      "weight-sum",
      65536 * 127,
      "the sum of a channel's absolute weights must fit the accumulator",
      operators=WEIGHTED,
    ),
    Rule("batch", 1, "the NPU takes the mean of one image at a time", operators=("MEAN",)),
  ),
)
EDGE_TPU = Target(
  "Coral Edge TPU",
  ".tflite",
  (
    *INTEGER_FILE,
    STATIC,
    CONSTANT,
    Rule(
      "operator",
      EDGE_TPU_OPERATORS,
      "the device has no such operator, and what follows it too runs on the CPU",
    ),
    Rule(
      "version",
      {"CONV_2D": 5, "FULLY_CONNECTED": 9},
      "the compiler, last released in 2022, refuses newer versions of an operator",
    ),
    Rule("activation-types", ("INT8", "UINT8"), "the device computes with 8-bit integers"),
    Rule(
      "weight-types",
      ("INT8", "UINT8"),
      "the device computes with 8-bit integers",
      operators=WEIGHTED,
    ),
    Rule(
      "per-channel",
      WEIGHTED[:2],
      "the compiler is older than dense weights with a scale for each output",
    ),
    Rule("unit-steps", None, "the device slices with steps of one", operators=("STRIDED_SLICE",)),
    Rule("batch", 1, "the device takes one image at a time", operators=("MEAN",)),
  ),
  dense_per_tensor=True,
)
SYMMETRIC = "TensorRT quantizes symmetrically: int8 with zero point 0, for activations too"
TENSORRT = Target(
  "NVIDIA TensorRT",
  ".onnx",
  (
    Rule("operator", TENSORRT_OPERATORS, "TensorRT has no int8 path through it", WARNING),
    Rule(
      "codes",
      ("INT8",),
      SYMMETRIC,
      operators=("QuantizeLinear", "DequantizeLinear"),
    ),
    Rule("zero-point", 0, SYMMETRIC, operators=("QuantizeLinear", "DequantizeLinear")),
    Rule(
      "quantized-inputs",
      None,
      "without a DequantizeLinear before its inputs the layer runs in float",
      operators=("Conv", "Gemm", "MatMul"),
    ),
    Rule(
      "residual",
      None,
      "the sum of a residual is int8 only if both of its inputs are quantized",
      operators=("Add",),
    ),
    Rule(
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
