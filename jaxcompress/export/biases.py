"""Layers without a bias in .tflite files of others, which not every runtime takes, or survives."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxcompress.export.operators import names_of

PLACE = 2  # of the bias among what a convolution reads
LITERT = ("xnnpack", "xnnpack-int4", "reference")
XNNPACK = ("xnnpack", "xnnpack-int4")


class Need(NamedTuple):
  """Runtimes that need the bias of an operator.

  Attributes:
    code: TFLite's name of the operator.
    kernels: of the runtimes.
    kinds: types of its input; of others it needs none.
    marked: whether the file has -1 in place of the bias, or nothing; None: either.
  """

  code: str
  kernels: tuple[str, ...]
  kinds: tuple[str, ...]
  marked: bool | None


NEEDS = (
  Need("CONV_2D", LITERT, ("INT8", "INT16"), None),  # it refuses others
  Need("DEPTHWISE_CONV_2D", LITERT, ("INT8", "INT16", "FLOAT32"), True),
  Need("DEPTHWISE_CONV_2D", XNNPACK, ("INT8", "FLOAT32"), False),  # it reads beyond the list
  Need("DEPTHWISE_CONV_2D", ("tflm",), ("INT8", "INT16", "FLOAT32"), True),  # it crashes
)


def needing_bias(code: str, inputs: Sequence[int], kind: str) -> tuple[str, ...]:
  """Kernels that do not run an operator, since it has no bias.

  Args:
    code: TFLite's name of it.
    inputs: indices of tensors that it reads, -1 for one that is left out.
    kind: TFLite's type of its input, such as ``"INT8"``.

  Examples:
    >>> needing_bias("DEPTHWISE_CONV_2D", (0, 1), "INT8")
    ('xnnpack', 'xnnpack-int4')
    >>> needing_bias("DEPTHWISE_CONV_2D", (0, 1, 2), "INT8")
    ()
  """
  marked = len(inputs) > PLACE
  if marked and inputs[PLACE] >= 0:
    return ()
  return tuple(
    kernels
    for need in NEEDS
    if need.code == code and kind in need.kinds and need.marked in (None, marked)
    for kernels in need.kernels
  )


def lacking_bias(content: bytes, kernels: str) -> str | None:
  """Names a layer of a .tflite file whose missing bias its runtime needs; None if there is none.

  Args:
    content: of the file.
    kernels: of :data:`~jaxcompress.export.trial.RUNTIMES`.

  Raises:
    Exception: what the parser raises where the file is damaged.
  """
  for place, code, name in _lacking(content, kernels):
    return (
      f"operator {place} {code} of {name!r} has no bias, which it needs; write the file again by"
      " export.tflite(export.from_tflite(path), ...), which adds one of zeros"
    )
  return None


def _lacking(content: bytes, kernels: str) -> Iterator[tuple[int, str, str]]:
  """Places, codes and first tensors of the operators of which a runtime needs the bias."""
  from ai_edge_litert import schema_py_generated as schema

  model = schema.Model.GetRootAs(content, 0)
  graph = model.Subgraphs(0)
  names, kinds = names_of(schema.BuiltinOperator), names_of(schema.TensorType)
  for place in range(graph.OperatorsLength()):
    operator = graph.Operators(place)
    code = model.OperatorCodes(operator.OpcodeIndex())
    name = names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "")
    inputs = [operator.Inputs(i) for i in range(operator.InputsLength())]
    if inputs:
      kind = kinds.get(graph.Tensors(inputs[0]).Type(), "")
      if kernels in needing_bias(name, inputs, kind):
        yield place, name, (graph.Tensors(operator.Outputs(0)).Name() or b"").decode()
