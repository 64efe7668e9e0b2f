"""What a rule for model files is, and the rules that devices have in common."""

from collections.abc import Mapping
from typing import Any, NamedTuple

ERROR, WARNING = "error", "warning"

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
SLIDING = ("CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D")
COPYING = ("AVERAGE_POOL_2D", "CONCATENATION", "MAX_POOL_2D")  # kernels that ignore scales
PARAMETERS: Mapping[str, tuple[int, ...]] = {  # inputs that are numbers of the operator's own
  "CONV_2D": (1, 2),
  "DEPTHWISE_CONV_2D": (1, 2),
  "FULLY_CONNECTED": (1, 2),
  "MEAN": (1,),
  "PAD": (1,),
  "PADV2": (1, 2),
  "RESHAPE": (1,),
  "SPLIT": (0,),
  "STRIDED_SLICE": (1, 2, 3),
  "TRANSPOSE": (1,),
}


class Rule(NamedTuple):
  """Something that a target asks of operators.

  Attributes:
    name: of the check in :mod:`jaxcompress.export.checks`, such as ``"stride"``.
    limit: what the check compares with: a number, names, or a table by operator.
    reason: why, in words.
    severity: ``"error"``: the target refuses the file, computes something else, or leaves the
      operator off the accelerator that it is named for. ``"warning"``: the result is the same, but
      takes longer or needs a newer version.
    operators: names of those that it is about; none: all.

  Examples:
    >>> Rule("stride", 3, "a window moves by at most three cells", operators=("CONV_2D",)).severity
    'error'
  """

  name: str
  limit: Any
  reason: str
  severity: str = ERROR
  operators: tuple[str, ...] = ()


class Target(NamedTuple):
  """A device, or the tool that makes its files.

  Attributes:
    title: its name.
    suffix: of the files that it takes.
    rules: that they obey.
    dense_per_tensor: whether the weights of FULLY_CONNECTED need one scale for all of its outputs;
      :func:`jaxcompress.export.tflite` then writes layers with more as 1x1 convolutions.
    dense_int4: whether FULLY_CONNECTED may have weights of 4 bits where convolutions may.

  Examples:
    >>> from jaxcompress.export import Operator
    >>> from jaxcompress.export.lint import check
    >>> npu = Target("my NPU", ".tflite", (Rule("operator", ("CONV_2D",), "it has no other"),))
    >>> operators = [Operator(name, version=1, is_float=False) for name in ("CONV_2D", "SPLIT")]
    >>> [finding.op for finding in check(operators, npu)]
    ['SPLIT']
  """

  title: str
  suffix: str
  rules: tuple[Rule, ...]
  dense_per_tensor: bool = False
  dense_int4: bool = True


INTEGER_FILE = (  # what every integer .tflite file is
  Rule("integer", None, "an operator that computes in float has no integer kernel"),
  Rule(
    "inline",
    None,
    "constants outside the flatbuffer are read as garbage by runtimes that take it as one piece of"
    " memory",
  ),
  Rule(
    "weight-range",
    (-127, 127),
    "integer kernels rely on weights that are symmetric around zero, so that -128 is not used",
    operators=WEIGHTED,
  ),
  Rule(
    "weight-zero-point",
    0,
    "int8 kernels leave the zero point of the weights out of their sums",
    operators=WEIGHTED,
  ),
  Rule(
    "same-grid",
    None,
    "pools and concatenations copy codes, or are refused, where scales or zero points differ",
    operators=COPYING,
  ),
)
STATIC = Rule("static-shape", None, "memory is planned before the device runs; no size may be free")
CONSTANT = Rule(
  "constant", PARAMETERS, "weights, biases and parameters are compiled in, so they are constants"
)
ACTIVATION_BITS = "the device computes with 8-bit (and here and there 16-bit) integers"
