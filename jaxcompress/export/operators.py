"""Operators of devices and their tools."""

from typing import Any

TFLM_OPERATORS = (
  *("ABS", "ADD", "ADD_N", "ARG_MAX", "ARG_MIN", "AVERAGE_POOL_2D", "BATCH_MATMUL"),
  *(
    "BATCH_TO_SPACE_ND",
    "CAST",
    "CONCATENATION",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "DEPTH_TO_SPACE",
    "DIV",
  ),
  *("DEQUANTIZE", "ELU", "EQUAL", "EXP", "EXPAND_DIMS", "FULLY_CONNECTED", "GATHER", "HARD_SWISH"),
  *("L2_NORMALIZATION", "L2_POOL_2D", "LEAKY_RELU", "LOG", "LOGISTIC", "LOG_SOFTMAX", "MAXIMUM"),
  *("MAX_POOL_2D", "MEAN", "MINIMUM", "MIRROR_PAD", "MUL", "NEG", "PACK", "PAD", "PADV2", "PRELU"),
  *("QUANTIZE", "REDUCE_MAX", "RELU", "RELU6", "RESHAPE", "RESIZE_BILINEAR", "ROUND", "RSQRT"),
  *("RESIZE_NEAREST_NEIGHBOR", "SLICE", "SOFTMAX", "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT"),
  *("SPLIT_V", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM"),
  *("TANH", "TRANSPOSE", "TRANSPOSE_CONV", "UNPACK"),
)
XNNPACK_OPERATORS = (  # of 8 bits
  *("ADD", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "DEQUANTIZE", "ELU", "FULLY_CONNECTED"),
  *("LEAKY_RELU", "LOGISTIC", "MAX_POOL_2D", "MEAN", "MUL", "PAD", "QUANTIZE", "RESHAPE", "SLICE"),
  *("RESIZE_BILINEAR", "SPACE_TO_DEPTH", "SPLIT", "STRIDED_SLICE", "SUB", "TANH", "TRANSPOSE"),
  *("DEPTH_TO_SPACE", "TRANSPOSE_CONV"),
)
ETHOS_OPERATORS = (
  *("ABS", "ADD", "ARG_MAX", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CONCATENATION", "CONV_2D", "ELU"),
  *("DEPTHWISE_CONV_2D", "EXP", "EXPAND_DIMS", "FULLY_CONNECTED", "GELU", "HARD_SWISH", "LOG"),
  *("LEAKY_RELU", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MIRROR_PAD", "MUL"),
  *("NEG", "PACK", "PAD", "PADV2", "PRELU", "QUANTIZE", "REDUCE_MAX", "REDUCE_MIN", "RELU"),
  *("RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR", "REVERSE_V2", "RSQRT"),
  *("RESIZE_NEAREST_NEIGHBOR", "SLICE", "SOFTMAX", "SPLIT", "SPLIT_V", "SQUARED_DIFFERENCE"),
  *("SQUEEZE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TILE", "TRANSPOSE", "TRANSPOSE_CONV"),
  *("UNIDIRECTIONAL_SEQUENCE_LSTM", "UNPACK"),
)
EDGE_TPU_OPERATORS = (
  *("ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "EXPAND_DIMS"),
  *("FULLY_CONNECTED", "L2_NORMALIZATION", "LOGISTIC", "LSTM", "MAXIMUM", "MAX_POOL_2D", "MEAN"),
  *("MINIMUM", "MUL", "PACK", "PAD", "PRELU", "QUANTIZE", "REDUCE_MAX", "REDUCE_MIN", "RELU"),
  *("RELU6", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RSQRT"),
  *("SLICE", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SQUARED_DIFFERENCE", "SQUEEZE"),
  *("STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE", "TRANSPOSE_CONV"),
)
COMPUTING = (  # of ONNX
  *("Add", "AveragePool", "Conv", "ConvTranspose", "Gemm", "GlobalAveragePool", "MatMul", "Mul"),
)
TENSORRT_OPERATORS = (
  *COMPUTING,
  *("Clip", "Concat", "DequantizeLinear", "Flatten", "HardSigmoid", "HardSwish", "Identity"),
  *(
    "Max",
    "MaxPool",
    "Min",
    "Pad",
    "ReduceMax",
    "QuantizeLinear",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Resize",
    "Sigmoid",
  ),
  *("Slice", "Softmax", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
)


def names_of(enumeration: Any) -> dict[int, str]:
  """Names of the values of one of TFLite's enumerations."""
  return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}
