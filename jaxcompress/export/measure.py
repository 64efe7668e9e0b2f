"""Times a model file in a process of its own, so that its memory is the runtime's.

Run as a script, ``measure.py FILE THREADS REPEATS``, it imports nothing of jaxcompress, whose own
libraries would be in the numbers, and prints JSON.
"""

import json
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

WARM_UP = 10  # runs at least, and a tenth of the timed ones


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


def load_tflite(path: str, threads: int) -> Callable[[], Callable[[], Any]]:
  """A function that runs a .tflite file once, on random numbers; made in two steps."""
  from ai_edge_litert.interpreter import Interpreter

  def start():
    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    interpreter.set_tensor(entry["index"], random_images(entry["shape"], entry["dtype"]))
    return interpreter.invoke

  return start


def load_onnx(path: str, threads: int) -> Callable[[], Callable[[], Any]]:
  """As :func:`load_tflite`, of an .onnx file in onnxruntime."""
  import onnxruntime

  def start():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in entry.shape]
    kind = entry.type.removeprefix("tensor(").removesuffix(")")
    images = random_images(shape, np.dtype({"float": "float32"}.get(kind, kind)))
    return lambda: session.run(None, {entry.name: images})

  return start


def random_images(shape: Sequence[int], dtype: Any) -> np.ndarray:
  """Images that nothing can be skipped for."""
  rng = np.random.default_rng(0)
  if np.dtype(dtype).kind == "f":
    return rng.normal(size=shape).astype(dtype)
  return rng.integers(0, 100, shape).astype(dtype)


LOADERS = {".tflite": load_tflite, ".onnx": load_onnx}


def measure(path: str, threads: int, repeats: int) -> dict:
  """Times in milliseconds of single runs, and by how many bytes the process grew."""
  start = LOADERS[pathlib.Path(path).suffix.lower()](path, threads)
  before = peak_bytes()
  run = start()
  for _ in range(max(WARM_UP, repeats // 10)):
    run()
  times = []
  for _ in range(repeats):
    began = time.perf_counter()
    run()
    times.append(1e3 * (time.perf_counter() - began))
  after = peak_bytes()
  return {"times": times, "memory": None if before is None or after is None else after - before}


if __name__ == "__main__":
  print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
