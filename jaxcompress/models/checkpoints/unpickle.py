"""Reads a pickle of plain data and arrays, and runs nothing that it names."""

import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from jaxcompress.models.checkpoints.allow_list import (
  ALLOWED,
  NAMESPACE,
  Budget,
  Function,
  Options,
  Storage,
  StorageType,
  StoredArray,
  check_dtype_state,
  integer,
  key,
  set_array_state,
)

OPCODES = {ord(op.code): op.name for op in pickletools.opcodes}
PLAIN = """
  PROTO FRAME STOP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT
  BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
  EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_LIST LIST EMPTY_DICT EMPTY_SET MARK POP POP_MARK DUP
  BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL BINPERSID
"""  # opcodes that do the same here as in pickle


class Stream(Protocol):
  """A source of bytes; at its end, both calls return less than was asked for."""

  def read(self, size: int, /) -> bytes: ...

  def readline(self) -> bytes: ...


def unpickle(
  stream: Stream, storage: Callable[[np.dtype, str, int], np.ndarray], budget: Budget
) -> Any:
  """Reads one pickle from a stream, up to its STOP.

  Args:
    stream: at the first byte of the pickle; left behind its last.
    storage: finds the values of a storage by the type of its elements, its key and their number.
    budget: counts what is built.

  Returns:
    dicts, lists, tuples, sets, numbers, strings and arrays; tensors are read-only views.

  Raises:
    ValueError: if the pickle names a global or has an opcode that is not allowed, or fills or calls
      what it must not; what is damaged raises errors of other kinds, too.

  Examples:
    >>> import io
    >>> stream = io.BytesIO(pickle.dumps({"epoch": 3}, protocol=2))
    >>> unpickle(stream, no_storage, Budget(100))
    {'epoch': 3}
  """
  return _Unpickler(stream, storage, budget).load()


def no_storage(dtype: np.dtype, name: str, count: int) -> np.ndarray:
  """Finds no storage: for pickles that have none."""
  raise ValueError("it asks for a storage, and this pickle has no storages")


class _Opcodes(dict):
  """Actions by opcode; those that are not there are refused by their names."""

  def __missing__(self, code: int) -> Any:
    name = OPCODES.get(code, "?")
    raise ValueError(f"the pickle opcode {name} ({bytes([code])!r}) is not allowed")


_Standard: Any = pickle._Unpickler


class _Unpickler(_Standard):
  """The interpreter of the standard library's pickle, which makes plain data only.

  The one in Python: that in C hands states to ``__setstate__`` of whatever lies on its stack, and
  reserves memory up to any index that a memo opcode gives.
  """

  dispatch = _Opcodes()

  def __init__(self, stream: Stream, storage: Callable[..., np.ndarray], budget: Budget):
    super().__init__(stream, encoding="latin-1")
    self._storage = storage
    self._budget = budget

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in ALLOWED:
      wanted = f"{module}.{name}"
      wanted = wanted if len(wanted) <= 80 else f"{wanted[:77]}..."
      raise ValueError(f"it asks for the global {wanted!r}, which is not on the allow-list")
    return ALLOWED[module, name]

  def persistent_load(self, identity: Any) -> Storage:
    known = type(identity) is tuple and len(identity) in (5, 6)
    if not known or type(identity[0]) is not str or identity[0] != "storage":
      raise ValueError("it holds a whole module, or a storage in a form that is not known")
    _, kind, name, _, count, view = (*identity, None)[:6]
    if type(kind) is not StorageType or type(name) is not str:
      raise ValueError("a storage has no torch type or no key")
    values = self._storage(kind.dtype, name, integer(count))
    if view is not None:
      if type(view) is not tuple or len(view) != 3:
        raise ValueError("a view of a storage is not a key, offset and size")
      first, count = integer(view[1]), integer(view[2])
      if first + count > len(values):
        raise ValueError(f"a view reaches outside of its storage of {len(values)} elements")
      values = values[first : first + count]
    return Storage(values)

  def _top(self, *kinds: type) -> Any:
    if type(self.stack[-1]) not in kinds:
      raise ValueError(f"a pickle fills something that is no {kinds[0].__name__}")
    return self.stack[-1]

  def _append(self, items: list[Any]) -> None:
    self._top(list).extend(items)

  def _add(self, items: list[Any]) -> None:
    self._top(set).update(map(key, items))

  def _set_items(self, pairs: list[Any]) -> None:
    self._top(dict, OrderedDict, Options).update(_dict(pairs))

  def _reduce(self, arguments: Any) -> None:
    function = self.stack.pop()
    if type(function) is not Function or type(arguments) is not tuple:
      raise ValueError(f"it calls a {type(function).__name__}, which is no allowed function")
    try:
      self.append(function.build(self._budget, *arguments))
    except TypeError as error:
      raise ValueError(f"{function.name} is called with arguments that do not fit") from error

  def _new(self, arguments: Any) -> None:
    if self.stack.pop() is not NAMESPACE or type(arguments) is not tuple or arguments:
      raise ValueError("it makes an object of another class than argparse.Namespace")
    self.append(Options())

  def _build(self, state: Any) -> None:
    target = self.stack[-1]
    if type(target) is OrderedDict and type(state) is dict:
      return  # attributes such as _metadata: versions of modules, no weights
    if type(target) is Options and type(state) is dict:
      self._budget.spend(100 * len(state))
      target.update(state)
    elif isinstance(target, np.dtype):
      check_dtype_state(state)
    elif type(target) is StoredArray:
      set_array_state(self._budget, target, state)
    else:
      raise ValueError(f"it sets the state of a {type(target).__name__}, which is not allowed")


def _dict(pairs: list[Any]) -> dict[Any, Any]:
  if len(pairs) % 2:
    raise ValueError("a dict has a key without a value")
  return {key(name): value for name, value in zip(pairs[::2], pairs[1::2], strict=True)}


_OWN: dict[str, Callable[[Any], Any]] = {
  "APPEND": lambda m: m._append([m.stack.pop()]),
  "APPENDS": lambda m: m._append(m.pop_mark()),
  "ADDITEMS": lambda m: m._add(m.pop_mark()),
  "FROZENSET": lambda m: m.append(frozenset(map(key, m.pop_mark()))),
  "DICT": lambda m: m.append(_dict(m.pop_mark())),
  "SETITEM": lambda m: m._set_items([m.stack.pop(), m.stack.pop()][::-1]),
  "SETITEMS": lambda m: m._set_items(m.pop_mark()),
  "REDUCE": lambda m: m._reduce(m.stack.pop()),
  "NEWOBJ": lambda m: m._new(m.stack.pop()),
  "BUILD": lambda m: m._build(m.stack.pop()),
}
for _code, _name in OPCODES.items():
  if _name in PLAIN.split():
    _Unpickler.dispatch[_code] = _Standard.dispatch[_code]
  elif _name in _OWN:
    _Unpickler.dispatch[_code] = _OWN[_name]
