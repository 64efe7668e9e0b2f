"""Quantization after training in jaxcompress and in what a user could take instead, on a real network.

    python benchmarks/peers_after_training.py WEIGHTS PICTURES [--out FILE] [--edge-python PYTHON]

torchvision's MobileNetV2 with its published weights, photographs and measures are those of
``benchmarks/real_mobilenet.py``. All tools get the same float network and the same preprocessed images:
jaxcompress the module, onnxruntime's ``quantize_static`` the float .onnx file and ai-edge-quantizer the
float .tflite file that jaxcompress writes, with BatchNorm folded, so that no tool has to fold it. Each
writes a file, with int8 weights by channel and int8 activations; what the file's runtime gives for all
test images, LiteRT with XNNPACK or onnxruntime with its default optimizations, is compared with the
labels and with the float network. onnxruntime's sessions have ``session.x64quantprecision``, without which
sums saturate on x86 processors without VNNI; ``saturated`` is top-1 in sessions without it. ``tied`` is the
share of images of which several classes have the largest logit, as where an output's range is too small; of
those the first counts.

``equal`` is the share of logits, of the first ``--simulated`` test images, for which the tool's own
simulation and the runtime are bit-equal. Simulation of jaxcompress is exact evaluation; that of
``quantize_static`` is the QDQ graph in float, which onnxruntime runs without optimizations;
ai-edge-quantizer has none but the runtime, so XNNPACK is compared with LiteRT's reference kernels.

Seconds are those of calibration, quantization and writing the file, of the wall and of the processor;
for jaxcompress with the compilation of its programs. ai-edge-quantizer runs in ``--edge-python``, a
Python of an environment with it; where it is missing, its row says so. Rows of ``--out`` are kept.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from real_mobilenet import SOURCE, float_logits, measured, read_pictures
from shared import append_row, print_table, read_rows

import jaxcompress as jc
from jaxcompress.nn import fold, fuse_activations

OURS, ORT, EDGE = "jaxcompress", "onnxruntime", "ai-edge-quantizer"
CASES = [
  *((OURS, method, form) for method in ("minmax", "mse") for form in (".tflite", ".onnx")),
  *((ORT, method, ".onnx") for method in ("MinMax", "Percentile")),
  (EDGE, "static_wi8_ai8", ".tflite"),
]
PROGRAMS = {ORT: "onnxruntime_static.py", EDGE: "ai_edge.py"}
BATCH = 32
SHARES = ("top1", "tied", "agreement")  # rows of before do not say how many are tied


def run_tflite(path, images, *, reference: bool = False) -> np.ndarray:
  """Logits of a .tflite file in LiteRT, with XNNPACK or with reference kernels."""
  from ai_edge_litert.interpreter import Interpreter, OpResolverType

  resolver = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
  interpreter = Interpreter(
    model_path=str(path), num_threads=1, experimental_op_resolver_type=resolver
  )
  interpreter.allocate_tensors()
  (reads,), (writes,) = interpreter.get_input_details(), interpreter.get_output_details()
  found = []
  for image in images:
    interpreter.set_tensor(reads["index"], coded(image[None], reads))
    interpreter.invoke()
    found.append(interpreter.get_tensor(writes["index"])[0])
  scale, zero = writes["quantization"]
  logits = np.stack(found)
  return logits if logits.dtype == np.float32 else np.float32(scale) * (np.float32(logits) - zero)


def coded(image: np.ndarray, end: dict) -> np.ndarray:
  """An image as a file reads it: float32, or integers on its grid."""
  if end["dtype"] == np.float32:
    return image
  scale, zero = end["quantization"]
  limits = np.iinfo(end["dtype"])
  return np.clip(np.rint(image / np.float32(scale)) + zero, limits.min, limits.max).astype(
    end["dtype"]
  )


def run_onnx(path, images, *, optimized: bool = True, precise: bool = True) -> np.ndarray:
  """Logits of an .onnx file in onnxruntime.

  Args:
    path: the file.
    images: as the network reads them.
    optimized: whether with its default optimizations, or without any.
    precise: whether sums of products do not saturate on x86 processors without VNNI.
  """
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = options.inter_op_num_threads = 1
  if precise:
    options.add_session_config_entry("session.x64quantprecision", "1")
  if not optimized:
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
  session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
  batches = (
    images[i : i + BATCH].transpose(0, 3, 1, 2).copy() for i in range(0, len(images), BATCH)
  )
  return np.concatenate([session.run(None, {"image": batch})[0] for batch in batches])


def share_equal(ours: np.ndarray, theirs: np.ndarray) -> float:
  """The share of numbers that are the same."""
  return float(np.mean(ours == theirs))


def share_tied(logits: np.ndarray) -> float:
  """The share of images of which several classes have the largest logit."""
  return float(np.mean((logits == logits.max(-1, keepdims=True)).sum(-1) > 1))


class Bench:
  """The network, its photographs, and the float files that the others get."""

  def __init__(self, arguments: argparse.Namespace, folder: pathlib.Path):
    reader = jc.data.ImageReader.of_source(SOURCE)
    self.python, self.folder = arguments.edge_python, folder
    self.model, self.variables = jc.models.from_torch(SOURCE, arguments.weights)
    (calibration, _), (images, self.labels) = read_pictures(
      arguments.pictures, reader, arguments.calibration
    )
    self.real = float_logits(self.model, self.variables, images, reader.preprocess)
    self.calibration, self.images = (
      np.concatenate(
        [np.asarray(reader.preprocess(x[i : i + BATCH])) for i in range(0, len(x), BATCH)]
      )
      for x in (calibration, images)
    )
    self.simulated = self.images[: arguments.simulated]
    self.made = {}
    graph = fuse_activations(jc.models.summarize(self.model, images.shape[1]).graph)
    layers = fold(graph, jax.device_get(self.variables))
    self.floats = {
      ".tflite": jc.export.tflite_float(graph, layers, folder / "float.tflite"),
      ".onnx": jc.export.onnx_float(graph, layers, folder / "float.onnx"),
    }
    np.save(folder / "calibration.npy", self.calibration)

  def ours(self, method: str, form: str, path: pathlib.Path) -> dict:
    """Quantizes with jaxcompress; the two files of a method are of one model."""
    if method not in self.made:
      jax.clear_caches()
      started = time.perf_counter(), time.process_time()
      quantized = jc.quantize.post_training(
        self.model, self.variables, self.calibration, method=method, progress=False
      )
      spent = time.perf_counter() - started[0], time.process_time() - started[1]
      self.made[method] = quantized, spent
    quantized, spent = self.made[method]
    started = time.perf_counter(), time.process_time()
    if form == ".onnx":
      quantized = quantized.with_kernels("onnxruntime")
      jc.export.onnx(quantized, path)
    else:
      jc.export.tflite(quantized, path)
    writing = time.perf_counter() - started[0], time.process_time() - started[1]
    logits = run_onnx(path, self.images) if form == ".onnx" else run_tflite(path, self.images)
    equal = jc.export.verify(path, quantized, self.simulated).bit_equal
    seconds, processor = (a + b for a, b in zip(spent, writing, strict=True))
    return self.row(logits, equal, {"seconds": seconds, "processor": processor}, path)

  def theirs(self, tool: str, method: str, form: str, path: pathlib.Path) -> dict:
    """Quantizes in a process of the tool's own."""
    program = pathlib.Path(__file__).parent / "contenders" / PROGRAMS[tool]
    python = self.python if tool == EDGE else sys.executable
    command = [python, program, self.floats[form], self.folder / "calibration.npy", path, method]
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True)
    if done.returncode:
      return {"error": (done.stderr.strip().splitlines() or ["no word"])[-1][:120]}
    spent = json.loads(done.stdout.strip().splitlines()[-1])
    if form == ".onnx":
      logits = run_onnx(path, self.images)
      plain = run_onnx(path, self.simulated, optimized=False)
    else:
      logits = run_tflite(path, self.images)
      plain = run_tflite(path, self.simulated, reference=True)
    return self.row(logits, share_equal(logits[: len(plain)], plain), spent, path)

  def row(self, logits: np.ndarray, equal: float | None, spent: dict, path: pathlib.Path) -> dict:
    """Measures of a file."""
    saturated = None
    if path.suffix == ".onnx" and equal is not None:
      plain = run_onnx(path, self.images, precise=False)
      saturated = measured(plain, self.real, self.labels)["top1"]
    return {
      **measured(logits, self.real, self.labels),
      "tied": share_tied(logits),
      "equal": equal,
      "saturated": saturated,
      "bytes": path.stat().st_size,
      **{name: round(seconds, 1) for name, seconds in spent.items()},
    }


def print_rows(rows: list[dict]) -> None:
  """All rows as a table."""
  lines = []
  for row in rows:
    case = row["tool"], row["method"], row["form"]
    if "error" in row:
      lines.append((*case, row["error"], *[""] * 8))
      continue
    shares = (f"{100 * row[name]:.1f}" if name in row else "" for name in SHARES)
    rest = (f"{row['sqnr']:.1f}", f"{100 * row['equal']:.2f}") if row["method"] else ("", "")
    saturated = "" if row["saturated"] is None else f"{100 * row['saturated']:.1f}"
    spent = (f"{row[name]:.0f}" for name in ("seconds", "processor")) if row["method"] else ("", "")
    lines.append((*case, *shares, *rest, saturated, *spent, f"{row['bytes'] / 1e6:.2f}"))
  head = ("tool", "ranges", "file", "top-1, %", "tied, %", "agreement, %", "dB", "equal, %")
  print_table((*head, "saturated, %", "seconds", "of the processor", "MB"), lines)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("weights", type=pathlib.Path)
  parser.add_argument("pictures", type=pathlib.Path)
  parser.add_argument("--calibration", type=int, default=128)
  parser.add_argument(
    "--simulated", type=int, default=256, help="images of which bits are compared"
  )
  parser.add_argument("--edge-python", default=sys.executable, help="with ai-edge-quantizer")
  parser.add_argument("--out", type=pathlib.Path, help="file of JSON lines")
  arguments = parser.parse_args()
  settings = {"calibration": arguments.calibration, "simulated": arguments.simulated}
  done = read_rows(arguments.out, **settings)
  known = {(row["tool"], row["method"], row["form"]) for row in done if "error" not in row}
  with tempfile.TemporaryDirectory() as folder:
    bench = Bench(arguments, pathlib.Path(folder))
    floats = [("float", "", form) for form in bench.floats]
    for tool, method, form in (*floats, *CASES):
      if (tool, method, form) in known:
        continue
      path = pathlib.Path(folder) / f"{tool}-{method}{form}"
      if tool == "float":
        path = bench.floats[form]
        run = run_onnx if form == ".onnx" else run_tflite
        found = bench.row(run(path, bench.images), None, {}, path) | {"sqnr": None}
      elif tool == OURS:
        found = bench.ours(method, form, path)
      else:
        found = bench.theirs(tool, method, form, path)
      row = {"tool": tool, "method": method, "form": form, **settings, **found}
      append_row(arguments.out, row)
      done.append(row)
      print(row, flush=True)
  print_rows(done)


if __name__ == "__main__":
  main()
