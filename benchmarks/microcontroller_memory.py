"""Memory that networks in C need, beside TensorFlow Lite for Microcontrollers.

    python benchmarks/microcontroller_memory.py --kept networks

All bytes are of one image of 96 x 96 pixels and int8. *C* is the arena of ``export.c``, counters of the walk
included. *Tensors* is the part of TFLite-Micro's arena that holds activations, and *all* the whole of it, from
``export.arena``'s own run: it is measured on this machine, whose pointers have 64 bits, so that tables of tensors
and operators take about twice what they take on a microcontroller. The ratio is that of *C* to *tensors*.

Weights are random: they change nothing here. Quantized networks are kept in the folder and read again.
"""

import argparse
import pathlib
import re
import tempfile
import time

import jax
from exactness import quantized_of
from shared import print_table

from jaxcompress import export, models
from jaxcompress.export.c99.emit import emit
from jaxcompress.export.c99.plan import plan
from jaxcompress.export.trial import read_sound_model, run_apart

SIZE, IMAGES = 96, 4
ALLOCATED = re.compile(r"Arena allocation (total|head) (\d+) bytes")


def kept_network(name: str, folder: pathlib.Path):
  """A quantized network, from the folder or made and kept there."""
  path = folder / f"{name}.jcz"
  if not path.exists():
    export.packed(quantized_of(name, SIZE, IMAGES, "random")[0], path)
  return export.load_packed(path).with_kernels("tflm")


def micro_arena(quantized) -> dict[str, int]:
  """Bytes of TFLite-Micro's arena: of activations (``head``) and ``total``."""
  with tempfile.TemporaryDirectory() as place:
    path = export.tflite(quantized, f"{place}/model.tflite")
    _, said = run_apart(path, "print_allocations", "tflm", read_sound_model(path))
  return {part: int(count) for part, count in ALLOCATED.findall(said)}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kept", type=pathlib.Path, required=True, help="folder of networks")
  parser.add_argument("--models", nargs="+", default=list(models.MODELS), metavar="NAME")
  args = parser.parse_args()
  args.kept.mkdir(exist_ok=True)
  rows = []
  for name in args.models:
    quantized = kept_network(name, args.kept)
    network = emit(quantized)
    start = time.process_time()
    found = plan(network)
    seconds = time.process_time() - start
    other, own = micro_arena(quantized), found.arena + found.counters
    ratio = f"{own / other['head']:.2f}"
    sizes = (f"{size:,}" for size in (own, other["head"], other["total"]))
    rows.append((name, *sizes, ratio, str(len(found.stages)), f"{seconds:.1f}"))
    print(*rows[-1], flush=True)
    jax.clear_caches()
  print_table(("model", "C", "tensors", "all", "ratio", "stages", "seconds to plan"), rows)


if __name__ == "__main__":
  main()
