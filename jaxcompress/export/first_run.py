"""Opens a model file in its runtime, and runs it once, in a process of its own.

Run as a script, ``first_run.py KERNELS STAGE ARENA_BYTES``, with the file on standard input, it
imports nothing of jaxcompress, so that it starts fast, and prints JSON: what the runtime says against
the file, or the numbers of its inputs and outputs. Runtimes do not survive every file; then the
process ends by a signal, and not the one that asked.
"""

import json
import os
import sys
from typing import Any

import numpy as np

NUMBERS = {"float": "float32", "double": "float64"}  # ONNX's names that are not numpy's


def bound_memory() -> None:
  """Lets this process have no more memory than the machine has."""
  try:
    import resource

    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
  except (ImportError, ValueError, OSError):  # not a Unix, or it has a lower limit already
    pass


def in_litert(content: bytes, kernels: str, run: bool) -> dict[str, Any]:
  """A .tflite file in LiteRT."""
  from ai_edge_litert.interpreter import Interpreter, OpResolverType

  resolver = OpResolverType.BUILTIN_REF if kernels == "reference" else OpResolverType.AUTO
  interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
  inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
  if run:
    interpreter.allocate_tensors()
    for entry in interpreter.get_input_details():
      interpreter.set_tensor(entry["index"], np.zeros(entry["shape"], entry["dtype"]))
    interpreter.invoke()
    for entry in outputs:
      interpreter.get_tensor(entry["index"])
  return {"inputs": len(inputs), "outputs": len(outputs)}


def in_micro(content: bytes, arena_bytes: int) -> dict[str, Any]:
  """A .tflite file in TensorFlow Lite for Microcontrollers."""
  from tflite_micro import runtime

  interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena_bytes)
  entry = interpreter.get_input_details(0)
  interpreter.set_input(np.zeros(entry["shape"], entry["dtype"]), 0)
  interpreter.invoke()
  interpreter.get_output(0)
  return {}


def in_onnxruntime(content: bytes, run: bool) -> dict[str, Any]:
  """An .onnx file in onnxruntime; if it is not run, ONNX infers its shapes, as linting does."""
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.log_severity_level = 4
  options.intra_op_num_threads = 1
  session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
  found = {"inputs": len(session.get_inputs()), "outputs": len(session.get_outputs())}
  if not run:
    import onnx

    onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    return found
  images = {}
  for entry in session.get_inputs():
    kind = entry.type.removeprefix("tensor(").removesuffix(")")
    try:
      dtype = np.dtype(NUMBERS.get(kind, kind))
    except TypeError:
      return found  # it reads no numbers, which the caller sees
    shape = [size if isinstance(size, int) else 1 for size in entry.shape]
    images[entry.name] = np.zeros(shape, dtype)
  session.run(None, images)
  return found


def in_jax(content: bytes) -> dict[str, Any]:
  """A .stablehlo file in JAX, as far as its program."""
  from jax import export

  export.deserialize(bytearray(content)).mlir_module()
  return {"inputs": 1, "outputs": 1}


def first_run(content: bytes, kernels: str, run: bool, arena_bytes: int) -> dict[str, Any]:
  """What came of it."""
  try:
    if kernels == "onnxruntime":
      return in_onnxruntime(content, run)
    if kernels == "stablehlo":
      return in_jax(content)
    found = in_litert(content, kernels, run and kernels != "tflm")
    return {**found, **(in_micro(content, arena_bytes) if run and kernels == "tflm" else {})}
  except Exception as error:  # the runtimes' have no common base
    return {"error": str(error) or type(error).__name__}


if __name__ == "__main__":
  bound_memory()
  stage, arena = sys.argv[2], int(sys.argv[3])
  print(json.dumps(first_run(sys.stdin.buffer.read(), sys.argv[1], stage == "run", arena)))
