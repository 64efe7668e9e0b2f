"""``jaxcompress compress``: the whole run."""

import contextlib
import pathlib
import shlex
import sys
from collections.abc import Iterator
from typing import Any

from jaxcompress.cli.commands import keep_compiled_programs
from jaxcompress.cli.ending import INTERRUPTED, STOPPED, WRONG, EndError, of_system
from jaxcompress.cli.parameters import Parameter, command


@command(
  preset=Parameter(
    str,
    "A published protocol, such as crd-cifar100: data, networks, losses and schedule; other"
    " options change it [default].",
  ),
  data=Parameter(
    str,
    "glyphs (built in), digits (handwriting), tfds:NAME, or folder:PATH with one folder of"
    " PNG or JPEG images per class [glyphs].",
  ),
  student=Parameter(str, "The small model [mobilenet_v2]."),
  width=Parameter(float, "Width multiplier of the student [0.25]."),
  teacher=Parameter(str, "The large model [mobilenet_v2]."),
  teacher_width=Parameter(float, "Width multiplier of the teacher [0.75]."),
  teacher_checkpoint=Parameter(str, "A trained teacher: OUT/teacher of an earlier run."),
  distill=Parameter(
    str,
    "Losses and weights, such as kd:0.9,crd:0.8; `jaxcompress info distill` lists them [kd].",
  ),
  bits=Parameter(int, "Bits of the weights, 2 to 8 [8]."),
  sparsity=Parameter(float, "Share of zeros in pruned layers, such as 0.8 [nothing is pruned]."),
  sparsity_distribution=Parameter(
    str,
    "Of the zeros among layers: erk, small layers are denser; uniform; or global, by one"
    " threshold [erk].",
  ),
  sparsity_pattern=Parameter(str, "unstructured, or n of every m inputs, such as 2:4."),
  cluster=Parameter(int, "Values that a layer's weights share, such as 32 [any]."),
  epochs=Parameter(
    float,
    "Passes over the training images, each for teacher and student [1000 steps; small sets: 25].",
  ),
  batch_size=Parameter(int, "Images per step [64]."),
  image_size=Parameter(int, "Side in pixels to which a folder's images are brought."),
  flip=Parameter(
    bool,
    "Train on mirrored images too, where these keep their class [known sets of photos only].",
    names=("--flip/--no-flip",),
  ),
  seed=Parameter(int, "Of everything that is random [0]."),
  out=Parameter(str, "Output folder [jaxcompress-out, or the next free number]."),
  resume=Parameter(bool, "Go on with the run in the output folder.", False),
  max_size=Parameter(
    str,
    "Bytes that the packed file may take, such as 300KB: students of several widths, with"
    " channels removed and bits chosen by layer, are tried.",
  ),
  max_macs=Parameter(str, "Multiply-adds that an image may take, such as 10M; likewise."),
  max_latency_ms=Parameter(
    float,
    "Milliseconds an image may take in LiteRT on one thread here; likewise.",
  ),
  quick=Parameter(bool, "Less data and fewer steps, to see that it works.", False),
  input_workers=Parameter(
    int,
    "Processes that decode images, for data larger than memory [CPU cores - 1].",
  ),
  coordinator=Parameter(
    str,
    "HOST:PORT of process 0, of several that train together; auto: what Slurm, Open MPI or"
    " Kubernetes says [alone; on TPU pods auto].",
  ),
  num_processes=Parameter(int, "How many processes there are."),
  process_id=Parameter(int, "Which of them this is, from 0."),
  heartbeat=Parameter(int, "Seconds after which a process that is silent counts as dead.", 30),
)
def compress(
  out: str | None,
  resume: bool,
  input_workers: int | None,
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  heartbeat: int,
  **given: Any,
) -> None:
  """Train a teacher and a student, distil, quantize, export, verify, and write a report.

  Needs nothing: without options it learns to read a built-in set of glyphs in a few minutes. It
  trains on all devices; on several machines, start it on each with --coordinator and the same
  options, on an output folder that all see.
  """
  from rich.console import Console

  from jaxcompress import pipeline
  from jaxcompress.pipeline.folders import claim_together
  from jaxcompress.report.tables import result_table
  from jaxcompress.terminal import say
  from jaxcompress.training import processes

  given["quick"] = given["quick"] or None
  if given["teacher_checkpoint"] is not None:
    given["teacher_checkpoint"] = str(pathlib.Path(given["teacher_checkpoint"]).absolute())
  keep_compiled_programs()
  processes.join_processes(coordinator, num_processes, process_id, heartbeat)
  console = Console(quiet=not processes.is_first())
  folder, options = claim_together(out, given, resume=resume)
  typed = shlex.join(["jaxcompress", *sys.argv[1:]])
  with _resumable(folder):
    results = pipeline.compress(
      options, folder, command=typed, workers=input_workers, console=console
    )
    console.print(result_table(results))
    say(console, f"report: {folder / 'report.html'}   model: {folder / 'student.tflite'}")


@contextlib.contextmanager
def _resumable(folder: pathlib.Path) -> Iterator[None]:
  """Says how to go on where a run ends before its end; after a mistake the folder is free again."""
  from jaxcompress import data, training
  from jaxcompress.pipeline.folders import release_folder
  from jaxcompress.training import processes

  on = f"go on with --resume --out {shlex.quote(str(folder))}"
  try:
    yield
  except ValueError:
    if processes.is_first():
      release_folder(folder)
    raise
  except KeyboardInterrupt as error:
    raise EndError(f"stopped; {on}", INTERRUPTED) from error
  except training.PreemptedError as error:
    raise EndError(f"{error}; {on}", STOPPED) from error
  except (data.InputError, OSError) as error:
    words = of_system(error) if isinstance(error, OSError) else str(error)
    raise EndError(f"{words}; {on}", WRONG) from error
