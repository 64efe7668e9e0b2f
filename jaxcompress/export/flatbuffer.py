"""Writes TFLite flatbuffers, every identical vector, string and table once.

``flatbuffers`` lets tables point at one another's parts, but its Python packer repeats them: the
zero points of per-channel weights alone, eight bytes a channel, would be a sixth of a small file.
Importing this module needs the ``edge`` extra.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import flatbuffers
import jax.numpy as jnp
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from jaxcompress.export.packing import pack_bits

SCHEMA_VERSION = 3
IDENTIFIER = b"TFL3"
ALIGNMENT = 16  # of buffers, as the schema asks
INT4 = np.dtype(jnp.int4)
TENSOR_TYPES = {
  INT4: schema.TensorType.INT4,
  np.dtype(np.uint8): schema.TensorType.UINT8,
  np.dtype(np.int8): schema.TensorType.INT8,
  np.dtype(np.int16): schema.TensorType.INT16,
  np.dtype(np.int32): schema.TensorType.INT32,
  np.dtype(np.int64): schema.TensorType.INT64,
  np.dtype(np.float16): schema.TensorType.FLOAT16,
  np.dtype(np.float32): schema.TensorType.FLOAT32,
}


class SharingBuilder(flatbuffers.Builder):
  """A builder that writes each distinct vector of numbers and each distinct string once."""

  __slots__ = ("written",)

  def __init__(self, size: int = 2**16):
    super().__init__(size)
    self.written: dict[Hashable, int] = {}

  def once(self, key: Hashable, write: Callable[[], int]) -> int:
    """Where ``key`` was written; writes it if it is new."""
    if key not in self.written:
      self.written[key] = write()
    return self.written[key]

  def CreateNumpyVector(self, x: np.ndarray) -> int:
    def write():
      if x.dtype == np.uint8:  # only buffers are bytes
        self.Prep(ALIGNMENT, x.size)
      return super(SharingBuilder, self).CreateNumpyVector(x)

    return self.once((x.dtype.str, x.tobytes()), write)

  def CreateString(self, s: str, encoding: str = "utf-8", errors: str = "strict") -> int:
    return self.once(s, lambda: super(SharingBuilder, self).CreateString(s, encoding, errors))


class Shared:
  """A table that is written once and pointed at from everywhere."""

  def __init__(self, table: Any):
    self.table = table

  def Pack(self, builder: SharingBuilder) -> int:
    return builder.once(id(self), lambda: self.table.Pack(builder))


class ModelFile:
  """A .tflite file with one graph, in the making.

  Examples:
    >>> file = ModelFile()
    >>> x = file.tensor("x", (1, 4), np.int8, file.quantization(0.5, 0))
    >>> y = file.tensor("y", (2, 2), np.int8, file.quantization(0.5, 0))
    >>> shape = file.constant(np.int32([2, 2]))
    >>> file.operator("RESHAPE", 1, [x, shape], [y], newShape=[2, 2])
    >>> file.to_bytes({"x": x}, {"y": y})[4:8]
    b'TFL3'
  """

  def __init__(self):
    self._tensors: list[Any] = []
    self._operators: list[Any] = []
    self._codes: list[tuple[str, int]] = []
    self._buffers: list[Any] = [schema.BufferT()]  # by convention the first one is empty
    self._known: dict[Hashable, Any] = {}

  def _reuse(self, key: Hashable, make: Callable[[], Any]) -> Any:
    if key not in self._known:
      self._known[key] = make()
    return self._known[key]

  def quantization(self, scales: Any, zero_point: int, axis: int = 0) -> Shared:
    """Quantization parameters: one scale for the tensor, or one for each index of an axis."""
    scales = np.atleast_1d(np.asarray(scales, np.float32))

    def make():
      zeros = np.full(scales.shape, zero_point, np.int64)
      axis_if_any = axis if scales.size > 1 else 0
      return Shared(
        schema.QuantizationParametersT(
          scale=scales, zeroPoint=zeros, quantizedDimension=axis_if_any
        )
      )

    return self._reuse(("quantization", scales.tobytes(), zero_point, axis), make)

  def tensor(
    self,
    name: str,
    shape: Sequence[int],
    dtype: Any,
    quantization: Shared | None = None,
    data: np.ndarray | None = None,
  ) -> int:
    """Adds a tensor and returns its index; with ``data`` it is a constant.

    Integers of 4 bits are stored two in a byte, the first one in the low half.
    """
    self._tensors.append(
      schema.TensorT(
        name=name,
        shape=np.asarray(shape, np.int32),
        type=TENSOR_TYPES[np.dtype(dtype)],
        quantization=quantization,
        buffer=0 if data is None else self._buffer(_stored(data)),
      )
    )
    return len(self._tensors) - 1

  def constant(self, data: Any, quantization: Shared | None = None, name: str = "") -> int:
    """Index of a constant tensor; one that is there already is used again."""
    key = (data.dtype.str, data.shape, data.tobytes(), id(quantization), name)
    return self._reuse(
      ("constant", key),
      lambda: self.tensor(
        name or f"const{len(self._known)}", data.shape, data.dtype, quantization, data
      ),
    )

  def _buffer(self, content: bytes) -> int:
    def make():
      self._buffers.append(schema.BufferT(data=np.frombuffer(content, np.uint8)))
      return len(self._buffers) - 1

    return self._reuse(("buffer", content), make)

  def operator(
    self,
    code: str,
    version: int,
    inputs: Sequence[int],
    outputs: Sequence[int],
    options: str | None = None,
    **fields: Any,
  ) -> None:
    """Adds an operator.

    Args:
      code: name in TFLite's ``BuiltinOperator``.
      version: the lowest that has what the operator uses, so that old runtimes read the file.
      inputs: indices of tensors.
      outputs: indices of tensors.
      options: name of its options in TFLite's ``BuiltinOptions``; by default made from the code,
        no options if the schema has no such name.
      **fields: of the options; lists become int32 vectors.
    """
    options = options or "".join(part.title() for part in code.split("_")) + "Options"
    options = options if hasattr(schema.BuiltinOptions, options) else "NONE"
    fields = {
      name: np.array(v, np.int32) if isinstance(v, list) else v for name, v in fields.items()
    }
    if (code, version) not in self._codes:
      self._codes.append((code, version))
    self._operators.append(
      schema.OperatorT(
        opcodeIndex=self._codes.index((code, version)),
        inputs=np.asarray(inputs, np.int32),
        outputs=np.asarray(outputs, np.int32),
        builtinOptionsType=getattr(schema.BuiltinOptions, options),
        builtinOptions=None
        if options == "NONE"
        else self._reuse(
          (options, repr(sorted(fields.items()))),
          lambda: Shared(getattr(schema, f"{options}T")(**fields)),
        ),
      )
    )

  def has_int4(self, tensors: Sequence[int]) -> bool:
    """Whether one of some tensors holds integers of 4 bits."""
    return any(self._tensors[index].type == schema.TensorType.INT4 for index in tensors)

  @property
  def computes_in_float(self) -> bool:
    """Whether an operator reads or writes floating-point numbers, but to round them to integers."""
    floats = (schema.TensorType.FLOAT16, schema.TensorType.FLOAT32)
    for operator in self._operators:
      rounds = self._codes[operator.opcodeIndex][0] == "QUANTIZE"
      computed = [*operator.outputs, *(() if rounds else operator.inputs)]
      if any(self._tensors[index].type in floats for index in computed):
        return True
    return False

  def to_bytes(
    self,
    inputs: Mapping[str, int],
    outputs: Mapping[str, int],
    *,
    description: str = "",
    metadata: Mapping[str, bytes] | None = None,
    bare: bool = False,
  ) -> bytes:
    """The file.

    Args:
      inputs: tensors that are fed, by name in the signature ``serving_default``.
      outputs: tensors that are read, by name; one that has two names is one output of the graph.
      description: for people.
      metadata: entries of the metadata table.
      bare: whether names and the signature are left out, which no runtime computes with.
    """
    if bare:
      for tensor in self._tensors:
        tensor.name = None
    entries = [
      schema.MetadataT(name=name, buffer=self._buffer(content))
      for name, content in (metadata or {}).items()
    ]
    graph = schema.SubGraphT(
      name=None if bare else "main",
      tensors=self._tensors,
      operators=self._operators,
      inputs=np.asarray(list(inputs.values()), np.int32),
      outputs=np.asarray(list(dict.fromkeys(outputs.values())), np.int32),
    )
    model = schema.ModelT(
      version=SCHEMA_VERSION,
      operatorCodes=[_operator_code(*pair) for pair in self._codes],
      subgraphs=[graph],
      description=description or None,
      buffers=self._buffers,
      metadata=entries or None,
      signatureDefs=None if bare else [_signature(inputs, outputs)],
    )
    builder = SharingBuilder()
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _stored(data: np.ndarray) -> bytes:
  return (pack_bits(data.astype(np.int8), 4) if data.dtype == INT4 else data).tobytes()


def _operator_code(name: str, version: int) -> Any:
  code = getattr(schema.BuiltinOperator, name)
  return schema.OperatorCodeT(
    builtinCode=code, deprecatedBuiltinCode=min(code, 127), version=version
  )


def _signature(inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Any:
  return schema.SignatureDefT(
    signatureKey="serving_default", inputs=_maps(inputs), outputs=_maps(outputs)
  )


def _maps(tensors: Mapping[str, int]) -> list[Any]:
  return [schema.TensorMapT(name=name, tensorIndex=index) for name, index in tensors.items()]
