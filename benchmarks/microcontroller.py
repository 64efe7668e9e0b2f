"""Flash, RAM, instructions and speed of small networks in C, beside TensorFlow Lite for Microcontrollers.

    python benchmarks/microcontroller.py

For each network, with random weights, four tables:

- Flash: a program that only runs the network, linked for a Cortex-M4 with newlib-nano at -Os and at -O3 (its
  start-up code, less than 2 KB, is counted in), and how much of that are weights. Beside it the .tflite file,
  to which TFLite-Micro's own code comes: its size cannot be measured for a Cortex-M here. What can be is code for
  this machine: that of the C, and that of the library in the wheel, which holds all operators and what Python needs,
  so that a program which chose its operators would be smaller. Both are printed below the table.
- RAM: the arena in bytes, and that of TFLite-Micro, which ``export.arena`` asks on this machine: its pointers have
  64 bits, so a microcontroller needs less than that for tables of tensors, and the same for activations.
- Work: guest instructions for an image on a Cortex-M4 and a Cortex-M55, at -O3, counted under qemu-arm: it logs
  every block that it translates and every one that it executes. Those of a run of two computations less those of
  one, so that start, end and files do not count. They are counts, not cycles.
- Speed on this machine: both compute in turns in one process, the C at -O3 without options for the processor,
  TFLite-Micro as its wheel is compiled (reference kernels). The ratio is of the medians.
"""

import argparse
import collections
import ctypes
import pathlib
import re
import statistics
import subprocess
import tempfile
import time

import jax
import numpy as np
import tflite_micro
from exactness import CALIBRATION, random_variables
from shared import print_table

from jaxcompress import data, export, models, quantize
from jaxcompress.export.c99.compiling import CORES, STANDARD, find_compiler, sections
from jaxcompress.export.c99.manifest import end_bytes, read_manifest
from jaxcompress.export.c99.running import Program
from jaxcompress.export.interpreters import MicroRuntime

NETWORKS = {  # name: (model, options, side, channels)
  "person detection (MobileNetV1 x0.25)": (
    "mobilenet_v1",
    {"width": 0.25, "num_classes": 2},
    96,
    3,
  ),
  "the same, grey": ("mobilenet_v1", {"width": 0.25, "num_classes": 2}, 96, 1),
  "MobileNetV2 x0.35": ("mobilenet_v2", {"width": 0.35, "num_classes": 10}, 96, 3),
  "MobileNetV3-Small x0.5": ("mobilenet_v3_small", {"width": 0.5, "num_classes": 10}, 96, 3),
  "ResNet8": ("resnet8", {"num_classes": 10}, 32, 3),
}
IMAGE = """
#include "{header}"
int main(void) {{
  {run};
  return (int)*{output};
}}
"""
LINKED = ("--specs=nano.specs", "--specs=nosys.specs", "-ffunction-sections", "-Wl,--gc-sections")
BLOCK, RUN, CODE = b"IN:", b"Trace ", b"0x"


def quantized_of(model: str, options: dict, side: int, channels: int):
  """A quantized network with random weights, which reads pixels, and images for it."""
  network, rng = models.create(model, **options), np.random.default_rng(0)
  shape = (side, side, channels)
  images = rng.integers(0, 256, (CALIBRATION, *shape)).astype(np.uint8)
  return quantize.post_training(
    network,
    random_variables(network, shape, rng),
    images,
    preprocess=data.Preprocess(),
    method="minmax",
    progress=False,
  ), images


def flash(folder: pathlib.Path, place: pathlib.Path, optimize: str) -> int:
  """Bytes of a program for a Cortex-M4 that runs the network."""
  calls = read_manifest(folder).calls
  main, out = place / "image.c", place / "image"
  main.write_text(IMAGE.format(header=calls.header, run=calls.run, output=calls.outputs[0]))
  options = [*CORES["cortex-m4"], *STANDARD, *LINKED, optimize, f"-I{folder / 'src'}"]
  files = [main, *(folder / "src").glob("*.c")]
  command = [find_compiler("cortex-m4"), *options, *files, "-o", out, "-lm"]
  subprocess.run(list(map(str, command)), check=True, capture_output=True)
  found = sections(out)
  return found.text + found.data


def code_here(folder: pathlib.Path, place: pathlib.Path) -> int:
  """Bytes of the network's code for this machine, without its weights and other arrays."""
  found = 0
  for source in (folder / "src").glob("*.c"):
    out = place / f"{source.stem}.o"
    options = [*STANDARD, "-O2", f"-I{folder / 'src'}", "-c", source, "-o", out]
    subprocess.run(list(map(str, [find_compiler(), *options])), check=True)
    found += text_of(out)
  return found - read_manifest(folder).sizes.weights


def text_of(file: pathlib.Path) -> int:
  """Bytes of code and constants in an object for this machine."""
  done = subprocess.run(["size", str(file)], capture_output=True, text=True, check=True)
  return int(done.stdout.splitlines()[1].split()[0])


def micro_library() -> pathlib.Path:
  """The library of TFLite-Micro's wheel."""
  (found,) = pathlib.Path(next(iter(tflite_micro.__path__))).rglob("_runtime.so")
  return found


def instructions(program: Program, image: np.ndarray) -> int:
  """Guest instructions of one computation."""
  counts = [_executed(program, image, repeats) for repeats in (1, 2)]
  return counts[1] - counts[0]


def _executed(program: Program, image: np.ndarray, repeats: int) -> int:
  """Guest instructions of a whole run, from the emulator's log."""
  with tempfile.TemporaryDirectory() as place:
    fed, given = pathlib.Path(place, "in"), pathlib.Path(place, "out")
    fed.write_bytes(image.tobytes())
    emulator, *rest = program.command(fed, given, repeats)
    command = [emulator, "-d", "in_asm,exec,nochain", *rest]
    sizes: dict[bytes, int] = {}
    executed: collections.Counter[bytes] = collections.Counter()
    total = translated = 0
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
      assert process.stderr is not None
      for line in process.stderr:
        if line.startswith(RUN):
          block = line.split(b" ", 3)[2]
          if translated:  # a place may be translated anew
            total += executed.pop(block, 0) * sizes.get(block, 0)
            sizes[block], translated = translated, 0
          executed[block] += 1
        elif line.startswith(BLOCK):
          translated = 0
        elif line.startswith(CODE):
          translated += 1
    if process.returncode:
      raise RuntimeError(f"{command} ended with {process.returncode}")
  return total + sum(count * sizes[block] for block, count in executed.items())


def speeds(folder: pathlib.Path, place: pathlib.Path, content: bytes, codes, rounds: int):
  """Milliseconds of the C and of TFLite-Micro for an image, medians; they compute in turns."""
  manifest, library = read_manifest(folder), place / "network.so"
  names = [re.sub(r"\W.*", "", call) for call in (manifest.calls.input, manifest.calls.run)]
  options = [*STANDARD, "-O3", "-shared", "-fPIC", f"-I{folder / 'src'}"]
  command = [find_compiler(), *options, *(folder / "src").glob("*.c"), "-o", library, "-lm"]
  subprocess.run(list(map(str, command)), check=True)
  found = ctypes.CDLL(str(library))
  place_of, run = (getattr(found, name) for name in names)
  place_of.restype, run.restype = ctypes.c_void_p, None
  micro, fed = MicroRuntime(content), codes.tobytes()
  micro.feed(codes)
  micro.invoke()
  seconds: dict[str, list[float]] = {"c": [], "tflm": []}
  for _ in range(rounds):
    ctypes.memmove(place_of(), fed, end_bytes(manifest.input))
    start = time.perf_counter()
    run()
    seconds["c"].append(time.perf_counter() - start)
    micro.feed(codes)
    start = time.perf_counter()
    micro.invoke()
    seconds["tflm"].append(time.perf_counter() - start)
  return tuple(1e3 * statistics.median(seconds[name]) for name in ("c", "tflm"))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="NAME")
  parser.add_argument("--rounds", type=int, default=30, help="timed computations of each")
  parser.add_argument(
    "--no-count", action="store_true", help="without instructions, which take minutes"
  )
  args = parser.parse_args()
  sizes, work, code = [], [], []
  for name in args.networks:
    model, options, side, channels = NETWORKS[name]
    quantized, images = quantized_of(model, options, side, channels)
    codes = quantized.quantize_input(images[:1])
    with tempfile.TemporaryDirectory() as temporary:
      place = pathlib.Path(temporary)
      folder = export.c(quantized, place / "network", name="network")
      file = export.tflite(quantized, place / "network.tflite", target="tflm")
      share = export.verify(folder, quantized, images[:4]).bit_equal
      facts = read_manifest(folder).sizes
      image = {optimize: flash(folder, place, optimize) for optimize in ("-Os", "-O3")}
      sizes.append(
        (
          name,
          f"{side} x {side} x {channels}",
          *(f"{value:,}" for value in (image["-Os"], image["-O3"], facts.weights)),
          f"{file.stat().st_size:,}",
          *(f"{value:,}" for value in (facts.arena, export.arena(file))),
        )
      )
      code.append(code_here(folder, place))
      counted = ["-", "-"]
      if not args.no_count:
        cores = ("cortex-m4", "cortex-m55")
        programs = (Program(folder, core, ("-O3",)) for core in cores)
        counted = [f"{instructions(program, codes) / 1e6:.1f}" for program in programs]
      ours, theirs = speeds(folder, place, file.read_bytes(), codes, args.rounds)
      times = f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.1f}"
      work.append((name, f"{facts.macs / 1e6:.1f}", *counted, *times, f"{share:.0%}"))
    jax.clear_caches()
  print("Bytes")
  print_table(
    (
      "network", "input", "flash, -Os", "flash, -O3", "of it weights", ".tflite file",
      "arena", "TFLite-Micro's arena",
    ),
    sizes,
  )  # fmt: skip
  least, most = (f"{value:,}" for value in (min(code), max(code)))
  print(
    f"\nCode for this machine: {least} to {most} bytes of C (-O2);"
    f" {text_of(micro_library()):,} in TFLite-Micro's library, with all operators and Python's bindings"
  )
  print("\nMillions of an image, and milliseconds on this machine")
  print_table(
    (
      "network", "multiply-adds", "instructions, M4", "instructions, M55", "C, ms",
      "TFLite-Micro, ms", "ratio", "integers equal",
    ),
    work,
  )  # fmt: skip


if __name__ == "__main__":
  main()
