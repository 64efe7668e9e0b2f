"""``jaxcompress compress``: the whole run."""

import contextlib
import pathlib
import shlex
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from jaxcompress.cli.commands import keep_compiled_programs
from jaxcompress.cli.ending import INTERRUPTED, STOPPED, WRONG, EndError, of_system

OF_THE_RUN = (  # what is asked for besides a network
  ["out", "resume", "input_workers", "coordinator", "num_processes", "process_id", "heartbeat"]
)


def compress(
  context: typer.Context,
  preset: Annotated[
    str | None,
    typer.Option(
      help="A published protocol, such as crd-cifar100: data, networks, losses and schedule; other"
      " options change it [default]."
    ),
  ] = None,
  data: Annotated[
    str | None,
    typer.Option(
      help="glyphs (built in), digits (handwriting), tfds:NAME, or folder:PATH with one folder of"
      " PNG or JPEG images per class [glyphs]."
    ),
  ] = None,
  student: Annotated[str | None, typer.Option(help="The small model [mobilenet_v2].")] = None,
  width: Annotated[
    float | None, typer.Option(help="Width multiplier of the student [0.25].")
  ] = None,
  teacher: Annotated[str | None, typer.Option(help="The large model [mobilenet_v2].")] = None,
  teacher_width: Annotated[
    float | None, typer.Option(help="Width multiplier of the teacher [0.75].")
  ] = None,
  teacher_checkpoint: Annotated[
    str | None, typer.Option(help="A trained teacher: OUT/teacher of an earlier run.")
  ] = None,
  distill: Annotated[
    str | None,
    typer.Option(
      help="Losses and weights, such as kd:0.9,crd:0.8; `jaxcompress info distill` lists them [kd]."
    ),
  ] = None,
  bits: Annotated[int | None, typer.Option(help="Bits of the weights, 2 to 8 [8].")] = None,
  sparsity: Annotated[
    float | None,
    typer.Option(help="Share of zeros in pruned layers, such as 0.8 [nothing is pruned]."),
  ] = None,
  sparsity_distribution: Annotated[
    str | None,
    typer.Option(
      help="Of the zeros among layers: erk, small layers are denser; uniform; or global, by one"
      " threshold [erk]."
    ),
  ] = None,
  sparsity_pattern: Annotated[
    str | None, typer.Option(help="unstructured, or n of every m inputs, such as 2:4.")
  ] = None,
  cluster: Annotated[
    int | None, typer.Option(help="Values that a layer's weights share, such as 32 [any].")
  ] = None,
  epochs: Annotated[
    float | None,
    typer.Option(
      help="Passes over the training images, each for teacher and student [1000 steps; small sets: 25]."
    ),
  ] = None,
  batch_size: Annotated[int | None, typer.Option(help="Images per step [64].")] = None,
  image_size: Annotated[
    int | None, typer.Option(help="Side in pixels to which a folder's images are brought.")
  ] = None,
  flip: Annotated[
    bool | None,
    typer.Option(
      "--flip/--no-flip",
      help="Train on mirrored images too, where these keep their class [known sets of photos only].",
    ),
  ] = None,
  seed: Annotated[int | None, typer.Option(help="Of everything that is random [0].")] = None,
  out: Annotated[
    str | None, typer.Option(help="Output folder [jaxcompress-out, or the next free number].")
  ] = None,
  resume: Annotated[
    bool, typer.Option("--resume", help="Go on with the run in the output folder.")
  ] = False,
  max_size: Annotated[
    str | None,
    typer.Option(
      help="Bytes that the packed file may take, such as 300KB: students of several widths, with"
      " channels removed and bits chosen by layer, are tried."
    ),
  ] = None,
  max_macs: Annotated[
    str | None, typer.Option(help="Multiply-adds that an image may take, such as 10M; likewise.")
  ] = None,
  max_latency_ms: Annotated[
    float | None,
    typer.Option(help="Milliseconds an image may take in LiteRT on one thread here; likewise."),
  ] = None,
  quick: Annotated[
    bool, typer.Option("--quick", help="Less data and fewer steps, to see that it works.")
  ] = False,
  input_workers: Annotated[
    int | None,
    typer.Option(help="Processes that decode images, for data larger than memory [CPU cores - 1]."),
  ] = None,
  coordinator: Annotated[
    str | None,
    typer.Option(
      help="HOST:PORT of process 0, of several that train together; auto: what Slurm, Open MPI or"
      " Kubernetes says [alone; on TPU pods auto]."
    ),
  ] = None,
  num_processes: Annotated[int | None, typer.Option(help="How many processes there are.")] = None,
  process_id: Annotated[int | None, typer.Option(help="Which of them this is, from 0.")] = None,
  heartbeat: Annotated[
    int, typer.Option(help="Seconds after which a process that is silent counts as dead.")
  ] = 30,
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

  given = {name: value for name, value in context.params.items() if name not in OF_THE_RUN}
  given["quick"] = quick or None
  if teacher_checkpoint is not None:
    given["teacher_checkpoint"] = str(pathlib.Path(teacher_checkpoint).absolute())
  keep_compiled_programs()
  processes.join_processes(coordinator, num_processes, process_id, heartbeat)
  console = Console(quiet=not processes.is_first())
  folder, options = claim_together(out, given, resume=resume)
  command = shlex.join(["jaxcompress", *sys.argv[1:]])
  with _resumable(folder):
    results = pipeline.compress(
      options, folder, command=command, workers=input_workers, console=console
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
  except data.InputError as error:
    raise EndError(f"{error}; {on}", WRONG) from error
  except OSError as error:
    raise EndError(f"{of_system(error)}; {on}", WRONG) from error
