"""Checkpoints: a restart is bit for bit the uninterrupted run; damage is one clear error."""

import errno
import io
import json
import logging
import os
import shutil
import signal
import threading

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from rich.console import Console

from jaxcompress import distill, quantize
from jaxcompress.files.checksums import write_checksums
from jaxcompress.quantize.sites import QuantVariables
from jaxcompress.training import Checkpoints, PreemptedError, checkpoint, fit, init_state
from jaxcompress.training.variables import load_variables, save_variables

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def fresh(recipe_of, batches, teacher):
  recipe = recipe_of(
    teachers=(teacher[0],),
    loss=distill.chain(distill.kd(4.0), distill.crd(40, dim=8, negatives=6)),
    quantize=quantize.int8(start_step=4),
    ema=0.9,
  )
  return lambda: init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(teacher[1],))


def arrays(state):
  return jax.device_get(jax.tree.leaves(state.replace(rng=jax.random.key_data(state.rng))))


@pytest.mark.slow
def test_a_restored_run_ends_in_the_same_bits(fresh, batches, tmp_path):
  whole = fit(fresh(), batches, steps=8, console=QUIET)
  first = Checkpoints(tmp_path, every=3)
  fit(fresh(), batches, steps=7, checkpoints=first, console=QUIET)
  first.close()
  again = Checkpoints(tmp_path, every=3)
  assert again.latest() == 7
  restored = again.restore(fresh())
  assert int(restored.position) == 7
  ended = fit(restored, batches, steps=8, console=QUIET)
  again.close()
  chex.assert_trees_all_equal(arrays(whole), arrays(ended))


@pytest.mark.slow
def test_a_checkpoint_of_states_one_by_one_goes_on_in_the_same_bits(fresh, batches, tmp_path):
  """As they were kept before quantizers' states were stacked."""
  state = fit(fresh(), batches, steps=6, console=QUIET)
  params, states = state.quantizer
  one_by_one = QuantVariables(params, {kind: dict(found) for kind, found in states.items()})
  with Checkpoints(tmp_path, every=1) as checkpoints:
    checkpoints.save(6, state.replace(quantizer=one_by_one))
    checkpoints.wait()
    restored = checkpoints.restore(fresh())
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  chex.assert_trees_all_equal(arrays(restored), arrays(state))


def test_what_orbax_says_of_our_saves_is_not_logged_and_all_else_is(fresh, tmp_path, monkeypatch):
  heard = []
  logger = logging.getLogger("absl")
  before = logger.level, list(logger.filters)
  logger.addHandler(handler := logging.Handler())
  monkeypatch.setattr(handler, "emit", lambda record: heard.append(record.getMessage()))
  place = os.path.join(os.path.dirname(ocp.__file__), "checkpoint_manager.py")

  def log(level, thing, where=place):
    logger.handle(logger.makeRecord("absl", level, where, 1, thing, (), None))

  def save(*_, **__):
    log(logging.WARNING, "waiting")
    log(logging.ERROR, "broken")
    log(logging.WARNING, "other", "elsewhere.py")
    thread = threading.Thread(target=log, args=(logging.WARNING, "of another thread"))
    thread.start()
    thread.join()

  checkpoints = Checkpoints(tmp_path, every=1)
  monkeypatch.setattr(checkpoints._manager, "save", save)
  checkpoints.save(1, fresh())
  log(logging.WARNING, "of another's save")
  logger.removeHandler(handler)
  assert heard == ["broken", "other", "of another thread", "of another's save"]
  assert (logger.level, list(logger.filters)) == before


def test_rows_are_logged_with_rates_and_hooks_see_the_state(fresh, batches):
  rows, seen = [], []
  hooks = {5: lambda state: seen.append(int(state.step))}
  fit(fresh(), batches, steps=6, log_every=2, on_log=rows.append, hooks=hooks, console=QUIET)
  assert [row["step"] for row in rows] == [2, 4, 6]
  assert seen == [5]
  assert all(row["images_per_second"] > 0 and np.isfinite(row["loss"]) for row in rows)


@pytest.mark.parametrize(("steps", "note"), [(0, "finished"), (1, "compiling")])
def test_a_bar_without_steps_to_take_says_that_they_are_done(fresh, batches, steps, note):
  stream = io.StringIO()
  fit(
    fresh(),
    batches,
    steps=steps,
    name="teacher",
    console=Console(file=stream, force_terminal=True, width=100),
  )
  notes = {word for word in ("finished", "compiling") if word in stream.getvalue()}
  assert notes == {note}


@pytest.fixture
def saved(fresh, batches, tmp_path):
  """A folder with the checkpoints of steps 1 and 2, and the state after each."""
  states, state = {}, fresh()
  with Checkpoints(tmp_path, every=1) as checkpoints:
    for step in (1, 2):
      state = fit(state, batches, steps=step, checkpoints=checkpoints, console=QUIET)
      states[step] = arrays(state)
  return tmp_path, states


def damage(folder, kind):
  """Breaks the arrays of a checkpoint in one of the ways in which files break."""
  files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
  for file in files if kind == "empty" else [path for path in files if path.parent.name == "d"]:
    content = bytearray(file.read_bytes())
    if kind == "bit":
      content[len(content) // 2] ^= 1
      file.write_bytes(content)
    elif kind == "cut":
      file.write_bytes(content[: len(content) // 2])
    elif kind == "gone":
      file.unlink()
    else:
      file.write_bytes(b"")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bit", "cut", "gone", "empty"])
def test_a_damaged_newest_checkpoint_is_passed_over_and_kept(fresh, saved, kind):
  folder, states = saved
  damage(folder / "2", kind)
  said = []
  with Checkpoints(folder, every=1, warn=said.append) as checkpoints:
    restored = checkpoints.restore(fresh())
    chex.assert_trees_all_equal(arrays(restored), states[1])
    assert checkpoints.latest() == 1
    checkpoints.save(2, restored)  # its number is free again
  assert len(said) == 1 and "step 2" in said[0] and "going on from step 1" in said[0]
  assert {path.name for path in folder.iterdir()} >= {"1", "2", "2.damaged"}


@pytest.mark.slow
def test_a_flipped_bit_in_any_file_of_a_checkpoint_is_seen_or_changes_nothing(
  fresh, saved, tmp_path_factory
):
  sound, states = saved
  shutil.rmtree(sound / "1")  # so that there is none to go back to
  files = sorted(p for p in (sound / "2").rglob("*") if p.is_file())
  rng, refused = np.random.default_rng(0), set()
  for file in files:
    folder = tmp_path_factory.mktemp("flipped") / "checkpoints"
    shutil.copytree(sound, folder)
    path = folder / file.relative_to(sound)
    content = bytearray(path.read_bytes() or b"\0")
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    with Checkpoints(folder, every=1) as checkpoints:
      try:
        chex.assert_trees_all_equal(arrays(checkpoints.restore(fresh())), states[2])
      except ValueError as error:
        refused.add(file)
        assert "2 cannot be read" in str(error) and "\n" not in str(error)
  noted = json.loads((sound / "2" / "checksums.json").read_text())
  assert {"arrays.json", "default/_METADATA", "default/manifest.ocdbt"} <= noted.keys()
  assert {sound / "2" / name for name in noted} <= refused


@pytest.mark.slow
def test_where_none_is_whole_nothing_is_moved(fresh, saved):
  folder, _ = saved
  for step in ("1", "2"):
    damage(folder / step, "bit")
  with (
    Checkpoints(folder, every=1) as checkpoints,
    pytest.raises(ValueError, match=r"2 cannot be read .* nor any other of 2"),
  ):
    checkpoints.restore(fresh())
  assert {path.name for path in folder.iterdir()} == {"1", "2"}


def test_a_checkpoint_of_another_recipe_is_refused_and_left_alone(recipe_of, batches, saved):
  folder, _ = saved
  other = init_state(recipe_of(), jax.random.key(0), batches(0))
  with Checkpoints(folder, every=1) as checkpoints:
    with pytest.raises(ValueError, match="belongs to another recipe"):
      checkpoints.restore(other)
    assert checkpoints.latest() == 2


def test_a_full_disk_ends_the_run_and_the_checkpoint_before_stays(
  fresh, batches, tmp_path, monkeypatch
):
  """The last file of a checkpoint finds no room, in the background."""

  def full(folder, paths):
    if folder.name.startswith("2."):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write_checksums(folder, paths)

  monkeypatch.setattr(checkpoint, "write_checksums", full)
  with (
    pytest.raises(
      ValueError, match=r"step 2 cannot be written .*No space left.* go on from the one before"
    ),
    Checkpoints(tmp_path, every=1) as checkpoints,
  ):
    fit(fresh(), batches, steps=4, checkpoints=checkpoints, console=QUIET)
  with Checkpoints(tmp_path, every=1) as checkpoints:
    assert int(checkpoints.restore(fresh()).position) == 1
  assert [path.name for path in tmp_path.iterdir()] == ["1"]  # the half one is cleared away


@pytest.mark.parametrize(
  ("code", "advice"),
  [
    (errno.ENOSPC, "make room"),
    (errno.EDQUOT, "make room"),
    (errno.EROFS, "allow writing there"),
    (errno.EACCES, "allow writing there"),
    (errno.EIO, "see that the folder can be written"),
  ],
)
def test_what_keeps_a_checkpoint_from_being_written_is_said_with_what_to_do(
  fresh, batches, tmp_path, monkeypatch, code, advice
):
  def refused(folder, paths):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(checkpoint, "write_checksums", refused)
  with (
    pytest.raises(ValueError, match=rf"\({os.strerror(code)}|{os.strerror(code)}\).*; {advice}"),
    Checkpoints(tmp_path, every=1) as checkpoints,
  ):
    fit(fresh(), batches, steps=2, checkpoints=checkpoints, console=QUIET)


def test_sigterm_saves_and_leaves_and_the_rest_is_bit_for_bit_the_same(fresh, batches, tmp_path):
  whole = fit(fresh(), batches, steps=6, console=QUIET)

  def batch_at(position):
    if position == 2:  # before the third step
      signal.raise_signal(signal.SIGTERM)
    return batches(position)

  with (
    pytest.raises(PreemptedError, match="after 3 batches"),
    Checkpoints(tmp_path, every=100) as checkpoints,
  ):
    fit(fresh(), batch_at, steps=6, ahead=0, checkpoints=checkpoints, console=QUIET)
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  with Checkpoints(tmp_path, every=100) as checkpoints:
    ended = fit(checkpoints.restore(fresh()), batches, steps=6, console=QUIET)
  chex.assert_trees_all_equal(arrays(whole), arrays(ended))


def test_variables_survive_a_round_trip(teacher, tmp_path):
  save_variables(tmp_path / "teacher", teacher[1])
  loaded = load_variables(tmp_path / "teacher", teacher[1])
  chex.assert_trees_all_equal(jax.device_get(teacher[1]), loaded)
  with pytest.raises(ValueError, match="exists already"):
    save_variables(tmp_path / "teacher", teacher[1])


@pytest.mark.parametrize("kind", ["bit", "cut", "gone"])
def test_damaged_variables_are_refused_and_those_without_checksums_read(kind, teacher, tmp_path):
  folder = tmp_path / "teacher"
  save_variables(folder, teacher[1])
  damage(folder, kind)
  with pytest.raises(
    ValueError, match=r"teacher is damaged \(.* (has another checksum|is missing)"
  ):
    load_variables(folder, teacher[1])
  old = tmp_path / "of-before"
  save_variables(old, teacher[1])
  (old / "checksums.json").unlink()
  chex.assert_trees_all_equal(jax.device_get(teacher[1]), load_variables(old, teacher[1]))


def test_variables_of_another_model_are_refused(teacher, tiny, tmp_path):
  save_variables(tmp_path / "teacher", teacher[1])
  other = jax.eval_shape(
    lambda: tiny(features=4).init(
      jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32), train=False
    )
  )
  with pytest.raises(ValueError, match="is of another model"):
    load_variables(tmp_path / "teacher", other)


@pytest.mark.parametrize("content", [None, "not a checkpoint"])
def test_a_missing_or_foreign_folder_is_one_clear_error(teacher, tmp_path, content):
  folder = tmp_path / "nothing"
  if content is not None:
    folder.mkdir()
    (folder / "file").write_text(content)
  with pytest.raises(ValueError, match="checkpoint: "):
    load_variables(folder, teacher[1])


@pytest.mark.parametrize("name", ["run [x]", "[a-z]/run", "a[!b]c/d/e"])
def test_folders_in_which_checkpoints_would_be_lost_are_refused(tmp_path, name):
  """Such paths are patterns of other paths, and orbax would find nothing of what it wrote."""
  with pytest.raises(ValueError, match=r"path: .* has brackets.*name another folder"):
    save_variables(tmp_path / name, {"kernel": np.ones(3)})
  with pytest.raises(ValueError, match=r"folder: .* has brackets.*name another folder"):
    Checkpoints(tmp_path / name, every=1)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["run*", "a?b", "open [", "close ]", "{a,b} é"])
def test_in_other_odd_folders_variables_are_found_again(tmp_path, name):
  variables = {"params": {"kernel": np.float32([1.5, -2.0])}}
  save_variables(tmp_path / name / "v", variables)
  found = load_variables(tmp_path / name / "v", variables)
  np.testing.assert_array_equal(found["params"]["kernel"], [1.5, -2.0])
