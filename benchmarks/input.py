"""Images per second that input gives, against what a training step takes.

  python benchmarks/input.py [--workers 0,1,2] [--batch 64] [--size 224] [--student mobilenet_v2]

A folder of JPEG photos (500 x 375 pixels, as most of ImageNet's) is written, and read as ``compress``
reads data that do not fit in memory: decoded and scaled by worker processes, batch by batch. Beside
it a set that is in memory, and the step of a student on the device at hand, augmentation included.
All rounds alternate; medians are printed, and the ratio of input to step.
"""

import argparse
import io
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np
import optax
from PIL import Image
from rich.console import Console
from rich.table import Table

from jaxcompress import data, models
from jaxcompress.training import Recipe, init_state, train_step

WIDE, HIGH, CLASSES = 500, 375, 2


def write_photos(folder: pathlib.Path, count: int) -> int:
  """Writes smooth random photos with some grain, about as large as ImageNet's; bytes of one."""
  rng = np.random.default_rng(0)
  sizes = []
  for i in range(count):
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDE, HIGH), Image.Resampling.BICUBIC), np.int16)
    pixels = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    place = folder / str(i % CLASSES)
    place.mkdir(exist_ok=True)
    (place / f"{i}.jpg").write_bytes(file.getvalue())
    sizes.append(file.tell())
  return round(statistics.mean(sizes))


def rates(sources: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
  """Median images per second of each source; the first round warms up."""
  found: dict[str, list[float]] = {name: [] for name in sources}
  for i in range(rounds + 1):
    for name, read in sources.items():
      began = time.perf_counter()
      images = read()
      if i:
        found[name].append(images / (time.perf_counter() - began))
  return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workers", default="0,1,2", help="numbers of worker processes")
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--size", type=int, default=224)
  parser.add_argument("--student", default="mobilenet_v2")
  parser.add_argument("--photos", type=int, default=512)
  parser.add_argument("--batches", type=int, default=6, help="in a round")
  parser.add_argument("--rounds", type=int, default=3)
  options = parser.parse_args()
  batch, batches = options.batch, options.batches
  with tempfile.TemporaryDirectory() as place:
    photo = write_photos(pathlib.Path(place), options.photos)
    disk = data.load(f"folder:{place}", size=options.size, in_memory=False).train
    memory = data.Split(disk.images[:], disk.labels)
    stop = (options.rounds + 1) * batches

    def reader(batch_at: Callable[[int], data.order.Batch]) -> Callable[[], int]:
      position = 0

      def read() -> int:
        nonlocal position
        for _ in range(batches):
          batch_at(position)
          position += 1
        return batches * batch

      return read

    streams = {
      f"on disk, {count} workers" if count else "on disk, threads": data.Stream(
        disk, batch, seed=0, stop=stop, workers=count
      )
      for count in map(int, options.workers.split(","))
    }
    in_memory = lambda position: data.batch_at(memory, batch, seed=0, position=position)  # noqa: E731
    step = make_step(options.student, in_memory)
    sources = {name: reader(stream) for name, stream in streams.items()}
    sources |= {"in memory": reader(in_memory), "step": lambda: step() * batch}
    found = rates(sources, options.rounds)
    for stream in streams.values():
      stream.close()
  title = f"{options.student}, {options.size} px, batch {batch}, {jax.devices()[0].device_kind}"
  table = Table("", "images/s", "input / step", title=f"{title}; JPEG of {photo / 1e3:.0f} kB")
  for name, rate in found.items():
    table.add_row(name, f"{rate:,.1f}", "" if name == "step" else f"{rate / found['step']:.2f}")
  Console(width=100).print(table)


def make_step(student: str, batch_at: Callable[[int], data.order.Batch]) -> Callable[[], int]:
  """A training step on one batch, with augmentation on the device; it returns 1 when it is done."""
  recipe = Recipe(
    student=models.create(student, CLASSES),
    optimizer=optax.sgd(0.05, momentum=0.9),
    augment=data.Augment(crop=16, flip=True),
    preprocess=data.Preprocess(),
  )
  batch = jax.device_put(batch_at(0))
  state = init_state(recipe, jax.random.key(0), batch)

  def step() -> int:
    nonlocal state
    state, metrics = train_step(state, batch)
    jax.block_until_ready(metrics)
    return 1

  return step


if __name__ == "__main__":
  main()
