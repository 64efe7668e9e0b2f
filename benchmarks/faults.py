"""Kills a run of two processes again and again, restarts it, and counts what was lost.

  python benchmarks/faults.py                 20 kills at random steps and 20 during saves
  python benchmarks/faults.py --kills 2 --saves 1

An uninterrupted run (``fault_worker.py``) notes a digest of the whole state before every step. Then
one of its two processes, the first (which coordinates) or the other one, is killed with SIGKILL at a
random step, or while it saves; the other one must end by itself and say why; both are started again,
must go on from a whole checkpoint, and have the uninterrupted run's digest at every step from there
on.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

WORKER = pathlib.Path(__file__).with_name("fault_worker.py")
PROCESSES = 2
EVERY = 4  # steps between checkpoints; in the runs that are killed while they save, 1
AHEAD = (EVERY + 1, 2 * EVERY)  # steps from a start to the kill: there is a checkpoint in between
SAVING = 0.05  # seconds after a step within which a save begins and ends
PATIENCE = 900.0  # seconds for a start, on a machine that does other things as well
Started = Sequence[subprocess.Popen]


@dataclasses.dataclass
class Run:
  """A run of several processes in a folder.

  Attributes:
    folder: its checkpoints and logs.
    steps: where it ends.
    every: steps between checkpoints.
    pause: seconds that reading a batch takes.
    heartbeat: seconds after which a silent process counts as dead.
    exact_step: from where the forward pass is the device's arithmetic, or None.
    starts: so many times were its processes started.
  """

  folder: pathlib.Path
  steps: int
  every: int = EVERY
  pause: float = 0.0
  heartbeat: int = 100
  exact_step: int | None = None
  starts: int = 0

  def start(self, processes: int = PROCESSES, devices: int = 1) -> Started:
    """Starts all processes, with so many devices each."""
    self.folder.mkdir(parents=True, exist_ok=True)
    self.starts += 1
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {
      "JAX_COMPILATION_CACHE_DIR": str(self.folder.parent / "programs"),
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": flags,
      "NPROC": "64",  # threads: a device may wait in several collectives at once
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    options = {
      "processes": processes,
      "port": free_port(),
      "steps": self.steps,
      "every": self.every,
      "heartbeat": self.heartbeat,
      "pause": self.pause,
      "folder": self.folder,
    }
    if self.exact_step is not None:
      options["exact-step"] = self.exact_step
    given = [f"--{name}={value}" for name, value in options.items()]
    started = []
    for i in range(processes):
      with self.errors(i).open("w") as errors:
        command = [sys.executable, WORKER, *given, f"--worker={i}", f"--log={self.log(i)}"]
        started.append(
          subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        )
    return started

  def log(self, process: int) -> pathlib.Path:
    """Path of a process's notes since its last start."""
    return self.folder / f"log{process}.{self.starts}.jsonl"

  def errors(self, process: int) -> pathlib.Path:
    """Path of a process's stderr since its last start."""
    return self.folder / f"errors{process}.{self.starts}.txt"

  def rows(self, process: int) -> list[dict]:
    """Reads a process's notes since its last start."""
    text = self.log(process).read_text() if self.log(process).exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]

  def digests(self, process: int) -> dict[int, str]:
    """The state's digest before each step, since the last start."""
    return {row["step"]: row["digest"] for row in self.rows(process) if "step" in row}

  def finish(self, processes: Started) -> None:
    """Waits for the end of the run.

    Raises:
      RuntimeError: if a process ends with an error.
    """
    codes = [process.wait(PATIENCE) for process in processes]
    if any(codes):
      said = [self.errors(i).read_text()[-2000:] for i in range(len(processes))]
      raise RuntimeError(f"ended with {codes}: {said}")

  def wait_until(self, processes: Started, victim: int, ahead: int) -> None:
    """Returns when a process has come so many steps from where it started.

    Raises:
      RuntimeError: if it does not.
    """
    deadline, start = time.monotonic() + PATIENCE, None
    while time.monotonic() < deadline:
      rows = self.rows(victim)
      start = next((row["start"] for row in rows if "start" in row), None)
      if start is not None and start + ahead in self.digests(victim):
        return
      if any(process.poll() is not None for process in processes):
        break
      time.sleep(0.002)
    for process in processes:
      process.kill()
    said = [self.errors(i).read_text()[-2000:] for i in range(len(processes))]
    raise RuntimeError(f"step {ahead} after {start} was not reached: {said}")


def free_port() -> int:
  """A port of this machine that nobody uses."""
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


@dataclasses.dataclass
class Counts:
  """Counts of the outcomes of killing processes.

  Attributes:
    kills: of the first and of the other process.
    noticed: after so many the other process ended by itself, not with exit code 0, and said why.
    seconds: what that took.
    half: so many left a checkpoint that was half written.
    whole: so many restarts began from a checkpoint with the bits of the uninterrupted run.
    exact: so many had its bits at every further step.
    said: what the processes that were left said.
  """

  kills: list[int] = dataclasses.field(default_factory=lambda: [0] * PROCESSES)
  noticed: int = 0
  seconds: list[float] = dataclasses.field(default_factory=list)
  half: int = 0
  whole: int = 0
  exact: int = 0
  said: list[str] = dataclasses.field(default_factory=list)


def kill_again_and_again(
  run: Run,
  reference: Run,
  kills: int,
  *,
  rng: random.Random,
  saving: bool = False,
  report: Callable[[Counts], None] = lambda counts: None,
) -> Counts:
  """Kills a run so many times, restarts it each time, and compares it with one that ended."""
  counts = Counts()
  processes = run.start()
  for i in range(kills):
    victim = (i + 1) % PROCESSES
    run.wait_until(processes, victim, rng.randint(1, 3) if saving else rng.randint(*AHEAD))
    if saving:
      time.sleep(rng.uniform(0, SAVING))
    processes[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    counts.kills[victim] += 1
    processes[victim].wait()
    other = 1 - victim
    try:
      code = processes[other].wait(PATIENCE)
    except subprocess.TimeoutExpired:
      processes[other].kill()
      code = 0
    said = run.errors(other).read_text()
    counts.said.append(said)
    counts.noticed += code != 0 and "another" in said
    counts.seconds.append(time.monotonic() - killed)
    counts.half += any((run.folder / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
    processes = run.start()
    last = i == kills - 1
    if last:
      run.finish(processes)
    else:
      run.wait_until(processes, 0, 1)
    whole, exact = compare(run, reference)
    counts.whole += whole
    counts.exact += exact
    report(counts)
  return counts


def compare(run: Run, reference: Run) -> tuple[bool, bool]:
  """Whether the last start began from a whole state, and had the same bits ever since."""
  found = [(run.digests(i), reference.digests(i)) for i in range(PROCESSES)]
  whole = all(ours and ours[min(ours)] == theirs[min(ours)] for ours, theirs in found if ours)
  exact = all(theirs[step] == value for ours, theirs in found for step, value in ours.items())
  return whole, exact


def main() -> None:
  """Prints the counts."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--kills", type=int, default=20, help="at random steps")
  parser.add_argument("--saves", type=int, default=20, help="kills during saves")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--heartbeat", type=int, default=100, help="seconds; more where this machine may be paused"
  )
  options = parser.parse_args()
  rng = random.Random(options.seed)
  steps = 12 + max(options.kills * AHEAD[1], options.saves * 6)
  with tempfile.TemporaryDirectory() as place:
    folder = pathlib.Path(place)
    reference = Run(folder / "reference", steps, heartbeat=options.heartbeat)
    reference.finish(reference.start())
    for name, kills, saving in (
      ("at random steps", options.kills, False),
      ("during saves", options.saves, True),
    ):
      run = Run(
        folder / name.replace(" ", "-"),
        steps,
        every=1 if saving else EVERY,
        pause=0.02,
        heartbeat=options.heartbeat,
      )

      def report(counts: Counts, name: str = name) -> None:
        done = sum(counts.kills)
        print(
          f"{name}: {done} kills ({counts.kills[0]} of the first process),"
          f" {counts.half} left a half-written checkpoint;"
          f" the other process ended by itself and said why: {counts.noticed} of {done}"
          f" (at most {max(counts.seconds):.1f} s);"
          f" restarts from a whole checkpoint: {counts.whole} of {done};"
          f" bit-exact: {counts.exact} of {done}",
          flush=True,
        )

      if kills:
        kill_again_and_again(run, reference, kills, rng=rng, saving=saving, report=report)


if __name__ == "__main__":
  main()
