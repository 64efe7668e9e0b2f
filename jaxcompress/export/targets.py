"""Devices and their tools, and what they ask of a model file: tables of requirements with reasons."""

from collections.abc import Mapping

from jaxcompress.export.operators import (
  EDGE_TPU_OPERATORS,
  ETHOS_OPERATORS,
  TENSORRT_OPERATORS,
  TFLM_OPERATORS,
  XNNPACK_OPERATORS,
)
from jaxcompress.export.requirements import WEIGHTED, Target, must, should

SLIDING = ("CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D")
RESIZING = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
PER_CHANNEL = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
COPYING = (
  "AVERAGE_POOL_2D",
  "CONCATENATION",
  "MAXIMUM",
  "MAX_POOL_2D",
  "MINIMUM",
  *RESIZING,
)  # kernels that ignore scales
PARAMETERS: Mapping[str, tuple[int, ...]] = {  # inputs that are numbers of the operator's own
  "CONV_2D": (1, 2),
  "DEPTHWISE_CONV_2D": (1, 2),
  "FULLY_CONNECTED": (1, 2),
  "MEAN": (1,),
  "PAD": (1,),
  "PADV2": (1, 2),
  "RESHAPE": (1,),
  "RESIZE_BILINEAR": (1,),
  "RESIZE_NEAREST_NEIGHBOR": (1,),
  "SPLIT": (0,),
  "STRIDED_SLICE": (1, 2, 3),
  "TRANSPOSE": (1,),
  "TRANSPOSE_CONV": (0, 1, 3),
}
INTEGER_FILE = (  # what every integer .tflite file is
  must("integer", None, "an operator that computes in float has no integer kernel"),
  must(
    "inline",
    None,
    "constants outside the flatbuffer are read as garbage by runtimes that take it as one piece of"
    " memory",
  ),
  must(
    "weight-range",
    (-127, 127),
    "integer kernels rely on weights that are symmetric around zero, so that -128 is not used",
    WEIGHTED,
  ),
  must(
    "weight-zero-point",
    0,
    "int8 kernels leave the zero point of the weights out of their sums",
    WEIGHTED,
  ),
  must(
    "same-grid",
    None,
    "pools, concatenations, maxima and minima copy codes, or are refused, where scales or zero points differ",
    COPYING,
  ),
)
STATIC = must("static-shape", None, "memory is planned before the device runs; no size may be free")
CONSTANT = must(
  "constant", PARAMETERS, "weights, biases and parameters are compiled in, so they are constants"
)
ACTIVATION_BITS = "the device computes with 8-bit (and here and there 16-bit) integers"
XNNPACK = Target(
  "LiteRT with XNNPACK",
  ".tflite",
  (
    *INTEGER_FILE,
    should(
      "version",
      {"CONV_2D": 6, "FULLY_CONNECTED": 11},
      "older runtimes refuse newer versions of an operator; write the lowest that holds it",
    ),
    must("weight-types", ("INT4", "INT8"), "other weights have no kernel", WEIGHTED),
    should(
      "weight-types",
      ("INT8",),
      "weights of 4 bits run on slow kernels outside XNNPACK; unpack them to int8",
      ("CONV_2D", "DEPTHWISE_CONV_2D"),
    ),
    should(
      "operator",
      XNNPACK_OPERATORS,
      "XNNPACK leaves it to LiteRT's own kernels: the same integers, but slower",
    ),
    should(
      "activation-types",
      ("FLOAT32", "INT8", "UINT8"),
      "XNNPACK has 8-bit kernels only and leaves the rest to LiteRT's own: slower",
    ),
    should(
      "activation-types",
      ("FLOAT32", "INT8"),
      "XNNPACK leaves the shift of unsigned codes to LiteRT's own kernel: the same integers",
      ("QUANTIZE",),
    ),
    should("fan-in", 5, "XNNPACK joins at most five tensors at once", ("CONCATENATION",)),
    should("fan-out", 4, "XNNPACK splits into at most four parts", ("SPLIT",)),
    should("unit-steps", None, "XNNPACK slices with steps of one", ("STRIDED_SLICE",)),
    must(
      "scale-ratio",
      (0, 2**8),
      "XNNPACK leaves a sum with so coarse an input to LiteRT's own kernel, which overflows",
      ("ADD", "SUB"),
    ),
    should(
      "scale-ratio",
      (2**-10, 2**8),
      "XNNPACK leaves a sum with so fine an input to LiteRT's own kernel, which rounds differently",
      ("ADD", "SUB"),
    ),
  ),
  functions=("elu", "gelu", "gelu_tanh"),
)
TFLM = Target(
  "TensorFlow Lite for Microcontrollers",
  ".tflite",
  (
    *INTEGER_FILE,
    STATIC,
    must("operator", TFLM_OPERATORS, "the runtime has no kernel for it"),
    must(
      "activation-types",
      ("FLOAT32", "INT8", "INT16", "INT32", "UINT8"),
      "other types can be neither computed with nor converted",
    ),
    must(
      "activation-types",
      ("INT8", "INT16"),
      "the kernels of layers and pools are those of int8 and int16",
      (*WEIGHTED, *SLIDING[1:], "MEAN", "MUL"),
    ),
    must(
      "activation-types",
      ("INT8", "INT16", "INT32"),
      "sums are those of int8, int16 and int32",
      ("ADD", "SUB"),
    ),
    must(
      "row",
      511,
      "the runtime aborts where exponentials add up to 512; leave the softmax out",
      ("SOFTMAX",),
    ),
    must(
      "activation-types",
      ("FLOAT32", "INT8"),
      "bilinear resizing has no kernel of 16 bits",
      ("RESIZE_BILINEAR",),
    ),
    must("weight-types", ("INT8",), "these weights of 4 bits are refused", WEIGHTED[2:]),
    must("weight-types", ("INT4", "INT8"), "other weights have no kernel", WEIGHTED),
    should(
      "per-channel",
      PER_CHANNEL,
      "older versions of the runtime read the first scale of dense weights for all outputs",
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
    must("operator", ETHOS_OPERATORS, "the NPU has no such operator, so the CPU computes it"),
    must("activation-types", ("INT8", "UINT8", "INT16"), ACTIVATION_BITS),
    must("weight-types", ("INT8", "UINT8"), "the NPU decodes weights of 8 bits", WEIGHTED),
    must("bias-types", ("INT32", "INT64"), "the NPU adds biases of 32 bits or more"),
    must("per-channel", WEIGHTED, "only convolutions and dense layers have a scale per channel"),
    must(
      "stride", 3, "the NPU moves a depthwise window by at most three cells", ("DEPTHWISE_CONV_2D",)
    ),
    must(
      "free-stride",
      3,
      "the NPU moves a window by more than three cells only without padding and dilation",
      SLIDING,
    ),
    must(
      "transposed",
      ((1, 1), (2, 2)),
      "the NPU spreads maps by two cells, and makes all that a kernel reaches or a SAME output",
      ("TRANSPOSE_CONV",),
    ),
    must(
      "enlargement",
      {"whole": (1, 2, 4, 8), "half": (1, 2, 4, 8), "RESIZE_BILINEAR half": (2,)},
      "the NPU enlarges both sides alike, by 2, 4 or 8, and between pixels' centres by 2 only",
      RESIZING,
    ),
    must("window", 256, "a window is at most 256 cells high", SLIDING[1:]),
    must("padded-window", 8, "an average with padding is over at most 8x8", SLIDING[1:2]),
    must(
      "weight-sum",
      65536 * 127,
      "the sum of a channel's absolute weights must fit the accumulator",
      WEIGHTED,
    ),
    must("batch", 1, "the NPU takes the mean of one image at a time", ("MEAN",)),
  ),
)
EDGE_TPU = Target(
  "Coral Edge TPU",
  ".tflite",
  (
    *INTEGER_FILE,
    STATIC,
    CONSTANT,
    must(
      "operator",
      EDGE_TPU_OPERATORS,
      "the device has no such operator, and what follows it too runs on the CPU",
    ),
    must(
      "version",
      {"CONV_2D": 5, "FULLY_CONNECTED": 9, "TRANSPOSE_CONV": 3},
      "the compiler, last released in 2022, refuses newer versions of an operator",
    ),
    must("activation-types", ("INT8", "UINT8"), "the device computes with 8-bit integers"),
    must("weight-types", ("INT8", "UINT8"), "the device computes with 8-bit integers", WEIGHTED),
    must(
      "per-channel",
      PER_CHANNEL,
      "the compiler is older than dense weights with a scale for each output",
    ),
    must("unit-steps", None, "the device slices with steps of one", ("STRIDED_SLICE",)),
    must("batch", 1, "the device takes one image at a time", ("MEAN",)),
  ),
  dense_per_tensor=True,
)
SYMMETRIC_REASON = "TensorRT quantizes symmetrically: int8 with zero point 0, for activations too"
TENSORRT = Target(
  "NVIDIA TensorRT",
  ".onnx",
  (
    should("operator", TENSORRT_OPERATORS, "TensorRT has no int8 path through it"),
    must("codes", ("INT8",), SYMMETRIC_REASON, ("QuantizeLinear", "DequantizeLinear")),
    must("zero-point", 0, SYMMETRIC_REASON, ("QuantizeLinear", "DequantizeLinear")),
    must(
      "quantized-inputs",
      None,
      "without a DequantizeLinear before its inputs the layer runs in float",
      ("Conv", "ConvTranspose", "Gemm", "MatMul"),
    ),
    must(
      "residual",
      None,
      "the sum of a residual is int8 only if both of its inputs are quantized",
      ("Add",),
    ),
    should(
      "static-shape", None, "a free size needs an optimization profile when the engine is built"
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
