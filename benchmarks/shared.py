"""Tools of the benchmarks: calls in turns and their ratios, rows in files, tables in Markdown."""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping


def timed(function: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
  """Seconds until what a function returns is there."""
  import jax  # those who set its flags import this module before it

  start = clock()
  jax.block_until_ready(function())
  return clock() - start


def in_turns(
  calls: Mapping[str, Callable[[], object]],
  rounds: int,
  *,
  pause: float = 0.0,
  clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
  """Seconds of each call in each round; they alternate, so that a slow moment hits all alike.

  Args:
    calls: that were made before, so that nothing is compiled.
    rounds: how often each is called.
    pause: seconds before each call, in which threads of the others fall asleep.
    clock: what is looked at.
  """
  seconds = {name: [] for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      time.sleep(pause)
      seconds[name].append(timed(call, clock))
  return seconds


def stateful(step: Callable, state: object, *rest: object) -> Callable[[], object]:
  """A call that takes a step from the state after the last one; the step returns it first."""

  def call():
    nonlocal state
    state, other = step(state, *rest)
    return state, other

  return call


def median_ratio(these: Iterable[float], those: Iterable[float]) -> float:
  """The median over rounds of one time over another."""
  return statistics.median(a / b for a, b in zip(these, those, strict=True))


def spread(shares: list[float]) -> str:
  """Mean and sample standard deviation, in per cent."""
  deviation = statistics.stdev(shares) if len(shares) > 1 else 0.0
  return f"{100 * statistics.mean(shares):.2f} +- {100 * deviation:.2f}"


def read_rows(path, **settings) -> list[dict]:
  """Rows of a file that were measured with these settings; a line cut off by a kill is none.

  Args:
    path: of a file of JSON lines, or None for none.
    **settings: values that rows must share to be compared.
  """
  found = []
  for line in path.read_text().splitlines() if path and path.exists() else ():
    try:
      row = json.loads(line)
    except ValueError:
      continue
    if settings.items() <= row.items():
      found.append(row)
  return found


def append_row(path, row: Mapping) -> None:
  """Adds a row to a file, so that a run that was stopped goes on where it was; to None, nothing."""
  if path:
    with path.open("a") as file:
      file.write(json.dumps(row) + "\n")


def print_row(*cells: str) -> None:
  """Prints a line of a Markdown table."""
  print(f"| {' | '.join(cells)} |", flush=True)


def print_table(head: Iterable[str], lines: Iterable[Iterable[str]] = ()) -> None:
  """Prints a Markdown table, or its first two lines."""
  head = tuple(head)
  for line in (head, ("---",) * len(head), *lines):
    print_row(*line)


def words(text: str) -> list[str]:
  """An option's values between commas."""
  return text.split(",")


def numbers(text: str) -> list[int]:
  """An option's numbers between commas."""
  return [int(word) for word in words(text)]
