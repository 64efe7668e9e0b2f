"""Images per second that input gives, against what a training step takes.

  python benchmarks/input.py [--workers 0,1,2] [--batch 64] [--size 224] [--student mobilenet_v2]

A folder of JPEG photos (500 x 375 pixels, as most of ImageNet's) is written, and read as ``compress``
reads data that do not fit in memory: decoded and scaled by worker processes, batch by batch, without the batches that are ready at first; and
random boxes of the same photos. Beside it the photos in tar files, shuffled as a whole and by files, a set
that is in memory, and the step of a student on the device at hand, augmentation included.
Rounds alternate; medians are printed, and the ratio of input to step.
"""

import argparse
import io
import pathlib
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from PIL import Image
from rich.console import Console
from rich.table import Table
from shared import numbers

from jaxcompress import data, models
from jaxcompress.data.batches import AHEAD
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


def write_tars(folder: pathlib.Path, size: int) -> data.Split:
  """The photos of a folder in eight tar files, left there."""
  place = folder.with_name(folder.name + "-tars")
  place.mkdir()
  photos = sorted(folder.rglob("*.jpg"), key=lambda path: int(path.stem))
  for shard in range(8):
    with tarfile.open(place / f"{shard}.tar", "w") as tar:
      for photo in photos[shard::8]:
        tar.add(photo, photo.name)
        label = photo.parent.name.encode()
        info = tarfile.TarInfo(f"{photo.stem}.cls")
        info.size = len(label)
        tar.addfile(info, io.BytesIO(label))
  return data.load(f"wds:{place}", size=size, in_memory=False).train


def rate(act: Callable[[int], object], batches: int, batch: int, first: int = 1) -> float:
  """Images per second of an action on one batch after the other; the first few do not count."""
  for i in range(first):
    act(i)
  began = time.perf_counter()
  for i in range(first, first + batches):
    act(i)
  return batches * batch / (time.perf_counter() - began)


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    "--workers", type=numbers, default=[0, 1, 2], help="numbers of worker processes"
  )
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--size", type=int, default=224)
  parser.add_argument("--student", default="mobilenet_v2")
  parser.add_argument("--photos", type=int, default=512)
  parser.add_argument("--batches", type=int, default=10, help="that are timed in a round")
  parser.add_argument("--steps", type=int, default=3, help="that are timed in a round")
  parser.add_argument("--rounds", type=int, default=3)
  options = parser.parse_args()
  batch, batches = options.batch, options.batches
  found: dict[str, list[float]] = {}
  with tempfile.TemporaryDirectory() as home:
    place = pathlib.Path(home) / "photos"
    place.mkdir()
    photo = write_photos(place, options.photos)
    disk = data.load(f"folder:{place}", size=options.size, in_memory=False).train
    tars = write_tars(place, options.size)
    memory = data.Split(disk.images[:], disk.labels)
    kinds: dict[str, tuple[data.Split, dict[str, Any]]] = {
      "on disk": (disk, {}),
      "boxes": (disk, {"crop": data.CropOnRead()}),
      "tar files": (tars, {}),
      "tar files, by shards": (tars, {"sampling": data.ByShards(window=2)}),
    }

    def from_memory(position: int) -> data.batches.Batch:
      return data.batch_at(memory, batch, seed=0, position=position)

    step = make_step(options.student, from_memory)
    for _ in range(options.rounds):
      for workers in options.workers:
        ready = 1 + AHEAD * max(1, workers)  # batches that wait already when the first one is there
        of = f"{workers} workers" if workers else "threads"
        for kind, (split, read) in kinds.items():
          stop = ready + batches
          with data.Stream(split, batch, seed=0, stop=stop, workers=workers, **read) as stream:
            name = f"{kind}, {of}"
            found.setdefault(name, []).append(rate(stream, batches, batch, ready))
      found.setdefault("in memory", []).append(rate(from_memory, batches, batch))
      found.setdefault("step", []).append(rate(step, options.steps, batch))
  medians = {name: statistics.median(values) for name, values in found.items()}
  title = f"{options.student}, {options.size} px, batch {batch}, {jax.devices()[0].device_kind}"
  table = Table("", "images/s", "input / step", title=f"{title}; JPEG of {photo / 1e3:.0f} kB")
  for name, value in medians.items():
    table.add_row(name, f"{value:,.1f}", "" if name == "step" else f"{value / medians['step']:.2f}")
  Console(width=100).print(table)


def make_step(student: str, batch_at: Callable[[int], data.batches.Batch]) -> Callable[[int], None]:
  """A training step on one batch, with augmentation on the device; it returns when that is done."""
  recipe = Recipe(
    student=models.create(student, CLASSES),
    optimizer=optax.sgd(0.05, momentum=0.9),
    augment=data.Augment(crop=16, flip=True),
    preprocess=data.Preprocess(),
  )
  batch = jax.device_put(batch_at(0))
  state = init_state(recipe, jax.random.key(0), batch)

  def step(_: int) -> None:
    nonlocal state
    state, metrics = train_step(state, batch)
    jax.block_until_ready(metrics)

  return step


if __name__ == "__main__":
  main()
