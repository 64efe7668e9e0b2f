"""Stand-ins for each global that a pickle of a checkpoint may name: types and own functions.

Each function checks the arguments that a pickle gives to it. Their first one is the budget.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

EXPANSION = 16  # bytes that are built from a file, over the file's size
SMALL = 2**16  # elements that a tensor may expand to, whatever its storage holds


class Budget:
  """Bytes that may be built from a file of some size: bounds what a small file unfolds to."""

  def __init__(self, size: int):
    self._left = EXPANSION * size + 2**20

  def spend(self, size: int) -> None:
    """Counts ``size`` bytes.

    Raises:
      ValueError: if they are more than what is left.
    """
    self._left -= size
    if self._left < 0:
      raise ValueError(f"it unfolds to more than {EXPANSION} times its size")


@dataclass(frozen=True, slots=True)
class StorageType:
  """A torch storage class, by the type of its elements."""

  dtype: np.dtype


@dataclass(frozen=True, slots=True)
class Storage:
  """The values of a storage, one-dimensional."""

  values: np.ndarray


@dataclass(frozen=True, slots=True)
class Function:
  """Stands for a global that a pickle may call."""

  name: str
  build: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Marker:
  """Stands for a class that a pickle may name, but not call."""

  name: str


class Options(dict):
  """The attributes of an ``argparse.Namespace``, by name."""


class StoredArray(np.ndarray):
  """A numpy array of a pickle: empty until its state comes."""


NAMESPACE = Marker("argparse.Namespace")
NDARRAY = Marker("numpy.ndarray")
NUMPY_CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
DTYPES = {
  "Float": ("float32", np.float32),
  "Double": ("float64", np.float64),
  "Half": ("float16", np.float16),
  "BFloat16": ("bfloat16", ml_dtypes.bfloat16),
  "Long": ("int64", np.int64),
  "Int": ("int32", np.int32),
  "Short": ("int16", np.int16),
  "Char": ("int8", np.int8),
  "Byte": ("uint8", np.uint8),
  "Bool": ("bool", np.bool_),
  "ComplexFloat": ("complex64", np.complex64),
  "ComplexDouble": ("complex128", np.complex128),
}


def integer(value: Any) -> int:
  """The value, if it is an int of 0 to 2**63 - 1."""
  if type(value) is not int or not 0 <= value < 2**63:
    raise ValueError("a size, stride or offset is no integer of 0 to 2**63 - 1")
  return value


def key(value: Any) -> Any:
  """The value, if its hash is cheap and seldom that of another: what dicts and sets may hold."""
  if type(value) in (str, bytes, float, bool, type(None)):
    return value
  if type(value) is int and abs(value) < 2**60:
    return value
  raise ValueError(f"a key of a dict or set is a {type(value).__name__}, no number or text")


def _require(holds: bool, otherwise: str) -> None:
  if not holds:
    raise ValueError(otherwise)


def _ordered_dict(budget: Budget, pairs: Any = ()) -> OrderedDict:
  _require(type(pairs) in (list, tuple), "an OrderedDict is not made of pairs")
  budget.spend(100 * len(pairs))
  result = OrderedDict()
  for pair in pairs:
    _require(type(pair) in (list, tuple) and len(pair) == 2, "an OrderedDict is not made of pairs")
    result[key(pair[0])] = pair[1]
  return result


def _plain(kind: type, otherwise: str) -> Callable[..., Any]:
  """A function that gives back its argument, which must be of one kind."""

  def build(budget: Budget, value: Any = None) -> Any:
    value = kind() if value is None else value
    _require(type(value) is kind, otherwise)
    return value

  return build


def _set(kind: type) -> Callable[..., Any]:
  def build(budget: Budget, items: Any = ()) -> Any:
    _require(type(items) in (list, tuple), "a set is not made of a list")
    budget.spend(100 * len(items))
    return kind(map(key, items))

  return build


def _device(budget: Budget, kind: Any, index: Any = None) -> str:
  _require(type(kind) is str and len(kind) < 80, "a torch.device is not made of its name")
  return kind if index is None else f"{kind}:{integer(index)}"


def _encode(budget: Budget, text: Any, codec: Any) -> bytes:
  _require(
    type(text) is str and type(codec) is str and codec == "latin1",
    "_codecs.encode is allowed for text in latin1 alone",
  )
  budget.spend(len(text))
  return text.encode("latin-1")


def _complex(budget: Budget, real: Any, imaginary: Any) -> complex:
  _require(type(real) is float and type(imaginary) is float, "a complex is not made of two floats")
  return complex(real, imaginary)


def _tensor(budget: Budget, storage: Any, offset: Any, sizes: Any, strides: Any) -> np.ndarray:
  _require(type(storage) is Storage, "a tensor is made without a storage")
  _require(
    type(sizes) is tuple and type(strides) is tuple and len(sizes) == len(strides),
    "the sizes and strides of a tensor do not fit together",
  )
  values, offset, sizes = storage.values, integer(offset), tuple(map(integer, sizes))
  strides = tuple(integer(s) if n > 1 else 0 for n, s in zip(sizes, strides, strict=True))
  if 0 in sizes:
    return np.empty(sizes, values.dtype)
  last = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
  _require(last < len(values), f"a tensor reaches outside of its storage of {len(values)} elements")
  count = math.prod(sizes)
  _require(
    count <= max(len(values), SMALL), f"a tensor expands its storage of {len(values)} elements"
  )
  budget.spend(count * values.itemsize)
  steps = tuple(s * values.itemsize for s in strides)
  return np.lib.stride_tricks.as_strided(values[offset:], sizes, steps, writeable=False)


def _tensor_v2(budget: Budget, *arguments: Any) -> np.ndarray:
  """The same, followed by whether it needs a gradient, hooks and perhaps metadata."""
  if not 6 <= len(arguments) <= 7:
    raise TypeError
  metadata = arguments[6] if len(arguments) > 6 else None
  _require(
    metadata is None or (type(metadata) is dict and not metadata),
    "a tensor is stored conjugated or negated",
  )
  return _tensor(budget, *arguments[:4])


def _parameter(
  budget: Budget, data: Any, requires_grad: Any, hooks: Any, state: Any = None
) -> np.ndarray:
  _require(type(data) is np.ndarray, "a parameter is made without a tensor")
  return data


def _numpy_dtype(budget: Budget, code: Any, align: Any = False, copy: Any = False) -> np.dtype:
  _require(
    type(code) is str and code in NUMPY_CODES, "a numpy type is not of numbers, such as 'f4'"
  )
  return np.dtype(code)


def _numpy_scalar(budget: Budget, dtype: Any, raw: Any) -> np.generic:
  _require(
    isinstance(dtype, np.dtype) and type(raw) is bytes and len(raw) == dtype.itemsize,
    "a numpy number is not made of its type and bytes",
  )
  return np.frombuffer(raw, dtype)[0]


def _numpy_array(budget: Budget, kind: Any, shape: Any, code: Any) -> np.ndarray:
  _require(kind is NDARRAY, "a numpy array is made of another class")
  return StoredArray(0, np.int8)


def check_dtype_state(state: Any) -> None:
  """Accepts the state of a plain little-endian numpy type, which says nothing new.

  Raises:
    ValueError: if it has fields, metadata or another byte order.
  """
  _require(
    type(state) is tuple
    and len(state) in (8, 9)
    and type(state[1]) is str
    and state[1] in ("<", "|")
    and all(item is None for item in state[2:5])
    and (len(state) == 8 or state[8] is None or (type(state[8]) is dict and not state[8])),
    "a numpy type has fields, metadata or another byte order",
  )


def set_array_state(budget: Budget, array: StoredArray, state: Any) -> None:
  """Fills an array in place from a state: version, shape, type, whether Fortran's, bytes.

  Raises:
    ValueError: if the parts do not fit together.
  """
  _require(type(state) is tuple and len(state) == 5, "the state of a numpy array is not known")
  _, shape, dtype, fortran, raw = state
  _require(
    type(shape) is tuple
    and isinstance(dtype, np.dtype)
    and type(raw) is bytes
    and math.prod(map(integer, shape)) * dtype.itemsize == len(raw),
    "the state of a numpy array does not fit together",
  )
  budget.spend(len(raw))
  array.__setstate__((1, shape, dtype, fortran is True, raw))  # type: ignore[arg-type]


FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
  ("collections", "OrderedDict"): _ordered_dict,
  ("collections", "Counter"): _plain(dict, "a Counter is not made of a dict"),
  ("torch", "Size"): _plain(tuple, "a torch.Size is not made of a tuple"),
  ("torch", "device"): _device,
  ("torch.serialization", "_get_layout"): _plain(str, "a torch.layout is not made of its name"),
  ("torch._utils", "_rebuild_tensor"): _tensor,
  ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
  ("torch._utils", "_rebuild_parameter"): _parameter,
  ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
  ("_codecs", "encode"): _encode,
  ("numpy", "dtype"): _numpy_dtype,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
  FUNCTIONS |= {(_module, "scalar"): _numpy_scalar, (_module, "_reconstruct"): _numpy_array}
for _module in ("builtins", "__builtin__"):
  FUNCTIONS |= {(_module, kind.__name__): _set(kind) for kind in (set, frozenset)}
  FUNCTIONS[_module, "complex"] = _complex
ALLOWED: dict[tuple[str, str], Any] = {
  **{names: Function(".".join(names), build) for names, build in FUNCTIONS.items()},
  **{("torch", f"{name}Storage"): StorageType(np.dtype(d)) for name, (_, d) in DTYPES.items()},
  **{("torch", name): np.dtype(dtype) for name, dtype in DTYPES.values()},
  ("torch.storage", "UntypedStorage"): StorageType(np.dtype(np.uint8)),
  ("argparse", "Namespace"): NAMESPACE,
  ("numpy", "ndarray"): NDARRAY,
}
