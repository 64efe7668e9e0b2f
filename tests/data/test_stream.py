"""Images that stay on disk, and batches read ahead: the very pixels that memory would hold."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from jaxcompress import data
from jaxcompress.data import storage

BATCH = 8


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> pathlib.Path:
  """Two classes of small JPEG photos of several sizes."""
  root = tmp_path_factory.mktemp("photos")
  for kind in ("cat", "dog"):
    (root / kind).mkdir()
    for i in range(20):
      pixels = np.random.default_rng((i, len(kind), kind == "cat")).integers(0, 256, (3, 4, 3))
      image = Image.fromarray(pixels.astype(np.uint8)).resize((70 + i, 80 - i))
      image.save(root / kind / f"{i}.jpg", quality=95)
  return root


@pytest.fixture(scope="module")
def both(photos):
  """The set in memory, and left on disk."""
  return tuple(data.load(f"folder:{photos}", size=32, in_memory=m) for m in (True, False))


def same(found, expected):
  assert found.keys() == expected.keys()
  for name, values in expected.items():
    np.testing.assert_array_equal(found[name], values)


def test_a_set_on_disk_has_the_pixels_of_the_set_in_memory(both):
  memory, disk = both
  assert isinstance(disk.train.images, storage.EncodedImages)
  assert isinstance(memory.train.images, np.ndarray)
  assert (disk.classes, disk.flip, disk.image_shape) == (
    memory.classes,
    memory.flip,
    memory.image_shape,
  )
  for part in ("train", "validation", "test"):
    ours, theirs = getattr(disk, part), getattr(memory, part)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_array_equal(np.asarray(ours.images), theirs.images)
    np.testing.assert_array_equal(ours.images[-1], theirs.images[-1])
    np.testing.assert_array_equal(ours.images[np.array([2, 0, 2])], theirs.images[[2, 0, 2]])
  joined = [one.with_validation_trained().train.images for one in (disk, memory)]
  np.testing.assert_array_equal(joined[0][:], joined[1])


def test_what_would_not_fit_in_memory_stays_on_disk(photos, monkeypatch):
  monkeypatch.setattr(storage.images, "memory_size", lambda: 2 * 40 * 32 * 32 * 3 - 1)
  assert isinstance(data.load(f"folder:{photos}", size=32).train.images, storage.EncodedImages)
  monkeypatch.setattr(storage.images, "memory_size", lambda: 2 * 40 * 32 * 32 * 3)
  assert isinstance(data.load(f"folder:{photos}", size=32).train.images, np.ndarray)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_read_ahead_are_those_of_the_seed_and_the_position(both, workers):
  memory, disk = both
  rows = np.array([1, 2, 5])
  options = {"seed": 3, "stop": 9, "rows": rows, "workers": workers}
  with data.Stream(disk.train, BATCH, **options) as batch_at:
    for position in (4, 5, 6, 7, 8):
      same(
        batch_at(position),
        data.batch_at(memory.train, BATCH, seed=3, position=position, rows=rows),
      )
    if not workers:  # a run that goes on elsewhere
      same(batch_at(1), data.batch_at(memory.train, BATCH, seed=3, position=1, rows=rows))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_however_many_processes_read_a_batch_it_has_the_same_examples(both, processes):
  whole = data.batch_at(both[0].train, BATCH, seed=0, position=2)
  shares = np.split(np.arange(BATCH), processes)
  parts = [data.batch_at(both[0].train, BATCH, seed=0, position=2, rows=rows) for rows in shares]
  same({name: np.concatenate([part[name] for part in parts]) for name in whole}, whole)


class Noted:
  """A store that notes what is read of it."""

  def __init__(self, store):
    self.store, self.asked = store, []

  def __len__(self):
    return len(self.store)

  def read(self, index):
    self.asked.append(len(index))
    return self.store.read(index)


@pytest.fixture
def noted(both):
  """The training images on disk, and the numbers of images that are read at once."""
  split = both[1].train
  store = Noted(split.images.source)
  images = storage.EncodedImages(store, split.images.reader)
  return data.Split(images, split.labels, split.names), store.asked


def test_a_process_decodes_its_rows_alone(noted):
  split, asked = noted
  rows = np.array([1, 3])
  data.batch_at(split, BATCH, seed=0, position=1, rows=rows)
  data.batch_at(split, BATCH, seed=0, position=1, rows=rows, crop=data.CropOnRead())
  looked_at = split.pick(np.arange(0, 18, 2))
  assert asked == [2, 2]  # choosing some images reads none
  batches = list(data.eval_batches(looked_at, 4, rows))
  assert asked == [2, 2, 2, 2, 2]
  shown = [i for batch in batches for i in batch["index"][batch["mask"]]]
  assert shown == [1, 3, 5, 7]
  np.testing.assert_array_equal(batches[0]["image"], split.images[[2, 6]])


def test_a_teachers_cache_is_known_by_its_images_without_reading_all_of_them_at_once(
  both, noted, tmp_path, monkeypatch
):
  monkeypatch.setattr(storage, "CHUNK", 3)
  split, asked = noted

  def teacher(variables, images):
    return images.mean((1, 2))

  options = {"augment": None, "batch_size": 5}
  made = data.cache_teacher(tmp_path / "c", teacher, {}, both[0].train, **options)
  found = data.cache_teacher(tmp_path / "c", teacher, {}, split, **options)
  *for_digest, first_batch = asked
  assert max(for_digest) == 3 and sum(for_digest) == len(split)
  assert first_batch == 5  # the teacher has run on no more again
  np.testing.assert_array_equal(found.logits, made.logits)


@pytest.mark.slow
def test_workers_end_with_a_run_that_is_killed(photos, tmp_path):
  program = tmp_path / "run.py"
  program.write_text(f"""
import multiprocessing, os, signal
from jaxcompress import data

if __name__ == "__main__":
  split = data.load("folder:{photos}", size=32, in_memory=False).train
  stream = data.Stream(split, 4, seed=0, stop=1000, workers=1)
  stream(0)
  print(*(child.pid for child in multiprocessing.active_children()), flush=True)
  os.kill(os.getpid(), signal.SIGKILL)
""")
  with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as run:
    workers = [int(pid) for pid in run.stdout.readline().split()]
  assert len(workers) == 1
  status = pathlib.Path(f"/proc/{workers[0]}/status")
  deadline = time.monotonic() + 60
  while (runs := status.exists() and "Z (zombie)" not in status.read_text()) and (
    time.monotonic() < deadline
  ):
    time.sleep(0.1)
  assert not runs


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_are_damaged_while_a_run_reads_them_are_named_in_one_line(
  workers, photos, tmp_path
):
  for kind in ("cat", "dog"):
    (tmp_path / kind).mkdir()
    for i in range(4):
      (tmp_path / kind / f"{i}.jpg").write_bytes((photos / kind / f"{i}.jpg").read_bytes())
  found = data.load(f"folder:{tmp_path}", size=32, in_memory=False)
  for file in tmp_path.rglob("*.jpg"):
    file.write_bytes(b"damaged")
  with (
    data.Stream(found.train, 2, seed=0, stop=2, workers=workers) as batch_at,
    pytest.raises(ValueError, match=r"data: 2 images, .*\.jpg.* cannot be read; replace") as caught,
  ):
    batch_at(0)
  assert "\n" not in str(caught.value) and len(caught.value.files) == 2


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_and_batches_can_be_asked_for_again(both):
  _, disk = both
  options = {"seed": 0, "stop": 60, "workers": 2}
  with data.Stream(disk.train, BATCH, **options) as batch_at:
    first = batch_at(0)
    workers = [one for one in multiprocessing.active_children() if "grain" in one.name]
    os.kill(workers[0].pid, signal.SIGKILL)
    with pytest.raises(data.InputError, match=r"a process that reads images has ended .*code -9"):
      for position in range(1, 60):
        batch_at(position)
    same(batch_at(0), first)
