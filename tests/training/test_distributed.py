"""Two real processes on loopback: killed, restarted, stopped by SIGTERM, and taken over by one."""

import math
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from benchmarks.fault_worker import BATCH, EXAMPLES
from benchmarks.faults import PROCESSES, Run
from jaxcompress import data
from jaxcompress.data import storage
from jaxcompress.training import processes as together

pytestmark = pytest.mark.slow

EVERY, EXACT = 12, 14  # steps between checkpoints; first step in the device's arithmetic
SAVED, LAST = 12, 17


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
  """A run whose first process, which coordinates, is killed with its newest checkpoint at SAVED."""
  run = Run(tmp_path_factory.mktemp("run") / "two", 1000, every=EVERY, exact_step=EXACT)
  processes = run.start()
  run.wait_until(processes, 0, SAVED + 1)
  while not (run.folder / "checkpoints" / str(SAVED)).exists():  # it is written meanwhile
    assert all(process.poll() is None for process in processes), run.errors(0).read_text()
    time.sleep(0.002)
  processes[0].kill()
  processes[0].wait()
  code = processes[1].wait(300)
  found = [run.digests(i) for i in range(PROCESSES)]
  said = run.errors(1).read_text()
  copied = run.folder.with_name("one")
  shutil.copytree(run.folder, copied)
  return run, found, (code, said), copied


@pytest.fixture(scope="module")
def restarted(killed):
  """The same run, started again, until SIGTERM comes to one of its processes."""
  run = killed[0]
  processes = run.start()
  run.wait_until(processes, 0, LAST - SAVED)
  processes[1].send_signal(signal.SIGTERM)
  return run, [process.wait(300) for process in processes]


@pytest.mark.slow
def test_when_the_coordinator_is_killed_the_other_ends_and_says_why(killed):
  _, _, (code, said), _ = killed
  assert code not in (0, -signal.SIGKILL)
  assert "another" in said


def test_a_restart_is_bit_for_bit_the_run_that_was_killed(killed, restarted):
  _, before, _, _ = killed
  run, _ = restarted
  for process in range(PROCESSES):
    after = run.digests(process)
    assert min(after) == SAVED
    again = sorted(set(before[process]) & set(after))
    assert again
    assert {step: after[step] for step in again} == {step: before[process][step] for step in again}
  assert len(set(run.digests(0).values())) == len(run.digests(0))  # every step changes something


def test_sigterm_to_one_process_saves_and_ends_all(restarted):
  run, codes = restarted
  assert codes == [128 + signal.SIGTERM] * PROCESSES
  last = [max(row["row"] for row in run.rows(i) if "row" in row) for i in range(PROCESSES)]
  assert last[0] == last[1] >= LAST
  assert f"stopped by SIGTERM after {last[0]} batches" in run.errors(0).read_text()
  saved = [int(path.name) for path in (run.folder / "checkpoints").iterdir() if path.name.isdigit()]
  assert max(saved) == last[0]


def test_each_process_reads_its_share_of_the_seeds_batches(restarted):
  run, _ = restarted
  shares = [{r["batch"]: r["index"] for r in run.rows(i) if "batch" in r} for i in range(PROCESSES)]
  for position in range(SAVED, LAST):
    expected = data.batch_indices(EXAMPLES, BATCH, seed=0, position=position)
    found = np.concatenate([share[position] for share in shares])
    np.testing.assert_array_equal(found, expected)


def test_processes_that_share_a_machine_know_it_and_share_its_memory(restarted, monkeypatch):
  run, _ = restarted
  for i in range(PROCESSES):
    assert {row["here"] for row in run.rows(i) if "here" in row} == {PROCESSES}
  size = (32, 32)
  monkeypatch.setattr(storage.images, "memory_size", lambda: 2 * 100 * 32 * 32 * 3)
  assert storage.fits_memory(100, size)
  monkeypatch.setitem(together._here, "processes", PROCESSES)
  assert storage.fits_memory(50, size) and not storage.fits_memory(51, size)
  with pytest.raises(ValueError, match="and this machine has 0 GB for 2 processes; choose"):
    storage.images.require_memory(90, size)


@pytest.mark.slow
def test_one_process_with_other_devices_goes_on_sample_for_sample(killed, restarted):
  """From the very checkpoint, through the step in the device's arithmetic, to evaluation."""
  theirs, _ = restarted
  run = Run(killed[3], LAST, every=100, exact_step=EXACT)
  run.finish(run.start(processes=1, devices=4))
  rows = run.rows(0)
  assert next(row["start"] for row in rows if "start" in row) == SAVED
  indices = {row["batch"]: row["index"] for row in rows if "batch" in row}
  for position in range(SAVED, LAST):
    expected = data.batch_indices(EXAMPLES, BATCH, seed=0, position=position)
    np.testing.assert_array_equal(indices[position], expected)
  losses = [{r["row"]: r["loss"] for r in one.rows(0) if "row" in r} for one in (run, theirs)]
  for step in range(SAVED + 1, LAST + 1):
    assert losses[0][step] == pytest.approx(losses[1][step], rel=1e-4)
  end = rows[-1]
  assert end["count"] == EXAMPLES and 0 <= end["top1"] <= 1 and math.isfinite(end["loss"])


def test_on_a_tpu_the_others_are_found_by_themselves(monkeypatch):
  given = {}
  monkeypatch.setattr(jax.distributed, "initialize", lambda **options: given.update(options))
  monkeypatch.setattr(together, "_on_tpu", lambda: True)
  monkeypatch.setattr(together, "meet", lambda: None)
  before = jax.config.jax_enable_preemption_service
  try:
    assert together.join_processes(heartbeat=7) is False  # this process is still alone
    assert given["heartbeat_timeout_seconds"] == 7 and "coordinator_address" not in given
    given.clear()
    together.join_processes(num_processes=1)
    assert not given
  finally:
    jax.config.update("jax_enable_preemption_service", before)
