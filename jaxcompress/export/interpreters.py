"""Opens model files in the runtimes of devices, here or in a process of its own.

Run as a script, ``interpreters.py TASK OPTIONS``, with JSON options and the file on standard input, it
prints as JSON what came of a task, or what the runtime says against the file. Runtimes do not survive
every file; then that process ends by a signal, and not the one that asked. This module imports nothing
of jaxcompress, so that the process starts fast and its memory is the runtime's.
"""

import abc
import importlib
import json
import math
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

MODULES = {"onnxruntime": "onnxruntime", "tflm": "tflite_micro.runtime"}  # others are LiteRT's
NUMBERS = (
  *("bool", "float16", "float32", "float64"),
  *(f"{kind}{width}" for kind in ("int", "uint") for width in (8, 16, 32, 64)),
)
NUMPY_NAMES = {"float": "float32", "double": "float64"}  # where ONNX's are not NumPy's
FATAL = 4  # of onnxruntime's levels of what it logs
PRECISE = "session.x64quantprecision"  # sums do not saturate on x86 without VNNI
LARGEST_ARENA = 2**31 - 1  # bytes
SPARE_BYTES = 2**20  # of the arena, beyond what tensors and their quantization need
WARM_UP = 10  # runs at least, and a tenth of the timed ones


class End(NamedTuple):
  """An input or output of a file.

  Attributes:
    name: in the file.
    shape: with one for free sizes.
    dtype: NumPy's, or the runtime's word for what is no array of numbers.
    scale: of integers, ``real = (q - zero_point) * scale``; 0: they stand for nothing.
    zero_point: of integers.
  """

  name: str
  shape: tuple[int, ...]
  dtype: str
  scale: float = 0.0
  zero_point: int = 0

  @property
  def is_numeric(self) -> bool:
    return self.dtype in NUMBERS


class Interpreter(abc.ABC):
  """A file in a runtime; only those with one input are fed and invoked.

  Attributes:
    inputs: of the file.
    outputs: of the file.
    places: of the outputs in ``outputs``, by the names that the file gives them.
    metadata: texts kept in the file, where the runtime tells them.
    takes_any: whether it takes any number of images at once, though its ends are those of one.
  """

  takes_any = False
  inputs: tuple[End, ...]
  outputs: tuple[End, ...]
  places: Mapping[str, int]
  metadata: Mapping[str, str] = MappingProxyType({})

  def allocate(self) -> None:  # noqa: B027 - most have nothing to do
    """Gets the memory that running takes, where opening the file did not."""

  @abc.abstractmethod
  def feed(self, *values: np.ndarray) -> None:
    """Sets the inputs."""

  @abc.abstractmethod
  def invoke(self) -> None:
    """Computes."""

  @abc.abstractmethod
  def read(self) -> tuple[np.ndarray, ...]:
    """Copies of the outputs."""

  def left_out(self) -> tuple[str, ...]:
    """Names of the operators that other kernels compute than those that are asked for, in order."""
    return ()


class LiteRT(Interpreter):
  """A .tflite file in LiteRT, with XNNPACK's kernels or its reference ones."""

  def __init__(self, file: bytes | str, threads: int = 1, *, reference: bool = False):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    source = {"model_path": file} if isinstance(file, str) else {"model_content": file}
    resolver = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
    self._interpreter = Interpreter(
      num_threads=threads, experimental_op_resolver_type=resolver, **source
    )
    self._is_reference = reference
    ends = self._interpreter.get_input_details(), self._interpreter.get_output_details()
    self.inputs, self.outputs = (tuple(map(_end, part)) for part in ends)
    self._input_places, self._output_places = ([end["index"] for end in part] for part in ends)
    self.places = output_places(file, self.outputs)

  @property
  def arena_bytes(self) -> int:
    """Returns a number of bytes that is more than TFLite-Micro needs for the tensors of the file."""
    tensors = self._interpreter.get_tensor_details()
    return 4 * sum(abs(math.prod(map(int, tensor["shape"]))) for tensor in tensors)

  @property
  def shapes(self) -> dict[str, list[int]]:
    """Shapes of tensors, by their index in the file."""
    tensors = self._interpreter.get_tensor_details()
    return {str(t["index"]): [int(size) for size in t["shape"]] for t in tensors}

  def allocate(self) -> None:
    self._interpreter.allocate_tensors()

  def feed(self, *values: np.ndarray) -> None:
    for place, value in zip(self._input_places, values, strict=True):
      self._interpreter.set_tensor(place, value)

  def invoke(self) -> None:
    self._interpreter.invoke()

  def read(self) -> tuple[np.ndarray, ...]:
    return tuple(map(self._interpreter.get_tensor, self._output_places))

  def left_out(self) -> tuple[str, ...]:
    """Reads the execution plan backwards: what a delegate writes, it computes."""
    if self._is_reference:
      return ()
    nodes = self._interpreter._get_ops_details()  # LiteRT has no public way to ask
    makers: dict[int, Any] = {}
    for node in nodes:
      delegate = node["op_name"] == "DELEGATE"
      for tensor in node["outputs"]:
        if delegate or int(tensor) not in makers:
          makers[int(tensor)] = node
    wanted, found = list(map(int, self._output_places)), {}
    while wanted:
      node = makers.get(wanted.pop())
      if node is not None and node["index"] not in found:
        found[node["index"]] = node["op_name"]
        wanted += [int(tensor) for tensor in node["inputs"]]
    return tuple(name for _, name in sorted(found.items()) if name != "DELEGATE")


class MicroRuntime(Interpreter):
  """A .tflite file in TensorFlow Lite for Microcontrollers.

  The runtime breaks down where its arena runs out, so that it gets more than it can need. It does not
  survive damaged files, so LiteRT opens them first.
  """

  def __init__(self, content: bytes):
    from tflite_micro import runtime

    opened = LiteRT(content, reference=True)
    arena = SPARE_BYTES + 4 * len(content) + opened.arena_bytes
    if arena > LARGEST_ARENA:
      raise RuntimeError(f"it needs {arena:,} bytes and can have {LARGEST_ARENA:,}")
    self._interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)
    own = self._interpreter
    places = range(len(opened.outputs))
    ends = (
      (_end(own.get_input_details(0)),),
      tuple(_end(own.get_output_details(place)) for place in places),
    )
    self.inputs, self.outputs = (
      tuple(map(_on_grid, mine, theirs))
      for mine, theirs in zip(ends, (opened.inputs[:1], opened.outputs), strict=True)
    )
    self.places = opened.places

  def print_allocations(self) -> None:
    """Has the runtime write to standard error, past Python, what its arena is used for."""
    self._interpreter.print_allocations()

  def feed(self, *values: np.ndarray) -> None:
    for index, value in enumerate(values):
      self._interpreter.set_input(value, index)

  def invoke(self) -> None:
    self._interpreter.invoke()

  def read(self) -> tuple[np.ndarray, ...]:
    return tuple(np.array(self._interpreter.get_output(i)) for i in range(len(self.outputs)))


class OnnxRuntime(Interpreter):
  """An .onnx file in an onnxruntime session with default optimizations on the CPU."""

  def __init__(self, file: bytes | str, threads: int = 1):
    self._file, self._session = file, _session(file, threads)
    self.inputs = tuple(map(_onnx_end, self._session.get_inputs()))
    self.outputs = tuple(map(_onnx_end, self._session.get_outputs()))
    self.places = {end.name: place for place, end in enumerate(self.outputs)}
    self.metadata = self._session.get_modelmeta().custom_metadata_map

  def feed(self, *values: np.ndarray) -> None:
    self._fed = {end.name: value for end, value in zip(self.inputs, values, strict=True)}

  def invoke(self) -> None:
    self._results = self._session.run(None, self._fed)

  def read(self) -> tuple[np.ndarray, ...]:
    return tuple(self._results)

  def optimized(self) -> bytes:
    """The file as onnxruntime rewrites it before it runs it."""
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / "optimized.onnx"
      _session(self._file, 1, path)
      return path.read_bytes()

  def left_out(self) -> tuple[str, ...]:
    return float_operators(self.optimized())


def float_operators(optimized: bytes) -> tuple[str, ...]:
  """Kinds of the operators of an .onnx file that compute in float, in order."""
  import onnx

  graph = onnx.load_from_string(optimized).graph
  floats, found = {end.name for end in graph.input}, []
  for node in graph.node:
    if node.op_type == "DequantizeLinear":
      floats |= set(node.output)
    elif node.op_type != "QuantizeLinear" and floats & set(node.input):
      floats |= set(node.output)
      found.append(node.op_type)
  return tuple(found)


def output_places(file: bytes | str, outputs: Sequence[End]) -> dict[str, int]:
  """Positions of a .tflite file's outputs, by their names in its signature, or those of tensors."""
  from ai_edge_litert import schema_py_generated as schema

  content = pathlib.Path(file).read_bytes() if isinstance(file, str) else file
  model = schema.Model.GetRootAs(content, 0)
  graph = model.Subgraphs(0)
  tensors = {graph.Outputs(place): place for place in range(graph.OutputsLength())}
  for signature in (model.SignatureDefs(i) for i in range(model.SignatureDefsLength())):
    if signature.SubgraphIndex() == 0:
      maps = (signature.Outputs(i) for i in range(signature.OutputsLength()))
      named = {(one.Name() or b"").decode(): one.TensorIndex() for one in maps}
      if set(named.values()) == set(tensors):
        return {name: tensors[index] for name, index in named.items()}
  names = [end.name for end in outputs]
  names = names if len(set(names)) == len(names) else list(map(str, range(len(names))))
  return {name: place for place, name in enumerate(names)}


def _end(details: Mapping[str, Any]) -> End:
  """An input or output as LiteRT and TFLite-Micro describe it."""
  shape = tuple(int(size) for size in details["shape"])
  name, dtype = str(details.get("name", "")), np.dtype(details["dtype"]).name
  return End(name, shape, dtype, *details.get("quantization", ()))


def _on_grid(end: End, known: End) -> End:
  """An input or output with the grid that another runtime tells."""
  return end._replace(scale=known.scale, zero_point=known.zero_point)


def _onnx_end(end: Any) -> End:
  """An input or output as onnxruntime describes it, with a type such as ``"tensor(float)"``."""
  shape = tuple(size if isinstance(size, int) else 1 for size in end.shape)
  kind = end.type.removeprefix("tensor(").removesuffix(")")
  kind = NUMPY_NAMES.get(kind, kind)
  return End(end.name, shape, kind if kind in NUMBERS else end.type)


def _session(file: bytes | str, threads: int, optimized: pathlib.Path | None = None) -> Any:
  import onnxruntime

  def opened(precise: bool) -> Any:
    options = onnxruntime.SessionOptions()
    if precise:
      options.add_session_config_entry(PRECISE, "1")
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = FATAL
    if optimized is not None:
      options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

  try:
    return opened(precise=True)
  except onnxruntime.capi.onnxruntime_pybind11_state.Fail:  # files whose layers share a zero point
    return opened(precise=False)


def open_file(kernels: str, file: bytes | str, threads: int = 1) -> Interpreter:
  """A file, or the one at a path, in the runtime of some kernels."""
  if kernels == "onnxruntime":
    return OnnxRuntime(file, threads)
  if kernels == "tflm":
    return MicroRuntime(file if isinstance(file, bytes) else pathlib.Path(file).read_bytes())
  return LiteRT(file, threads, reference=kernels == "reference")


def look_at(content: bytes, kernels: str) -> dict[str, Any]:
  """How many inputs and outputs a file has whose structure is sound."""
  if kernels == "stablehlo":
    from jax import export

    export.deserialize(bytearray(content)).mlir_module()
    return {"inputs": 1, "outputs": 1}
  interpreter = open_file("reference" if kernels == "tflm" else kernels, content)
  if kernels == "onnxruntime":
    import onnx

    onnx.shape_inference.infer_shapes(onnx.load_from_string(content))  # as linting does
  return _counts(interpreter)


def run_once(content: bytes, kernels: str) -> dict[str, Any]:
  """As :func:`look_at`, of a file that was run on zeros."""
  interpreter = open_file(kernels, content)
  interpreter.allocate()
  if all(end.is_numeric for end in interpreter.inputs):  # the caller sees others
    interpreter.feed(*(np.zeros(end.shape, end.dtype) for end in interpreter.inputs))
    interpreter.invoke()
    interpreter.read()
  return _counts(interpreter)


def look_at_shapes(content: bytes, kernels: str) -> dict[str, Any]:
  """Shapes of all tensors of a file that was run on zeros, and what XNNPACK left out.

  Some shapes are known only then, and operators on such tensors are left to LiteRT's own kernels.
  """
  interpreter = LiteRT(content, reference=kernels == "reference")
  interpreter.allocate()
  interpreter.feed(*(np.zeros(end.shape, end.dtype) for end in interpreter.inputs))
  interpreter.invoke()
  return {"shapes": interpreter.shapes, "left_out": interpreter.left_out()}


def _counts(interpreter: Interpreter) -> dict[str, Any]:
  return {"inputs": len(interpreter.inputs), "outputs": len(interpreter.outputs)}


def print_allocations(content: bytes) -> dict[str, Any]:
  """Has TFLite-Micro print what it allocates."""
  MicroRuntime(content).print_allocations()
  return {}


def time_runs(
  content: bytes, kernels: str, file: str, threads: int, repeats: int
) -> dict[str, Any]:
  """Times in milliseconds of single runs of the file at a path, and by how much the process grew."""
  importlib.import_module(MODULES.get(kernels, "ai_edge_litert.interpreter"))
  before = peak_bytes()
  interpreter = open_file(kernels, file, threads)
  interpreter.allocate()
  interpreter.feed(*(random_images(end.shape, end.dtype) for end in interpreter.inputs))
  for _ in range(max(WARM_UP, repeats // 10)):
    interpreter.invoke()
  times = []
  for _ in range(repeats):
    began = time.perf_counter()
    interpreter.invoke()
    times.append(1e3 * (time.perf_counter() - began))
  after = peak_bytes()
  return {"times": times, "memory": None if before is None or after is None else after - before}


def random_images(shape: Sequence[int], dtype: Any) -> np.ndarray:
  """Images that nothing can be skipped for."""
  rng = np.random.default_rng(0)
  if np.dtype(dtype).kind == "f":
    return rng.normal(size=shape).astype(dtype)
  return rng.integers(0, 100, shape).astype(dtype)


def peak_bytes() -> int | None:
  """The most memory that this program has had; None where the system does not say.

  On Linux ``ru_maxrss`` remembers the process that started this one, so it is not asked there.
  """
  status = pathlib.Path("/proc/self/status")
  if status.exists():
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
  try:
    import resource
  except ImportError:  # not a Unix
    return None
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def bound_memory() -> None:
  """Lets this process have no more memory than the machine has."""
  try:
    import resource

    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
  except (ImportError, ValueError, OSError):  # not a Unix, or it has a lower limit already
    pass


TASKS = {
  task.__name__: task for task in (look_at, run_once, look_at_shapes, print_allocations, time_runs)
}


def answer(task: str, options: str, content: bytes) -> str:
  """Does a task, and says as JSON what came of it."""
  try:
    return json.dumps(TASKS[task](content, **json.loads(options)))
  except Exception as error:  # the runtimes' have no common base
    return json.dumps({"error": str(error) or type(error).__name__})


if __name__ == "__main__":
  bound_memory()
  print(answer(sys.argv[1], sys.argv[2], sys.stdin.buffer.read()))
