"""The search behind ``--max-size``, ``--max-macs`` and ``--max-latency-ms``: several students are
made to fit, trained and measured; the one that is most often right is kept."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from jaxcompress import export, quantize
from jaxcompress.files.writing import write_atomically
from jaxcompress.pipeline import networks
from jaxcompress.pipeline.budgets import Candidate, plan
from jaxcompress.pipeline.candidates import (
  FLOAT_FOLDER,
  FOLDER,
  MODEL_FILE,
  Result,
  extra_bytes,
  load,
  make,
  slug,
  title,
)
from jaxcompress.pipeline.context import Context
from jaxcompress.pipeline.networks import Network
from jaxcompress.pipeline.small_files import DELETE, built, read_json, write_json
from jaxcompress.report import Candidate as Point
from jaxcompress.report import Search, text
from jaxcompress.terminal import say, waiting

WIDTHS = (1.0, 0.75, 0.5, 0.35, 0.25, 0.18, 0.125)  # that are tried where none is asked for
PLAN_FILE, RESULTS_FILE = "search.json", "candidates.jsonl"


class Found(NamedTuple):
  """The student that a search ended with.

  Attributes:
    network: the student.
    variables: of the float network, before it was trained at integers.
    quantized: the integer network.
    result: what was measured.
    search: all candidates, for the report.
  """

  network: Network
  variables: Any
  quantized: quantize.QuantizedModel
  result: Result
  search: Search


def search(run: Context, student: Network, teacher: Network, teacher_variables: Any) -> Found:
  """Finds the best student within the budget of a run.

  Candidates start from networks of several widths, which are distilled in float once each. Channels
  of the least Taylor importance are removed, layers get the bits that cost least by their measured
  sensitivity, and what is left is trained on, the last part at integers. Every network and result is
  kept as it is done, so that a run that was killed goes on where it was.

  Args:
    run: the run; its options have a budget.
    student: of the options; without a width, its architecture is tried at :data:`WIDTHS`.
    teacher: the teacher.
    teacher_variables: its variables.

  Returns:
    The :class:`Found`; ``candidates.jsonl`` in the run's folder has a line for each candidate.

  Raises:
    ValueError: if no student of this architecture meets the budget; the message says what is the
      least. Also if none did in the end, for another device's noise.
  """
  folder = run.folder / FOLDER
  folder.mkdir(exist_ok=True)
  candidates = plan_candidates(run, student)
  ladder = _ladder(run, student)
  done = {result.name: result for result in read_trials(run.folder)}
  for candidate in candidates:
    if candidate.name not in done:
      result = make(run, candidate, ladder[candidate.width], teacher, teacher_variables)
      _append(run.folder / RESULTS_FILE, result)
      done[candidate.name] = result
    _say(run, done[candidate.name])
  results = tuple(done[candidate.name] for candidate in candidates)
  best = choose(results)
  search = Search(
    tuple(Point(r.name, r.bytes, r.top1, chosen=r == best) for r in results),
    run.top1(teacher, teacher_variables, run.data.validation),
    len(run.data.validation),
  )
  home = folder / slug(best.name)
  network, variables = load(home / FLOAT_FOLDER, title(student, best.name))
  quantized = dataclasses.replace(export.load_packed(home / MODEL_FILE), preprocess=run.preprocess)
  return Found(network, variables, quantized, best, search)


def plan_candidates(run: Context, student: Network) -> tuple[Candidate, ...]:
  """What is tried; a run that goes on has the plan that it started with.

  Args:
    run: the run; its options have a budget.
    student: as for :func:`search`.

  Raises:
    ValueError: if no student of this architecture meets the budget, or several processes run.
  """
  if jax.process_count() > 1:
    raise ValueError(
      f"coordinator: {jax.process_count()} processes are given a budget, which one alone searches;"
      " leave the coordinator out."
    )
  path = run.folder / PLAN_FILE
  if path.exists():
    return tuple(built(Candidate, one, path, DELETE) for one in read_json(path, list, DELETE))
  ladder = _ladder(run, student)
  with waiting(run.console, "looking for networks that fit"):
    graphs = {width: network.summary.graph for width, network in ladder.items()}
    candidates = plan(run.options.budget, graphs, run.options.bits, extra_bytes(run))
  names = "; ".join(candidate.name for candidate in candidates)
  say(run.console, f"candidates: {names}")
  write_json(path, candidates)
  return candidates


def choose(results: Sequence[Result]) -> Result:
  """The best of those that fit, the smallest of equal ones.

  Raises:
    ValueError: if none does.

  Examples:
    >>> make = lambda name, top1, fits: Result(name, top1, 9, 9, 0.1, 9, {}, fits, 1, 1.0)
    >>> choose([make("a", 0.9, False), make("b", 0.8, True), make("c", 0.7, True)]).name
    'b'
  """
  fitting = [result for result in results if result.fits]
  if not fitting:
    tried = "; ".join(f"{r.name}: {r.bytes:,} bytes, {r.latency_ms:.3g} ms" for r in results)
    raise ValueError(f"budget: none of the trained candidates meets it ({tried}); allow more.")
  return max(fitting, key=lambda result: (result.top1, -result.bytes))


def read_trials(folder: str | os.PathLike) -> tuple[Result, ...]:
  """The candidates that a search has finished so far; a line cut off by a kill is none.

  Raises:
    ValueError: naming the file, if a line holds no candidate.

  Examples:
    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _append(folder / RESULTS_FILE, Result("x0.5", 0.9, 9, 9, 0.1, 9, {}, True, 1, 1.0))
    >>> [result.name for result in read_trials(folder)]
    ['x0.5']
  """
  path = pathlib.Path(folder) / RESULTS_FILE
  found = []
  for line in path.read_bytes().splitlines() if path.exists() else ():
    try:
      fields = json.loads(line)
    except ValueError:
      continue
    found.append(built(Result, fields, path, DELETE))
  return tuple(found)


def _ladder(run: Context, student: Network) -> dict[float | None, Network]:
  """Networks by width, the wider first."""
  if student.width is None or run.options.width is not None:
    return {student.width: student}
  shape, count = run.data.image_shape, len(run.data.classes)
  build = lambda width: networks.build(  # noqa: E731
    student.name, count, shape, width, None, run.preset.network
  )
  return {width: build(width) for width in WIDTHS}


def _append(path: pathlib.Path, result: Result) -> None:
  """Adds a line; what a kill cut off before it is dropped."""
  kept = [json.dumps(earlier._asdict()) for earlier in read_trials(path.parent)]
  lines = [*kept, json.dumps(result._asdict())]
  write_atomically(path, "\n".join(lines) + "\n")


def _say(run: Context, result: Result) -> None:
  beyond = "" if result.fits else ", which is too much"
  say(
    run.console,
    f"{result.name}: {text.percent(result.top1, 2)} top-1 on validation images,"
    f" {text.size(result.bytes)} packed, {result.macs:,} multiply-adds,"
    f" {text.milliseconds(result.latency_ms)}{beyond}",
  )
