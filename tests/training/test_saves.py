"""When a run saves, what it saves, and what it waits for."""

import json
import os
import signal
import types
import zlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from etils.epath.backend import fsspec_backend
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from jaxcompress import distill, training
from jaxcompress.files.checksums import find_damage, write_checksums
from jaxcompress.files.places import files_below
from jaxcompress.training import Checkpoints, checkpoint, fit, init_state, loop, processes, start
from jaxcompress.training.digests import SPLIT, WHOLE, changed, checksums_of
from jaxcompress.training.variables import load_variables, named, save_variables

QUIET = Console(quiet=True)
MINUTES = 60.0


class Clock:
  """Stands for ``time`` in a module; it goes on when told."""

  def __init__(self):
    self.now = 0.0

  def monotonic(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(checkpoint, "time", clock)
  monkeypatch.setattr(processes, "time", clock)
  return clock


@pytest.fixture(scope="module")
def taught(recipe_of, teacher):
  """Starts a distillation with given variables of the teacher."""
  recipe = recipe_of(teachers=(teacher[0],), loss=distill.kd(4.0))

  def begin(batch, variables=teacher[1]):
    return init_state(recipe, jax.random.key(0), batch, teacher_variables=(variables,))

  return begin


def positions(folder):
  return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def arrays(state):
  return jax.device_get(jax.tree.leaves(state.replace(rng=jax.random.key_data(state.rng))))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("options", "found"),
  [({}, [3, 6, 8]), ({"every_seconds": None}, [8]), ({"every": 4}, [3, 4, 7, 8])],
)
def test_a_run_saves_ten_minutes_after_it_saved_last(
  options, found, taught, batches, clock, tmp_path
):
  def batch_at(position):
    clock.now += 4 * MINUTES
    return batches(position)

  with Checkpoints(tmp_path, keep=9, **options) as checkpoints:
    fit(taught(batches(0)), batch_at, steps=8, checkpoints=checkpoints, console=QUIET, ahead=0)
  assert positions(tmp_path) == found


def test_a_save_of_ones_own_loop_heeds_the_time(taught, batches, clock, tmp_path):
  state = taught(batches(0))
  with Checkpoints(tmp_path, every_seconds=60) as checkpoints:
    for position in range(1, 5):
      clock.now += 25
      checkpoints.save(position, state)
  assert positions(tmp_path) == [3]


def test_processes_ask_each_other_once_a_second_and_hear_of_it_in_time(monkeypatch, clock):
  """As one of two; the devices that answer are this one's."""
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  questions, late = [], []
  ask = processes.Preemption._ask
  monkeypatch.setattr(
    processes.Preemption, "_ask", lambda *given: (questions.append(given[2]), ask(*given))
  )
  with processes.Preemption(training.make_mesh(1), lambda: bool(late)) as preemption:
    heard = {}
    for position in range(1, 200):
      clock.now += 0.05
      heard[position] = preemption.asked(position)
      if heard[position].save:
        late.clear()
      if position == 100:
        late.append(True)
      if position == 150:
        signal.raise_signal(signal.SIGTERM)
  assert len(questions) <= 16  # of ten seconds, and at the start
  saves = [position for position, answer in heard.items() if answer.save]
  assert len(saves) == 1 and 100 < saves[0] <= 142
  assert 150 < min(position for position, answer in heard.items() if answer.stop) <= 192


@pytest.mark.slow
def test_teachers_that_stand_still_are_not_saved_and_come_from_the_run(taught, batches, tmp_path):
  whole = fit(taught(batches(0)), batches, steps=4, console=QUIET)
  with Checkpoints(tmp_path) as checkpoints:
    fit(taught(batches(0)), batches, steps=2, checkpoints=checkpoints, console=QUIET)
  with Checkpoints(tmp_path) as checkpoints:
    given = taught(batches(0))
    ended = fit(checkpoints.restore(given), batches, steps=4, console=QUIET)
  chex.assert_trees_all_equal(arrays(whole), arrays(ended))
  assert np.isfinite(np.asarray(jax.tree.leaves(given.teachers)[0])).all()  # it is still there
  handler = ocp.StandardCheckpointHandler()
  saved = handler.metadata(epath.Path(tmp_path / "2" / "default")).tree
  assert any(name.startswith("params.") for name in saved)
  assert not any(name.startswith("teachers") for name in saved)


def test_another_teacher_is_refused_by_the_name_of_its_array(taught, teacher, batches, tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, taught(batches(0)), force=True)
  other = jax.tree.map(jnp.copy, teacher[1])
  bias = other["params"]["classifier"]["bias"]
  other["params"]["classifier"]["bias"] = bias.at[0].add(1e-6)
  wrong = r"another teacher: teachers\.0\.params\.classifier\.bias differs .* teacher_variables"
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match=wrong):
    checkpoints.restore(taught(batches(0), other))
  assert positions(tmp_path) == [1]


def test_an_array_that_was_read_as_another_is_seen(taught, batches, tmp_path):
  """The files are sound, and those of other numbers."""
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, taught(batches(0)), force=True)
  place, handler = epath.Path(tmp_path / "1"), ocp.StandardCheckpointHandler()
  tree = dict(handler.restore(place / "default"))
  tree["params.classifier.bias"] = tree["params.classifier.bias"].at[0].add(1e-6)
  (place / "default").rmtree()
  (place / "checksums.json").unlink()
  handler.save(place / "default", args=ocp.args.StandardSave(tree))
  handler.finalize(place / "default")
  seen = r"params\.classifier\.bias has another checksum"
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match=seen):
    checkpoints.restore(taught(batches(0)))


@pytest.mark.slow
def test_a_mean_teacher_is_saved(recipe_of, tiny, batches, tmp_path):
  recipe = recipe_of(teachers=(tiny(),), loss=distill.kd(), mean_teacher=0.5)
  begin = lambda: init_state(recipe, jax.random.key(0), batches(0))  # noqa: E731
  with Checkpoints(tmp_path) as checkpoints:
    ended = fit(begin(), batches, steps=2, checkpoints=checkpoints, console=QUIET)
    chex.assert_trees_all_equal(arrays(checkpoints.restore(begin())), arrays(ended))


def test_checkpoints_of_before_bring_their_teachers(taught, teacher, batches, tmp_path):
  """They hold all arrays, and checksums of all files."""
  state = taught(batches(0))
  with ocp.CheckpointManager(tmp_path) as manager:
    saved = named(state.replace(rng=jax.random.key_data(state.rng)))
    manager.save(1, args=ocp.args.StandardSave(saved))
  folder = epath.Path(tmp_path / "1")
  items = [path for path in folder.iterdir() if path.is_dir()]
  write_checksums(folder, [path for item in items for path in files_below(item)])
  other = jax.tree.map(jnp.zeros_like, teacher[1])
  with Checkpoints(tmp_path) as checkpoints:
    chex.assert_trees_all_equal(
      arrays(checkpoints.restore(taught(batches(0), other))), arrays(state)
    )
  data = max(files_below(folder), key=lambda path: path.stat().length)
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 1
  data.write_bytes(bytes(content))
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="another checksum"):
    checkpoints.restore(taught(batches(0)))


def numpy_sum(array):
  """Computes the sum of digests.py in numpy's integers."""

  def mixed(x):
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) % 2**32
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) % 2**32
    return x ^ (x >> 16)

  kind = {1: np.uint8, 2: np.uint16, 4: np.uint32}[array.dtype.itemsize]
  bits = np.ascontiguousarray(array).reshape(-1).view(kind).astype(np.uint64)
  place = np.arange(1, bits.size + 1, dtype=np.uint64)
  return int(mixed(bits ^ mixed(place)).sum() % 2**32)


@settings(deadline=None)  # the first call compiles
@given(st.data())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "uint32"])
def test_one_flipped_bit_changes_both_kinds_of_checksum(dtype, data):
  shape = (3, 4)
  size = jnp.dtype(dtype).itemsize * 12
  raw = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8)
  raw = raw & 1 if dtype == "bool" else raw
  at = data.draw(st.integers(0, size - 1))
  bit = 0 if dtype == "bool" else data.draw(st.integers(0, 7))
  flipped = raw.copy()
  flipped[at] ^= 1 << bit
  x, y = (jnp.asarray(part.view(jnp.dtype(dtype)).reshape(shape)) for part in (raw, flipped))
  as_whole = checksums_of({"x": x})()
  as_split = {WHOLE: {}, SPLIT: {"x": numpy_sum(np.asarray(x))}}
  assert as_whole == {WHOLE: {"x": zlib.crc32(raw.tobytes())}, SPLIT: {}}
  for noted in (as_whole, as_split):
    assert changed({"x": x}, noted) is None
    assert changed({"x": y}, noted) == "x"
  assert changed({"x": x, "more": x}, as_whole) == "more"


def test_a_row_is_told_while_the_next_step_computes(taught, batches, monkeypatch):
  seen = []
  program = loop.distill_step.program

  def step(state, batch):
    seen.append("step")
    return program(state, batch)

  monkeypatch.setattr(loop, "distill_step", types.SimpleNamespace(program=step))
  fit(
    taught(batches(0)),
    batches,
    steps=3,
    log_every=1,
    on_log=lambda row: seen.append(row["step"]),
    console=QUIET,
  )
  assert seen == ["step", "step", 1, "step", 2, 3]


def test_evaluation_fetches_its_sums_once(teacher, batches, monkeypatch):
  fetched = []
  get = jax.device_get
  monkeypatch.setattr(jax, "device_get", lambda tree: (fetched.append(1), get(tree))[1])
  given = [batches(position) for position in range(5)]
  found = training.evaluate(*teacher, given)
  assert len(fetched) == 1
  right = [
    np.argmax(teacher[0].apply(teacher[1], b["image"], train=False).logits, -1) for b in given
  ]
  assert found["top1"] == np.mean(
    [a == b["label"] for a, b in zip(right, given, strict=True)], dtype=np.float64
  )


def test_of_a_large_first_batch_a_few_examples_come_to_a_device(taught, batches, monkeypatch):
  sizes, build = [], start._build

  def small(recipe, rng, batch, *rest):
    sizes.append({len(x) for x in batch.values()})
    return build(recipe, rng, batch, *rest)

  large = {name: np.concatenate([x, x]) for name, x in batches(0, 64).items()}
  monkeypatch.setattr(start, "_build", small)
  chex.assert_trees_all_equal(arrays(taught(large)), arrays(taught(batches(0, 64))))
  assert sizes == [{64}, {64}]


@pytest.fixture
def bucket(monkeypatch, tmp_path):
  """Files of gs:// addresses lie in a folder, as far as etils sees them."""
  names = f"{tmp_path}/buckets/"

  class Bucket(LocalFileSystem):
    @classmethod
    def _strip_protocol(cls, path):
      return super()._strip_protocol(str(path).replace("gs://", names))

  monkeypatch.setattr(fsspec_backend, "_get_filesystem", lambda name: Bucket())
  return epath.Path("gs://bucket/run")


def test_checksums_are_kept_and_checked_in_a_bucket(bucket):
  (bucket / "default" / "d").mkdir(parents=True)
  for name in ("default/manifest", "default/d/data"):
    (bucket / name).write_text(name)
  small = list(files_below(bucket, without="d"))
  assert [os.fspath(path) for path in small] == ["gs://bucket/run/default/manifest"]
  write_checksums(bucket, small)
  assert find_damage(bucket) is None
  (bucket / "default/manifest").write_text("default/manifesT")
  assert find_damage(bucket) == "default/manifest has another checksum"


def test_orbax_is_given_addresses_as_they_are(monkeypatch, bucket):
  given = []

  class Recorder:
    def __init__(self, folder=None, **_):
      given.append(folder)

    def __enter__(self):
      return self

    def __exit__(self, *_):
      pass

    def save(self, place, tree):
      given.append(place)
      (place / "manifest").mkdir(parents=True)

  monkeypatch.setattr(ocp, "CheckpointManager", Recorder)
  monkeypatch.setattr(ocp, "StandardCheckpointer", Recorder)
  Checkpoints("gs://bucket/run")
  save_variables("gs://bucket/run/student", {"a": np.ones(2)})
  assert [os.fspath(place) for place in given if place] == [
    "gs://bucket/run",
    "gs://bucket/run/student",
  ]
  with pytest.raises(ValueError, match=r"path: gs://bucket/run/student exists already"):
    save_variables("gs://bucket/run/student", {"a": np.ones(2)})
  with pytest.raises(ValueError, match=r"gs://bucket/run/teacher is no folder"):
    load_variables("gs://bucket/run/teacher", {"a": np.ones(2)})


def test_in_a_bucket_a_checkpoint_lies_where_it_will_be_and_has_its_checksums(bucket, monkeypatch):
  """The manager leaves what orbax does before the file that completes a checkpoint."""

  class Manager:
    def __init__(self, *_, **__):
      pass

    def latest_step(self):
      return None

    def wait_until_finished(self):
      pass

    def save(self, position, *, args, force):
      (bucket / str(position) / "default" / "d").mkdir(parents=True)
      for name in ("manifest", "d/data"):
        (bucket / str(position) / "default" / name).write_text(name)

  monkeypatch.setattr(ocp, "CheckpointManager", Manager)
  checkpoints = Checkpoints("gs://bucket/run")
  monkeypatch.setattr(checkpoint, "parted", lambda state: (state, ()))
  monkeypatch.setattr(checkpoint, "_named_arrays", lambda state: state)
  checkpoints.save(3, {"x": jnp.arange(3)}, force=True)
  checkpoints._note_checksums()
  noted = json.loads((bucket / "3" / "checksums.json").read_text())
  assert sorted(noted) == ["arrays.json", "default/manifest"]
  assert find_damage(bucket / "3") is None


@pytest.mark.parametrize("write", [Checkpoints, lambda at: save_variables(at, {"a": np.ones(2)})])
@pytest.mark.parametrize("at", ["memory://run", "s3://bucket/run", "gs:/bucket/run"])
def test_what_is_no_place_is_refused_in_a_line(write, at):
  with pytest.raises(ValueError, match=rf"{at} (must be a path of|has lost a slash)"):
    write(at)


def test_a_run_is_refused_a_bucket_before_it_makes_a_folder(tmp_path, monkeypatch):
  from jaxcompress.pipeline.folders import claim_folder

  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=r"out: gs://bucket/run is in a bucket.* a folder of this"):
    claim_folder("gs://bucket/run", {}, resume=False)
  assert not list(tmp_path.iterdir())
