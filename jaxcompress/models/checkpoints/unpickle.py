"""Reads a pickle of plain data and arrays, and runs nothing that it names.

Not a subclass of :class:`pickle.Unpickler`: that one hands states to ``__setstate__`` of whatever
lies on its stack, and reserves memory up to any index that a memo opcode gives.
"""

import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any, Protocol, cast

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

OPCODES: dict[str, pickletools.OpcodeInfo] = {op.code: op for op in pickletools.opcodes}
MOST_OPCODES = 2**22  # of one pickle; a state dict takes about 50 for each tensor
LONGEST_LINE = 1024  # of a global's module or name


class Stream(Protocol):
  """What a pickle is read from; both calls return less than was asked for at the end."""

  def read(self, size: int, /) -> bytes: ...

  def readline(self, size: int, /) -> bytes: ...


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
    ValueError: if the pickle names a global that is not allowed, is damaged or too large.

  Examples:
    >>> import io, pickle
    >>> stream = io.BytesIO(pickle.dumps({"epoch": 3}, protocol=2))
    >>> unpickle(stream, no_storage, Budget(100))
    {'epoch': 3}
  """
  machine = _Machine(stream, storage, budget)
  for _ in range(MOST_OPCODES):
    code = stream.read(1)
    if not code:
      raise ValueError("it ends in the middle of a pickle")
    op = OPCODES.get(code.decode("latin-1"))
    name = "?" if op is None else op.name
    if name == "STOP":
      return machine.pop()
    if name not in _ACTIONS:
      raise ValueError(f"the pickle opcode {name} ({code!r}) is not allowed")
    argument: Any = None
    if name == "GLOBAL":
      argument = (machine.line(), machine.line())
    elif op is not None and op.arg is not None:
      argument = op.arg.reader(cast(IO[bytes], stream))
    _ACTIONS[name](machine, argument)
  raise ValueError(f"a pickle has more than {MOST_OPCODES} opcodes")


def no_storage(dtype: np.dtype, name: str, count: int) -> np.ndarray:
  """Finds no storage: for pickles that have none."""
  raise ValueError("it asks for a storage where there are none")


class _Machine:
  """The stack, marks and memo of a pickle that is being read."""

  def __init__(self, stream: Stream, storage: Callable[..., np.ndarray], budget: Budget):
    self._stream = stream
    self._storage = storage
    self._budget = budget
    self._stack: list[Any] = []
    self._marks: list[list[Any]] = []
    self._memo: dict[int, Any] = {}

  def line(self) -> str:
    line = self._stream.readline(LONGEST_LINE)
    if not line.endswith(b"\n"):
      raise ValueError("the name of a global does not end")
    return line[:-1].decode("utf-8")

  def push(self, value: Any) -> None:
    self._stack.append(value)

  def pop(self) -> Any:
    if not self._stack:
      raise ValueError("a pickle takes more from its stack than it put there")
    return self._stack.pop()

  def pop_several(self, count: int) -> tuple[Any, ...]:
    return tuple(self.pop() for _ in range(count))[::-1]

  def top(self, *kinds: type) -> Any:
    if not self._stack or type(self._stack[-1]) not in kinds:
      raise ValueError(f"a pickle fills something that is no {kinds[0].__name__}")
    return self._stack[-1]

  def mark(self) -> None:
    self._marks.append(self._stack)
    self._stack = []

  def pop_mark(self) -> list[Any]:
    if not self._marks:
      raise ValueError("a pickle looks for a mark that it did not set")
    items, self._stack = self._stack, self._marks.pop()
    return items

  def discard(self) -> None:
    if self._stack:
      self._stack.pop()
    else:
      self.pop_mark()

  def duplicate(self) -> None:
    value = self.pop()
    self._stack += (value, value)

  def remember(self, index: int | None) -> None:
    value = self.pop()
    self._memo[len(self._memo) if index is None else index] = value
    self.push(value)

  def recall(self, index: int) -> None:
    if index not in self._memo:
      raise ValueError(f"a pickle recalls value {index}, which it did not store")
    self.push(self._memo[index])

  def append(self, items: list[Any]) -> None:
    self.top(list).extend(items)

  def add(self, items: list[Any]) -> None:
    self.top(set).update(map(key, items))

  def set_items(self, pairs: list[Any]) -> None:
    self.top(dict, OrderedDict, Options).update(_dict(pairs))

  def find(self, module: Any, name: Any) -> None:
    if type(module) is not str or type(name) is not str:
      raise ValueError("a pickle names a global by something else than text")
    if (module, name) not in ALLOWED:
      wanted = f"{module}.{name}"
      wanted = wanted if len(wanted) <= 80 else f"{wanted[:77]}..."
      raise ValueError(f"it asks for the global {wanted!r}, which is not on the allow-list")
    self.push(ALLOWED[module, name])

  def reduce(self) -> None:
    function, arguments = self.pop_several(2)
    if type(function) is not Function or type(arguments) is not tuple:
      raise ValueError(f"it calls a {type(function).__name__}, which is no allowed function")
    try:
      result = function.build(self._budget, *arguments)
    except TypeError as error:
      raise ValueError(f"{function.name} is called with arguments that do not fit") from error
    self.push(result)

  def new(self) -> None:
    kind, arguments = self.pop_several(2)
    if kind is not NAMESPACE or type(arguments) is not tuple or arguments:
      raise ValueError("it makes an object of another class than argparse.Namespace")
    self.push(Options())

  def build(self) -> None:
    state = self.pop()
    target = self._stack[-1] if self._stack else None
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

  def persistent(self) -> None:
    identity = self.pop()
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
    self.push(Storage(values))

  def proto(self, version: int) -> None:
    if version > 5:
      raise ValueError(f"it is of pickle protocol {version}; 5 is the last that is known")


def _dict(pairs: list[Any]) -> dict[Any, Any]:
  if len(pairs) % 2:
    raise ValueError("a dict has a key without a value")
  return {key(name): value for name, value in zip(pairs[::2], pairs[1::2], strict=True)}


_ACTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
  "PROTO": lambda m, version: m.proto(version),
  "FRAME": lambda m, size: None,
  "NONE": lambda m, _: m.push(None),
  "NEWTRUE": lambda m, _: m.push(True),
  "NEWFALSE": lambda m, _: m.push(False),
  **dict.fromkeys(
    [
      "BININT",
      "BININT1",
      "BININT2",
      "LONG1",
      "LONG4",
      "BINFLOAT",
      "BINUNICODE",
      "SHORT_BINUNICODE",
      "BINUNICODE8",
      "BINSTRING",
      "SHORT_BINSTRING",
      "BINBYTES",
      "SHORT_BINBYTES",
      "BINBYTES8",
    ],
    _Machine.push,
  ),
  "EMPTY_TUPLE": lambda m, _: m.push(()),
  "TUPLE1": lambda m, _: m.push(m.pop_several(1)),
  "TUPLE2": lambda m, _: m.push(m.pop_several(2)),
  "TUPLE3": lambda m, _: m.push(m.pop_several(3)),
  "TUPLE": lambda m, _: m.push(tuple(m.pop_mark())),
  "EMPTY_LIST": lambda m, _: m.push([]),
  "LIST": lambda m, _: m.push(m.pop_mark()),
  "APPEND": lambda m, _: m.append([m.pop()]),
  "APPENDS": lambda m, _: m.append(m.pop_mark()),
  "EMPTY_DICT": lambda m, _: m.push({}),
  "DICT": lambda m, _: m.push(_dict(m.pop_mark())),
  "SETITEM": lambda m, _: m.set_items(list(m.pop_several(2))),
  "SETITEMS": lambda m, _: m.set_items(m.pop_mark()),
  "EMPTY_SET": lambda m, _: m.push(set()),
  "ADDITEMS": lambda m, _: m.add(m.pop_mark()),
  "FROZENSET": lambda m, _: m.push(frozenset(map(key, m.pop_mark()))),
  "MARK": lambda m, _: m.mark(),
  "POP": lambda m, _: m.discard(),
  "POP_MARK": lambda m, _: m.pop_mark(),
  "DUP": lambda m, _: m.duplicate(),
  "BINPUT": lambda m, index: m.remember(index),
  "LONG_BINPUT": lambda m, index: m.remember(index),
  "MEMOIZE": lambda m, _: m.remember(None),
  "BINGET": lambda m, index: m.recall(index),
  "LONG_BINGET": lambda m, index: m.recall(index),
  "GLOBAL": lambda m, names: m.find(*names),
  "STACK_GLOBAL": lambda m, _: m.find(*m.pop_several(2)),
  "REDUCE": lambda m, _: m.reduce(),
  "NEWOBJ": lambda m, _: m.new(),
  "BUILD": lambda m, _: m.build(),
  "BINPERSID": lambda m, _: m.persistent(),
}
